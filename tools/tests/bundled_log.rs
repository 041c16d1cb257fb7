//! Checks that the demo's log and lists match their generator and contain the data that the demo shows.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;

use cowrie_enrich_tools::log::{self, Entry, Event};
use cowrie_enrich_tools::networks::{self, Network};
use cowrie_enrich_tools::{mmdb, synthetic};

fn demo(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo").join(name)).unwrap()
}

fn list(name: &str) -> Vec<Network> {
    networks::read(demo(name).as_slice()).unwrap()
}

fn entries() -> Vec<Entry> {
    let packed = demo("cowrie.json.gz");
    let mut input = log::decompressed(packed.as_slice()).unwrap();
    let mut line = Vec::new();
    let mut entries = Vec::new();
    while log::next_line(&mut *input, &mut line).unwrap().is_some() {
        entries.push(log::parse(&line).unwrap());
    }
    entries
}

#[test]
fn the_checked_in_log_is_what_the_generator_makes() {
    let packed = demo("cowrie.json.gz");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut log::decompressed(packed.as_slice()).unwrap(), &mut text).unwrap();
    assert!(
        text == synthetic::cowrie_log(&list("networks-before.tsv"), 2025),
        "run: cargo run -p cowrie_enrich_tools --bin demo-log demo/networks-before.tsv | gzip -9n >demo/cowrie.json.gz"
    );
}

#[test]
fn the_log_has_every_kind_of_address_and_of_event() {
    let entries = entries();
    let connects: Vec<&Entry> = entries.iter().filter(|entry| entry.event == Event::Connect).collect();
    let ids: HashSet<&str> = connects.iter().map(|entry| entry.session.as_str()).collect();
    assert_eq!(ids.len(), connects.len(), "an id is used twice");
    assert!(connects.len() >= 600, "{} sessions", connects.len());
    let addresses: Vec<Result<IpAddr, &str>> =
        connects.iter().map(|entry| entry.address.parse().map_err(|_| entry.address.as_str())).collect();
    let count = |wanted: &dyn Fn(&IpAddr) -> bool| {
        addresses.iter().flatten().filter(|address| wanted(address)).count()
    };
    assert!(count(&|address| address.is_ipv6()) >= 50);
    assert!(count(&|address| matches!(address, IpAddr::V4(v4) if v4.is_private())) >= 3);
    assert!(count(&|address| matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())) >= 3);
    assert!(addresses.iter().filter(|address| address.is_err()).count() >= 10);
    let kinds: HashSet<_> = entries.iter().map(|entry| std::mem::discriminant(&entry.event)).collect();
    // All kinds except two, which only old versions or other settings write. `session.input` is a spelling of `Input`.
    assert!(kinds.len() >= 12, "{} kinds of events", kinds.len());
}

#[test]
fn one_password_comes_from_many_networks() {
    let networks = list("networks-before.tsv");
    let mut asns: HashMap<String, HashSet<u32>> = HashMap::new();
    for entry in entries() {
        let Event::Login { password, .. } = entry.event else {
            continue;
        };
        let Ok(address) = entry.address.parse::<IpAddr>() else {
            continue;
        };
        let asn = networks
            .iter()
            .filter(|n| n.first.is_ipv4() == address.is_ipv4() && n.first <= address && address <= n.last)
            .min_by_key(|n| n.width())
            .and_then(|n| n.origin.as_ref())
            .map(|origin| origin.asn);
        asns.entry(password).or_default().extend(asn);
    }
    assert!(asns["345gs5662d34"].len() >= 8, "{:?}", asns["345gs5662d34"]);
}

#[test]
fn the_lists_hold_what_the_demo_promises() {
    let before = list("networks-before.tsv");
    assert!(before.len() >= 60);
    assert!(before.iter().filter(|network| network.first.is_ipv6()).count() >= 10);
    assert!(before.iter().filter(|network| network.origin.is_none()).count() >= 3);
    let asn = |networks: &[Network]| {
        let database = mmdb::build(networks, mmdb::Layout::Asn, mmdb::Settings::default()).unwrap();
        let reader = maxminddb::Reader::from_source(database.bytes).unwrap();
        let record: maxminddb::geoip2::Asn =
            reader.lookup(synthetic::MOVING.into()).unwrap().decode().unwrap().unwrap();
        record.autonomous_system_number.unwrap()
    };
    let after = [before.clone(), list("networks-after.tsv")].concat();
    assert_eq!((asn(&before), asn(&after)), (3, 16509));
}

#[test]
fn what_cymru_has_to_be_asked_is_in_the_lists_and_in_the_log() {
    let before = list("networks-before.tsv");
    let after = list("networks-after.tsv");
    let routes = String::from_utf8(demo("cymru-routes.tsv")).unwrap();
    let mut told: Vec<&Network> = Vec::new();
    for line in routes.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        // A row without a prefix is the answer about a network that the ASN file contains.
        let Some((first, _)) = fields[0].split_once('/') else {
            let is_asked = |list: &Vec<Network>| {
                list.iter()
                    .filter_map(|network| network.origin.as_ref())
                    .any(|o| o.asn.to_string() == fields[1])
            };
            let is_route = || {
                routes
                    .lines()
                    .filter(|row| row.contains('/'))
                    .any(|row| row.split('\t').nth(1) == Some(fields[1]))
            };
            assert!(is_asked(&before) || is_asked(&after) || is_route(), "{line}");
            continue;
        };
        let network = before.iter().find(|network| network.first.to_string() == first).unwrap();
        if let Some(origin) = &network.origin {
            assert_eq!(origin.asn.to_string(), fields[1], "{line}");
        }
        told.push(network);
    }
    let addresses: HashSet<IpAddr> =
        entries().iter().filter_map(|entry| entry.address.parse::<IpAddr>().ok()).collect();
    let count = |networks: &mut dyn Iterator<Item = &&Network>| -> usize {
        networks
            .map(|network| addresses.iter().filter(|a| network.first <= **a && **a <= network.last).count())
            .sum()
    };
    assert!((20..=60).contains(&count(&mut told.iter())));
    assert!(count(&mut told.iter().filter(|network| network.first.is_ipv6())) >= 3);
    let unknown: Vec<&Network> = before.iter().filter(|network| network.origin.is_none()).collect();
    let nobodys = unknown.iter().filter(|network| !told.iter().any(|other| other.first == network.first));
    assert!(count(&mut nobodys.into_iter()) >= 1, "no address has no route at all");
}
