//! The document in `ip_inventory.enrichment`: how it is read, and what the sources write into it.
//!
//! ```json
//! {"maxmind": {"country": "DE", "country_name": "Germany", "city": "Berlin", "latitude": 52.5, "longitude": 13.4,
//!              "accuracy_radius": 20, "asn": 3320, "asn_org": "Deutsche Telekom AG",
//!              "cached_at": "2026-11-20T03:18:32.123456+00:00", "build_epoch": 1530576000},
//!  "cymru": {"asn": 24940, "asn_org": "HETZNER-AS, DE", "country": "DE", "registry": "ripencc",
//!            "prefix": "78.46.0.0/15", "allocation_date": "2007-03-13", "origins": [64500], "cached_at": "…"},
//!  "greynoise": {"noise": true, "riot": false, "classification": "malicious", "name": "…", "last_seen": "…", "cached_at": "…"},
//!  "dshield": {"ip": {as sent}, "cached_at": "…"},
//!  "spur": {as sent, "cached_at": "…"},
//!  "_meta": {"maxmind": {"state": "value", "asked_at": "…", "builds": "1530576000/1781222400"},
//!            "cymru": {"state": "value" or "absent" or "failed", "asked_at": "…", "retry_after": "…", "error": "…"}, …}}
//! ```
//!
//! A source's `state` is `value`, `absent` (it knows for certain that there is nothing, and may be asked again after
//! `retry_after`) or `failed` (it gave no answer, and the lookup is a dead letter).
//!
//! Whatever else is in there may be malformed: every reader here answers its default then.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::country;
use cowrie_enrich_engine::mmdb::{Location, Network, clean_name};
use cowrie_enrich_engine::providers::{JsonObject, Lifetimes, Purpose};
use cowrie_enrich_engine::timestamp;

use crate::mmdb::{Databases, Kind};
use crate::pg::clock;
use crate::pg::jsonb::{self, Container, Object, Value};
use crate::pg::value::{Jsonb, Typed};
use crate::provider::{Provider, Providers};

/// Version of the layout, in `ip_inventory.enrichment_version`; the Python system wrote "2.2".
pub const LAYOUT_VERSION: &str = "3.0";

/// What this server alone can say of an address.
pub struct Answer<'a> {
    pub bogon: Option<&'static str>,
    pub place: Option<Location<'a>>,
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
    pub fn document(&self, databases: &Databases, with_meta: bool) -> Typed<Jsonb> {
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

fn write_place(object: &mut Object, place: &Location<'_>) {
    if let Some(country) = place.country {
        object.text("country", &country_text(country));
    }
    if let Some(country) = place.registered_country {
        object.text("registered_country", &country_text(country));
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

/// What a source's answer means for an address; `asked_at` in microseconds since 2000. A value lasts as long as its
/// lifetime says at the time of asking again; of an absence it is written down, as it was when it came.
pub fn answered(source: &str, said: &NetworkFacts<'_>, asked_at: i64) -> Typed<Jsonb> {
    let (words, absent_until) = match said {
        NetworkFacts::Value(words) => (Some(*words), None),
        NetworkFacts::Absent { words, until } => (*words, Some(*until)),
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

/// What a source said of an address.
pub enum NetworkFacts<'a> {
    Value(&'a JsonObject),
    /// Nothing, and perhaps in these words; not to be asked again before then, in microseconds since 2000.
    Absent {
        words: Option<&'a JsonObject>,
        until: i64,
    },
}

/// A source gave no answer, time and again.
pub fn failed(source: &str, at: i64, error: &str) -> Typed<Jsonb> {
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

fn meta_of<'a>(document: Container<'a>, source: &str) -> Option<Container<'a>> {
    document.object("_meta").and_then(|meta| meta.object(source))
}

/// When a source's answer came, in microseconds since 2000; `None` where there is none, or none that can be dated.
fn answered_at(document: Container<'_>, source: &str) -> Option<i64> {
    let own = || document.object(source).and_then(|own| own.text("cached_at"));
    let time = own().or_else(|| meta_of(document, source).and_then(|meta| meta.text("asked_at")));
    time.and_then(timestamp::parse)
}

/// Whether a source has had its say, and when.
pub enum CurrentAttribution {
    /// It was never asked, or gave no answer.
    None,
    /// A value or an absence; of some it is not known when.
    Since(Option<i64>),
}

/// What a source's answer, a value or an absence, stands since.
pub fn answer_of(document: Container<'_>, source: &str) -> CurrentAttribution {
    let state = meta_of(document, source).and_then(|meta| meta.text("state"));
    match (document.get(source), state) {
        (_, Some("failed")) | (None, None) => CurrentAttribution::None,
        _ => CurrentAttribution::Since(answered_at(document, source)),
    }
}

/// An answer that is younger than that is of a clock that was wrong, in microseconds.
const CLOCKS_DIFFER: i64 = 300_000_000;

/// Whether a source's answer, a value or an absence, is younger than its lifetime in seconds. A failure is no answer.
pub fn is_fresh(document: Container<'_>, source: &str, lifetimes: Lifetimes) -> bool {
    let lifetime = match meta_of(document, source).and_then(|meta| meta.text("state")) {
        Some("failed") => return false,
        Some("absent") => lifetimes.absent,
        _ => lifetimes.value,
    };
    let now = clock::transaction_start();
    let since = now - i64::from(lifetime) * 1_000_000;
    answered_at(document, source).is_some_and(|at| at > since && at < now + CLOCKS_DIFFER)
}

/// Whether what a source said at some time is news to a document: it has no answer of theirs, or an older one. What is
/// not dated is news only where there is none.
pub fn is_news(document: Container<'_>, source: &str, at: Option<i64>) -> bool {
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

/// Whether a document's word on place and network is not of files of this server's, so that another's may replace it.
pub fn is_placed_by_others(document: Container<'_>) -> bool {
    document.object("maxmind").is_none_or(|own| own.get("build_epoch").is_none())
}

/// When a part of somebody's document says that it was answered, unless that is yet to come.
pub fn dated(part: Container<'_>) -> Option<i64> {
    let at = part.text("cached_at").and_then(timestamp::parse);
    at.filter(|at| *at < clock::transaction_start() + CLOCKS_DIFFER)
}

/// What somebody kept of sources' answers: source, its own words, when it was asked. `builds` are those of the files in
/// service, which have had their say.
pub fn kept_by_others(parts: &[(&str, Container<'_>, Option<i64>)], builds: Option<&str>) -> Typed<Jsonb> {
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

/// Whether a provider's answer about an address has had its time, or is lacking where it is wanted. One that knows networks
/// is asked again about what it placed, and about addresses without a network; not about those that the files placed
/// without it. What failed time and again is no answer that could grow old.
pub fn is_stale(document: Container<'_>, asn: Option<i64>, provider: Provider) -> bool {
    let source = provider.name();
    let state = meta_of(document, source).and_then(|meta| meta.text("state"));
    if state == Some("failed") {
        return false;
    }
    let is_over = !is_fresh(document, source, provider.lifetimes());
    match provider.purpose() {
        Purpose::Network if asn.is_none() => is_over || is_open(document, source, true),
        Purpose::Network => is_over && state != Some("absent") && document.object(source).is_some(),
        Purpose::IpType | Purpose::Facts => is_over,
    }
}

/// Whether a source has yet to have its say about an address: it was never asked, or, if it is to be asked `again`, it
/// said that there is nothing and that has had its time.
pub fn is_open(document: Container<'_>, source: &str, again: bool) -> bool {
    let Some(meta) = meta_of(document, source) else { return document.object(source).is_none() };
    // Written by us in UTC: the texts compare as the times do.
    let is_over = |until: &str| until <= clock::iso8601(clock::transaction_start()).as_str();
    again && meta.text("retry_after").is_some_and(is_over)
}

/// Providers that should be asked about an address for its own sake, of those given: nothing fresh of theirs is there,
/// and they have not failed time and again.
pub fn due(document: Container<'_>, asn: Option<i64>, providers: Providers) -> Providers {
    Providers::of(providers.iter().filter(|provider| {
        let source = provider.name();
        match provider.purpose() {
            Purpose::Network => asn.is_none() && is_open(document, source, true),
            Purpose::IpType | Purpose::Facts => {
                let state = meta_of(document, source).and_then(|meta| meta.text("state"));
                state != Some("failed") && !is_fresh(document, source, provider.lifetimes())
            }
        }
    }))
}

/// Providers whose answer may yet complete the snapshot of an address's sessions.
pub fn awaited(document: Option<Container<'_>>, asn: Option<i64>, ip_type: Option<&str>) -> Providers {
    Providers::of(Provider::all().filter(|provider| {
        let lacks = match provider.purpose() {
            Purpose::Network => asn.is_none(),
            Purpose::IpType => ip_type.is_none(),
            Purpose::Facts => false,
        };
        lacks && document.is_none_or(|document| is_open(document, provider.name(), true))
    }))
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
        .find_map(|text| country::code(text.as_bytes()))
        .map(country_text)
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
