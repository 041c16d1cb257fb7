//! Reads databases that `mmdb` wrote with MaxMind's own reader, and compares lookups with a linear search of the list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cowrie_enrich_tools::mmdb::{Layout, Settings, build};
use cowrie_enrich_tools::networks::{self, Network, Origin};
use maxminddb::{Reader, geoip2};
use mmdb_writer::RecordSize;
use proptest::prelude::*;

fn asn(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<u32> {
    let record: Option<geoip2::Asn> = reader.lookup(address).unwrap().decode().unwrap();
    record.and_then(|record| record.autonomous_system_number)
}

fn contains(network: &Network, address: IpAddr) -> bool {
    network.first.is_ipv4() == address.is_ipv4() && network.first <= address && address <= network.last
}

/// Implements the rule directly: the narrowest network that contains the address, and of equally narrow ones the last.
fn expected(list: &[Network], address: IpAddr) -> Option<u32> {
    list.iter()
        .filter(|network| contains(network, address) && network.origin.is_some())
        .min_by_key(|network| {
            (network.width(), std::cmp::Reverse(list.iter().position(|other| std::ptr::eq(other, *network))))
        })
        .and_then(|network| network.origin.as_ref())
        .map(|origin| origin.asn)
}

fn range(first: IpAddr, last: IpAddr, asn: u32) -> Network {
    Network {
        first,
        last,
        location: None,
        origin: Some(Origin {
            asn,
            organization: (!asn.is_multiple_of(3)).then(|| format!("Network {}", asn % 7)),
        }),
    }
}

/// Generates ranges within a few thousand addresses, so that most of them overlap.
fn any_range() -> impl Strategy<Value = Network> {
    let number = prop_oneof![1..100_000u32, 4_200_000_000..=u32::MAX];
    prop_oneof![
        (0..3000u32, 0..600u32, number.clone()).prop_map(|(start, length, asn)| {
            let at = |offset: u32| IpAddr::V4(Ipv4Addr::from(0x0504_0000 + offset));
            range(at(start), at(start + length), asn)
        }),
        (0..3000u128, 0..600u128, number).prop_map(|(start, length, asn)| {
            let at = |offset: u128| IpAddr::V6(Ipv6Addr::from((0x2a00_u128 << 112) + (offset << 60)));
            range(at(start), at(start + length), asn)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_ends_and_the_neighbours_of_every_range_answer_as_a_plain_search_does(
        list in prop::collection::vec(any_range(), 1..60),
        size in prop_oneof![Just(None), Just(Some(RecordSize::Bits24)), Just(Some(RecordSize::Bits28)), Just(Some(RecordSize::Bits32))],
    ) {
        let database = build(&list, Layout::Asn, Settings { build_epoch: Some(1), record_size: size }).unwrap();
        let reader = Reader::from_source(database.bytes).unwrap();
        let step = |address: IpAddr, by: i128| match address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from((i64::from(u32::from(v4)) + by as i64) as u32)),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from((u128::from(v6) as i128 + by) as u128)),
        };
        for network in &list {
            for address in [network.first, network.last, step(network.first, -1), step(network.last, 1)] {
                prop_assert_eq!(asn(&reader, address), expected(&list, address), "{}", address);
            }
        }
    }

    #[test]
    fn the_order_of_a_list_without_equals_does_not_matter(
        lengths in prop::collection::hash_map((8..30u8, 0..8u32), 1..1_000_000u32, 1..40),
        seed in any::<u64>(),
    ) {
        // Nested and disjoint prefixes below 5.0.0.0/8: the longest-prefix match must not depend on the order.
        let mut list: Vec<Network> = lengths.iter().map(|((length, nth), asn)| {
            let host = u32::MAX >> length;
            let first = (0x0500_0000 | (nth << 13)) & !host;
            range(IpAddr::V4(Ipv4Addr::from(first)), IpAddr::V4(Ipv4Addr::from(first | host)), *asn)
        }).collect();
        list.sort_by_key(|network| (network.first, network.last));
        list.dedup_by_key(|network| (network.first, network.last));
        let settings = Settings { build_epoch: Some(1), record_size: None };
        let ordered = build(&list, Layout::Asn, settings).unwrap().bytes;
        let mut state = seed | 1;
        for index in (1..list.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            list.swap(index, (state >> 33) as usize % (index + 1));
        }
        let shuffled = Reader::from_source(build(&list, Layout::Asn, settings).unwrap().bytes).unwrap();
        let ordered = Reader::from_source(ordered).unwrap();
        for network in &list {
            for address in [network.first, network.last] {
                prop_assert_eq!(asn(&ordered, address), expected(&list, address));
                prop_assert_eq!(asn(&shuffled, address), expected(&list, address));
            }
        }
    }
}

const LIST: &str = "\
prefix\tcountry\tcountry_name\tcity\tlatitude\tlongitude\taccuracy_radius\tasn\torganization
5.0.0.0/8\tDE\tGermany\tFrankfurt am Main\t50.1188\t8.6843\t50\t4200000001\tBig
5.6.0.0/16\tFR\tFrance\t\t\t\t\t\t
2a00::/16\tGB\tUnited Kingdom\tLondon\t51.5085\t-0.1257\t20\t7\tThe \"Six\"
";

#[test]
fn a_city_file_reads_like_one_of_maxminds() {
    let list = networks::read(LIST.as_bytes()).unwrap();
    let database =
        build(&list, Layout::City, Settings { build_epoch: Some(1_700_000_000), record_size: None }).unwrap();
    let reader = Reader::from_source(database.bytes).unwrap();
    assert_eq!(reader.metadata().database_type, "mmdb-build City");
    assert_eq!(reader.metadata().build_epoch, 1_700_000_000);
    assert_eq!(reader.metadata().ip_version, 6);
    let city = |address: &str| -> geoip2::City {
        reader.lookup(address.parse().unwrap()).unwrap().decode().unwrap().unwrap()
    };
    let record = city("5.1.2.3");
    assert_eq!(record.country.iso_code, Some("DE"));
    assert_eq!(record.country.names.english, Some("Germany"));
    assert_eq!(record.city.names.english, Some("Frankfurt am Main"));
    assert_eq!(record.location.latitude, Some(50.1188));
    assert_eq!(record.location.longitude, Some(8.6843));
    assert_eq!(record.location.accuracy_radius, Some(50));
    // A narrower network does not inherit the wider one's city.
    let record = city("5.6.255.255");
    assert_eq!((record.country.iso_code, record.city.names.english), (Some("FR"), None));
    assert_eq!(city("2a00:ffff::1").country.iso_code, Some("GB"));
}

#[test]
fn the_ipv4_space_is_found_under_its_aliases() {
    let list = networks::read(LIST.as_bytes()).unwrap();
    for size in [RecordSize::Bits24, RecordSize::Bits28, RecordSize::Bits32] {
        let database =
            build(&list, Layout::Asn, Settings { build_epoch: None, record_size: Some(size) }).unwrap();
        let reader = Reader::from_source(database.bytes).unwrap();
        for address in ["5.1.2.3", "::5.1.2.3", "::ffff:5.1.2.3", "2002:501:203::1"] {
            assert_eq!(asn(&reader, address.parse().unwrap()), Some(4_200_000_001), "{address} at {size:?}");
        }
        // The narrower line has no origin, so the wider one's origin is used.
        assert_eq!(asn(&reader, "5.6.0.1".parse().unwrap()), Some(4_200_000_001));
        assert_eq!(asn(&reader, "6.0.0.1".parse().unwrap()), None);
    }
}

#[test]
fn the_same_list_and_epoch_give_the_same_bytes() {
    let list = networks::read(LIST.as_bytes()).unwrap();
    let settings = Settings { build_epoch: Some(5), record_size: None };
    assert_eq!(
        build(&list, Layout::City, settings).unwrap().bytes,
        build(&list, Layout::City, settings).unwrap().bytes
    );
}

#[test]
fn networks_inside_an_alias_are_counted_and_left_out() {
    let list = networks::read("2001::,2001::ffff,6939,HE\n5.0.0.0,5.0.0.9,1,A\n".as_bytes()).unwrap();
    let database = build(&list, Layout::Asn, Settings::default()).unwrap();
    assert_eq!((database.networks, database.aliased), (1, 1));
}
