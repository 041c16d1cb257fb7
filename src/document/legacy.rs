//! Enrichment documents that others wrote, read for what they say of an address's network.
//!
//! They come from the Python system, from sessions that it enriched, and from whatever else a user kept there. Nothing in
//! them can be relied on: a part that makes no sense is a fault, which is listed, and the rest is used.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::legacy;

use crate::document::enrichment::country_text;
use crate::pg::jsonb::{self, Container, Value};
use crate::pg::kept::Kept;

/// What one source says of a network.
#[derive(Default, Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub asn: Option<i64>,
    pub name: Option<String>,
    pub country: Option<String>,
    pub registry: Option<&'static str>,
}

/// What a document says, and what in it makes no sense.
#[derive(Default, Debug)]
pub struct Reading {
    pub maxmind: Named,
    pub cymru: Named,
    /// In words, for whoever repairs the data: `maxmind.asn is true, not a number`.
    pub faults: Vec<String>,
    /// Source and key of each field that makes no sense.
    pub faulty: Vec<(&'static str, &'static str)>,
}

impl Reading {
    /// The network that announces the address, MaxMind's word first, and who says so.
    pub fn network(&self) -> Option<(i64, &'static str)> {
        let of = |named: &Named, source| named.asn.map(|asn| (asn, source));
        of(&self.maxmind, "maxmind").or_else(|| of(&self.cymru, "cymru"))
    }

    /// What is said of a network by the sources that name it, or that name none (their name and country then go with the
    /// address's own network).
    pub fn about(&self, asn: i64) -> impl Iterator<Item = (&'static str, &Named)> {
        [("maxmind", &self.maxmind), ("cymru", &self.cymru)]
            .into_iter()
            .filter(move |(_, named)| named.asn.is_none_or(|own| own == asn))
    }
}

/// Reads a document; `None` is SQL's null, which is an empty one.
pub fn read(document: Option<Container<'_>>) -> Reading {
    let mut reading = Reading::default();
    let Some(document) = document else { return reading };
    if !document.is_object() {
        reading.faults.push("the document is not an object".to_owned());
        return reading;
    }
    reading.maxmind = named(document, "maxmind", &mut reading.faults, &mut reading.faulty);
    reading.cymru = named(document, "cymru", &mut reading.faults, &mut reading.faulty);
    reading
}

/// Who may have answered in a session's document.
pub const SOURCES: [&str; 5] = ["maxmind", "cymru", "greynoise", "dshield", "spur"];

/// Bytes of one source's words that are kept; SPUR's longest answers have a tenth of that.
pub const LARGEST_PART: usize = 64 << 10;

/// What a session's document says of its address. Two shapes are about: `{"cymru": {…}, …}`, and what cowrieprocessor
/// wrote before, `{"session": {"203.0.113.7": {"dshield": {…}, …}}, …}`. `None`: it does not speak of the address.
pub fn of_address(document: Container<'_>, address: Address) -> Result<Option<Container<'_>>, String> {
    if !document.is_object() {
        return Err("the document is not an object".to_owned());
    }
    if SOURCES.iter().any(|source| document.get(source).is_some()) {
        return Ok(Some(document));
    }
    let session = match document.get("session") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Nested(session)) if session.is_object() => session,
        Some(_) => return Err("session is not an object".to_owned()),
    };
    match session.get(&address.to_string()) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Nested(own)) if own.is_object() => Ok(Some(own)),
        Some(_) => Err("session holds something else than an object for the address".to_owned()),
    }
}

/// What each of [`SOURCES`] is quoted with. What is no object, or too large to be kept, is a fault.
pub fn parts<'a>(document: Container<'a>, faults: &mut Vec<String>) -> [Option<Container<'a>>; 5] {
    SOURCES.map(|source| match document.get(source)? {
        Value::Null => None,
        Value::Nested(own) if own.is_object() && own.size() <= LARGEST_PART => Some(own),
        Value::Nested(own) if own.is_object() => {
            faults.push(format!("{source} has {} bytes, too many to be kept", own.size()));
            None
        }
        _ => {
            // Of the first two, `read` has complained.
            if !matches!(source, "maxmind" | "cymru") {
                faults.push(format!("{source} is not an object"));
            }
            None
        }
    })
}

/// A part of a document without the fields that make no sense.
pub fn keep_sensible(part: Container<'_>, source: &str, faulty: &[(&str, &str)]) -> Kept {
    let keys = faulty.iter().filter(|(of, _)| *of == source).map(|(_, key)| key);
    keys.fold(part.keep(), |kept, key| jsonb::keep_without(jsonb::of_kept(&kept), key))
}

fn named(
    document: Container<'_>,
    source: &'static str,
    faults: &mut Vec<String>,
    faulty: &mut Vec<(&'static str, &'static str)>,
) -> Named {
    let own = match document.get(source) {
        None | Some(Value::Null) => return Named::default(),
        Some(Value::Nested(own)) if own.is_object() => own,
        Some(_) => {
            faults.push(format!("{source} is not an object"));
            return Named::default();
        }
    };
    let mut field = |key: &'static str, sense: &dyn Fn(&str) -> bool, wanted: &str| {
        let text = match own.get(key)? {
            Value::Null => return None,
            Value::String(text) if text.trim().is_empty() || is_unknown(&text) => return None,
            Value::String(text) => text.into_owned(),
            // Numbers where text is due, and the other way round, are used.
            Value::Number(number) => number.text(),
            Value::Bool(value) => {
                faults.push(format!("{source}.{key} is {value}, not {wanted}"));
                faulty.push((source, key));
                return None;
            }
            Value::Nested(_) => {
                faults.push(format!("{source}.{key} is nested, not {wanted}"));
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
    // Some put words like "other" there: Team Cymru does.
    let registry = field("registry", &|_| true, "a registry");
    Named {
        asn: asn.as_deref().and_then(legacy::asn).map(i64::from),
        name: name.as_deref().and_then(legacy::name),
        country: country.as_deref().and_then(legacy::country).map(country_text),
        registry: registry.as_deref().and_then(legacy::registry),
    }
}

/// What means that nobody knows.
pub fn is_unknown(text: &str) -> bool {
    ["NA", "XX", "ZZ"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// Enough of a text to find it again.
fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(60).collect()
}
