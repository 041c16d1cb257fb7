//! A fold waits for no other transaction. It leaves the rows that are locked, folds the others, and loses nothing.

use std::sync::OnceLock;

use server_tests::cymru::start_worker;
use server_tests::database::server_without_providers;
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::{assert_counts_are_exact, count, wait_for_count};
use server_tests::{Cluster, Database, Session, database, fresh_database, wait_until};

const TABLES: &[(&str, &str)] = &[("sessions", "ip"), ("session_summaries", "source_ip")];

/// A statement that waits longer than this counts as waiting for ever.
const NO_END: &str = "SET statement_timeout = '40s'";

/// A server whose worker folds often and uses no provider, so that folding is all its work.
fn with_worker() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    server_without_providers(&CLUSTER, "fold-blocked-worker")
}

/// Both hosts' tables. Only the second has a foreign key.
fn prepare(db: &mut Session) {
    COWRIE.create_attached(db);
    SUMMARIES.create(db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
}

/// Does the same in a database whose worker runs.
fn prepare_with_worker(db: &mut Session) {
    prepare(db);
    start_worker(db);
}

/// Returns a database whose worker has folded a session of an address.
fn database_with_folded(address: &str) -> Database<'static> {
    let mut db = fresh_database(with_worker());
    prepare_with_worker(&mut db);
    insert(&mut db, "first", address);
    wait_for_count(&mut db, address, 1);
    db
}

fn insert(db: &mut Session, key: &str, address: &str) {
    db.run(&COWRIE.insert(&[(key, Some(address))]));
}

/// Calls fold_statistics() and returns its messages.
#[track_caller]
fn fold(db: &Database<'_>) -> String {
    let mut psql = db.cluster.program("psql");
    let output = psql
        .args(["-X", "-q", "-d", &db.name, "-c", NO_END, "-c", "CALL enrich.fold_statistics()"])
        .output()
        .expect("psql runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn pending(db: &mut Session) -> Vec<String> {
    db.rows("SELECT host(ip_address), sum(sessions) FROM enrich.session_delta GROUP BY 1 ORDER BY 1")
}

/// How a transaction that creates the address 8.8.8.8 begins, continues, and ends.
const CREATIONS: [(&str, &str, &str); 4] = [
    ("an operator's call", "BEGIN; SELECT 1 FROM enrich.enrich_ip('8.8.8.8')", "COMMIT"),
    ("an operator's call that is undone", "BEGIN; SELECT 1 FROM enrich.enrich_ip('8.8.8.8')", "ROLLBACK"),
    (
        "a session with a foreign key",
        "BEGIN; INSERT INTO session_summaries (session_id, source_ip) VALUES ('holds', '8.8.8.8');
         SET CONSTRAINTS ALL IMMEDIATE",
        "COMMIT",
    ),
    (
        "a prepared transaction",
        "BEGIN; INSERT INTO session_summaries (session_id, source_ip) VALUES ('holds', '8.8.8.8');
         PREPARE TRANSACTION 'stuck'",
        "COMMIT PREPARED 'stuck'",
    ),
];

#[test]
fn a_call_leaves_the_counts_of_an_address_that_another_transaction_creates() {
    for (what, begin, end) in CREATIONS {
        let mut db = database();
        prepare(&mut db);
        insert(&mut db, "known", "1.1.1.1");
        db.run("CALL enrich.fold_statistics()");
        let mut other = db.another();
        other.run(begin);
        insert(&mut db, "blocked", "8.8.8.8");
        insert(&mut db, "again", "1.1.1.1");
        let said = fold(&db);
        assert!(said.contains("skipped pending counts of 1 addresses"), "{what}: {said}");
        assert_eq!(count(&mut db, "1.1.1.1"), "2", "{what}");
        assert_eq!(pending(&mut db), ["8.8.8.8|1"], "{what}");
        other.run(end);
        assert_eq!(fold(&db), "", "{what}");
        assert_counts_are_exact(&mut db, TABLES);
    }
}

#[test]
fn a_call_leaves_the_counts_of_a_new_address_whose_network_another_transaction_creates() {
    for end in ["COMMIT", "ROLLBACK"] {
        let mut db = database();
        prepare(&mut db);
        let mut other = db.another();
        other.run("BEGIN; SELECT enrich.ensure_asn_inventory(15169)");
        insert(&mut db, "blocked", "8.8.8.8");
        insert(&mut db, "free", "1.1.1.1");
        let said = fold(&db);
        assert!(said.contains("skipped pending counts of 1 addresses"), "{said}");
        assert_eq!(count(&mut db, "1.1.1.1"), "1");
        assert_eq!(pending(&mut db), ["8.8.8.8|1"]);
        other.run(end);
        assert_eq!(fold(&db), "");
        assert_counts_are_exact(&mut db, TABLES);
    }
}

/// The foreign key of a new address needs a lock on its network's row, which conflicts with FOR UPDATE.
#[test]
fn a_call_leaves_the_counts_of_a_new_address_whose_network_is_locked() {
    let mut db = database();
    prepare(&mut db);
    db.run("SELECT enrich.ensure_asn_inventory(15169)");
    let mut other = db.another();
    other.run("BEGIN; SELECT FROM enrich.asn_inventory WHERE asn_number = 15169 FOR UPDATE");
    insert(&mut db, "blocked", "8.8.8.8");
    insert(&mut db, "free", "1.1.1.1");
    let said = fold(&db);
    assert!(said.contains("skipped pending counts of 1 addresses"), "{said}");
    assert_eq!(count(&mut db, "1.1.1.1"), "1");
    assert_eq!(pending(&mut db), ["8.8.8.8|1"]);
    other.run("ROLLBACK");
    assert_eq!(fold(&db), "");
    assert_counts_are_exact(&mut db, TABLES);
}

#[test]
fn a_call_leaves_locked_addresses_and_networks_and_folds_the_others() {
    let mut db = database();
    prepare(&mut db);
    for (n, address) in ["8.8.8.8", "8.8.8.9", "1.1.1.1"].into_iter().enumerate() {
        insert(&mut db, &format!("first{n}"), address);
    }
    db.run("CALL enrich.fold_statistics()");
    let mut other = db.another();
    other.run(
        "BEGIN; SELECT FROM enrich.ip_inventory WHERE ip_address = '1.1.1.1' FOR UPDATE;
         SELECT FROM enrich.asn_inventory WHERE asn_number = 15169 FOR UPDATE",
    );
    for (n, address) in ["8.8.8.8", "8.8.8.9", "1.1.1.1"].into_iter().enumerate() {
        insert(&mut db, &format!("second{n}"), address);
    }
    let said = fold(&db);
    assert!(said.contains("skipped pending counts of 1 addresses and 1 networks"), "{said}");
    assert_eq!([count(&mut db, "8.8.8.8"), count(&mut db, "8.8.8.9")], ["2", "2"]);
    assert_eq!(pending(&mut db), ["1.1.1.1|1"]);
    let sessions = "SELECT total_session_count FROM enrich.asn_inventory WHERE asn_number = 15169";
    assert_eq!(db.one(sessions), "2", "its row is locked");
    other.run("ROLLBACK");
    assert_eq!(fold(&db), "");
    assert_eq!(db.one(sessions), "4");
    assert_counts_are_exact(&mut db, TABLES);
}

/// A recount and a backfill include a fold.
#[test]
fn a_recount_beside_an_open_transaction_ends_and_is_exact() {
    let mut db = database();
    prepare(&mut db);
    let mut other = db.another();
    other.run("BEGIN; SELECT 1 FROM enrich.enrich_ip('8.8.8.8')");
    insert(&mut db, "blocked", "8.8.8.8");
    insert(&mut db, "free", "1.1.1.1");
    db.run("INSERT INTO enrich.session_delta VALUES ('1.1.1.1', 7), ('8.8.8.8', 7)");
    db.run(NO_END);
    db.run("CALL enrich.refresh_session_counts()");
    assert_eq!(count(&mut db, "1.1.1.1"), "1");
    other.run("ROLLBACK");
    assert_counts_are_exact(&mut db, TABLES);
}

/// There are more blocked counts than fit into a batch. The counts that can be folded come after them.
#[test]
fn counts_behind_more_blocked_ones_than_a_batch_takes_are_folded() {
    let mut db = database();
    prepare(&mut db);
    insert(&mut db, "known", "1.1.1.1");
    db.run("CALL enrich.fold_statistics()");
    let mut other = db.another();
    other.run("BEGIN");
    other.run(&format!("SELECT count(*) FROM enrich.enrich_ips({})", many(20_500)));
    insert_many(&mut db, 20_500);
    insert(&mut db, "again", "1.1.1.1");
    let said = fold(&db);
    assert!(said.contains("skipped pending counts of 20500 addresses"), "{said}");
    assert_eq!(count(&mut db, "1.1.1.1"), "2");
    other.run("ROLLBACK");
    assert_eq!(fold(&db), "");
    assert_counts_are_exact(&mut db, TABLES);
}

fn many(number: u32) -> String {
    format!("ARRAY(SELECT '60.0.0.0'::inet + n FROM generate_series(1, {number}) n)")
}

fn insert_many(db: &mut Session, number: u32) {
    db.run(&format!(
        "INSERT INTO sessions (id, starttime, ip)
         SELECT 'many' || n, now(), host('60.0.0.0'::inet + n) FROM generate_series(1, {number}) n"
    ));
}

/// The count above zero is in a later batch than the one below zero.
#[test]
fn an_address_without_a_row_whose_counts_come_to_nothing_is_not_created() {
    let mut db = database();
    prepare(&mut db);
    insert(&mut db, "known", "1.1.1.1");
    db.run("CALL enrich.fold_statistics()");
    db.run(
        "INSERT INTO enrich.session_delta VALUES ('8.8.8.8', -1);
         INSERT INTO enrich.session_delta SELECT '1.1.1.1', (-1) ^ n FROM generate_series(1, 20500) n;
         INSERT INTO enrich.session_delta VALUES ('8.8.8.8', 1)",
    );
    assert_eq!(fold(&db), "");
    assert_eq!(pending(&mut db), [""; 0]);
    assert_eq!(count(&mut db, "8.8.8.8"), "");
    assert_counts_are_exact(&mut db, TABLES);
}

/// A trigger of the owner keeps the row out, as another transaction does that creates the row just before the fold. The counts
/// are pending again with their sum and their times, and a later fold adds them.
#[test]
fn the_counts_of_a_row_that_a_fold_could_not_create_stay_pending() {
    let mut db = database();
    prepare(&mut db);
    db.run(
        "CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER keep_out BEFORE INSERT ON enrich.ip_inventory FOR EACH ROW
         WHEN (NEW.ip_address = '8.8.8.8') EXECUTE FUNCTION keep_out()",
    );
    for (key, time) in [("first", "2024-05-01 12:00"), ("second", "2024-05-03 12:00")] {
        db.run(&format!("INSERT INTO sessions (id, starttime, ip) VALUES ('{key}', '{time}', '8.8.8.8')"));
    }
    insert(&mut db, "free", "1.1.1.1");
    let said = fold(&db);
    assert!(said.contains("skipped pending counts of 2 addresses"), "{said}");
    assert_eq!(
        db.rows("SELECT ip_address, sessions, last_seen - first_seen FROM enrich.session_delta"),
        ["8.8.8.8|2|2 days"]
    );
    assert_eq!(count(&mut db, "1.1.1.1"), "1");
    db.run("DROP TRIGGER keep_out ON enrich.ip_inventory");
    assert_eq!(fold(&db), "");
    assert_eq!(pending(&mut db), [""; 0]);
    assert_eq!(db.one("SELECT session_count, last_seen - first_seen FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8'"), "2|2 days");
    assert_counts_are_exact(&mut db, TABLES);
}

#[test]
fn a_call_behind_another_fold_ends_by_its_own_lock_timeout() {
    let mut db = database();
    prepare(&mut db);
    insert(&mut db, "a", "1.1.1.1");
    let mut other = db.another();
    other.run("BEGIN; CALL enrich.fold_statistics()");
    db.run("SET lock_timeout = '50ms'");
    let refusal = db.refused("CALL enrich.fold_statistics()");
    assert_eq!(refusal.code, "55P03", "{refusal:?}");
    other.run("COMMIT");
    db.run("CALL enrich.fold_statistics()");
    assert_counts_are_exact(&mut db, TABLES);
}

/// Only the naptime wakes the worker, because no session is stored after the lock is released.
#[test]
fn the_worker_folds_again_what_a_locked_row_kept_it_from_folding() {
    let mut db = database_with_folded("8.8.8.8");
    let mut other = db.another();
    other.run("BEGIN; SELECT FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8' FOR UPDATE");
    insert(&mut db, "b", "8.8.8.8");
    insert(&mut db, "c", "1.1.1.1");
    wait_for_count(&mut db, "1.1.1.1", 1);
    assert_eq!(pending(&mut db), ["8.8.8.8|1"]);
    other.run("ROLLBACK");
    wait_for_count(&mut db, "8.8.8.8", 2);
    assert_counts_are_exact(&mut db, TABLES);
}

#[test]
fn the_worker_folds_again_what_a_locked_table_kept_it_from_folding() {
    for table in ["ip_inventory", "asn_inventory", "network_delta"] {
        let mut db = database_with_folded("8.8.8.8");
        let errors = "SELECT errors FROM enrich.worker_status() WHERE role = 'worker' AND database = current_database()";
        let before = db.number(errors);
        let mut other = db.another();
        other.run(&format!("BEGIN; LOCK TABLE enrich.{table} IN ACCESS EXCLUSIVE MODE"));
        // Inserts the count directly, because the commit of a session would wait for the lock.
        db.run("INSERT INTO enrich.session_delta (ip_address, sessions) VALUES ('8.8.8.8', 1)");
        wait_until("a step has failed", || db.number(errors), |errors| *errors > before);
        other.run("ROLLBACK");
        wait_for_count(&mut db, "8.8.8.8", 2);
        db.run("INSERT INTO enrich.session_delta (ip_address, sessions) VALUES ('8.8.8.8', -1)");
        // The worker also finds counts that no session announced.
        wait_for_count(&mut db, "8.8.8.8", 1);
        assert_counts_are_exact(&mut db, TABLES);
    }
}

#[test]
fn beside_a_transaction_with_ten_thousand_new_addresses_the_worker_folds_all_other_counts() {
    for end in ["COMMIT", "ROLLBACK"] {
        let mut db = database_with_folded("1.1.1.1");
        let mut other = db.another();
        other.run("BEGIN");
        other.run(&format!("SELECT count(*) FROM enrich.enrich_ips({})", many(10_000)));
        insert_many(&mut db, 10_000);
        for n in 0..20 {
            insert(&mut db, &format!("again{n}"), "1.1.1.1");
            insert(&mut db, &format!("new{n}"), &format!("23.7.0.{n}"));
        }
        let all = "SELECT sum(session_count) FROM enrich.ip_inventory";
        wait_until("all others are folded", || db.one(all), |sum| sum == "41");
        assert_eq!(db.one("SELECT count(*), sum(sessions) FROM enrich.session_delta"), "10000|10000");
        other.run(end);
        wait_until("all is folded", || db.one(all), |sum| sum == "10041");
        assert_counts_are_exact(&mut db, TABLES);
    }
}

/// A prepared transaction survives its connection, and a restart too.
#[test]
fn a_prepared_transaction_holds_up_its_own_address_alone() {
    let mut db = database_with_folded("1.1.1.1");
    db.another().run(CREATIONS[3].1);
    insert(&mut db, "blocked", "8.8.8.8");
    insert(&mut db, "again", "1.1.1.1");
    wait_for_count(&mut db, "1.1.1.1", 2);
    assert_eq!(pending(&mut db), ["8.8.8.8|1"]);
    db.run("ROLLBACK PREPARED 'stuck'");
    wait_for_count(&mut db, "8.8.8.8", 1);
    assert_counts_are_exact(&mut db, TABLES);
}

#[test]
fn the_age_of_the_oldest_pending_count_is_measured() {
    let mut db = database();
    prepare(&mut db);
    let age = "SELECT value FROM enrich.enrich_metrics()
               WHERE name = 'enrich_pending_counts_oldest_age_seconds' AND labels ->> 'database' = current_database()";
    assert_eq!(db.one(age), "0");
    insert(&mut db, "a", "8.8.8.8");
    assert_eq!(
        db.rows("SELECT DISTINCT counted_at BETWEEN now() - interval '1 minute' AND now() FROM enrich.network_delta"),
        ["t"]
    );
    insert(&mut db, "b", "8.8.8.8");
    assert_eq!(
        db.one("SELECT counted_at BETWEEN now() - interval '1 minute' AND now() FROM enrich.session_delta"),
        "t"
    );
    db.run("UPDATE enrich.session_delta SET counted_at = now() - interval '1 hour'");
    let seconds: f64 = db.one(age).parse().expect("a number");
    assert!((3600.0..7200.0).contains(&seconds), "{seconds}");
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(db.one(age), "0");
}
