//! Reads the network of an address from enrichment documents that other systems wrote.
//!
//! The Python system wrote some of these documents when it enriched sessions. Users wrote others. The content of the documents is
//! not reliable. An invalid part of a document is reported as a fault, and the other parts are used.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::legacy;
use cowrie_enrich_engine::providers::cymru;

use crate::document::classification;
use crate::document::enrichment::country_text;
use crate::pg::jsonb::{self, Container, Value};
use crate::pg::varlena::OwnedVarlena;

/// The network in one source's part of a document.
#[derive(Default, Debug, Clone, PartialEq, Eq)]
pub struct LegacyNetwork {
    pub asn: Option<i64>,
    pub name: Option<String>,
    pub country: Option<String>,
    pub registry: Option<&'static str>,
}

/// The valid values and the faults of a document.
#[derive(Default, Debug)]
pub struct LegacyDocument {
    pub maxmind: LegacyNetwork,
    pub cymru: LegacyNetwork,
    /// Descriptions of the faults, for the user who repairs the data. An example is `maxmind.asn is true, not a number`.
    pub faults: Vec<String>,
    /// Source and key of each invalid field.
    pub faulty: Vec<(&'static str, &'static str)>,
}

impl LegacyDocument {
    /// Returns the network of the address, and the source that names this network. If both sources name a network, uses the network
    /// that MaxMind names.
    pub fn network(&self) -> Option<(i64, &'static str)> {
        let of = |named: &LegacyNetwork, source| named.asn.map(|asn| (asn, source));
        of(&self.maxmind, "maxmind").or_else(|| of(&self.cymru, "cymru"))
    }

    /// Returns the sources that have values about the network `asn`, with these values. Leaves out a source that names another
    /// network. Includes a source that names no network, because the name and the country that it has belong to the network of the
    /// address.
    pub fn about(&self, asn: i64) -> impl Iterator<Item = (&'static str, &LegacyNetwork)> {
        [("maxmind", &self.maxmind), ("cymru", &self.cymru)]
            .into_iter()
            .filter(move |(_, named)| named.asn.is_none_or(|own| own == asn))
    }
}

/// Reads a document. `None` means that the document is null in SQL. A null document is treated like an empty document.
pub fn read(document: Option<Container<'_>>) -> LegacyDocument {
    let mut reading = LegacyDocument::default();
    let Some(document) = document else { return reading };
    if !document.is_object() {
        reading.faults.push("the value of column \"enrichment\" is not a JSON object".to_owned());
        return reading;
    }
    reading.maxmind = named(document, "maxmind", &mut reading.faults, &mut reading.faulty);
    reading.cymru = named(document, "cymru", &mut reading.faults, &mut reading.faulty);
    // Team Cymru writes a country after the organisation's name. This country is removed, because it is not part of the name.
    let name = reading.cymru.name.take();
    reading.cymru.name = name.as_deref().and_then(cymru::without_country).map(str::to_owned);
    reading
}

/// The sources whose answers a session's document may have.
pub const SOURCES: [&str; 5] = ["maxmind", "cymru", "greynoise", "dshield", "spur"];

/// Maximum size, in bytes, of the part of a document that one source wrote. A larger part is not kept. SPUR's longest answers have
/// a tenth of this size.
pub const LARGEST_PART: usize = 64 << 10;

/// Returns the part of a session's document that is about the address of the session. There are two formats: `{"cymru": {…}, …}`,
/// and the older format of cowrieprocessor, `{"session": {"203.0.113.7": {"dshield": {…}, …}}, …}`. Returns `None` if the document
/// has no data about this address.
pub fn of_address(document: Container<'_>, address: Address) -> Result<Option<Container<'_>>, String> {
    if !document.is_object() {
        return Err("the value of column \"enrichment\" is not a JSON object".to_owned());
    }
    if SOURCES.into_iter().chain([classification::KEY]).any(|source| document.get(source).is_some()) {
        return Ok(Some(document));
    }
    let session = match document.get("session") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Nested(session)) if session.is_object() => session,
        Some(_) => return Err("key \"session\" in column \"enrichment\" is not a JSON object".to_owned()),
    };
    match session.get(&address.to_string()) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Nested(own)) if own.is_object() => Ok(Some(own)),
        Some(_) => {
            Err("key \"session\" in column \"enrichment\" does not contain a JSON object for the address"
                .to_owned())
        }
    }
}

/// Returns the part of the document for each of [`SOURCES`]. If a part is too large or is not an object, adds a fault and returns
/// `None` for this part.
pub fn parts<'a>(document: Container<'a>, faults: &mut Vec<String>) -> [Option<Container<'a>>; 5] {
    SOURCES.map(|source| match document.get(source)? {
        Value::Null => None,
        Value::Nested(own) if own.is_object() && own.size() <= LARGEST_PART => Some(own),
        Value::Nested(own) if own.is_object() => {
            faults.push(format!(
                "key \"{source}\" in column \"enrichment\" is too large to be stored: {} bytes",
                own.size()
            ));
            None
        }
        _ => {
            // `read` has already listed this fault for maxmind and cymru.
            if !matches!(source, "maxmind" | "cymru") {
                faults.push(format!("key \"{source}\" in column \"enrichment\" is not a JSON object"));
            }
            None
        }
    })
}

/// Returns a part of a document without its invalid fields.
pub fn keep_sensible(part: Container<'_>, source: &str, faulty: &[(&str, &str)]) -> OwnedVarlena {
    let keys = faulty.iter().filter(|(of, _)| *of == source).map(|(_, key)| key);
    keys.fold(part.into_owned(), |kept, key| jsonb::owned_without(jsonb::container(&kept), key))
}

fn named(
    document: Container<'_>,
    source: &'static str,
    faults: &mut Vec<String>,
    faulty: &mut Vec<(&'static str, &'static str)>,
) -> LegacyNetwork {
    let own = match document.get(source) {
        None | Some(Value::Null) => return LegacyNetwork::default(),
        Some(Value::Nested(own)) if own.is_object() => own,
        Some(_) => {
            faults.push(format!("key \"{source}\" in column \"enrichment\" is not a JSON object"));
            return LegacyNetwork::default();
        }
    };
    let mut field = |key: &'static str, sense: &dyn Fn(&str) -> bool, wanted: &str| {
        let text = match own.get(key)? {
            Value::Null => return None,
            Value::String(text) if text.trim().is_empty() || is_unknown(&text) => return None,
            Value::String(text) => text.into_owned(),
            // A number is accepted where a text is expected, and a text is accepted where a number is expected.
            Value::Number(number) => number.text(),
            Value::Bool(value) => {
                faults.push(format!("{source}.{key} is {value}, not {wanted}"));
                faulty.push((source, key));
                return None;
            }
            Value::Nested(_) => {
                faults.push(format!("{source}.{key} is an object or an array, not {wanted}"));
                faulty.push((source, key));
                return None;
            }
        };
        if sense(&text) {
            return Some(text);
        }
        faults.push(format!("{source}.{key} is \"{}\", not {wanted}", shortened(&text)));
        faulty.push((source, key));
        None
    };
    let asn = field("asn", &|text| legacy::asn(text).is_some(), "an ASN");
    let name = field("asn_org", &|text| legacy::name(text).is_some(), "a name");
    let country = field("country", &|text| legacy::country(text).is_some(), "a country");
    // Some sources, such as Team Cymru, write values like "other" in the field `registry`. Such a value is not a fault.
    let registry = field("registry", &|_| true, "a registry");
    LegacyNetwork {
        asn: asn.as_deref().and_then(legacy::asn).map(i64::from),
        name: name.as_deref().and_then(legacy::name),
        country: country.as_deref().and_then(legacy::country).map(country_text),
        registry: registry.as_deref().and_then(legacy::registry),
    }
}

/// Returns true if a text is one of the codes that mean that a value is unknown.
pub fn is_unknown(text: &str) -> bool {
    ["NA", "XX", "ZZ"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// Returns the beginning of a text. The beginning is long enough for the user to find the text in the data.
fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(60).collect()
}
