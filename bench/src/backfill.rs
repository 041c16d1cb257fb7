//! Measures the first day of an installation: creating networks from known addresses, and the backfill of old sessions.
//! Both run over a year of sessions and over half of them. From half a year to a year, the time may double, but the
//! memory may not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use server_tests::database::{Database, fresh_database};
use server_tests::{Cluster, Session};

use crate::addresses::Addresses;
use crate::history::{self, FULL, HALF, Size, TABLE};
use crate::report::{Aim, Report, short};

/// A call by a separate backend.
struct Run {
    seconds: f64,
    /// CPU time that the backend used during the call.
    busy: f64,
    /// Maximum of the backend's private memory, in MiB.
    private: f64,
    /// Maximum resident memory (VmHWM) of the backend, in MiB. Includes the pages of shared buffers that the backend
    /// touched.
    resident: f64,
}

/// Calls a procedure over a separate connection and measures its backend's CPU time and memory in each phase.
fn call(db: &Database<'_>, statement: &str) -> Run {
    let mut session = db.another();
    session.run("SET client_min_messages = warning");
    let status = format!("/proc/{}/status", session.backend_pid());
    let (ended, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let watcher = db.another();
    let seconds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                most.fetch_max(kilobytes(&status, "RssAnon:"), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        scope.spawn(|| watch_phases(watcher, &status, &ended));
        let started = Instant::now();
        session.run(statement);
        let seconds = started.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        seconds
    });
    let most = most.into_inner().max(kilobytes(&status, "RssAnon:"));
    Run {
        seconds,
        busy: processor_seconds(session.backend_pid()),
        private: most as f64 / 1024.0,
        resident: kilobytes(&status, "VmHWM:") as f64 / 1024.0,
    }
}

/// Prints the duration of each phase of a call and its backend's maximum memory, to find the phase that takes too much.
fn watch_phases(mut watcher: Session, status: &str, ended: &AtomicBool) {
    let (mut phase, mut began, mut most) = (String::new(), Instant::now(), 0);
    let print = |phase: &str, began: Instant, most: u64| {
        if !phase.is_empty() {
            eprintln!("  {phase}: {:.1} s, {} MiB at most", began.elapsed().as_secs_f64(), most / 1024);
        }
    };
    while !ended.load(Ordering::Relaxed) {
        let now = watcher.rows("SELECT phase FROM enrich.enrich_progress").concat();
        if now != phase {
            print(&phase, began, most);
            (phase, began, most) = (now, Instant::now(), 0);
        }
        most = most.max(kilobytes(status, "RssAnon:"));
        std::thread::sleep(Duration::from_millis(20));
    }
    print(&phase, began, most);
}

/// CPU time of a process, in user and in kernel mode. The kernel's unit for programs is a hundredth of a second.
fn processor_seconds(pid: i64) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind_the_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        behind_the_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// One line of `/proc/<pid>/status`.
fn kilobytes(status: &str, line: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let value = text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_default();
    value.trim().trim_end_matches(" kB").parse().unwrap_or_default()
}

fn seconds_of(db: &mut Database<'_>, statement: &str) -> f64 {
    let started = Instant::now();
    db.run(statement);
    started.elapsed().as_secs_f64()
}

/// Time, speed and memory of a procedure at both sizes.
fn compare(
    report: &mut Report,
    procedure: &str,
    rows: (&str, [usize; 2]),
    [half, full]: &[Run; 2],
    aim: f64,
) {
    let (what, [_, all]) = rows;
    report.line(
        &format!("{procedure}: {all} {what}"),
        format!("{} {what} a second", short(all as f64 / full.seconds)),
        vec![full.seconds],
        " s",
        Aim::AtMost(aim),
        format!("{} s of processor time", short(full.busy)),
    );
    report.ratio(
        &format!("{procedure}: all / half of the {what}, time"),
        format!("{} / {} s", short(full.seconds), short(half.seconds)),
        vec![full.seconds / half.seconds],
        Aim::AtMost(2.2),
        "linear: 2".to_owned(),
    );
    report.ratio(
        &format!("{procedure}: all / half of the {what}, memory"),
        format!("{} / {} MiB", short(full.private), short(half.private)),
        vec![full.private / half.private],
        Aim::AtMost(1.1),
        format!("VmHWM {} / {} MiB", short(full.resident), short(half.resident)),
    );
}

fn share(report: &mut Report, what: &str, (is, should): (i64, i64)) {
    report.ratio(
        what,
        format!("{is} / {should}"),
        vec![is as f64 / should as f64],
        Aim::AtLeast(1.0),
        String::new(),
    );
}

const PLAIN_UPSERT: &str = "
    INSERT INTO plain_networks AS n (asn_number, organization_name, organization_country, rir_registry,
        first_seen, last_seen, unique_ip_count, total_session_count)
    SELECT a.asn, max(a.name), max(a.country), 'RIPE', min(a.first_seen), max(a.last_seen), count(*), sum(a.sessions)
    FROM (SELECT (i.enrichment #>> '{maxmind,asn}')::bigint AS asn, i.enrichment #>> '{maxmind,asn_org}' AS name,
                 NULLIF(i.enrichment #>> '{cymru,country}', 'XX') AS country, i.first_seen, i.last_seen,
                 i.session_count AS sessions
          FROM enrich.ip_inventory i) a
    WHERE a.asn IS NOT NULL
    GROUP BY a.asn
    ON CONFLICT (asn_number) DO UPDATE
    SET unique_ip_count = excluded.unique_ip_count, total_session_count = excluded.total_session_count,
        last_seen = excluded.last_seen";

/// Measures `build_asn_inventory` over addresses that another system enriched. Compares it with one statement that does
/// about the same.
pub fn measure_networks(cluster: &Cluster, addresses: &Addresses, report: &mut Report) {
    let mut plain = 0.0;
    let runs = [HALF, FULL].map(|size: Size| {
        eprintln!("networks: {} addresses", size.addresses);
        let population = size.population(addresses);
        let mut db = fresh_database(cluster);
        history::store_population(&mut db, &population);
        history::store_unread_inventory(&mut db, &size, &population);
        db.run("CREATE TABLE plain_networks (LIKE enrich.asn_inventory INCLUDING ALL); CHECKPOINT");
        plain = seconds_of(&mut db, PLAIN_UPSERT);
        db.run("CHECKPOINT");
        let run = call(&db, "CALL enrich.build_asn_inventory()");
        let made = db.number("SELECT count(*) FROM enrich.asn_inventory");
        let there = db.number("SELECT count(*) FROM plain_networks");
        share(report, &format!("build_asn_inventory: networks made of {}", size.networks), (made, there));
        run
    });
    let rows = ("addresses", [HALF.addresses, FULL.addresses]);
    compare(report, "build_asn_inventory", rows, &runs, 10.0);
    report.ratio(
        "build_asn_inventory / one INSERT … ON CONFLICT, time",
        format!("{} / {} s", short(runs[1].seconds), short(plain)),
        vec![runs[1].seconds / plain],
        Aim::None,
        "the statement reports no invalid documents and stores no sources".to_owned(),
    );
}

const PLAIN_UPDATE: &str = "
    UPDATE plain_sessions s
    SET snapshot_asn = p.asn, snapshot_country = p.country, enrichment_at = now()
    FROM population p
    WHERE p.ip = s.source_ip AND s.snapshot_asn IS NULL";

/// Measures `backfill_sessions` over sessions that were stored before the table was attached. Compares it with one
/// statement that fills only the snapshots.
pub fn measure_sessions(cluster: &Cluster, addresses: &Addresses, report: &mut Report) {
    let mut plain = 0.0;
    let runs = [HALF, FULL].map(|size: Size| {
        eprintln!("backfill: {} sessions", size.sessions);
        let population = size.population(addresses);
        let mut db = fresh_database(cluster);
        let started = Instant::now();
        history::store_sessions(&mut db, &size, &population, false);
        history::store_population(&mut db, &population);
        eprintln!("  stored in {:.0} s", started.elapsed().as_secs_f64());
        if size.sessions == FULL.sessions {
            db.run(&format!("CREATE TABLE plain_sessions AS TABLE {TABLE}; CHECKPOINT"));
            plain = seconds_of(&mut db, PLAIN_UPDATE);
            db.run("DROP TABLE plain_sessions");
        }
        db.run(&format!("SELECT enrich.attach_session_table('{TABLE}', 'source_ip', 'first_event_at', trust_input => true)"));
        db.run("CHECKPOINT");
        let run = call(&db, &format!("CALL enrich.backfill_sessions('{TABLE}')"));
        db.run("CALL enrich.fold_statistics()");
        let counted = db.number("SELECT coalesce(sum(session_count), 0) FROM enrich.ip_inventory");
        let sessions = size.sessions as i64;
        share(report, &format!("backfill_sessions: sessions counted of {sessions}"), (counted, sessions));
        let complete = db.number(&format!("SELECT count(*) FROM {TABLE} WHERE snapshot_asn IS NOT NULL"));
        share(
            report,
            &format!("backfill_sessions: snapshots with a network of {sessions}"),
            (complete, sessions),
        );
        run
    });
    let rows = ("sessions", [HALF.sessions, FULL.sessions]);
    compare(report, "backfill_sessions", rows, &runs, 120.0);
    report.ratio(
        "backfill_sessions / one UPDATE … FROM, time",
        format!("{} / {} s", short(runs[1].seconds), short(plain)),
        vec![runs[1].seconds / plain],
        Aim::None,
        "the statement is given the answers, fills no inventory, locks every session".to_owned(),
    );
}
