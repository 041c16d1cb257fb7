//! Tests files with types of addresses: compiled lists, and the layouts of vendors.

mod support;

use cowrie_enrich_engine::mmdb::types::{Entry, ListSet, TypeDatabase};
use cowrie_enrich_engine::mmdb::{Database, MmdbError};
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_test_mmdb::types::{TypesFile, numbered};
use cowrie_enrich_test_mmdb::{Value, Writer, map, text};
use proptest::prelude::*;
use support::in_bounded_time;
use support::invariants::ip;
use support::type_invariants::{file_of, holds, sound};

fn open(bytes: Vec<u8>) -> TypeDatabase<Vec<u8>> {
    let database = TypeDatabase::open(bytes).unwrap();
    database.verify().unwrap();
    database
}

fn types<'a>(database: &'a TypeDatabase<Vec<u8>>, address: &str) -> Vec<&'a str> {
    let found = database.matches(ip(address), database.all()).unwrap();
    found.iter().map(|list| database.lists()[list].kind.as_str()).collect()
}

fn entries<'a>(database: &'a TypeDatabase<Vec<u8>>, address: &str) -> Vec<Entry<'a>> {
    let mut found = Vec::new();
    database.entries(ip(address), |entry| found.push(entry)).unwrap();
    found
}

fn plain(list: usize) -> Entry<'static> {
    Entry { list, provider: None, region: None, service: None }
}

fn lists() -> TypesFile {
    TypesFile::new()
        .list("tor", "TOR", 1_700_000_000)
        .list("aws", "DATACENTER", 1_690_000_000)
        .list("vpn", "VPN", 1_680_000_000)
        .entry("tor", "3.64.1.2/32")
        .entry("tor", "2600:1f00::7/128")
        .detailed("aws", "3.0.0.0/8", "AWS", "us-east-1", "")
        .detailed("aws", "3.64.0.0/12", "AWS", "eu-central-1", "EC2")
        .detailed("aws", "2600:1f00::/24", "AWS", "us-east-1", "EC2")
        .entry("vpn", "3.64.1.0/24")
}

#[test]
fn a_record_keeps_all_lists_that_contain_it() {
    let database = open(lists().bytes());
    assert_eq!(types(&database, "3.64.1.2"), ["TOR", "DATACENTER", "VPN"]);
    assert_eq!(types(&database, "3.64.1.3"), ["DATACENTER", "VPN"]);
    assert_eq!(types(&database, "::ffff:3.64.1.3"), ["DATACENTER", "VPN"]);
    assert_eq!(types(&database, "3.1.1.1"), ["DATACENTER"]);
    assert_eq!(types(&database, "2.255.255.255"), [""; 0]);
    assert_eq!(types(&database, "2600:1f00::7"), ["TOR", "DATACENTER"]);
    assert_eq!(types(&database, "2600:1f00::8"), ["DATACENTER"]);
    assert_eq!(types(&database, "2600:2000::8"), [""; 0]);

    let aws = |region, service| Entry { list: 1, provider: Some("AWS"), region: Some(region), service };
    assert_eq!(
        entries(&database, "3.64.1.2"),
        [plain(0), aws("us-east-1", None), aws("eu-central-1", Some("EC2")), plain(2)]
    );
    assert_eq!(entries(&database, "8.8.8.8"), []);
}

/// The header of a map with 29 or more members has a byte more.
#[test]
fn a_record_keeps_the_statements_of_up_to_64_lists() {
    for count in [1, 28, 29, 30, 64] {
        let names: Vec<String> = (0..count).map(|index| format!("list{index}")).collect();
        let file = names.iter().fold(TypesFile::new(), |file, name| file.list(name, "TOR", 1_700_000_000));
        let file = names.iter().fold(file, |file, name| file.detailed(name, "5.0.0.1/32", name, "", ""));
        let database = open(file.bytes());
        let found = entries(&database, "5.0.0.1");
        assert_eq!(found.len(), count);
        for (index, entry) in found.iter().enumerate() {
            assert_eq!((entry.list, entry.provider), (index, Some(names[index].as_str())), "{count} lists");
        }
    }
}

#[test]
fn an_unusable_list_states_nothing_but_keeps_its_entries() {
    let database = open(lists().bytes());
    let usable: ListSet = [1, 2].into_iter().collect();
    assert_eq!(database.matches(ip("3.64.1.2"), usable).unwrap(), usable);
    assert!(database.matches(ip("2600:1f00::7"), [0].into_iter().collect()).unwrap().contains(0));
    assert!(database.matches(ip("3.64.1.2"), ListSet::EMPTY).unwrap().is_empty());
    assert_eq!(entries(&database, "3.64.1.2").len(), 4);
}

#[test]
fn a_prefix_matches_a_list_that_contains_one_of_its_addresses() {
    let database = open(lists().bytes());
    let matches = |prefix: &str, list: usize| {
        let lists = [list].into_iter().collect();
        database.any_match(Prefix::parse(prefix).unwrap(), lists).unwrap()
    };
    for (prefix, [tor, aws, vpn]) in [
        ("3.64.1.2/32", [true, true, true]),
        ("3.64.1.3/32", [false, true, true]),
        ("3.64.1.0/24", [true, true, true]),
        ("3.64.1.128/25", [false, true, true]),
        ("3.64.2.0/24", [false, true, false]),
        ("3.0.0.0/8", [true, true, true]),
        ("0.0.0.0/0", [true, true, true]),
        ("4.0.0.0/8", [false, false, false]),
        ("2600:1f00::/48", [true, true, false]),
        ("2600:1f00:1::/48", [false, true, false]),
        ("2600::/16", [true, true, false]),
        ("2a00::/16", [false, false, false]),
    ] {
        assert_eq!([0, 1, 2].map(|list| matches(prefix, list)), [tor, aws, vpn], "{prefix}");
        assert!(!database.any_match(Prefix::parse(prefix).unwrap(), ListSet::EMPTY).unwrap());
    }
}

#[test]
fn each_block_of_a_list_in_a_prefix_is_visited() {
    let database = open(lists().bytes());
    let blocks = |prefix: &str, list: usize| {
        let mut found = Vec::new();
        let visit = |block: Prefix| found.push(block);
        database.each_match(Prefix::parse(prefix).unwrap(), [list].into_iter().collect(), visit).unwrap();
        found
    };
    for prefix in ["0.0.0.0/0", "3.64.1.2/32", "2600::/16", "::/0", "::ffff:3.64.1.0/120"] {
        for list in 0..3 {
            for block in blocks(prefix, list) {
                let wanted = [list].into_iter().collect();
                assert!(database.any_match(block, wanted).unwrap(), "{prefix}, list {list}: {block}");
                assert!(Prefix::parse(prefix).unwrap().contains(block.network()), "{prefix}: {block}");
            }
        }
    }
    assert_eq!(blocks("0.0.0.0/0", 0), [Prefix::parse("3.64.1.2/32").unwrap()]);
    assert_eq!(blocks("3.64.1.2/32", 2), [Prefix::parse("3.64.1.2/32").unwrap()]);
    assert!(!blocks("::/0", 0).is_empty());
    assert!(blocks("4.0.0.0/8", 1).is_empty());
}

#[test]
fn the_lists_have_a_name_a_type_and_a_time() {
    let database = open(lists().build_epoch(1_710_000_000).bytes());
    let lists: Vec<_> = database
        .lists()
        .iter()
        .map(|list| (list.name.as_str(), list.kind.as_str(), list.published, list.entries))
        .collect();
    assert_eq!(
        lists,
        [
            ("tor", "TOR", 1_700_000_000, Some(2)),
            ("aws", "DATACENTER", 1_690_000_000, Some(3)),
            ("vpn", "VPN", 1_680_000_000, Some(1)),
        ]
    );
    assert_eq!(database.facts().build_epoch, 1_710_000_000);
}

#[test]
fn an_invalid_table_of_lists_is_refused() {
    let list = |members: &str| format!(r#"{{"format":1,"lists":[{members}]}}"#);
    let tor = r#"{"name":"tor","type":"TOR","published":1}"#;
    for (table, expected) in [
        ("no".to_owned(), "is no JSON"),
        ("{}".to_owned(), "format is missing"),
        (r#"{"format":1}"#.to_owned(), "the number of lists is not between 1 and 64"),
        (list(""), "the number of lists is not between 1 and 64"),
        (list(&[tor; 65].join(",")), "the number of lists is not between 1 and 64"),
        (list(&tor.replace("tor", "")), "list 0 has no valid name"),
        (list(&tor.replace("TOR", "tor")), "list 0 has no valid type"),
        (list(&tor.replace(":1}", ":-1}")), "list 0 has no valid time"),
        (list(&tor.replace(":1}", ":253402300800}")), "list 0 has no valid time"),
        (list(&format!("{tor},{tor}")), "list 1 has the same name as another list"),
    ] {
        match TypeDatabase::open(lists().bytes_with_table(&table)) {
            Err(MmdbError::Metadata { field: "description, lists", reason }) => assert_eq!(reason, expected),
            other => panic!("{table}: {:?}", other.err()),
        }
    }
    let future = TypeDatabase::open(lists().bytes_with_table(r#"{"format":2,"lists":[]}"#)).err();
    assert_eq!(future, Some(MmdbError::Unsupported { what: "format of lists", value: 2 }));
    // A file that another program wrote does not have the key `lists`.
    let absent = TypeDatabase::open(lists().writer().bytes()).err().unwrap().to_string();
    assert_eq!(absent, "mmdb metadata, description, lists: is missing");
}

#[test]
fn a_record_that_contradicts_the_table_is_refused() {
    let hostile = |bits: Value, matches: Vec<Value>| map([("lists", bits), ("matches", numbered(matches))]);
    let of = |list: u16| map([("list", Value::U16(list))]);
    for (record, expected) in [
        (map([]), "names no list"),
        (text("TOR"), "names no list"),
        (hostile(text("7"), vec![of(0)]), "names no list"),
        (hostile(Value::U64(0), vec![]), "names no list"),
        (hostile(Value::U64(1 << 3), vec![of(3)]), "refers to a list that is not in the file"),
        (hostile(Value::U64(3), vec![of(0)]), "the keys \"lists\" and \"matches\" refer to different lists"),
        (
            hostile(Value::U64(1), vec![of(0), of(1)]),
            "the keys \"lists\" and \"matches\" refer to different lists",
        ),
        (
            hostile(Value::U64(1), vec![of(0), of(99)]),
            "the keys \"lists\" and \"matches\" refer to different lists",
        ),
        (
            hostile(Value::U64(1), vec![of(0), map([])]),
            "the keys \"lists\" and \"matches\" refer to different lists",
        ),
        (map([("lists", Value::U64(1))]), "the keys \"lists\" and \"matches\" refer to different lists"),
        (
            map([("lists", Value::U64(1)), ("matches", Value::Array(vec![of(0)]))]),
            "the keys \"lists\" and \"matches\" refer to different lists",
        ),
    ] {
        let mut writer = lists().writer();
        writer.insert("9.0.0.0/8", record.clone());
        let mut metadata = writer.metadata();
        metadata.retain(|(key, _)| key != "description");
        metadata.push(("description".to_owned(), map([("lists", text(&lists().table()))])));
        let database = TypeDatabase::open(writer.bytes_with(metadata)).unwrap();
        match database.verify() {
            Err(MmdbError::Record { network, reason, .. }) => {
                assert_eq!((network.as_str(), reason.as_str()), ("9.0.0.0/8", expected));
            }
            other => panic!("{record:?}: {other:?}"),
        }
        // A file that was not verified names only lists that it has.
        assert!(database.matches(ip("9.1.1.1"), database.all()).unwrap().iter().all(|list| list < 3));
        assert!(entries(&database, "9.1.1.1").iter().all(|entry| entry.list < 3));
    }
}

#[test]
fn a_file_without_types_is_refused() {
    let place = map([("country", map([("iso_code", text("SE"))]))]);
    let bytes = Writer::new("GeoLite2-Country", 6).with("1.0.0.0/8", place).bytes();
    assert_eq!(
        TypeDatabase::open(bytes).err().unwrap().to_string(),
        "mmdb file of type \"GeoLite2-Country\" contains no types of addresses, such as VPN or TOR"
    );
    // A file of types has neither places nor networks.
    assert!(matches!(Database::open(lists().bytes()), Err(MmdbError::NoAnswers { .. })));
}

#[test]
fn maxmind_states_a_type_only_by_a_present_key() {
    let yes = || Value::Bool(true);
    let database = open(
        Writer::new("GeoIP2-Anonymous-IP", 6)
            .build_epoch(1_720_000_000)
            .with("1.0.0.0/8", map([]))
            .with("1.1.0.0/16", map([("is_anonymous", yes()), ("is_anonymous_vpn", yes())]))
            .with("1.2.0.0/16", map([("is_anonymous", yes())]))
            .with(
                "1.3.0.0/16",
                map([("is_anonymous", yes()), ("is_hosting_provider", yes()), ("is_tor_exit_node", yes())]),
            )
            .with("1.4.0.0/16", map([("is_anonymous", Value::Bool(false)), ("is_public_proxy", yes())]))
            .with("1.5.0.0/16", map([("is_residential_proxy", yes()), ("new_key", yes())]))
            .bytes(),
    );
    for (address, expected) in [
        ("1.1.0.1", &["VPN"][..]),
        ("1.2.0.1", &["ANONYMOUS"]),
        ("1.3.0.1", &["TOR", "DATACENTER"]),
        ("1.4.0.1", &["PROXY"]),
        ("1.5.0.1", &["RESIDENTIAL_PROXY"]),
        // An empty record has no type, and an absent record has no type either.
        ("1.9.0.1", &[]),
        ("2.0.0.1", &[]),
    ] {
        assert_eq!(types(&database, address), expected, "{address}");
    }
    assert!(database.lists().iter().all(|list| list.name == "GeoIP2-Anonymous-IP"));
    assert!(database.lists().iter().all(|list| list.published == 1_720_000_000));
}

#[test]
fn the_provider_is_that_of_the_anonymizer_and_not_of_the_hoster() {
    let record = map([
        ("anonymizer_confidence", Value::U16(99)),
        ("is_anonymous", Value::Bool(true)),
        ("is_anonymous_vpn", Value::Bool(true)),
        ("is_hosting_provider", Value::Bool(true)),
        ("network_last_seen", text("2025-04-14")),
        ("provider_name", text("foo")),
    ]);
    let database = open(Writer::new("GeoIP-Anonymous-Plus", 6).with("1.0.0.0/8", record).bytes());
    let found: Vec<_> = entries(&database, "1.1.1.1")
        .iter()
        .map(|entry| (database.lists()[entry.list].kind.as_str(), entry.provider))
        .collect();
    assert_eq!(found, [("VPN", Some("foo")), ("DATACENTER", None)]);
}

/// Measured on the samples: the newer file has booleans, the older one the texts "true" and "".
#[test]
fn both_shapes_of_ipinfos_privacy_file_are_read() {
    let record = |yes: fn(bool) -> Value| {
        map([
            ("hosting", yes(true)),
            ("proxy", yes(false)),
            ("relay", yes(false)),
            ("service", text("ExampleVPN")),
            ("tor", yes(false)),
            ("vpn", yes(true)),
        ])
    };
    let as_text = |flag| text(if flag { "true" } else { "" });
    for (database_type, record) in [
        ("ipinfo standard_privacy_new_sample.mmdb", record(Value::Bool)),
        ("ipinfo standard_privacy_sample.mmdb", record(as_text)),
    ] {
        let database = open(Writer::new(database_type, 6).with("1.0.0.2/32", record).bytes());
        assert_eq!(types(&database, "1.0.0.2"), ["VPN", "DATACENTER"], "{database_type}");
        assert_eq!(types(&database, "1.0.0.3"), [""; 0]);
        assert_eq!(
            entries(&database, "1.0.0.2"),
            [Entry { service: Some("ExampleVPN"), ..plain(0) }, plain(4)]
        );
    }
}

#[test]
fn files_of_residential_proxies_and_of_ipinfo_plus_are_read() {
    let record = map([("network_last_seen", text("2026-05-11")), ("provider_name", text("quick"))]);
    let maxmind = open(Writer::new("GeoIP-Residential-Proxy", 6).with("1.2.0.4/32", record).bytes());
    assert_eq!(types(&maxmind, "1.2.0.4"), ["RESIDENTIAL_PROXY"]);
    assert_eq!(entries(&maxmind, "1.2.0.4"), [Entry { provider: Some("quick"), ..plain(0) }]);

    let record = map([
        ("last_seen", text("2024-01-01")),
        ("percent_days_seen", Value::U16(7)),
        ("service", text("soax")),
    ]);
    let ipinfo = open(Writer::new("ipinfo residential_proxy", 4).with("1.2.0.4/32", record).bytes());
    assert_eq!(entries(&ipinfo, "1.2.0.4"), [Entry { service: Some("soax"), ..plain(0) }]);
    assert_eq!(types(&ipinfo, "2001:db8::1"), [""; 0]);

    let record = map([
        ("as_type", text("hosting")),
        ("is_hosting", Value::Bool(true)),
        ("is_mobile", Value::Bool(false)),
        ("is_vpn", Value::Bool(true)),
    ]);
    let plus = open(Writer::new("ipinfo plus", 6).with("1.2.0.4/32", record).bytes());
    assert_eq!(types(&plus, "1.2.0.4"), ["VPN", "DATACENTER"]);
}

#[test]
fn maxminds_own_test_files_are_read_as_documented() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/maxmind-test");
    for (file, address, expected) in [
        ("GeoIP2-Anonymous-IP-Test", "1.2.0.1", &["VPN"][..]),
        ("GeoIP2-Anonymous-IP-Test", "1.124.213.1", &["VPN", "TOR"]),
        ("GeoIP2-Anonymous-IP-Test", "65.0.0.1", &["TOR"]),
        ("GeoIP2-Anonymous-IP-Test", "71.160.223.45", &["DATACENTER"]),
        ("GeoIP2-Anonymous-IP-Test", "186.30.236.1", &["PROXY"]),
        (
            "GeoIP2-Anonymous-IP-Test",
            "81.2.69.142",
            &["VPN", "TOR", "PROXY", "RESIDENTIAL_PROXY", "DATACENTER"],
        ),
        ("GeoIP2-Anonymous-IP-Test", "8.8.8.8", &[]),
        ("GeoIP-Anonymous-Plus-Test", "1.2.0.1", &["VPN"]),
        ("GeoIP-Anonymous-Plus-Test", "6.1.0.4", &["RESIDENTIAL_PROXY"]),
        ("GeoIP2-IP-Risk-Test", "2001:480::1", &["DATACENTER"]),
        ("GeoIP2-IP-Risk-Test", "55.0.0.1", &[]),
        ("GeoIP-Residential-Proxy-Test", "2001:480:1b20:fb4f::1", &["RESIDENTIAL_PROXY"]),
        ("GeoIP-Residential-Proxy-Test", "1.2.0.5", &[]),
    ] {
        let Ok(bytes) = std::fs::read(format!("{folder}/{file}.mmdb")) else {
            eprintln!("skipped: {file} is absent");
            continue;
        };
        assert_eq!(types(&open(bytes), address), expected, "{file}, {address}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_few_bytes_may_be_wrong(
        victim in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut bytes = victim.get(&sound()).clone();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        holds(bytes);
    }

    #[test]
    fn any_bytes_may_be_records_or_the_table_of_lists(
        kind in any::<u8>(),
        bytes in prop::collection::vec(any::<u8>(), 1..300),
    ) {
        holds(file_of(kind, &bytes));
    }
}

/// Each of 20,000 records has the same 4,000 matches. Reading them for each record would take 80 million steps.
#[test]
fn records_that_share_too_many_matches_are_refused() {
    let mut writer = lists().writer().record_size(32);
    let matches = writer.value(&numbered(vec![map([("list", Value::U16(0))]); 4_000]));
    for index in 0..20_000 {
        let record = map([("lists", Value::U64(1)), ("matches", Value::Pointer(matches))]);
        let offset = writer.value(&record);
        writer.insert_at(&format!("9.{}.{}.0/24", index / 256, index % 256), offset);
    }
    let mut metadata = writer.metadata();
    metadata.retain(|(key, _)| key != "description");
    metadata.push(("description".to_owned(), map([("lists", text(&lists().table()))])));
    let bytes = writer.bytes_with(metadata);
    let verified = in_bounded_time("shared matches", move || TypeDatabase::open(bytes).unwrap().verify());
    match verified {
        Err(MmdbError::Record { reason, .. }) => assert_eq!(reason, "record has too many values"),
        other => panic!("{other:?}"),
    }
}
