//! Codes of countries.
//!
//! The rule: a code is two letters, in capitals. Whether ISO 3166 assigns it is not asked, because vendors have codes of their
//! own (`XK`). But `XX` and `ZZ` are no countries: they say that the country is unknown.

/// What sources write where they do not know the country.
const UNKNOWN: [[u8; 2]; 2] = [*b"XX", *b"ZZ"];

/// Returns the code in a text, in capitals, with blanks around it ignored. `None` where the text is no code or an unknown one.
pub fn code(text: &[u8]) -> Option<[u8; 2]> {
    let letters = <[u8; 2]>::try_from(text.trim_ascii()).ok()?;
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
