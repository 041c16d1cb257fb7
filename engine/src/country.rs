//! Country codes.
//!
//! A country code consists of two capital letters. Codes that ISO 3166 has not assigned are accepted, because vendors define
//! further codes such as `XK`. `XX` and `ZZ` are not country codes, because they mean that the country is unknown.

/// Codes that sources write for an unknown country.
const UNKNOWN: [[u8; 2]; 2] = [*b"XX", *b"ZZ"];

/// Returns the country code that a text contains, in capital letters. Ignores surrounding blanks. Returns `None` if the text is not
/// a country code, or means that the country is unknown.
pub fn code(text: &[u8]) -> Option<[u8; 2]> {
    // Almost every text has exactly two letters. These texts are handled without trimming, because trimming takes longer than all
    // other steps together.
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
