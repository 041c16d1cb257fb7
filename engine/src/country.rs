//! Country codes.
//!
//! A code is two letters, in capitals. It need not be assigned by ISO 3166, because vendors define further codes
//! (`XK`). `XX` and `ZZ` are not codes: they mean that the country is unknown.

/// Codes that sources write for an unknown country.
const UNKNOWN: [[u8; 2]; 2] = [*b"XX", *b"ZZ"];

/// Returns the code in a text, in capitals. Ignores surrounding blanks. Returns `None` if the text is not a code or the
/// country is unknown.
pub fn code(text: &[u8]) -> Option<[u8; 2]> {
    // Almost every text has two letters. This case is separate, because trimming takes longer than all other steps.
    let letters = match text {
        [first, second] => [*first, *second],
        _ => text.trim_ascii().try_into().ok()?,
    };
    let capitals = letters.map(|letter| letter.to_ascii_uppercase());
    (capitals.iter().all(u8::is_ascii_uppercase) && !UNKNOWN.contains(&capitals)).then_some(capitals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_two_letters_and_not_unknown() {
        for (text, expected) in [
            ("US", Some(*b"US")),
            (" gb ", Some(*b"GB")),
            ("xk", Some(*b"XK")),
            ("", None),
            ("U", None),
            ("USA", None),
            ("U1", None),
            ("--", None),
            ("\u{e9}", None),
            ("ZZ", None),
            ("zz", None),
            ("xX", None),
        ] {
            assert_eq!(code(text.as_bytes()), expected, "{text:?}");
        }
    }
}
