//! Removes mentions of addresses from JSON documents.
//!
//! Works on the text of the document, as the server writes it. So numbers keep their digits.

use super::Wanted;

/// Replaces a text that mentions an address.
pub const ERASED: &str = "\"The text named an address that was erased.\"";

/// Replaces a key that mentions an address.
const ERASED_KEY: &str = "\"erased\"";

/// A value that is nested deeper is replaced as a whole.
const DEEPEST: usize = 100;

impl Wanted {
    /// Returns the JSON document without the texts that mention one of the addresses. Keeps the rest of the document. Returns `None`
    /// if the document mentions none of the addresses.
    pub fn removed_from(&self, document: &str) -> Option<String> {
        if !self.is_mentioned_in(document) {
            return None;
        }
        let mut parser = Parser { wanted: self, rest: document };
        let cleaned = parser.value(0);
        // The document of a row must be an object.
        let is_clean = parser.rest.trim_ascii().is_empty() && !self.is_mentioned_in(&cleaned);
        Some(if is_clean && cleaned.starts_with('{') { cleaned } else { "{}".to_owned() })
    }
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
            Some(b'"') => self.text(ERASED),
            _ => self.scalar(),
        }
    }

    /// Returns the object or array at the beginning. If its parts mention an address only together, such as the four numbers of an
    /// IPv4 address, replaces the whole object or array.
    fn container(&mut self, depth: usize, end: char) -> String {
        if depth >= DEEPEST {
            let whole = self.balanced();
            return if self.wanted.is_mentioned_in(whole) { ERASED.to_owned() } else { whole.to_owned() };
        }
        let begin = &self.rest[..1];
        let mut parts = Vec::new();
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
            parts.push(if end == '}' { self.pair(depth) } else { self.value(depth + 1) });
            if self.rest.len() == before {
                // The text is not JSON.
                self.rest = "";
            }
        }
        let cleaned = format!("{begin}{}{end}", parts.join(", "));
        if self.wanted.is_mentioned_in(&cleaned) { ERASED.to_owned() } else { cleaned }
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

    fn pair(&mut self, depth: usize) -> String {
        let key = self.text(ERASED_KEY);
        self.skip_blanks();
        if self.rest.starts_with(':') {
            self.skip(1);
        }
        format!("{key}: {}", self.value(depth + 1))
    }

    /// Returns the string at the beginning, or `replacement` if the string mentions an address.
    fn text(&mut self, replacement: &str) -> String {
        let mut is_escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        });
        let text = self.take(end.map_or(self.rest.len(), |end| end + 2));
        if self.wanted.is_mentioned_in(text) { replacement.to_owned() } else { text.to_owned() }
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
