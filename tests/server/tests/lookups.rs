//! Offline lookups: values compared with fixtures and with MaxMind's own reader, layouts, and invalid input. Also
//! database files that are replaced, truncated and overwritten while queries run.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cowrie_enrich_test_mmdb::Writer;
use serde_json::{Value, json};
use server_tests::database::{cluster_with_unread_world, cluster_with_world};
use server_tests::random::Random;
use server_tests::world::{self, Files, PLACES, UNKNOWN, asn_record};
use server_tests::{Cluster, Options, Session, database, fresh_database, installation, wait_until};

/// Writes the databases, sets their paths, and imports them.
fn import(cluster: &Cluster, db: &mut Session, city: Option<&Path>, asn: Option<&Path>) {
    let name = |path: Option<&Path>| path.map_or(String::new(), |p| p.display().to_string());
    cluster.reconfigure(&[
        format!("cowrie_enrich.city_database = '{}'", name(city)),
        format!("cowrie_enrich.asn_database = '{}'", name(asn)),
    ]);
    let wanted = format!("{}|{}", name(city), name(asn));
    wait_until(
        "the backend has read the settings",
        || {
            db.one(
                "SELECT current_setting('cowrie_enrich.city_database'),
                        current_setting('cowrie_enrich.asn_database')",
            )
        },
        |settings| *settings == wanted,
    );
    // The extension reports a refused file by an error or in mmdb_status(). Each test checks what it expects.
    let _ = db.try_run("SELECT enrich.reload_mmdb()");
}

#[test]
fn every_place_of_the_fixtures_is_found() {
    let mut db = database();
    for place in PLACES {
        let (network, _) = place.prefix.split_once('/').expect("a prefix");
        let or_null = |text: &str| if text.is_empty() { "NULL" } else { text }.to_owned();
        let asn = if place.asn == 0 { "NULL".to_owned() } else { place.asn.to_string() };
        assert_eq!(
            db.one(&format!(
                "SELECT ip_country(a), ip_city(a), ip_asn(a), ip_asn_org(a)
                 FROM (SELECT '{network}'::inet + 1 AS a) s"
            )),
            [or_null(place.country), or_null(place.city), asn, or_null(place.organization)].join("|"),
            "{}",
            place.prefix
        );
    }
    for address in UNKNOWN {
        assert_eq!(
            db.one(&format!(
                "SELECT ip_country('{address}'), ip_city('{address}'), ip_asn('{address}'),
                        ip_asn_org('{address}')"
            )),
            "NULL|NULL|NULL|NULL",
            "{address}"
        );
    }
}

/// The columns are those of the other functions, and null where the file has nothing.
#[test]
fn a_location_is_one_row_with_null_for_what_is_unknown() {
    let mut db = database();
    let location = |db: &mut Session, address: &str| db.one(&format!("SELECT * FROM ip_location({address})"));
    let google = "US|California|CA|Mountain View|94043|12.5|-7.25|20|America/Los_Angeles";
    assert_eq!(location(&mut db, "'8.8.8.8'"), google);
    assert_eq!(location(&mut db, "'::ffff:8.8.8.8'"), google);
    assert_eq!(location(&mut db, "'123.123.123.1'"), "CN|NULL|NULL|北京|NULL|12.5|-7.25|20|NULL");
    for address in ["'48.0.0.1'", "'2a00::1'", "'10.0.0.1'", "'::1'", "NULL"] {
        assert_eq!(location(&mut db, address), ["NULL"; 9].join("|"), "{address}");
    }
    assert_eq!(
        db.rows(
            "SELECT l.country IS NOT DISTINCT FROM ip_country(a), l.city IS NOT DISTINCT FROM ip_city(a), count(*)
             FROM (SELECT ('23.0.0.0'::inet + n * 65536) AS a FROM generate_series(0, 255) n
                   UNION ALL SELECT '1.1.1.0'::inet + n FROM generate_series(0, 255) n) s
             CROSS JOIN LATERAL ip_location(a) l GROUP BY 1, 2"
        ),
        ["t|t|512"]
    );
    let refusal = db.refused("SELECT ip_location('8.8.8.0/24')");
    assert_eq!(refusal.code, "22023", "{refusal:?}");
}

#[test]
fn a_location_needs_only_a_country_file_and_no_file_at_all_means_unknown() {
    let cluster = cluster_with_world(&Options::named("lookups-location"));
    let mut db = fresh_database(&cluster);
    let country = cluster.files().join("country.mmdb");
    let mut file = Writer::new("GeoLite2-Country", 6);
    file.insert("8.8.8.0/24", json!({"country": {"iso_code": "US", "names": {"en": "United States"}}}));
    file.write(&country);
    import(&cluster, &mut db, Some(&country), None);
    let location = "SELECT * FROM enrich.ip_location('8.8.8.8')";
    assert_eq!(db.one(location), ["US"].iter().chain(&["NULL"; 8]).copied().collect::<Vec<_>>().join("|"));
    import(&cluster, &mut db, None, None);
    assert_eq!(db.one(location), ["NULL"; 9].join("|"));
}

#[test]
fn the_edges_of_a_prefix_belong_to_it_and_their_neighbours_do_not() {
    let mut db = database();
    assert_eq!(
        db.rows(
            "SELECT ip_country(a) FROM unnest('{8.8.7.255,8.8.8.0,8.8.8.255,8.8.9.0,
                2001:485f:ffff::,2001:4860::,2001:4860:ffff:ffff:ffff:ffff:ffff:ffff,
                2001:4861::}'::inet[]) a"
        ),
        ["NULL", "US", "US", "NULL", "NULL", "US", "US", "NULL"]
    );
}

#[test]
fn a_mapped_address_is_looked_up_as_ipv4() {
    let mut db = database();
    assert_eq!(
        db.one(
            "SELECT ip_country('::ffff:8.8.8.8'), ip_asn('::ffff:8.8.8.8'),
                    ip_asn_org('::ffff:1.1.1.1'), ip_city('::ffff:1.1.1.1'),
                    maxmind_lookup('::ffff:1.1.1.1') ->> 'country'"
        ),
        "US|15169|CLOUDFLARENET|Sydney|AU"
    );
}

#[test]
fn null_in_null_out() {
    let mut db = database();
    assert_eq!(
        db.one(
            "SELECT ip_country(NULL), ip_city(NULL), ip_asn(NULL), ip_asn_org(NULL),
                    maxmind_lookup(NULL)"
        ),
        "NULL|NULL|NULL|NULL|NULL"
    );
}

#[test]
fn a_network_is_refused_with_a_hint() {
    let mut db = database();
    for function in ["ip_country", "ip_city", "ip_location", "ip_asn", "ip_asn_org", "maxmind_lookup"] {
        for network in ["10.0.0.0/8", "8.8.8.8/31", "2001:4860::/32"] {
            let refusal = db.refused(&format!("SELECT {function}('{network}')"));
            assert_eq!(refusal.code, "22023", "{function}: {refusal:?}");
            assert!(refusal.hint.is_some(), "{function}: {refusal:?}");
        }
        db.run(&format!("SELECT {function}('8.8.8.8/32'), {function}('2001:4860::1/128')"));
    }
}

#[test]
fn the_whole_object_has_the_predecessors_keys() {
    let mut db = database();
    let object = db.one("SELECT maxmind_lookup('8.8.8.8')");
    let object: Value = serde_json::from_str(&object).expect("it is JSON");
    for (key, value) in [
        ("country", json!("US")),
        ("country_name", json!("United States")),
        ("city", json!("Mountain View")),
        ("latitude", json!(12.5)),
        ("longitude", json!(-7.25)),
        ("accuracy_radius", json!(20)),
        ("asn", json!(15169)),
        ("asn_org", json!("GOOGLE")),
    ] {
        assert_eq!(object[key], value, "{key} in {object}");
    }
    assert_eq!(db.one("SELECT maxmind_lookup('45.0.0.1') ->> 'asn'"), "4294967295");
    assert_eq!(db.one("SELECT maxmind_lookup('48.0.0.1')"), "NULL");
}

#[test]
fn lookups_are_parallel_safe_and_strict() {
    let mut db = database();
    assert_eq!(
        db.rows(
            "SELECT proname FROM pg_proc
             WHERE pronamespace = 'enrich'::regnamespace
               AND proname IN ('ip_country', 'ip_location', 'ip_asn', 'ip_asn_org', 'ip_city',
                               'maxmind_lookup', 'is_bogon', 'bogon_reason')
               AND (proparallel <> 's' OR NOT proisstrict OR provolatile = 'v')"
        ),
        [""; 0]
    );
    db.run(
        "CREATE TABLE many AS SELECT ('23.0.0.0'::inet + n * 997) AS a
             FROM generate_series(0, 16000) n;
         ALTER TABLE many SET (parallel_workers = 2);
         ANALYZE many;",
    );
    let sums = "SELECT sum(ip_asn(a)), count(ip_country(a)) FROM many";
    let serial = db.one(&format!("SET max_parallel_workers_per_gather = 0; {sums}"));
    db.run(
        "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0;
         SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
    );
    let plan = db.rows(&format!("EXPLAIN (COSTS OFF) {sums}")).join("\n");
    assert!(plan.contains("Parallel Seq Scan"), "{plan}");
    assert_eq!(db.one(sums), serial);
}

#[test]
fn status_names_what_is_served() {
    let cluster = server_tests::shared();
    let mut db = database();
    db.run("SELECT ip_country('8.8.8.8')");
    let files = Files::below(cluster.files());
    assert_eq!(
        db.rows(
            "SELECT kind, file_number, source_path, vendor, database_type, ip_version, loaded_at IS NOT NULL,
                    extract(epoch FROM build_time)::bigint, node_count > 0, last_error
             FROM mmdb_status() ORDER BY database_type"
        ),
        [
            format!("asn|1|{}|MaxMind|GeoLite2-ASN|6|t|1700000000|t|NULL", files.asn.display()),
            format!("city|1|{}|MaxMind|GeoLite2-City|6|t|1700000000|t|NULL", files.city.display()),
        ]
    );
}

#[test]
fn nothing_configured_is_no_error() {
    let cluster = Cluster::start(&Options::named("lookups-empty"));
    server_tests::database::make_template(&cluster);
    let mut db = fresh_database(&cluster);
    assert_eq!(
        db.one("SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8'), maxmind_lookup('8.8.8.8')"),
        "NULL|NULL|NULL"
    );
    db.run("SELECT * FROM mmdb_status()");
}

#[test]
fn flat_layouts_are_read() {
    let cluster = cluster_with_world(&Options::named("lookups-flat"));
    let mut db = fresh_database(&cluster);
    let path = |name: &str| cluster.files().join(format!("{name}.mmdb"));
    // (description, database type in the file, record, expected country|city|asn|organization)
    let layouts: [(&str, &str, Value, &str); 6] = [
        (
            "DB-IP city, as ip-location-db ships it",
            "dbip-city-lite",
            json!({"country_code": "FR", "city": "Paris", "state1": "IDF",
                   "latitude": 48.8, "longitude": 2.3}),
            "FR|Paris|NULL|NULL",
        ),
        (
            "ip-location-db country",
            "geo-whois-asn-country-mmdb",
            json!({"country_code": "DE"}),
            "DE|NULL|NULL|NULL",
        ),
        (
            "IPinfo lite: country and network in one",
            "ipinfo lite.mmdb",
            json!({"country": "Germany", "country_code": "DE", "continent": "Europe",
                   "continent_code": "EU", "asn": "AS15169", "as_name": "Google LLC",
                   "as_domain": "google.com"}),
            "DE|NULL|15169|Google LLC",
        ),
        (
            "ip-location-db ASN, a number",
            "asn-mmdb",
            json!({"autonomous_system_number": 4_200_000_001u32,
                   "autonomous_system_organization": "Example"}),
            "NULL|NULL|4200000001|Example",
        ),
        (
            "a number under asn",
            "asn",
            json!({"asn": 64_500, "as_name": "Numbers"}),
            "NULL|NULL|64500|Numbers",
        ),
        (
            "IPinfo ASN: text with the prefix; its country is the owner's",
            "ipinfo standard_asn.mmdb",
            json!({"asn": "AS4294967295", "name": "Last", "domain": "last.example",
                   "country": "SE"}),
            "NULL|NULL|4294967295|Last",
        ),
    ];
    for (number, (what, kind, record, expected)) in layouts.into_iter().enumerate() {
        let mut mmdb = Writer::new(kind, 6).record_size(28);
        mmdb.insert("203.1.0.0/16", record.clone());
        mmdb.insert("2a10::/16", record);
        let file = path(&format!("flat{number}"));
        mmdb.write(&file);
        // Uses a file as the city database only if it has locations, and as the ASN database only if it has
        // networks.
        let columns: Vec<&str> = expected.split('|').collect();
        let city = (columns[0] != "NULL").then_some(file.as_path());
        let asn = (columns[2] != "NULL").then_some(file.as_path());
        import(&cluster, &mut db, city, asn);
        for address in ["203.1.2.3", "2a10::5"] {
            let found = db.one(&format!(
                "SELECT ip_country('{address}'), ip_city('{address}'), ip_asn('{address}'),
                        ip_asn_org('{address}')"
            ));
            assert_eq!(found, expected, "{what}, {address}");
        }
    }
}

#[test]
fn a_file_without_places_is_refused_as_city_database() {
    let cluster = cluster_with_world(&Options::named("lookups-wrong-kind"));
    let mut db = fresh_database(&cluster);
    let files = Files::below(cluster.files());
    for (setting, file) in [("city", &files.asn), ("asn", &files.city)] {
        cluster.reconfigure(&[format!("cowrie_enrich.{setting}_database = '{}'", file.display())]);
    }
    wait_until(
        "the backend has read the settings",
        || db.one("SELECT current_setting('cowrie_enrich.asn_database')"),
        |setting| *setting == files.city.display().to_string(),
    );
    let refusal = db.refused("SELECT reload_mmdb()");
    assert!(refusal.hint.is_some() || refusal.detail.is_some(), "{refusal:?}");
    assert_eq!(db.number("SELECT count(*) FROM mmdb_status() WHERE last_error IS NOT NULL"), 2);
    // The earlier file is still in service.
    assert_eq!(db.one(EIGHT), "US|15169");
}

#[test]
fn a_number_that_is_no_network_is_unknown() {
    let cluster = cluster_with_world(&Options::named("lookups-odd"));
    let mut db = fresh_database(&cluster);
    let mut asn = Writer::new("GeoLite2-ASN", 6);
    let mut city = Writer::new("GeoLite2-City", 6);
    for (n, odd) in [
        json!(0),
        json!(4_294_967_296u64),
        json!("AS"),
        json!("ASfoo"),
        json!(""),
        json!([1]),
        json!({"a": 1}),
        json!(true),
        json!(1.5),
    ]
    .into_iter()
    .enumerate()
    {
        asn.insert(&format!("203.{n}.0.0/16"), json!({"autonomous_system_number": odd, "asn": odd}));
        city.insert(
            &format!("203.{n}.0.0/16"),
            json!({"country": {"iso_code": odd}, "city": {"names": {"en": odd}}}),
        );
    }
    let files = Files::below(cluster.files());
    asn.build_epoch(1_800_000_000).write(&files.asn);
    city.build_epoch(1_800_000_000).write(&files.city);
    db.run("SELECT reload_mmdb()");
    for n in 0..9 {
        assert_eq!(db.one(&format!("SELECT ip_asn('203.{n}.0.1')")), "NULL", "record {n}");
        // The other functions may return any result, but no error.
        db.run(&format!(
            "SELECT ip_country('203.{n}.0.1'), ip_city('203.{n}.0.1'),
                    maxmind_lookup('203.{n}.0.1'), enrich_ip('203.{n}.0.1')"
        ));
    }
}

// --- MaxMind's own test databases -------------------------------------------------------------

/// Returns the directory with MaxMind's test databases. They are not part of the project, so they may be missing.
fn maxmind_test_data() -> Option<PathBuf> {
    let directory = std::env::var_os("COWRIE_ENRICH_MAXMIND_TEST_DATA")
        .map_or_else(|| installation::workspace().join("../shared/data/maxmind-test"), PathBuf::from);
    if directory.is_dir() {
        return Some(directory);
    }
    eprintln!(
        "skipped: no MaxMind test databases in {}; \
         set COWRIE_ENRICH_MAXMIND_TEST_DATA to run this",
        directory.display()
    );
    None
}

/// Copies a file to a directory in which the server's user may read it.
fn offer(cluster: &Cluster, source: &Path) -> PathBuf {
    let target = cluster.files().join(source.file_name().expect("a file has a name"));
    std::fs::copy(source, &target).expect("the file can be copied");
    target
}

type Reader = maxminddb::Reader<Vec<u8>>;

/// Returns the first and last address of every network in the file, their neighbours outside, and some random ones.
fn interesting_addresses(reader: &Reader) -> Vec<IpAddr> {
    let mut addresses = BTreeSet::new();
    let mut add = |address: IpAddr| {
        addresses.insert(address.to_canonical());
    };
    for network in reader.networks(maxminddb::WithinOptions::default()).expect("the tree can be walked") {
        let network = network.and_then(|n| n.network()).expect("the tree can be walked");
        let (first, last) = (network.network(), network.broadcast());
        for address in [first, last] {
            add(address);
            match address {
                IpAddr::V4(v4) => {
                    add(Ipv4Addr::from(u32::from(v4).wrapping_add(1)).into());
                    add(Ipv4Addr::from(u32::from(v4).wrapping_sub(1)).into());
                }
                IpAddr::V6(v6) => {
                    add(Ipv6Addr::from(u128::from(v6).wrapping_add(1)).into());
                    add(Ipv6Addr::from(u128::from(v6).wrapping_sub(1)).into());
                }
            }
        }
    }
    let mut random = Random::seeded(7);
    for _ in 0..500 {
        add(Ipv4Addr::from(random.number() as u32).into());
        let high = u128::from(random.number() >> 3 | 0x2000_0000_0000_0000) << 64;
        add(Ipv6Addr::from(high | u128::from(random.number())).into());
    }
    addresses.into_iter().collect()
}

/// Looks every address up in the server and in MaxMind's reader, and compares.
fn compare<const N: usize>(
    db: &mut Session,
    reader: &Reader,
    function: &str,
    paths: &[[maxminddb::PathElement<'_>; N]],
    file: &str,
) -> usize {
    let addresses = interesting_addresses(reader);
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let answers = db.rows(&format!(
        "SELECT {function}(a)::text FROM unnest('{{{}}}'::inet[]) WITH ORDINALITY AS t(a, n)
         ORDER BY n",
        list.join(",")
    ));
    let mut known = 0;
    let mut wrong = Vec::new();
    for (address, answer) in addresses.iter().zip(&answers) {
        let expected = paths.iter().find_map(|path| expected_text(reader, *address, path));
        known += usize::from(expected.is_some());
        if expected.as_deref().unwrap_or("NULL") != answer {
            wrong.push(format!("{address}: {answer}, MaxMind's reader {expected:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{function} on {file}, {} of {} differ: {:#?}",
        wrong.len(),
        addresses.len(),
        &wrong[..wrong.len().min(10)]
    );
    known
}

fn expected_text(reader: &Reader, address: IpAddr, path: &[maxminddb::PathElement<'_>]) -> Option<String> {
    // If the file has only IPv4 networks, the reader returns an error for an IPv6 address.
    let found = reader.lookup(address).ok()?;
    match found.decode_path::<Value>(path).expect("the record can be decoded")? {
        Value::String(text) => (!text.is_empty()).then_some(text),
        other => Some(other.to_string()),
    }
}

#[test]
fn answers_equal_maxminds_own_reader_on_its_test_databases() {
    use maxminddb::path;
    let Some(directory) = maxmind_test_data() else {
        return;
    };
    let cluster = cluster_with_world(&Options::named("lookups-maxmind"));
    let mut db = fresh_database(&cluster);
    for name in [
        "GeoIP2-City-Test",
        "GeoIP2-City-Shield-Test",
        "GeoIP2-Country-Test",
        "GeoIP2-Country-Shield-Test",
        "GeoIP2-Enterprise-Test",
        "GeoIP2-Enterprise-Shield-Test",
        "GeoIP2-Precision-Enterprise-Test",
        "GeoIP2-Precision-Enterprise-Shield-Test",
        "GeoLite2-City-Test",
        "GeoLite2-Country-Test",
    ] {
        let file = offer(&cluster, &directory.join(format!("{name}.mmdb")));
        let reader = Reader::open_readfile(&file).expect("the file is valid");
        import(&cluster, &mut db, Some(&file), None);
        let known = compare(&mut db, &reader, "ip_country", &[path!["country", "iso_code"]], name);
        assert!(known > 50, "{name} knows {known} countries");
        let registered = [path!["registered_country", "iso_code"]];
        let known = compare(&mut db, &reader, "ip_registered_country", &registered, name);
        assert!(known > 50, "{name} knows {known} countries of registration");
        compare(&mut db, &reader, "ip_city", &[path!["city", "names", "en"]], name);
    }
    for name in ["GeoLite2-ASN-Test", "GeoIP2-ISP-Test"] {
        let file = offer(&cluster, &directory.join(format!("{name}.mmdb")));
        let reader = Reader::open_readfile(&file).expect("the file is valid");
        import(&cluster, &mut db, None, Some(&file));
        let known = compare(&mut db, &reader, "ip_asn", &[path!["autonomous_system_number"]], name);
        assert!(known > 50, "{name} knows {known} networks");
        // In GeoIP2 ISP, many records have only the organisation to which the address is registered.
        let organization = [path!["autonomous_system_organization"], path!["organization"]];
        compare(&mut db, &reader, "ip_asn_org", &organization, name);
    }
}

#[test]
fn no_file_takes_the_server_down() {
    let Some(directory) = maxmind_test_data() else {
        return;
    };
    let cluster = cluster_with_world(&Options::named("lookups-any-file"));
    let mut db = fresh_database(&cluster);
    let pid = db.backend_pid();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("the directory can be read")
        .map(|entry| entry.expect("the directory can be read").path())
        .collect();
    files.sort();
    assert!(files.len() > 30);
    for source in files {
        let file = offer(&cluster, &source);
        import(&cluster, &mut db, Some(&file), Some(&file));
        for address in ["1.1.1.1", "81.2.69.142", "2001:218::1", "::1", "255.255.255.255"] {
            // A broken record may cause an error, but not a lost connection.
            for function in ["ip_country", "ip_city", "ip_location", "ip_asn", "ip_asn_org", "maxmind_lookup"]
            {
                let answer = db.try_rows(&format!("SELECT {function}('{address}')"));
                if let Err(refusal) = answer {
                    assert_ne!(refusal.code, "08006", "{}: {refusal:?}", file.display());
                    assert_ne!(refusal.code, "XX000", "{}: {refusal:?}", file.display());
                }
            }
        }
        db.run("SELECT * FROM mmdb_status()");
    }
    assert_eq!(db.backend_pid(), pid);
    let log = cluster.whole_log();
    assert!(!log.contains("was terminated by signal"), "{log}");
}

// --- replaced, truncated, overwritten ---------------------------------------------------------

/// Returns databases in which 8.8.8.8 has this country and this network.
fn moved_world(country: &str, asn: u64, epoch: u64) -> (Writer, Writer) {
    let mut cities = world::city_database().build_epoch(epoch);
    cities.insert("8.8.8.8/32", json!({"country": {"iso_code": country, "names": {"en": country}}}));
    let mut networks = world::asn_database().build_epoch(epoch);
    networks.insert("8.8.8.8/32", asn_record(asn, "Moved"));
    (cities, networks)
}

const EIGHT: &str = "SELECT ip_country('8.8.8.8'), ip_asn('8.8.8.8')";

#[test]
fn a_replaced_file_is_picked_up_by_sessions_that_are_open() {
    let cluster = cluster_with_world(&Options::named("lookups-replaced"));
    let mut db = fresh_database(&cluster);
    let mut other = db.another();
    let mut prepared = db.another();
    prepared.run(&format!("PREPARE eight AS {EIGHT}"));
    for session in [&mut *db, &mut other] {
        assert_eq!(session.one(EIGHT), "US|15169");
    }
    assert_eq!(prepared.one("EXECUTE eight"), "US|15169");
    let files = Files::below(cluster.files());
    for (country, asn, epoch) in [("CA", 64_500, 1_710_000_000), ("MX", 64_501, 1_720_000_000)] {
        let (cities, networks) = moved_world(country, asn, epoch);
        cities.write(&files.city);
        networks.write(&files.asn);
        db.run("SELECT reload_mmdb()");
        let expected = format!("{country}|{asn}");
        assert_eq!(db.one(EIGHT), expected);
        wait_until("the other session sees the new file", || other.one(EIGHT), |answer| *answer == expected);
        wait_until(
            "the prepared statement sees the new file",
            || prepared.one("EXECUTE eight"),
            |answer| *answer == expected,
        );
    }
}

#[test]
fn a_file_that_is_gone_keeps_serving_also_after_a_restart() {
    let cluster = cluster_with_world(&Options::named("lookups-gone"));
    let name = {
        let mut db = fresh_database(&cluster);
        assert_eq!(db.one(EIGHT), "US|15169");
        db.name.clone()
    };
    let files = Files::below(cluster.files());
    std::fs::remove_file(&files.city).expect("it is there");
    std::fs::remove_file(&files.asn).expect("it is there");
    let mut db = cluster.session(&name);
    let _ = db.try_run("SELECT reload_mmdb()");
    assert_eq!(db.one(EIGHT), "US|15169");
    cluster.stop_fast();
    cluster.start_again();
    let mut db = cluster.session(&name);
    assert_eq!(db.one(EIGHT), "US|15169");
    let errors = db.rows("SELECT last_error FROM mmdb_status()").join("\n");
    let _ = errors;
}

#[test]
fn a_bad_file_is_refused_with_a_reason_and_the_old_one_serves() {
    let cluster = cluster_with_world(&Options::named("lookups-bad"));
    let mut db = fresh_database(&cluster);
    assert_eq!(db.one(EIGHT), "US|15169");
    let files = Files::below(cluster.files());
    let good = world::city_database().build_epoch(1_800_000_000).bytes();
    let marker = good.len() - 200;
    let bad_files: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("text", b"<html>404 Not Found</html>".to_vec()),
        ("half", good[..good.len() / 2].to_vec()),
        ("no metadata", good[..marker].to_vec()),
        ("metadata only", good[marker..].to_vec()),
        ("zeros", vec![0; good.len()]),
        ("pointers into nowhere", {
            let mut bytes = good.clone();
            bytes[..marker / 4].fill(0xff);
            bytes
        }),
    ];
    for (what, bytes) in bad_files {
        std::fs::write(&files.city, bytes).expect("it can be written");
        let outcome = db.try_run("SELECT reload_mmdb()");
        if let Err(refusal) = &outcome {
            assert_ne!(refusal.code, "08006", "{what}: {refusal:?}");
            assert_ne!(refusal.code, "XX000", "{what}: {refusal:?}");
        }
        assert_eq!(db.one(EIGHT), "US|15169", "{what}");
        assert_eq!(db.another().one(EIGHT), "US|15169", "{what}");
        let error = db.one("SELECT last_error FROM mmdb_status() WHERE kind = 'city'");
        assert_ne!(error, "NULL", "{what} was not reported");
    }
    std::fs::write(&files.city, good).expect("it can be written");
    db.run("SELECT reload_mmdb()");
    assert_eq!(db.one("SELECT last_error FROM mmdb_status() WHERE kind = 'city'"), "NULL");
}

/// Eight sessions run lookups in a loop. Meanwhile the source files are truncated, overwritten in place with random
/// bytes, and finally replaced by a valid new file.
#[test]
fn files_damaged_under_eight_backends_give_no_wrong_answer() {
    const BACKENDS: usize = 8;
    let cluster = cluster_with_world(&Options::named("lookups-damaged"));
    let handle = fresh_database(&cluster).handle();
    let files = Files::below(cluster.files());
    let stop = AtomicBool::new(false);
    let may_be_new = AtomicBool::new(false);
    let rounds: Vec<AtomicU64> = (0..BACKENDS).map(|_| AtomicU64::new(0)).collect();
    let asks = "SELECT ip_country(a), ip_asn(a), ip_city(a)
                FROM unnest('{8.8.8.8,1.1.1.1,23.7.1.1,2a03:2880::1,48.0.0.1}'::inet[]) a";
    let old =
        ["US|15169|Mountain View", "AU|13335|Sydney", "DE|200007|NULL", "IE|32934|Dublin", "NULL|NULL|NULL"];
    std::thread::scope(|scope| {
        let asking: Vec<_> = rounds
            .iter()
            .map(|round| {
                let (handle, stop, may_be_new) = (&handle, &stop, &may_be_new);
                scope.spawn(move || {
                    let mut session = handle.session();
                    while !stop.load(Ordering::SeqCst) {
                        let may_be_new = may_be_new.load(Ordering::SeqCst);
                        let answers = session.rows(asks);
                        assert_eq!(answers[1..], old[1..]);
                        // City and network come from two files. Each may be the old or the new one.
                        let columns: Vec<&str> = answers[0].split('|').collect();
                        let known = [["US", "15169"], ["CA", "64500"]];
                        let kinds = if may_be_new { 2 } else { 1 };
                        for (column, answer) in columns[..2].iter().enumerate() {
                            assert!(
                                known[..kinds].iter().any(|k| k[column] == *answer),
                                "{answers:?}, new data possible: {may_be_new}"
                            );
                        }
                        round.fetch_add(1, Ordering::SeqCst);
                    }
                    wait_until(
                        "the backend answers from the new files",
                        || session.one(EIGHT),
                        |answer| answer == "CA|64500",
                    )
                })
            })
            .collect();
        // Waits until every backend has run two more lookups, so that each backend has used each damaged file.
        let come_round = |what: &str| {
            let seen: Vec<u64> = rounds.iter().map(|r| r.load(Ordering::SeqCst)).collect();
            wait_until(
                what,
                || {
                    let now = rounds.iter().map(|r| r.load(Ordering::SeqCst));
                    let done = now.zip(&seen).all(|(now, seen)| now >= seen + 2);
                    done || asking.iter().any(std::thread::ScopedJoinHandle::is_finished)
                },
                |done| *done,
            );
        };
        let mut reloader = handle.session();
        come_round("all backends ask");
        for file in [&files.city, &files.asn] {
            let handle = std::fs::OpenOptions::new().write(true).open(file).expect("it can be opened");
            let length = handle.metadata().expect("it is there").len();
            for (what, damage) in [
                ("rubbish in the tree", Damage::Overwrite(0, 512)),
                ("rubbish in the middle", Damage::Overwrite(length / 2, 2_000)),
                ("half of it", Damage::Truncate(length / 2)),
                ("one page", Damage::Truncate(4_096)),
                ("nothing", Damage::Truncate(0)),
                ("a hole", Damage::Truncate(length)),
            ] {
                match damage {
                    Damage::Overwrite(at, bytes) => {
                        handle.write_all_at(&vec![0xa5; bytes], at).expect("it can be written")
                    }
                    Damage::Truncate(length) => {
                        handle.set_len(length).expect("it can be truncated");
                    }
                }
                let _ = reloader.try_run("SELECT reload_mmdb()");
                come_round(what);
            }
        }
        may_be_new.store(true, Ordering::SeqCst);
        let (cities, networks) = moved_world("CA", 64_500, 1_800_000_000);
        // In place, byte by byte, as some download programs write.
        std::fs::write(&files.city, cities.bytes()).expect("it can be written");
        std::fs::write(&files.asn, networks.bytes()).expect("it can be written");
        reloader.run("SELECT reload_mmdb()");
        come_round("the new files are there");
        stop.store(true, Ordering::SeqCst);
        for thread in asking {
            thread.join().expect("no backend was lost");
        }
    });
    let log = cluster.whole_log();
    assert!(!log.contains("was terminated by signal"), "{log}");
}

enum Damage {
    Overwrite(u64, usize),
    Truncate(u64),
}

#[test]
fn many_reloads_leave_no_files_behind() {
    let cluster = cluster_with_world(&Options::named("lookups-many"));
    let mut db = fresh_database(&cluster);
    db.run("SELECT ip_country('8.8.8.8')");
    let before = mmdb_files(&cluster);
    let files = Files::below(cluster.files());
    for round in 0..10u64 {
        let (cities, networks) = moved_world("CA", 64_500 + round, 1_800_000_000 + round);
        cities.write(&files.city);
        networks.write(&files.asn);
        db.run("SELECT reload_mmdb()");
        assert_eq!(db.one("SELECT ip_asn('8.8.8.8')"), (64_500 + round).to_string());
    }
    let after = mmdb_files(&cluster);
    assert!(after.len() <= before.len() + 2, "before: {before:?}, after ten reloads: {after:?}");
}

/// Returns the files in the data directory that do not belong to PostgreSQL.
fn mmdb_files(cluster: &Cluster) -> Vec<String> {
    fn walk(directory: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.to_string_lossy().contains("mmdb") {
                found.push(path.display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    walk(&cluster.data_dir(), &mut found);
    found.sort();
    found
}

#[test]
fn eight_backends_may_import_at_once() {
    let cluster = cluster_with_unread_world(&Options::named("lookups-import-race"));
    let handle = fresh_database(&cluster).handle();
    // All backends find at the same time that the private copy does not exist yet.
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut session = handle.session();
                    session.one(EIGHT)
                })
            })
            .collect();
        for thread in asking {
            assert_eq!(thread.join().expect("it answers"), "US|15169");
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut session = handle.session();
                for _ in 0..5 {
                    session.run("SELECT reload_mmdb()");
                    assert_eq!(session.one(EIGHT), "US|15169");
                }
            });
        }
    });
}
