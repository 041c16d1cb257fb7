//! Measures the time from the commit that queues addresses to the last answer in the inventories. The simulated Team
//! Cymru on loopback has a fixed delay, so the minimum of each time is known.

use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{Behaviour, Record, Routes, Whois};
use server_tests::database::{Database, cluster_with_world, fresh_database};
use server_tests::hosts::{Host, NOON, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Options, Session};

use crate::Effort;
use crate::report::{Aim, Report, short};

const HOST: &Host = &SUMMARIES;
const ADDRESSES: usize = 10_000;
/// The default of the setting.
const BATCH: usize = 500;
const CONNECTIONS: usize = 4;
const DELAY: Duration = Duration::from_secs(5);
/// Duration of the measurement of an idle worker.
const IDLE: Duration = Duration::from_secs(30);
/// Interval between two queries of the queue, and so the maximum error of each time.
const GLANCE: Duration = Duration::from_millis(20);

pub fn measure(effort: &Effort, report: &mut Report) {
    let whois = Whois::start(Routes::synthetic());
    let cluster = cluster_with_world(
        &Options::named("bench-cymru")
            .with_worker()
            .durable()
            .conf("shared_buffers = 256MB")
            .conf(&format!("cowrie_enrich.cymru_whois_port = {}", whois.port()))
            .conf(&format!("cowrie_enrich.cymru_max_connections = {CONNECTIONS}"))
            .conf("cowrie_enrich.cymru_rate = 0"),
    );
    let mut db = fresh_database(&cluster);
    HOST.create_attached(&mut db);
    // The worker has started before the measurements.
    resolve(&mut db, vec!["11.255.0.1".to_owned()]);

    eprintln!("cymru: {ADDRESSES} addresses of as many /24s");
    whois.behave(Behaviour::normal().delayed(DELAY));
    whois.forget();
    let busy = cpu_seconds(&mut db);
    let scattered = resolve(&mut db, (0..ADDRESSES).map(|n| address(11, n, 1 + n % 254)).collect());
    let busy = cpu_seconds(&mut db) - busy;
    report_scattered(report, scattered, busy, &whois.record());

    // Five seconds each.
    let rounds = effort.rounds.min(3);
    let blocks = ADDRESSES / 10;
    eprintln!("cymru: {ADDRESSES} addresses of {blocks} /24s, {rounds} rounds");
    let (mut times, mut questions) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        whois.forget();
        let all = (0..ADDRESSES).map(|n| address(12 + round, n % blocks, 1 + n / blocks)).collect();
        times.push(resolve(&mut db, all));
        questions.push(whois.record().questions_total() as f64);
    }
    let floor = floor(blocks);
    report.ratio(
        &format!("cymru: {ADDRESSES} addresses of {blocks} /24s / floor"),
        format!("{} / {floor} s", short(times[0])),
        times.iter().map(|time| time / floor).collect(),
        Aim::AtMost(1.25),
        "commit to last address resolved".to_owned(),
    );
    let one = |what: &str| format!("cymru: {what}");
    report.line(
        &one("lookups sent for them"),
        format!("{ADDRESSES} addresses"),
        questions,
        "",
        Aim::AtMost(blocks as f64),
        String::new(),
    );
    assert_counts_are_exact(&mut db, &[(HOST.table, HOST.address)]);

    eprintln!("cymru: the worker idle for {} s", IDLE.as_secs());
    let before = cpu_seconds(&mut db);
    std::thread::sleep(IDLE);
    let spent = cpu_seconds(&mut db) - before;
    report.line(
        &one("CPU time of launcher and worker while idle"),
        format!("{} ms in {} s", short(spent * 1e3), IDLE.as_secs()),
        vec![spent / IDLE.as_secs_f64() * 100.0],
        " %",
        Aim::AtMost(0.1),
        "of one core".to_owned(),
    );
}

fn report_scattered(report: &mut Report, seconds: f64, busy: f64, record: &Record) {
    let floor = floor(ADDRESSES);
    report.ratio(
        &format!("cymru: {ADDRESSES} addresses of as many /24s / floor"),
        format!("{} / {floor} s", short(seconds)),
        vec![seconds / floor],
        Aim::AtMost(1.25),
        "commit to last address resolved".to_owned(),
    );
    let one_by_one = ADDRESSES.div_ceil(BATCH) as f64 * DELAY.as_secs_f64();
    report.ratio(
        "cymru: the same / batches one after the other",
        format!("{} / {one_by_one} s", short(seconds)),
        vec![seconds / one_by_one],
        Aim::None,
        "the sequential time is computed: the minimum wait of a script with one connection".to_owned(),
    );
    let mut count = |what: &str, counted: usize, aim: usize| {
        report.line(
            &format!("cymru: {what}"),
            "the server's record".to_owned(),
            vec![counted as f64],
            "",
            Aim::AtMost(aim as f64),
            String::new(),
        );
    };
    count("largest batch", record.largest_batch(), BATCH);
    count("most connections at once", record.most_at_once(), CONNECTIONS);
    count("addresses asked twice", record.asked_twice().len(), 0);
    report.line(
        "cymru: CPU time of launcher and worker per address",
        format!("{} s for {ADDRESSES}", short(busy)),
        vec![busy * 1e6 / ADDRESSES as f64],
        " us",
        Aim::None,
        "from the queue to inventories, history and a session's snapshot".to_owned(),
    );
}

/// Minimum of the seconds that the server needs for this number of lookups.
fn floor(questions: usize) -> f64 {
    questions.div_ceil(BATCH).div_ceil(CONNECTIONS) as f64 * DELAY.as_secs_f64()
}

/// The host of the n-th /24 of a /8.
fn address(first: usize, n: usize, host: usize) -> String {
    format!("{first}.{}.{}.{host}", n / 256, n % 256)
}

/// Stores one session from each address, in one transaction. Returns the seconds from its commit until all are
/// resolved.
fn resolve(db: &mut Database<'_>, addresses: Vec<String>) -> f64 {
    let lines: String = addresses.iter().map(|ip| format!("{ip}\t{ip}\t{NOON}\n")).collect();
    db.copy(&format!("{} ({}, {}, {})", HOST.table, HOST.key, HOST.address, HOST.time), &lines);
    let committed = Instant::now();
    let is_done =
        "SELECT (NOT EXISTS (SELECT FROM enrichment_request) AND NOT EXISTS (SELECT FROM job_address))::int";
    while db.number(is_done) == 0 {
        let elapsed = committed.elapsed();
        assert!(elapsed < 20 * DELAY, "not resolved after {elapsed:?}: {:?}", status(db));
        std::thread::sleep(GLANCE);
    }
    let seconds = committed.elapsed().as_secs_f64();
    // The synthetic network of an IPv4 address, see cowrie_enrich_upstreams::synthetic_asn.
    let network = "1000000 + ((ip_address - '0.0.0.0'::inet) >> 16)";
    let wrong = format!(
        "SELECT (SELECT count(*) FROM ip_inventory WHERE current_asn IS DISTINCT FROM {network})
              + (SELECT count(*) FROM {table} LEFT JOIN ip_inventory ON ip_address = {ip}
                 WHERE snapshot_asn IS NULL OR snapshot_asn <> current_asn)",
        table = HOST.table,
        ip = HOST.address
    );
    assert_eq!(db.number(&wrong), 0, "addresses and sessions without their network: {:?}", status(db));
    seconds
}

fn status(db: &mut Session) -> Vec<String> {
    let mut lines = db.rows("SELECT * FROM queue_status WHERE provider = 'cymru'");
    lines.extend(db.rows("SELECT * FROM provider_status() WHERE provider = 'cymru'"));
    lines.extend(db.rows("SELECT * FROM worker_status()"));
    lines
}

/// CPU time that the launcher and the database's worker have used since they were started.
pub fn cpu_seconds(db: &mut Session) -> f64 {
    let pids = db.rows(
        "SELECT pid FROM worker_status()
         WHERE pid IS NOT NULL AND (role = 'launcher' OR database = current_database())",
    );
    assert_eq!(pids.len(), 2, "a launcher and a worker: {:?}", status(db));
    pids.iter().map(|pid| cpu_seconds_of(pid)).sum()
}

fn cpu_seconds_of(pid: &str) -> f64 {
    // schedstat counts nanoseconds. stat counts ticks of 10 ms, which is coarse for an idle process.
    let schedule = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok();
    let exact: Option<f64> = schedule.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
    if let Some(nanoseconds) = exact {
        return nanoseconds / 1e9;
    }
    // pid (name) state … utime stime …: the 14th and the 15th. The name may contain blanks and parentheses.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields = status.rsplit_once(')').expect("a name in parentheses").1.split_ascii_whitespace();
    let ticks: f64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum();
    ticks / 100.0
}
