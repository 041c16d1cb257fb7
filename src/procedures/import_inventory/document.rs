//! Documents of the Python system. The import reads them as text, because their column may have any type.

use cowrie_enrich_engine::jsonb_text::{Escapes, keepable, quoted};

use crate::pg::jsonb::{self, Container};
use crate::pg::text::from_server;
use crate::pg::value::{Jsonb, Typed};

/// A document as `jsonb`, or the problem with it.
pub enum ParsedDocument {
    Whole(Typed<Jsonb>),
    /// The document without characters that the server cannot store, and the cleaned text.
    Cleaned(Typed<Jsonb>, Vec<u8>),
    /// The text is not JSON, or is too large.
    Unreadable,
}

/// Reads a text in the server's encoding.
pub fn read(text: &[u8]) -> ParsedDocument {
    if let Some(document) = jsonb::parse(text) {
        return ParsedDocument::Whole(document);
    }
    // Uses ASCII if the database's encoding lacks the character of an escape.
    for escapes in [Escapes::Unicode, Escapes::Ascii] {
        let kept = keepable(text, escapes);
        if let Some(document) = jsonb::parse(&kept) {
            return ParsedDocument::Cleaned(document, kept.into_owned());
        }
    }
    ParsedDocument::Unreadable
}

/// Maximum number of bytes of an unreadable document that are kept as text. A string in `jsonb` can have at most 256
/// MB.
const LONGEST: usize = 64 << 20;

/// Returns a JSON string with the text of an unreadable document.
pub fn as_string(text: &[u8]) -> Vec<u8> {
    let whole = quoted(text.get(..LONGEST).unwrap_or(text));
    // The cut may be within a character. Then the text is not valid in the server's encoding.
    if jsonb::parse(&whole).is_some() { whole } else { b"null".to_vec() }
}

pub const NOT_AN_OBJECT: &str = "the value of column \"enrichment\" is not a JSON object";
pub const CLEANED: &str = "enrichment contains characters that jsonb does not support; these characters are omitted or replaced by ?";
pub const UNREADABLE: &str = "enrichment cannot be read as JSON";

/// Returns a document that is an object, and its faults.
pub fn object_of(text: Option<&[u8]>) -> (Typed<Jsonb>, Vec<(String, Option<String>)>) {
    let Some(text) = text else { return (jsonb::empty(), Vec::new()) };
    let shown = || Some(from_server(text).into_owned());
    let (document, fault) = match read(text) {
        ParsedDocument::Whole(document) => (document, None),
        ParsedDocument::Cleaned(document, _) => (document, Some(CLEANED)),
        ParsedDocument::Unreadable => return (jsonb::empty(), vec![(UNREADABLE.to_owned(), shown())]),
    };
    let mut faults: Vec<_> = fault.map(|fault| (fault.to_owned(), shown())).into_iter().collect();
    if document.container().is_some_and(Container::is_object) {
        return (document, faults);
    }
    // JSON's null means no data, like SQL's.
    if text.trim_ascii() != b"null" {
        faults.push((NOT_AN_OBJECT.to_owned(), shown()));
    }
    (jsonb::empty(), faults)
}
