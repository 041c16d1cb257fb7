//! Deadlocks are impossible by construction. Tests named interleavings of two sessions, then runs brute force.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use server_tests::database::cluster_with_world;
use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::random::Random;
use server_tests::recount::assert_counts_are_exact;
use server_tests::world::{crowd_address, crowd_member};
use server_tests::{Cluster, Database, Options, Session, database, fresh_database, wait_until};

/// Returns the duration of the brute-force tests. `make race` sets a longer one.
fn race_duration() -> Duration {
    let seconds = std::env::var("COWRIE_ENRICH_RACE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(8);
    Duration::from_secs(seconds)
}

const CLIENTS: u64 = 16;
const ADDRESSES: u64 = 300_000;

fn insert(host: &Host, key: &str, address: &str) -> String {
    host.insert(&[(key, Some(address))])
}

// --- Named interleavings ------------------------------------------------------------------

/// Ends a transaction in a separate thread, because it may have to wait for another one. `meanwhile` runs once the
/// thread waits or is done.
fn end_while(db: &Database<'_>, mut waiting: Session, end: &str, meanwhile: impl FnOnce()) -> Session {
    let pid = waiting.backend_pid();
    let mut watcher = db.another();
    std::thread::scope(|scope| {
        let ending = scope.spawn(move || {
            waiting.run(end);
            waiting
        });
        wait_until(
            "the transaction waits for the other one or has ended",
            || {
                let waits = watcher.rows(&format!(
                    "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
                ));
                (waits, ending.is_finished())
            },
            |(waits, finished)| *finished || waits == &["t"],
        );
        meanwhile();
        ending.join().expect("the transaction ends")
    })
}

#[test]
fn two_sessions_meet_a_new_address_and_the_first_commits_first() {
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = database();
        host.create_attached(&mut db);
        let (mut a, mut b) = (db.another(), db.another());
        a.run(&format!("BEGIN; {}", insert(host, "a", "8.8.8.8")));
        b.run(&format!("BEGIN; {}", insert(host, "b", "8.8.8.8")));
        a.run("COMMIT");
        b.run("COMMIT");
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
        assert_eq!(host.snapshot(&mut db, "b"), "15169|US|NULL");
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_asn_history"), 1);
    }
}

/// With a foreign key, the address is written before the commit. So the first session has an uncommitted row of the
/// address.
#[test]
fn the_second_waits_for_the_first_to_write_the_new_address() {
    for end in ["COMMIT", "ROLLBACK"] {
        let mut db = database();
        SUMMARIES.create(&mut db);
        db.run(
            "SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)",
        );
        let (mut a, mut b) = (db.another(), db.another());
        a.run(&format!("BEGIN; {}; SET CONSTRAINTS ALL IMMEDIATE", insert(&SUMMARIES, "a", "8.8.8.8")));
        b.run(&format!("BEGIN; {}", insert(&SUMMARIES, "b", "8.8.8.8")));
        end_while(&db, b, "COMMIT", || a.run(end));
        assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
        assert_eq!(
            db.rows("SELECT ip_address, current_asn FROM enrich.ip_inventory"),
            ["8.8.8.8|15169"],
            "after the first's {end}"
        );
    }
}

/// Each session holds an uncommitted address that the other needs. If the second pair were locked in the order of the
/// statements, this would be a deadlock.
#[test]
fn two_sessions_with_a_foreign_key_cross() {
    let mut db = database();
    SUMMARIES.create(&mut db);
    db.run("SELECT enrich.attach_session_table('session_summaries', 'source_ip', 'first_event_at', true)");
    let (mut a, mut b) = (db.another(), db.another());
    a.run(&format!("BEGIN; {}", insert(&SUMMARIES, "a1", "8.8.8.8")));
    b.run(&format!("BEGIN; {}", insert(&SUMMARIES, "b1", "1.1.1.1")));
    a.run(&insert(&SUMMARIES, "a2", "1.1.1.1"));
    b.run(&insert(&SUMMARIES, "b2", "8.8.8.8"));
    end_while(&db, b, "COMMIT", || a.run("COMMIT"));
    assert_counts_are_exact(&mut db, &[("session_summaries", "source_ip")]);
}

#[test]
fn two_sessions_meet_two_new_addresses_in_opposite_order() {
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = database();
        host.create_attached(&mut db);
        let (mut a, mut b) = (db.another(), db.another());
        a.run(&format!("BEGIN; {}", insert(host, "a1", "8.8.8.8")));
        b.run(&format!("BEGIN; {}", insert(host, "b1", "1.1.1.1")));
        a.run(&insert(host, "a2", "1.1.1.1"));
        b.run(&insert(host, "b2", "8.8.8.8"));
        let b = end_while(&db, b, "COMMIT", || a.run("COMMIT"));
        drop(b);
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
    }
}

#[test]
fn two_sessions_of_one_new_network_do_not_wait_for_each_other_before_commit() {
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = database();
        host.create_attached(&mut db);
        let (mut a, mut b) = (db.another(), db.another());
        a.run(&format!("BEGIN; {}", insert(host, "a", "8.8.8.8")));
        // If the first insert locked the network's row, this would wait forever.
        b.run("SET lock_timeout = '20s'");
        b.run(&insert(host, "b", "8.8.8.9"));
        assert_eq!(host.snapshot(&mut b, "b"), "15169|US|NULL");
        a.run("COMMIT");
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
    }
}

#[test]
fn a_hot_network_that_exists_is_locked_by_nobody() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&insert(&COWRIE, "seed", "8.8.8.8"));
    db.run("CALL enrich.fold_statistics()");
    let (mut a, mut b) = (db.another(), db.another());
    // Even if all deferred work is done at once, the known address needs no exclusive lock.
    a.run(&format!("BEGIN; {}; SET CONSTRAINTS ALL IMMEDIATE", insert(&COWRIE, "a", "8.8.8.8")));
    b.run("SET lock_timeout = '20s'");
    b.run(&insert(&COWRIE, "b", "8.8.8.8"));
    a.run("COMMIT");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn folding_meets_an_open_transaction() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&insert(&COWRIE, "seed", "8.8.8.8"));
    let mut a = db.another();
    a.run(&format!(
        "BEGIN; {}; {}; SET CONSTRAINTS ALL IMMEDIATE",
        insert(&COWRIE, "a", "8.8.8.8"),
        insert(&COWRIE, "b", "1.1.1.1")
    ));
    db.run("SET lock_timeout = '20s'; CALL enrich.fold_statistics(); RESET lock_timeout");
    assert_eq!(db.one("SELECT session_count FROM enrich.ip_inventory WHERE ip_address = '8.8.8.8'"), "1");
    a.run("COMMIT");
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

#[test]
fn two_callers_enrich_the_same_new_addresses_in_opposite_order() {
    let mut db = database();
    let forwards: Vec<String> = (0..400).map(crowd_member).collect();
    let mut backwards = forwards.clone();
    backwards.reverse();
    let (mut a, mut b) = (db.another(), db.another());
    a.run(&format!("BEGIN; SELECT count(*) FROM enrich.enrich_ips('{{{}}}')", forwards.join(",")));
    let call = format!("SELECT count(*) FROM enrich.enrich_ips('{{{}}}')", backwards.join(","));
    let call: &'static str = call.leak();
    b.run("SET deadlock_timeout = '100ms'");
    let b = end_while(&db, b, call, || a.run("COMMIT"));
    drop(b);
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 400);
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_asn_history"), 400);
    assert_counts_are_exact(&mut db, &[]);
}

/// As docs/reference.md describes for calls in an order that the caller chose.
#[test]
fn of_two_transactions_that_name_networks_in_opposite_order_one_is_ended_and_can_be_repeated() {
    let mut db = database();
    let ensure = |asn: i32| format!("SELECT enrich.ensure_asn_inventory({asn})");
    let (mut a, mut b) = (db.another(), db.another());
    for session in [&mut a, &mut b] {
        session.run("SET deadlock_timeout = '100ms'");
    }
    a.run(&format!("BEGIN; {}", ensure(64500)));
    b.run(&format!("BEGIN; {}", ensure(64501)));
    let ends = std::thread::scope(|scope| {
        let (to_a, to_b) = (ensure(64501), ensure(64500));
        let one =
            scope.spawn(move || (a.try_run(&to_a).map_err(|refusal| refusal.code), a.try_run("COMMIT")).0);
        let two =
            scope.spawn(move || (b.try_run(&to_b).map_err(|refusal| refusal.code), b.try_run("COMMIT")).0);
        [one, two].map(|running| running.join().expect("the transaction ends"))
    });
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1, "{ends:?}");
    assert!(ends.contains(&Err("40P01".to_owned())), "{ends:?}");
    db.run(&format!("BEGIN; {}; {}; COMMIT", ensure(64501), ensure(64500)));
    assert_eq!(db.number("SELECT count(*) FROM enrich.asn_inventory"), 2);
}

#[test]
fn an_enrichment_and_a_session_meet_at_one_new_address() {
    for first_commits in [true, false] {
        let mut db = database();
        COWRIE.create_attached(&mut db);
        let (mut a, mut b) = (db.another(), db.another());
        a.run("BEGIN; SELECT enrich.enrich_ip('8.8.8.8')");
        b.run(&format!("BEGIN; {}", insert(&COWRIE, "b", "8.8.8.8")));
        let end = if first_commits { "COMMIT" } else { "ROLLBACK" };
        end_while(&db, b, "COMMIT", || a.run(end));
        assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
        assert_eq!(db.rows("SELECT current_asn FROM enrich.ip_inventory"), ["15169"]);
    }
}

/// Another transaction creates the address after this transaction took its snapshot. So the row exists, but is
/// invisible.
#[test]
fn a_repeatable_read_transaction_meets_an_address_newer_than_its_snapshot() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for host in [&COWRIE, &SUMMARIES] {
            let mut db = database();
            host.create_attached(&mut db);
            let mut a = db.another();
            a.run(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1 FROM pg_class LIMIT 1"));
            db.run(&insert(host, "b", "8.8.8.8"));
            db.run("CALL enrich.fold_statistics()");
            a.run(&insert(host, "a1", "8.8.8.8"));
            a.run(&insert(host, "a2", "8.8.8.9"));
            a.run("COMMIT");
            assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
            assert_eq!(host.snapshot(&mut db, "a1"), "15169|US|NULL");
        }
    }
}

/// The user's rows do not conflict, so the extension must not make one of these transactions fail.
#[test]
fn serializable_transactions_do_not_conflict_through_the_inventories() {
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = database();
        host.create_attached(&mut db);
        // With this size, the planner uses the index, and page locks cover only a part of it.
        db.run(&format!(
            "SELECT count(*) FROM enrich.enrich_ips('{{{}}}')",
            (0..2_000).map(crowd_member).collect::<Vec<_>>().join(",")
        ));
        for round in 0..10 {
            let (mut a, mut b) = (db.another(), db.another());
            let (x, y) = (format!("8.8.8.{round}"), format!("1.1.1.{round}"));
            a.run(&format!(
                "BEGIN ISOLATION LEVEL SERIALIZABLE; {}",
                insert(host, &format!("a1-{round}"), &x)
            ));
            b.run(&format!(
                "BEGIN ISOLATION LEVEL SERIALIZABLE; {}",
                insert(host, &format!("b1-{round}"), &y)
            ));
            a.run(&insert(host, &format!("a2-{round}"), &y));
            b.run(&insert(host, &format!("b2-{round}"), &x));
            a.run("COMMIT");
            b.run("COMMIT");
        }
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
    }
}

#[test]
fn a_table_is_attached_while_sessions_arrive() {
    let mut db = database();
    COWRIE.create(&mut db);
    let handle = db.handle();
    let stop = AtomicBool::new(false);
    let stored = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut session = handle.session();
            let mut serial = 0;
            while !stop.load(Ordering::SeqCst) {
                serial += 1;
                session.run(&insert(&COWRIE, &format!("k{serial}"), "8.8.8.8"));
                stored.store(serial, Ordering::SeqCst);
            }
        });
        let at_least = |n: u64| {
            wait_until(
                "sessions arrive",
                || (stored.load(Ordering::SeqCst), writer.is_finished()),
                |(stored, finished)| *stored >= n || *finished,
            )
            .0
        };
        for _ in 0..5 {
            at_least(stored.load(Ordering::SeqCst) + 20);
            COWRIE.attach(&mut db);
            at_least(stored.load(Ordering::SeqCst) + 20);
            db.run("SELECT enrich.detach_session_table('sessions')");
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(db.number("SELECT count(*) FROM sessions"), stored.load(Ordering::SeqCst) as i64);
    assert!(db.number("SELECT count(*) FROM sessions WHERE snapshot_asn = 15169") > 0);
}

// --- Brute force ----------------------------------------------------------------------------

/// Returns ten inserts, as one client of the honeypots sends them. Some are below savepoints that are released or
/// rolled back. The transaction is committed or rolled back.
fn ten_inserts(host: &Host, random: &mut Random, client: u64, serial: &mut u64) -> Vec<String> {
    let mut statements = vec!["BEGIN".to_owned()];
    let mut open = false;
    for _ in 0..10 {
        if random.one_in(5) {
            if open {
                statements.push(
                    if random.one_in(2) { "ROLLBACK TO SAVEPOINT s" } else { "RELEASE SAVEPOINT s" }
                        .to_owned(),
                );
                open = statements.last().is_some_and(|s| s.starts_with("ROLLBACK"));
            } else {
                statements.push("SAVEPOINT s".to_owned());
                open = true;
            }
        }
        *serial += 1;
        statements.push(insert(host, &format!("{client}-{serial}"), &crowd_address(random, ADDRESSES)));
    }
    statements.push(if random.one_in(8) { "ROLLBACK" } else { "COMMIT" }.to_owned());
    statements
}

/// The extension catches its errors in a session's transaction. So a deadlock does not make a client fail, but is
/// counted in the server's statistics and in the extension's errors.
#[track_caller]
fn assert_no_deadlock(db: &mut Session) {
    wait_until(
        "all other sessions have ended and reported",
        || {
            db.number(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND backend_type = 'client backend'",
            )
        },
        |others| *others == 0,
    );
    assert_eq!(
        db.number("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"),
        0,
        "deadlocks"
    );
}

/// Asserts that no deadlock happened, and that caught errors come only from commits that reached the bound of their
/// waits. Their number depends on the machine.
#[track_caller]
fn assert_nothing_went_wrong_quietly(cluster: &Cluster, db: &mut Session) {
    assert_no_deadlock(db);
    let log = cluster.whole_log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("LOG:  cowrie_enrich: ")).collect();
    let others: Vec<_> =
        errors.iter().filter(|line| !line.contains("canceling statement due to lock timeout")).collect();
    assert!(others.is_empty(), "{others:?}");
}

struct Race<'a> {
    host: &'a Host,
    until: Instant,
    transactions: AtomicU64,
}

impl Race<'_> {
    fn client(&self, mut session: Session, client: u64) {
        let mut random = Random::seeded(client + 1);
        let mut serial = 0;
        while Instant::now() < self.until {
            let statements = ten_inserts(self.host, &mut random, client, &mut serial);
            // Half of the clients send one statement after the other, like a program. The others send all statements
            // at once, like a script.
            if client.is_multiple_of(2) {
                for statement in &statements {
                    session.run(statement);
                }
            } else {
                session.run(&statements.join(";\n"));
            }
            self.transactions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn sixteen_clients_insert_skewed_addresses_without_deadlock() {
    let options =
        Options::named("concurrency-race").conf("log_lock_waits = on").conf("deadlock_timeout = 200ms");
    let cluster = cluster_with_world(&options);
    for (host, share) in [(&COWRIE, 2), (&SUMMARIES, 2)] {
        let mut db = fresh_database(&cluster);
        host.create_attached(&mut db);
        let race =
            Race { host, until: Instant::now() + race_duration() / share, transactions: AtomicU64::new(0) };
        let handle = db.handle();
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (race, handle) = (&race, &handle);
                scope.spawn(move || race.client(handle.session(), client));
            }
        });
        let transactions = race.transactions.load(Ordering::Relaxed);
        eprintln!("{}: {transactions} transactions of ten", host.table);
        assert!(transactions > CLIENTS, "hardly anything ran");
        assert_nothing_went_wrong_quietly(&cluster, &mut db);
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
    }
}

/// The worst case for the order of locks: all clients meet the same new addresses at the same time, each in another
/// order.
#[test]
fn clients_that_meet_the_same_new_addresses_at_once_do_not_deadlock() {
    const EACH: u64 = 60;
    let cluster = cluster_with_world(&Options::named("concurrency-same").conf("deadlock_timeout = 100ms"));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let handle = db.handle();
    let start = Barrier::new(8);
    let refusals = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for client in 0..8u64 {
            let (handle, start, refusals) = (&handle, &start, &refusals);
            scope.spawn(move || {
                let mut session = handle.session();
                let mut random = Random::seeded(client);
                for round in 0..25 {
                    let mut numbers: Vec<u64> = (round * EACH..(round + 1) * EACH).collect();
                    for i in (1..numbers.len()).rev() {
                        numbers.swap(i, random.below(i as u64 + 1) as usize);
                    }
                    let addresses: Vec<String> = numbers.into_iter().map(crowd_member).collect();
                    let script = if client < 5 {
                        let rows: Vec<String> = addresses
                            .iter()
                            .enumerate()
                            .map(|(n, a)| insert(&COWRIE, &format!("{client}-{round}-{n}"), a))
                            .collect();
                        format!("BEGIN; {}; COMMIT", rows.join("; "))
                    } else {
                        format!("SELECT count(*) FROM enrich.enrich_ips('{{{}}}', true)", addresses.join(","))
                    };
                    start.wait();
                    // An error is kept and ends the test later, because the other clients wait for this client in
                    // every round.
                    if let Err(refusal) = session.try_run(&script) {
                        refusals.lock().expect("nobody panics with it").push(refusal);
                    }
                }
            });
        }
    });
    let refusals = refusals.into_inner().expect("nobody panics with it");
    assert!(refusals.is_empty(), "{} refusals, first: {:?}", refusals.len(), refusals[0]);
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_inventory"), 25 * EACH as i64);
    assert_eq!(db.number("SELECT count(*) FROM enrich.ip_asn_history"), 25 * EACH as i64);
    assert_nothing_went_wrong_quietly(&cluster, &mut db);
}

#[test]
fn inserts_enrichment_folding_and_corrections_run_together() {
    let options = Options::named("concurrency-mixed").conf("deadlock_timeout = 200ms");
    let cluster = cluster_with_world(&options);
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    SUMMARIES.create_attached(&mut db);
    let until = Instant::now() + race_duration() / 2;
    let handle = db.handle();
    let cowrie = Race { host: &COWRIE, until, transactions: AtomicU64::new(0) };
    let summaries = Race { host: &SUMMARIES, until, transactions: AtomicU64::new(0) };
    std::thread::scope(|scope| {
        // Makes commits wait up to the limit, even on a fast machine: this transaction creates networks, and ends
        // after one commit has waited that long.
        let mut creator = db.another();
        let addresses: Vec<String> = (0..50).map(|n| crowd_member(n * 5_000)).collect();
        creator.run(&format!("BEGIN; SELECT count(*) FROM enrich.enrich_ips('{{{}}}')", addresses.join(",")));
        let mut watcher = db.another();
        scope.spawn(move || {
            wait_until(
                "a commit has given up waiting",
                || watcher.number("SELECT errors FROM enrich.enrich_stats()"),
                |errors| *errors > 0,
            );
            creator.run("COMMIT");
        });
        for client in 0..8 {
            let (cowrie, summaries, handle) = (&cowrie, &summaries, &handle);
            scope.spawn(move || {
                let race = if client % 2 == 0 { cowrie } else { summaries };
                race.client(handle.session(), client);
            });
        }
        for enricher in 0..2u64 {
            let handle = &handle;
            scope.spawn(move || {
                let mut session = handle.session();
                let mut random = Random::seeded(100 + enricher);
                while Instant::now() < until {
                    let addresses: Vec<String> =
                        (0..50).map(|_| crowd_address(&mut random, ADDRESSES)).collect();
                    session.run(&format!(
                        "SELECT count(*) FROM enrich.enrich_ips('{{{}}}', {})",
                        addresses.join(","),
                        random.one_in(3)
                    ));
                    session.run(&format!(
                        "SELECT enrich.ensure_asn_inventory({}, 'Crowd')",
                        200_000 + random.below(256)
                    ));
                }
            });
        }
        for _ in 0..2 {
            let handle = &handle;
            scope.spawn(move || {
                let mut session = handle.session();
                while Instant::now() < until {
                    session.run("CALL enrich.fold_statistics()");
                }
            });
        }
        for corrector in 0..2u64 {
            let handle = &handle;
            scope.spawn(move || {
                let mut session = handle.session();
                let mut random = Random::seeded(200 + corrector);
                while Instant::now() < until {
                    let key = format!("{}-{}", random.below(8) & !1, random.below(2_000));
                    if random.one_in(4) {
                        session.run(&format!("DELETE FROM sessions WHERE id = '{key}'"));
                    } else {
                        session.run(&format!(
                            "UPDATE sessions SET ip = '{}' WHERE id = '{key}'",
                            crowd_address(&mut random, ADDRESSES)
                        ));
                    }
                }
            });
        }
    });
    assert!(cowrie.transactions.load(Ordering::Relaxed) > 8);
    assert_counts_are_exact(&mut db, &[("sessions", "ip"), ("session_summaries", "source_ip")]);
    assert_nothing_went_wrong_quietly(&cluster, &mut db);
}

/// While the foreign key of a session locks an address, transactions may wait for the old version of its row although
/// a newer version exists. If two callers enrich the address at the same time, the first caller must not go back to
/// the old version.
#[test]
fn two_callers_meet_at_an_address_that_changes_while_a_foreign_key_holds_it() {
    let mut db = database();
    db.run("SELECT enrich.enrich_ips('{8.8.8.8}')");
    let address = "enrich.ip_inventory WHERE ip_address = '8.8.8.8'";
    let (mut reference, mut change) = (db.another(), db.another());
    reference.run(&format!("BEGIN; SELECT FROM {address} FOR KEY SHARE"));
    change.run("BEGIN; UPDATE enrich.ip_inventory SET enrichment = enrichment - '_meta'");
    let mut watcher = db.another();
    std::thread::scope(|scope| {
        for waiting in 1..=2 {
            let mut caller = db.another();
            scope.spawn(move || caller.run("SELECT enrich.enrich_ips('{8.8.8.8}', true)"));
            let waits = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND wait_event_type = 'Lock'";
            wait_until("it waits", || watcher.number(waits), |number| *number == waiting);
        }
        change.run("COMMIT");
    });
    reference.run("COMMIT");
    assert_eq!(db.one(&format!("SELECT enrichment ? '_meta' FROM {address}")), "t");
}
