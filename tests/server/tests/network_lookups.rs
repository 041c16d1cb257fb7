//! Lookups of networks at Team Cymru: each network is looked up once, in requests without addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use cowrie_enrich_test_mmdb::Writer;
use cowrie_enrich_upstreams::{Behaviour, Fault, Routes, synthetic_asn, synthetic_country, synthetic_name};
use server_tests::cymru::{
    Lab, assert_placed, members, provider, queue, start_worker, state, wait_for_permits, wait_for_the_queue,
};
use server_tests::hosts::COWRIE;
use server_tests::installation;
use server_tests::networks::{
    FIRST, age, assert_filled, create, create_bare, lab, options, registry, sweep, wait_for_answers,
};
use server_tests::world::asn_record;
use server_tests::{Options, wait_until};

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
    // Literals have no type, so they need a separate function.
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
    // Lookups of addresses continue.
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
