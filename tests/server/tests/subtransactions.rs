//! Subtransactions, ten thousand deep and a hundred thousand in a row: counts stay exact.

use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Session, database};

const DEPTH: usize = 10_000;

fn attached(host: &Host) -> Database<'static> {
    let mut db = database();
    host.create_attached(&mut db);
    db
}

/// Stores sessions with different addresses, each below one more nested savepoint, and ends the transaction with `end`.
fn nested(host: &Host, session: &mut Session, depth: usize, end: &str) {
    session.run("BEGIN");
    for chunk in (0..depth).collect::<Vec<_>>().chunks(500) {
        let statements: Vec<String> = chunk
            .iter()
            .map(|n| {
                let (key, address) = (format!("{n}"), format!("23.{}.{}.1", n % 256, n / 256));
                format!("SAVEPOINT s{n}; {}", host.insert(&[(&key, Some(&address))]))
            })
            .collect();
        session.run(&statements.join(";"));
    }
    session.run(end);
}

#[test]
fn ten_thousand_savepoints_in_each_other_are_counted() {
    for (host, depth, end, left) in [
        (&COWRIE, DEPTH, "ROLLBACK TO s5000; COMMIT", DEPTH / 2),
        (&SUMMARIES, DEPTH, "COMMIT", DEPTH),
        (&COWRIE, 500, "RELEASE s0; COMMIT", 500),
        (&SUMMARIES, 500, "ROLLBACK", 0),
    ] {
        let tables = [(host.table, host.address)];
        {
            let mut db = attached(host);
            nested(host, &mut db, depth, end);
            assert_eq!(db.one(&format!("SELECT count(*) FROM {}", host.table)), left.to_string(), "{end}");
            assert_counts_are_exact(&mut db, &tables);
            assert_eq!(db.one("SELECT count(*) FROM enrich.ip_inventory"), left.to_string(), "{end}");
        }
    }
}

#[test]
fn a_function_that_calls_itself_within_exception_blocks_is_counted() {
    let mut db = attached(&COWRIE);
    db.run(
        "SET max_stack_depth = '7MB';
         CREATE FUNCTION deeper(n int, fails_at int) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO sessions (id, starttime, ip) VALUES (n, '2024-05-01', '23.' || n % 256 || '.' || n / 256 || '.1');
             IF n > 0 THEN
                 BEGIN
                     PERFORM deeper(n - 1, fails_at);
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
             END IF;
             IF n = fails_at THEN RAISE 'this far'; END IF;
         END $$;
         CREATE FUNCTION safely(n int, fails_at int) RETURNS void LANGUAGE plpgsql AS $$
         BEGIN PERFORM deeper(n, fails_at); EXCEPTION WHEN statement_too_complex THEN RAISE; END $$",
    );
    let deep = (1..=12)
        .rev()
        .map(|n| n * 250)
        .find(|depth| db.try_run(&format!("SELECT safely({depth}, {})", depth / 2)).is_ok());
    let deep = deep.expect("some depth fits the stack");
    eprintln!("{deep} levels fit the stack");
    assert!(deep >= 250);
    // The levels below the one that failed were rolled back with it.
    assert_eq!(db.one("SELECT count(*) FROM sessions"), (deep - deep / 2).to_string());
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn a_hundred_thousand_exception_blocks_in_a_row_are_counted() {
    let mut db = attached(&SUMMARIES);
    db.run(
        "DO $$BEGIN FOR n IN 1..100000 LOOP
             BEGIN
                 INSERT INTO session_summaries (session_id, source_ip) VALUES (n, '23.0.0.0'::inet + n % 5000);
                 IF n % 4 = 0 THEN RAISE 'no'; END IF;
             EXCEPTION WHEN raise_exception THEN NULL;
             END;
         END LOOP; END$$",
    );
    assert_eq!(db.one("SELECT count(*) FROM session_summaries"), "75000");
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

/// More addresses than a transaction remembers. Their counts are appended early, in the subtransaction to which they
/// belong.
#[test]
fn counts_that_are_appended_early_go_with_their_subtransaction() {
    let mut db = attached(&COWRIE);
    let load = |first: u32| {
        format!(
            "INSERT INTO sessions (id, starttime, ip)
             SELECT n, '2024-05-01', host('23.0.0.0'::inet + n) FROM generate_series({first}, {}) n",
            first + 59_999
        )
    };
    db.run(&format!("BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; SAVEPOINT t; {}; DELETE FROM sessions WHERE id::int % 2 = 0; COMMIT",
        load(0), load(60_000), load(120_000)));
    assert_eq!(db.one("SELECT count(*) FROM sessions"), "60000");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    db.run(&format!("BEGIN; {}; ROLLBACK", load(200_000)));
    db.run("TRUNCATE sessions");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn a_foreign_key_finds_every_address_of_a_large_load() {
    let mut db = database();
    db.run(
        "CREATE TABLE f (id int PRIMARY KEY, source_ip inet);
         SELECT enrich.attach_session_table('f', add_foreign_key => true);
         INSERT INTO f SELECT n, '23.0.0.0'::inet + n FROM generate_series(1, 60000) n",
    );
    assert_eq!(
        db.one("SELECT count(*) FROM f JOIN enrich.ip_inventory i ON i.ip_address = f.source_ip"),
        "60000"
    );
    assert_counts_are_exact(&mut db, &[("f", "source_ip")]);
}
