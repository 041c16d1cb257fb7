//! The document in `ip_inventory.enrichment`: how it is read, and what the sources write into it.
//!
//! ```json
//! {"maxmind": {"country": "DE", "country_name": "Germany", "city": "Berlin", "latitude": 52.5, "longitude": 13.4,
//!              "accuracy_radius": 20, "asn": 3320, "asn_org": "Deutsche Telekom AG",
//!              "cached_at": "2026-11-20T03:18:32.123456+00:00", "build_epoch": 1530576000},
//!  "cymru": {"asn": 24940, "asn_org": "HETZNER-AS, DE", "country": "DE", "registry": "ripencc",
//!            "prefix": "78.46.0.0/15", "allocation_date": "2007-03-13", "origins": [64500], "cached_at": "…"},
//!  "_meta": {"maxmind": {"state": "value", "asked_at": "…", "builds": "1530576000/1781222400"},
//!            "cymru": {"state": "value" or "absent" or "failed", "asked_at": "…", "retry_after": "…", "error": "…"}}}
//! ```
//!
//! A source's `state` is `value`, `absent` (it knows for certain that there is nothing, and may be asked again after
//! `retry_after`) or `failed` (it gave no answer, and the lookup is a dead letter).
//!
//! Whatever else is in there may be malformed: every reader here answers its default then.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::mmdb::{Network, Place, clean_name};
use cowrie_enrich_engine::providers::Registry;
use cowrie_enrich_engine::providers::cymru::Route;
use pgrx::pg_sys;

use crate::offline::{Databases, Kind};
use crate::pg::clock;
use crate::pg::jsonb::{self, Container, Object, Value};

/// Version of the layout, in `ip_inventory.enrichment_version`; the Python system wrote "2.2".
pub const LAYOUT_VERSION: &str = "3.0";

/// What this server alone can say of an address.
pub struct Answer<'a> {
    pub bogon: Option<&'static str>,
    pub place: Option<Place<'a>>,
    pub network: Option<Network<'a>>,
}

impl<'a> Answer<'a> {
    /// The offline part of the cascade: a bogon stops it, else the files are asked.
    pub fn for_address(address: Address, databases: &'a Databases) -> Answer<'a> {
        let bogon = bogon::reason(address);
        if bogon.is_some() {
            return Answer { bogon, place: None, network: None };
        }
        Answer { bogon, place: databases.place(address), network: databases.network(address) }
    }

    pub fn asn(&self) -> Option<i64> {
        self.network.as_ref().map(|network| i64::from(network.asn))
    }

    pub fn organization(&self) -> Option<&'a str> {
        self.network.as_ref().and_then(|network| network.organization)
    }

    pub fn country(&self) -> Option<[u8; 2]> {
        self.place.as_ref().and_then(|place| place.country)
    }

    /// Whether the files knew anything.
    pub fn is_hit(&self) -> bool {
        self.place.is_some() || self.network.is_some()
    }

    /// The `maxmind` object.
    pub fn write_maxmind(&self, object: &mut Object, databases: &Databases) {
        if let Some(place) = &self.place {
            write_place(object, place);
        }
        if let Some(network) = &self.network {
            object.number("asn", i64::from(network.asn));
            if let Some(name) = network.organization {
                object.text("asn_org", &clean_name(name));
            }
        }
        object.text("cached_at", &clock::iso8601(clock::transaction_start()));
        let epoch = |kind| databases.facts(kind).and_then(|f| i64::try_from(f.build_epoch).ok());
        if let Some(epoch) = epoch(Kind::City).or_else(|| epoch(Kind::Asn)) {
            object.number("build_epoch", epoch);
        }
    }

    /// The document for a new address; without `_meta` it is what a session's snapshot holds.
    pub fn document(&self, databases: &Databases, with_meta: bool) -> pg_sys::Datum {
        jsonb::object(|document| {
            if let Some(reason) = self.bogon {
                document.object("validation", |validation| {
                    validation.boolean("is_bogon", true);
                    validation.text("reason", reason);
                });
                return;
            }
            if self.is_hit() {
                document.object("maxmind", |maxmind| self.write_maxmind(maxmind, databases));
            }
            if with_meta && !databases.is_empty() {
                document.object("_meta", |meta| {
                    meta.object("maxmind", |maxmind| {
                        maxmind.text("state", if self.is_hit() { "value" } else { "absent" });
                        maxmind.text("asked_at", &clock::iso8601(clock::transaction_start()));
                        maxmind.text("builds", databases.builds());
                    });
                });
            }
        })
    }
}

fn write_place(object: &mut Object, place: &Place<'_>) {
    if let Some(country) = place.country {
        object.text("country", &country_text(country));
    }
    if let Some(name) = place.country_name {
        object.text("country_name", &clean_name(name));
    }
    if let Some(city) = place.city {
        object.text("city", &clean_name(city));
    }
    if let Some(latitude) = place.latitude {
        object.float("latitude", latitude);
    }
    if let Some(longitude) = place.longitude {
        object.float("longitude", longitude);
    }
    if let Some(radius) = place.accuracy_radius {
        object.number("accuracy_radius", i64::from(radius));
    }
}

/// What Cymru's answer means for an address; `asked_at` in microseconds since 2000.
pub fn cymru_document(route: &Route, asked_at: i64) -> pg_sys::Datum {
    let asked_at = clock::iso8601(asked_at);
    jsonb::object(|document| {
        document.object("cymru", |cymru| {
            cymru.number("asn", i64::from(route.asn));
            if let Some(name) = &route.name {
                cymru.text("asn_org", name);
            }
            if let Some(country) = route.country {
                cymru.text("country", &country_text(country));
            }
            if let Some(registry) = route.registry {
                cymru.text("registry", cymru_spelling(registry));
            }
            if let Some(prefix) = route.prefix {
                cymru.text("prefix", &prefix.to_string());
            }
            if let Some(date) = &route.allocated {
                cymru.text("allocation_date", date);
            }
            if !route.origins.is_empty() {
                cymru.numbers("origins", route.origins.iter().map(|asn| i64::from(*asn)));
            }
            cymru.text("cached_at", &asked_at);
        });
        document.object("_meta", |meta| {
            meta.object("cymru", |cymru| {
                cymru.text("state", "value");
                cymru.text("asked_at", &asked_at);
            });
        });
    })
}

/// Registries as Cymru writes them, and the Python system stored them.
fn cymru_spelling(registry: Registry) -> &'static str {
    match registry {
        Registry::Arin => "arin",
        Registry::Ripe => "ripencc",
        Registry::Apnic => "apnic",
        Registry::Lacnic => "lacnic",
        Registry::Afrinic => "afrinic",
    }
}

/// Nobody announces the address; from `retry_after` on it may be asked again. Microseconds since 2000.
pub fn cymru_absent(asked_at: i64, retry_after: i64) -> pg_sys::Datum {
    state_of("cymru", "absent", asked_at, &[("retry_after", &clock::iso8601(retry_after))])
}

/// A source gave no answer, time and again.
pub fn failed(source: &str, at: i64, error: &str) -> pg_sys::Datum {
    state_of(source, "failed", at, &[("error", error)])
}

fn state_of(source: &str, state: &str, asked_at: i64, more: &[(&str, &str)]) -> pg_sys::Datum {
    jsonb::object(|document| {
        document.object("_meta", |meta| {
            meta.object(source, |own| {
                own.text("state", state);
                own.text("asked_at", &clock::iso8601(asked_at));
                for (key, value) in more {
                    own.text(key, value);
                }
            });
        });
    })
}

/// Whether Cymru has had its say about an address, for now: its answer is there, or it gave none often enough. An answer
/// that nobody announces the address may have had its time.
pub fn cymru_had_its_say(document: Container<'_>) -> bool {
    let Some(own) = document.object("_meta").and_then(|meta| meta.object("cymru")) else { return false };
    // Written by us in UTC: the texts compare as the times do.
    own.text("retry_after")
        .is_none_or(|retry_after| clock::iso8601(clock::transaction_start()).as_str() < retry_after)
}

/// Two letters as text.
pub fn country_text(country: [u8; 2]) -> String {
    country.iter().map(|letter| char::from(*letter)).collect()
}

/// Builds of the mmdb files that the document's answer came from.
pub fn builds(document: Container<'_>) -> Option<&str> {
    document.object("_meta")?.object("maxmind")?.text("builds")
}

/// maxmind.country, cymru.country, dshield.ip.ascountry, in that order; upper case.
pub fn country(document: Container<'_>) -> Option<String> {
    let of = |source: &str, key: &str| document.object(source).and_then(|o| o.text(key));
    let dshield =
        || document.object("dshield").and_then(|d| d.object("ip")).and_then(|ip| ip.text("ascountry"));
    [of("maxmind", "country"), of("cymru", "country"), dshield()]
        .into_iter()
        .flatten()
        .map(|text| text.trim().to_ascii_uppercase())
        .find(|text| text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()))
}

pub fn is_scanner(document: Container<'_>) -> bool {
    is_true(document, "greynoise", "noise")
}

pub fn is_bogon(document: Container<'_>) -> bool {
    is_true(document, "validation", "is_bogon")
}

fn is_true(document: Container<'_>, source: &str, key: &str) -> bool {
    match document.object(source).and_then(|o| o.get(key)) {
        Some(Value::Bool(value)) => value,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

/// A provider may send more types than anybody can use; these many are kept.
const MOST_TYPES: usize = 32;
const LONGEST_TYPE: usize = 64;

/// Types of an address from SPUR's answer: what it tunnels, where it stands, which devices it serves.
pub fn ip_types(document: Container<'_>) -> Vec<String> {
    let mut types = Vec::new();
    let Some(spur) = document.object("spur") else { return types };
    if let Some(tunnels) = spur.get("tunnels") {
        collect_types(tunnels, &mut types, 2);
    }
    if let Some(infrastructure) = spur.get("infrastructure") {
        collect_types(infrastructure, &mut types, 2);
    }
    match spur.get("client") {
        Some(Value::Nested(client)) => {
            if let Some(devices) = client.get("types") {
                collect_types(devices, &mut types, 2);
            }
        }
        Some(other) => collect_types(other, &mut types, 0),
        None => {}
    }
    types
}

/// A text, an array of such, or an object with `type` or `types`; `depth` bounds the nesting that is followed.
fn collect_types(value: Value<'_>, types: &mut Vec<String>, depth: usize) {
    match value {
        Value::String(text) => {
            let text = text.trim().to_uppercase();
            let fits = !text.is_empty() && text.len() <= LONGEST_TYPE && types.len() < MOST_TYPES;
            if fits && !types.contains(&text) {
                types.push(text);
            }
        }
        Value::Nested(nested) if depth > 0 => {
            for key in ["type", "types"] {
                if let Some(inner) = nested.get(key) {
                    collect_types(inner, types, depth - 1);
                }
            }
            for element in nested.elements() {
                collect_types(element, types, depth - 1);
            }
        }
        _ => {}
    }
}

/// The one type that a session's snapshot keeps.
pub fn leading_type(types: &[String]) -> Option<&str> {
    const ORDER: [&str; 6] = ["VPN", "TOR", "PROXY", "DATACENTER", "RESIDENTIAL", "MOBILE"];
    ORDER
        .into_iter()
        .find(|wanted| types.iter().any(|t| t == wanted))
        .or_else(|| types.first().map(String::as_str))
}
