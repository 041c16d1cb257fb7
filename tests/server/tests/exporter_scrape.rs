//! Metrics can be scraped: they are current, and every user of this machine can read them. A scraper does not harm
//! others.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use server_tests::cymru::assert_nothing_crashed;
use server_tests::database::cluster_with_world;
use server_tests::hosts::COWRIE;
use server_tests::scrape::{
    ask, connect, exporter_pid, exporters, free_address, request, scrape, wait_for_metrics,
};
use server_tests::{Cluster, Options, fresh_database, wait_until};

const CREATED: &str = r#"asn_inventory_records_created_total{source="manual",country="DE",rir="ARIN"}"#;
const FAILURES: &str = r#"enrich_export_failures_total{exporter="scrape"}"#;
const SERVED: &str = r#"enrich_exports_total{exporter="scrape"}"#;

fn listening(name: &str, address: SocketAddr) -> Options {
    Options::named(name).conf(&format!("cowrie_enrich.metrics_listen = '{address}'"))
}

fn served(name: &str) -> (Cluster, SocketAddr) {
    let address = free_address();
    let cluster = cluster_with_world(&listening(name, address));
    wait_for_metrics(address);
    (cluster, address)
}

fn ensure(first: i64, networks: i64) -> String {
    format!(
        "SELECT enrich.ensure_asn_inventory(n, 'Net ' || n, 'DE') FROM generate_series({first}, {first} + {networks} - 1) n"
    )
}

/// Returns the lines of these types, without those that change during the test.
fn still_lines(text: &str) -> Vec<&str> {
    let moves = [
        "enrich_exports_total",
        "enrich_mmdb_build_age_seconds",
        "asn_inventory_size",
        "enrich_queue_",
        "enrich_pending_counts_",
        "enrich_completion",
        "enrich_suspended_owners",
        "enrich_erasures_",
        "enrich_expiry_",
        "enrich_reclassifications_pending",
        "enrich_attached_tables_not_intact",
        "enrich_recount_",
        "enrich_citus_",
    ];
    let is_still = |line: &&str| !moves.iter().any(|name| line.contains(name));
    text.lines().filter(is_still).collect()
}

#[test]
fn a_scrape_says_what_sql_says_and_never_what_was() {
    let (cluster, address) = served("scrape-values");
    let mut db = fresh_database(&cluster);
    db.run(&ensure(1, 3));
    let answer = scrape(address);
    assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(answer.header("Content-Length"), Some(answer.body.len().to_string().as_str()));
    assert_eq!(answer.header("Connection"), Some("close"));
    assert_eq!(answer.sample(CREATED), 3.0);
    assert_eq!(answer.sample("enrich_exporter_up"), 1.0);
    assert_eq!(answer.sample("enrich_launcher_up"), 1.0);
    let written = db.one("SELECT prometheus_metrics()");
    let (scraped, written) = (still_lines(&answer.body), still_lines(&written));
    assert!(scraped.len() > 300, "{}", answer.body);
    let differences: Vec<_> = scraped.iter().zip(&written).filter(|(one, other)| one != other).collect();
    assert!(differences.is_empty(), "{differences:?}");
    assert_eq!(scraped.len(), written.len(), "{:?}", &written[scraped.len().min(written.len())..]);
    // Each scrape shows the values of the transactions that committed before it.
    for n in 4..54 {
        db.run(&ensure(n, 1));
        assert_eq!(scrape(address).sample(CREATED), n as f64);
    }
    db.run(&format!("BEGIN; {}; ROLLBACK", ensure(100, 10)));
    assert_eq!(scrape(address).sample(CREATED), 53.0);
    assert_eq!(scrape(address).sample(FAILURES), 0.0);
    assert!(scrape(address).sample(SERVED) >= 53.0);
}

#[test]
fn other_paths_and_methods_are_told_so() {
    let (cluster, address) = served("scrape-http");
    for (method, path, status) in [
        ("GET", "/-/healthy", 200),
        ("HEAD", "/-/healthy", 200),
        ("GET", "/metrics?format=x", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/x", 404),
        ("GET", "/../../etc/passwd", 404),
        ("HEAD", "/nothing", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/metrics", 405),
        ("OPTIONS", "*", 405),
    ] {
        let answer = request(address, method, path).expect("there is an answer");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.head);
        assert_eq!(answer.header("Allow"), (status == 405).then_some("GET, HEAD"), "{method} {path}");
    }
    assert_eq!(request(address, "GET", "/-/healthy").expect("an answer").body, "OK\n");
    let (head, whole) = (request(address, "HEAD", "/metrics").expect("an answer"), scrape(address));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("Content-Type"), whole.header("Content-Type"));
    assert!(
        head.header("Content-Length").is_some_and(|length| length.parse::<usize>().is_ok_and(|n| n > 10_000))
    );

    let body = "x".repeat(20_000);
    let post =
        format!("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(ask(address, post.as_bytes()).expect("the answer arrives").status, 405);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(10_000));
    assert_eq!(ask(address, long.as_bytes()).expect("the answer arrives").status, 431);
    for nonsense in
        ["\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0\0"]
    {
        assert_eq!(
            ask(address, nonsense.as_bytes()).expect("the answer arrives").status,
            400,
            "{nonsense:?}"
        );
    }
    // In pieces, as over a slow network.
    let mut stream = connect(address).expect("somebody listens");
    for piece in ["GE", "T /metr", "ics HTTP/1.1\r", "\nHost: localhost\r\n\r", "\n"] {
        stream.write_all(piece.as_bytes()).expect("it is taken");
        stream.flush().expect("it is sent");
        thread::yield_now();
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the answer arrives");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert_eq!(scrape(address).sample(FAILURES), 0.0);
    assert_nothing_crashed(&cluster);
}

/// A web page can make a browser on this machine send a request to the exporter, with the host name of the web
/// page.
#[test]
fn a_request_for_another_host_is_refused() {
    let (_cluster, address) = served("scrape-host");
    let get = |version: &str, hosts: &[&str]| {
        let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        ask(address, format!("GET /metrics HTTP/{version}\r\n{hosts}\r\n").as_bytes()).expect("an answer")
    };
    for host in ["evil.example.com", "evil.example.com:9487", "192.0.2.1", "localhost.example.com", "0.0.0.0"]
    {
        let answer = get("1.1", &[host]);
        assert_eq!(answer.status, 421, "{host}: {}", answer.head);
        assert!(!answer.body.contains("enrich_"), "{host}: {}", answer.body);
    }
    assert_eq!(get("1.0", &["evil.example.com"]).status, 421);
    assert_eq!(get("1.1", &[]).status, 400);
    assert_eq!(get("1.1", &["localhost", "evil.example.com"]).status, 400);
    let own = address.to_string();
    for host in ["localhost", "127.0.0.1", "LOCALHOST:80", "[::1]:9487", &own] {
        assert_eq!(get("1.1", &[host]).status, 200, "{host}");
    }
    assert_eq!(get("1.0", &[]).status, 200);
}

/// Opens more connections than the exporter keeps, none with a request.
#[test]
fn idle_connections_do_not_keep_a_scraper_out() {
    let (cluster, address) = served("scrape-idle");
    let idle: Vec<TcpStream> = (0..200).map(|_| connect(address).expect("somebody listens")).collect();
    assert_eq!(scrape(address).sample("enrich_exporter_up"), 1.0);
    let is_open = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).expect("it can be set");
        matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    // The oldest one was closed. The newest ones did not have to wait for their deadline.
    assert!(!is_open(&idle[0]) && is_open(&idle[150]), "the scrape waited for idle connections to end");
    assert_nothing_crashed(&cluster);
}

/// Asserts that each combination of name and labels occurs once.
#[track_caller]
fn assert_each_once(text: &str) {
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').expect("a value");
        assert!(seen.insert(sample), "twice: {sample}");
    }
}

/// A name is in the encoding of the database from which it was created.
#[test]
fn databases_are_told_apart_whatever_their_names_are_made_of() {
    let address = free_address();
    let options = listening("scrape-names", address).with_worker().conf("max_worker_processes = 20");
    let cluster = cluster_with_world(&options);
    let mut utf8 = cluster.session("postgres");
    utf8.run("CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
    let mut latin1 = cluster.session("latin1");
    latin1.run("CREATE SCHEMA enrich; CREATE EXTENSION cowrie_enrich SCHEMA enrich");
    let create = |name: &str| format!("CREATE DATABASE \"{name}\" TEMPLATE with_extension");
    for name in ["caf\u{e9}", "caf\u{e8}"] {
        latin1.run(&create(name));
    }
    for name in ["\u{e4}", "\u{f6}", "a\"\" \\ ' {}\n=1"] {
        utf8.run(&create(name));
    }
    utf8.run("SELECT pg_reload_conf()");
    for label in [r"caf\\xE9", r"caf\\xE8", "\u{e4}", "\u{f6}", r#"a\" \\ ' {}\n=1"#] {
        let sample = format!("enrich_worker_up{{database=\"{label}\"}}");
        wait_until(&format!("{sample} is 1"), || scrape(address).try_sample(&sample), |up| *up == Some(1.0));
    }
    assert_each_once(&scrape(address).body);
    let written = latin1.one("SELECT enrich.prometheus_metrics()");
    assert_each_once(&written);
    assert!(written.contains(r#"enrich_worker_up{database="caf\\xE9"} 1"#), "{written}");
    assert!(written.contains(r#"enrich_worker_up{database="\\xC3\\xA4"} 1"#), "{written}");
    latin1.run("SELECT enrich.status_json(), count(*) FROM enrich.enrich_metrics GROUP BY 1");
    assert_nothing_crashed(&cluster);
}

#[test]
fn scrapes_at_the_same_time_are_all_answered_and_never_go_back() {
    let (cluster, address) = served("scrape-many");
    let mut db = fresh_database(&cluster);
    let pid = exporter_pid(&mut db);
    let before = scrape(address).sample(SERVED);
    thread::scope(|scope| {
        let scrapers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(move || {
                    let mut last = 0.0;
                    for _ in 0..25 {
                        let now = scrape(address).try_sample(CREATED).unwrap_or_default();
                        assert!(now >= last, "{now} after {last}");
                        last = now;
                    }
                    last
                })
            })
            .collect();
        for n in 0..100 {
            db.run(&ensure(1 + n, 1));
        }
        for scraper in scrapers {
            scraper.join().expect("no scraper fails");
        }
    });
    let answer =
        wait_until("all are counted", || scrape(address), |answer| answer.sample(SERVED) >= before + 400.0);
    assert_eq!(answer.sample(CREATED), 100.0);
    assert_eq!(answer.sample(FAILURES), 0.0);
    assert_eq!(exporters(&mut db), [pid]);
}

#[test]
fn who_misbehaves_is_cut_off_and_holds_up_nobody() {
    let (cluster, address) = served("scrape-hostile");
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let pid = exporter_pid(&mut db);
    let opened = |request: &[u8]| {
        let mut stream = connect(address).expect("somebody listens");
        stream.write_all(request).expect("it is taken");
        stream
    };
    // Opens connections of four kinds: clients that send half a request, that send nothing, that do not read the
    // response, and that never stop sending.
    let mut half: Vec<TcpStream> = (0..20).map(|_| opened(b"GET /metrics HTTP/1.1\r\nHost: ")).collect();
    let silent: Vec<TcpStream> = (0..10).map(|_| opened(b"")).collect();
    let deaf: Vec<TcpStream> = (0..10).map(|_| opened(b"GET /metrics HTTP/1.0\r\n\r\n")).collect();
    // These clients close the connection without reading the response, which resets the connection.
    for _ in 0..50 {
        drop(opened(b"GET /metrics HTTP/1.0\r\n\r\n"));
    }
    let flood = thread::spawn(move || {
        let mut stream = connect(address).expect("somebody listens");
        let mut sent = 0;
        while sent < 100_000_000 {
            match stream.write(&[b'x'; 65_536]) {
                Ok(length) => sent += length,
                Err(_) => return sent,
            }
        }
        sent
    });
    let began = Instant::now();
    for n in 0..20 {
        scrape(address);
        db.run(&COWRIE.insert(&[(&format!("s{n}"), Some("8.8.8.8"))]));
    }
    assert!(began.elapsed() < Duration::from_secs(4), "scrapes waited {:?}", began.elapsed());
    let sent = flood.join().expect("the flood ends");
    assert!(sent < 50_000_000, "{sent} bytes of a request were taken");
    // The exporter closes these connections before a scraper's timeout.
    for stream in &mut half {
        let left = Duration::from_secs(15).saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).expect("a time can be set");
        let ended = stream.read(&mut [0]);
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(15), "cut off after {waited:?}");
    drop((silent, deaf));

    // More connections than the exporter keeps: the oldest are closed.
    let crowd: Vec<TcpStream> = (0..100).map(|_| opened(b"GET ")).collect();
    assert_eq!(scrape(address).sample("enrich_exporter_up"), 1.0);
    drop(crowd);
    assert_eq!(exporters(&mut db), [pid], "it is the same process still");
    assert_nothing_crashed(&cluster);
}

#[test]
fn a_reload_turns_it_on_moves_it_and_turns_it_off() {
    let cluster = cluster_with_world(&Options::named("scrape-reload"));
    let mut db = fresh_database(&cluster);
    let (first, second) = (free_address(), free_address());
    assert!(exporters(&mut db).is_empty() && connect(first).is_err());
    assert!(db.one("SELECT prometheus_metrics()").contains("\nenrich_exporter_up 0\n"));
    let listen =
        |address: &str| cluster.reconfigure(&[format!("cowrie_enrich.metrics_listen = '{address}'")]);
    listen(&first.to_string());
    wait_for_metrics(first);
    let pid = exporter_pid(&mut db);
    listen(&second.to_string());
    wait_for_metrics(second);
    wait_until("the old one is closed", || connect(first).is_err(), |is_closed| *is_closed);
    let v6 = SocketAddr::new("::1".parse().expect("an address"), second.port());
    listen(&v6.to_string());
    assert_eq!(wait_for_metrics(v6).sample("enrich_exporter_up"), 1.0);
    assert_eq!(exporters(&mut db), [pid], "it is the same process still");
    // An invalid value in the file is logged, and the old value stays in use.
    listen("0.0.0.0:9487");
    wait_until(
        "it is refused",
        || cluster.whole_log(),
        |log| log.contains("invalid value for parameter \"cowrie_enrich.metrics_listen\": \"0.0.0.0:9487\""),
    );
    scrape(v6);
    listen("");
    wait_until("it is gone", || exporters(&mut db), Vec::is_empty);
    // The process disappears from pg_stat_activity a little before its socket is closed.
    wait_until("nobody listens", || connect(v6).is_err(), |is_closed| *is_closed);
    // It listens again on the same address at once.
    listen(&v6.to_string());
    wait_for_metrics(v6);
    assert_nothing_crashed(&cluster);
}

#[test]
fn only_loopback_addresses_can_be_set() {
    let (cluster, address) = served("scrape-refused");
    let mut db = fresh_database(&cluster);
    for (value, detail) in [
        ("0.0.0.0:9487", "Only loopback addresses"),
        ("[::]:9487", "Only loopback addresses"),
        ("192.0.2.1:9487", "Only loopback addresses"),
        ("localhost:9487", "not an IP address with a port"),
        ("127.0.0.1", "not an IP address with a port"),
        ("127.0.0.1:0", "Port 0"),
    ] {
        let refusal = db.refused(&format!("ALTER SYSTEM SET cowrie_enrich.metrics_listen = '{value}'"));
        assert_eq!(refusal.code, "22023", "{refusal:?}");
        assert!(refusal.detail.as_ref().is_some_and(|text| text.contains(detail)), "{refusal:?}");
        assert!(refusal.hint.as_ref().is_some_and(|hint| hint.contains("127.0.0.1:9487")), "{refusal:?}");
    }
    // Only superusers see the address.
    db.run("CREATE ROLE scrape_stranger");
    let refusal = db.refused("SET ROLE scrape_stranger; SHOW cowrie_enrich.metrics_listen");
    assert_eq!(refusal.code, "42501", "{refusal:?}");
    scrape(address);
}

#[test]
fn a_port_that_is_taken_costs_a_counter_and_a_line_and_is_tried_again() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = holder.local_addr().expect("it has an address");
    let cluster = cluster_with_world(&listening("scrape-taken", address));
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    let failures = "SELECT value FROM enrich.enrich_metrics
                    WHERE name = 'enrich_export_failures_total' AND labels ->> 'exporter' = 'scrape'";
    wait_until("it was tried three times", || db.number(failures), |failures| *failures >= 3);
    let pid = exporter_pid(&mut db);
    let lines = cluster.whole_log().matches("cowrie_enrich: could not serve metrics").count();
    assert_eq!(lines, 1, "{}", cluster.log());
    db.run(&COWRIE.insert(&[("s", Some("8.8.8.8"))]));
    assert_eq!(db.number("SELECT errors FROM enrich.enrich_stats()"), 0);
    drop(holder);
    assert!(wait_for_metrics(address).sample(FAILURES) >= 3.0);
    assert_eq!(exporters(&mut db), [pid]);
}

#[test]
fn a_killed_exporter_comes_back() {
    let (cluster, address) = served("scrape-killed");
    let mut db = fresh_database(&cluster);
    db.run(&ensure(1, 5));
    let mut pid = exporter_pid(&mut db);
    for _ in 0..2 {
        assert_eq!(db.one(&format!("SELECT pg_terminate_backend({pid})")), "t");
        wait_until("it has ended", || exporters(&mut db), |pids| !pids.contains(&pid));
        pid = exporter_pid(&mut db);
        assert_eq!(wait_for_metrics(address).sample(CREATED), 5.0);
    }
    // The exporter survives the end of the launcher.
    let launcher = db.number("SELECT pid FROM enrich.worker_status() WHERE role = 'launcher'");
    assert_eq!(db.one(&format!("SELECT pg_terminate_backend({launcher})")), "t");
    wait_until(
        "there is another launcher",
        || db.one("SELECT COALESCE(max(pid), 0) FROM enrich.worker_status() WHERE role = 'launcher'"),
        |other| *other != launcher.to_string() && *other != "0",
    );
    assert_eq!(exporters(&mut db), [pid]);
    assert_eq!(scrape(address).sample(CREATED), 5.0);
    // The new launcher did not start this exporter, but it starts the next one.
    assert_eq!(db.one(&format!("SELECT pg_terminate_backend({pid})")), "t");
    wait_until("it has ended", || exporters(&mut db), |pids| !pids.contains(&pid));
    wait_for_metrics(address);
    pid = exporter_pid(&mut db);
    // A crash restarts the whole server and resets the counters.
    cluster.kill_backend(pid);
    let after = wait_for_metrics(address);
    assert_eq!(after.try_sample(CREATED), None);
    let mut again = fresh_database(&cluster);
    assert_ne!(exporter_pid(&mut again), pid);
}

#[test]
fn nobody_waits_for_the_exporter() {
    let (cluster, address) = served("scrape-unhindered");
    let mut admin = cluster.session("postgres");
    let mut stalled = connect(address).expect("somebody listens");
    stalled.write_all(b"GET /metrics HT").expect("it is taken");
    let began = Instant::now();
    for n in 0..5 {
        let mut db = fresh_database(&cluster);
        db.run(&ensure(n * 10 + 1, 3));
        scrape(address);
        let name = db.name.clone();
        db.run("DROP EXTENSION cowrie_enrich CASCADE");
        drop(db);
        wait_until(
            "the connection has ended",
            || admin.number(&format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")),
            |count| *count == 0,
        );
        admin.run(&format!("DROP DATABASE \"{name}\""));
        assert_eq!(scrape(address).sample(CREATED), ((n + 1) * 3) as f64);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(admin);
    // After the commands that need all processes to agree, the shutdown works, too.
    let began = Instant::now();
    cluster.stop_fast();
    assert!(began.elapsed() < Duration::from_secs(10), "the shutdown took {:?}", began.elapsed());
    assert!(connect(address).is_err());
    assert_nothing_crashed(&cluster);
}

#[test]
fn a_standby_is_scraped_too_and_goes_on_when_it_is_promoted() {
    let (here, there) = (free_address(), free_address());
    let primary =
        cluster_with_world(&listening("scrape-primary", here).conf("cowrie_enrich.worker_enabled = on"));
    let mut db = fresh_database(&primary);
    db.run(&ensure(1, 3));
    assert_eq!(wait_for_metrics(here).sample(CREATED), 3.0);
    let name = db.name.clone();
    let standby = primary.standby(&listening("scrape-standby", there).with_worker());
    let answer = wait_for_metrics(there);
    assert_eq!(answer.sample("enrich_launcher_up"), 1.0);
    assert_eq!(answer.try_sample(CREATED), None, "it created nothing");
    let mut session = standby.session(&name);
    let pid = exporter_pid(&mut session);
    assert_eq!(
        session.rows("SELECT role, state FROM enrich.worker_status() ORDER BY role"),
        ["exporter|running", "launcher|waiting for promotion of this standby"]
    );
    // The database is dropped by replication while the exporter reads the shared catalogs.
    let victim = fresh_database(&primary).name;
    primary.session("postgres").run(&format!("DROP DATABASE \"{victim}\" WITH (FORCE)"));
    scrape(there);
    primary.stop_fast();
    standby.promote();
    let up = format!("enrich_worker_up{{database=\"{name}\"}}");
    // The process must stay the same one. If a single scrape fails, the last check still says why.
    let worker_up = || request(there, "GET", "/metrics").map(|answer| answer.try_sample(&up));
    let up = wait_until("there is a worker", worker_up, |up| matches!(up, Ok(Some(1.0))));
    assert!(up.is_ok());
    assert_nothing_crashed(&standby);
    assert_eq!(exporters(&mut session), [pid], "{}", standby.log());
}

#[test]
fn without_preloading_nobody_listens() {
    let address = free_address();
    let cluster = cluster_with_world(&listening("scrape-unloaded", address).without_preload());
    let mut db = fresh_database(&cluster);
    db.run(&ensure(1, 3));
    assert!(connect(address).is_err() && exporters(&mut db).is_empty());
}
