//! Metrics are correct: counters change with the commit, by the exact amount of work, and every role can read them.
//!
//! Counters belong to the whole server and are compared exactly here. So each test has a separate server.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use cowrie_enrich_upstreams::Behaviour;
use server_tests::cymru::{
    Lab, members, queue, wait_for_permits, wait_for_the_queue, worker_pid, worker_pid_now,
};
use server_tests::database::cluster_with_world;
use server_tests::hosts::{COWRIE, NOON, SUMMARIES};
use server_tests::prometheus;
use server_tests::random::Random;
use server_tests::world::{crowd_address, crowd_asn, crowd_member};
use server_tests::{Cluster, Options, Session, fresh_database, wait_until};

const CREATED: &str = "asn_inventory_records_created_total";
const UPDATED: &str = "asn_inventory_records_updated_total";
const DURATION: &str = "asn_inventory_operation_duration_seconds";

fn server(name: &str) -> Cluster {
    cluster_with_world(&Options::named(name))
}

/// Returns the sum of the samples with these labels.
#[track_caller]
fn value(session: &mut Session, name: &str, labels: &str) -> f64 {
    let sum = session.one(&format!(
        "SELECT COALESCE(sum(value), 0) FROM enrich.enrich_metrics WHERE name = '{name}' AND labels @> '{labels}'"
    ));
    sum.parse().unwrap_or_else(|_| panic!("{sum} is no number"))
}

/// Returns a statement that creates this number of networks, beginning with a number.
fn ensure(first: i64, networks: i64) -> String {
    format!(
        "SELECT enrich.ensure_asn_inventory(n, 'Net ' || n, 'DE') FROM generate_series({first}, {first} + {networks} - 1) n"
    )
}

/// Returns an insert of one session from each of these members of the crowd, each in a different network.
fn sessions(members: std::ops::Range<u64>) -> String {
    let rows: Vec<(String, String)> = members.map(|n| (format!("s{n}"), crowd_member(n))).collect();
    let rows: Vec<(&str, Option<&str>)> = rows.iter().map(|(k, a)| (k.as_str(), Some(a.as_str()))).collect();
    COWRIE.insert(&rows)
}

#[test]
fn what_was_rolled_back_moves_no_counter_and_what_committed_all_of_it() {
    let cluster = server("metrics-rollback");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let before = db.rows("SELECT * FROM enrich.enrich_metrics WHERE type <> 'gauge' ORDER BY name, labels");
    db.run(&format!(
        "BEGIN; {}; {}; SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK",
        ensure(1, 10),
        sessions(0..10)
    ));
    // An error at commit, after all work was done.
    db.run("CREATE TABLE strict (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
    let refusal =
        db.refused(&format!("BEGIN; INSERT INTO strict VALUES (1), (1); {}; COMMIT", ensure(1, 10)));
    assert_eq!(refusal.code, "23505");
    db.run("ROLLBACK");
    assert!(
        db.rows("SELECT * FROM enrich.enrich_metrics WHERE type <> 'gauge' ORDER BY name, labels") == before,
        "{:?}",
        db.rows("SELECT * FROM enrich.enrich_metrics WHERE type <> 'gauge' AND value <> 0")
    );

    db.run(&format!("BEGIN; {}; COMMIT", ensure(1, 10)));
    assert_eq!(value(&mut db, CREATED, r#"{"source": "manual", "country": "DE", "rir": "ARIN"}"#), 10.0);
    assert_eq!(value(&mut db, CREATED, "{}"), 10.0);
    // The networks of sessions are created while their transaction commits.
    db.run(&sessions(0..10));
    assert_eq!(value(&mut db, CREATED, r#"{"source": "maxmind"}"#), 10.0);
    assert_eq!(value(&mut db, CREATED, "{}"), 20.0);
    assert_eq!(value(&mut db, "asn_inventory_size", "{}"), 20.0);
    assert_eq!(value(&mut db, &format!("{DURATION}_count"), r#"{"operation": "create"}"#), 20.0);
    assert_eq!(
        db.one("SELECT asn_records_created, asn_unique_seen, asn_records_updated FROM enrich.enrich_stats()"),
        "20|20|0"
    );
}

/// Creations and updates count, each network once, until a reset. Changes that were rolled back do not count.
#[test]
fn distinct_networks_are_counted_once_in_all_databases_together() {
    let cluster = server("metrics-distinct");
    let (mut db, mut other) = (fresh_database(&cluster), fresh_database(&cluster));
    let seen = |db: &mut Session| {
        let stats = db.number("SELECT asn_unique_seen FROM enrich.enrich_stats()");
        assert_eq!(value(db, "asn_inventory_unique_seen", "{}"), stats as f64);
        stats
    };
    assert_eq!(seen(&mut db), 0);
    db.run(&ensure(1, 10));
    other.run(&ensure(6, 10));
    assert_eq!(seen(&mut db), 15);
    db.run("SELECT enrich.reset_enrich_stats()");
    assert_eq!(seen(&mut db), 0);
    // Updates: of metadata, of times by a call, of times by sessions, of the type by an edit.
    db.run(
        "SELECT enrich.ensure_asn_inventory(1, 'Renamed', overwrite => true), enrich.ensure_asn_inventory(2)",
    );
    assert_eq!(seen(&mut db), 2);
    COWRIE.create_attached(&mut db);
    db.run("SELECT enrich.ensure_asn_inventory(15169); SELECT enrich.reset_enrich_stats()");
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]));
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(seen(&mut db), 2, "AS13335 is created, and AS15169 is seen again");
    // The same networks again, and networks that were rolled back.
    db.run("SELECT enrich.ensure_asn_inventory(15169), enrich.ensure_asn_inventory(13335)");
    db.run(&format!(
        "BEGIN; {}; ROLLBACK; BEGIN; SAVEPOINT a; {}; ROLLBACK TO a; SAVEPOINT b; {}; RELEASE b; COMMIT",
        ensure(100, 5),
        ensure(200, 5),
        ensure(300, 3)
    ));
    assert_eq!(seen(&mut db), 5);
    db.run(&ensure(1000, 5_000));
    let many = seen(&mut db);
    assert!((4_905..=5_105).contains(&many), "{many}, of 5005");
}

#[test]
fn what_a_savepoint_undid_was_never_counted() {
    let cluster = server("metrics-savepoint");
    let mut db = fresh_database(&cluster);
    db.run(&format!(
        "BEGIN; {}; SAVEPOINT a; {}; SAVEPOINT b; {}; RELEASE b; ROLLBACK TO a; {}; SAVEPOINT c; {}; RELEASE c; COMMIT",
        ensure(1, 1),
        ensure(100, 10),
        ensure(200, 100),
        ensure(300, 2),
        ensure(400, 4)
    ));
    assert_eq!(value(&mut db, CREATED, "{}"), 7.0);
    assert_eq!(value(&mut db, &format!("{DURATION}_count"), r#"{"operation": "create"}"#), 7.0);
    assert_eq!(db.number("SELECT count(*) FROM enrich.asn_inventory"), 7);

    // The subtransactions of nested blocks with an exception handler. The outer one ends with an error.
    db.run(
        "DO $$
         BEGIN
             PERFORM enrich.enrich_ip('1.1.1.1');
             BEGIN
                 PERFORM enrich.enrich_ip('8.8.8.8');
                 BEGIN
                     PERFORM enrich.enrich_ip('139.59.0.1');
                 EXCEPTION WHEN OTHERS THEN RAISE;
                 END;
                 PERFORM 1 / 0;
             EXCEPTION WHEN division_by_zero THEN NULL;
             END;
         END $$",
    );
    assert_eq!(value(&mut db, CREATED, r#"{"source": "maxmind"}"#), 1.0);
    assert_eq!(value(&mut db, "enrich_addresses_total", "{}"), 1.0);
    assert_eq!(value(&mut db, "enrich_lookups_total", r#"{"result": "maxmind_hit"}"#), 1.0);
}

#[test]
fn a_contained_failure_at_commit_counts_as_an_error_and_nothing_else() {
    let cluster = server("metrics-contained");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run("ALTER TABLE enrich.ip_inventory ADD CHECK (ip_address <> '23.5.0.1')");
    db.run(&sessions(0..10));
    assert_eq!(db.number("SELECT count(*) FROM sessions"), 10);
    assert_eq!(db.number("SELECT count(*) FROM enrich.asn_inventory"), 0);
    assert_eq!(value(&mut db, CREATED, "{}"), 0.0);
    assert_eq!(value(&mut db, &format!("{DURATION}_count"), "{}"), 0.0);
    assert_eq!(value(&mut db, "enrich_lookups_total", r#"{"result": "maxmind_hit"}"#), 0.0);
    assert_eq!(value(&mut db, "enrich_errors_total", "{}"), 1.0);
    // The lookup in the inventory happened in the transaction that committed.
    assert_eq!(value(&mut db, "enrich_addresses_total", "{}"), 10.0);
}

#[test]
fn sessions_that_are_inserted_without_a_valid_address_are_counted() {
    let cluster = server("metrics-without-address");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    let without = || value(&mut cluster.session(&db.name), "enrich_sessions_without_address_total", "{}");
    let mut session = cluster.session(&db.name);
    session.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", None), ("c", Some("sensor.example"))]));
    session.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8")), ("b", None)]));
    assert_eq!(without(), 3.0);
    session.run(&format!("BEGIN; {}; ROLLBACK", COWRIE.insert(&[("d", None)])));
    session
        .run("UPDATE sessions SET ip = '1.1.1.1' WHERE id = 'b'; UPDATE sessions SET ip = '' WHERE id = 'a'");
    session.run("DELETE FROM sessions");
    assert_eq!(without(), 3.0);
}

/// The session of a folded address has counted the lookup. Otherwise there would be more hits than lookups.
#[test]
fn an_address_that_is_folded_was_asked_about_by_its_session() {
    let cluster = server("metrics-hits");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let hits = r#"{"result": "cache_hit"}"#;
    for (round, hit) in [(0, 0.0), (1, 10.0), (2, 20.0)] {
        db.run(&sessions(0..10).replace("'s", &format!("'r{round}s")));
        assert_eq!(value(&mut db, "enrich_addresses_total", "{}"), 10.0 * f64::from(round + 1));
        assert_eq!(value(&mut db, "enrich_lookups_total", hits), hit);
        db.run("CALL fold_statistics()");
        assert_eq!(value(&mut db, "enrich_lookups_total", hits), hit, "folded");
    }
}

/// Where a worker runs, the counters move with COMMIT PREPARED: see the suite `prepared_transactions`.
#[test]
fn a_prepared_transaction_is_not_counted_without_a_worker() {
    let cluster = server("metrics-prepared");
    let mut db = fresh_database(&cluster);
    db.run(&format!(
        "BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO a; PREPARE TRANSACTION 'p'",
        ensure(1, 10),
        ensure(50, 5)
    ));
    assert_eq!(value(&mut db, CREATED, "{}"), 0.0);
    db.run("COMMIT PREPARED 'p'");
    assert_eq!(value(&mut db, CREATED, "{}"), 0.0);
}

#[test]
fn eight_sessions_at_once_sum_exactly() {
    let cluster = server("metrics-concurrent");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let handle = db.handle();
    let expected: i64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8_u64)
            .map(|client| {
                let handle = handle.clone();
                scope.spawn(move || {
                    let (mut session, mut random) = (handle.session(), Random::seeded(client + 1));
                    let mut asked = 0;
                    for round in 0..60 {
                        let some = |random: &mut Random, many: usize| -> BTreeSet<String> {
                            (0..many).map(|_| crowd_address(random, 3_000)).collect()
                        };
                        let call = |addresses: &BTreeSet<String>| {
                            let list: Vec<_> = addresses.iter().cloned().collect();
                            format!("SELECT count(*) FROM enrich.enrich_ips('{{{}}}')", list.join(","))
                        };
                        let (kept, undone) = (some(&mut random, 6), some(&mut random, 4));
                        // Each transaction locks addresses once, in the order of keys, so deadlocks are impossible.
                        match random.below(3) {
                            0 => session.run(&format!("BEGIN; {}; ROLLBACK", call(&undone))),
                            1 => {
                                let undone = call(&undone);
                                session.run(&format!(
                                    "BEGIN; SAVEPOINT s; {undone}; ROLLBACK TO s; {}; COMMIT",
                                    call(&kept)
                                ));
                                asked += kept.len() as i64;
                            }
                            _ => {
                                let (key, address) =
                                    (format!("{client}-{round}"), crowd_address(&mut random, 3_000));
                                session.run(&COWRIE.insert(&[(&key, Some(&address))]));
                                asked += 1;
                            }
                        }
                    }
                    asked
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("the client ends well")).sum()
    });
    let networks = db.number("SELECT count(*) FROM enrich.asn_inventory") as f64;
    assert!(networks > 100.0, "{networks} networks");
    assert_eq!(value(&mut db, CREATED, "{}"), networks);
    assert_eq!(value(&mut db, CREATED, r#"{"source": "maxmind"}"#), networks);
    assert_eq!(value(&mut db, &format!("{DURATION}_count"), r#"{"operation": "create"}"#), networks);
    assert_eq!(value(&mut db, "enrich_addresses_total", "{}"), expected as f64);
    let countries = db.rows(
        "SELECT labels ->> 'country', value FROM enrich.enrich_metrics
         WHERE name = 'asn_inventory_records_created_total' ORDER BY 1",
    );
    assert_eq!(
        countries,
        db.rows("SELECT organization_country, count(*) FROM enrich.asn_inventory GROUP BY 1 ORDER BY 1")
    );
}

#[test]
fn labels_say_who_created_and_what_kind_of_update_it_was() {
    let cluster = server("metrics-labels");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run("SELECT ensure_asn_inventory(1, 'One', 'de', 'ripencc'); SELECT ensure_asn_inventory(2)");
    db.run("SELECT enrich_ip('1.1.1.1'); SELECT enrich_ip('47.0.0.1')");
    let created = "SELECT labels ->> 'source', labels ->> 'country', labels ->> 'rir', value
                   FROM enrich_metrics WHERE name = 'asn_inventory_records_created_total' ORDER BY 1, 2";
    assert_eq!(
        db.rows(created),
        ["manual|DE|RIPE|1", "manual|unknown|ARIN|1", "maxmind|AU|ARIN|1", "maxmind|unknown|APNIC|1"]
    );
    // The transaction that created the network sets its name.
    db.run("BEGIN; SELECT ensure_asn_inventory(7); SELECT ensure_asn_inventory(7, 'Seven'); COMMIT");
    assert_eq!(db.one("SELECT organization_name FROM asn_inventory WHERE asn_number = 7"), "Seven");
    assert_eq!(value(&mut db, UPDATED, "{}"), 0.0);

    let updated = "SELECT labels ->> 'source', labels ->> 'update_type', value
                   FROM enrich_metrics WHERE name = 'asn_inventory_records_updated_total' ORDER BY 1, 2";
    // The network is seen again. Two calls in one transaction count once.
    db.run("SELECT ensure_asn_inventory(1)");
    db.run("BEGIN; SELECT ensure_asn_inventory(1); SELECT ensure_asn_inventory(1); COMMIT");
    assert_eq!(db.rows(updated), ["manual|timestamp_refresh|2"]);
    // The call changes the name. It counts only as a change of metadata, although it also updates `last_seen`.
    db.run("SELECT ensure_asn_inventory(2, 'Two', 'FR')");
    assert_eq!(db.rows(updated), ["manual|metadata_enrichment|1", "manual|timestamp_refresh|2"]);
    // The mmdb files contain the name of a network that was created without one.
    db.run("SELECT ensure_asn_inventory(15169)");
    db.run("SELECT enrich_ip('8.8.8.8')");
    assert_eq!(
        db.rows(updated),
        ["manual|metadata_enrichment|1", "manual|timestamp_refresh|2", "maxmind|metadata_enrichment|1"]
    );

    // When sessions are folded, they extend a network's times. Sessions within these times change nothing.
    let widened = r#"{"source": "sessions", "update_type": "timestamp_refresh"}"#;
    db.run(&COWRIE.insert_at(NOON, &[("a", Some("139.59.0.1")), ("b", Some("139.59.0.2"))]));
    db.run("CALL fold_statistics()");
    let created_with_times = value(&mut db, UPDATED, widened);
    assert_eq!(created_with_times, 0.0, "created with the times of these sessions");
    db.run(&COWRIE.insert_at("2024-05-03 12:00", &[("c", Some("139.59.0.1")), ("d", Some("139.59.0.2"))]));
    db.run("CALL fold_statistics()");
    assert_eq!(value(&mut db, UPDATED, widened), 1.0);
    db.run(&COWRIE.insert_at("2024-05-02 12:00", &[("e", Some("139.59.0.1"))]));
    db.run("CALL fold_statistics()");
    assert_eq!(value(&mut db, UPDATED, widened), 1.0);
    assert_eq!(
        value(&mut db, &format!("{DURATION}_count"), r#"{"operation": "update"}"#),
        value(&mut db, UPDATED, "{}"),
        "one observation for each"
    );
    assert_eq!(db.one("SELECT asn_records_updated FROM enrich_stats()"), "5");
}

#[test]
fn time_spent_waiting_for_a_lock_is_not_time_spent_working() {
    let cluster = server("metrics-durations");
    let mut db = fresh_database(&cluster);
    db.run("SELECT ensure_asn_inventory(1, 'One')");
    let (mut holder, mut waiting) = (db.another(), db.another());
    holder.run("BEGIN; SELECT FROM enrich.asn_inventory WHERE asn_number = 1 FOR UPDATE");
    let pid = waiting.backend_pid();
    std::thread::scope(|scope| {
        // First the metadata, then last_seen, because either may be the one that waits.
        let ending = scope.spawn(move || {
            waiting.run("SELECT enrich.ensure_asn_inventory(1, 'Another', overwrite => true)")
        });
        wait_until(
            "it has waited for 300 ms",
            || {
                db.one(&format!(
                    "SELECT wait_event_type = 'Lock' AND clock_timestamp() - query_start > '300 ms'
                     FROM pg_stat_activity WHERE pid = {pid}"
                ))
            },
            |waited| waited == "t",
        );
        holder.run("COMMIT");
        ending.join().expect("it is written");
    });
    assert_eq!(value(&mut db, &format!("{DURATION}_count"), r#"{"operation": "update"}"#), 1.0);
    let worked = value(&mut db, &format!("{DURATION}_sum"), r#"{"operation": "update"}"#);
    assert!(worked > 0.0 && worked < 0.15, "{worked} s");
    let stats = db.one("SELECT asn_operation_duration_ms < 150 FROM enrich_stats()");
    assert_eq!(stats, "t");
}

#[test]
fn histograms_and_counters_begin_anew_after_a_reset() {
    let cluster = server("metrics-reset");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run(&ensure(1, 40));
    db.run("SELECT ensure_asn_inventory(1)");
    for n in 0..40 {
        db.run(&sessions(n..n + 1));
    }
    db.run(&COWRIE.insert(&[("no address", Some("nonsense"))]));
    let moved = "SELECT count(*) FROM enrich_metrics WHERE type <> 'gauge' AND value <> 0";
    assert!(db.number(moved) > 20, "{} samples moved", db.number(moved));
    db.run("SELECT reset_enrich_stats()");
    assert_eq!(db.number(moved), 0);
    assert_eq!(
        db.number("SELECT count(*) FROM enrich_metrics WHERE name = 'asn_inventory_records_created_total'"),
        0
    );
    assert_eq!(value(&mut db, "asn_inventory_size", "{}"), 80.0);
    db.run("SELECT ensure_asn_inventory(1)");
    assert_eq!(value(&mut db, UPDATED, "{}"), 1.0);
}

#[test]
fn one_firing_in_thirty_one_is_timed_and_what_was_rolled_back_is_not() {
    let cluster = server("metrics-trigger");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let mut session = db.another();
    for n in 0..62 {
        session.run(&sessions(n..n + 1));
    }
    for event in ["before", "after", "commit"] {
        let labels = format!(r#"{{"event": "{event}"}}"#);
        assert_eq!(value(&mut db, "enrich_trigger_duration_seconds_count", &labels), 2.0, "{event}");
        let sum = value(&mut db, "enrich_trigger_duration_seconds_sum", &labels);
        assert!(sum > 0.0 && sum < 1.0, "{event}: {sum} s");
    }
    session.run(&format!("BEGIN; {}; ROLLBACK", sessions(100..200)));
    assert_eq!(value(&mut db, "enrich_trigger_duration_seconds_count", "{}"), 6.0);
}

#[test]
fn nothing_moves_where_metrics_are_off_but_errors_and_sizes() {
    let cluster = cluster_with_world(&Options::named("metrics-off").conf("cowrie_enrich.metrics = off"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run(&ensure(1, 40));
    for n in 0..40 {
        db.run(&sessions(n..n + 1));
    }
    db.run(&COWRIE.insert(&[("no address", Some("nonsense"))]));
    assert_eq!(
        db.rows("SELECT name, value FROM enrich_metrics WHERE type <> 'gauge' AND value <> 0"),
        ["enrich_errors_total|1"]
    );
    assert_eq!(value(&mut db, "asn_inventory_size", "{}"), 80.0);
    cluster.reconfigure(&["cowrie_enrich.metrics = on".to_owned()]);
    wait_until("the setting is read", || db.one("SHOW cowrie_enrich.metrics"), |setting| setting == "on");
    db.run(&ensure(1000, 3));
    assert_eq!(value(&mut db, CREATED, "{}"), 3.0);
}

#[test]
fn without_preloading_a_session_sees_its_own_numbers() {
    let cluster = cluster_with_world(&Options::named("metrics-alone").without_preload());
    let mut db = fresh_database(&cluster);
    let (mut one, mut other) = (db.another(), db.another());
    one.run(&ensure(1, 3));
    other.run(&ensure(10, 2));
    assert_eq!(value(&mut one, CREATED, "{}"), 3.0);
    assert_eq!(value(&mut other, CREATED, "{}"), 2.0);
    assert_eq!(value(&mut db, CREATED, "{}"), 0.0);
    assert_eq!(value(&mut db, "asn_inventory_size", "{}"), 5.0);
    assert_eq!(value(&mut db, "enrich_launcher_up", "{}"), 0.0);
    let said = db.rows(
        "SELECT obj_description('enrich.prometheus_metrics'::regproc) UNION ALL
         SELECT obj_description('enrich.enrich_metrics'::regclass)",
    );
    assert!(said.iter().all(|comment| comment.contains("session")), "{said:?}");
}

#[test]
fn values_survive_the_worker_and_other_databases_see_what_it_counted() {
    let lab = Lab::start(Options::named("metrics-worker").with_worker());
    let (mut db, mut other) = (lab.database(), lab.database());
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(30)));
    let pid = worker_pid(&mut db);
    queue(&mut db, &members(0..700));
    wait_for_the_queue(&mut db);

    let cymru = r#"{"provider": "cymru"}"#;
    let networks = db.number("SELECT count(*) FROM asn_inventory") as f64;
    let settled = wait_until(
        "both batches were counted",
        || value(&mut db, "enrich_provider_answers_total", r#"{"provider": "cymru", "result": "value"}"#),
        |values| *values == 700.0,
    );
    assert_eq!(value(&mut db, "enrich_lookups_total", r#"{"result": "cymru_hit"}"#), settled);
    assert_eq!(value(&mut db, CREATED, r#"{"source": "cymru"}"#), networks);
    assert_eq!(value(&mut db, CREATED, r#"{"source": "cymru", "rir": "unknown"}"#), 0.0);
    assert_eq!(value(&mut db, "enrich_provider_lookups_total", cymru), 700.0);
    let asked = lab.whois.record().connections.len() as f64;
    assert_eq!(
        value(&mut db, "enrich_provider_requests_total", r#"{"provider": "cymru", "outcome": "completed"}"#),
        asked
    );
    assert_eq!(value(&mut db, "enrich_provider_requests_total", "{}"), asked);
    assert_eq!(value(&mut db, "enrich_provider_request_duration_seconds_count", cymru), asked);
    let took = value(&mut db, "enrich_provider_request_duration_seconds_sum", cymru);
    assert!(took >= 0.03 * asked && took < 10.0 * asked, "{took} s for {asked} requests");
    assert_eq!(value(&mut db, "enrich_provider_batch_size_sum", cymru), 700.0);
    assert_eq!(value(&mut db, "enrich_provider_batch_size_count", cymru), asked);
    wait_for_permits(&mut db);
    assert_eq!(value(&mut db, "enrich_provider_in_flight", "{}"), 0.0);
    assert_eq!(value(&mut db, "enrich_provider_breaker_state", "{}"), 0.0);
    assert_eq!(value(&mut db, "enrich_launcher_up", "{}"), 1.0);

    // Another database shows the values that the worker counted.
    let of_db = format!(r#"{{"database": "{}"}}"#, db.name);
    wait_until(
        "the other database sees the size of this one",
        || value(&mut other, "asn_inventory_size", &of_db),
        |size| *size == networks,
    );
    assert_eq!(value(&mut other, "enrich_queue_depth", &of_db), 0.0);
    assert!(value(&mut other, "enrich_worker_batches_total", &of_db) >= 2.0);

    // Naptimes are counted without any work.
    let counters = format!(
        "SELECT name, labels, value FROM enrich_metrics
         WHERE type <> 'gauge' AND COALESCE(labels ->> 'database', '{0}') = '{0}'
           AND name <> 'enrich_worker_naptimes_total'",
        db.name
    );
    let before: BTreeSet<String> = db.rows(&counters).into_iter().collect();
    db.run(&format!("SELECT pg_terminate_backend({pid})"));
    wait_until(
        "another worker is there",
        || (worker_pid_now(&mut db), value(&mut db.another(), "enrich_worker_up", &of_db)),
        |(now, up)| now.is_some_and(|now| now != pid) && *up == 1.0,
    );
    let after: BTreeSet<String> = db.rows(&counters).into_iter().collect();
    assert_eq!(after.symmetric_difference(&before).collect::<Vec<_>>(), [] as [&String; 0]);
    assert!(before.len() > 100, "{} samples", before.len());
    // The template database had a worker before it became a template.
    let attended = "SELECT count(*) FROM enrich_metrics WHERE labels ->> 'database' = 'with_extension'";
    assert_eq!(db.number(attended), 0);
    let age = value(&mut db, "enrich_worker_heartbeat_age_seconds", &of_db);
    assert!((0.0..30.0).contains(&age), "{age} s");
    assert_eq!(
        value(&mut db, "asn_inventory_size", &of_db),
        networks,
        "one sample, not the worker's beside it"
    );

    // Lookups without an answer stay in the queue, and are visible there.
    lab.whois.stop();
    queue(&mut db, &members(1_000..1_003));
    wait_until(
        "the other database sees the queue of this one",
        || {
            (
                value(&mut other, "enrich_queue_addresses", &of_db),
                value(&mut other, "enrich_queue_oldest_age_seconds", &of_db),
            )
        },
        |(addresses, age)| *addresses == 3.0 && *age > 0.0,
    );
    wait_until(
        "failures are counted by how",
        || value(&mut other, "enrich_provider_requests_total", r#"{"outcome": "unreachable"}"#),
        |failures| *failures >= 1.0,
    );

    db.run("DROP EXTENSION cowrie_enrich CASCADE");
    wait_until(
        "nothing is said of a database without the extension",
        || other.number(&format!("SELECT count(*) FROM enrich_metrics WHERE labels @> '{of_db}'")),
        |samples| *samples == 0,
    );
    lab.assert_nothing_crashed();
}

#[test]
fn promtool_finds_nothing_wrong() {
    let Some(promtool) = prometheus::tool("promtool") else { return };
    let cluster = server("metrics-promtool");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let check = |text: &str| {
        let mut child = Command::new(&promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool runs");
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
        let output = child.wait_with_output().expect("promtool ends");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), said.concat())
    };
    // First checks that promtool reports an error for invalid input.
    assert_ne!(check("# TYPE some_total gauge\nsome_total 1\n").0, Some(0));
    // Before any work, and after each metric has changed.
    for statements in
        ["SELECT 1".to_owned(), format!("{}; {}; CALL fold_statistics()", ensure(1, 10), sessions(0..50))]
    {
        for statement in statements.split("; ") {
            db.run(statement);
        }
        let text = db.client.query_one("SELECT enrich.prometheus_metrics()", &[]).expect("the text");
        let (status, said) = check(text.get(0));
        assert_eq!((status, said.as_str()), (Some(0), ""), "{}", text.get::<_, String>(0));
    }
}

#[test]
fn rows_and_text_say_the_same_and_every_family_has_its_help_and_type() {
    let cluster = server("metrics-rows");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    db.run(&ensure(1, 10));
    db.run(&sessions(0..50));
    // In one statement, without the values that change with the clock.
    let row = db
        .client
        .query_one(
            "SELECT enrich.prometheus_metrics(),
                    array_agg(name || COALESCE('{' || (
                        SELECT string_agg(key || '=' || to_json(l.value)::text, ',' ORDER BY key)
                        FROM jsonb_each_text(labels) l) || '}', '') ORDER BY name, labels)
             FROM enrich.enrich_metrics",
            &[],
        )
        .expect("metrics");
    let (text, rows): (String, Vec<String>) = (row.get(0), row.get(1));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut names: Vec<String> = lines
        .map(|line| {
            let (sample, value) = line.rsplit_once(' ').expect("a value");
            value.parse::<f64>().unwrap_or_else(|_| panic!("no number: {line}"));
            let Some((name, labels)) = sample.split_once('{') else { return sample.to_owned() };
            let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
            labels.sort_unstable();
            format!("{name}{{{}}}", labels.join(","))
        })
        .collect();
    let mut rows = rows;
    names.sort();
    rows.sort();
    assert_eq!(names, rows);
    assert!(names.len() > 200, "{} samples", names.len());

    let (mut helped, mut typed) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let word = |n: usize| line.split(' ').nth(n).unwrap_or_default().to_owned();
        if line.starts_with("# HELP ") {
            assert!(!word(3).is_empty(), "{line}");
            helped.insert(word(2));
        } else if line.starts_with("# TYPE ") {
            assert!(["counter", "gauge", "histogram"].contains(&word(3).as_str()), "{line}");
            typed.insert(word(2));
        }
    }
    assert_eq!(helped, typed);
    assert!(helped.len() > 25, "{helped:?}");
    for name in &names {
        let name = name.split('{').next().unwrap_or_default();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        assert!(helped.contains(name) || family.is_some_and(|family| helped.contains(family)), "{name}");
    }
    let (crowd, name) =
        (crowd_asn(3), "SELECT organization_country FROM enrich.asn_inventory WHERE asn_number = ");
    let country = db.one(&format!("{name}{crowd}"));
    assert!(value(&mut db, CREATED, &format!(r#"{{"country": "{country}"}}"#)) >= 1.0);
}

#[test]
fn whoever_is_granted_it_may_read_and_nobody_else() {
    let cluster = server("metrics-grants");
    let mut db = fresh_database(&cluster);
    db.run("CREATE ROLE monitor LOGIN; GRANT USAGE ON SCHEMA enrich TO monitor");
    let mut session = db.session_as("monitor");
    for statement in [
        "SELECT * FROM enrich.enrich_metrics",
        "SELECT * FROM enrich.enrich_metrics()",
        "SELECT enrich.prometheus_metrics()",
    ] {
        assert_eq!(session.refused(statement).code, "42501", "{statement}");
    }
    // As docs/metrics.md describes.
    db.run(
        "GRANT pg_monitor TO monitor;
         GRANT USAGE ON SCHEMA enrich TO pg_monitor;
         GRANT EXECUTE ON FUNCTION enrich.enrich_metrics(), enrich.prometheus_metrics() TO pg_monitor;
         GRANT SELECT ON enrich.enrich_metrics TO pg_monitor;
         SELECT ensure_asn_inventory(1)",
    );
    assert_eq!(value(&mut session, "asn_inventory_size", "{}"), 1.0);
    assert!(session.one("SELECT enrich.prometheus_metrics() LIKE '%asn_inventory_size%'") == "t");
    assert_eq!(session.refused("SELECT * FROM enrich.asn_inventory").code, "42501");
    assert_eq!(session.refused("SELECT enrich.reset_enrich_stats()").code, "42501");
}

#[test]
fn nodes_whose_counts_are_not_collected_are_shown() {
    let options = Options::named("metrics-nodes").with_worker().conf("cowrie_enrich.worker_naptime = 200ms");
    let cluster = cluster_with_world(&options);
    let mut db = fresh_database(&cluster);
    let mut elsewhere = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let of_database = format!(r#"{{"database": "{}"}}"#, db.name);
    let gauges = |session: &mut Session| {
        ["enrich_citus_nodes_failed", "enrich_citus_collection_oldest_age_seconds"]
            .map(|name| value(session, name, &of_database))
    };
    worker_pid(&mut db);
    assert_eq!(gauges(&mut db), [0.0, 0.0]);
    // The third node was removed from the Citus cluster. The counts of the fourth node were never collected.
    db.run(
        "INSERT INTO enrich.cluster_node (node, citus_node, name, added_at, collected_at, last_error) VALUES
         (gen_random_uuid(), 2, 'a:5432', now() - interval '2 days', now() - interval '1 hour', 'down'),
         (gen_random_uuid(), 3, 'b:5432', now() - interval '2 days', now(), NULL),
         (gen_random_uuid(), NULL, 'c:5432', now() - interval '2 days', now() - interval '1 day', 'removed'),
         (gen_random_uuid(), 4, 'd:5432', now() - interval '2 hours', NULL, 'down')",
    );
    let is_shown = |[failed, age]: &[f64; 2]| *failed == 2.0 && (7_200.0..86_400.0).contains(age);
    let own = gauges(&mut db);
    assert!(is_shown(&own), "{own:?}");
    // The worker counts the sizes after a fold. In another database, the view shows the sizes that the worker has counted.
    db.run(&sessions(0..1));
    wait_until("the worker reports the nodes", || gauges(&mut elsewhere), is_shown);
    // This server has no Citus, so each collection fails as a whole.
    let step = format!(r#"{{"database": "{}", "step": "collect"}}"#, db.name);
    let errors = || value(&mut elsewhere, "enrich_worker_step_errors_total", &step);
    wait_until("the failed collections are counted", errors, |errors| *errors > 1.0);
    db.run("DELETE FROM enrich.cluster_node");
    wait_until("the gauges are zero again", || gauges(&mut elsewhere), |gauges| *gauges == [0.0, 0.0]);
}
