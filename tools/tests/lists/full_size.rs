//! Compiles each format at its real size, and compares 100,000 lookups with a naive reader.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mmdb::types::TypeDatabase;
use cowrie_enrich_tools::lists::Format;
use cowrie_enrich_tools::lists::asns::Announced;
use cowrie_enrich_tools::lists::list::List;
use cowrie_enrich_tools::mmdb::{self, Layout, Settings};
use cowrie_enrich_tools::networks::{Network, Origin};

use super::fixtures::{self, Fixture, Random};
use super::naive::{Known, Naive};
use super::{PUBLISHED, content, list, serve, source, statements};

const ADDRESSES: usize = 100_000;

/// Compares all statements and the set of lists. Prints the numbers, and panics if an address has other statements.
fn compare(what: &str, served: &TypeDatabase<Vec<u8>>, known: &[Known], seed: u64) {
    let naive = Naive::new(known);
    let (mut with_type, mut wrong) = (0, Vec::new());
    let mut families = [0_usize; 2];
    for address in naive.addresses(&mut Random(seed), ADDRESSES) {
        let expected = naive.statements(address);
        let list_names: BTreeSet<&String> = expected.iter().map(|(list, ..)| list).collect();
        let found = statements(served, address);
        let matches = served.matches(Address::new(address), served.all()).unwrap();
        let matching: BTreeSet<&String> = matches.iter().map(|list| &served.lists()[list].name).collect();
        let count = found.len();
        let found: BTreeSet<_> = found.into_iter().collect();
        if found != expected || matching != list_names || count != expected.len() {
            wrong.push(format!("{address}: {found:?} instead of {expected:?}"));
        }
        with_type += usize::from(!expected.is_empty());
        families[usize::from(address.is_ipv6())] += 1;
    }
    eprintln!(
        "{what}: {ADDRESSES} addresses ({} IPv4, {} IPv6), {with_type} with a type, {} wrong",
        families[0],
        families[1],
        wrong.len()
    );
    assert!(wrong.is_empty(), "{what}: {:?}", &wrong[..wrong.len().min(3)]);
    // Otherwise the comparison would show little.
    assert!((ADDRESSES / 4..ADDRESSES * 9 / 10).contains(&with_type), "{what}: {with_type} with a type");
}

fn all() -> Vec<Fixture> {
    let random = &mut Random(18);
    let mut all = vec![
        fixtures::tor_bulk(random),
        fixtures::tor_exit_addresses(random),
        fixtures::aws(random),
        fixtures::google(random),
        fixtures::azure(random),
        fixtures::oracle(random),
    ];
    all.extend(fixtures::x4bnet(random));
    all.extend([
        fixtures::spamhaus(random),
        fixtures::misp(random),
        fixtures::geofeed(random),
        fixtures::firehol(random),
        fixtures::isc_research(random),
        fixtures::ranges(random),
    ]);
    all
}

/// Compiles each format to a separate file.
#[test]
fn every_format_of_full_size_is_served_like_a_naive_reader_serves_it() {
    for (seed, fixture) in (1..).zip(all()) {
        let list = list(fixture.name, fixture.kind, &fixture.file);
        let networks: BTreeSet<(IpAddr, u32)> =
            fixture.known.iter().map(|known| (known.ip, known.length)).collect();
        assert_eq!(list.networks(), networks.len() as u64, "{}", fixture.name);
        compare(fixture.name, &serve(&[list]), &fixture.known, seed);
    }
}

#[test]
fn all_formats_in_one_file_keep_all_their_statements() {
    let fixtures = all();
    let lists: Vec<List> = fixtures.iter().map(|of| list(of.name, of.kind, &of.file)).collect();
    let known: Vec<Known> = fixtures.into_iter().flat_map(|fixture| fixture.known).collect();
    compare("all lists", &serve(&lists), &known, 99);
}

#[test]
fn lists_of_asns_have_the_prefixes_of_the_asn_database() {
    let fixture = fixtures::asns(&mut Random(19));
    let networks: Vec<Network> = fixture
        .announced
        .iter()
        .map(|(asn, (ip, length))| {
            let net = mmdb_writer::ipnet::IpNet::new(*ip, *length as u8).unwrap();
            Network {
                first: net.network(),
                last: net.broadcast(),
                location: None,
                origin: Some(Origin { asn: *asn, organization: None }),
            }
        })
        .collect();
    let settings = Settings { build_epoch: Some(PUBLISHED), record_size: None };
    let database = mmdb::build(&networks, Layout::Asn, settings).unwrap().bytes;
    let mut lists = Vec::new();
    for of in &fixture.lists {
        let content = content(&of.file);
        let asns: Vec<u32> = content.asns.iter().map(|asn| asn.number).collect();
        let announced = Announced::read(&database, &asns).unwrap();
        let mut list = List::new(&source(of.name, of.kind));
        list.add(content, None, PUBLISHED, Some(&announced)).unwrap();
        lists.push(list);
    }
    let known: Vec<Known> = fixture.lists.into_iter().flat_map(|list| list.known).collect();
    compare("ASN lists", &serve(&lists), &known, 7);
}

#[test]
fn the_fixtures_have_the_form_and_the_size_of_the_published_files() {
    let expected = [
        ("tor-bulk", Format::Lines, 1_337),
        ("tor-exits", Format::TorExits, 0),
        ("aws", Format::Aws, 5_600),
        ("google", Format::Google, 1_098),
        ("azure", Format::Azure, 14_600),
        ("oracle", Format::Oracle, 793),
        ("x4bnet-datacenter", Format::Lines, 51_318),
        ("x4bnet-vpn", Format::Lines, 10_862),
        ("spamhaus", Format::SpamhausNetworks, 1_700),
        ("misp", Format::Misp, 42_426),
        ("geofeed", Format::Geofeed, 2_000),
        ("firehol", Format::Lines, 4_491),
        ("isc", Format::IscResearch, 1_839),
        ("ranges", Format::Lines, 2_000),
    ];
    for (fixture, (name, format, networks)) in all().iter().zip(expected) {
        let content = content(&fixture.file);
        assert_eq!((fixture.name, content.format), (name, format));
        assert!(networks == 0 || content.entries.len() == networks, "{name}: {}", content.entries.len());
    }
    let aws = fixtures::aws(&mut Random(1)).file;
    assert_eq!(aws.matches("\"ip_prefix\"").count(), 7_905);
    let azure = fixtures::azure(&mut Random(1)).file;
    assert_eq!(azure.matches('/').count(), 43_839);
}
