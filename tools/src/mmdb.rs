//! Writes lists of networks as databases in MaxMind's layouts, so that they can replace MaxMind's files.
//!
//! The crate `mmdb-writer` implements the file format (search tree, data section, aliases of the IPv4 space). This
//! module selects the data and the network that wins. Of two overlapping networks the narrower one wins, in any order
//! of the list. Of two equally wide ones the later one wins.

use std::time::{Duration, SystemTime};

use mmdb_writer::{Error, RecordSize, Value, Writer};

use crate::networks::{Location, Network, Origin};

/// A layout of MaxMind. It decides the database's type and the fields that are read from a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `{country: {iso_code, names: {en}}, city: {names: {en}}, location: {latitude, longitude, accuracy_radius}}`
    City,
    /// `{autonomous_system_number, autonomous_system_organization}`
    Asn,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Seconds since 1970, or the current time if it is `None`. With a fixed time, the same list gives the same bytes.
    pub build_epoch: Option<u64>,
    /// Size of a record, or the smallest size that holds the tree if it is `None`.
    pub record_size: Option<RecordSize>,
}

/// A finished database and its counts.
pub struct Database {
    pub bytes: Vec<u8>,
    pub networks: usize,
    /// Number of networks inside 2002::/16 (6to4), 2001::/32 (Teredo) or ::ffff:0:0/96. These three prefixes
    /// repeat the IPv4 space.
    pub aliased: usize,
}

/// Writes a database. Its type names this program, because the vendor of the data is unknown.
pub fn build(networks: &[Network], layout: Layout, settings: Settings) -> Result<Database, Error> {
    build_as(networks, layout, None, settings)
}

/// Writes a database of the given type, which names the vendor of the data.
pub fn build_as(
    networks: &[Network],
    layout: Layout,
    database_type: Option<&str>,
    settings: Settings,
) -> Result<Database, Error> {
    let (default_type, description) = match layout {
        Layout::City => ("mmdb-build City", "Places of networks, from a list; layout of GeoLite2-City"),
        Layout::Asn => ("mmdb-build ASN", "Numbers of networks, from a list; layout of GeoLite2-ASN"),
    };
    let mut writer = Writer::builder(database_type.unwrap_or(default_type))
        .description(&[("en", description)])
        .maybe_record_size(settings.record_size)
        .maybe_build_epoch(
            settings.build_epoch.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        )
        .build();
    let mut records: Vec<(&Network, Value)> = networks
        .iter()
        .filter_map(|network| {
            let value = match layout {
                Layout::City => network.location.as_ref().map(city_record),
                Layout::Asn => network.origin.as_ref().map(asn_record),
            };
            value.map(|value| (network, value))
        })
        .collect();
    // Later insertions overwrite earlier ones, so the widest go first. The sort is stable and keeps the list's order.
    records.sort_by_key(|(network, _)| std::cmp::Reverse(network.width()));
    let mut aliased = 0;
    for (network, value) in &records {
        match writer.insert_range(network.first, network.last, value) {
            Err(Error::AliasedNetwork(_)) => aliased += 1,
            result => result?,
        }
    }
    Ok(Database { bytes: writer.to_bytes()?, networks: records.len() - aliased, aliased })
}

fn asn_record(origin: &Origin) -> Value {
    let mut record = vec![("autonomous_system_number", Value::from(origin.asn))];
    if let Some(organization) = &origin.organization {
        record.push(("autonomous_system_organization", Value::from(organization.as_str())));
    }
    Value::map(record)
}

fn city_record(location: &Location) -> Value {
    let names = |name: &str| Value::map([("en", Value::from(name))]);
    let mut record = Vec::new();
    if let Some(city) = &location.city {
        record.push(("city", Value::map([("names", names(city))])));
    }
    let mut country = Vec::new();
    if let Some(code) = &location.country {
        country.push(("iso_code", Value::from(code.as_str())));
    }
    if let Some(name) = &location.country_name {
        country.push(("names", names(name)));
    }
    if !country.is_empty() {
        record.push(("country", Value::map(country)));
    }
    let mut members = Vec::new();
    if let Some(radius) = location.accuracy_radius {
        members.push(("accuracy_radius", Value::from(radius)));
    }
    if let Some(latitude) = location.latitude {
        members.push(("latitude", Value::from(latitude)));
    }
    if let Some(longitude) = location.longitude {
        members.push(("longitude", Value::from(longitude)));
    }
    if !members.is_empty() {
        record.push(("location", Value::map(members)));
    }
    Value::map(record)
}
