//! Documents of the Python system. The import reads a document as text, because the column of the documents may have any type.

use cowrie_enrich_engine::jsonb_text::{Escapes, keepable, quoted};

use crate::pg::jsonb::{self, Container};
use crate::pg::text::from_server;
use crate::pg::value::{Jsonb, Typed};

/// The result of reading a document: the document as `jsonb`, or the reason why it cannot be used.
pub enum ParsedDocument {
    Whole(Typed<Jsonb>),
    /// Characters that the server cannot store were removed or replaced. Contains the resulting document and its text.
    Cleaned(Typed<Jsonb>, Vec<u8>),
    /// The text is not JSON, or it is too large.
    Unreadable,
}

/// Reads a document from a text in the encoding of the database.
pub fn read(text: &[u8]) -> ParsedDocument {
    if let Some(document) = jsonb::parse(text) {
        return ParsedDocument::Whole(document);
    }
    // The second attempt is needed if an escape stands for a character that the database's encoding does not have. This attempt
    // allows only ASCII characters.
    for escapes in [Escapes::Unicode, Escapes::Ascii] {
        let kept = keepable(text, escapes);
        if let Some(document) = jsonb::parse(&kept) {
            return ParsedDocument::Cleaned(document, kept.into_owned());
        }
    }
    ParsedDocument::Unreadable
}

/// Maximum number of bytes that are kept of an unreadable document. A string in `jsonb` can have at most 256 MB.
const LONGEST: usize = 64 << 20;

/// Returns a JSON string that contains the text of an unreadable document.
pub fn as_string(text: &[u8]) -> Vec<u8> {
    let whole = quoted(text.get(..LONGEST).unwrap_or(text));
    // The text may have been cut within a character. In this case, the string is not valid in the encoding of the database, and
    // null is returned.
    if jsonb::parse(&whole).is_some() { whole } else { b"null".to_vec() }
}

pub const NOT_AN_OBJECT: &str = "the value of column \"enrichment\" is not a JSON object";
pub const CLEANED: &str = "enrichment contains characters that jsonb does not support; these characters are omitted or replaced by ?";
pub const UNREADABLE: &str = "enrichment cannot be read as JSON";

/// Returns the document if it is a JSON object, and otherwise an empty object. Also returns the faults of the document.
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
    // The value null in JSON means that there is no data, like NULL in SQL. So it is not a fault.
    if text.trim_ascii() != b"null" {
        faults.push((NOT_AN_OBJECT.to_owned(), shown()));
    }
    (jsonb::empty(), faults)
}
