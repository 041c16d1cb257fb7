//! Reads and writes the document in `ip_inventory.enrichment`.
//!
//! ```json
//! {"maxmind": {"country": "DE", "country_name": "Germany", "city": "Berlin", "latitude": 52.5, "longitude": 13.4,
//!              "accuracy_radius": 20, "asn": 3320, "asn_org": "Deutsche Telekom AG",
//!              "cached_at": "2026-11-20T03:18:32.123456+00:00", "vendor": "DB-IP", "build_epoch": 1530576000,
//!              "asn_vendor": "MaxMind", "asn_build_epoch": 1781222400},
//!  "cymru": {"asn": 24940, "asn_org": "HETZNER-AS, DE", "country": "DE", "registry": "ripencc",
//!            "prefix": "78.46.0.0/15", "allocation_date": "2007-03-13", "origins": [64500], "cached_at": "…"},
//!  "greynoise": {"noise": true, "riot": false, "classification": "malicious", "name": "…", "last_seen": "…", "cached_at": "…"},
//!  "dshield": {"ip": {as sent}, "cached_at": "…"},
//!  "spur": {as sent, "cached_at": "…"},
//!  "_meta": {"maxmind": {"state": "value", "asked_at": "…", "builds": "1530576000/1781222400"},
//!            "cymru": {"state": "value" or "absent" or "failed", "asked_at": "…", "retry_after": "…", "error": "…"},
//!            "greynoise": {"state": "skipped", "skipped_at": "…"}, …}}
//! ```
//!
//! The object `maxmind` has the values of the mmdb files of any vendor. It has `asn_vendor` and `asn_build_epoch` only
//! if the network comes from files of another vendor than the location.
//!
//! A source's `state` is `value`, `absent`, `failed` or [`skipped`]. `absent` means that the source confirmed that it has
//! no data; it may be asked again after `retry_after`. `failed` means that all attempts failed and the lookup
//! is a dead letter.
//!
//! Any part of a document may be malformed. Every reader in this file returns its default for a malformed part.

use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::country;
use cowrie_enrich_engine::ip_type;
use cowrie_enrich_engine::mmdb::{Location, Network, clean_name};
use cowrie_enrich_engine::network_kind::NetworkKind;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::{JsonObject, Lifetimes, Purpose};
use cowrie_enrich_engine::timestamp::Timestamp;

use super::classification::{self, Classification};
use super::skipped::{self, is_skipped};
use crate::guc;
use crate::mmdb::{Databases, Found};
use crate::pg::clock;
use crate::pg::jsonb::{self, Container, Object, Value};
use crate::pg::value::{Jsonb, Typed};
use crate::provider::{Provider, Providers};

/// Version of the layout, in `ip_inventory.enrichment_version`. The Python system wrote "2.2".
pub const LAYOUT_VERSION: &str = "3.0";

/// The data about an address that needs no provider: the bogon check and the mmdb files.
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

    /// Returns the document for a new address. With `Meta::Omitted`, returns the document for a session's
    /// snapshot.
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

/// Whether a document describes the answers in it.
#[derive(Clone, Copy)]
pub enum Meta {
    Omitted,
    /// The document has the key `_meta`, which names the lookups that the caller left out.
    Written {
        skipped: Providers,
    },
}

/// Writes the vendors of the files that a value comes from, and the build of the first file.
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

/// Returns the parts of the document that hold a source's answer for an address. If the answer is an absence, the time when it
/// expires is stored with it. The lifetime of a value is not stored, because the settings at the time of reading determine it.
pub fn answered(source: &str, source_data: &SourceAnswer<'_>, asked_at: Timestamp) -> Typed<Jsonb> {
    let (words, absent_until) = match source_data {
        SourceAnswer::Value(words) => (Some(*words), None),
        SourceAnswer::Present => (None, None),
        SourceAnswer::Absent { words, until } => (*words, Some(*until)),
    };
    let asked_at = clock::iso8601(asked_at);
    jsonb::object(|document| {
        if let Some(words) = words {
            document.object(source, |own| {
                for (key, value) in words {
                    own.json(key, value);
                }
                own.text("cached_at", &asked_at);
            });
        }
        let absent_until = absent_until.map(clock::iso8601);
        let more = absent_until.as_deref().map(|until| ("retry_after", until));
        let state = if absent_until.is_some() { "absent" } else { "value" };
        state_of(document, source, state, &asked_at, more);
    })
}

/// A source's answer for an address.
pub enum SourceAnswer<'a> {
    Value(&'a JsonObject),
    /// The source has data, which is not stored in the document.
    Present,
    /// The source has no data. `words` is the answer that says so, if the source sent one. The source is not
    /// asked again before `until`.
    Absent {
        words: Option<&'a JsonObject>,
        until: Timestamp,
    },
}

/// Returns the part of the document for a source whose attempts all failed.
pub fn failed(source: &str, at: Timestamp, error: &str) -> Typed<Jsonb> {
    jsonb::object(|document| {
        state_of(document, source, "failed", &clock::iso8601(at), Some(("error", error)))
    })
}

fn state_of(document: &mut Object, source: &str, state: &str, asked_at: &str, more: Option<(&str, &str)>) {
    document.object("_meta", |meta| {
        meta.object(source, |own| {
            own.text("state", state);
            own.text("asked_at", asked_at);
            if let Some((key, value)) = more {
                own.text(key, value);
            }
        });
    });
}

pub(super) fn meta_of<'a>(document: Container<'a>, source: &str) -> Option<Container<'a>> {
    document.object("_meta").and_then(|meta| meta.object(source))
}

/// Returns the time of a source's answer. `None`: there is no answer, or it has no valid time.
pub fn answered_at(document: Container<'_>, source: &str) -> Option<Timestamp> {
    let own = || document.object(source).and_then(|own| own.text("cached_at"));
    let time = own().or_else(|| meta_of(document, source).and_then(|meta| meta.text("asked_at")));
    time.and_then(Timestamp::parse)
}

/// The state of a source's answer, and its time.
pub enum LastAnswer {
    /// The source was never asked, or all attempts failed.
    None,
    /// The source returned a value or an absence. Holds the time of the answer, or `None` if the time is unknown.
    Since(Option<Timestamp>),
}

/// Returns the state of a source's answer, which is a value or an absence.
pub fn last_answer(document: Container<'_>, source: &str) -> LastAnswer {
    let state = meta_of(document, source).and_then(|meta| meta.text("state"));
    match (document.get(source), state) {
        (_, Some("failed")) | (None, None | Some(skipped::STATE)) => LastAnswer::None,
        _ => LastAnswer::Since(answered_at(document, source)),
    }
}

/// How far an answer may lie in the future. A later time comes from a wrong clock.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

/// Returns true if a source's answer, a value or an absence, is younger than its lifetime in seconds. A
/// failure is not an answer.
pub fn is_fresh(document: Container<'_>, source: &str, lifetimes: Lifetimes) -> bool {
    let lifetime = match meta_of(document, source).and_then(|meta| meta.text("state")) {
        Some("failed") => return false,
        Some("absent") => lifetimes.absent,
        _ => lifetimes.value,
    };
    let now = clock::transaction_start();
    let since = now - Duration::from_secs(lifetime.max(0).unsigned_abs().into());
    answered_at(document, source).is_some_and(|at| at > since && at < now + CLOCKS_DIFFER)
}

/// Returns true if a source's answer of time `at` should replace the source's part of a document. That is the
/// case if the document has no answer of this source, or an older answer. An answer without a time is used
/// only if the document has no answer.
pub fn was_announced(document: Container<'_>, source: &str, at: Option<Timestamp>) -> bool {
    let has_value = document.object(source).is_some();
    let state = meta_of(document, source).and_then(|meta| meta.text("state"));
    if !has_value && state == Some("failed") {
        return true;
    }
    match answered_at(document, source) {
        Some(known) => at.is_some_and(|at| at > known),
        None => at.is_some() || !has_value,
    }
}

/// Returns true if the location and network in a document do not come from this server's mmdb files. Another
/// system's values may then replace them.
pub fn is_placed_by_others(document: Container<'_>) -> bool {
    document.object("maxmind").is_none_or(|own| own.get("build_epoch").is_none())
}

/// Returns the time of the answer in a part of a document from another system, unless the time is in the
/// future.
pub fn dated(part: Container<'_>) -> Option<Timestamp> {
    let at = part.text("cached_at").and_then(Timestamp::parse);
    at.filter(|at| *at < clock::transaction_start() + CLOCKS_DIFFER)
}

/// Returns a document with the answers that another system stored. Each part is a source, the answer, and the
/// time of the request. `builds` names the builds of the mmdb files in service, which have already been read
/// for this address.
pub fn kept_by_others(
    parts: &[(&str, Container<'_>, Option<Timestamp>)],
    builds: Option<&str>,
) -> Typed<Jsonb> {
    jsonb::object(|document| {
        for (source, own, _) in parts {
            document.nested_container(source, *own);
        }
        document.object("_meta", |meta| {
            for (source, _, asked_at) in parts {
                meta.object(source, |own| {
                    own.text("state", "value");
                    if let Some(at) = asked_at {
                        own.text("asked_at", &clock::iso8601(*at));
                    }
                    if let Some(builds) = builds.filter(|_| *source == "maxmind") {
                        own.text("builds", builds);
                    }
                });
            }
        });
    })
}

/// Returns true if a provider's answer about an address has expired, or is missing and needed. A network
/// provider is asked again if the address has no network, or if the provider determined its network. It is
/// not asked again if the network comes only from the mmdb files. Failed and skipped lookups never become
/// stale. `kind` is the kind of the address's network.
pub fn is_stale(
    document: Container<'_>,
    asn: Option<i64>,
    provider: Provider,
    kind: Option<NetworkKind>,
) -> bool {
    let source = provider.name();
    let state = meta_of(document, source).and_then(|meta| meta.text("state"));
    if matches!(state, Some("failed" | skipped::STATE)) {
        return false;
    }
    let is_over = !is_fresh(document, source, provider.lifetimes_in(kind));
    match provider.purpose() {
        Purpose::Network if asn.is_none() => is_over || is_open(document, source, true),
        Purpose::Network => is_over && state != Some("absent") && document.object(source).is_some(),
        Purpose::IpType | Purpose::Facts => is_over,
    }
}

/// Returns true if a source has not answered for an address yet. With `again`, also returns true if the
/// source returned an absence and `retry_after` has passed.
pub fn is_open(document: Container<'_>, source: &str, again: bool) -> bool {
    let Some(meta) = meta_of(document, source) else { return document.object(source).is_none() };
    // This extension writes the time in UTC, so the texts sort in time order.
    let is_over = |until: &str| until <= clock::iso8601(clock::transaction_start()).as_str();
    again && meta.text("retry_after").is_some_and(is_over)
}

/// Returns the `providers` that should be asked about an address: they have no fresh answer, and have
/// not failed. A skipped lookup is due again, because the caller asks about the address now.
pub fn due(document: Container<'_>, asn: Option<i64>, providers: Providers) -> Providers {
    Providers::of(providers.iter().filter(|provider| {
        let source = provider.name();
        match provider.purpose() {
            Purpose::Network => {
                asn.is_none() && (is_open(document, source, true) || is_skipped(document, source))
            }
            Purpose::IpType | Purpose::Facts => {
                let state = meta_of(document, source).and_then(|meta| meta.text("state"));
                state != Some("failed") && !is_fresh(document, source, provider.lifetimes())
            }
        }
    }))
}

/// Returns the providers whose answers may still complete the snapshots of an address's sessions.
pub fn awaited(document: Option<Container<'_>>, asn: Option<i64>, ip_type: Option<&str>) -> Providers {
    Providers::of(Provider::all().filter(|provider| {
        let lacks = match provider.purpose() {
            Purpose::Network => asn.is_none(),
            Purpose::IpType => ip_type.is_none(),
            Purpose::Facts => false,
        };
        let source = provider.name();
        let may_answer = |document| is_open(document, source, true) || is_skipped(document, source);
        lacks && document.is_none_or(may_answer)
    }))
}

/// Returns a country code as text.
pub fn country_text(country: [u8; 2]) -> String {
    country.iter().map(|letter| char::from(*letter)).collect()
}

/// Returns the builds of the mmdb files from which the document was written.
pub fn builds(document: Container<'_>) -> Option<&str> {
    document.object("_meta")?.object("maxmind")?.text("builds")
}

/// Returns the country in upper case. The sources are maxmind.country, cymru.country and
/// dshield.ip.ascountry, in that order.
pub fn country(document: Container<'_>) -> Option<String> {
    let of = |source: &str, key: &str| document.object(source).and_then(|o| o.text(key));
    let dshield =
        || document.object("dshield").and_then(|d| d.object("ip")).and_then(|ip| ip.text("ascountry"));
    [of("maxmind", "country"), of("cymru", "country"), dshield()]
        .into_iter()
        .flatten()
        .find_map(|text| country::code(text.as_bytes()))
        .map(country_text)
}

/// Minimum length of an announced prefix, for IPv4 and IPv6. Registries allocate no larger blocks, so a shorter
/// prefix in a document is an error or a default route.
const SHORTEST_ANNOUNCED: (u8, u8) = (8, 16);

/// Returns the announced prefix in Team Cymru's answer.
pub fn announced_prefix(document: Container<'_>) -> Option<Prefix> {
    let prefix = Prefix::parse(document.object("cymru")?.text("prefix")?)?;
    let shortest = if prefix.network().ip().is_ipv4() { SHORTEST_ANNOUNCED.0 } else { SHORTEST_ANNOUNCED.1 };
    (prefix.length() >= shortest).then_some(prefix)
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

/// A provider may send any number of types. At most this many are kept.
const MOST_TYPES: usize = 32;
const LONGEST_TYPE: usize = 64;

/// Returns the types of an address from SPUR's answer, and from the classification of the Python system.
pub fn ip_types(document: Container<'_>) -> Vec<String> {
    let mut types = spur_types(document);
    add_classified(&mut types, classification::of(document));
    types
}

/// Returns the type that a session of the address keeps if it arrives now. Ignores a classification of the
/// Python system that is older than the maximum age of lists of its type.
pub fn leading_type(document: Container<'_>) -> Option<String> {
    let mut types = spur_types(document);
    let now = clock::now();
    let classified = classification::of(document);
    add_classified(&mut types, classified.filter(|known| known.counts(&guc::ip_type_max_ages(), now)));
    ip_type::leading(types.iter().map(String::as_str)).map(str::to_owned)
}

fn add_classified(types: &mut Vec<String>, classified: Option<Classification>) {
    if let Some(known) = classified
        && !types.iter().any(|other| other == known.kind)
    {
        types.push(known.kind.to_owned());
    }
}

/// Returns the types in SPUR's answer: its tunnels, its infrastructure and its client types.
pub fn spur_types(document: Container<'_>) -> Vec<String> {
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

/// Collects types from a text, an array of texts, or an object with `type` or `types`. `depth` limits the
/// nesting.
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
