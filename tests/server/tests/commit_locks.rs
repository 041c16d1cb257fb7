//! Locks on tables of the extension. The commit of a session waits for them only up to a bound, with any timeouts of
//! the session. No session is lost, and counts that could not be appended are counted again.

use std::sync::OnceLock;

use server_tests::cymru::{Lab, members, queue, start_worker, wait_for_the_queue};
use server_tests::database::server_without_providers;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::{assert_counts_are_exact, wait_for_count};
use server_tests::{Cluster, Database, Options, Session, fresh_database, wait_until};

/// A server whose worker works often and uses no provider.
fn server() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    server_without_providers(&CLUSTER, "commit-locks")
}

/// Returns a database with a worker and a folded session of 8.8.8.8.
fn prepared() -> Database<'static> {
    let mut db = fresh_database(server());
    COWRIE.create_attached(&mut db);
    start_worker(&mut db);
    db.run(&COWRIE.insert(&[("first", Some("8.8.8.8"))]));
    wait_for_count(&mut db, "8.8.8.8", 1);
    db
}

#[track_caller]
fn wait_for_the_recount(db: &mut Session) {
    wait_until(
        "no recount is to be made",
        || db.number("SELECT count(*) FROM enrich.recount_request"),
        |requests| *requests == 0,
    );
}

fn lost(db: &mut Session) -> i64 {
    db.number(
        "SELECT value::bigint FROM enrich.enrich_metrics WHERE name = 'enrich_session_counts_lost_total'",
    )
}

/// Locks tables until the transaction ends. The worker takes locks on the same tables in another order. So PostgreSQL may choose
/// this transaction to end a deadlock, and it is repeated.
#[track_caller]
fn lock_tables(locker: &mut Session, tables: &str) {
    let _ = wait_until(
        "the tables are locked",
        || {
            let ended =
                locker.try_run(&format!("BEGIN; LOCK TABLE {tables}")).map_err(|refusal| refusal.code);
            if ended.is_err() {
                locker.run("ROLLBACK");
            }
            ended
        },
        |ended| {
            assert!(ended.is_ok() || *ended == Err("40P01".to_owned()), "{ended:?}");
            ended.is_ok()
        },
    );
}

/// Runs statements in another connection while `tables` are locked. Returns their result. They must end while the lock
/// is still held.
#[track_caller]
fn while_locked(db: &Database<'_>, tables: &str, settings: &str, sql: &str) -> Result<(), String> {
    let (locker, mut session) = (db.another(), db.another());
    session.run(settings);
    std::thread::scope(|scope| {
        // If the test fails, dropping `locker` releases the locks, so that the statements and the test end.
        let mut locker = locker;
        lock_tables(&mut locker, tables);
        let running = scope.spawn(move || session.try_run(sql).map_err(|refusal| refusal.code));
        wait_until(
            "the statements end while the tables are locked",
            || running.is_finished(),
            |ended| *ended,
        );
        locker.run("COMMIT");
        running.join().expect("the connection lives")
    })
}

/// Stores a session while `tables` are locked. On a busy machine, the statement alone may take longer than a timeout
/// of 20 ms. So a cancelled statement is repeated. If the commit waited for the lock, every repetition would be
/// cancelled.
#[track_caller]
fn assert_stored_while_locked(db: &Database<'_>, tables: &str, settings: &str, insert: &str) {
    let cancelled = Err("57014".to_owned());
    let ended =
        (0..100).map(|_| while_locked(db, tables, settings, insert)).find(|ended| *ended != cancelled);
    assert_eq!(ended, Some(Ok(())), "{tables}, {settings}");
}

/// Tables that a session's commit reads or writes.
const TABLES: [&str; 8] = [
    "enrich.session_delta",
    "enrich.network_delta",
    "enrich.enrichment_request",
    "enrich.incomplete_session",
    "enrich.session_completion",
    "enrich.ip_inventory",
    "enrich.asn_inventory",
    "enrich.known_networks",
];

/// Settings that a session may have.
const SETTINGS: [&str; 3] = [
    "SET lock_timeout = 0; SET statement_timeout = 0",
    "SET lock_timeout = '1ms'; SET statement_timeout = '20ms'",
    "SET lock_timeout = '1h'; SET statement_timeout = '1h'; SET idle_in_transaction_session_timeout = '20ms'",
];

#[test]
fn no_lock_holds_a_commit_and_counts_are_exact_afterwards() {
    let mut db = prepared();
    let mut sessions = 1;
    for table in TABLES.into_iter().chain([TABLES.join(", ").as_str()]) {
        for settings in SETTINGS {
            let (known, new) = (format!("k{sessions}"), format!("n{sessions}"));
            let insert = [
                COWRIE.insert(&[(&known, Some("8.8.8.8"))]),
                COWRIE.insert(&[(&new, Some(&format!("89.160.20.{sessions}")))]),
            ];
            for insert in insert {
                assert_stored_while_locked(&db, table, settings, &insert);
            }
            sessions += 1;
        }
    }
    assert_eq!(db.number("SELECT count(*) FROM sessions"), 2 * sessions - 1);
    wait_for_the_recount(&mut db);
    wait_for_count(&mut db, "8.8.8.8", sessions);
    wait_until(
        "all addresses are there",
        || db.number("SELECT count(*) FROM enrich.ip_inventory WHERE ip_address << '89.160.20.0/24'"),
        |addresses| *addresses == sessions - 1,
    );
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// Tables that the commit of a session with a foreign key does not need. It needs ip_inventory, because the server
/// looks the address up there.
const TABLES_BESIDE_A_FOREIGN_KEY: [&str; 8] = [
    "enrich.session_delta",
    "enrich.network_delta",
    "enrich.enrichment_request",
    "enrich.incomplete_session",
    "enrich.session_completion",
    "enrich.asn_inventory",
    "enrich.known_networks",
    "enrich.ip_asn_history",
];

#[test]
fn no_lock_beside_the_one_on_the_referenced_table_holds_a_session_with_a_foreign_key() {
    let lab = Lab::start(
        Options::named("commit-locks-key").with_worker().conf("cowrie_enrich.worker_naptime = 200ms"),
    );
    let mut db = lab.database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    start_worker(&mut db);
    let mut addresses = members(0..100).into_iter().map(|address| address.to_string());
    let mut sessions = 0;
    for tables in
        TABLES_BESIDE_A_FOREIGN_KEY.into_iter().chain([TABLES_BESIDE_A_FOREIGN_KEY.join(", ").as_str()])
    {
        for settings in SETTINGS {
            let address = addresses.next().expect("there are enough");
            let insert = SUMMARIES.insert(&[(&format!("k{sessions}"), Some(&address))]);
            assert_stored_while_locked(&db, tables, settings, &insert);
            sessions += 1;
        }
    }
    assert_eq!(db.number("SELECT count(*) FROM session_summaries"), sessions);
    wait_until(
        "all addresses are placed, and no other session came",
        || db.number("SELECT count(*) FROM enrich.ip_inventory WHERE current_asn IS NULL"),
        |unplaced| *unplaced == 0,
    );
    wait_until(
        "all sessions are complete",
        || db.number("SELECT count(*) FROM session_summaries WHERE snapshot_asn IS NULL"),
        |incomplete| *incomplete == 0,
    );
    wait_for_the_recount(&mut db);
    db.run("CALL enrich.fold_statistics()");
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

/// A procedure commits while its statement_timeout runs. A lock on a table of the extension does not undo its inserts.
#[test]
fn a_timeout_that_runs_during_a_commit_does_not_undo_it() {
    let mut db = prepared();
    let settings = "SET statement_timeout = '100ms'";
    for (n, table) in
        ["enrich.session_delta", "enrich.ip_inventory", "enrich.asn_inventory"].into_iter().enumerate()
    {
        let insert = COWRIE.insert(&[
            (&format!("k{n}"), Some("8.8.8.8")),
            (&format!("n{n}"), Some(&format!("89.160.20.{}", n + 1))),
        ]);
        let ended = while_locked(&db, table, settings, &format!("DO $do$ BEGIN {insert}; COMMIT; END $do$"));
        // The timeout may still cancel the statement, but only after the commit.
        assert!(ended.is_ok() || ended == Err("57014".to_owned()), "{table}: {ended:?}");
        assert_eq!(
            db.number(&format!("SELECT count(*) FROM sessions WHERE id IN ('k{n}', 'n{n}')")),
            2,
            "{table}"
        );
    }
    wait_for_the_recount(&mut db);
    wait_for_count(&mut db, "8.8.8.8", 4);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// The inventory is locked, so the snapshot has the values of the mmdb files.
#[test]
fn a_locked_inventory_leaves_the_snapshot_to_the_files() {
    let mut db = prepared();
    let insert = COWRIE.insert(&[("a", Some("8.8.8.8"))]);
    assert_eq!(while_locked(&db, "enrich.ip_inventory", "SET statement_timeout = '5s'", &insert), Ok(()));
    assert_eq!(COWRIE.snapshot(&mut db, "a"), "15169|US|NULL");
}

#[test]
fn a_lost_count_is_seen_and_counted_again() {
    let mut db = prepared();
    let before = lost(&mut db);
    let mut locker = db.another();
    locker.run("BEGIN; LOCK TABLE enrich.session_delta");
    let said = db.notices(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.8"))]));
    assert!(said.contains("WARNING:  cowrie_enrich could not count the sessions"), "{said}");
    assert!(said.contains("recount_request"), "{said}");
    // While the table is locked, its counts cannot be corrected.
    assert_eq!(db.one("SELECT sessions, has_gaps FROM enrich.recount_request"), "2|f");
    // Queries the view in another database, where no lock is in the way. There the view shows the values that the
    // worker of the first database has reported.
    let mut elsewhere = fresh_database(server());
    let age = format!(
        "SELECT count(*) FROM enrich.enrich_metrics
         WHERE name = 'enrich_recount_oldest_age_seconds' AND value > 0 AND labels ->> 'database' = '{}'",
        db.name
    );
    wait_until("the metric shows the request", || elsewhere.number(&age), |shown| *shown == 1);
    assert!(lost(&mut elsewhere) >= before + 2);
    locker.run("COMMIT");
    wait_for_the_recount(&mut db);
    wait_for_count(&mut db, "8.8.8.8", 3);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// Sizes are counted in tables. If these are locked, the values are those that the worker has reported.
#[test]
fn metrics_are_shown_while_tables_are_locked() {
    let db = prepared();
    for read in ["enrich.enrich_metrics", "enrich.prometheus_metrics()", "enrich.status_json()"] {
        let ended =
            while_locked(&db, &TABLES.join(", "), "SET lock_timeout = 0", &format!("SELECT * FROM {read}"));
        assert_eq!(ended, Ok(()), "{read}");
    }
}

/// If the request cannot be appended either, it is kept in shared memory.
#[test]
fn a_request_that_cannot_be_appended_is_not_lost() {
    let mut db = prepared();
    let insert = COWRIE.insert(&[("a", Some("8.8.8.8"))]);
    let tables = "enrich.session_delta, enrich.recount_request";
    assert_eq!(while_locked(&db, tables, "SET lock_timeout = 0", &insert), Ok(()));
    wait_for_count(&mut db, "8.8.8.8", 2);
    wait_for_the_recount(&mut db);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// If a prepared transaction could not append its counts, they are missing from its commit on.
#[test]
fn a_prepared_transaction_is_recounted_when_it_commits() {
    for (n, tables) in
        ["enrich.session_delta", "enrich.session_delta, enrich.recount_request"].into_iter().enumerate()
    {
        let mut db = prepared();
        let gid = format!("{}-{n}", db.name);
        let insert = COWRIE.insert(&[("a", Some("8.8.8.8"))]);
        let prepare = format!("BEGIN; {insert}; PREPARE TRANSACTION '{gid}'");
        assert_eq!(while_locked(&db, tables, "SET lock_timeout = 0", &prepare), Ok(()));
        db.run(&format!("ROLLBACK PREPARED '{gid}'"));
        assert_eq!(db.number("SELECT count(*) FROM enrich.recount_request"), 0);
        assert_eq!(while_locked(&db, tables, "SET lock_timeout = 0", &prepare), Ok(()));
        db.run(&format!("COMMIT PREPARED '{gid}'"));
        wait_for_count(&mut db, "8.8.8.8", 2);
        wait_for_the_recount(&mut db);
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    }
}

/// A statement that stores sessions of many addresses appends counts while it runs. Counts that it cannot append stay
/// in memory until the commit.
#[test]
fn a_large_load_keeps_its_counts_until_the_lock_is_gone() {
    let mut db = prepared();
    let mut locker = db.another();
    locker.run("BEGIN; LOCK TABLE enrich.session_delta");
    let mut load = db.another();
    load.run(
        "BEGIN;
         INSERT INTO sessions (id, starttime, sensor, ip)
         SELECT n, now(), 1, '60.' || n / 65536 || '.' || n / 256 % 256 || '.' || n % 256 FROM generate_series(1, 50100) n",
    );
    locker.run("COMMIT");
    load.run("COMMIT");
    assert_eq!(db.number("SELECT count(*) FROM enrich.recount_request"), 0);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// A session is completed even if the record of its gap could not be written.
#[test]
fn a_gap_that_could_not_be_noted_is_found_again() {
    let lab = Lab::start(
        Options::named("commit-locks-gaps").with_worker().conf("cowrie_enrich.worker_naptime = 200ms"),
    );
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    queue(&mut db, &members(50..51));
    wait_for_the_queue(&mut db);
    let unknown = members(1..2)[0].to_string();
    let insert = COWRIE.insert(&[("a", Some(&unknown))]);
    assert_eq!(while_locked(&db, "enrich.incomplete_session", "SET lock_timeout = 0", &insert), Ok(()));
    wait_until(
        "the session is complete",
        || db.one("SELECT snapshot_asn IS NOT NULL FROM sessions WHERE id = 'a'"),
        |is_complete| is_complete == "t",
    );
    wait_for_the_recount(&mut db);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}
