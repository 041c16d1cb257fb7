//! The data that the mmdb files contain about an address, and the document that is stored for a new address.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::mmdb::{Location, Network, clean_name};

use super::enrichment::country_text;
use super::skipped;
use crate::mmdb::{Databases, Found};
use crate::pg::clock;
use crate::pg::jsonb::{self, Object};
use crate::pg::value::{Jsonb, Typed};
use crate::provider::Providers;

/// The data about an address that is known without a provider: the result of the bogon check, and the values from the mmdb files.
pub struct Answer<'a> {
    pub bogon: Option<&'static str>,
    pub location: Option<Found<'a, Location<'a>>>,
    pub network: Option<Found<'a, Network<'a>>>,
}

impl<'a> Answer<'a> {
    /// Checks an address against the bogon list. Reads the mmdb files only if the address is not a bogon.
    pub fn for_address(address: Address, databases: &'a Databases) -> Answer<'a> {
        let bogon = bogon::reason(address);
        if bogon.is_some() {
            return Answer { bogon, location: None, network: None };
        }
        Answer { bogon, location: databases.location(address), network: databases.network(address) }
    }

    pub fn asn(&self) -> Option<i64> {
        self.network.as_ref().map(|network| i64::from(network.value.asn))
    }

    pub fn organization(&self) -> Option<&'a str> {
        self.network.as_ref().and_then(|network| network.value.organization)
    }

    pub fn country(&self) -> Option<[u8; 2]> {
        self.location.as_ref().and_then(|location| location.value.country)
    }

    /// Returns true if an mmdb file has data for the address.
    pub fn is_hit(&self) -> bool {
        self.location.is_some() || self.network.is_some()
    }

    /// Writes the `maxmind` object.
    pub fn write_maxmind(&self, object: &mut Object) {
        if let Some(location) = &self.location {
            write_location(object, &location.value);
            write_origin(object, ["vendor", "build_epoch"], location);
        }
        if let Some(network) = &self.network {
            object.number("asn", i64::from(network.value.asn));
            if let Some(name) = network.value.organization {
                object.text("asn_org", &clean_name(name));
            }
            match &self.location {
                None => write_origin(object, ["vendor", "build_epoch"], network),
                Some(location) if !network.vendors().eq(location.vendors()) => {
                    write_origin(object, ["asn_vendor", "asn_build_epoch"], network);
                }
                Some(_) => {}
            }
        }
        object.text("cached_at", &clock::iso8601(clock::transaction_start()));
    }

    /// Returns the document that is stored for a new address. With `Meta::Omitted`, returns the document that is stored in the
    /// snapshot column `enrichment` of a session.
    pub fn document(&self, databases: &Databases, meta: Meta) -> Typed<Jsonb> {
        jsonb::object(|document| {
            if let Some(reason) = self.bogon {
                document.object("validation", |validation| {
                    validation.boolean("is_bogon", true);
                    validation.text("reason", reason);
                });
                return;
            }
            if self.is_hit() {
                document.object("maxmind", |maxmind| self.write_maxmind(maxmind));
            }
            let Meta::Written { skipped } = meta else { return };
            if databases.is_empty() && skipped.is_empty() {
                return;
            }
            document.object("_meta", |meta| {
                if !databases.is_empty() {
                    meta.object("maxmind", |maxmind| {
                        maxmind.text("state", if self.is_hit() { "value" } else { "absent" });
                        maxmind.text("asked_at", &clock::iso8601(clock::transaction_start()));
                        maxmind.text("builds", databases.builds());
                    });
                }
                skipped::write(meta, skipped);
            });
        })
    }
}

/// Whether the document gets the key `_meta`, which describes the state of each source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    Omitted,
    /// The document gets `_meta`. For each provider in `skipped`, `_meta` has the state "skipped", because the caller left out the
    /// lookup at this provider.
    Written {
        skipped: Providers,
    },
}

/// Writes the vendors of all files that contributed to a value, and the build time of the first of these files.
fn write_origin<T>(object: &mut Object, [vendor, build_epoch]: [&'static str; 2], found: &Found<'_, T>) {
    if found.more.is_empty() {
        object.text(vendor, &found.file.vendor);
    } else {
        object.text(vendor, &found.vendors().collect::<Vec<_>>().join(", "));
    }
    if let Ok(epoch) = i64::try_from(found.file.build_epoch) {
        object.number(build_epoch, epoch);
    }
}

fn write_location(object: &mut Object, location: &Location<'_>) {
    if let Some(country) = location.country {
        object.text("country", &country_text(country));
    }
    if let Some(country) = location.registered_country {
        object.text("registered_country", &country_text(country));
    }
    if let Some(name) = location.country_name {
        object.text("country_name", &clean_name(name));
    }
    if let Some(city) = location.city {
        object.text("city", &clean_name(city));
    }
    if let Some(latitude) = location.latitude {
        object.float("latitude", latitude);
    }
    if let Some(longitude) = location.longitude {
        object.float("longitude", longitude);
    }
    if let Some(radius) = location.accuracy_radius {
        object.number("accuracy_radius", i64::from(radius));
    }
}
