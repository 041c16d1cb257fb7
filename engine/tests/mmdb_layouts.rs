//! Tests the layouts of all vendors, and unusual values in them.

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::mmdb::{Content, Database, Location, MmdbError, Network};
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_test_mmdb::{Value, Writer, map, text};

fn ip(text: &str) -> Address {
    address::parse(text).unwrap().unwrap()
}

fn open(writer: &Writer) -> Database<Vec<u8>> {
    let database = Database::open(writer.bytes()).unwrap();
    database.verify().unwrap();
    database
}

const NOWHERE: Location<'static> = Location {
    country: None,
    registered_country: None,
    country_name: None,
    city: None,
    latitude: None,
    longitude: None,
    accuracy_radius: None,
};

fn named(name: &str) -> Value {
    map([("de", text("falsch")), ("en", text(name))])
}

#[test]
fn maxmind_city_is_read() {
    let record = map([
        ("city", map([("geoname_id", Value::U32(1)), ("names", named("London"))])),
        ("country", map([("iso_code", text("GB")), ("names", named("United Kingdom"))])),
        (
            "location",
            map([
                ("accuracy_radius", Value::U16(10)),
                ("latitude", Value::Double(51.5142)),
                ("longitude", Value::Double(-0.0931)),
            ]),
        ),
        ("registered_country", map([("iso_code", text("US")), ("names", named("United States"))])),
    ]);
    let database = open(&Writer::new("GeoLite2-City", 6).with("81.2.69.0/24", record));
    assert_eq!(database.content(), Content::Location);
    assert_eq!(database.country(ip("81.2.69.1")), Ok(Some(*b"GB")));
    assert_eq!(database.city(ip("81.2.69.1")), Ok(Some("London")));
    assert_eq!(
        database.location(ip("81.2.69.1")),
        Ok(Some(Location {
            country: Some(*b"GB"),
            registered_country: Some(*b"US"),
            country_name: Some("United Kingdom"),
            city: Some("London"),
            latitude: Some(51.5142),
            longitude: Some(-0.0931),
            accuracy_radius: Some(10),
        }))
    );
    assert_eq!(database.asn(ip("81.2.69.1")), Ok(None));
    assert_eq!(database.organization(ip("81.2.69.1")), Ok(None));
    assert_eq!(database.network(ip("81.2.69.1")), Ok(None));
    assert_eq!(database.location(ip("81.2.70.1")), Ok(None));
    assert_eq!(database.country(ip("2001:db8::1")), Ok(None));
}

#[test]
fn a_place_may_be_a_point_and_nothing_else() {
    let location = map([("latitude", Value::Double(1.5)), ("longitude", Value::Double(-2.5))]);
    let database = open(&Writer::new("points", 4).with("1.0.0.0/8", map([("location", location)])));
    assert_eq!(
        database.location(ip("1.0.0.1")),
        Ok(Some(Location { latitude: Some(1.5), longitude: Some(-2.5), ..NOWHERE }))
    );
}

/// DB-IP's file names vary, so only the records show that this is MaxMind's layout. A field that no sampled record
/// contains is found nevertheless, because it belongs to the family.
#[test]
fn a_field_too_rare_for_the_sample_is_read_with_its_family() {
    for only in [0, 1001, 2002, 3003] {
        let mut writer = Writer::new("DBIP-City-Lite", 4);
        for index in 0..4096_u32 {
            let mut record = vec![("country".to_owned(), map([("iso_code", text("SE"))]))];
            if index == only {
                record.push(("city".to_owned(), map([("names", named("Linköping"))])));
            }
            let address = std::net::Ipv4Addr::from_bits(0x1000_0000 | index << 12);
            writer = writer.with(&format!("{address}/20"), Value::Map(record));
        }
        let database = open(&writer);
        let address = std::net::Ipv4Addr::from_bits(0x1000_0001 | only << 12);
        assert_eq!(database.city(Address::new(address.into())), Ok(Some("Linköping")), "{address}");
        assert_eq!(database.country(Address::new(address.into())), Ok(Some(*b"SE")), "{address}");
    }
}

#[test]
fn registered_country_never_stands_in_for_the_country() {
    let us = || map([("iso_code", text("US")), ("names", named("United States"))]);
    let writer = Writer::new("GeoLite2-Country", 4)
        .with("10.0.0.0/8", map([("registered_country", us())]))
        .with("11.0.0.0/8", map([("country", map([("iso_code", text("GB"))])), ("registered_country", us())]))
        .with("12.0.0.0/8", map([("country", map([("iso_code", text(""))])), ("registered_country", us())]));
    let database = open(&writer);
    let registered = Location { registered_country: Some(*b"US"), ..NOWHERE };
    assert_eq!(database.country(ip("10.0.0.1")), Ok(None));
    assert_eq!(database.registered_country(ip("10.0.0.1")), Ok(Some(*b"US")));
    assert_eq!(database.location(ip("10.0.0.1")), Ok(Some(registered)));
    assert_eq!(database.location(ip("11.0.0.1")), Ok(Some(Location { country: Some(*b"GB"), ..registered })));
    assert_eq!(database.location(ip("12.0.0.1")), Ok(Some(registered)));
}

/// Source: IP2Location's files, which contain `-` and 0/0 for unknown values.
#[test]
fn a_dash_is_no_name_and_its_coordinates_are_unknown() {
    let record = |country: &str, city: &str| {
        map([
            ("country_code", text(country)),
            ("country_name", text(country)),
            ("city_name", text(city)),
            ("latitude", Value::Double(0.0)),
            ("longitude", Value::Double(0.0)),
        ])
    };
    let writer = Writer::new("IP2LITE-City", 4)
        .with("10.0.0.0/8", record("-", "-"))
        .with("11.0.0.0/8", record("GH", "Tema"));
    let database = open(&writer);
    assert_eq!(database.location(ip("10.0.0.1")), Ok(None));
    assert_eq!(database.city(ip("10.0.0.1")), Ok(None));
    let tema = database.location(ip("11.0.0.1")).expect("the record is read").expect("the place is known");
    assert_eq!((tema.city, tema.latitude), (Some("Tema"), Some(0.0)));
}

/// Source: CIRCL's Geo-Open files, <https://data.public.lu/en/datasets/geo-open-ip-address-geolocation-per-country-in-mmdb-format/>.
#[test]
fn circl_geo_open_keeps_the_network_inside_the_country() {
    let country = map([
        ("iso_code", text("LU")),
        ("AutonomousSystemNumber", text("197869")),
        ("AutonomousSystemOrganization", text("CIRCL")),
    ]);
    let writer = Writer::new("Geo-Open-Country-ASN", 4).with("10.0.0.0/8", map([("country", country)]));
    let database = open(&writer);
    assert_eq!(database.content(), Content::Both);
    assert_eq!(database.country(ip("10.0.0.1")), Ok(Some(*b"LU")));
    assert_eq!(
        database.network(ip("10.0.0.1")),
        Ok(Some(Network { asn: 197_869, organization: Some("CIRCL") }))
    );
}

#[test]
fn maxmind_enterprise_holds_both() {
    let record = map([
        ("country", map([("iso_code", text("US"))])),
        (
            "traits",
            map([
                ("autonomous_system_number", Value::U32(14671)),
                ("autonomous_system_organization", text("FairPoint Communications")),
            ]),
        ),
    ]);
    let database = open(&Writer::new("GeoIP2-Enterprise", 6).with("74.209.24.0/24", record));
    assert_eq!(database.content(), Content::Both);
    assert_eq!(database.country(ip("74.209.24.9")), Ok(Some(*b"US")));
    assert_eq!(
        database.network(ip("74.209.24.9")),
        Ok(Some(Network { asn: 14671, organization: Some("FairPoint Communications") }))
    );
}

#[test]
fn an_asn_without_organization_is_a_network() {
    let writer = Writer::new("GeoLite2-ASN", 6)
        .with("1.0.0.0/24", map([("autonomous_system_number", Value::U32(u32::MAX))]))
        .with("2.0.0.0/24", map([("autonomous_system_number", Value::U32(0))]))
        .with("3.0.0.0/24", map([("autonomous_system_organization", text("nameless"))]));
    let database = open(&writer);
    assert_eq!(database.content(), Content::Network);
    assert_eq!(database.network(ip("1.0.0.1")), Ok(Some(Network { asn: u32::MAX, organization: None })));
    assert_eq!(database.asn(ip("1.0.0.1")), Ok(Some(u32::MAX)));
    assert_eq!(database.asn(ip("2.0.0.1")), Ok(None));
    assert_eq!(database.network(ip("3.0.0.1")), Ok(None));
    assert_eq!(database.location(ip("1.0.0.1")), Ok(None));
}

#[test]
fn ipinfo_lite_is_read() {
    let record = map([
        ("as_domain", text("google.com")),
        ("as_name", text("Google LLC")),
        ("asn", text("AS15169")),
        ("continent", text("North America")),
        ("continent_code", text("NA")),
        ("country", text("United States")),
        ("country_code", text("US")),
    ]);
    let database = open(&Writer::new("ipinfo bundle_location_lite.mmdb", 6).with("8.8.8.0/24", record));
    assert_eq!(database.content(), Content::Both);
    assert_eq!(database.country(ip("8.8.8.8")), Ok(Some(*b"US")));
    assert_eq!(
        database.location(ip("8.8.8.8")),
        Ok(Some(Location { country: Some(*b"US"), country_name: Some("United States"), ..NOWHERE }))
    );
    assert_eq!(database.asn(ip("8.8.8.8")), Ok(Some(15169)));
    assert_eq!(database.organization(ip("8.8.8.8")), Ok(Some("Google LLC")));
}

#[test]
fn older_ipinfo_files_are_read() {
    let asn = map([
        ("asn", text("AS15169")),
        ("country", text("US")),
        ("domain", text("google.com")),
        ("name", text("Google LLC")),
        ("type", text("hosting")),
    ]);
    let database = open(&Writer::new("ipinfo standard_asn.mmdb", 6).with("8.8.8.0/24", asn));
    assert_eq!(
        database.network(ip("8.8.8.8")),
        Ok(Some(Network { asn: 15169, organization: Some("Google LLC") }))
    );
    assert_eq!(database.location(ip("8.8.8.8")), Ok(Some(Location { country: Some(*b"US"), ..NOWHERE })));

    let location = map([
        ("city", text("Mountain View")),
        ("country", text("US")),
        ("lat", text("37.38605")),
        ("lng", text("-122.08385")),
        ("radius", text("5")),
    ]);
    let database = open(&Writer::new("ipinfo standard_location.mmdb", 6).with("8.8.8.0/24", location));
    assert_eq!(
        database.location(ip("8.8.8.8")),
        Ok(Some(Location {
            country: Some(*b"US"),
            registered_country: None,
            country_name: None,
            city: Some("Mountain View"),
            latitude: Some(37.38605),
            longitude: Some(-122.08385),
            accuracy_radius: Some(5),
        }))
    );
}

#[test]
fn ip_location_db_files_are_read() {
    let city = map([
        ("city", text("Mountain View")),
        ("country_code", text("us")),
        ("latitude", Value::Float(37.386)),
        ("longitude", Value::Float(-122.084)),
        ("postcode", text("94043")),
        ("state1", text("California")),
    ]);
    let database = open(&Writer::new("ip-location-db dbip-city", 4).record_size(28).with("8.8.8.0/24", city));
    assert_eq!(
        database.location(ip("8.8.8.8")),
        Ok(Some(Location {
            country: Some(*b"US"),
            city: Some("Mountain View"),
            latitude: Some(37.386),
            longitude: Some(-122.084),
            ..NOWHERE
        }))
    );
    let asn = map([
        ("autonomous_system_number", Value::U32(15169)),
        ("autonomous_system_organization", text("GOOGLE")),
    ]);
    let database = open(&Writer::new("asn", 6).with("8.8.8.0/24", asn));
    assert_eq!(
        database.network(ip("8.8.8.8")),
        Ok(Some(Network { asn: 15169, organization: Some("GOOGLE") }))
    );
    let country = map([("country_code", text("US"))]);
    let database = open(&Writer::new("geo-whois-asn-country", 6).with("2001:4860::/32", country));
    assert_eq!(database.country(ip("2001:4860::8888")), Ok(Some(*b"US")));
}

#[test]
fn an_asn_of_any_number_type_is_read() {
    for (value, asn) in [
        (Value::U16(65000), Some(65000)),
        (Value::U32(65000), Some(65000)),
        (Value::U64(65000), Some(65000)),
        (Value::I32(65000), Some(65000)),
        (Value::I32(-1), None),
        (Value::U64(1 << 32), None),
        (text("65000"), Some(65000)),
        (Value::Double(65000.0), None),
        (Value::Bool(true), None),
        (Value::Array(vec![Value::U32(65000)]), None),
        (map([("number", Value::U32(65000))]), None),
    ] {
        let writer = Writer::new("test", 4)
            .with("1.0.0.0/8", map([("asn", Value::U32(1))]))
            .with("2.0.0.0/8", map([("asn", value.clone())]));
        assert_eq!(open(&writer).asn(ip("2.0.0.1")), Ok(asn), "{value:?}");
    }
}

#[test]
fn values_that_do_not_fit_are_absent() {
    let good = map([
        ("country", map([("iso_code", text("GB"))])),
        ("city", map([("names", named("London"))])),
        ("location", map([("latitude", Value::Double(0.0)), ("longitude", Value::Double(0.0))])),
    ]);
    let location =
        |latitude, longitude| map([("location", map([("latitude", latitude), ("longitude", longitude)]))]);
    let writer = Writer::new("GeoLite2-City", 4)
        .with("1.0.0.0/8", good)
        .with(
            "2.0.0.0/8",
            map([("country", Value::U32(7)), ("city", Value::U32(7)), ("location", Value::Array(vec![]))]),
        )
        .with("3.0.0.0/8", map([("country", map([("iso_code", Value::U32(7))])), ("city", map([]))]))
        .with("4.0.0.0/8", location(Value::Double(f64::NAN), Value::Double(0.0)))
        .with("5.0.0.0/8", location(Value::Double(1.0), Value::Double(180.5)))
        .with("6.0.0.0/8", location(Value::Double(f64::INFINITY), Value::Double(0.0)))
        .with("7.0.0.0/8", text("a record that is text"))
        .with("9.0.0.0/8", map([]))
        .with("10.0.0.0/8", map([("country", map([("iso_code", text("GBR"))]))]));
    let database = open(&writer);
    let origin = database.location(ip("1.0.0.1")).unwrap().unwrap();
    assert_eq!((origin.latitude, origin.longitude), (Some(0.0), Some(0.0)), "0 is a place");
    for address in ["2.0.0.1", "3.0.0.1", "4.0.0.1", "5.0.0.1", "6.0.0.1", "7.0.0.1", "9.0.0.1", "10.0.0.1"] {
        assert_eq!(database.location(ip(address)), Ok(None), "{address}");
        assert_eq!(database.country(ip(address)), Ok(None), "{address}");
        assert_eq!(database.city(ip(address)), Ok(None), "{address}");
    }
}

#[test]
fn all_record_sizes_and_both_versions_are_read() {
    for bits in [24, 28, 32] {
        for version in [4, 6] {
            let mut writer = Writer::new("test", version).record_size(bits);
            for octet in 0..=255_u32 {
                writer = writer.with(&format!("100.{octet}.0.0/16"), map([("asn", Value::U32(octet + 1))]));
            }
            let database = open(&writer);
            assert_eq!((database.facts().record_size, database.facts().ip_version), (bits, version));
            for octet in 0..=255_u32 {
                let address = ip(&format!("100.{octet}.1.2"));
                assert_eq!(database.asn(address), Ok(Some(octet + 1)), "{bits} {version} {address}");
            }
            assert_eq!(database.asn(ip("2001:db8::1")), Ok(None), "IPv6 is absent, not an error");
            assert_eq!(database.asn(ip("101.0.0.0")), Ok(None));
        }
    }
}

#[test]
fn metadata_is_told() {
    let writer = Writer::new("My Own", 6).with("1.0.0.0/8", map([("asn", Value::U32(1))]));
    let database = open(&writer);
    let facts = database.facts();
    assert_eq!((facts.database_type.as_str(), facts.build_epoch), ("My Own", 1_700_000_000));
    assert_eq!((facts.node_count, facts.record_size, facts.ip_version), (104, 24, 6));
}

#[test]
fn a_file_that_answers_nothing_is_refused() {
    for record in [
        map([("domain", text("example.com"))]),
        map([("name", text("a name alone is no network"))]),
        map([("organization", text("nor is this"))]),
        text("text"),
        map([]),
    ] {
        let writer = Writer::new("GeoIP2-Domain", 6).with("1.0.0.0/8", record);
        let error = Database::open(writer.bytes()).err().unwrap();
        assert_eq!(error, MmdbError::NoAnswers { database_type: "GeoIP2-Domain".into() });
        assert_eq!(
            error.to_string(),
            "mmdb file of type \"GeoIP2-Domain\" contains no countries, cities or AS numbers"
        );
    }
}

#[test]
fn a_name_beside_a_place_is_no_network() {
    let record =
        map([("country_code", text("US")), ("name", text("Joe's Diner")), ("organization", text("Joe"))]);
    let database = open(&Writer::new("venues", 4).with("1.0.0.0/8", record));
    assert_eq!(database.content(), Content::Location);
    assert_eq!(database.organization(ip("1.0.0.1")), Ok(None));
}

#[test]
fn a_country_that_is_a_code_here_and_a_name_there_is_told_apart() {
    let writer = Writer::new("mixed", 4)
        .with("1.0.0.0/8", map([("country", text("us"))]))
        .with("2.0.0.0/8", map([("country", text("Sweden"))]));
    let database = open(&writer);
    assert_eq!(database.location(ip("1.0.0.1")), Ok(Some(Location { country: Some(*b"US"), ..NOWHERE })));
    assert_eq!(
        database.location(ip("2.0.0.1")),
        Ok(Some(Location { country_name: Some("Sweden"), ..NOWHERE }))
    );
    assert_eq!(database.country(ip("2.0.0.1")), Ok(None));
}

#[test]
fn the_type_decides_when_records_say_nothing() {
    for (database_type, content) in [
        ("GeoLite2-City", Some(Content::Location)),
        ("GeoLite2-Country", Some(Content::Location)),
        ("GeoIP2-Enterprise", Some(Content::Both)),
        ("GeoLite2-ASN", Some(Content::Network)),
        ("GeoIP2-ISP", Some(Content::Network)),
        ("GeoIP2-Anonymous-IP", None),
        ("Somebody's City", None),
    ] {
        let writer = Writer::new(database_type, 6).with("1.0.0.0/8", map([]));
        assert_eq!(Database::open(writer.bytes()).ok().map(|database| database.content()), content);
    }
}

#[test]
fn the_networks_of_a_prefix_are_those_of_its_addresses() {
    for version in [4, 6] {
        let asn = |number| map([("autonomous_system_number", Value::U32(number))]);
        let mut writer = Writer::new("GeoLite2-ASN", version)
            .with("60.0.0.0/25", asn(64_500))
            .with("60.0.0.128/26", asn(64_501))
            .with("60.0.1.0/24", asn(64_500));
        if version == 6 {
            writer = writer.with("2600::/33", asn(64_502)).with("2600:0:8000::/33", asn(64_503));
        }
        let database = Database::open(writer.bytes()).unwrap();
        database.verify().unwrap();
        for (prefix, mut expected) in [
            ("60.0.0.0/24", vec![64_500, 64_501]),
            ("60.0.0.0/25", vec![64_500]),
            ("60.0.0.7/32", vec![64_500]),
            ("60.0.0.192/26", vec![]),
            ("60.0.1.0/24", vec![64_500]),
            ("0.0.0.0/0", vec![64_500, 64_501]),
            ("2600::/32", vec![64_502, 64_503]),
            ("2600:0:9000::/48", vec![64_503]),
            ("2601::/32", vec![]),
        ] {
            if version == 4 && prefix.contains(':') {
                expected.clear();
            }
            let found = database.asns_within(Prefix::parse(prefix).unwrap()).unwrap();
            assert_eq!(found, expected.into_iter().collect(), "{prefix}, version {version}");
        }
    }
}
