//! Members of JSON objects. A member of a wrong type is an error, because a part of the list would be lost otherwise.

use serde_json::Value;

use super::{Error, Format};

/// Returns the text under the key. Returns `None` if the key is absent or its value is null.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> Result<Option<&'a str>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("\"{key}\" is not a text")),
    }
}

/// Returns the texts under the keys. Returns an error if no key has a text.
pub(super) fn texts<'a>(object: &'a Value, keys: [&str; 2]) -> Result<Vec<&'a str>, String> {
    let mut texts = Vec::with_capacity(1);
    for key in keys {
        texts.extend(text(object, key)?);
    }
    match texts.as_slice() {
        [] => Err(format!("\"{}\" is missing", keys[0])),
        _ => Ok(texts),
    }
}

/// Returns the array under the key. Returns `None` if the key is absent.
pub(super) fn array<'a>(object: &'a Value, key: &str) -> Result<Option<&'a [Value]>, String> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::Array(values)) => Ok(Some(values)),
        Some(_) => Err(format!("\"{key}\" is not an array")),
    }
}

/// Returns the array under the key. Returns an error if the key is absent.
pub(super) fn required_array<'a>(object: &'a Value, key: &str) -> Result<&'a [Value], String> {
    array(object, key)?.ok_or_else(|| format!("\"{key}\" is missing"))
}

/// Adds the format to a problem.
pub(super) fn in_format(format: Format) -> impl Fn(String) -> Error {
    move |problem| Error::of_file(format!("{format}: {problem}"))
}

/// Adds the format and the position in an array to a problem.
pub(super) fn in_entry(format: Format, array: &str, index: usize) -> impl Fn(String) -> Error {
    move |problem| Error::of_file(format!("{format}: entry {} of \"{array}\": {problem}", index + 1))
}
