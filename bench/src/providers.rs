//! Measures three things. GreyNoise, SPUR and Team Cymru are simulated on loopback.
//!
//! 1. The time from the first request to an HTTP provider until the last answer is in the inventory. It is compared
//!    with the time that the provider itself needs.
//! 2. How much a provider that is down delays the other providers.
//! 3. How much more an insert costs if there are more providers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{Behaviour, Hosts, Http, HttpBehaviour, HttpFault, Routes, Service, Whois};
use server_tests::cluster::SUPERUSER;
use server_tests::cymru::reconfigure;
use server_tests::database::{Database, cluster_with_world, fresh_database};
use server_tests::hosts::{Host, NOON, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Cluster, Options};

use crate::cymru::cpu_seconds;
use crate::report::{Aim, Report, median, short};
use crate::{Effort, pgbench};

const HOST: &Host = &SUMMARIES;
/// Interval between two queries of the queue. It is also the maximum error of each measured time.
const GLANCE: Duration = Duration::from_millis(20);

pub fn measure(effort: &Effort, report: &mut Report) {
    let one_by_one = one_after_the_other(report);
    at_full_speed(report, one_by_one);
    at_a_rate(report);
    beside_one_that_is_down(effort, report);
}

/// The numbers of a run whose speed only the provider's delay and the number of connections limit.
const MANY: usize = 10_000;
const PARALLEL: usize = 10;
const DELAY: Duration = Duration::from_millis(100);

fn at_full_speed(report: &mut Report, one_by_one: f64) {
    eprintln!("providers: {MANY} addresses, GreyNoise answers after {} ms", DELAY.as_millis());
    let greynoise = Http::start(Service::GreyNoise, Hosts::synthetic());
    let cluster = cluster_with_world(
        &options("bench-providers", "greynoise")
            .conf(&format!("cowrie_enrich.greynoise_url = '{}'", greynoise.url()))
            .conf(&format!("cowrie_enrich.greynoise_max_parallel = {PARALLEL}"))
            .conf("cowrie_enrich.greynoise_rate = 0")
            // The quota is part of the measurement because of its bookkeeping. It is so high that it is never reached.
            .conf("cowrie_enrich.greynoise_daily_quota = 1000000"),
    );
    let mut db = warm_database(&cluster, &["greynoise"]);
    greynoise.behave(HttpBehaviour::normal().delayed(DELAY));
    greynoise.forget();

    let busy = cpu_seconds(&mut db);
    insert(&mut db, 0..MANY);
    wait_for(&mut db, "greynoise", 20 * MANY as u32 / PARALLEL as u32 * DELAY);
    let seconds = since_first_request(&greynoise);
    let busy = cpu_seconds(&mut db) - busy;
    check(&mut db, "greynoise", MANY);
    check_record(&greynoise, MANY, PARALLEL);
    assert_counts_are_exact(&mut db, &[(HOST.table, HOST.address)]);

    let floor = MANY as f64 / PARALLEL as f64 * DELAY.as_secs_f64();
    report.ratio(
        &format!("providers: {MANY} addresses at GreyNoise / floor"),
        format!("{} / {floor} s", short(seconds)),
        vec![seconds / floor],
        Aim::AtMost(1.25),
        "first request to last answer written".to_owned(),
    );
    let each = seconds / MANY as f64;
    report.ratio(
        "providers: an address / one after the other, a commit each",
        format!("{} / {} ms", short(each * 1e3), short(one_by_one * 1e3)),
        vec![each / one_by_one],
        Aim::None,
        format!("the sequential loop is measured with {FEW} addresses over one connection"),
    );
    report.line(
        "providers: CPU time of launcher and worker per address",
        format!("{} s for {MANY}", short(busy)),
        vec![busy * 1e6 / MANY as f64],
        " us",
        Aim::None,
        "one request each; from the queue to inventory and sessions".to_owned(),
    );
}

/// Number of addresses that the loop in `one_after_the_other` looks up.
const FEW: usize = 200;

/// Measures the loop of the Python system: send, wait, write, commit. Returns the seconds for one address.
fn one_after_the_other(report: &mut Report) -> f64 {
    let greynoise = Http::start(Service::GreyNoise, Hosts::synthetic());
    greynoise.behave(HttpBehaviour::normal().delayed(DELAY));
    let cluster = cluster_with_world(&options("bench-loop", "greynoise"));
    let mut db = fresh_database(&cluster);
    db.run("CREATE TABLE known (ip inet PRIMARY KEY, answer jsonb NOT NULL, asked_at timestamptz NOT NULL)");
    let write = db
        .client
        .prepare("INSERT INTO known VALUES ($1::text::inet, $2::text::jsonb, now())")
        .expect("the statement can be prepared");
    let mut upstream =
        BufReader::new(TcpStream::connect(("127.0.0.1", greynoise.port())).expect("it listens"));
    let path = greynoise.url();
    let path = path.splitn(4, '/').nth(3).expect("a URL has a path");
    let started = Instant::now();
    for n in 0..FEW {
        let ip = address(n);
        let body = get(&mut upstream, &format!("/{path}/{ip}"));
        db.client.execute(&write, &[&ip, &body]).expect("the answer can be stored");
    }
    let each = started.elapsed().as_secs_f64() / FEW as f64;
    assert_eq!(db.number("SELECT count(*) FROM known"), FEW as i64);
    assert_eq!(greynoise.most_at_once(), 1);
    report.line(
        "providers: sequential lookups / time of the provider",
        format!("{} / {} ms", short(each * 1e3), DELAY.as_millis()),
        vec![each / DELAY.as_secs_f64()],
        "",
        Aim::None,
        "for scale: what the loop itself costs".to_owned(),
    );
    each
}

/// Sends one request on a connection that stays open, and returns the response.
fn get(upstream: &mut BufReader<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n");
    upstream.get_mut().write_all(request.as_bytes()).expect("the stand-in reads");
    let mut length = 0;
    loop {
        let mut line = String::new();
        upstream.read_line(&mut line).expect("the stand-in answers");
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    upstream.read_exact(&mut body).expect("the stand-in sends its body");
    String::from_utf8(body).expect("JSON is text")
}

const AT_A_RATE: usize = 600;
const A_SECOND: usize = 10;

fn at_a_rate(report: &mut Report) {
    eprintln!("providers: {AT_A_RATE} addresses, {A_SECOND} a second");
    let greynoise = Http::start(Service::GreyNoise, Hosts::synthetic());
    let cluster = cluster_with_world(
        &options("bench-rate", "greynoise")
            .conf(&format!("cowrie_enrich.greynoise_url = '{}'", greynoise.url()))
            .conf(&format!("cowrie_enrich.greynoise_rate = {A_SECOND}")),
    );
    let mut db = warm_database(&cluster, &["greynoise"]);
    greynoise.behave(HttpBehaviour::normal().delayed(DELAY));
    greynoise.forget();
    insert(&mut db, 0..AT_A_RATE);
    wait_for(&mut db, "greynoise", Duration::from_secs(600));
    let seconds = since_first_request(&greynoise);
    check(&mut db, "greynoise", AT_A_RATE);
    check_record(&greynoise, AT_A_RATE, PARALLEL);
    let ideal = AT_A_RATE as f64 / A_SECOND as f64;
    report.ratio(
        &format!("providers: {AT_A_RATE} addresses at {A_SECOND} a second / what that takes"),
        format!("{} / {ideal} s", short(seconds)),
        vec![seconds / ideal],
        Aim::AtMost(1.1),
        "first request to last answer written".to_owned(),
    );
    report.line(
        "providers: most requests within one second",
        "the server's record".to_owned(),
        vec![greynoise.most_within(Duration::from_secs(1)) as f64],
        "",
        Aim::AtMost(A_SECOND as f64),
        String::new(),
    );
}

/// Each address is in a separate /24, so Team Cymru gets one lookup for each.
const ADDRESSES: usize = 5_000;
/// Delays of the providers. With four connections to each provider, Team Cymru takes 15 s for its ten batches, and SPUR
/// takes 25 s.
const CYMRU_DELAY: Duration = Duration::from_secs(5);
const SPUR_DELAY: Duration = Duration::from_millis(20);
/// Time-out of a request while GreyNoise does not respond.
const TIMEOUT: Duration = Duration::from_secs(5);

fn beside_one_that_is_down(effort: &Effort, report: &mut Report) {
    let states = ["healthy", "silent", "failing"];
    let rounds = effort.rounds.min(3);
    eprintln!(
        "providers: {ADDRESSES} addresses at Cymru and SPUR, GreyNoise {}; {rounds} rounds",
        states.join(", ")
    );
    let mut times: Vec<[(f64, f64); 3]> = Vec::new();
    for round in 0..rounds {
        let mut of_round = [(0.0, 0.0); 3];
        for step in 0..states.len() {
            let which = (step + round) % states.len();
            of_round[which] = others(states[which]);
            let (cymru, spur) = of_round[which];
            eprintln!("  GreyNoise {}: Cymru {} s, SPUR {} s", states[which], short(cymru), short(spur));
        }
        times.push(of_round);
    }
    for (which, state) in states.iter().enumerate().skip(1) {
        let mut ratio = |name: &str, of: fn(&(f64, f64)) -> f64| {
            let seconds = |which: usize| times.iter().map(|round| of(&round[which])).collect::<Vec<_>>();
            report.ratio(
                &format!("providers: {name}, GreyNoise {state} / healthy"),
                format!("{} / {} s", short(median(&seconds(which))), short(median(&seconds(0)))),
                times.iter().map(|round| of(&round[which]) / of(&round[0])).collect(),
                Aim::AtMost(1.1),
                "commit to last address resolved".to_owned(),
            );
        };
        ratio("Cymru", |(cymru, _)| *cymru);
        ratio("SPUR", |(_, spur)| *spur);
    }
}

/// Returns the seconds from the commit of the sessions to the last answer of Cymru and of SPUR.
fn others(state: &str) -> (f64, f64) {
    let whois = Whois::start(Routes::synthetic());
    let greynoise = Http::start(Service::GreyNoise, Hosts::synthetic());
    let spur = Http::start(Service::Spur, Hosts::synthetic());
    let options = options("bench-down", "cymru,greynoise,spur")
        .conf(&format!("cowrie_enrich.cymru_whois_port = {}", whois.port()))
        .conf("cowrie_enrich.cymru_max_connections = 4")
        .conf("cowrie_enrich.cymru_rate = 0")
        .conf(&format!("cowrie_enrich.greynoise_url = '{}'", greynoise.url()))
        .conf("cowrie_enrich.greynoise_rate = 0")
        .conf(&format!("cowrie_enrich.greynoise_timeout = {}", TIMEOUT.as_millis()))
        .conf(&format!("cowrie_enrich.spur_url = '{}'", spur.url()))
        .conf("cowrie_enrich.spur_max_parallel = 4")
        .conf("cowrie_enrich.spur_rate = 0");
    let cluster = cluster_with_world(&options);
    let token = cluster.files().join("spur-token");
    std::fs::write(&token, "a-token-of-the-bench").expect("the cluster's directory can be written");
    reconfigure(&cluster, &[&format!("spur_token_file = '{}'", token.display())]);
    let mut db = warm_database(&cluster, &["cymru", "greynoise", "spur"]);
    whois.behave(Behaviour::normal().delayed(CYMRU_DELAY));
    spur.behave(HttpBehaviour::normal().delayed(SPUR_DELAY));
    match state {
        "silent" => greynoise.behave(HttpFault::Silent),
        "failing" => greynoise.behave(HttpFault::status(500)),
        _ => greynoise.behave(HttpBehaviour::normal().delayed(SPUR_DELAY)),
    }

    insert(&mut db, 0..ADDRESSES);
    let committed = Instant::now();
    let mut ended = [None, None];
    while ended.contains(&None) {
        for (ended, provider) in ended.iter_mut().zip(["cymru", "spur"]) {
            if ended.is_none() && is_done(&mut db, provider) {
                *ended = Some(committed.elapsed().as_secs_f64());
            }
        }
        assert!(committed.elapsed() < Duration::from_secs(600), "GreyNoise {state}: {:?}", status(&mut db));
        std::thread::sleep(GLANCE);
    }
    check(&mut db, "cymru", ADDRESSES);
    check(&mut db, "spur", ADDRESSES);
    assert_eq!(is_done(&mut db, "greynoise"), state == "healthy", "{:?}", status(&mut db));
    let [Some(cymru), Some(spur)] = ended else { unreachable!("the loop above ends with both") };
    (cymru, spur)
}

/// Measures how much more sources add to the cost of an insert. Each session comes from a different address, and the
/// ASN file knows the address's network. No worker runs.
pub fn measure_sources(effort: &Effort, report: &mut Report) {
    const FEWER: &str = "maxmind,cymru";
    const MORE: &str = "maxmind,cymru,greynoise,spur";
    eprintln!("sources: sessions of new addresses, {} rounds", effort.rounds);
    let cluster = cluster_with_world(
        &Options::named("bench-sources").durable().conf("shared_buffers = 1GB").conf("max_wal_size = 4GB"),
    );
    let script = cluster.files().join("new-address.sql");
    let text = format!(
        "INSERT INTO {} ({}, {}, {}) SELECT n::text, '23.0.0.0'::inet + n, now() FROM nextval('fresh') AS n;\n",
        HOST.table, HOST.key, HOST.address, HOST.time
    );
    std::fs::write(&script, text).expect("the script can be written");
    for clients in [1, 16] {
        let mut tps: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        for round in 0..effort.rounds {
            for step in 0..2 {
                let which = (step + round) % 2;
                reconfigure(&cluster, &[&format!("enabled_sources = '{}'", [FEWER, MORE][which])]);
                // Each run gets an empty database, so that rows of earlier runs do not count.
                let mut db = fresh_database(&cluster);
                HOST.create_attached(&mut db);
                db.run("CREATE SEQUENCE fresh CACHE 100");
                db.run("CHECKPOINT");
                let run = pgbench::run(&db, &script, clients, effort.seconds);
                assert_eq!(run.failed, 0);
                tps[which].push(run.tps);
                let requests = db.number("SELECT count(*) FROM enrichment_request");
                assert_eq!(requests > 0, which == 1, "{requests} requests");
                let name = db.name.clone();
                drop(db);
                cluster.session(SUPERUSER).run(&format!("DROP DATABASE \"{name}\""));
            }
        }
        let [fewer, more] = tps;
        report.ratio(
            &format!("sources: inserts, {clients} clients: two more / cymru alone"),
            format!("{} / {} tps", short(median(&more)), short(median(&fewer))),
            more.iter().zip(&fewer).map(|(more, fewer)| more / fewer).collect(),
            Aim::None,
            "each from a new address".to_owned(),
        );
    }
}

/// A server whose workers ask `sources`.
fn options(name: &str, sources: &str) -> Options {
    Options::named(name)
        .with_worker()
        .durable()
        .conf("shared_buffers = 256MB")
        .conf(&format!("cowrie_enrich.enabled_sources = 'maxmind,{sources}'"))
}

/// Creates a database with its session table. A worker of the database has already sent a request to each of these
/// providers.
fn warm_database<'a>(cluster: &'a Cluster, providers: &[&str]) -> Database<'a> {
    let mut db = fresh_database(cluster);
    HOST.create_attached(&mut db);
    db.run(&HOST.insert(&[("first", Some("11.255.0.1"))]));
    for provider in providers {
        wait_for(&mut db, provider, Duration::from_secs(60));
    }
    db
}

/// Returns an address in the n-th /24. The ASN file knows none of these addresses.
fn address(n: usize) -> String {
    format!("11.{}.{}.{}", n / 256, n % 256, 1 + n % 254)
}

/// Stores one session from each address, in one transaction.
fn insert(db: &mut Database<'_>, numbers: std::ops::Range<usize>) {
    let line = |n| {
        let ip = address(n);
        format!("{ip}\t{ip}\t{NOON}\n")
    };
    let lines: String = numbers.map(line).collect();
    db.copy(&format!("{} ({}, {}, {})", HOST.table, HOST.key, HOST.address, HOST.time), &lines);
}

fn is_done(db: &mut Database<'_>, provider: &str) -> bool {
    let left = format!(
        "SELECT (NOT EXISTS (SELECT FROM enrichment_request WHERE provider = '{provider}')
            AND NOT EXISTS (SELECT FROM job_address WHERE provider = '{provider}'))::int"
    );
    db.number(&left) == 1
}

fn wait_for(db: &mut Database<'_>, provider: &str, limit: Duration) {
    let started = Instant::now();
    while !is_done(db, provider) {
        assert!(started.elapsed() < limit, "not done after {limit:?}: {:?}", status(db));
        std::thread::sleep(GLANCE);
    }
}

/// Returns the seconds since the first request. Call it when the last answer has arrived.
fn since_first_request(server: &Http) -> f64 {
    let first = server.requests().iter().map(|request| request.at).min().expect("it was asked");
    first.elapsed().as_secs_f64()
}

/// Checks that each address has an answer, even if the answer is negative. This includes the address from the
/// preparation.
fn check(db: &mut Database<'_>, provider: &str, addresses: usize) {
    let answered = format!(
        "SELECT count(*) FROM ip_inventory WHERE enrichment #>> '{{_meta,{provider},state}}' IN ('value', 'absent')"
    );
    assert_eq!(db.number(&answered), addresses as i64 + 1, "{:?}", status(db));
}

/// Checks that each address was looked up once, and that the limit of parallel requests was kept.
fn check_record(server: &Http, addresses: usize, parallel: usize) {
    let mut asked: Vec<_> = server.requests().iter().filter_map(|request| request.ip).collect();
    assert_eq!(asked.len(), addresses);
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), addresses, "addresses asked twice");
    assert!(server.most_at_once() <= parallel, "{} at once", server.most_at_once());
}

fn status(db: &mut Database<'_>) -> Vec<String> {
    let mut lines = db.rows("SELECT * FROM queue_status");
    lines.extend(db.rows("SELECT * FROM provider_status"));
    lines.extend(db.rows("SELECT * FROM worker_status"));
    lines
}
