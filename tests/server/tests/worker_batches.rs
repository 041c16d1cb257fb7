//! The worker sends lookups in batches, within the limits and once for each prefix, and stores the answers.

use std::net::IpAddr;
use std::time::Duration;

use cowrie_enrich_upstreams::{Behaviour, synthetic_asn, synthetic_country, synthetic_name};
use server_tests::cymru::{
    self, Lab, assert_placed, member, member6, members, provider, queue, wait_for_permits, wait_for_the_queue,
};
use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::recount::assert_counts_are_exact;
use server_tests::{Options, wait_until};

fn lab(name: &str) -> Lab {
    Lab::start(Options::named(name).with_worker().conf("cowrie_enrich.cymru_max_connections = 4"))
}

#[test]
fn every_address_gets_its_network_in_batches_of_500_over_four_connections() {
    let lab = lab("batches-many");
    let mut db = lab.database();
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(400)));
    let addresses = members(0..2_300);
    queue(&mut db, &addresses);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);

    let record = lab.whois.record();
    assert_eq!(record.questions_total(), 2_300);
    assert_eq!(record.asked_twice(), [] as [IpAddr; 0]);
    assert_eq!(record.largest_batch(), 500);
    assert_eq!(record.connections.len(), 5, "full batches, and one of the rest: {record:?}");
    assert!((2..=4).contains(&record.most_at_once()), "{} at once", record.most_at_once());
    assert!(record.connections.iter().all(|c| c.begin && c.verbose && c.end), "{record:?}");
    for (column, expected) in [
        ("requests", 5),
        ("lookups", 2_300),
        ("answers", 2_300),
        ("absent", 0),
        ("shared", 0),
        ("unanswered", 0),
        ("dead_letters", 0),
    ] {
        assert_eq!(provider(&mut db, column), expected, "{column}");
    }
    wait_for_permits(&mut db);
    assert_eq!(db.number("SELECT cymru_hits FROM enrich.enrich_stats()"), 2_300);
    lab.assert_nothing_crashed();
}

#[test]
fn addresses_of_one_block_share_one_lookup_and_later_ones_need_none() {
    let lab = lab("batches-blocks");
    let mut db = lab.database();
    let addresses: Vec<IpAddr> = (0..2_300).map(|n| member(n % 230, (n / 230 + 1) as u8)).collect();
    queue(&mut db, &addresses);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    assert_eq!(lab.whois.record().questions_total(), 230);
    assert_eq!(provider(&mut db, "shared"), 2_300 - 230);

    let later: Vec<IpAddr> = (0..500).map(|n| member(n % 230, (n / 230 + 100) as u8)).collect();
    queue(&mut db, &later);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &later);
    assert_eq!(lab.whois.record().questions_total(), 230, "the answers are fresh");
    assert_eq!(provider(&mut db, "shared"), 2_300 - 230 + 500);

    // When the answers are stale, one lookup serves the prefix again.
    db.run("UPDATE enrich.block_answer SET asked_at = asked_at - interval '91 days'");
    let last: Vec<IpAddr> = (0..460).map(|n| member(n % 230, (n / 230 + 200) as u8)).collect();
    queue(&mut db, &last);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &last);
    assert_eq!(lab.whois.record().questions_total(), 460);
}

#[test]
fn both_families_go_into_one_batch_and_ipv6_shares_by_48() {
    let lab = lab("batches-families");
    let mut db = lab.database();
    let addresses: Vec<IpAddr> = (0..600)
        .map(|n| if n % 2 == 0 { member(n % 100, n as u8 / 4 + 1) } else { member6(n % 100, n as u16) })
        .collect();
    queue(&mut db, &addresses);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    let record = lab.whois.record();
    assert_eq!(record.questions_total(), 100, "50 blocks of each");
    assert_eq!(record.questions().filter(IpAddr::is_ipv6).count(), 50);
    assert_eq!(record.connections.len(), 1, "{record:?}");
}

/// Existing values stay, for any answer of Team Cymru. Null values are filled.
#[test]
fn sessions_that_wait_for_their_network_are_completed_from_null_to_a_value_only() {
    let lab = lab("batches-sessions");
    for host in [&COWRIE, &SUMMARIES] {
        let mut db = lab.database();
        host.create_attached(&mut db);
        // Without `trust_input`, the extension would replace the values that clients write.
        db.run(&format!(
            "SELECT enrich.set_session_table_options('{}', run_triggers => NULL, trust_input => true)",
            host.table
        ));
        // The answer is held until all sessions are stored.
        lab.whois.behave(cowrie_enrich_upstreams::Fault::Held);
        let addresses = members(0..40);
        let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let keys: Vec<String> = (0..120).map(|n| format!("s{n}")).collect();
        let rows: Vec<(&str, Option<&str>)> =
            keys.iter().enumerate().map(|(n, key)| (key.as_str(), Some(texts[n % 40].as_str()))).collect();
        db.run(&host.insert(&rows));
        // 46.0.0.0/16 has a country in the file, and no network.
        db.run(&host.insert(&[("dutch", Some("46.0.5.1")), ("known", Some("8.8.8.8"))]));
        let own = |key: &str, column: &str, value: &str| {
            format!(
                "INSERT INTO {} ({}, {}, {}, {column}) VALUES ('{key}', '2024-05-01', '{}', {value})",
                host.table, host.key, host.time, host.address, texts[0]
            )
        };
        db.run(&own("own-asn", "snapshot_asn", "7"));
        db.run(&own("own-country", "snapshot_country", "'ZZ'"));
        db.run(&own("own-document", "enrichment", "'{\"mine\": 1}'"));
        db.run(&own("own-time", "enrichment_at", "'2020-01-01 00:00:00+00'"));
        assert_eq!(host.snapshot(&mut db, "s0"), "NULL|NULL|NULL");
        assert_eq!(host.snapshot(&mut db, "dutch"), "NULL|NL|NULL");
        lab.whois.behave(Behaviour::normal());
        wait_for_the_queue(&mut db);

        let dutch: IpAddr = "46.0.5.1".parse().unwrap();
        let mut all = addresses.clone();
        all.push(dutch);
        assert_placed(&mut db, &all);
        for (n, key) in keys.iter().enumerate() {
            let asn = synthetic_asn(addresses[n % 40]);
            let expected = format!("{asn}|{}|NULL", synthetic_country(asn));
            assert_eq!(host.snapshot(&mut db, key), expected, "{key}");
        }
        let asn = synthetic_asn(addresses[0]);
        let country = synthetic_country(asn);
        assert_eq!(host.snapshot(&mut db, "dutch"), format!("{}|NL|NULL", synthetic_asn(dutch)));
        assert_eq!(host.snapshot(&mut db, "known"), "15169|US|NULL");
        assert_eq!(host.snapshot(&mut db, "own-asn"), format!("7|{country}|NULL"));
        assert_eq!(host.snapshot(&mut db, "own-country"), format!("{asn}|ZZ|NULL"));
        assert_eq!(host.snapshot(&mut db, "own-document"), format!("{asn}|{country}|NULL"));
        let mut column = |key: &str, column: &str| {
            db.one(&format!("SELECT {column} FROM {} WHERE {} = '{key}'", host.table, host.key))
        };
        assert_eq!(column("own-document", "enrichment"), "{\"mine\": 1}");
        assert_eq!(column("own-time", "enrichment_at"), "2020-01-01 00:00:00+00");
        assert_eq!(column("s0", "enrichment #>> '{cymru,asn}'"), asn.to_string());
        assert_eq!(column("s0", "enrichment ? '_meta'"), "f", "states are the inventory's own");
        assert_eq!(column("s0", "enrichment_at IS NOT NULL"), "t");
        assert_counts_are_exact(&mut db, &[(host.table, host.address)]);
        assert_eq!(db.number("SELECT count(*) FROM enrich.ip_asn_history"), 42);
    }
    lab.assert_nothing_crashed();
}

#[test]
fn the_worker_folds_what_it_counted() {
    let lab = lab("batches-fold");
    let mut db = lab.database();
    COWRIE.create_attached(&mut db);
    let addresses = members(0..10);
    for address in &addresses {
        db.run(&COWRIE.insert(&[(&format!("k{address}"), Some(&address.to_string()))]));
    }
    wait_for_the_queue(&mut db);
    wait_until(
        "everything is folded",
        || {
            db.one(
                "SELECT (SELECT count(*) FROM enrich.session_delta), (SELECT count(*) FROM enrich.network_delta),
                        (SELECT sum(total_session_count) FROM enrich.asn_inventory)",
            )
        },
        |state| state == "0|0|10",
    );
    assert_counts_are_exact(&mut db, &[("sessions", "ip")]);
}

/// Returns the registry that the synthetic Team Cymru has for a network.
fn registry_of(asn: u64) -> &'static str {
    match synthetic_country(asn) {
        "US" => "ARIN",
        "DE" | "NL" => "RIPE",
        "JP" | "KR" => "APNIC",
        "BR" => "LACNIC",
        _ => "AFRINIC",
    }
}

#[test]
fn networks_are_described_as_cymru_describes_them() {
    let lab = lab("batches-networks");
    let mut db = lab.database();
    let addresses = members(0..21);
    // Team Cymru's country replaces that of a file, and its registry replaces IANA's. An operator's country stays.
    let (filed, manual) = (synthetic_asn(addresses[1]), synthetic_asn(addresses[2]));
    db.run(&format!("SELECT enrich.ensure_asn_inventory({manual}, 'By hand', 'FR')"));
    db.run(&format!(
        "INSERT INTO enrich.asn_inventory (asn_number, organization_name, organization_country, rir_registry, enrichment)
         VALUES ({filed}, 'From a file', 'FR', '{}',
                 '{{\"provenance\": {{\"organization_name\": \"maxmind\", \"organization_country\": \"maxmind\",
                                     \"rir_registry\": \"iana\"}}}}')",
        if registry_of(filed) == "LACNIC" { "APNIC" } else { "LACNIC" }
    ));
    queue(&mut db, &addresses);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &addresses);
    let described = |db: &mut server_tests::Session, asn: u64| {
        db.one(&format!(
            "SELECT organization_name, organization_country, rir_registry, enrichment -> 'provenance'
             FROM enrich.asn_inventory WHERE asn_number = {asn}"
        ))
    };
    for address in &addresses {
        let asn = synthetic_asn(*address);
        let described = described(&mut db, asn);
        let mut columns = described.splitn(4, '|');
        let mut next = || columns.next().expect("four columns");
        let (name, country, registry, provenance) = (next(), next(), next(), next());
        assert_eq!(registry, registry_of(asn), "{described}");
        if asn == manual {
            assert_eq!((name, country), ("By hand", "FR"), "{described}");
            continue;
        }
        assert_eq!(country, synthetic_country(asn), "{described}");
        // A name of a file is better than one of Team Cymru, which stands here without its country.
        let source_of_name = if asn == filed { "maxmind" } else { "cymru" };
        let own = synthetic_name(asn);
        let expected = if asn == filed { "From a file" } else { own.rsplit_once(", ").expect("a country").0 };
        assert_eq!(name, expected, "{described}");
        for (field, source) in [
            ("organization_name", source_of_name),
            ("organization_country", "cymru"),
            ("rir_registry", "cymru"),
        ] {
            assert!(provenance.contains(&format!("\"{field}\": \"{source}\"")), "{described}");
        }
    }
}

#[test]
fn limits_are_obeyed_from_the_reload_on() {
    let lab = lab("batches-reload");
    let mut db = lab.database();
    queue(&mut db, &members(0..40));
    wait_for_the_queue(&mut db);
    assert_eq!(lab.whois.record().connections.len(), 1);

    lab.whois.forget();
    lab.whois.behave(Behaviour::normal().delayed(Duration::from_millis(50)));
    lab.reconfigure(&["cymru_batch_size = 7", "cymru_max_connections = 2"]);
    queue(&mut db, &members(100..140));
    wait_for_the_queue(&mut db);
    let record = lab.whois.record();
    assert_eq!((record.largest_batch(), record.connections.len()), (7, 6), "{record:?}");
    assert_eq!(record.most_at_once(), 2);

    lab.whois.forget();
    lab.reconfigure(&["cymru_max_connections = 1", "cymru_rate = 300"]);
    queue(&mut db, &members(200..242));
    wait_for_the_queue(&mut db);
    let record = lab.whois.record();
    assert_eq!(record.connections.len(), 6);
    assert_eq!(record.most_at_once(), 1);
    // Expects five intervals of 0.2 s, less a margin, because the first connection may have been noticed
    // late.
    let took = record.connections[5].opened - record.connections[0].opened;
    assert!(took > Duration::from_millis(900), "six batches began within {took:?}");

    lab.whois.forget();
    lab.reconfigure(&["cymru_rate = 0", "enabled_sources = 'maxmind'"]);
    queue(&mut db, &members(300..310));
    wait_until(
        "the requests are taken in",
        || db.number("SELECT count(*) FROM enrich.enrichment_request"),
        |left| *left == 0,
    );
    assert_eq!(db.one("SELECT jobs, due FROM enrich.queue_status WHERE provider = 'cymru'"), "10|10");
    assert_eq!(lab.whois.record().connections.len(), 0, "a source that is not enabled is not asked");
    lab.reconfigure(&["enabled_sources = 'maxmind,cymru'"]);
    wait_for_the_queue(&mut db);
    assert_placed(&mut db, &members(300..310));
    let _ = cymru::state(&mut db);
}
