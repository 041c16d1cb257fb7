//! Foreign keys of session tables. They are added without locking writers out, orphans are reported, and then the keys
//! are validated.

use std::sync::atomic::{AtomicBool, Ordering};

use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::crowd_address;
use server_tests::{Session, database, wait_until};

const ADD: &str = "CALL enrich.add_session_foreign_key('session_summaries')";

/// Returns each table with a foreign key, and if the key is validated.
fn keys(db: &mut Session) -> Vec<String> {
    db.rows(
        "SELECT conrelid::regclass, convalidated FROM pg_constraint
         WHERE conname = 'cowrie_enrich_address' ORDER BY conrelid::regclass::text",
    )
}

#[test]
fn a_table_attached_with_a_foreign_key_has_it_validated_by_the_backfill() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8")), ("b", Some("48.0.0.1")), ("c", None)]));
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    assert_eq!(keys(&mut db), ["session_summaries|f"]);
    db.run("CALL enrich.backfill_sessions('session_summaries')");
    assert_eq!(keys(&mut db), ["session_summaries|t"]);
    // The key is enforced.
    let refusal = db.refused("DELETE FROM enrich.ip_inventory");
    assert_eq!(refusal.code, "23503");
}

#[test]
fn orphans_are_reported_and_listed_and_the_key_stays_not_valid() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run(&SUMMARIES.insert(&[
        ("a", Some("8.8.8.8")),
        ("b", Some("8.8.8.9/24")),
        ("c", Some("::ffff:8.8.8.8")),
    ]));
    SUMMARIES.attach(&mut db);
    db.run(ADD);
    assert_eq!(keys(&mut db), ["session_summaries|f"]);
    let state = "SELECT result FROM enrich.procedure_call WHERE procedure = 'add_session_foreign_key'";
    assert_eq!(db.one(state), "{\"orphans\": 3, \"validated\": 0}");
    assert_eq!(
        db.rows("SELECT procedure, row_key, content FROM enrich.rejected_row ORDER BY 2"),
        [
            "add_session_foreign_key|a|8.8.8.8",
            "add_session_foreign_key|b|8.8.8.9/24",
            "add_session_foreign_key|c|::ffff:8.8.8.8",
        ]
    );
    // The key is checked for new sessions already, and their addresses are spelled as in the inventory.
    db.run(&SUMMARIES.insert(&[("d", Some("::ffff:1.1.1.1"))]));
    assert_eq!(db.one("SELECT source_ip FROM session_summaries WHERE session_id = 'd'"), "1.1.1.1");
    // The backfill does not rewrite addresses that are spelled in another way than in the inventory.
    db.run("CALL enrich.backfill_sessions('session_summaries')");
    assert_eq!(
        db.number(
            "SELECT result ->> 'orphans' FROM enrich.procedure_call WHERE procedure = 'backfill_sessions'"
        ),
        2
    );
    assert_eq!(keys(&mut db), ["session_summaries|f"]);
    db.run("UPDATE session_summaries SET source_ip = enrich.canonical_address(source_ip)");
    db.run(ADD);
    assert_eq!(db.one(state), "{\"orphans\": 0, \"validated\": 1}");
    assert_eq!(keys(&mut db), ["session_summaries|t"]);
    db.run(ADD);
    assert_eq!(db.one(state), "{\"orphans\": 0, \"validated\": 1}");
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
    db.run("SELECT enrich.detach_session_table('session_summaries')");
    assert_eq!(keys(&mut db), Vec::<String>::new());
}

#[test]
fn partitions_have_theirs_validated_first_and_then_the_table_has_its_own() {
    let mut db = database();
    db.run(
        "CREATE TABLE p (id bigint, source_ip inet) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
         CREATE TABLE p2a PARTITION OF p2 FOR VALUES FROM (100) TO (200);
         INSERT INTO p SELECT n, '8.8.8.8' FROM generate_series(90, 109) n;
         SELECT enrich.attach_session_table('p')",
    );
    db.run("CALL enrich.add_session_foreign_key('p')");
    assert_eq!(keys(&mut db), ["p1|f", "p2a|f"]);
    db.run("CALL enrich.backfill_sessions('p'); ");
    assert_eq!(keys(&mut db), ["p1|t", "p2a|t"]);
    db.run("CALL enrich.add_session_foreign_key('p')");
    assert_eq!(keys(&mut db), ["p|t", "p1|t", "p2|t", "p2a|t"]);
    // Later partitions get the key, too.
    db.run("CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (200) TO (300)");
    db.run("INSERT INTO p VALUES (201, '::ffff:1.1.1.1')");
    assert_eq!(db.one("SELECT source_ip, snapshot_asn FROM p3"), "1.1.1.1|13335");
    assert_eq!(db.refused("DELETE FROM enrich.ip_inventory WHERE ip_address = '1.1.1.1'").code, "23503");
    assert_counts_are_exact(&mut db, &[("p", "source_ip")]);
    db.run("SELECT enrich.detach_session_table('p')");
    assert_eq!(keys(&mut db), Vec::<String>::new());
}

#[test]
fn what_cannot_have_one_is_refused() {
    let mut db = database();
    COWRIE.create(&mut db);
    let code = |db: &mut Session, sql: &str| db.refused(sql).code;
    assert_eq!(code(&mut db, "CALL enrich.add_session_foreign_key('sessions')"), "55000");
    COWRIE.attach(&mut db);
    assert_eq!(code(&mut db, "CALL enrich.add_session_foreign_key('sessions')"), "42804");
    assert_eq!(code(&mut db, "CALL enrich.add_session_foreign_key(NULL)"), "22004");
    assert_eq!(code(&mut db, "BEGIN; CALL enrich.add_session_foreign_key('sessions')"), "25001");
}

/// Ends a writer's loop, also if the test fails.
struct Ended(AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

struct Until<'a>(&'a Ended);

/// The server would cancel a writer's statement after a second. None may be cancelled.
#[test]
fn no_writer_waits_for_it_even_behind_a_long_transaction() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    let mut random = Random::seeded(3);
    let lines: String = (0..30_000)
        .map(|n| format!("old{n}\t2024-04-01\t{}\n", crowd_address(&mut random, 20_000)))
        .collect();
    db.copy("session_summaries (session_id, first_event_at, source_ip)", &lines);
    SUMMARIES.attach(&mut db);
    let mut long = db.another();
    // Conflicts with the lock that the foreign key needs, but not with other writers.
    long.run(&format!("BEGIN; {}", SUMMARIES.insert(&[("long", Some("8.8.8.8"))])));
    let ended = Ended(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let until = Until(&ended);
        // The closure owns the connection `long`, so its locks are released when the closure ends.
        let mut long = long;
        let mut writer = db.another();
        let is_over = &ended.0;
        let writing = scope.spawn(move || {
            let mut random = Random::seeded(4);
            writer.run("SET statement_timeout = '1s'");
            let mut written = 0;
            while !is_over.load(Ordering::Relaxed) {
                let (key, address) = (format!("w{written}"), crowd_address(&mut random, 60_000));
                writer.run(&SUMMARIES.insert(&[(&key, Some(&address))]));
                written += 1;
            }
            written
        });
        let mut caller = db.another();
        let pid = caller.backend_pid();
        let calling = scope.spawn(move || {
            caller.try_run(ADD)?;
            caller.try_run("CALL enrich.backfill_sessions('session_summaries')")
        });
        let mut watcher = db.another();
        let mut tries = std::collections::BTreeSet::new();
        wait_until(
            "it has tried some times to get its lock",
            || {
                tries.extend(watcher.rows(&format!(
                    "SELECT waitstart FROM pg_locks WHERE pid = {pid} AND NOT granted AND waitstart IS NOT NULL"
                )));
                (tries.len(), calling.is_finished() || writing.is_finished())
            },
            |(tries, finished)| *finished || *tries >= 3,
        );
        assert!(!calling.is_finished(), "it did not wait for the long transaction");
        long.run("COMMIT");
        let called = calling.join().expect("the calls end");
        drop(until);
        let written = writing.join().expect("no statement of the writer is cancelled");
        eprintln!("{written} sessions were inserted meanwhile");
        called.expect("both calls succeed");
    });
    assert_eq!(keys(&mut db), ["session_summaries|t"]);
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

/// An operator may lock the table, with the rights of docs/security.md.
#[test]
fn a_lock_on_known_networks_does_not_keep_sessions_with_a_foreign_key() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    let errors = db.number("SELECT errors FROM enrich.enrich_stats()");
    std::thread::scope(|scope| {
        // `operator` is created inside the scope, so that a failure of the test releases the lock.
        let mut operator = db.another();
        operator.run("BEGIN; LOCK TABLE enrich.known_networks IN ACCESS EXCLUSIVE MODE");
        let mut honeypot = db.another();
        let inserting = scope.spawn(move || honeypot.try_run(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))])));
        wait_until("the session is stored", || inserting.is_finished(), |is_stored| *is_stored);
        inserting.join().expect("no panic").expect("the insert succeeds");
        operator.run("ROLLBACK");
    });
    assert_eq!(
        db.rows("SELECT source_ip, snapshot_asn FROM session_summaries"),
        ["8.8.8.8|15169"],
        "the snapshot is complete"
    );
    assert_eq!(db.rows("SELECT current_asn FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8'"), ["NULL"]);
    // The counter belongs to the server, and other tests increase it, too.
    assert!(db.number("SELECT errors FROM enrich.enrich_stats()") > errors);
    // The fold creates the network.
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(
        db.rows("SELECT current_asn FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8'"),
        ["15169"]
    );
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
    db.run(&SUMMARIES.insert(&[("b", Some("8.8.8.8"))]));
    db.run("CALL enrich.fold_statistics()");
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

/// With `SET CONSTRAINTS ALL IMMEDIATE`, the key is checked before the session is counted.
#[test]
fn immediate_constraints_keep_no_session_of_a_new_address() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    for (n, statements) in [
        "SET CONSTRAINTS ALL IMMEDIATE; {0}; {1}",
        "{0}; SET CONSTRAINTS ALL IMMEDIATE; {1}",
        "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT a; {0}; ROLLBACK TO a; {1}; {0}",
        "SET CONSTRAINTS ALL IMMEDIATE; {0}; DELETE FROM session_summaries; {1}; SET CONSTRAINTS ALL DEFERRED; {2}",
    ]
    .into_iter()
    .enumerate()
    {
        let insert = |m: usize| {
            SUMMARIES.insert(&[
                (&format!("a{n}{m}"), Some(&format!("89.160.{n}.{m}"))),
                (&format!("b{n}{m}"), Some(&format!("89.160.{n}.{m}"))),
            ])
        };
        let statements =
            (0..3).fold(statements.to_owned(), |all, m| all.replace(&format!("{{{m}}}"), &insert(m)));
        db.run(&format!("BEGIN; {statements}; COMMIT"));
        db.run("CALL enrich.fold_statistics()");
        assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
    }
    assert!(db.number("SELECT count(*) FROM session_summaries") > 0);
}

/// A transaction that creates a network and does not commit does not block other addresses of that network.
#[test]
fn an_open_transaction_with_the_same_network_does_not_keep_sessions_with_a_foreign_key() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    std::thread::scope(|scope| {
        let mut open = db.another();
        open.run("BEGIN; SELECT enrich.enrich_ip('8.8.8.8')");
        let mut honeypot = db.another();
        let inserting = scope.spawn(move || honeypot.try_run(&SUMMARIES.insert(&[("a", Some("8.8.8.9"))])));
        wait_until("the session is stored", || inserting.is_finished(), |is_stored| *is_stored);
        inserting.join().expect("no panic").expect("the insert succeeds");
        open.run("COMMIT");
    });
    db.run(&SUMMARIES.insert(&[("b", Some("8.8.8.9"))]));
    db.run("CALL enrich.fold_statistics()");
    assert_eq!(
        db.rows("SELECT current_asn FROM enrich.ip_inventory WHERE ip_address = '8.8.8.9'"),
        ["15169"]
    );
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

/// PostgreSQL does not apply statement_timeout during the commit.
#[test]
fn a_commit_that_waits_for_its_address_is_ended_by_lock_timeout_and_not_by_statement_timeout() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    let mut other = db.another();
    other.run("BEGIN; SELECT enrich.enrich_ip('8.8.8.8')");
    db.run("SET statement_timeout = '300ms'; SET lock_timeout = '1s'");
    let refusal = db.refused(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))]));
    assert_eq!(refusal.code, "23503", "{refusal:?}");
    other.run("COMMIT");
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))]));
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}
