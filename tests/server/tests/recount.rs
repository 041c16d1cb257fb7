//! A recount corrects all wrong counts, and is exact even if other transactions run meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::crowd_address;
use server_tests::{Session, database, wait_until};

const BOTH: [&Host; 2] = [&COWRIE, &SUMMARIES];
const RECOUNT: &str = "CALL enrich.refresh_session_counts()";
const REPORT: &str = "SELECT result FROM enrich.procedure_call WHERE procedure = 'refresh_session_counts'";

#[test]
fn wrong_counts_are_put_right() {
    for host in BOTH {
        let mut db = database();
        host.create_attached(&mut db);
        db.run(&host.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.8")), ("c", Some("1.1.1.1"))]));
        db.run("CALL enrich.fold_statistics()");
        db.run(&host.insert(&[("d", Some("89.160.20.1")), ("e", Some("89.160.20.1"))]));
        // Counts, pending counts, and those of networks. Also an address without sessions.
        db.run(
            "UPDATE enrich.ip_inventory SET session_count = 40 WHERE ip_address = '8.8.8.8';
             INSERT INTO enrich.session_delta VALUES ('1.1.1.1', 5), ('45.0.0.1', 3);
             UPDATE enrich.asn_inventory SET unique_ip_count = 9, total_session_count = -1 WHERE asn_number = 15169;
             INSERT INTO enrich.network_delta VALUES (13335, 1, 1)",
        );
        db.run("SELECT enrich.enrich_ip('8.8.8.77'); UPDATE enrich.ip_inventory SET session_count = 2 WHERE ip_address = '8.8.8.77'");
        db.run(RECOUNT);
        assert_eq!(
            db.one(REPORT),
            "{\"sessions\": 5, \"addresses\": 3, \"malformed\": 0, \"networks_corrected\": 2, \"addresses_corrected\": 4}"
        );
        assert_eq!(
            db.rows("SELECT ip_address, session_count FROM enrich.ip_inventory ORDER BY 1"),
            ["1.1.1.1|1", "8.8.8.8|2", "8.8.8.77|0", "45.0.0.1|0", "89.160.20.1|2"]
        );
        assert_eq!(
            db.rows(
                "SELECT asn_number, unique_ip_count, total_session_count FROM enrich.asn_inventory ORDER BY 1"
            ),
            ["13335|1|1", "15169|2|2", "29518|1|2", "4294967295|1|0"]
        );
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
        db.run(RECOUNT);
        assert!(
            db.one(REPORT).contains("\"networks_corrected\": 0, \"addresses_corrected\": 0"),
            "{}",
            db.one(REPORT)
        );
    }
}

#[test]
fn sessions_from_before_the_table_was_attached_are_counted_and_dated() {
    for host in BOTH {
        let mut db = database();
        host.create(&mut db);
        db.run(&host.insert_at("2024-05-03 00:00:00+00", &[("a", Some("8.8.8.8")), ("b", Some("1.1.1.1"))]));
        db.run(&host.insert_at("2024-05-01 00:00:00+00", &[("c", Some("8.8.8.8")), ("d", None)]));
        host.attach(&mut db);
        db.run(&host.insert_at("2024-05-02 00:00:00+00", &[("e", Some("8.8.8.8"))]));
        db.run(RECOUNT);
        assert_eq!(
            db.rows(
                "SELECT ip_address, current_asn, session_count, first_seen AT TIME ZONE 'UTC', last_seen AT TIME ZONE 'UTC'
                 FROM enrich.ip_inventory ORDER BY 1"
            ),
            [
                "1.1.1.1|13335|1|2024-05-03 00:00:00|2024-05-03 00:00:00",
                "8.8.8.8|15169|3|2024-05-01 00:00:00|2024-05-03 00:00:00",
            ]
        );
        assert_eq!(
            db.rows("SELECT asn_number, total_session_count, first_seen AT TIME ZONE 'UTC' FROM enrich.asn_inventory ORDER BY 1"),
            ["13335|1|2024-05-03 00:00:00", "15169|3|2024-05-01 00:00:00"]
        );
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
    }
}

#[test]
fn all_attached_tables_count_and_no_others() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    db.run(
        "CREATE TABLE p (source_ip inet) PARTITION BY LIST (source_ip);
         CREATE TABLE p1 PARTITION OF p DEFAULT;
         SELECT enrich.attach_session_table('p');
         CREATE TABLE gone (source_ip inet);
         SELECT enrich.attach_session_table('gone')",
    );
    db.run(&COWRIE.insert(&[
        ("a", Some("8.8.8.8")),
        ("b", Some("no address")),
        ("c", Some("::ffff:8.8.8.8")),
    ]));
    db.run(&SUMMARIES.insert(&[("a", Some("8.8.8.8"))]));
    db.run("INSERT INTO p VALUES ('8.8.8.8'); INSERT INTO gone VALUES ('8.8.8.8'), ('1.1.1.1')");
    // The sessions of the dropped table stay counted until the next recount.
    db.run("DROP TABLE gone");
    // Rows that a policy hides are still sessions.
    db.run("ALTER TABLE session_summaries ENABLE ROW LEVEL SECURITY; ALTER TABLE session_summaries FORCE ROW LEVEL SECURITY");
    db.run(RECOUNT);
    assert_eq!(
        db.one(REPORT),
        "{\"sessions\": 4, \"addresses\": 1, \"malformed\": 1, \"networks_corrected\": 0, \"addresses_corrected\": 2}"
    );
    assert_eq!(
        db.rows("SELECT ip_address, session_count FROM enrich.ip_inventory ORDER BY 1"),
        ["1.1.1.1|0", "8.8.8.8|4"]
    );
}

/// More addresses than are summed in memory at a time.
#[test]
fn sums_that_do_not_fit_into_memory_are_put_away() {
    let mut db = database();
    db.run(
        "CREATE TABLE s (source_ip inet);
         INSERT INTO s SELECT '23.0.0.0'::inet + (n * 7919) % 120000 FROM generate_series(1, 240000) n;
         SELECT enrich.attach_session_table('s')",
    );
    db.run(RECOUNT);
    assert_eq!(db.one("SELECT result ->> 'addresses' FROM enrich.procedure_call"), "120000");
    assert_counts_are_exact(&mut db, &[("s", "source_ip")]);
}

#[test]
fn a_call_in_a_transaction_block_is_refused() {
    let mut db = database();
    let refusal = db.refused("BEGIN; CALL enrich.refresh_session_counts()");
    assert_eq!(refusal.code, "25001");
    db.run("ROLLBACK");
    // Any isolation level is accepted.
    db.run("SET default_transaction_isolation = 'serializable'");
    db.run(RECOUNT);
}

fn write_on(mut session: Session, host: &Host, writer: u64, ended: &AtomicBool) {
    let mut random = Random::seeded(writer);
    let (table, key, address) = (host.table, host.key, host.address);
    while !ended.load(Ordering::Relaxed) {
        let victim = format!("k{}", random.below(300));
        session.run(&match random.below(40) {
            0..20 => format!(
                "{} ON CONFLICT ({key}) DO UPDATE SET {address} = EXCLUDED.{address}",
                host.insert(&[(&victim, Some(&crowd_address(&mut random, 80)))])
            ),
            20..30 => format!("DELETE FROM {table} WHERE {key} = '{victim}'"),
            30..35 => format!("UPDATE {table} SET {address} = {} WHERE {key} = '{victim}'", host.no_address),
            35 => format!("TRUNCATE {table}"),
            36 => "CALL enrich.fold_statistics()".to_owned(),
            37 => format!(
                "BEGIN; {} ON CONFLICT DO NOTHING; SAVEPOINT s; DELETE FROM {table} WHERE {key} = '{victim}'; ROLLBACK TO s; COMMIT",
                host.insert(&[(&victim, Some(&crowd_address(&mut random, 80)))])
            ),
            _ => format!("SELECT enrich.enrich_ip('{}')", crowd_address(&mut random, 90)),
        });
    }
}

/// Recounts one after the other and two at a time, while writers also empty the table.
#[test]
fn beside_writers_counts_stay_exact() {
    for host in BOTH {
        let mut db = database();
        host.create(&mut db);
        db.run(&host.insert(&[("old1", Some("8.8.8.8")), ("old2", Some("8.8.8.8"))]));
        host.attach(&mut db);
        // Counting this table takes a while, and it is counted last. Sessions that are committed meanwhile must not
        // be included.
        db.run(
            "CREATE TABLE quiet (source_ip inet);
             INSERT INTO quiet SELECT '23.0.0.0'::inet + n % 100 FROM generate_series(1, 60000) n;
             SELECT enrich.attach_session_table('quiet')",
        );
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (session, ended) = (db.another(), &ended);
                scope.spawn(move || write_on(session, host, writer, ended));
            }
            let mut second = db.another();
            let (table, is_over) = (host.table, &ended);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    second.run(&format!("CALL enrich.backfill_sessions('{table}', 100, false)"));
                }
            });
            let mut caller = db.another();
            let called: Result<Vec<()>, _> = (0..15).map(|_| caller.try_run(RECOUNT)).collect();
            ended.store(true, Ordering::Relaxed);
            called.expect("all calls succeed");
        });
        // The last recount may end before the last writer, so the counts of the triggers must be right.
        assert_counts_are_exact(&mut db, &[(host.table, host.address), ("quiet", "source_ip")]);
    }
}

/// Two recounts at the same time would both find the same wrong counts.
#[test]
fn two_recounts_do_not_correct_the_same_twice() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run("INSERT INTO sessions (id, starttime, ip) SELECT n, '2024-05-01', '23.0.0.' || n % 250 FROM generate_series(1, 20000) n");
    COWRIE.attach(&mut db);
    SUMMARIES.create_attached(&mut db);
    let mut holder = db.another();
    holder.run("BEGIN; LOCK TABLE sessions");
    let mut watcher = db.another();
    std::thread::scope(|scope| {
        let calls = [RECOUNT, "CALL enrich.backfill_sessions('session_summaries')"];
        let running = calls.map(|call| {
            let mut caller = db.another();
            scope.spawn(move || caller.run(call))
        });
        wait_until(
            "both wait",
            || watcher.number("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"),
            |waiting| *waiting == 2,
        );
        holder.run("COMMIT");
        running.into_iter().for_each(|call| call.join().expect("the call ends"));
    });
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
}
