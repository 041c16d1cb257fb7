//! Two-phase commit: no callback of an extension runs at COMMIT PREPARED. Still, no work is lost or done too early.

use std::fs;
use std::path::PathBuf;

use server_tests::cymru::{Lab, members, queue, wait_for_the_queue, worker_pid};
use server_tests::database::{bare_database, cluster_with_world};
use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Cluster, Database, Options, Session, wait_until};

const CREATE: &str = "CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich";

/// A naptime that is longer than any test. So every reaction of the worker must come from a wake-up.
fn long_naptime(name: &str) -> Options {
    Options::named(name).with_worker().conf("cowrie_enrich.worker_naptime = 1h")
}

fn short_naptime(name: &str) -> Options {
    Options::named(name).with_worker().conf("cowrie_enrich.worker_naptime = 200ms")
}

/// Returns a database with an attached table, whose worker has done some work.
fn at_work<'a>(lab: &'a Lab, host: &Host) -> Database<'a> {
    let mut db = lab.database();
    host.create_attached(&mut db);
    queue(&mut db, &members(50..51));
    wait_for_the_queue(&mut db);
    db
}

/// Returns a name for a prepared transaction. These names belong to the cluster.
fn gid(db: &Database<'_>, what: &str) -> String {
    format!("{}-{what}", db.name)
}

/// The launcher's list of databases.
fn workers(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().join("cowrie_enrich/workers.json")
}

/// Waits until the launcher knows that a database lacks the extension. After that, the launcher checks the database
/// again only when it is woken.
fn wait_until_known_without(cluster: &Cluster, db: &mut Session) {
    let oid = db.number("SELECT oid::bigint FROM pg_database WHERE datname = current_database()");
    let list = workers(cluster);
    wait_until(
        "the launcher knows the database as one without the extension",
        || {
            // The launcher reads the list of databases when it is woken.
            db.run("SELECT pg_reload_conf()");
            let text = fs::read_to_string(&list).unwrap_or_default();
            let without = text.rsplit_once("],[").map_or(String::new(), |(_, without)| without.to_owned());
            without.split(|c: char| !c.is_ascii_digit()).any(|number| number == oid.to_string())
        },
        |is_known| *is_known,
    );
}

fn has_worker(db: &mut Session) -> bool {
    db.number(
        "SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'cowrie_enrich worker' AND datname = current_database()",
    ) > 0
}

#[test]
fn an_extension_that_comes_in_a_prepared_transaction_has_a_worker() {
    let cluster = cluster_with_world(&long_naptime("prepared-create"));
    let mut db = bare_database(&cluster);
    wait_until_known_without(&cluster, &mut db);
    let gid = gid(&db, "create");
    db.run(&format!("BEGIN; {CREATE}; PREPARE TRANSACTION '{gid}'"));
    // In a connection that has not used the extension.
    db.another().run(&format!("COMMIT PREPARED '{gid}'"));
    wait_until("the worker comes", || has_worker(&mut db), |has| *has);
    // The extension is dropped.
    db.run(&format!("BEGIN; DROP EXTENSION cowrie_enrich; PREPARE TRANSACTION '{gid}'"));
    db.run(&format!("COMMIT PREPARED '{gid}'"));
    wait_until("the worker leaves", || has_worker(&mut db), |has| !*has);
    // The extension is created again.
    wait_until_known_without(&cluster, &mut db);
    db.run(&format!("BEGIN; CREATE EXTENSION cowrie_enrich SCHEMA enrich; PREPARE TRANSACTION '{gid}'"));
    db.run(&format!("COMMIT PREPARED '{gid}'"));
    wait_until("another worker comes", || has_worker(&mut db), |has| *has);
}

#[test]
fn an_extension_in_a_prepared_transaction_outlives_a_restart() {
    let cluster = cluster_with_world(&long_naptime("prepared-restart").durable());
    let mut db = bare_database(&cluster);
    let gid = gid(&db, "restart");
    db.run(&format!("BEGIN; {CREATE}; PREPARE TRANSACTION '{gid}'"));
    let name = db.name.clone();
    drop(db);
    cluster.kill_postmaster();
    // Removes the list, so that the next launcher has to check the database itself.
    fs::remove_file(workers(&cluster)).expect("the launcher has written it");
    cluster.start_again();
    let mut db = cluster.session(&name);
    wait_until_known_without(&cluster, &mut db);
    db.run(&format!("COMMIT PREPARED '{gid}'"));
    wait_until("the worker comes", || has_worker(&mut db), |has| *has);
}

/// The statement loads the library itself, after the extension's row was inserted.
#[test]
fn an_extension_prepared_before_the_library_was_preloaded_has_a_worker() {
    let options = Options::named("prepared-preload").without_preload();
    let cluster = cluster_with_world(&options);
    let mut db = bare_database(&cluster);
    let gid = gid(&db, "preload");
    db.run(&format!("BEGIN; {CREATE}; PREPARE TRANSACTION '{gid}'"));
    let name = db.name.clone();
    drop(db);
    cluster.stop_fast();
    cluster.configure(&[
        "shared_preload_libraries = 'cowrie_enrich'".to_owned(),
        "cowrie_enrich.worker_naptime = 1h".to_owned(),
    ]);
    cluster.start_again();
    let mut db = cluster.session(&name);
    wait_until_known_without(&cluster, &mut db);
    db.run(&format!("COMMIT PREPARED '{gid}'"));
    wait_until("the worker comes", || has_worker(&mut db), |has| *has);
}

#[test]
fn a_rolled_back_extension_leaves_nothing() {
    let cluster = cluster_with_world(&long_naptime("prepared-undone"));
    let mut db = bare_database(&cluster);
    wait_until_known_without(&cluster, &mut db);
    let gid = gid(&db, "undone");
    let marks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                 WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    db.run(&format!("BEGIN; {CREATE}; PREPARE TRANSACTION '{gid}'"));
    assert!(db.number(marks) > 0);
    db.run(&format!("ROLLBACK PREPARED '{gid}'"));
    assert_eq!(db.number(marks), 0);
    assert_eq!(db.number("SELECT count(*) FROM pg_extension WHERE extname = 'cowrie_enrich'"), 0);
    // The next extension is noticed.
    db.run(&format!("BEGIN; {CREATE}; PREPARE TRANSACTION '{gid}'"));
    db.run(&format!("COMMIT PREPARED '{gid}'"));
    wait_until("the worker comes", || has_worker(&mut db), |has| *has);
}

#[test]
fn a_worker_survives_the_rollback_of_a_prepared_drop() {
    let lab = Lab::start(short_naptime("prepared-drop"));
    let mut db = at_work(&lab, &COWRIE);
    let gid = gid(&db, "drop");
    let before = worker_pid(&mut db);
    db.run(&format!("BEGIN; DROP EXTENSION cowrie_enrich CASCADE; PREPARE TRANSACTION '{gid}'"));
    db.run(&format!("ROLLBACK PREPARED '{gid}'"));
    let address = members(0..1)[0].to_string();
    db.run(&COWRIE.insert(&[("a", Some(&address))]));
    wait_until(
        "the session is complete",
        || db.one("SELECT snapshot_asn IS NOT NULL FROM sessions WHERE id = 'a'"),
        |is_complete| is_complete == "t",
    );
    assert_eq!(worker_pid(&mut db), before);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// COMMIT PREPARED itself wakes the worker.
#[test]
fn work_of_a_prepared_transaction_wakes_the_worker() {
    let lab = Lab::start(long_naptime("prepared-wake"));
    let mut db = at_work(&lab, &SUMMARIES);
    let gid = gid(&db, "wake");
    let addresses = members(0..3);
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let rows: Vec<_> = addresses.iter().map(|a| (a.as_str(), Some(a.as_str()))).collect();
    db.run(&format!("BEGIN; {}; PREPARE TRANSACTION '{gid}'", SUMMARIES.insert(&rows)));
    let questions = lab.whois.record().questions_total();
    db.another().run(&format!("COMMIT PREPARED '{gid}'"));
    wait_until(
        "the network of each address was asked for",
        || lab.whois.record().questions_total(),
        |asked| *asked > questions,
    );
    wait_until(
        "the sessions are complete",
        || db.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NOT NULL"),
        |complete| *complete == 3,
    );
}

#[test]
fn sessions_of_a_prepared_transaction_are_counted_without_further_sessions() {
    let lab = Lab::start(short_naptime("prepared-counts"));
    let mut db = at_work(&lab, &COWRIE);
    let gid = gid(&db, "counts");
    let unknown = members(1..2)[0].to_string();
    let rows = [("a", Some("8.8.8.8")), ("b", Some("8.8.8.8")), ("c", Some(unknown.as_str()))];
    db.run(&format!("BEGIN; {}; PREPARE TRANSACTION '{gid}'", COWRIE.insert(&rows)));
    db.another().run(&format!("COMMIT PREPARED '{gid}'"));
    wait_until(
        "they are counted and complete",
        || {
            db.rows(
                "SELECT session_count, current_asn IS NOT NULL FROM enrich.ip_inventory i
                 JOIN (SELECT DISTINCT ip::inet FROM sessions WHERE snapshot_asn IS NOT NULL) s ON s.ip = i.ip_address
                 ORDER BY 1",
            )
        },
        |rows| rows == &["1|t", "2|t"],
    );
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

fn metric(db: &mut Session, name: &str) -> i64 {
    db.number(&format!(
        "SELECT coalesce(sum(value), 0)::bigint FROM enrich.enrich_metrics WHERE name = '{name}'"
    ))
}

#[test]
fn counters_move_when_a_prepared_transaction_commits() {
    let lab = Lab::start(short_naptime("prepared-metrics"));
    let mut db = at_work(&lab, &COWRIE);
    let gid = gid(&db, "metrics");
    let counted = [
        "enrich_addresses_total",
        "asn_inventory_records_created_total",
        "enrich_lookups_total",
        "asn_inventory_unique_seen",
    ];
    let before = counted.map(|name| metric(&mut db, name));
    let prepare = format!(
        "BEGIN; {}; SAVEPOINT a; {}; ROLLBACK TO a; PREPARE TRANSACTION '{gid}'",
        COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]),
        COWRIE.insert(&[("c", Some("89.160.20.1"))]),
    );
    for end in ["ROLLBACK", "COMMIT"] {
        db.run(&prepare);
        assert_eq!(counted.map(|name| metric(&mut db, name)), before, "prepared, before {end}");
        db.run(&format!("{end} PREPARED '{gid}'"));
    }
    let after = [before[0] + 2, before[1] + 2, before[2] + 2, before[3] + 2];
    wait_until("the counters have moved", || counted.map(|name| metric(&mut db, name)), |now| *now == after);
    assert_eq!(db.number("SELECT count(*) FROM enrich.counter_delta"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn rollback_prepared_leaves_nothing() {
    let lab = Lab::start(short_naptime("prepared-rollback"));
    let mut db = at_work(&lab, &COWRIE);
    let tables = [
        "sessions",
        "enrich.session_delta",
        "enrich.counter_delta",
        "enrich.recount_request",
        "enrich.enrichment_request",
        "enrich.incomplete_session",
        "enrich.session_completion",
        "enrich.job_address",
        "enrich.ip_inventory WHERE session_count > 0 OR ip_address = '8.8.8.8'",
    ];
    let rows = |db: &mut Session| tables.map(|table| db.number(&format!("SELECT count(*) FROM {table}")));
    let gid = gid(&db, "rollback");
    let unknown = members(1..2)[0].to_string();
    let before = rows(&mut db);
    db.run(&format!(
        "BEGIN; {}; PREPARE TRANSACTION '{gid}'",
        COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some(&unknown))])
    ));
    db.run(&format!("ROLLBACK PREPARED '{gid}'"));
    assert_eq!(rows(&mut db), before);
    // The next work of the worker does not bring the rows back.
    queue(&mut db, &members(60..61));
    wait_for_the_queue(&mut db);
    assert_eq!(rows(&mut db), before);
}

#[test]
fn attaching_and_options_take_effect_when_a_prepared_transaction_commits() {
    let lab = Lab::start(short_naptime("prepared-attach"));
    let mut db = lab.database();
    let mut other = db.another();
    COWRIE.create(&mut db);
    let snapshot = |session: &mut Session, key: &str| {
        session.run(&COWRIE.insert(&[(key, Some("8.8.8.8"))]));
        COWRIE.snapshot(session, key)
    };
    let gid = gid(&db, "attach");
    let end = |session: &mut Session| session.run(&format!("COMMIT PREPARED '{gid}'"));
    db.run(&format!(
        "BEGIN; SELECT enrich.attach_session_table('sessions', 'ip', 'starttime'); PREPARE TRANSACTION '{gid}'"
    ));
    end(&mut other);
    for session in [&mut db, &mut other] {
        let key = format!("a{}", session.backend_pid());
        assert_eq!(snapshot(session, &key), "15169|US|NULL");
    }
    // Both sessions have cached that `trust_input` is off, so that values of clients are replaced.
    let forged = |key: &str| {
        format!(
            "INSERT INTO sessions (id, starttime, sensor, ip, snapshot_asn) VALUES ('{key}', now(), 1, '8.8.8.8', 7)"
        )
    };
    let asn = |session: &mut Session, key: &str| {
        session.run(&forged(key));
        session.number(&format!("SELECT snapshot_asn FROM sessions WHERE id = '{key}'"))
    };
    db.run(&format!(
        "BEGIN; SELECT enrich.set_session_table_options('sessions', NULL, true); {}; PREPARE TRANSACTION '{gid}'",
        forged("inside")
    ));
    assert_eq!(asn(&mut db, "b1"), 15_169);
    assert_eq!(asn(&mut other, "b2"), 15_169);
    end(&mut other);
    assert_eq!(asn(&mut db, "c1"), 7);
    assert_eq!(asn(&mut other, "c2"), 7);
    assert_eq!(db.number("SELECT snapshot_asn FROM sessions WHERE id = 'inside'"), 7);
    db.run(&format!("BEGIN; SELECT enrich.detach_session_table('sessions'); PREPARE TRANSACTION '{gid}'"));
    end(&mut other);
    for session in [&mut db, &mut other] {
        let key = format!("d{}", session.backend_pid());
        assert_eq!(snapshot(session, &key), "NULL|NULL|NULL");
    }
}

#[test]
fn known_networks_count_when_a_prepared_transaction_commits() {
    let lab = Lab::start(short_naptime("prepared-known"));
    let mut db = lab.database();
    let gid = gid(&db, "known");
    let mark = "UPDATE enrich.known_networks SET is_vpn = true WHERE asn_number = 15169";
    db.run(&format!("BEGIN; {mark}; PREPARE TRANSACTION '{gid}'"));
    db.run(&format!("ROLLBACK PREPARED '{gid}'"));
    db.run(&format!("BEGIN; {mark}; PREPARE TRANSACTION '{gid}'"));
    db.another().run(&format!("COMMIT PREPARED '{gid}'"));
    db.run("SELECT enrich.enrich_ip('8.8.8.8')");
    assert_eq!(db.one("SELECT is_known_vpn FROM enrich.asn_inventory WHERE asn_number = 15169"), "t");
}
