//! Measures how much hostile table owners delay an honest one. Forty owners have code that sleeps and catches its
//! cancellation. Two owners have code that notices no interrupt. One owner has two hundred slow tables.
//!
//! `ISOLATION_SECONDS` sets the duration, 600 by default.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use server_tests::cymru::{Lab, member};
use server_tests::hostile::{LOOPS, attach, constrain, create_check};
use server_tests::{Database, Options, Session};

use crate::report::{Aim, Report};

const LOOPING: usize = 40;
const STUCK: usize = 2;
const SLOW_TABLES: usize = 200;
/// Interval between two inserts of sessions into the honest table.
const EVERY: Duration = Duration::from_millis(200);
/// Interval between two runs of `ALTER TABLE` on the honest table.
const ALTER_EVERY: Duration = Duration::from_secs(5);

pub fn measure(report: &mut Report) {
    let seconds = std::env::var("ISOLATION_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    eprintln!(
        "isolation: {LOOPING} looping and {STUCK} stuck owners, {SLOW_TABLES} slow tables, {seconds} s"
    );
    let lab = Lab::start(
        Options::named("bench-isolation")
            .with_worker()
            .conf("cowrie_enrich.worker_naptime = 1s")
            .conf("max_connections = 200"),
    );
    let mut db = lab.database();
    prepare(&mut db);
    let stop = Arc::new(AtomicBool::new(false));
    let threads = [
        spawn(&db, &stop, hostile_sessions),
        spawn(&db, &stop, alter_tables),
        spawn(&db, &stop, |session, n| time_insert(session, "bare", n)),
        spawn(&db, &stop, |session, n| time_insert(session, "honest.timed", n)),
    ];
    let began = Instant::now();
    let mut completed = Vec::new();
    let mut counted = Vec::new();
    let mut open: Vec<(usize, Instant, bool, bool)> = Vec::new();
    let mut next = 0;
    let mut last_said = began;
    while began.elapsed() < Duration::from_secs(seconds) || !open.is_empty() {
        let is_over = began.elapsed() >= Duration::from_secs(seconds);
        if is_over && began.elapsed() > Duration::from_secs(seconds + 60) {
            break;
        }
        if !is_over {
            // An address gets a second session, because only the second session is counted by a fold.
            let (new, known) = (address(next), address(next.saturating_sub(1)));
            db.run(&format!(
                "INSERT INTO honest.s (id, ip) VALUES ({next}, '{new}'); INSERT INTO honest.s (id, ip) VALUES (-1, '{known}')"
            ));
            open.push((next, Instant::now(), false, false));
            next += 1;
        }
        let ids: Vec<String> = open.iter().map(|(id, ..)| id.to_string()).collect();
        let done = db.rows(&format!(
            "SELECT s.id, s.snapshot_asn IS NOT NULL, COALESCE(i.session_count > 1, false)
             FROM honest.s s LEFT JOIN enrich.ip_inventory i ON i.ip_address = s.ip
             WHERE s.id = ANY ('{{{}}}')",
            ids.join(",")
        ));
        for row in done {
            let parts: Vec<&str> = row.split('|').collect();
            let id: usize = parts[0].parse().expect("an id");
            let Some(entry) = open.iter_mut().find(|(other, ..)| *other == id) else { continue };
            let took = entry.1.elapsed().as_secs_f64();
            if parts[1] == "t" && !std::mem::replace(&mut entry.2, true) {
                completed.push(took);
            }
            if parts[2] == "t" && !std::mem::replace(&mut entry.3, true) {
                counted.push(took);
            }
        }
        // The last address has only one session, so no fold counts it.
        open.retain(|(id, _, completed, counted)| !(*completed && (*counted || (is_over && id + 1 == next))));
        let is_late =
            open.iter().any(|(_, since, completed, _)| !completed && since.elapsed().as_secs() >= 5);
        if is_late && last_said.elapsed().as_secs() >= 5 {
            last_said = Instant::now();
            eprintln!("  after {:.0} s a session has waited for 5 s:", began.elapsed().as_secs_f64());
            let processes = "SELECT pid, state, now() - started_at, batches, errors FROM enrich.worker_status
                             WHERE role = 'owner process'";
            let honest =
                "SELECT rel, waiting, due, leased, delayed, blocked_reason FROM enrich.completion_status
                          WHERE owner = 'honest'";
            let suspended = "SELECT count(*) FROM enrich.suspended_owner";
            let pending = "SELECT count(DISTINCT owner) FROM enrich.completion_status WHERE due > 0";
            for query in [processes, honest, suspended, pending] {
                db.rows(query).iter().for_each(|row| eprintln!("    {row}"));
            }
        }
        std::thread::sleep(EVERY);
    }
    stop.store(true, Ordering::Relaxed);
    let [_, altered, bare, attached] = threads.map(|thread| thread.join().expect("the thread ends"));
    let lost = open.len();
    let state = db.rows("SELECT owner, reason FROM enrich.suspended_owner ORDER BY 1");
    eprintln!("  suspended: {}", state.len());
    eprintln!("  abandoned now: {}", db.one("SELECT enrich.abandoned_processes()"));
    let number = format!("{} sessions, {lost} never", completed.len());
    let aim = if lost == 0 { Aim::AtMost(5.0) } else { Aim::AtMost(0.0) };
    let p99 = |times: &mut Vec<f64>| percentile(times, 0.99);
    let note = |values: &[f64]| format!("longest {:.1} s", values.iter().copied().fold(0.0, f64::max));
    let (note_completed, note_counted) = (note(&completed), note(&counted));
    report.line(
        "honest sessions completed, p99",
        number.clone(),
        vec![p99(&mut completed)],
        " s",
        aim,
        note_completed,
    );
    report.line(
        "honest sessions counted, p99",
        number,
        vec![p99(&mut counted)],
        " s",
        Aim::AtMost(5.0),
        note_counted,
    );
    let longest = |times: &[f64]| times.iter().copied().fold(0.0, f64::max) * 1e3;
    report.line(
        "longest INSERT, minus the longest without triggers",
        format!("{} and {} inserts", attached.len(), bare.len()),
        vec![longest(&attached) - longest(&bare)],
        " ms",
        Aim::AtMost(400.0),
        format!("bare {:.0} ms, attached {:.0} ms", longest(&bare), longest(&attached)),
    );
    report.line(
        "longest ALTER TABLE on the honest table",
        format!("{} statements", altered.len()),
        vec![longest(&altered)],
        " ms",
        Aim::AtMost(1_000.0),
        String::new(),
    );
}

/// Returns a new address each time, so that each session waits for an answer.
fn address(n: usize) -> std::net::IpAddr {
    member(10_000 + n, 1)
}

fn prepare(db: &mut Database<'_>) {
    let mut role = |name: &str| {
        db.run(&format!("CREATE ROLE {name} LOGIN; CREATE SCHEMA {name} AUTHORIZATION {name}"));
    };
    role("honest");
    role("slow");
    (0..LOOPING).for_each(|n| role(&format!("looping{n}")));
    (0..STUCK).for_each(|n| role(&format!("stuck{n}")));
    db.run("CREATE TABLE bare (id int, ip inet, t timestamptz DEFAULT now())");
    attach(db, "honest", "s");
    attach(db, "honest", "timed");
    for n in 0..LOOPING {
        hostile(db, &format!("looping{n}"), "s", LOOPS);
    }
    let stuck = stuck_code(db);
    for n in 0..STUCK {
        hostile(db, &format!("stuck{n}"), "s", &stuck);
    }
    for n in 0..SLOW_TABLES {
        hostile(db, "slow", &format!("m{n}"), "PERFORM pg_sleep(5);");
    }
}

/// Attaches a table whose constraint runs `body` in the background.
fn hostile(db: &mut Session, role: &str, table: &str, body: &str) {
    attach(db, role, table);
    let check = format!("check_{table}");
    create_check(db, role, &check, body);
    constrain(db, role, table, &check);
}

/// Returns code that notices no interrupt: a call of xpath() if the server has libxml, otherwise a long sum of
/// products.
fn stuck_code(db: &mut Session) -> String {
    let xpath = |elements: usize| {
        format!(
            "(xpath('count(//*[count(//*) > 0])', ('<a>'||repeat('<b/>',{elements})||'</a>')::xml))[1]::text"
        )
    };
    if db.try_rows(&format!("SELECT {}", xpath(10))).is_ok() {
        format!("PERFORM {};", xpath(400_000))
    } else {
        format!("PERFORM {};", vec!["n * n"; 2_000].join(" + "))
    }
}

/// Repeats `work` in a new session until `stop` is set. Returns the measurements of `work`, in seconds.
fn spawn(
    db: &Database<'_>,
    stop: &Arc<AtomicBool>,
    mut work: impl FnMut(&mut Session, usize) -> Vec<f64> + Send + 'static,
) -> std::thread::JoinHandle<Vec<f64>> {
    let (mut session, stop) = (db.another(), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut measured = Vec::new();
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            measured.extend(work(&mut session, n));
        }
        measured
    })
}

/// Stores a session in each hostile table. The address is new each time.
fn hostile_sessions(session: &mut Session, n: usize) -> Vec<f64> {
    let ip = member(100_000 + n % 50_000, 1);
    let looping = (0..LOOPING).map(|owner| format!("looping{owner}.s"));
    let stuck = (0..STUCK).map(|owner| format!("stuck{owner}.s"));
    let slow = (0..SLOW_TABLES).map(|table| format!("slow.m{table}"));
    for table in looping.chain(stuck).chain(slow) {
        session.run(&format!("INSERT INTO {table} (id, ip) VALUES ({n}, '{ip}')"));
    }
    std::thread::sleep(Duration::from_secs(1));
    Vec::new()
}

fn alter_tables(session: &mut Session, n: usize) -> Vec<f64> {
    std::thread::sleep(ALTER_EVERY);
    let (add, drop) = (
        format!("ALTER TABLE honest.s ADD COLUMN extra{n} int"),
        format!("ALTER TABLE honest.s DROP COLUMN extra{n}"),
    );
    [add, drop].iter().map(|statement| timed(session, statement)).collect()
}

/// Measures one insert of a honeypot. The address is new each time.
fn time_insert(session: &mut Session, table: &str, n: usize) -> Vec<f64> {
    std::thread::sleep(Duration::from_millis(20));
    let ip = member(160_000 + n % 80_000, 2);
    vec![timed(session, &format!("INSERT INTO {table} (id, ip) VALUES ({n}, '{ip}')"))]
}

fn timed(session: &mut Session, statement: &str) -> f64 {
    let started = Instant::now();
    session.run(statement);
    started.elapsed().as_secs_f64()
}

fn percentile(times: &mut [f64], part: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let place = (times.len() as f64 * part).ceil() as usize;
    times.get(place.saturating_sub(1)).copied().unwrap_or(f64::INFINITY)
}
