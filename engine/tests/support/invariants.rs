//! Invariants of reading mmdb files, for any bytes.
//!
//! Property tests and the targets of `fuzz/` call `holds`. No call panics or hangs. In a verified file no lookup fails.
//! Every value that a lookup returns can be stored, whether the file was verified or not.

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::mmdb::{Database, MmdbError};
use cowrie_enrich_test_mmdb::{Value, Writer, map, text};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub fn ip(text: &str) -> Address {
    address::parse(text).unwrap().unwrap()
}

/// A valid file of every layout, with data at 1.0.0.0/8 and at 2000::/3.
pub fn sound() -> Vec<Writer> {
    let place = map([
        ("city", map([("names", map([("en", text("Linköping"))]))])),
        ("country", map([("iso_code", text("SE")), ("names", map([("en", text("Sweden"))]))])),
        ("location", map([("latitude", Value::Double(58.4)), ("longitude", Value::Double(15.6))])),
    ]);
    let network = map([
        ("autonomous_system_number", Value::U32(29518)),
        ("autonomous_system_organization", text("Bredband2 AB")),
    ]);
    let flat = map([
        ("as_name", text("Google LLC")),
        ("asn", text("AS15169")),
        ("country_code", text("US")),
        ("latitude", Value::Float(37.4)),
        ("longitude", text("-122.1")),
    ]);
    [("GeoLite2-City", place, 24), ("GeoLite2-ASN", network, 28), ("flat", flat, 32)]
        .into_iter()
        .map(|(database_type, record, bits)| {
            Writer::new(database_type, 6)
                .record_size(bits)
                .with("1.0.0.0/8", record.clone())
                .with("2.128.0.0/9", record.clone())
                .with("2000::/3", record)
        })
        .collect()
}

/// Returns the valid file with index `kind`, in which 20.0.0.0/8 and the blocks behind it lead into these bytes.
pub fn file_with_records(kind: u8, records: &[u8]) -> Vec<u8> {
    let mut writer = sound().swap_remove(usize::from(kind % 3));
    let at = writer.value(&Value::Raw(records.to_vec()));
    // The start directly and through a pointer, because vendors share records that way. Then every seventh byte.
    let inside = (0..records.len() as u32).cycle().step_by(7);
    for (octet, offset) in (20..60_u32).zip(inside) {
        writer = writer.with(&format!("{octet}.0.0.0/8"), Value::Pointer(at + offset));
    }
    writer.insert_at("60.0.0.0/8", at);
    writer.bytes()
}

pub fn addresses() -> Vec<Address> {
    let mut addresses: Vec<Address> = [
        "0.0.0.0",
        "1.2.3.4",
        "2.129.0.1",
        "81.2.69.142",
        "89.160.20.112",
        "1.128.0.0",
        "216.160.83.56",
        "255.255.255.255",
        "::",
        "2001:218::1",
        "2002:5102:458e::",
        "2a02::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ]
    .map(ip)
    .into();
    addresses.extend((20..61).map(|octet| ip(&format!("{octet}.0.0.1"))));
    let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..16 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        addresses.push(Address::new(IpAddr::V4(Ipv4Addr::from_bits((bits >> 32) as u32))));
        addresses.push(Address::new(IpAddr::V6(Ipv6Addr::from_bits(u128::from(bits) << 64))));
    }
    addresses
}

/// Runs every kind of lookup and checks the values. Returns the first error.
pub fn look_up(database: &Database<Vec<u8>>, address: Address) -> Result<(), MmdbError> {
    let (country, city) = (database.country(address), database.city(address));
    let (asn, organization) = (database.asn(address), database.organization(address));
    let (place, network) = (database.location(address), database.network(address));
    for country in [
        country.as_ref().ok().copied().flatten(),
        place.as_ref().ok().copied().flatten().and_then(|p| p.country),
    ] {
        assert!(country.is_none_or(|code| code.iter().all(u8::is_ascii_uppercase)), "{country:?}");
    }
    assert!(!matches!(city, Ok(Some(""))) && !matches!(organization, Ok(Some(""))));
    assert!(!matches!(asn, Ok(Some(0))));
    if let Ok(Some(detailed)) = database.detailed_location(address) {
        assert!(place.as_ref().is_ok_and(|place| place.unwrap_or_default() == detailed.location));
        let details = [detailed.region, detailed.region_code, detailed.postal_code, detailed.time_zone];
        assert!(!details.contains(&Some("")));
    }
    if let Ok(Some(place)) = place {
        // One walk must find the same values as single lookups.
        assert!(country.as_ref().is_ok_and(|country| *country == place.country));
        assert!(city.as_ref().is_ok_and(|city| *city == place.city));
        assert_eq!(place.latitude.is_some(), place.longitude.is_some());
        assert!(place.latitude.is_none_or(|degrees| (-90.0..=90.0).contains(&degrees)));
        assert!(place.longitude.is_none_or(|degrees| (-180.0..=180.0).contains(&degrees)));
        assert!(place.accuracy_radius.is_none() || place.latitude.is_some());
        assert!(place.country_name != Some(""));
    }
    if let Ok(Some(network)) = network {
        assert!(asn.as_ref().is_ok_and(|asn| *asn == Some(network.asn)) && network.asn > 0);
        assert!(organization.as_ref().is_ok_and(|name| *name == network.organization));
    }
    let results = [
        country.map(drop),
        city.map(drop),
        asn.map(drop),
        organization.map(drop),
        place.map(drop),
        network.map(drop),
    ];
    results.into_iter().collect()
}

pub fn holds(bytes: Vec<u8>) {
    let database = match Database::open(bytes) {
        Ok(database) => database,
        Err(error) => return can_be_shown(&error),
    };
    let facts = database.facts();
    assert!(matches!(facts.ip_version, 4 | 6) && matches!(facts.record_size, 24 | 28 | 32));
    assert!(facts.build_epoch < 253_402_300_800, "a build of the year 10000 is no time of the server's");
    let verified = database.verify();
    for address in addresses() {
        let looked_up = look_up(&database, address);
        match (&verified, looked_up) {
            (Ok(()), looked_up) => assert_eq!(looked_up, Ok(()), "verified, but {address} fails"),
            (Err(_), Err(error)) => can_be_shown(&error),
            (Err(_), Ok(())) => {}
        }
    }
    if let Err(error) = verified {
        can_be_shown(&error);
    }
}

/// Checks that the error can be shown in a status file, a view and a log.
pub fn can_be_shown(error: &MmdbError) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.chars().count() < 700, "{} characters", text.chars().count());
    assert!(!text.contains(char::is_control), "{text:?}");
}
