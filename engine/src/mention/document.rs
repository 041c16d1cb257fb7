//! Removes mentions of addresses from JSON documents.
//!
//! Works on the text of the document, as the server writes it. So numbers keep their digits.

use std::collections::HashSet;

use super::Wanted;

/// Replaces a text that mentions an address.
pub const ERASED: &str = "\"The text named an address that was erased.\"";

/// Replaces a key that mentions an address. If the object has this key already, a number follows.
const ERASED_KEY: &str = "erased";

/// Keys of the build times of mmdb files, which the extension itself writes. As a number, such a time may be equal to an address, but
/// it is in the documents of almost all addresses.
const BUILD_TIMES: [&str; 3] = ["\"builds\"", "\"build_epoch\"", "\"asn_build_epoch\""];

/// A value that is nested deeper is replaced as a whole.
const DEEPEST: usize = 100;

impl Wanted {
    /// Returns the JSON document without the texts that mention one of the addresses. Keeps the rest of the document. Returns `None`
    /// if the document mentions none of the addresses.
    pub fn removed_from(&self, document: &str) -> Option<String> {
        if !self.is_mentioned_in_json(document) {
            return None;
        }
        let mut parser = Parser { wanted: self, rest: document };
        let cleaned = parser.value(0);
        // The document of a row must be an object.
        let is_clean = parser.rest.trim_ascii().is_empty() && !self.is_mentioned_in_json(&cleaned);
        Some(if is_clean && cleaned.starts_with('{') { cleaned } else { "{}".to_owned() })
    }

    /// Returns true if a JSON text, as the server writes it, mentions one of the addresses. Does not search the build times of mmdb
    /// files.
    pub fn is_mentioned_in_json(&self, json: &str) -> bool {
        self.is_mentioned_in(json) && self.is_mentioned_in(&without_build_times(json))
    }
}

/// Returns a JSON text without build times.
fn without_build_times(json: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(json.len()), json);
    let value_after = |key: &&str, text: &str| Some(text.find(*key)? + key.len());
    while let Some(end) = BUILD_TIMES.iter().filter_map(|key| value_after(key, rest)).min() {
        let value = end + usize::from(rest[end..].starts_with(':'));
        let value = rest.len() - rest[value..].trim_ascii_start().len();
        kept.push_str(&rest[..value]);
        rest = &rest[value + build_time(&rest[value..]).unwrap_or(0)..];
    }
    kept + rest
}

/// Returns the length of the value at the beginning of a JSON text, if the value is a build time, or two with a slash between them.
fn build_time(json: &str) -> Option<usize> {
    let is_part = |letter: char| letter.is_ascii_digit() || matches!(letter, '/' | '"');
    let length = json.find(|letter| !is_part(letter))?;
    (length > 0 && json[length..].starts_with([',', '}'])).then_some(length)
}

/// Gives names to the keys that were erased from an object. All keys of an object are different.
fn named(pairs: Vec<(Option<&str>, String)>) -> Vec<String> {
    let taken: HashSet<&str> = pairs.iter().filter_map(|(key, _)| *key).collect();
    let mut names = (1..)
        .map(|n| if n == 1 { format!("\"{ERASED_KEY}\"") } else { format!("\"{ERASED_KEY} {n}\"") })
        .filter(|name| !taken.contains(&**name));
    let mut name = |key: Option<&str>| key.map(str::to_owned).or_else(|| names.next()).unwrap_or_default();
    pairs.iter().map(|(key, value)| format!("{}: {value}", name(*key))).collect()
}

struct Parser<'a> {
    wanted: &'a Wanted,
    /// The part of the document that is not parsed yet.
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Returns the next value without mentions.
    fn value(&mut self, depth: usize) -> String {
        self.skip_blanks();
        match self.rest.bytes().next() {
            Some(b'{') => self.container(depth, '}'),
            Some(b'[') => self.container(depth, ']'),
            Some(b'"') => self.text().unwrap_or(ERASED).to_owned(),
            _ => self.scalar(),
        }
    }

    /// Returns the object or array at the beginning. If its parts mention an address only together, such as the four numbers of an
    /// IPv4 address, replaces the whole object or array.
    fn container(&mut self, depth: usize, end: char) -> String {
        if depth >= DEEPEST {
            let whole = self.balanced();
            return if self.wanted.is_mentioned_in_json(whole) {
                ERASED.to_owned()
            } else {
                whole.to_owned()
            };
        }
        let begin = &self.rest[..1];
        let (mut parts, mut pairs) = (Vec::new(), Vec::new());
        self.skip(1);
        loop {
            self.skip_blanks();
            if self.rest.is_empty() || self.rest.starts_with(end) {
                self.skip(1);
                break;
            }
            if self.rest.starts_with(',') {
                self.skip(1);
                continue;
            }
            let before = self.rest.len();
            if end == '}' {
                pairs.push(self.pair(depth));
            } else {
                parts.push(self.value(depth + 1));
            }
            if self.rest.len() == before {
                // The text is not JSON.
                self.rest = "";
            }
        }
        parts.extend(named(pairs));
        let cleaned = format!("{begin}{}{end}", parts.join(", "));
        if self.wanted.is_mentioned_in_json(&cleaned) { ERASED.to_owned() } else { cleaned }
    }

    /// Returns the object or array at the beginning without parsing its parts.
    fn balanced(&mut self) -> &'a str {
        let (mut depth, mut is_text, mut is_escaped) = (0_usize, false, false);
        let end = self.rest.bytes().position(|byte| {
            match byte {
                b'"' if !is_escaped => is_text = !is_text,
                b'{' | b'[' if !is_text => depth += 1,
                b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
                _ => {}
            }
            is_escaped = byte == b'\\' && !is_escaped;
            depth == 0
        });
        self.take(end.map_or(self.rest.len(), |end| end + 1))
    }

    /// Returns a key and its value. The key is `None` if it mentions an address.
    fn pair(&mut self, depth: usize) -> (Option<&'a str>, String) {
        let key = self.text();
        self.skip_blanks();
        if self.rest.starts_with(':') {
            self.skip(1);
        }
        self.skip_blanks();
        let is_build_time = key.is_some_and(|key| BUILD_TIMES.contains(&key));
        let value = match build_time(self.rest).filter(|_| is_build_time) {
            Some(length) => self.take(length).to_owned(),
            None => self.value(depth + 1),
        };
        (key, value)
    }

    /// Returns the string at the beginning, or `None` if the string mentions an address.
    fn text(&mut self) -> Option<&'a str> {
        let mut is_escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        });
        let text = self.take(end.map_or(self.rest.len(), |end| end + 2));
        (!self.wanted.is_mentioned_in(text)).then_some(text)
    }

    /// Returns the number, `true`, `false` or `null` at the beginning. A number that is the value of an address becomes null.
    fn scalar(&mut self) -> String {
        let is_end = |letter: char| matches!(letter, ',' | ']' | '}') || letter.is_ascii_whitespace();
        let word = self.take(self.rest.find(is_end).unwrap_or(self.rest.len()));
        if self.wanted.is_mentioned_in(word) { "null".to_owned() } else { word.to_owned() }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn skip(&mut self, length: usize) {
        self.take(length);
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }
}
