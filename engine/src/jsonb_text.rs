//! Makes JSON text acceptable for PostgreSQL's `jsonb`.
//!
//! RFC 8259 allows JSON strings that PostgreSQL cannot store as text: strings with `\u0000`, and strings with only one half of a
//! surrogate pair (section 8.2). A `json` column accepts a document with such strings, because the column stores the document as
//! written. A `jsonb` column refuses the whole document.

use std::borrow::Cow;

/// The escapes that a database accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Escapes {
    /// Escapes of all Unicode characters can be stored.
    Unicode,
    /// ASCII only, because the database's encoding may lack other characters.
    Ascii,
}

/// Returns the text without the escapes that PostgreSQL cannot store. `\u0000` is removed. Every other such escape is replaced with
/// a question mark. If nothing has to change, returns the text itself.
///
/// The text may have any encoding in which every ASCII byte is an ASCII character. The text may be invalid JSON.
pub fn keepable(text: &[u8], escapes: Escapes) -> Cow<'_, [u8]> {
    let mut kept: Option<Vec<u8>> = None;
    let mut at = 0;
    // Start of an incomplete escape: `\u` with fewer than four digits. Valid JSON has no such escape. If a `\u0000` after the
    // incomplete escape were removed, the characters after it could complete the escape. So this `\u0000` is replaced with a
    // question mark.
    let mut broken = None;
    while at < text.len() {
        let (length, mut replacement) = next(&text[at..], escapes);
        match replacement {
            None if text[at..].starts_with(b"\\u") && length == 2 => broken = Some(at),
            Some(b"") if broken.is_some_and(|broken| may_become_whole(&text[broken..at])) => {
                replacement = Some(b"?");
            }
            _ => {}
        }
        match (&mut kept, replacement) {
            (None, None) => {}
            (None, Some(replacement)) => kept = Some([&text[..at], replacement].concat()),
            (Some(kept), replacement) => kept.extend(replacement.unwrap_or(&text[at..at + length])),
        }
        at += length;
    }
    kept.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Returns true if the text consists only of `\u` and fewer than four digits.
fn may_become_whole(text: &[u8]) -> bool {
    text.len() < 6 && text[2..].iter().all(u8::is_ascii_hexdigit)
}

/// Returns the length, in bytes, of the escape at the start of the text. If the text does not start with an escape, the length is
/// 1. Also returns the replacement if the escape cannot be stored.
fn next(text: &[u8], escapes: Escapes) -> (usize, Option<&'static [u8]>) {
    let [b'\\', escaped, ..] = text else { return (1, None) };
    let Some(unit) = (*escaped == b'u').then(|| code_unit(text)).flatten() else { return (2, None) };
    let is_low_half = |unit: u16| (0xDC00..0xE000).contains(&unit);
    match unit {
        0 => (6, Some(b"")),
        0xD800..0xDC00 if text.get(6..).and_then(code_unit).is_some_and(is_low_half) => {
            (12, (escapes == Escapes::Ascii).then_some(b"?"))
        }
        0xD800..0xE000 => (6, Some(b"?")),
        0x80.. if escapes == Escapes::Ascii => (6, Some(b"?")),
        _ => (6, None),
    }
}

/// Returns the number in `\uXXXX`.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// Returns a JSON string whose value is these bytes. The bytes may be any text.
pub fn quoted(text: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(text.len() + 2);
    quoted.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            0..0x20 => quoted.extend(format!("\\u{byte:04x}").bytes()),
            _ => quoted.push(*byte),
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(text: &str) -> String {
        String::from_utf8(keepable(text.as_bytes(), Escapes::Unicode).into_owned()).unwrap()
    }

    #[test]
    fn what_can_be_kept_is_left_alone() {
        for text in [
            r#"{"a": "b\n\"\\", "ü": "\u00e9\ud83d\ude00"}"#,
            "",
            r"\",
            r"\u",
            r"\u12",
            r"\\u0000",
            r"\uXYZ0",
        ] {
            assert!(matches!(keepable(text.as_bytes(), Escapes::Unicode), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn nul_is_left_out_and_half_a_pair_is_a_question_mark() {
        assert_eq!(kept(r#"{"a\u0000b": "\u0000"}"#), r#"{"ab": ""}"#);
        assert_eq!(kept(r#"["\ud83d", "\ude00", "\ud83d\ud83d\ude00x"]"#), r#"["?", "?", "?\ud83d\ude00x"]"#);
        assert_eq!(kept(r#""\\\u0000\\u0000""#), r#""\\\\u0000""#);
        assert_eq!(kept(r#""\\u\u0000""#), r#""\\u""#);
    }

    #[test]
    fn what_is_left_out_does_not_make_an_escape_of_what_is_left() {
        assert_eq!(kept(r#""\u\u00000000""#), r#""\u?0000""#);
        assert_eq!(kept(r#""\u00\u0000\u000000""#), r#""\u00?00""#);
        assert_eq!(kept(r#""\u00x\u000000""#), r#""\u00x00""#);
    }

    #[test]
    fn other_encodings_may_get_ascii_alone() {
        let text = r#""\u0041\u00e9\ud83d\ude00\u0000""#;
        assert_eq!(&*keepable(text.as_bytes(), Escapes::Ascii), br#""\u0041??""#);
    }

    #[test]
    fn any_text_becomes_a_string() {
        assert_eq!(quoted(b"a\"b\\c\n"), br#""a\"b\\c\u000a""#);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_kept_again(text in r#"(\\u(0000|d83d|de00|00e9)|\\\\|"|[a-z]){0,20}"#) {
            for escapes in [Escapes::Unicode, Escapes::Ascii] {
                let once = keepable(text.as_bytes(), escapes).into_owned();
                prop_assert!(matches!(keepable(&once, escapes), Cow::Borrowed(_)));
            }
        }

        #[test]
        fn quoted_bytes_read_back(text in ".{0,40}") {
            let read: String = serde_json::from_slice(&quoted(text.as_bytes())).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
