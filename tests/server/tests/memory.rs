//! The memory of a backend stays flat during large transactions.
//!
//! Each case runs once with `n` rows and once with `2n`, each in a separate connection. The difference between the two
//! peaks is the cost of the rows. Inserts into a table with a plain trigger show what PostgreSQL itself needs: it
//! keeps some bytes for each row whose AFTER trigger has not fired yet.
//!
//! Other events, such as new plans after a table was analyzed, can increase a measurement and never decrease it. So the
//! smallest of several measurements counts.
//!
//! `COWRIE_ENRICH_MEMORY_ROWS` is n. The default is 20,000. Some flat cases need about 200,000 to show that they are
//! flat.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use server_tests::hosts::{COWRIE, Host, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Database, Session, database};

fn rows() -> u64 {
    std::env::var("COWRIE_ENRICH_MEMORY_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000)
}

/// Returns the private memory of a process, in bytes. Shared buffers are not included.
fn own_memory(pid: i64) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Returns the most memory that the connection's process gains while `work` runs.
fn peak(session: &mut Session, work: impl FnOnce(&mut Session)) -> u64 {
    let pid = session.backend_pid();
    let before = own_memory(pid).expect("the process is there");
    let (most, ended) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
    let sampler = {
        let (most, ended) = (Arc::clone(&most), Arc::clone(&ended));
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(own_memory(pid).unwrap_or(0), Ordering::Relaxed);
                // A sampling interval, not a wait for a condition.
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    work(session);
    ended.store(true, Ordering::Relaxed);
    sampler.join().expect("the sampler ends");
    most.load(Ordering::Relaxed) - before
}

/// Returns the bytes that one more row costs. Measures again, at most three times, while the cost is not below `limit`.
/// `{n}` in the statement is the number of rows.
fn cost(what: &str, limit: f64, setup: impl Fn(&mut Session), statement: &str) -> f64 {
    // Runs one measurement at a time, because concurrent measurements would each take longer.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let n = rows();
    let (mut once, mut twice, mut each) = (u64::MAX, u64::MAX, f64::MAX);
    for _ in 0..3 {
        once = once.min(peak_of(n, &setup, statement));
        twice = twice.min(peak_of(2 * n, &setup, statement));
        each = (twice as f64 - once as f64) / n as f64;
        eprintln!(
            "{what}: {n} rows {} kB, twice as many {} kB, {each:.1} bytes a row",
            once / 1024,
            twice / 1024
        );
        if each < limit {
            break;
        }
    }
    each
}

/// Returns the peak of the statement for this number of rows in a new database.
fn peak_of(rows: u64, setup: impl Fn(&mut Session), statement: &str) -> u64 {
    let mut db: Database<'_> = database();
    setup(&mut db);
    let mut session = db.another();
    // Loads and plans everything before the measurement.
    session.run(&format!("BEGIN; {}; ROLLBACK", statement.replace("{n}", "20")));
    peak(&mut session, |session| {
        session.run(&format!("BEGIN; {}; COMMIT", statement.replace("{n}", &rows.to_string())))
    })
}

/// One page or one block of an allocator is not counted as growth.
const NOISE: f64 = 8.0;

#[test]
fn calls_of_enrich_ip_cost_nothing() {
    let ready = |_: &mut Session| {};
    let same = "SELECT count(enrich.enrich_ip('8.8.8.8')) FROM (SELECT generate_series(1, {n})) s(n)";
    let known = "SELECT count(enrich.enrich_ip(('23.' || n % 256 || '.0.1')::inet)) FROM (SELECT generate_series(1, {n})) s(n)";
    let distinct =
        "SELECT count(enrich.enrich_ip('23.0.0.0'::inet + n)) FROM (SELECT generate_series(1, {n})) s(n)";
    let in_a_loop = "DO $$DECLARE i inet; BEGIN FOR n IN 1..{n} LOOP i := (enrich.enrich_ip(('8.8.8.' || n % 200)::inet)).ip_address; END LOOP; END$$";
    let of_new_ones =
        "DO $$BEGIN FOR n IN 1..{n} LOOP PERFORM enrich.enrich_ip('23.0.0.0'::inet + n); END LOOP; END$$";
    let offline = "SELECT count(enrich.maxmind_lookup('23.0.0.0'::inet + n)), count(enrich.ip_city('23.0.0.0'::inet + n)) FROM (SELECT generate_series(1, {n})) s(n)";
    for (what, statement, limit) in [
        ("one address, one statement", same, NOISE),
        ("256 addresses, one statement", known, NOISE),
        ("one address after another in a loop", in_a_loop, NOISE),
        ("offline lookups", offline, NOISE),
        // Until the statement ends, the server remembers the rows whose foreign key it must check.
        ("new addresses, one statement", distinct, 64.0),
        ("new addresses in a loop", of_new_ones, 64.0),
    ] {
        let each = cost(what, limit, ready, statement);
        assert!(each < limit, "{what}: {each:.1} bytes a call");
    }
}

#[test]
fn an_array_costs_itself_a_few_times() {
    let ready = |_: &mut Session| {};
    let same = "SELECT count(*) FROM enrich.enrich_ips(array_fill('8.8.8.8'::inet, ARRAY[{n}]))";
    let distinct = "SELECT count(*) FROM enrich.enrich_ips(ARRAY(SELECT '23.0.0.0'::inet + n FROM generate_series(1, {n}) n))";
    let in_parts = "SELECT count(*) FROM (SELECT generate_series(1, {n} / 100)) s(part),
        LATERAL enrich.enrich_ips(ARRAY(SELECT '23.0.0.0'::inet + part * 100 + n FROM generate_series(1, 100) n))";
    for (what, statement, limit) in [
        // An element takes 16 bytes, and the array is copied.
        ("an array of one address", same, 200.0),
        ("an array of different addresses", distinct, 1_000.0),
        ("arrays of a hundred", in_parts, 64.0),
    ] {
        let each = cost(what, limit, ready, statement);
        assert!(each < limit, "{what}: {each:.1} bytes an element");
    }
}

fn insert(host: &Host, address: &str) -> String {
    format!(
        "INSERT INTO {} ({}, {}, {}) SELECT n, '2024-05-01', {address} FROM (SELECT generate_series(1, {{n}})) s(n)",
        host.table, host.key, host.time, host.address
    )
}

#[test]
fn rows_of_one_statement_cost_what_their_addresses_cost() {
    for host in [&COWRIE, &SUMMARIES] {
        let plain = |db: &mut Session| {
            host.create(db);
            db.run(&format!(
                "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                 CREATE TRIGGER t AFTER INSERT ON {} FOR EACH ROW EXECUTE FUNCTION public.nothing()",
                host.table
            ));
        };
        let text =
            if host.table == "sessions" { "host('23.0.0.0'::inet + n)" } else { "'23.0.0.0'::inet + n" };
        // The limit 0.0 is below every cost, so `cost()` measures three times and returns the smallest value.
        let baseline = cost(&format!("{}, a plain trigger", host.table), 0.0, plain, &insert(host, text));
        let attached = |db: &mut Session| host.create_attached(db);
        let flat = baseline + NOISE;
        let same = cost(&format!("{}, one address", host.table), flat, attached, &insert(host, "'8.8.8.8'"));
        assert!(
            same < flat,
            "{}: {same:.1} bytes a row of one address, {baseline:.1} with a plain trigger",
            host.table
        );
        // The backend caches a limited number of addresses, each with limited data. Below that number, each address
        // costs memory.
        let limit = if rows() < 200_000 { baseline + 1_500.0 } else { flat };
        let distinct =
            cost(&format!("{}, different addresses", host.table), limit, attached, &insert(host, text));
        assert!(
            distinct < limit,
            "{}: {distinct:.1} bytes an address, {baseline:.1} with a plain trigger",
            host.table
        );
    }
}

#[test]
fn what_was_measured_was_counted() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&insert(&COWRIE, "host('23.0.0.0'::inet + n)").replace("{n}", "5000"));
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}
