//! The requests to an OpenTelemetry collector: metrics with their values, and spans of committed work. A collector that
//! misbehaves makes neither the server nor a client wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{
    Behaviour, Collector, CollectorAnswer, ExportBody, Fault, Point, ReceivedExport, ReceivedSpan,
    synthetic_asn,
};
use server_tests::cymru::{Lab, member, members, queue, wait_for_the_queue};
use server_tests::database::cluster_with_world;
use server_tests::hosts::COWRIE;
use server_tests::http::{Plan, request};
use server_tests::scrape::{exporter_pid, exporters};
use server_tests::{Cluster, Database, Options, Session, fresh_database, wait_until};

fn options(name: &str, collector: &Collector) -> Options {
    Options::named(name)
        .conf(&format!("cowrie_enrich.otlp_endpoint = '{}'", collector.url()))
        .conf("cowrie_enrich.otlp_interval = 100ms")
        .conf("cowrie_enrich.otlp_sample_ratio = 1")
}

/// Starts a server without workers of databases.
fn server(name: &str, collector: &Collector) -> Cluster {
    cluster_with_world(&options(name, collector))
}

fn lab(name: &str, collector: &Collector) -> Lab {
    Lab::start(options(name, collector).with_worker())
}

/// Returns the accepted spans in the order of their arrival.
fn spans(collector: &Collector) -> Vec<ReceivedSpan> {
    let taken = |request: &ReceivedExport| request.status == Some(200);
    collector.requests().iter().filter(|request| taken(request)).flat_map(ReceivedExport::spans).collect()
}

fn named(spans: &[ReceivedSpan], name: &str) -> Vec<ReceivedSpan> {
    spans.iter().filter(|span| span.name == name).cloned().collect()
}

const ENSURE: &str = "enrich.ensure_asn_inventory";

/// Returns the points of the latest metrics.
fn latest(collector: &Collector) -> Vec<Point> {
    let requests = collector.requests();
    requests.iter().rev().map(ReceivedExport::points).find(|points| !points.is_empty()).unwrap_or_default()
}

/// Waits for metrics that were made after the call.
fn next(collector: &Collector) -> Vec<Point> {
    let count = |collector: &Collector| {
        collector.requests().iter().filter(|request| matches!(request.sent, ExportBody::Metrics(_))).count()
    };
    // The first request may have started before.
    let before = count(collector);
    wait_until("metrics come", || count(collector), |now| *now >= before + 2);
    latest(collector)
}

fn point<'a>(points: &'a [Point], name: &str, attributes: &[(&str, &str)]) -> &'a Point {
    let has = |point: &Point| {
        attributes.iter().all(|(key, value)| point.attributes.get(*key).is_some_and(|own| own == value))
    };
    let found: Vec<&Point> = points.iter().filter(|point| point.name == name && has(point)).collect();
    match found[..] {
        [one] => one,
        _ => panic!("{} points of {name} {attributes:?}: {found:?}", found.len()),
    }
}

#[track_caller]
fn value(session: &mut Session, name: &str, labels: &str) -> i64 {
    session.number(&format!(
        "SELECT COALESCE(sum(value), 0)::bigint FROM enrich.enrich_metrics
         WHERE name = '{name}' AND labels @> '{labels}'"
    ))
}

fn requests(session: &mut Session, signal: &str, outcome: &str) -> i64 {
    let labels = format!(r#"{{"signal": "{signal}", "outcome": "{outcome}"}}"#);
    value(session, "enrich_otlp_requests_total", &labels)
}

fn items(session: &mut Session, signal: &str, result: &str) -> i64 {
    let labels = format!(r#"{{"signal": "{signal}", "result": "{result}"}}"#);
    value(session, "enrich_otlp_items_total", &labels)
}

/// Returns a statement that creates this number of networks, beginning with a number.
fn ensure(first: i64, networks: i64) -> String {
    format!(
        "SELECT enrich.ensure_asn_inventory(n, 'Net ' || n, 'DE', 'RIPE')
         FROM generate_series({first}, {first} + {networks} - 1) n"
    )
}

#[test]
fn metrics_arrive_with_their_names_types_units_and_values() {
    let collector = Collector::start();
    let cluster = server("otlp-metrics", &collector);
    let mut db = fresh_database(&cluster);
    db.run(&ensure(64_500, 7));
    db.run("SELECT enrich.ensure_asn_inventory(64500, 'Another name', 'DE', overwrite => true)");
    let points = next(&collector);
    assert_eq!(
        collector.requests().iter().filter(|it| matches!(it.sent, ExportBody::Unreadable(_))).count(),
        0,
        "{:?}",
        collector.requests()
    );

    let created = point(&points, "asn_inventory.records_created", &[("source", "manual")]);
    assert_eq!((created.kind.as_str(), created.unit.as_str(), created.value), ("sum", "{network}", 7.0));
    let labels = [("source", "manual"), ("country", "DE"), ("rir", "RIPE")];
    assert_eq!(created.attributes, labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    let updated = [("source", "manual"), ("update_type", "metadata_enrichment")];
    assert_eq!(point(&points, "asn_inventory.records_updated", &updated).value, 1.0);
    let up = point(&points, "enrich.exporter_up", &[]);
    assert_eq!((up.kind.as_str(), up.value), ("gauge", 1.0));

    let durations = point(&points, "asn_inventory.operation_duration_ms", &[("operation", "create")]);
    assert_eq!((durations.kind.as_str(), durations.unit.as_str(), durations.value), ("histogram", "ms", 7.0));
    assert_eq!(durations.buckets.iter().sum::<u64>(), 7);
    for bound in [1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0] {
        assert!(durations.bounds.contains(&bound), "{bound} of {:?}", durations.bounds);
    }
    assert!(durations.bounds[0] < 0.01 && durations.buckets.len() == durations.bounds.len() + 1);
    // In milliseconds. The SQL view has seconds.
    let seconds: f64 = db
        .one(
            "SELECT value FROM enrich.enrich_metrics WHERE labels @> '{\"operation\": \"create\"}'
             AND name = 'asn_inventory_operation_duration_seconds_sum'",
        )
        .parse()
        .expect("a number");
    assert!((durations.sum - seconds * 1000.0).abs() < 1e-6, "{} ms, {seconds} s", durations.sum);

    // Compares all families that have samples, and the values of all samples except those that the export changes.
    let declared: Vec<&str> =
        cowrie_enrich_engine::metrics::declarations::ALL.iter().map(|family| family.name).collect();
    assert!(points.iter().all(|point| declared.contains(&point.name.as_str())));
    assert!(points.len() > 100, "{} points", points.len());

    let version = env!("CARGO_PKG_VERSION");
    let system = db.one("SELECT system_identifier FROM pg_control_system()");
    for point in &points {
        let said = |key: &str| point.resource.get(key).cloned().unwrap_or_default();
        assert_eq!((said("service.name"), said("service.version")), ("cowrie_enrich".into(), version.into()));
        assert_eq!(said("db.system.name"), "postgresql");
        assert!(said("service.instance.id").starts_with(&format!("{system}-")), "{:?}", point.resource);
        assert!(point.kind == "gauge" || point.since > 0 && point.since < point.at, "{point:?}");
    }

    // After a reset counters start again, with a new start time.
    let since = created.since;
    db.run("SELECT enrich.reset_enrich_stats()");
    db.run(&ensure(64_600, 2));
    let points = next(&collector);
    let created = point(&points, "asn_inventory.records_created", &[("source", "manual")]);
    assert_eq!(created.value, 2.0);
    assert!(created.since > since && created.since < created.at);
}

#[test]
fn a_networks_span_says_what_was_created_or_updated() {
    let collector = Collector::start();
    let cluster = server("otlp-networks", &collector);
    let mut db = fresh_database(&cluster);
    COWRIE.create_attached(&mut db);
    wait_until("spans are collected", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    let before = db.one("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    db.run("SELECT enrich.ensure_asn_inventory(64500, 'Réseau de test', 'FR', 'RIPE')");
    db.run("SELECT enrich.ensure_asn_inventory(64500, 'Another', 'FR', overwrite => true)");
    db.run("SELECT enrich.ensure_asn_inventory(64501)");
    // Nothing changes except the time at which the network was last seen.
    db.run("SELECT enrich.ensure_asn_inventory(64501)");
    // A session from a network in the mmdb file.
    db.run(&COWRIE.insert(&[("s1", Some("123.123.123.5"))]));
    let seen = wait_until("the spans come", || spans(&collector), |seen| seen.len() >= 5);
    let after = db.one("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    let of: Vec<Vec<&str>> = seen
        .iter()
        .map(|span| {
            ["number", "organization", "country", "rir", "operation", "source"]
                .iter()
                .map(|key| span.attributes.get(&format!("asn.{key}")).map_or("", String::as_str))
                .collect()
        })
        .collect();
    assert_eq!(
        of,
        [
            ["64500", "Réseau de test", "FR", "RIPE", "create", "manual"],
            ["64500", "Another", "FR", "RIPE", "update", "manual"],
            ["64501", "unknown", "unknown", "unknown", "create", "manual"],
            ["64501", "unknown", "unknown", "unknown", "update", "manual"],
            ["4808", "中国联通", "CN", "APNIC", "create", "maxmind"],
        ]
    );
    let (before, after): (u64, u64) = (before.parse().expect("a time"), after.parse().expect("a time"));
    let database = db.one("SELECT current_database()");
    for span in &seen {
        assert_eq!((span.name.as_str(), span.parent.as_str(), &span.error), (ENSURE, "", &None));
        assert_eq!((span.trace.len(), span.id.len()), (32, 16));
        assert_eq!(span.attributes["db.namespace"], database);
        assert!(before * 1000 <= span.began && span.began <= span.ended && span.ended <= after * 1000);
    }
}

#[test]
fn what_was_rolled_back_leaves_no_span() {
    let collector = Collector::start();
    let cluster = server("otlp-rollback", &collector);
    let mut db = fresh_database(&cluster);
    wait_until("spans are collected", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    db.run(&format!("BEGIN; {}; ROLLBACK", ensure(1, 10)));
    db.run(&format!(
        "BEGIN; {}; SAVEPOINT a; {}; SAVEPOINT b; {}; RELEASE b; ROLLBACK TO a; {}; SAVEPOINT c; {}; RELEASE c; COMMIT",
        ensure(100, 1),
        ensure(200, 10),
        ensure(300, 10),
        ensure(400, 2),
        ensure(500, 4)
    ));
    db.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'p'", ensure(600, 1)));
    db.run("COMMIT PREPARED 'p'");
    // Earlier spans have arrived, because spans keep their order.
    db.run(&ensure(700, 1));
    let seen = wait_until(
        "the last span comes",
        || spans(&collector),
        |seen| seen.iter().any(|span| span.attributes["asn.number"] == "700"),
    );
    let numbers: Vec<&str> = seen.iter().map(|span| span.attributes["asn.number"].as_str()).collect();
    assert_eq!(numbers, ["100", "400", "401", "500", "501", "502", "503", "600", "700"]);
}

/// Returns the batch's span and its parts, by name.
fn batch(seen: &[ReceivedSpan], id: &str) -> BTreeMap<String, ReceivedSpan> {
    let parts = seen.iter().filter(|span| span.parent == id && span.name != ENSURE);
    let mut found = BTreeMap::new();
    for part in parts {
        assert!(found.insert(part.name.clone(), part.clone()).is_none(), "two of {}", part.name);
    }
    found
}

#[test]
fn a_batch_has_its_parts_and_what_was_written_down_belongs_to_it() {
    let collector = Collector::start();
    let lab = lab("otlp-batch", &collector);
    let mut db = lab.database();
    wait_until("spans are collected", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(300)));
    let addresses = members(0..40);
    queue(&mut db, &addresses);
    wait_for_the_queue(&mut db);
    let seen = wait_until(
        "the batch comes",
        || spans(&collector),
        |seen| !named(seen, "enrich.batch").is_empty() && !named(seen, "apply").is_empty(),
    );
    let [whole] = &named(&seen, "enrich.batch")[..] else { panic!("{seen:?}") };
    let database = db.one("SELECT current_database()");
    let expected = [
        ("enrich.provider", "cymru"),
        ("enrich.batch_size", "40"),
        ("enrich.answers", "40"),
        ("enrich.outcome", "completed"),
        ("db.namespace", &database),
    ];
    assert_eq!(whole.attributes, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    assert_eq!((whole.parent.as_str(), &whole.error), ("", &None));
    let parts = batch(&seen, &whole.id);
    assert_eq!(parts.keys().collect::<Vec<_>>(), ["apply", "connect", "query"]);
    let (connect, query, apply) = (&parts["connect"], &parts["query"], &parts["apply"]);
    for part in parts.values() {
        assert_eq!((&part.trace, &part.error), (&whole.trace, &None));
        assert!(whole.began <= part.began && part.ended <= whole.ended, "{part:?} in {whole:?}");
    }
    assert_eq!((connect.began, connect.ended, apply.ended), (whole.began, query.began, whole.ended));
    assert!(query.ended - query.began >= 300_000_000, "{query:?}");
    assert!(connect.ended - connect.began < 300_000_000, "{connect:?}");
    assert!(query.ended <= apply.began, "{query:?} before {apply:?}");

    // The networks of the answer were created while the batch was applied.
    let networks = named(&seen, ENSURE);
    let expected: BTreeSet<String> = addresses.iter().map(|a| synthetic_asn(*a).to_string()).collect();
    let numbers: BTreeSet<String> = networks.iter().map(|it| it.attributes["asn.number"].clone()).collect();
    assert_eq!((networks.len(), &numbers), (expected.len(), &expected));
    let stored = db.rows(
        "SELECT asn_number, organization_name, organization_country, rir_registry FROM enrich.asn_inventory
         ORDER BY asn_number::text COLLATE \"C\"",
    );
    let mut said: Vec<String> = Vec::new();
    for network in &networks {
        assert_eq!((&network.parent, &network.trace), (&apply.id, &whole.trace));
        assert_eq!(network.attributes["asn.source"], "cymru");
        assert_eq!(network.attributes["asn.operation"], "create");
        assert!(apply.began <= network.began && network.ended <= apply.ended);
        let keys = ["asn.number", "asn.organization", "asn.country", "asn.rir"];
        said.push(keys.map(|key| network.attributes[key].as_str()).join("|"));
    }
    said.sort();
    assert_eq!(said, stored);
    lab.assert_nothing_crashed();
}

#[test]
fn requests_that_are_written_down_together_have_a_batch_each() {
    let collector = Collector::start();
    let plan = Plan::of("otlp-together", "greynoise");
    let lab = plan.options(|_| options("otlp-together", &collector).with_worker()).start();
    let mut db = lab.database();
    wait_until("spans are collected", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    request(&mut db, "greynoise", &members(0..20));
    let is_whole =
        |seen: &[ReceivedSpan]| ["enrich.batch", "apply"].map(|name| named(seen, name).len()) == [20; 2];
    let seen = wait_until("the batches come", || spans(&collector), |seen| is_whole(seen));
    for whole in named(&seen, "enrich.batch") {
        assert_eq!((whole.attributes["enrich.provider"].as_str(), &whole.error), ("greynoise", &None));
        assert_eq!(whole.attributes["enrich.batch_size"], "1");
        let parts = batch(&seen, &whole.id);
        assert_eq!(parts.keys().collect::<Vec<_>>(), ["apply", "connect", "query"]);
        assert!(parts["query"].ended > parts["query"].began, "{parts:?}");
        assert!(parts["query"].ended <= parts["apply"].began && parts["apply"].ended <= whole.ended);
    }
    let traces: BTreeSet<String> = seen.iter().map(|span| span.trace.clone()).collect();
    assert_eq!(traces.len(), 20);
    // The first request opens a connection. Later ones use it, so their connect spans take no time.
    let took: Vec<u64> = named(&seen, "connect").iter().map(|span| span.ended - span.began).collect();
    assert!(took.iter().any(|time| *time > 0), "{took:?}");
    lab.assert_nothing_crashed();
}

#[test]
fn a_batch_that_failed_says_where() {
    let collector = Collector::start();
    let lab = lab("otlp-failed", &collector);
    lab.reconfigure(&["cymru_transport = whois", "max_attempts = 1", "cymru_timeout = 1s"]);
    let mut db = lab.database();
    wait_until("spans are collected", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    let failed = |outcome: &str| {
        wait_until(
            &format!("a batch ends with {outcome}"),
            || {
                let seen = spans(&collector);
                let batches = named(&seen, "enrich.batch");
                let is_it = |span: &&ReceivedSpan| span.attributes["enrich.outcome"] == outcome;
                batches.iter().find(is_it).map(|whole| (whole.clone(), batch(&seen, &whole.id)))
            },
            |found| found.as_ref().is_some_and(|(_, parts)| parts.contains_key("apply")),
        )
        .expect("it was found")
    };
    // The stand-in accepts the connection and never answers.
    lab.whois.behave(Behaviour { fault: Some(Fault::Silent), ..Behaviour::normal() });
    queue(&mut db, &[member(0, 1)]);
    let (whole, parts) = failed("silent");
    let why = "no answer within the timeout";
    assert_eq!(whole.error.as_deref(), Some(why));
    assert_eq!((&parts["connect"].error, parts["query"].error.as_deref()), (&None, Some(why)));
    assert_eq!(parts["apply"].error, None);
    assert_eq!(whole.attributes["enrich.answers"], "0");

    // Nothing listens any more.
    lab.whois.stop();
    queue(&mut db, &[member(1, 1)]);
    let (whole, parts) = failed("unreachable");
    let why = whole.error.expect("an error");
    assert!(why.contains("could not connect"), "{why}");
    assert_eq!(parts["connect"].error.as_ref(), Some(&why));
    assert_eq!(parts.keys().collect::<Vec<_>>(), ["apply", "connect"]);
}

/// Asserts that clients of the server and of its metrics are served, in any state of the collector.
fn assert_served(db: &mut Database) {
    let began = Instant::now();
    db.run("SELECT enrich.ensure_asn_inventory(1 + (random() * 1000000)::int)");
    assert!(db.one("SELECT enrich.prometheus_metrics() LIKE '%enrich_otlp%'") == "t");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_collector_that_does_not_behave_costs_a_counter_and_nothing_else() {
    let collector = Collector::start();
    let cluster = server("otlp-hostile", &collector);
    let mut db = fresh_database(&cluster);
    db.run(&ensure(64_500, 1));
    wait_until("all is well", || items(&mut db, "traces", "taken"), |taken| *taken == 1);
    let later = |code| CollectorAnswer::Status { code, retry_after: None };
    let mut number = 64_600;
    for (answer, outcome) in [
        (later(429), "deferred"),
        (later(502), "deferred"),
        (later(503), "deferred"),
        (later(504), "deferred"),
        (CollectorAnswer::Close, "deferred"),
        (later(500), "refused"),
        (later(400), "refused"),
        (later(404), "refused"),
        (later(302), "refused"),
    ] {
        let of = |db: &mut Database, signal| requests(db, signal, outcome);
        let before = [of(&mut db, "metrics"), of(&mut db, "traces")];
        let (taken, rejected) = (items(&mut db, "traces", "taken"), items(&mut db, "traces", "rejected"));
        collector.answer(answer.clone());
        number += 1;
        db.run(&ensure(number, 1));
        wait_until(
            &format!("both kinds are {outcome} by {answer:?}"),
            || [of(&mut db, "metrics"), of(&mut db, "traces")],
            |now| now[0] > before[0] && now[1] > before[1],
        );
        assert_served(&mut db);
        collector.answer(CollectorAnswer::Take);
        // Spans that the collector deferred arrive now. Spans that it refused do not arrive, and are counted.
        db.run(&ensure(number + 100_000, 1));
        let seen = wait_until(
            &format!("it recovers from {answer:?}"),
            || spans(&collector),
            |seen| seen.iter().any(|span| span.attributes["asn.number"] == (number + 100_000).to_string()),
        );
        let count = seen.iter().filter(|span| span.attributes["asn.number"] == number.to_string()).count();
        assert_eq!(count, usize::from(outcome == "deferred"), "{answer:?}");
        let gone = items(&mut db, "traces", "rejected") - rejected;
        assert_eq!(gone >= 1, outcome == "refused", "{gone} rejected by {answer:?}");
        assert!(items(&mut db, "traces", "taken") > taken);
    }
    assert_eq!(items(&mut db, "traces", "dropped"), 0);
    // One line per series of failures, regardless of their number.
    let log = cluster.whole_log();
    let lines = log.lines().filter(|line| line.contains("could not send metrics or spans by OTLP")).count();
    assert!((1..=3).contains(&lines), "{lines} lines");
    server_tests::cymru::assert_nothing_crashed(&cluster);
}

#[test]
fn a_collector_that_says_when_is_left_alone_until_then() {
    let collector = Collector::start();
    let cluster = server("otlp-rest", &collector);
    let mut db = fresh_database(&cluster);
    wait_until("all is well", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    collector.answer(CollectorAnswer::Status { code: 429, retry_after: Some("3".to_owned()) });
    wait_until("it is put off", || requests(&mut db, "metrics", "deferred"), |put_off| *put_off > 0);
    let refused = |collector: &Collector| {
        let metrics = |request: &&ReceivedExport| matches!(request.sent, ExportBody::Metrics(_));
        let requests = collector.requests();
        requests.into_iter().filter(|it| metrics(&it) && it.status == Some(429)).collect::<Vec<_>>()
    };
    let first = refused(&collector)[0].at;
    collector.answer(CollectorAnswer::Take);
    collector.forget();
    wait_until("it comes again", || latest(&collector).len(), |points| *points > 0);
    let again = collector.requests()[0].at;
    assert!(again - first >= Duration::from_millis(2900), "{:?}", again - first);
}

#[test]
fn a_silent_collector_holds_up_neither_the_server_nor_other_requests() {
    let collector = Collector::start();
    let cluster = server("otlp-silent", &collector);
    let mut db = fresh_database(&cluster);
    wait_until("all is well", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    collector.answer(CollectorAnswer::Silent);
    collector.forget();
    db.run(&ensure(64_500, 1));
    let count = |collector: &Collector| collector.requests().len();
    wait_until("both kinds are held", || count(&collector), |held| *held == 2);
    // The exporter obeys a reload meanwhile. Of each kind, never more than one request is in flight.
    assert_served(&mut db);
    cluster.configure(&["cowrie_enrich.otlp_sample_ratio = 0".to_owned()]);
    db.run("SELECT pg_reload_conf()");
    wait_until(
        "nothing is sampled any more",
        || {
            let before = db.number("SELECT count(*) FROM enrich.asn_inventory");
            db.run(&ensure(1_000_000 + before, 1));
            assert_eq!(count(&collector), 2);
            db.one("SHOW cowrie_enrich.otlp_sample_ratio")
        },
        |ratio| ratio == "0",
    );
    // The requests time out.
    wait_until("it gives up", || requests(&mut db, "metrics", "deferred"), |put_off| *put_off > 0);
    collector.answer(CollectorAnswer::Take);
    wait_until("it recovers", || latest(&collector).len(), |points| *points > 0);

    // A silent collector does not delay the server's shutdown either.
    collector.answer(CollectorAnswer::Silent);
    collector.forget();
    wait_until("metrics are held", || count(&collector), |held| *held > 0);
    let began = Instant::now();
    cluster.stop_fast();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    server_tests::cymru::assert_nothing_crashed(&cluster);
}

#[test]
fn a_collector_that_is_not_there_costs_nothing_and_is_found_again() {
    let collector = Collector::start();
    let cluster = server("otlp-refusing", &collector);
    let mut db = fresh_database(&cluster);
    wait_until("all is well", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    collector.stop();
    db.run(&ensure(64_500, 3));
    wait_until("it is missed", || requests(&mut db, "traces", "deferred"), |missed| *missed > 0);
    assert_served(&mut db);
    collector.start_again();
    let seen = wait_until("the spans come", || spans(&collector), |seen| seen.len() >= 3);
    assert_eq!(seen[0].attributes["asn.number"], "64500");
    assert_eq!(items(&mut db, "traces", "dropped"), 0);
}

#[test]
fn what_a_collector_does_not_take_is_counted_and_logged() {
    let collector = Collector::start();
    let cluster = server("otlp-partial", &collector);
    let mut db = fresh_database(&cluster);
    collector.answer(CollectorAnswer::TakeBut { rejected: 2, words: "too many attributes".to_owned() });
    db.run("SELECT 1");
    wait_until("spans are collected", || items(&mut db, "metrics", "rejected"), |all| *all > 0);
    db.run(&ensure(64_500, 5));
    wait_until("some are rejected", || items(&mut db, "traces", "rejected"), |all| *all == 2);
    assert_eq!(items(&mut db, "traces", "taken"), 3);
    assert_eq!(requests(&mut db, "traces", "taken"), 1);
    let said = "the collector rejected 2 of ";
    wait_until("the log has it", || cluster.whole_log(), |log| log.contains(said));
    assert!(cluster.whole_log().contains("too many attributes"));
}

#[test]
fn spans_that_nobody_fetches_are_dropped_and_counted() {
    let collector = Collector::start();
    let cluster = server("otlp-overflow", &collector);
    let mut db = fresh_database(&cluster);
    wait_until("all is well", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    collector.answer(CollectorAnswer::Silent);
    db.run(&ensure(1, 1));
    let is_traces = |request: &ReceivedExport| matches!(request.sent, ExportBody::Traces(_));
    wait_until("spans are held", || collector.requests().iter().any(is_traces), |held| *held);
    // One transaction keeps 64 spans. The ring has room for 2048.
    db.run(&ensure(100_000, 100));
    assert_eq!(items(&mut db, "traces", "dropped"), 36);
    let began = Instant::now();
    for n in 0..32 {
        db.run(&ensure(200_000 + 64 * n, 64));
    }
    assert_eq!(items(&mut db, "traces", "dropped"), 36 + 64, "{:?}", began.elapsed());
    collector.answer(CollectorAnswer::Take);
    let seen = wait_until("what was kept comes", || spans(&collector), |seen| seen.len() >= 2049);
    let ids: BTreeSet<&str> = seen.iter().map(|span| span.id.as_str()).collect();
    assert_eq!((seen.len(), ids.len()), (2049, 2049));
    assert_eq!(value(&mut db, "asn_inventory_records_created_total", "{}"), 1 + 100 + 32 * 64);
}

#[test]
fn nobody_makes_spans_while_there_is_no_endpoint() {
    let collector = Collector::start();
    let cluster = server("otlp-off", &collector);
    let mut db = fresh_database(&cluster);
    db.run(&ensure(1, 1));
    let exporters = "SELECT count(*) FROM enrich.worker_status() WHERE role = 'exporter'";
    wait_until("all is well", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    cluster.configure(&["cowrie_enrich.otlp_endpoint = ''".to_owned()]);
    db.run("SELECT pg_reload_conf()");
    wait_until("the exporter ends", || db.number(exporters), |count| *count == 0);
    let dropped = items(&mut db, "traces", "dropped");
    for n in 0..40 {
        db.run(&ensure(100_000 + 100 * n, 100));
    }
    assert_eq!(items(&mut db, "traces", "dropped"), dropped);
    collector.forget();
    cluster.configure(&[format!("cowrie_enrich.otlp_endpoint = '{}'", collector.url())]);
    db.run("SELECT pg_reload_conf()");
    wait_until("it is back", || latest(&collector).len(), |points| *points > 0);
    db.run(&ensure(64_500, 1));
    let seen = wait_until("a span comes", || spans(&collector), |seen| !seen.is_empty());
    assert_eq!(seen[0].attributes["asn.number"], "64500");
}

#[test]
fn nobody_makes_spans_for_an_exporter_that_was_killed_before_it_was_turned_off() {
    let collector = Collector::start();
    let cluster = server("otlp-killed", &collector);
    let mut db = fresh_database(&cluster);
    wait_until("all is well", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    cluster.configure(&["cowrie_enrich.otlp_endpoint = ''".to_owned()]);
    let exporter = exporter_pid(&mut db);
    assert_eq!(db.one(&format!("SELECT pg_terminate_backend({exporter}, 10000)")), "t");
    db.run("SELECT pg_reload_conf()");
    // Spans that were made before the launcher read the setting are dropped. After that, no spans are made.
    let mut first = 100_000;
    wait_until(
        "no more spans are made",
        || {
            let before = items(&mut db, "traces", "dropped");
            for _ in 0..40 {
                db.run(&ensure(first, 64));
                first += 64;
            }
            items(&mut db, "traces", "dropped") - before
        },
        |made| *made == 0,
    );
    assert!(exporters(&mut db).is_empty());
}

#[test]
fn another_collector_is_served_at_once_whatever_the_last_one_asked_for() {
    let (first, second) = (Collector::start(), Collector::start());
    let cluster = server("otlp-moved", &first);
    let mut db = fresh_database(&cluster);
    wait_until("all is well", || items(&mut db, "metrics", "taken"), |taken| *taken > 0);
    first.answer(CollectorAnswer::Status { code: 429, retry_after: Some("3000".to_owned()) });
    db.run(&ensure(64_500, 1));
    for signal in ["metrics", "traces"] {
        wait_until("it is put off", || requests(&mut db, signal, "deferred"), |put_off| *put_off > 0);
    }
    cluster.reconfigure(&[format!("cowrie_enrich.otlp_endpoint = '{}'", second.url())]);
    wait_until("the other gets metrics", || latest(&second).len(), |points| *points > 0);
    let seen = wait_until("and spans", || spans(&second), |seen| !seen.is_empty());
    assert_eq!(seen[0].attributes["asn.number"], "64500");

    // A collector that never answers does not delay the requests to the next collector.
    second.answer(CollectorAnswer::Silent);
    second.forget();
    db.run(&ensure(64_501, 1));
    wait_until("both kinds are held", || second.requests().len(), |held| *held == 2);
    first.answer(CollectorAnswer::Take);
    first.forget();
    let began = Instant::now();
    cluster.reconfigure(&[format!("cowrie_enrich.otlp_endpoint = '{}'", first.url())]);
    let seen = wait_until("the first gets spans again", || spans(&first), |seen| !seen.is_empty());
    assert_eq!(seen[0].attributes["asn.number"], "64501");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn an_interval_that_is_shortened_is_heeded_at_once() {
    let collector = Collector::start();
    let options = options("otlp-interval", &collector).conf("cowrie_enrich.otlp_interval = 1h");
    let cluster = cluster_with_world(&options);
    let count = || collector.requests().len();
    wait_until("the first metrics come", count, |sent| *sent == 1);
    cluster.reconfigure(&["cowrie_enrich.otlp_interval = 100ms".to_owned()]);
    wait_until("more come", count, |sent| *sent >= 3);
}

#[test]
fn a_standby_is_another_instance() {
    let collector = Collector::start();
    let cluster = server("otlp-primary", &collector);
    let db = fresh_database(&cluster);
    let standby = cluster.standby(&Options::named("otlp-standby").conf("listen_addresses = ''"));
    let instances = wait_until(
        "both send metrics",
        || {
            let points = collector.requests().iter().flat_map(ReceivedExport::points).collect::<Vec<_>>();
            let of = |point: &Point| point.resource["service.instance.id"].clone();
            points.iter().map(of).collect::<BTreeSet<_>>()
        },
        |instances| instances.len() == 2,
    );
    let number = |instance: &String| instance.split('-').next().map(str::to_owned);
    assert_eq!(instances.iter().map(number).collect::<BTreeSet<_>>().len(), 1, "{instances:?}");
    drop((db, standby));
}

#[test]
fn endpoints_with_secrets_or_without_sense_are_refused() {
    let cluster = cluster_with_world(&Options::named("otlp-settings"));
    let mut db = fresh_database(&cluster);
    for bad in ["collector:4318", "http://me:word@collector", "grpc://collector", "http://collector/?key=1"] {
        let refusal = db.refused(&format!("ALTER SYSTEM SET cowrie_enrich.otlp_endpoint = '{bad}'"));
        assert_eq!(refusal.code, "22023", "{bad}");
    }
    db.run("CREATE ROLE curious LOGIN");
    let mut session = db.session_as("curious");
    assert_eq!(session.refused("SHOW cowrie_enrich.otlp_endpoint").code, "42501");
}
