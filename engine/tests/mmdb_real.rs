//! Compares lookups in MaxMind's own test databases with the documented results.
//!
//! The files are not part of the project. If they are absent, these tests say so and pass. Tests that need no such
//! files are in `mmdb_layouts.rs`, `mmdb_locations.rs` and `mmdb_hostile.rs`.

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::mmdb::{Content, Database, MmdbError, Network};
use std::path::PathBuf;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/maxmind-test");

fn ip(text: &str) -> Address {
    address::parse(text).unwrap().unwrap()
}

fn read(name: &str) -> Option<Vec<u8>> {
    std::fs::read(PathBuf::from(FOLDER).join(name)).map_err(|error| eprintln!("skipped {name}: {error}")).ok()
}

fn open(name: &str) -> Option<Database<Vec<u8>>> {
    let database = Database::open(read(name)?).unwrap();
    database.verify().unwrap();
    Some(database)
}

#[test]
fn every_file_is_opened_or_refused_for_the_right_reason() {
    let Ok(folder) = std::fs::read_dir(FOLDER) else {
        return eprintln!("skipped: {FOLDER} is absent");
    };
    let mut seen = 0;
    for entry in folder {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".mmdb") else {
            continue;
        };
        let bytes = read(&name).unwrap();
        let opened = Database::open(bytes.as_slice());
        let kind =
            stem.trim_start_matches("GeoIP2-").trim_start_matches("GeoLite2-").trim_end_matches("-Test");
        let kind = kind.trim_start_matches("Precision-").trim_end_matches("-Shield");
        match kind {
            "City" | "Country" => {
                assert_eq!(opened.as_ref().map(Database::content), Ok(Content::Location), "{name}")
            }
            "ASN" | "ISP" => {
                assert_eq!(opened.as_ref().map(Database::content), Ok(Content::Network), "{name}")
            }
            "Enterprise" => assert_eq!(opened.as_ref().map(Database::content), Ok(Content::Both), "{name}"),
            "City-Test-Invalid-Node-Count" => {
                assert!(matches!(opened, Err(MmdbError::Truncated { .. })), "{name}");
            }
            "City-Test-Broken-Double-Format" => match opened.as_ref().unwrap().verify() {
                Err(MmdbError::Record { network, reason, .. }) => {
                    assert_eq!(
                        (network.as_str(), reason.as_str()),
                        ("2.125.160.216/29", "double is not 8 bytes")
                    );
                }
                other => panic!("{name}: {other:?}"),
            },
            _ => assert!(matches!(opened, Err(MmdbError::NoAnswers { .. })), "{name}"),
        }
        if matches!(kind, "City" | "Country" | "ASN" | "ISP" | "Enterprise") {
            assert_eq!(opened.unwrap().verify(), Ok(()), "{name}");
        }
        seen += 1;
    }
    assert!(seen > 0 || !PathBuf::from(FOLDER).join("GeoLite2-ASN-Test.mmdb").exists());
}

#[test]
fn places_are_those_that_maxmind_gives() {
    for name in ["GeoIP2-City-Test.mmdb", "GeoLite2-City-Test.mmdb"] {
        let Some(database) = open(name) else { continue };
        for (address, country, country_name, city) in [
            ("81.2.69.142", b"GB", "United Kingdom", Some("London")),
            ("::ffff:81.2.69.142", b"GB", "United Kingdom", Some("London")),
            ("2002:5102:458e::", b"GB", "United Kingdom", Some("London")),
            ("89.160.20.112", b"SE", "Sweden", Some("Linköping")),
            ("2001:218::1", b"JP", "Japan", None),
        ] {
            let place = database.location(ip(address)).unwrap().unwrap();
            assert_eq!(
                (place.country, place.country_name, place.city),
                (Some(*country), Some(country_name), city),
                "{name} {address}"
            );
            assert_eq!(database.country(ip(address)), Ok(Some(*country)), "{name} {address}");
            assert_eq!(database.city(ip(address)), Ok(city), "{name} {address}");
        }
        for address in ["8.8.8.8", "10.0.0.1", "::1"] {
            assert_eq!(database.location(ip(address)), Ok(None), "{name} {address}");
        }
    }
    if let Some(database) = open("GeoIP2-City-Test.mmdb") {
        let london = database.location(ip("81.2.69.142")).unwrap().unwrap();
        assert_eq!(
            (london.latitude, london.longitude, london.accuracy_radius),
            (Some(51.5142), Some(-0.0931), Some(10))
        );
    }
    for name in ["GeoIP2-Country-Test.mmdb", "GeoLite2-Country-Test.mmdb"] {
        let Some(database) = open(name) else { continue };
        assert_eq!(database.country(ip("67.43.156.1")), Ok(Some(*b"BT")), "{name}");
        assert_eq!(database.city(ip("67.43.156.1")), Ok(None), "{name}");
    }
}

#[test]
fn regions_postal_codes_and_time_zones_are_those_that_maxmind_gives() {
    let Some(database) = open("GeoIP2-City-Test.mmdb") else { return };
    for (address, expected) in [
        ("2.125.160.216", [Some("England"), Some("ENG"), Some("OX1"), Some("Europe/London")]),
        ("216.160.83.56", [Some("Washington"), Some("WA"), Some("98354"), Some("America/Los_Angeles")]),
        ("89.160.20.112", [Some("Östergötland County"), Some("E"), None, Some("Europe/Stockholm")]),
        ("2001:218::1", [None, None, None, Some("Asia/Tokyo")]),
    ] {
        let found = database.detailed_location(ip(address)).unwrap().unwrap();
        let details = [found.region, found.region_code, found.postal_code, found.time_zone];
        assert_eq!(details, expected, "{address}");
    }
}

#[test]
fn networks_are_those_that_maxmind_gives() {
    for name in ["GeoLite2-ASN-Test.mmdb", "GeoIP2-ISP-Test.mmdb"] {
        let Some(database) = open(name) else { continue };
        for (address, asn, organization) in [
            ("1.128.0.0", 1221, "Telstra Pty Ltd"),
            ("::ffff:1.128.0.0", 1221, "Telstra Pty Ltd"),
            ("12.81.92.0", 7018, "AT&T Services"),
            ("2001:1700::1", 6730, "Sunrise Communications AG"),
        ] {
            let network = Network { asn, organization: Some(organization) };
            assert_eq!(database.network(ip(address)), Ok(Some(network)), "{name} {address}");
            assert_eq!(database.asn(ip(address)), Ok(Some(asn)), "{name} {address}");
            assert_eq!(database.organization(ip(address)), Ok(Some(organization)), "{name} {address}");
        }
        assert_eq!(database.network(ip("8.8.8.8")), Ok(None), "{name}");
    }
    for name in ["GeoIP2-Enterprise-Test.mmdb", "GeoIP2-Precision-Enterprise-Test.mmdb"] {
        let Some(database) = open(name) else { continue };
        let fairpoint = Network { asn: 14671, organization: Some("FairPoint Communications") };
        assert_eq!(database.network(ip("74.209.24.0")), Ok(Some(fairpoint)), "{name}");
        assert_eq!(database.city(ip("74.209.24.0")), Ok(Some("Chatham")), "{name}");
        assert_eq!(database.network(ip("81.2.69.160")), Ok(None), "{name}");
    }
}

#[test]
fn the_crates_own_verify_agrees_on_sound_files() {
    for name in ["GeoIP2-City-Test.mmdb", "GeoLite2-ASN-Test.mmdb", "GeoIP2-Enterprise-Test.mmdb"] {
        let Some(bytes) = read(name) else { continue };
        maxminddb::Reader::from_source(bytes).unwrap().verify().unwrap();
        open(name).unwrap();
    }
}
