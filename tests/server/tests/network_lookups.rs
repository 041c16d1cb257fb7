//! Team Cymru is asked about networks: each network once, in requests of their own, and nothing wrong is stored.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cowrie_enrich_test_mmdb::Writer;
use cowrie_enrich_upstreams::{
    Behaviour, FOREIGN_ASN, FOREIGN_COUNTRY, FOREIGN_NAME, Fault, NetworkFault, Routes, synthetic_asn,
    synthetic_country, synthetic_name,
};
use server_tests::cymru::{
    Lab, assert_placed, members, provider, queue, start_worker, state, wait_for_permits, wait_for_the_queue,
    worker_pid, worker_pid_now,
};
use server_tests::hosts::COWRIE;
use server_tests::installation;
use server_tests::world::asn_record;
use server_tests::{Options, Session, wait_until};

/// First AS number of the synthetic internet.
const FIRST: u64 = 1_000_000;

fn options(name: &str) -> Options {
    Options::named(name).with_worker().conf("cowrie_enrich.cymru_networks = on")
}

fn lab(name: &str) -> Lab {
    Lab::start(options(name))
}

/// Creates networks as if an mmdb file had named them: with a name and a country of an address.
fn create(session: &mut Session, from: u64, count: u64) {
    session.run(&format!(
        "INSERT INTO enrich.asn_inventory (asn_number, organization_name, organization_country, rir_registry, enrichment)
         SELECT n, 'File ' || n, 'FR', 'AFRINIC',
                '{{\"provenance\": {{\"organization_name\": \"maxmind\", \"organization_country\": \"maxmind\", \"rir_registry\": \"iana\"}}}}'
         FROM generate_series({from}, {from} + {count} - 1) n"
    ));
}

/// Creates networks of which only the number is known.
fn create_bare(session: &mut Session, asns: &[u64]) {
    for asn in asns {
        session.run(&format!("INSERT INTO enrich.asn_inventory (asn_number) VALUES ({asn})"));
    }
}

/// Waits until each network has an answer, also a negative one.
#[track_caller]
fn wait_for_answers(session: &mut Session) {
    wait_until(
        "all networks have an answer",
        || {
            let open = session.number(
                "SELECT count(*) FROM enrich.asn_inventory
                 WHERE enrichment #>> '{_meta,cymru,state}' IS NULL AND NOT enrich.is_bogon_asn(asn_number)",
            );
            let jobs = session.number("SELECT count(*) FROM enrich.enrichment_job");
            if open + jobs == 0 { String::new() } else { format!("{open} open\n{}", state(session)) }
        },
        String::is_empty,
    );
}

fn registry(asn: u64) -> &'static str {
    match synthetic_country(asn) {
        "US" => "ARIN",
        "DE" | "NL" => "RIPE",
        "JP" | "KR" => "APNIC",
        "BR" => "LACNIC",
        _ => "AFRINIC",
    }
}

/// Returns the stored values of each network.
fn stored(session: &mut Session) -> BTreeMap<u64, String> {
    session
        .rows(
            "SELECT asn_number, organization_name || '/' || organization_country || '/' || rir_registry || '/'
                    || allocated_on || '/' || as_name
             FROM enrich.asn_inventory",
        )
        .iter()
        .map(|row| {
            let (asn, values) = row.split_once('|').expect("two columns");
            (asn.parse().expect("a number"), values.to_owned())
        })
        .collect()
}

/// Asserts that these networks, which [`create`] created, have the values of Team Cymru.
#[track_caller]
fn assert_filled(session: &mut Session, from: u64, count: u64) {
    let stored = stored(session);
    for asn in from..from + count {
        let name = synthetic_name(asn);
        let expected = format!("File {asn}/{}/{}/2020-02-20/{name}", synthetic_country(asn), registry(asn));
        assert_eq!(stored.get(&asn), Some(&expected), "{}", state(session));
    }
}

const WRONG: &str = "SELECT count(*) FROM enrich.asn_inventory a WHERE a::text ~ ";

/// Asserts that no value of a faulty row is stored.
#[track_caller]
fn assert_nothing_wrong(session: &mut Session, what: &str) {
    for wrong in [FOREIGN_NAME, "1992-12-01", "garbage"] {
        assert_eq!(session.number(&format!("{WRONG} '{wrong}'")), 0, "{what}: {wrong}");
    }
    let foreign = format!(
        "SELECT count(*) FROM enrich.asn_inventory
         WHERE organization_country = '{FOREIGN_COUNTRY}' OR asn_number BETWEEN {FOREIGN_ASN} AND {FOREIGN_ASN} + 9
            OR as_name IS NOT NULL AND as_name NOT LIKE 'SYNTH-%'"
    );
    assert_eq!(session.number(&foreign), 0, "{what}");
}

#[test]
fn twenty_thousand_networks_are_filled_by_forty_requests() {
    let lab = lab("networks-many");
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 20_000);
    wait_for_answers(&mut db);
    assert_filled(&mut db, FIRST, 20_000);
    let record = lab.whois.record();
    assert_eq!(record.connections.len(), 40, "{}", state(&mut db));
    assert!(record.connections.iter().all(|c| c.networks.len() == 500 && c.questions.is_empty()));
    assert_eq!(record.networks_answered_twice(), [] as [u64; 0]);
    assert_eq!(
        db.rows("SELECT DISTINCT enrichment -> 'provenance' FROM enrich.asn_inventory"),
        [
            r#"{"as_name": "cymru", "allocated_on": "cymru", "rir_registry": "cymru", "organization_name": "maxmind", "organization_country": "cymru"}"#
        ]
    );
    for (column, expected) in [("requests", 40), ("lookups", 20_000), ("answers", 20_000), ("unanswered", 0)]
    {
        assert_eq!(provider(&mut db, column), expected, "{column}");
    }
    wait_for_permits(&mut db);
    lab.assert_nothing_crashed();
}

#[test]
fn network_of_a_session_is_looked_up_soon_after_the_commit() {
    let lab = lab("networks-session");
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    start_worker(&mut db);
    wait_for_the_queue(&mut db);
    // 45.0.0.0/24 is in the file, with a reserved number. 60.0.0.1 is in no file.
    db.run(&COWRIE.insert(&[("a", Some("23.7.0.1")), ("b", Some("45.0.0.1")), ("c", Some("60.0.0.1"))]));
    wait_until(
        "the two networks have an answer",
        || state(&mut db),
        |_| lab.whois.record().networks().count() >= 2,
    );
    wait_for_answers(&mut db);
    let mut asked: Vec<u64> = lab.whois.record().networks().collect();
    asked.sort_unstable();
    // The stand-in does not know the network of the file. No request contains the reserved number.
    assert_eq!(asked, [200_007, synthetic_asn("60.0.0.1".parse().unwrap())]);
    assert_eq!(
        db.rows(
            "SELECT asn_number, enrichment #>> '{_meta,cymru,state}', lookup_queued_at IS NOT NULL
             FROM enrich.asn_inventory ORDER BY 1"
        ),
        ["200007|absent|t", "1015360|value|t", "4294967295|NULL|f"]
    );
    let record = lab.whois.record();
    assert!(record.connections.iter().all(|c| c.networks.is_empty() || c.questions.is_empty()));
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_job"), 0);
}

/// One worker for all faults. A fault either does no harm, or its networks have no answer while it lasts.
#[test]
fn no_fault_of_the_provider_writes_a_wrong_value() {
    let lab = Lab::start(
        options("networks-faults")
            .conf("cowrie_enrich.retry_base = 10ms")
            .conf("cowrie_enrich.cymru_timeout = 30s")
            .conf("cowrie_enrich.max_attempts = 3"),
    );
    let mut db = lab.database();
    start_worker(&mut db);
    let with_headings = |fault: NetworkFault| Behaviour::from(Fault::Networks(fault)).with_headings();
    let faults: Vec<(&str, Behaviour, &str)> = vec![
        // The name, the behaviour, and a count that moves; empty if the fault does no harm.
        ("mixed shapes", Fault::Networks(NetworkFault::MixedShapes).into(), "foreign_rows"),
        ("seven columns", Fault::Networks(NetworkFault::SevenColumns).into(), "foreign_rows"),
        ("swapped columns", Fault::Networks(NetworkFault::SwappedColumns).into(), "malformed_rows"),
        ("swapped columns and headings", with_headings(NetworkFault::SwappedColumns), "malformed_rows"),
        ("swapped names", Fault::Networks(NetworkFault::SwappedNames).into(), "malformed_rows"),
        ("bar in names", Fault::Networks(NetworkFault::BarInName).into(), "malformed_rows"),
        ("rows that end early", Fault::Networks(NetworkFault::CutRows).into(), "malformed_rows"),
        ("contradictions", Fault::Networks(NetworkFault::Contradicted).into(), "malformed_rows"),
        ("foreign rows only", Fault::Foreign { only: true }.into(), "foreign_rows"),
        ("cut in a row", Fault::CloseAfter { rows: 1, mid_row: true }.into(), "cut_off"),
        ("cut before the rows", Fault::CloseAfter { rows: 0, mid_row: false }.into(), "cut_off"),
        ("empty answer", Fault::Custom(Arc::new(|_| Vec::new())).into(), "cut_off"),
        ("garbage", Fault::Garbage(3_000).into(), "unanswered"),
        ("missing rows", Fault::Missing { every: 2 }.into(), "unanswered"),
        ("NUL bytes", Fault::NulBytes.into(), "malformed_rows"),
        ("duplicated rows", Fault::Networks(NetworkFault::Duplicated).into(), ""),
        ("foreign rows too", Fault::Foreign { only: false }.into(), ""),
        ("headings", Behaviour::normal().with_headings(), ""),
        ("other order", Fault::Reordered.into(), ""),
    ];
    for (nth, (what, behaviour, count)) in (0..).zip(faults) {
        eprintln!("{what}");
        let from = FIRST + nth * 10;
        let before = if count.is_empty() { 0 } else { provider(&mut db, count) };
        lab.whois.behave(behaviour);
        create(&mut db, from, 4);
        if !count.is_empty() {
            wait_until(
                &format!("{count} moves: {what}"),
                || (provider(&mut db, count), state(&mut db)),
                |(now, _)| *now > before,
            );
            assert_nothing_wrong(&mut db, what);
            lab.whois.behave(Behaviour::normal());
            wait_until(
                "all lookups have ended",
                || {
                    // Lookups that the provider refused too often are queued again.
                    db.run("SELECT enrich.retry_dead_letters('cymru')");
                    db.run("SELECT enrich.resume_provider('cymru')");
                    let left = "SELECT count(*) FROM enrich.asn_inventory WHERE as_name IS NULL";
                    (db.number(left), state(&mut db))
                },
                |(left, _)| *left == 0,
            );
        }
        wait_for_answers(&mut db);
        assert_nothing_wrong(&mut db, what);
        assert_filled(&mut db, from, 4);
    }
    // A registry that does not exist is null, and the rest of the row is stored.
    lab.whois.behave(Fault::Networks(NetworkFault::UnknownRegistry));
    create_bare(&mut db, &[FIRST + 900]);
    wait_for_answers(&mut db);
    assert_eq!(
        db.one("SELECT rir_registry, organization_country IS NOT NULL FROM enrich.asn_inventory WHERE asn_number = 1000900"),
        "NULL|t"
    );
    lab.assert_nothing_crashed();
}

#[test]
fn network_that_nobody_knows_becomes_a_negative_answer_and_is_asked_again_later() {
    let lab = lab("networks-absent");
    let mut db = lab.database();
    start_worker(&mut db);
    create_bare(&mut db, &[300_000]);
    wait_for_answers(&mut db);
    let meta = "SELECT enrichment #>> '{_meta,cymru,state}', organization_name, rir_registry FROM enrich.asn_inventory";
    assert_eq!(db.one(meta), "absent|NULL|NULL");
    assert_eq!(provider(&mut db, "absent"), 1);
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
    // Neither a request nor a sweep asks again before the answer expires.
    db.run("SELECT enrich.request_enrichment(300000)");
    wait_for_the_queue(&mut db);
    sweep(&mut db);
    assert_eq!(lab.whois.record().networks().collect::<Vec<_>>(), [300_000]);
    age(&mut db, "8 days");
    sweep(&mut db);
    wait_until("it is asked again", || lab.whois.record().networks().count(), |asked| *asked == 2);
    wait_for_the_queue(&mut db);
}

#[test]
fn answer_is_asked_again_when_it_has_expired() {
    let lab = lab("networks-expired");
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 3);
    wait_for_answers(&mut db);
    age(&mut db, "89 days");
    sweep(&mut db);
    assert_eq!(lab.whois.record().networks().count(), 3);
    age(&mut db, "2 days");
    db.run("UPDATE enrich.asn_inventory SET as_name = 'OLD'");
    sweep(&mut db);
    wait_until("all are asked again", || lab.whois.record().networks().count(), |asked| *asked == 6);
    wait_for_the_queue(&mut db);
    assert_filled(&mut db, FIRST, 3);
}

/// Makes the answers about networks older.
fn age(session: &mut Session, by: &str) {
    session.run(&format!(
        "UPDATE enrich.asn_inventory
         SET enrichment = jsonb_set(enrichment, '{{_meta,cymru,asked_at}}',
             to_jsonb(to_char(((enrichment #>> '{{_meta,cymru,asked_at}}')::timestamptz - interval '{by}') AT TIME ZONE 'UTC',
                              'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')))
         WHERE enrichment #>> '{{_meta,cymru,asked_at}}' IS NOT NULL"
    ));
}

/// Replaces the worker by another one, which begins with a sweep. Returns after the sweep.
fn sweep(session: &mut Session) {
    let pid = worker_pid(session);
    session.run(&format!("SELECT pg_terminate_backend({pid})"));
    wait_until("another worker runs", || worker_pid_now(session), |now| now.is_some_and(|now| now != pid));
    // Each round of the worker sweeps before it folds. A sweep needs one round for the addresses and one for the
    // networks, and the first marker may come after the sweep of its round.
    for _ in 0..3 {
        session.run("INSERT INTO enrich.network_delta (asn_number, addresses, sessions) VALUES (1, 0, 0)");
        wait_until(
            "the worker has folded",
            || (session.number("SELECT count(*) FROM enrich.network_delta"), state(session)),
            |(left, _)| *left == 0,
        );
    }
    wait_for_the_queue(session);
}

#[test]
fn request_asks_about_a_network_and_creates_its_row() {
    let lab = lab("networks-request");
    let mut db = lab.database();
    db.run("SELECT enrich.request_enrichment(1000007), enrich.request_enrichment(1000008, 'cymru')");
    wait_until(
        "both networks are stored",
        || (db.number("SELECT count(*) FROM enrich.asn_inventory WHERE as_name IS NOT NULL"), state(&mut db)),
        |(count, _)| *count == 2,
    );
    assert_eq!(
        db.rows("SELECT asn_number, organization_name, organization_country, rir_registry FROM enrich.asn_inventory ORDER BY 1"),
        [
            format!("1000007|SYNTH-1000007 - Synthetic network|{}|{}", synthetic_country(1_000_007), registry(1_000_007)),
            format!("1000008|SYNTH-1000008 - Synthetic network|{}|{}", synthetic_country(1_000_008), registry(1_000_008)),
        ]
    );
    // The worker does not ask a second time about the networks that it has just created.
    wait_for_the_queue(&mut db);
    db.run("SELECT enrich.request_enrichment(1000007)");
    wait_for_the_queue(&mut db);
    assert_eq!(lab.whois.record().networks().count(), 2);
}

#[test]
fn request_that_cannot_be_sent_is_refused() {
    let lab = Lab::start(Options::named("networks-refused"));
    let mut db = lab.database();
    for (call, code, hint) in [
        ("request_enrichment(15169, 'greynoise')", "22023", Some("Use 'cymru'.")),
        ("request_enrichment(15169, 'shodan')", "22023", Some("Use one of cymru, greynoise, dshield, spur.")),
        ("request_enrichment(0)", "22003", None),
        ("request_enrichment(-1)", "22003", None),
        ("request_enrichment(4294967296)", "22003", None),
        ("request_enrichment(64512)", "22023", None),
        ("request_enrichment(4294967295)", "22023", None),
        ("request_enrichment(NULL::bigint)", "22004", None),
    ] {
        let refusal = db.refused(&format!("SELECT enrich.{call}"));
        assert_eq!((refusal.code.as_str(), refusal.hint.as_deref()), (code, hint), "{call}: {refusal:?}");
    }
    // Literals have no type, so they need a function of their own.
    db.run("SELECT enrich.request_enrichment('60.0.0.1', 'cymru'), enrich.request_enrichment('60.0.0.2', 'cymru', 5)");
    db.run("SELECT enrich.request_enrichment('60.0.0.3'::inet, 'cymru'), enrich.request_enrichment(15169::int, 'cymru')");
    assert_eq!(
        db.rows("SELECT host(ip_address), asn_number, provider, priority FROM enrich.enrichment_request ORDER BY 1"),
        ["60.0.0.1|NULL|cymru|0", "60.0.0.2|NULL|cymru|5", "60.0.0.3|NULL|cymru|0", "NULL|15169|cymru|0"]
    );
    for values in ["('60.0.0.1', 15169)", "(NULL, NULL)", "(NULL, 0)"] {
        let insert = format!(
            "INSERT INTO enrich.enrichment_request (ip_address, asn_number, provider)
             SELECT v.ip::inet, v.asn::bigint, 'cymru' FROM (VALUES {values}) v(ip, asn)"
        );
        assert_eq!(db.refused(&insert).code, "23514", "{values}");
    }
}

/// A name of a file is better than one of Team Cymru. The country and registry of the network itself are better than
/// those of a prefix.
#[test]
fn names_of_files_stay_and_facts_about_prefixes_are_replaced() {
    let mut routes = Routes::empty();
    routes.add("60.0.0.0/24", 24940, "FI", "arin", "2009-01-29", "HETZNER-AS, FI");
    routes.add("60.0.1.0/24", 24940, "NL", "apnic", "2011-01-29", "HETZNER-AS, NL");
    routes.add_network(24940, "DE", "ripencc", "2002-06-03", "HETZNER-AS, DE");
    let lab = Lab::with_routes(options("networks-ranks"), routes);
    lab.reconfigure(&["cymru_networks = off"]);
    let mut db = lab.database();
    let network = "SELECT organization_name, organization_country, rir_registry, allocated_on, as_name FROM enrich.asn_inventory";
    let sources = "SELECT enrichment -> 'provenance' FROM enrich.asn_inventory";
    // An address alone: values of its prefix, without the country in the name.
    queue(&mut db, &["60.0.0.1".parse().unwrap()]);
    wait_for_the_queue(&mut db);
    assert_eq!(db.one(network), "HETZNER-AS|FI|ARIN|NULL|NULL");
    lab.reconfigure(&["cymru_networks = on"]);
    wait_for_answers(&mut db);
    assert_eq!(db.one(network), "HETZNER-AS|DE|RIPE|2002-06-03|HETZNER-AS, DE");
    // Another prefix changes nothing.
    queue(&mut db, &["60.0.1.1".parse().unwrap()]);
    wait_for_the_queue(&mut db);
    assert_eq!(db.one(network), "HETZNER-AS|DE|RIPE|2002-06-03|HETZNER-AS, DE");
    // A file's name replaces the name of Team Cymru, and stays.
    db.run(
        r#"UPDATE enrich.asn_inventory
           SET organization_name = 'Hetzner Online GmbH',
               enrichment = jsonb_set(enrichment, '{provenance,organization_name}', '"maxmind"')"#,
    );
    age(&mut db, "100 days");
    sweep(&mut db);
    wait_until("it is asked again", || lab.whois.record().networks().count(), |asked| *asked == 2);
    wait_for_the_queue(&mut db);
    assert_eq!(db.one(network), "Hetzner Online GmbH|DE|RIPE|2002-06-03|HETZNER-AS, DE");
    assert_eq!(
        db.one(sources),
        r#"{"as_name": "cymru", "allocated_on": "cymru", "rir_registry": "cymru", "organization_name": "maxmind", "organization_country": "cymru"}"#
    );
    // A value that a user set stays too.
    db.run("SELECT enrich.ensure_asn_inventory(24940, 'By hand', 'SE', 'LACNIC')");
    age(&mut db, "100 days");
    sweep(&mut db);
    wait_until("it is asked again", || lab.whois.record().networks().count(), |asked| *asked == 3);
    wait_for_the_queue(&mut db);
    assert_eq!(db.one(network), "By hand|SE|LACNIC|2002-06-03|HETZNER-AS, DE");
}

#[test]
fn lookups_of_networks_wait_while_they_are_switched_off() {
    let lab = lab("networks-off");
    lab.reconfigure(&["cymru_networks = off"]);
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 3);
    db.run("SELECT enrich.request_enrichment(1000500)");
    let addresses = members(0..3);
    queue(&mut db, &addresses);
    // Lookups of addresses go on.
    wait_until(
        "the addresses have their network",
        || {
            (
                db.number("SELECT count(*) FROM enrich.ip_inventory WHERE current_asn IS NOT NULL"),
                state(&mut db),
            )
        },
        |(placed, _)| *placed == 3,
    );
    assert_eq!(lab.whois.record().networks().count(), 0);
    assert_eq!(db.rows("SELECT lookup_kind, lookup_key FROM enrich.enrichment_job"), ["asn|1000500"]);
    lab.reconfigure(&["cymru_networks = on"]);
    wait_for_answers(&mut db);
    assert_filled(&mut db, FIRST, 3);
    assert_placed(&mut db, &addresses);
}

#[test]
fn cancelled_lookup_of_a_network_is_not_queued_again_by_itself() {
    let lab = lab("networks-cancelled");
    lab.reconfigure(&["cymru_networks = off"]);
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 2);
    db.run(&format!("SELECT enrich.request_enrichment({FIRST})"));
    wait_until(
        "the lookup has a job",
        || (db.number("SELECT count(*) FROM enrich.enrichment_job"), state(&mut db)),
        |(jobs, _)| *jobs == 1,
    );
    assert_eq!(db.number("SELECT enrich.cancel_requests('cymru')"), 1);
    assert_eq!(db.number("SELECT count(*) FROM enrich.enrichment_job"), 0);
    lab.reconfigure(&["cymru_networks = on"]);
    wait_for_answers(&mut db);
    sweep(&mut db);
    assert_eq!(lab.whois.record().networks().collect::<Vec<_>>(), [FIRST + 1]);
    db.run(&format!("SELECT enrich.request_enrichment({FIRST})"));
    wait_until("it is asked after all", || lab.whois.record().networks().count(), |asked| *asked == 2);
    wait_for_the_queue(&mut db);
    assert_filled(&mut db, FIRST, 2);
}

#[test]
fn lookups_of_networks_need_the_provider() {
    let lab = lab("networks-disabled");
    lab.reconfigure(&["enabled_sources = 'maxmind'"]);
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 3);
    sweep(&mut db);
    assert_eq!(db.number("SELECT count(*) FROM enrich.asn_inventory WHERE lookup_queued_at IS NULL"), 3);
    assert_eq!(lab.whois.record().connections.len(), 0);
}

#[test]
fn locked_network_gets_its_answer_later_and_the_others_at_once() {
    let lab = lab("networks-locked");
    let mut db = lab.database();
    start_worker(&mut db);
    lab.whois.behave(Fault::Held);
    create(&mut db, FIRST, 4);
    wait_until("the request has begun", || lab.whois.record().networks().count(), |asked| *asked == 4);
    let mut other = db.another();
    other.run("BEGIN; UPDATE enrich.asn_inventory SET first_seen = now() WHERE asn_number = 1000002");
    lab.whois.behave(Behaviour::normal());
    let filled = "SELECT count(*) FROM enrich.asn_inventory WHERE as_name IS NOT NULL";
    wait_until("the others are filled", || (db.number(filled), state(&mut db)), |(count, _)| *count == 3);
    assert_eq!(db.rows("SELECT lookup_key FROM enrich.enrichment_job"), ["1000002"]);
    other.run("COMMIT");
    wait_for_answers(&mut db);
    assert_filled(&mut db, FIRST, 4);
    assert_eq!(lab.whois.record().networks().count(), 4, "the answer was kept");
}

#[test]
fn worker_that_is_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing() {
    let lab = Lab::start(
        options("networks-kills")
            .conf("cowrie_enrich.cymru_batch_size = 50")
            .conf("cowrie_enrich.cymru_max_connections = 2")
            .conf("restart_after_crash = on"),
    );
    let mut db = lab.database();
    let name = db.name.clone();
    start_worker(&mut db);
    // Four requests are answered, all others are held until the worker has been killed.
    let normal = || Behaviour::normal().delayed(Duration::from_millis(20));
    lab.whois.behave_in_turn(vec![normal(), normal(), normal(), normal(), Fault::Held.into()]);
    create(&mut db, FIRST, 1_000);
    let filled = "SELECT count(*) FROM enrich.asn_inventory WHERE as_name IS NOT NULL";
    wait_until(
        "some requests are answered, and the next ones have begun",
        || {
            (
                db.number(filled),
                lab.whois.record().connections.iter().filter(|c| c.end).count(),
                state(&mut db),
            )
        },
        |(count, begun, _)| *count == 200 && *begun == 6,
    );
    let pid = worker_pid(&mut db);
    let before =
        db.rows("SELECT asn_number, xmin FROM enrich.asn_inventory WHERE as_name IS NOT NULL ORDER BY 1");
    drop(db);
    lab.cluster.kill_backend(pid);
    lab.whois.behave(Behaviour::normal());
    let mut db = lab.cluster.session(&name);
    wait_for_answers(&mut db);
    assert_filled(&mut db, FIRST, 1_000);
    let record = lab.whois.record();
    assert_eq!(record.networks_answered_twice(), [] as [u64; 0]);
    assert_eq!(record.networks().count(), 1_000 + 100, "only the two held requests were repeated");
    let asns: Vec<&str> = before.iter().filter_map(|row| row.split('|').next()).collect();
    assert_eq!(
        db.rows(&format!(
            "SELECT asn_number, xmin FROM enrich.asn_inventory WHERE asn_number IN ({}) ORDER BY 1",
            asns.join(",")
        )),
        before,
        "stored answers were not written again"
    );
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
}

#[test]
fn addresses_and_networks_are_asked_in_separate_requests() {
    let lab = lab("networks-mixed");
    let mut db = lab.database();
    start_worker(&mut db);
    lab.whois.behave(Fault::Held);
    // One request is held, so that the following lookups of both kinds are due together.
    lab.reconfigure(&["cymru_max_connections = 1"]);
    queue(&mut db, &members(400..401));
    wait_until("a request has begun", || lab.whois.record().connections.len(), |begun| *begun == 1);
    create(&mut db, FIRST + 60_000, 300);
    db.run("SELECT enrich.request_enrichment(n) FROM generate_series(1000100, 1000199) n");
    let addresses = members(0..300);
    queue(&mut db, &addresses);
    wait_until(
        "all lookups have a job",
        || (db.number("SELECT count(*) FROM enrich.enrichment_job"), state(&mut db)),
        |(jobs, _)| *jobs == 701,
    );
    lab.whois.behave(Behaviour::normal());
    wait_for_the_queue(&mut db);
    wait_for_answers(&mut db);
    assert_placed(&mut db, &members(400..401).into_iter().chain(addresses).collect::<Vec<_>>());
    assert_filled(&mut db, FIRST + 60_000, 300);
    let record = lab.whois.record();
    let contents =
        |c: &cowrie_enrich_upstreams::Connection| (!c.questions.is_empty(), !c.networks.is_empty());
    assert!(record.connections.iter().map(contents).all(|(addresses, networks)| addresses != networks));
    // The networks that a user requested were queued before the addresses. Both came before the other networks.
    let kinds: Vec<(bool, bool)> = record.connections.iter().map(contents).collect();
    assert_eq!(kinds[..3], [(true, false), (false, true), (true, false)], "{kinds:?}");
    assert!((1_000_100..1_000_200).all(|asn| record.connections[1].networks.contains(&asn)), "{record:?}");
    assert_eq!(record.connections[2].questions.len(), 300);
}

#[test]
fn failed_lookup_of_a_network_is_a_dead_letter_until_it_is_retried() {
    let lab = Lab::start(options("networks-dead").conf("cowrie_enrich.max_attempts = 2"));
    let mut db = lab.database();
    start_worker(&mut db);
    lab.whois.behave(Fault::Missing { every: 1 });
    create(&mut db, FIRST + 1, 1);
    wait_until(
        "the lookup is a dead letter",
        || (db.number("SELECT count(*) FROM enrich.dead_letter"), state(&mut db)),
        |(dead, _)| *dead == 1,
    );
    assert_eq!(
        db.one("SELECT ip_address, asn_number, lookup_kind, lookup_key, attempts, last_error <> '' FROM enrich.dead_letter"),
        "NULL|1000001|asn|1000001|2|t"
    );
    assert_eq!(db.number("SELECT dead FROM enrich.queue_status WHERE provider = 'cymru'"), 1);
    assert_eq!(provider(&mut db, "dead_letters"), 1);
    assert_eq!(
        db.one(
            "SELECT enrichment #>> '{_meta,cymru,state}' FROM enrich.asn_inventory WHERE asn_number = 1000001"
        ),
        "failed"
    );
    lab.whois.behave(Behaviour::normal());
    let asked = lab.whois.record().networks().count();
    sweep(&mut db);
    assert_eq!(lab.whois.record().networks().count(), asked, "a dead letter is not retried by itself");
    assert_eq!(db.number("SELECT enrich.retry_dead_letters('cymru')"), 1);
    wait_for_the_queue(&mut db);
    assert_filled(&mut db, FIRST + 1, 1);
    assert_eq!(db.number("SELECT count(*) FROM enrich.dead_letter"), 0);
}

#[test]
fn lost_job_of_a_network_is_created_again_by_a_sweep() {
    let lab = lab("networks-lost");
    let mut db = lab.database();
    start_worker(&mut db);
    db.run(
        "INSERT INTO enrich.asn_inventory (asn_number, lookup_queued_at) VALUES (1000001, now());
         INSERT INTO enrich.asn_inventory (asn_number, lookup_queued_at) VALUES (64512, now())",
    );
    sweep(&mut db);
    wait_for_the_queue(&mut db);
    assert_eq!(lab.whois.record().networks().collect::<Vec<_>>(), [1_000_001]);
}

#[test]
fn networks_are_looked_up_by_dns_too() {
    let lab = lab("networks-dns");
    let dns = cowrie_enrich_upstreams::Dns::start(Routes::synthetic());
    lab.reconfigure(&["cymru_transport = dns", &format!("cymru_dns_server = '127.0.0.1:{}'", dns.port())]);
    let mut db = lab.database();
    start_worker(&mut db);
    create(&mut db, FIRST, 40);
    wait_for_answers(&mut db);
    assert_filled(&mut db, FIRST, 40);
    assert_eq!(lab.whois.record().connections.len(), 0);
    let mut asked: Vec<String> = dns.record().into_iter().map(|question| question.name).collect();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 40);
    assert!(asked.iter().all(|name| name.starts_with("as10000") && name.ends_with(".asn.cymru.com")));
}

/// Returns the addresses of a real log, with the session of each. The log is not part of the project, so it may be
/// missing.
fn real_sessions() -> Option<Vec<(String, String)>> {
    let path = std::env::var_os("COWRIE_ENRICH_REAL_LOG").map_or_else(
        || installation::workspace().join("../shared/data/cowrie-logs/2018-05.jsonl.xz"),
        PathBuf::from,
    );
    if !path.is_file() {
        eprintln!("skipped: no log {}; set COWRIE_ENRICH_REAL_LOG to run this", path.display());
        return None;
    }
    let log = Command::new("xz").arg("-dc").arg(&path).output().expect("xz runs");
    let text = String::from_utf8_lossy(&log.stdout);
    let sessions = text.lines().filter_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| event[key].as_str().map(str::to_owned);
        (event["eventid"] == "cowrie.session.connect").then(|| Some((text("session")?, text("src_ip")?)))?
    });
    Some(sessions.collect::<BTreeMap<_, _>>().into_iter().collect())
}

/// An mmdb file names half of the networks, Team Cymru names the others. Team Cymru then describes all of them.
#[test]
fn networks_of_a_real_log_have_registry_and_country_of_registration() {
    let Some(sessions) = real_sessions() else { return };
    let lab = lab("networks-real");
    let mut file = Writer::new("GeoLite2-ASN", 6);
    for first in (1..128).filter(|first| *first != 10 && *first != 127) {
        let asn = synthetic_asn(IpAddr::from([first, 0, 0, 1]));
        file.insert(&format!("{first}.0.0.0/8"), asn_record(asn, &format!("Organisation {first}")));
    }
    let path = lab.cluster.files().join("real-asn.mmdb");
    file.write(&path);
    lab.reconfigure(&[&format!("asn_database = '{}'", path.display())]);
    let mut db = lab.database();
    db.run("SELECT enrich.reload_mmdb()");
    COWRIE.create_attached(&mut db);
    let rows: Vec<(&str, Option<&str>)> =
        sessions.iter().map(|(session, address)| (session.as_str(), Some(address.as_str()))).collect();
    for chunk in rows.chunks(500) {
        db.run(&COWRIE.insert(chunk));
    }
    wait_for_the_queue(&mut db);
    wait_for_answers(&mut db);
    let networks = db.number("SELECT count(*) FROM enrich.asn_inventory");
    assert!(networks > 200, "{networks} networks");
    let wrong = "SELECT count(*) FROM enrich.asn_inventory
         WHERE rir_registry IS NULL OR organization_country IS NULL OR as_name IS NULL OR allocated_on IS NULL
            OR NOT enrichment -> 'provenance' ?& '{rir_registry,organization_country,organization_name,as_name,allocated_on}'
            OR enrichment #>> '{provenance,rir_registry}' <> 'cymru'
            OR enrichment #>> '{provenance,organization_country}' <> 'cymru'";
    assert_eq!(db.number(wrong), 0, "{}", state(&mut db));
    for row in db.rows(
        "SELECT asn_number, organization_name, organization_country, rir_registry, as_name,
                enrichment #>> '{provenance,organization_name}'
         FROM enrich.asn_inventory",
    ) {
        let asn: u64 = row.split('|').next().and_then(|asn| asn.parse().ok()).expect("a number");
        // The networks of the file are those of the first block of each /8.
        let first = (asn - FIRST) / 256;
        let is_in_file = (asn - FIRST).is_multiple_of(256) && first < 128;
        let (name, source) = if is_in_file {
            (format!("Organisation {first}"), "maxmind")
        } else {
            (format!("SYNTH-{asn} - Synthetic network"), "cymru")
        };
        let (country, registry) = (synthetic_country(asn), registry(asn));
        assert_eq!(row, format!("{asn}|{name}|{country}|{registry}|{}|{source}", synthetic_name(asn)));
    }
    let asked: Vec<u64> = lab.whois.record().networks().collect();
    assert_eq!(asked.len() as i64, networks);
    assert_eq!(lab.whois.record().networks_answered_twice(), [] as [u64; 0]);
}
