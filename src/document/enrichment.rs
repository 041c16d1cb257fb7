//! Reads and writes the document in `ip_inventory.enrichment`.
//!
//! A document with examples of all parts:
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
//! The object `maxmind` has values from the mmdb files of all vendors. The keys `asn_vendor` and `asn_build_epoch` exist only if
//! the vendor of the network's values differs from the vendor of the location.
//!
//! The `state` of a source is `value`, `absent`, `failed` or [`skipped`]. `absent` means that the source has confirmed that it has
//! no data about the address. After `retry_after`, the source may be asked again. `failed` means that all attempts failed and the
//! lookup is a dead letter.
//!
//! Any part of a document may be malformed. If a function in this file reads a malformed part, the function returns a default
//! value.

use std::time::Duration;

use cowrie_enrich_engine::country;
use cowrie_enrich_engine::network_kind::NetworkKind;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::{JsonObject, Lifetimes, Purpose};
use cowrie_enrich_engine::timestamp::Timestamp;

use super::skipped::{self, is_skipped};
use crate::pg::clock;
use crate::pg::jsonb::{self, Container, Object, Value};
use crate::pg::value::{Jsonb, Typed};
use crate::provider::{Provider, Providers};

/// Version of the layout, in `ip_inventory.enrichment_version`. The Python system wrote "2.2".
pub const LAYOUT_VERSION: &str = "3.0";

/// Returns a document that has only the answer of one source for an address. If the source said that it has no data, the document
/// also has the time when this answer expires. The document has no lifetime for a value, because the settings determine the
/// lifetime when the document is read.
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
    /// The source has data. The document does not store this data.
    Present,
    /// The source has no data. If the source sent an object that says so, `words` is this object. The source is not asked again
    /// before `until`.
    Absent {
        words: Option<&'a JsonObject>,
        until: Timestamp,
    },
}

/// Returns a document in which the source has the state `failed`, because all attempts to ask the source failed.
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

/// Returns the time of a source's answer. Returns `None` if there is no answer, or if the answer has no valid time.
pub fn answered_at(document: Container<'_>, source: &str) -> Option<Timestamp> {
    let own = || document.object(source).and_then(|own| own.text("cached_at"));
    let time = own().or_else(|| meta_of(document, source).and_then(|meta| meta.text("asked_at")));
    time.and_then(Timestamp::parse)
}

/// The state of a source's answer, and its time.
pub enum LastAnswer {
    /// The source was never asked, or all attempts failed.
    None,
    /// The source returned a value, or said that it has no data. Holds the time of this answer, or `None` if the time is unknown.
    Since(Option<Timestamp>),
}

/// Returns whether a source has answered, and when. Both a value and a statement that the source has no data count as an answer.
pub fn last_answer(document: Container<'_>, source: &str) -> LastAnswer {
    let state = meta_of(document, source).and_then(|meta| meta.text("state"));
    match (document.get(source), state) {
        (_, Some("failed")) | (None, None | Some(skipped::STATE)) => LastAnswer::None,
        _ => LastAnswer::Since(answered_at(document, source)),
    }
}

/// How far the time of an answer may be in the future. If the time is further in the future, the clock that set it was wrong.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

/// Returns true if a source's answer is younger than its lifetime, which is in seconds. A value counts as an answer, and so does a
/// statement that the source has no data. A failed lookup does not count.
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

/// Returns true if the document should use a source's new answer, which was given at time `at`. The new answer is used if the
/// document has no answer of this source, or an older one. If the time of the new answer is unknown, the new answer is used only if
/// the document has none.
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

/// Returns true if the location and network in a document do not come from the mmdb files of this server. In that case, the values
/// of another system may replace them.
pub fn is_placed_by_others(document: Container<'_>) -> bool {
    document.object("maxmind").is_none_or(|own| own.get("build_epoch").is_none())
}

/// Returns the time of an answer that another system stored. Returns `None` if the time is missing, invalid, or in the future.
pub fn dated(part: Container<'_>) -> Option<Timestamp> {
    let at = part.text("cached_at").and_then(Timestamp::parse);
    at.filter(|at| *at < clock::transaction_start() + CLOCKS_DIFFER)
}

/// Returns a document with the answers that another system stored. Each element of `parts` has a source, the answer of this source,
/// and the time of the request. `builds` names the builds of the mmdb files that this server uses. The caller has already read
/// these files for this address.
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

/// Returns true if the provider should be asked again about an address, because its answer has expired or is missing. If the
/// provider looks up networks, it is asked again only if the address has no network, or if the provider itself determined the
/// network. It is not asked again if the network comes only from the mmdb files. The result is false for failed and skipped
/// lookups. `kind` is the kind of the address's network.
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

/// Returns true if a source has not answered for an address yet. If `again` is true, also returns true if the source answered that
/// it has no data, and the time `retry_after` has passed.
pub fn is_open(document: Container<'_>, source: &str, again: bool) -> bool {
    let Some(meta) = meta_of(document, source) else { return document.object(source).is_none() };
    // This extension always writes the time in UTC and in one format. So a comparison of the texts also compares the times.
    let is_over = |until: &str| until <= clock::iso8601(clock::transaction_start()).as_str();
    again && meta.text("retry_after").is_some_and(is_over)
}

/// Returns those of `providers` that should be asked about an address. A provider should be asked if it has no fresh answer and its
/// lookup did not fail. A skipped lookup does not exclude its provider, because the caller asks about the address now.
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

/// Returns the providers whose future answers may fill the null snapshot columns of the sessions of an address.
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

/// Returns the builds of the mmdb files that were read when the document was written.
pub fn builds(document: Container<'_>) -> Option<&str> {
    document.object("_meta")?.object("maxmind")?.text("builds")
}

/// Returns the country code in upper case. Uses the first valid code in maxmind.country, cymru.country and dshield.ip.ascountry, in
/// this order.
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

/// Minimum length of an announced prefix, for IPv4 and IPv6. Registries do not allocate larger blocks. So if a document has a
/// shorter prefix, this prefix is an error or a default route.
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
