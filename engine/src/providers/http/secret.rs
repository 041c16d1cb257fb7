//! Keys from key files.
//!
//! Each exchange reads the key file, so a new key takes effect at once. The key is sent only in one header of the
//! request. `Debug` output and failures never contain the key. If a response repeats the key, the key is removed from
//! the answer.

use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use ureq::http::HeaderValue;

use crate::regular_file;

/// Maximum length of a key file, in bytes. Keys of providers have a few dozen characters.
const LONGEST: u64 = 4096;

/// Minimum length, in characters, of a key that is removed from answers. A shorter text may occur in an answer by
/// chance.
const SHORTEST_TO_HIDE: usize = 8;

/// Replaces the key in texts.
const HIDDEN: &str = "[key]";

/// Visible ASCII, not empty.
#[derive(PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    /// Reads a key file. The caller puts the setting's name before the error text. The error text contains neither the
    /// path nor the contents of the file.
    pub(super) fn read(path: &str) -> Result<Self, String> {
        let unreadable = |error: io::Error| match error.kind() {
            ErrorKind::InvalidInput => "is not a file".to_owned(),
            kind => format!("could not be read: {kind}"),
        };
        let mut bytes = Vec::new();
        let file = regular_file::open(path).map_err(unreadable)?;
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        Self::parse(&bytes).map_err(str::to_owned)
    }

    /// ```text
    /// file = *blank 1*VCHAR *blank       ; at most LONGEST bytes; blank: also line ends
    /// ```
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() as u64 > LONGEST {
            return Err("is longer than 4096 bytes");
        }
        let key = bytes.trim_ascii();
        if key.is_empty() {
            return Err("is empty");
        }
        if !key.iter().all(u8::is_ascii_graphic) {
            return Err("contains more than one word, or characters that are not visible ASCII");
        }
        Ok(Self(key.iter().copied().map(char::from).collect()))
    }

    /// Returns the key as the value of a header. The value is marked as sensitive, so it is not logged. `None` cannot
    /// occur, because a key contains only characters that are valid in headers.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&self.0).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Returns the key's bytes, to compare keys without showing them.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Removes the key from a text.
    pub(super) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }

    /// Removes the key from a body. The caller must call this function before it shortens the body. Otherwise the end
    /// of the shortened body could be a part of the key.
    pub(super) fn hide_in_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let key = self.0.as_bytes();
        let find = |bytes: &[u8]| bytes.windows(key.len()).position(|window| window == key);
        if key.len() < SHORTEST_TO_HIDE || find(bytes).is_none() {
            return Cow::Borrowed(bytes);
        }
        let (mut rest, mut clean) = (bytes, Vec::with_capacity(bytes.len()));
        while let Some(at) = find(rest) {
            clean.extend_from_slice(&rest[..at]);
            clean.extend_from_slice(HIDDEN.as_bytes());
            rest = &rest[at + key.len()..];
        }
        clean.extend_from_slice(rest);
        Cow::Owned(clean)
    }

    /// Removes the key from an answer. Some services, for example services for tests, repeat the request in the
    /// response. Without this step, the key would then be stored.
    pub(super) fn hide_in_value(&self, value: &mut Value) {
        match value {
            Value::String(text) if self.0.len() >= SHORTEST_TO_HIDE && text.contains(&self.0) => {
                *text = self.hide_in(text);
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.hide_in_value(value)),
            Value::Object(members) => {
                members.values_mut().for_each(|value| self.hide_in_value(value));
                if self.0.len() >= SHORTEST_TO_HIDE && members.keys().any(|name| name.contains(&self.0)) {
                    let all = std::mem::take(members);
                    *members = all.into_iter().map(|(name, value)| (self.hide_in(&name), value)).collect();
                }
            }
            _ => {}
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_is_hidden_wherever_it_stands_in_an_answer() {
        let secret = Secret::parse(b"k3y-that-nobody-may-see").unwrap();
        let mut value = json!({ "a": ["x k3y-that-nobody-may-see y"], "k3y-that-nobody-may-see": { "k3y-that-nobody-may-see!": 1 } });
        secret.hide_in_value(&mut value);
        assert_eq!(value, json!({ "a": ["x [key] y"], "[key]": { "[key]!": 1 } }));
    }
}
