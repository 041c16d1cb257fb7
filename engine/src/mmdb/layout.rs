//! Finds the paths at which a file stores the country, the city, the ASN and other fields in its records.
//!
//! Each vendor stores a value under a different path of keys in the record, such as `country.iso_code`. The `database_type` of a
//! file is free text. So when a file is opened, a sample of its records is read. A path is used if it leads to a valid value in at
//! least one of these records. So the file of an unknown vendor can be used if its records contain known paths. `database_type` is
//! used only for MaxMind's own files, and only if the sample contains no known path.
//!
//! Records of some vendors:
//! ```text
//! MaxMind, DB-IP   {"country": {"iso_code": "GB", "names": {"en": ..}}, "city": {"names": {"en": ..}}, "location": ..}
//! MaxMind ASN, ISP {"autonomous_system_number": 1221, "autonomous_system_organization": "Telstra Pty Ltd"}
//! IPinfo           {"asn": "AS15169", "as_name": "Google LLC", "country_code": "US", "country": "United States"}
//! IPinfo, older    {"asn": "AS15169", "name": "Google LLC", "country": "US", "lat": "37.38605", "lng": ".."}
//! ip-location-db   {"country_code": "US", "city": "Mountain View", "latitude": 37.4, "longitude": -122.1}
//! ```

use super::format::{Plan, Section, Step, Token};
use super::scalar::{self, Scalar};
use maxminddb::PathElement::{self, Index, Key};

pub(super) type Path = &'static [PathElement<'static>];

/// Number of tree nodes whose records are read as the sample. The nodes are evenly spread over the tree. If the tree has fewer
/// nodes, all nodes are read. If only one record in a hundred has a field, the sample misses this field in one of 170 files.
/// Opening a file takes about a millisecond.
const SAMPLE: u32 = 512;

/// Limits on the number of values and the bytes of text that are read from one record. A City record has about 100 values. With the
/// targets of its pointers, it has about 3 kB. Without the limit on text, a file with thousands of pointers to one long text could
/// keep `open` busy for hours.
const VALUES: usize = 4096;
const TEXT: usize = 64 << 10;

/// Fields, in the order of the first column of `CANDIDATES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    Country,
    CountryName,
    City,
    Latitude,
    Longitude,
    AccuracyRadius,
    Asn,
    Organization,
    RegisteredCountry,
    Region,
    RegionCode,
    PostalCode,
    TimeZone,
}
use Field::{
    AccuracyRadius, Asn, City, Country, CountryName, Latitude, Longitude, Organization, PostalCode, Region,
    RegionCode, RegisteredCountry, TimeZone,
};
const FIELDS: usize = Field::TimeZone as usize + 1;

/// A group of paths that files of one vendor use. MaxMind always stores a field at the same path, but leaves out the field if its
/// value is unknown. So if the sample contains one path of a `MaxMind` family, all paths of this family are used. For the family
/// `Flat`, only the paths that occur in the sample are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    MaxMindPlace,
    MaxMindAsn,
    MaxMindTraits,
    Flat,
}
use Family::{Flat, MaxMindAsn, MaxMindPlace, MaxMindTraits};

/// For each field, the first path that leads to a value is used, so better paths come first. The country where the address is used
/// (`country`) and the country where it is registered are different facts. So the paths of one of these fields are never used for
/// the other field.
#[rustfmt::skip]
static CANDIDATES: &[(Field, Family, Path)] = &[
    (Country, MaxMindPlace, &[Key("country"), Key("iso_code")]),
    (Country, Flat, &[Key("country_code")]),
    (Country, Flat, &[Key("country")]),
    (Country, Flat, &[Key("countryCode")]),
    (Country, Flat, &[Key("country_iso_code")]),
    (Country, Flat, &[Key("geo"), Key("country_code")]),
    (Country, Flat, &[Key("location"), Key("country_code")]),
    (CountryName, MaxMindPlace, &[Key("country"), Key("names"), Key("en")]),
    (CountryName, Flat, &[Key("country_name")]),
    (CountryName, Flat, &[Key("country")]),
    (CountryName, Flat, &[Key("geo"), Key("country")]),
    (CountryName, Flat, &[Key("location"), Key("country")]),
    (RegisteredCountry, MaxMindPlace, &[Key("registered_country"), Key("iso_code")]),
    (City, MaxMindPlace, &[Key("city"), Key("names"), Key("en")]),
    (City, Flat, &[Key("city")]),
    (City, Flat, &[Key("city_name")]),
    (City, Flat, &[Key("geo"), Key("city")]),
    (City, Flat, &[Key("location"), Key("city")]),
    (Latitude, MaxMindPlace, &[Key("location"), Key("latitude")]),
    (Latitude, Flat, &[Key("latitude")]),
    (Latitude, Flat, &[Key("lat")]),
    (Latitude, Flat, &[Key("geo"), Key("latitude")]),
    (Longitude, MaxMindPlace, &[Key("location"), Key("longitude")]),
    (Longitude, Flat, &[Key("longitude")]),
    (Longitude, Flat, &[Key("lng")]),
    (Longitude, Flat, &[Key("lon")]),
    (Longitude, Flat, &[Key("geo"), Key("longitude")]),
    (AccuracyRadius, MaxMindPlace, &[Key("location"), Key("accuracy_radius")]),
    (AccuracyRadius, Flat, &[Key("accuracy_radius")]),
    (AccuracyRadius, Flat, &[Key("radius")]),
    (AccuracyRadius, Flat, &[Key("geo"), Key("radius")]),
    // MaxMind and DB-IP write the subdivisions of a country from the largest to the smallest. The first subdivision is used as the
    // region.
    (Region, MaxMindPlace, &[Key("subdivisions"), Index(0), Key("names"), Key("en")]),
    (Region, Flat, &[Key("state1")]),
    (Region, Flat, &[Key("region_name")]),
    (Region, Flat, &[Key("region")]),
    (Region, Flat, &[Key("geo"), Key("region")]),
    (Region, Flat, &[Key("location"), Key("region")]),
    (RegionCode, MaxMindPlace, &[Key("subdivisions"), Index(0), Key("iso_code")]),
    (RegionCode, Flat, &[Key("region_code")]),
    (RegionCode, Flat, &[Key("region_iso_code")]),
    (RegionCode, Flat, &[Key("geo"), Key("region_code")]),
    (RegionCode, Flat, &[Key("location"), Key("region_code")]),
    (PostalCode, MaxMindPlace, &[Key("postal"), Key("code")]),
    (PostalCode, Flat, &[Key("postcode")]),
    (PostalCode, Flat, &[Key("postal_code")]),
    (PostalCode, Flat, &[Key("postal")]),
    (PostalCode, Flat, &[Key("zip_code")]),
    (PostalCode, Flat, &[Key("geo"), Key("postal_code")]),
    (PostalCode, Flat, &[Key("location"), Key("postal_code")]),
    (TimeZone, MaxMindPlace, &[Key("location"), Key("time_zone")]),
    (TimeZone, Flat, &[Key("timezone")]),
    (TimeZone, Flat, &[Key("time_zone")]),
    (TimeZone, Flat, &[Key("geo"), Key("timezone")]),
    (TimeZone, Flat, &[Key("location"), Key("timezone")]),
    (Asn, MaxMindAsn, &[Key("autonomous_system_number")]),
    (Asn, MaxMindTraits, &[Key("traits"), Key("autonomous_system_number")]),
    (Asn, Flat, &[Key("asn")]),
    // CIRCL Geo-Open stores the network inside the country.
    (Asn, Flat, &[Key("country"), Key("AutonomousSystemNumber")]),
    (Asn, Flat, &[Key("as_number")]),
    (Asn, Flat, &[Key("as"), Key("asn")]),
    (Asn, Flat, &[Key("asn"), Key("asn")]),
    (Organization, MaxMindAsn, &[Key("autonomous_system_organization")]),
    (Organization, MaxMindTraits, &[Key("traits"), Key("autonomous_system_organization")]),
    (Organization, Flat, &[Key("as_name")]),
    (Organization, Flat, &[Key("country"), Key("AutonomousSystemOrganization")]),
    (Organization, Flat, &[Key("asname")]),
    (Organization, Flat, &[Key("asn_name")]),
    (Organization, Flat, &[Key("as_org")]),
    (Organization, Flat, &[Key("asn_org")]),
    (Organization, Flat, &[Key("as_organization")]),
    (Organization, Flat, &[Key("as"), Key("name")]),
    (Organization, Flat, &[Key("asn"), Key("name")]),
    (Organization, Flat, &[Key("organization")]),
    (Organization, Flat, &[Key("org")]),
    // In IPinfo's ASN file, `name` is the name of the network. IPinfo's company file has the better key `as_name`, which comes
    // earlier in this list.
    (Organization, Flat, &[Key("name")]),
    // The value is a domain such as "google.com". It is used only if no better name exists.
    (Organization, Flat, &[Key("as_domain")]),
];

/// Paths of one file by field, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    paths: [Vec<Path>; FIELDS],
}

impl Layout {
    pub fn detect(bytes: &[u8], plan: &Plan, database_type: &str) -> Self {
        let mut seen = vec![false; CANDIDATES.len()];
        for record in sample(bytes, plan) {
            // A damaged record does not show the layout. `verify` reports it.
            let _ = look_at(plan.data(bytes), record, &mut seen);
        }
        let family_seen = |family| {
            family != Flat && CANDIDATES.iter().zip(&seen).any(|((_, of, _), seen)| *of == family && *seen)
        };
        let families: Vec<Family> = [MaxMindPlace, MaxMindAsn, MaxMindTraits]
            .into_iter()
            .filter(|family| family_seen(*family))
            .collect();
        let families = if seen.contains(&true) { families } else { families_of(database_type) };

        let mut layout = Self::default();
        for ((field, family, path), seen) in CANDIDATES.iter().zip(seen) {
            if seen || families.contains(family) {
                layout.paths[*field as usize].push(path);
            }
        }
        // Files of every kind have the key "name". If the file has no ASNs, its names may be names of other things than networks.
        if layout.of(Asn).is_empty() {
            layout.paths[Organization as usize].clear();
        }
        layout
    }

    pub fn of(&self, field: Field) -> &[Path] {
        &self.paths[field as usize]
    }
}

/// Returns the families that a file of MaxMind has according to its type name. Used only if the sample of the file contains no
/// known field.
fn families_of(database_type: &str) -> Vec<Family> {
    let Some(product) =
        ["GeoIP2-", "GeoLite2-", "GeoIP-"].iter().find_map(|make| database_type.strip_prefix(make))
    else {
        return Vec::new();
    };
    let mut families = Vec::new();
    if ["City", "Country", "Enterprise"].iter().any(|kind| product.contains(kind)) {
        families.push(MaxMindPlace);
    }
    if product.contains("Enterprise") {
        families.push(MaxMindTraits);
    }
    if ["ASN", "ISP"].iter().any(|kind| product.contains(kind)) {
        families.push(MaxMindAsn);
    }
    families
}

/// Selects nodes that are evenly spread over the tree. Returns the offsets of their records without duplicates.
pub(super) fn sample(bytes: &[u8], plan: &Plan) -> Vec<usize> {
    let count = plan.node_count.min(SAMPLE);
    let mut records: Vec<usize> = (0..count)
        .map(|index| (u64::from(index) * u64::from(plan.node_count) / u64::from(count)) as u32)
        .flat_map(|node| plan.node(bytes, node))
        .filter_map(|record| match plan.follow(record) {
            Step::Data(offset) => Some(offset),
            _ => None,
        })
        .collect();
    records.sort_unstable();
    records.dedup();
    records
}

/// Marks the candidates for which this record contains a valid value.
fn look_at(data: Section<'_>, record: usize, seen: &mut [bool]) -> Result<(), super::format::Fault> {
    /// A map that is being read. `at` is the position of its next pair, and `pairs` is the number of pairs that remain. The
    /// variable `keys` is the path to the innermost open map.
    struct Open {
        at: usize,
        pairs: usize,
    }
    let (mut budget, mut text) = (VALUES, TEXT);
    let mut at = record;
    let (Token::Map(pairs), inside) = data.next_resolved(&mut at)? else {
        return Ok(());
    };
    let mut open = vec![Open { at: inside, pairs }];
    let mut keys: Vec<&[u8]> = Vec::new();
    while let Some(map) = open.last_mut() {
        if map.pairs == 0 {
            open.pop();
            keys.pop();
            continue;
        }
        map.pairs -= 1;
        let (Token::Text(key), _) = data.next_resolved(&mut map.at)? else {
            return Ok(());
        };
        let mut value_at = map.at;
        let (token, inside) = data.next_resolved(&mut value_at)?;
        data.skip(&mut map.at, &mut budget)?;
        keys.push(key);
        match token {
            Token::Map(pairs) if leads_on(&keys) => {
                open.push(Open { at: inside, pairs });
            }
            token => {
                if let Token::Text(bytes) = token {
                    let Some(left) = text.checked_sub(bytes.len()) else { return Ok(()) };
                    text = left;
                }
                mark(&keys, scalar::of_token(token), seen);
                keys.pop();
            }
        }
    }
    Ok(())
}

/// Returns true if a candidate path starts with these keys and continues after them. Most keys of a record, such as the continent
/// and the geoname id, do not start a candidate path. The sample does not include the members of arrays. A path through an array is
/// used only if all paths of its family are used.
fn leads_on(keys: &[&[u8]]) -> bool {
    CANDIDATES.iter().any(|(_, _, path)| path.len() > keys.len() && starts_with(path, keys))
}

fn starts_with(path: Path, keys: &[&[u8]]) -> bool {
    path.iter().zip(keys).all(|(step, key)| matches!(step, Key(name) if name.as_bytes() == *key))
}

fn mark(keys: &[&[u8]], value: Scalar<'_>, seen: &mut [bool]) {
    for ((field, _, path), seen) in CANDIDATES.iter().zip(seen) {
        if !*seen && path.len() == keys.len() && starts_with(path, keys) {
            *seen = match field {
                Country | RegisteredCountry => value.country().is_some(),
                CountryName => value.country_name().is_some(),
                City | Organization | Region | RegionCode | PostalCode | TimeZone => value.text().is_some(),
                Latitude => value.coordinate(90.0).is_some(),
                Longitude => value.coordinate(180.0).is_some(),
                AccuracyRadius => value.whole().is_some(),
                Asn => value.asn().is_some(),
            };
        }
    }
}
