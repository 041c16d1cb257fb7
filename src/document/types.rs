//! The types of an address that its document contains: the types in SPUR's answer, and the type that the Python system determined.

use cowrie_enrich_engine::ip_type;

use super::classification::{self, Classification};
use crate::guc;
use crate::pg::clock;
use crate::pg::jsonb::{Container, Value};

/// Maximum number of types that are kept for an address. A provider may send any number of types.
const MOST_TYPES: usize = 32;
const LONGEST_TYPE: usize = 64;

/// Returns the types of an address. The types come from SPUR's answer and from the classification of the Python system.
pub fn ip_types(document: Container<'_>) -> Vec<String> {
    let mut types = spur_types(document);
    add_classified(&mut types, classification::of(document));
    types
}

/// Returns the type that is stored with a session of the address if the session arrives now. Ignores the classification of the
/// Python system if it is older than the maximum age of lists with the same type.
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

/// Collects types from a text, an array of texts, or an object with the key `type` or `types`. `depth` is the maximum nesting of
/// arrays and objects.
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
