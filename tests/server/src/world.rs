//! The small internet of the fixtures: a few real networks with special cases, and the crowd. The crowd is 256 made-up
//! networks inside 23.0.0.0/8, for tests that need many addresses.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::random::Random;
use cowrie_enrich_test_mmdb::Writer;

/// The data about a prefix. If a value is unknown, the field is an empty text or zero.
pub struct PrefixData {
    pub prefix: &'static str,
    pub country: &'static str,
    pub country_name: &'static str,
    pub city: &'static str,
    pub asn: u32,
    pub organization: &'static str,
}

const fn place(
    prefix: &'static str,
    country: &'static str,
    country_name: &'static str,
    city: &'static str,
    asn: u32,
    organization: &'static str,
) -> PrefixData {
    PrefixData { prefix, country, country_name, city, asn, organization }
}

#[rustfmt::skip]
pub const PLACES: &[PrefixData] = &[
    place("8.8.8.0/24",        "US", "United States", "Mountain View", 15169, "GOOGLE"),
    place("1.1.1.0/24",        "AU", "Australia",     "Sydney",        13335, "CLOUDFLARENET"),
    place("89.160.20.0/24",    "SE", "Sweden",        "Linköping",     29518, "Bredband2 AB"),
    place("139.59.0.0/16",     "IN", "India",         "Bengaluru",     14061, "DIGITALOCEAN-ASN"),
    place("45.0.0.0/24",       "BR", "Brazil",        "",              4_294_967_295, "The Last Network"),
    place("123.123.123.0/24",  "CN", "China",         "北京",          4808,  "中国联通"),
    // The first prefix has a country but no network. The second prefix has a network but no country.
    place("46.0.0.0/16",       "NL", "Netherlands",   "Amsterdam",     0,     ""),
    place("47.0.0.0/16",       "",   "",              "",              45102, "Alibaba US Technology Co., Ltd."),
    place("2001:4860::/32",    "US", "United States", "",              15169, "GOOGLE"),
    place("2a03:2880::/32",    "IE", "Ireland",       "Dublin",        32934, "FACEBOOK"),
];

/// Public addresses that are in no database.
pub const UNKNOWN: &[&str] = &["48.0.0.1", "2a00::1"];

pub const CROWD_NETWORKS: u64 = 256;
const CROWD_COUNTRIES: &[&str] = &["CN", "RU", "US", "VN", "BR", "IN", "NL", "DE"];

pub fn crowd_asn(network: u64) -> u64 {
    200_000 + network
}

/// Returns a random one of the first `size` addresses of the crowd. Some networks and some addresses occur often.
pub fn crowd_address(random: &mut Random, size: u64) -> String {
    crowd_member(random.skewed_below(size))
}

/// Returns the address of the crowd with this number. Addresses with consecutive numbers are in different networks.
pub fn crowd_member(number: u64) -> String {
    let (network, host) = (number % CROWD_NETWORKS, number / CROWD_NETWORKS + 1);
    format!("23.{network}.{}.{}", host / 256 % 256, host % 256)
}

pub fn city_database() -> Writer {
    let mut city = Writer::new("GeoLite2-City", 6);
    for place in PLACES.iter().filter(|p| !p.country.is_empty()) {
        let mut record = Map::new();
        record.insert(
            "country".into(),
            json!({"iso_code": place.country, "names": {"en": place.country_name}}),
        );
        if !place.city.is_empty() {
            record.insert("city".into(), json!({"names": {"en": place.city}}));
        }
        record
            .insert("location".into(), json!({"latitude": 12.5, "longitude": -7.25, "accuracy_radius": 20}));
        if place.city == "Mountain View" {
            record.insert(
                "subdivisions".into(),
                json!([{"iso_code": "CA", "names": {"en": "California"}}, {"names": {"en": "Santa Clara County"}}]),
            );
            record.insert("postal".into(), json!({"code": "94043"}));
            record["location"]["time_zone"] = json!("America/Los_Angeles");
        }
        city.insert(place.prefix, Value::Object(record));
    }
    for network in 0..CROWD_NETWORKS {
        let country = CROWD_COUNTRIES[network as usize % CROWD_COUNTRIES.len()];
        city.insert(
            &format!("23.{network}.0.0/16"),
            json!({"country": {"iso_code": country, "names": {"en": country}}}),
        );
    }
    city
}

pub fn asn_record(asn: u64, organization: &str) -> Value {
    json!({
        "autonomous_system_number": asn,
        "autonomous_system_organization": organization,
    })
}

pub fn asn_database() -> Writer {
    let mut asn = Writer::new("GeoLite2-ASN", 6);
    for place in PLACES.iter().filter(|p| p.asn != 0) {
        asn.insert(place.prefix, asn_record(place.asn.into(), place.organization));
    }
    for network in 0..CROWD_NETWORKS {
        let number = crowd_asn(network);
        asn.insert(&format!("23.{network}.0.0/16"), asn_record(number, &format!("Crowd network {network}")));
    }
    asn
}

/// The paths of a cluster's mmdb databases.
pub struct Files {
    pub city: PathBuf,
    pub asn: PathBuf,
}

impl Files {
    pub fn below(dir: &Path) -> Self {
        Self { city: dir.join("city.mmdb"), asn: dir.join("asn.mmdb") }
    }

    /// Returns the lines of postgresql.conf that name these files.
    pub fn settings(&self) -> Vec<String> {
        vec![
            format!("cowrie_enrich.city_database = '{}'", self.city.display()),
            format!("cowrie_enrich.asn_database = '{}'", self.asn.display()),
        ]
    }
}
