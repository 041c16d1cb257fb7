//! Tests hostile bytes: they give an error, and give it soon.

mod support;

use cowrie_enrich_engine::mmdb::{Database, MmdbError};
use cowrie_enrich_test_mmdb::{Record, Value, Writer, map, text};
use proptest::prelude::*;
use support::in_bounded_time;
use support::invariants::{addresses, file_with_records, holds, ip, look_up, sound};

/// A valid file that also has `hostile` at 9.0.0.0/8.
fn with_record(hostile: Value) -> Writer {
    sound().swap_remove(0).with("9.0.0.0/8", hostile)
}

/// Returns the error of `verify`. Lookups must end as well.
fn complaint(what: &str, writer: &Writer) -> Option<MmdbError> {
    let bytes = writer.bytes();
    in_bounded_time(what, move || {
        let database = Database::open(bytes).unwrap();
        for address in addresses().into_iter().chain([ip("9.9.9.9")]) {
            let _ = look_up(&database, address);
        }
        database.verify().err()
    })
}

#[track_caller]
fn record_is_refused(hostile: Value, expected: &str) {
    match complaint(expected, &with_record(hostile)) {
        Some(MmdbError::Record { network, reason, .. }) => {
            assert_eq!((network.as_str(), reason.as_str()), ("9.0.0.0/8", expected));
        }
        other => panic!("{expected}: {other:?}"),
    }
}

#[test]
fn other_files_are_named() {
    for (bytes, expected) in [
        (b"".as_slice(), "file of 0 bytes is empty, not an mmdb file"),
        (b"\x1f\x8b\x08\0rest", "file of 8 bytes is a gzip archive (unpack it first), not an mmdb file"),
        (b"PK\x03\x04rest", "file of 8 bytes is a zip archive (unpack it first), not an mmdb file"),
        (b"<html>", "file of 6 bytes is a web page, not an mmdb file"),
        (
            b"network,asn\n",
            "file of 12 bytes has no mmdb metadata: it is not an mmdb file, or it is truncated",
        ),
        (b"\xab\xcd\xefMaxMind.com", "mmdb metadata, binary_format_major_version: value runs past the end"),
        (
            b"\xab\xcd\xefMaxMind.com\x41x",
            "mmdb metadata, binary_format_major_version: metadata is not a map",
        ),
    ] {
        assert_eq!(Database::open(bytes).err().unwrap().to_string(), expected);
    }
}

#[test]
fn metadata_that_cannot_be_right_is_refused() {
    let writer = &sound()[0];
    let refused = |field: &str, value: Option<Value>| {
        let mut metadata: Vec<_> = writer.metadata().into_iter().filter(|(name, _)| *name != field).collect();
        metadata.extend(value.map(|value| (field.to_owned(), value)));
        Database::open(writer.bytes_with(metadata)).err().map(|error| error.to_string())
    };
    for (field, value, expected) in [
        ("ip_version", Some(Value::U16(5)), "mmdb ip_version 5 is not supported"),
        ("record_size", Some(Value::U16(20)), "mmdb record_size 20 is not supported"),
        (
            "binary_format_major_version",
            Some(Value::U16(3)),
            "mmdb binary_format_major_version 3 is not supported",
        ),
        ("node_count", Some(Value::U32(0)), "mmdb metadata, node_count: is zero"),
        (
            "build_epoch",
            Some(Value::U64(9_224_318_016_000)),
            "mmdb metadata, build_epoch: the time is in the year 10000 or later",
        ),
        ("node_count", Some(text("many")), "mmdb metadata, node_count: is not a number"),
        ("node_count", None, "mmdb metadata, node_count: is missing"),
        ("node_count", Some(Value::U64(1 << 40)), "mmdb node_count 1099511627776 is not supported"),
    ] {
        assert_eq!(refused(field, value).as_deref(), Some(expected));
    }
    let huge = refused("node_count", Some(Value::U32(u32::MAX))).unwrap();
    assert!(huge.contains("the search tree needs 25769803786 bytes"), "{huge}");
    assert!(refused("build_epoch", Some(Value::U64(u64::MAX))).is_some());
    assert!(refused("database_type", None).is_some());
}

#[test]
fn a_tree_that_would_reach_into_the_metadata_is_refused() {
    let writer = &sound()[0];
    let marker = writer.bytes().windows(14).position(|window| window == b"\xab\xcd\xefMaxMind.com").unwrap();
    // With `fitting` nodes, the tree and the separator end before the metadata marker. With one more node, they do not.
    let fitting = (marker as u32 - 16) / 6;
    for (count, cut) in [(fitting, false), (fitting + 1, true)] {
        let mut metadata = writer.metadata();
        metadata.retain(|(name, _)| *name != "node_count");
        metadata.push(("node_count".to_owned(), Value::U32(count)));
        let refused = Database::open(writer.bytes_with(metadata)).err();
        assert_eq!(matches!(refused, Some(MmdbError::Truncated { .. })), cut, "{count}: {refused:?}");
    }
}

#[test]
fn a_wrong_node_count_is_seen_at_the_separator() {
    let writer = &sound()[0];
    let separator = writer.nodes.len() * 6;
    for at in separator..separator + 16 {
        let mut bytes = writer.bytes();
        bytes[at] = 1;
        assert_eq!(
            Database::open(bytes).unwrap().verify().unwrap_err().to_string(),
            "mmdb metadata, node_count: the separator after the search tree is missing"
        );
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for writer in sound() {
        let bytes = writer.bytes();
        for length in 0..bytes.len() {
            assert!(Database::open(bytes[..length].to_vec()).is_err(), "{length} of {}", bytes.len());
        }
    }
}

#[test]
fn damaged_records_are_refused_with_their_network() {
    record_is_refused(Value::Raw(vec![0x62, 0, 0]), "double is not 8 bytes");
    record_is_refused(Value::Raw(vec![0, 5]), "unknown type of value");
    record_is_refused(Value::Raw(vec![0, 255]), "unknown type of value");
    record_is_refused(Value::Raw(vec![0x02, 7]), "boolean value is neither 0 nor 1");
    record_is_refused(Value::Raw(vec![0xC5, 0, 0, 0, 0, 0]), "number is wider than its type");
    record_is_refused(Value::Raw(vec![0x42, 0xFF, 0xFE]), "text is not UTF-8");
    record_is_refused(Value::Raw(vec![0xE1, 0xA1, 1, 0x41, b'x']), "key is not text");
    record_is_refused(Value::Raw(vec![0xE1, 0x42, 0xFF, 0xFE, 0x41, b'x']), "text is not UTF-8");
    record_is_refused(Value::Raw(vec![0x5F, 0xFF, 0xFF, 0xFF]), "value runs past the end");
    record_is_refused(Value::Pointer(u32::MAX), "value runs past the end");
}

#[test]
fn pointers_in_circles_are_refused() {
    let at = sound()[0].data.len() as u32;
    record_is_refused(Value::Pointer(at), "pointer to a pointer");
    record_is_refused(map([("country", Value::Pointer(at))]), "value contains itself");
    record_is_refused(Value::Array(vec![Value::Pointer(at); 1000]), "value contains itself");
    // The country of a country of a country. Lookups follow it three steps and stop.
    record_is_refused(map([("country", map([("iso_code", Value::Pointer(at))]))]), "value contains itself");
}

#[test]
fn records_beyond_measure_are_refused() {
    let mut nested = text("core");
    for _ in 0..100 {
        nested = Value::Array(vec![nested]);
    }
    record_is_refused(nested, "values are nested too deeply");
    let deep = [0x01, 0x04].repeat(200_000);
    record_is_refused(Value::Raw(deep), "values are nested too deeply");
    record_is_refused(Value::Array(vec![Value::Bool(true); 20_000]), "record has too many values");
    // A map of 16 million pairs that do not exist.
    record_is_refused(Value::Raw(vec![0xFF, 0xFF, 0xFF, 0xFF]), "value runs past the end");
    record_is_refused(text(&"x".repeat(300_000)), "record has too much text");
}

/// 2,000 keys that point to one long text: small on disk, large to read.
#[test]
fn many_pointers_to_one_long_key_are_refused() {
    let mut writer = sound().swap_remove(0);
    let key = writer.value(&text(&"k".repeat(10_000)));
    let mut pairs = vec![0xFE, ((2000 - 285) >> 8) as u8, (2000 - 285) as u8];
    for _ in 0..2000 {
        Value::Pointer(key).encode(&mut pairs);
        Value::Bool(true).encode(&mut pairs);
    }
    let writer = writer.with("9.0.0.0/8", Value::Raw(pairs));
    match complaint("long keys", &writer) {
        Some(MmdbError::Record { reason, .. }) => assert_eq!(reason, "record has too much text"),
        other => panic!("{other:?}"),
    }
}

/// 10,000 texts of 65,821 bytes each in 200 kB: another text starts every four bytes.
#[test]
fn overlapping_values_are_bounded() {
    let mut writer = sound().swap_remove(0);
    let run = writer.value(&Value::Raw([0x5F, 0, 0, 0].repeat(50_000)));
    let pointers = (0..10_000).map(|index| Value::Pointer(run + index * 4)).collect();
    match complaint("overlaps", &writer.with("9.0.0.0/8", Value::Array(pointers))) {
        Some(MmdbError::Record { reason, .. }) => assert_eq!(reason, "values overlap too often"),
        other => panic!("{other:?}"),
    }
}

/// A thousand records of four thousand names that all point to one text of 16 MB. `open` samples such records too.
#[test]
fn many_pointers_to_one_long_text_do_not_hold_up_who_opens_the_file() {
    // Offsets behind the long text need more than 24 bits.
    let mut writer = sound().swap_remove(0).record_size(32);
    let long = writer.value(&text(&"x".repeat(16 << 20)));
    for network in 0..1024_u32 {
        let members = (0..200).map(|_| ("country".to_owned(), Value::Pointer(long))).collect();
        let record = writer.value(&Value::Map(members));
        let prefix = format!("20.{}.{}.0/24", network / 256, network % 256);
        writer = writer.with(&prefix, Value::Pointer(record));
    }
    let bytes = writer.bytes();
    let refused = in_bounded_time("opening", move || Database::open(bytes).map(|database| database.verify()));
    assert!(matches!(refused, Ok(Err(MmdbError::Record { .. }))), "{:?}", refused.err());
}

fn chain(nodes: usize, last: Record) -> Writer {
    let mut writer = sound().swap_remove(0);
    writer.nodes.truncate(1);
    writer.nodes.resize(nodes, [Record::Nothing; 2]);
    for node in 1..nodes {
        writer.nodes[node - 1] = [Record::Node(node as u32); 2];
    }
    writer.nodes[nodes - 1] = [Record::Data(0), last];
    writer
}

/// Both branches of each node lead to the next: 2^96 paths through 97 nodes. This is legal and must not take long.
#[test]
fn a_tree_of_shared_nodes_is_walked_by_node_not_by_path() {
    assert_eq!(complaint("shared nodes", &chain(97, Record::Data(0))), None);
    assert_eq!(complaint("shared nodes", &chain(128, Record::Data(0))), None);
}

#[test]
fn a_tree_deeper_than_an_address_is_refused() {
    let Some(MmdbError::Tree { network, reason }) = complaint("deep", &chain(129, Record::Data(0))) else {
        panic!("not refused");
    };
    assert_eq!((network.as_str(), reason), ("0.0.0.0/32", "has more levels than an address has bits"));
    // The tree is too deep only on one path. This path visits a node a second time, at a greater depth than the first time.
    let mut writer = chain(128, Record::Data(0));
    writer.nodes.push([Record::Node(1), Record::Nothing]);
    writer.nodes[0] = [Record::Node(1), Record::Node(128)];
    let Some(MmdbError::Tree { reason, .. }) = complaint("deep by detour", &writer) else {
        panic!("not refused")
    };
    assert_eq!(reason, "has more levels than an address has bits");
}

#[test]
fn loops_in_the_tree_are_refused() {
    for target in [0, 1, 50, 99] {
        let Some(MmdbError::Tree { network, reason }) = complaint("loop", &chain(100, Record::Node(target)))
        else {
            panic!("not refused");
        };
        assert_eq!((network.as_str(), reason), ("16.0.0.0/4", "leads back to itself"));
    }
}

#[test]
fn branches_into_nowhere_are_refused() {
    let nodes = chain(97, Record::Nothing).nodes.len() as u32;
    for beyond in [nodes + 1, nodes + 15, nodes + 16 + 1_000_000] {
        let Some(MmdbError::Tree { network, reason }) = complaint("astray", &chain(97, Record::Raw(beyond)))
        else {
            panic!("not refused");
        };
        assert_eq!((network.as_str(), reason), ("128.0.0.0/1", "leads outside the data"));
    }
}

#[test]
fn the_damaged_network_is_found_in_both_families() {
    let damaged = || Value::Raw(vec![0, 5]);
    for (prefix, version) in
        [("9.9.9.0/24", 6), ("9.9.9.0/24", 4), ("2001:db8:7::/48", 6), ("fe00::/9", 6), ("128.0.0.0/1", 4)]
    {
        let writer = Writer::new("test", version)
            .with("1.0.0.0/8", map([("asn", Value::U32(1))]))
            .with(prefix, damaged());
        match complaint(prefix, &writer) {
            Some(MmdbError::Record { network, .. }) => assert_eq!(network, prefix),
            other => panic!("{prefix}: {other:?}"),
        }
    }
}

#[test]
fn shared_records_and_text_are_sound() {
    let mut writer = sound().swap_remove(0);
    let sweden = writer.value(&map([("iso_code", text("SE"))]));
    let record = writer.value(&map([("country", Value::Pointer(sweden))]));
    // A record that is itself a pointer, and several networks with one record.
    let writer = writer.with("9.0.0.0/8", Value::Pointer(record)).with("12.0.0.0/8", Value::Pointer(record));
    assert_eq!(complaint("shared", &writer), None);
    let database = Database::open(writer.bytes()).unwrap();
    assert_eq!(database.country(ip("9.0.0.1")), Ok(Some(*b"SE")));
    assert_eq!(database.country(ip("12.0.0.1")), Ok(Some(*b"SE")));
}

fn victims() -> Vec<Vec<u8>> {
    let mut victims: Vec<Vec<u8>> = sound().iter().map(Writer::bytes).collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/maxmind-test");
    for name in [
        "GeoIP2-City-Test.mmdb",
        "GeoLite2-ASN-Test.mmdb",
        "GeoIP2-Enterprise-Test.mmdb",
        "GeoIP2-City-Test-Broken-Double-Format.mmdb",
    ] {
        match std::fs::read(format!("{folder}/{name}")) {
            Ok(bytes) => victims.push(bytes),
            Err(error) => eprintln!("skipped {name}: {error}"),
        }
    }
    victims
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_few_bytes_may_be_wrong(
        victim in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let victims = victims();
        let mut bytes = victim.get(&victims).clone();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        holds(bytes);
    }

    /// The metadata and the first records are small and essential. Uniform flips seldom hit them.
    #[test]
    fn any_few_bytes_of_the_last_kilobyte_may_be_wrong(
        victim in any::<prop::sample::Index>(),
        flips in prop::collection::vec((0..1024_usize, any::<u8>()), 1..6),
    ) {
        let victims = victims();
        let mut bytes = victim.get(&victims).clone();
        let length = bytes.len();
        for (back, byte) in flips {
            bytes[length - 1 - back.min(length - 1)] = byte;
        }
        holds(bytes);
    }

    /// A part is missing in the middle, as after an interrupted download.
    #[test]
    fn any_piece_may_be_missing(
        victim in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        length in 1..5000_usize,
    ) {
        let victims = victims();
        let mut bytes = victim.get(&victims).clone();
        let from = from.index(bytes.len());
        let until = (from + length).min(bytes.len());
        bytes.drain(from..until);
        holds(bytes);
    }

    #[test]
    fn any_data_section_may_stand_behind_a_sound_tree(kind: u8, data in prop::collection::vec(any::<u8>(), 1..400)) {
        holds(file_with_records(kind, &data));
    }

    #[test]
    fn any_tree_may_stand_before_sound_data(
        nodes in prop::collection::vec(any::<[u8; 2]>(), 1..60), shift in 0..40_u32,
    ) {
        let mut writer = sound().swap_remove(0);
        writer.nodes.extend(nodes.iter().map(|pair| pair.map(|bits| Record::Raw(u32::from(bits) + shift))));
        let root = writer.nodes.len() as u32 - 1;
        writer.nodes[0][1] = Record::Node(root);
        holds(writer.bytes());
    }

    #[test]
    fn any_bytes_may_follow_the_marker(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let file = [vec![0; 64], b"\xab\xcd\xefMaxMind.com".to_vec(), bytes].concat();
        holds(file);
    }
}
