//! Reads the texts in legacy documents.
//!
//! The Python system and its users wrote an ASN as a number or as text (`15169`, `"15169"`, `"AS15169"`). They wrote the names of
//! registries in Team Cymru's spelling or in capitals, and unknown countries as `XX`. If a text is invalid, the functions return
//! `None` and do not guess a value.

use crate::country;
use crate::mmdb;
use crate::providers::Registry;

/// Returns the ASN in a text, from 1 to 4294967295. The text may have `AS` before the number.
pub fn asn(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = match text.as_bytes() {
        [b'A' | b'a', b'S' | b's', ..] => text[2..].trim_start(),
        _ => text,
    };
    // `parse` would accept a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|asn| *asn > 0)
}

/// Returns a country code, as [`country::code`] parses it.
pub fn country(text: &str) -> Option<[u8; 2]> {
    country::code(text.trim().as_bytes())
}

/// Returns the name of a registry.
pub fn registry(text: &str) -> Option<&'static str> {
    Registry::parse(text.trim()).map(Registry::name)
}

/// Returns the name in a text, in a form that can be stored. Returns `None` if the text is blank or `NA`.
pub fn name(text: &str) -> Option<String> {
    let name = mmdb::clean_name(text.trim()).trim().to_owned();
    (!name.is_empty() && !name.eq_ignore_ascii_case("NA")).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asns_are_read_in_the_spellings_that_were_written() {
        assert_eq!(asn("15169"), Some(15169));
        assert_eq!(asn(" as15169 "), Some(15169));
        assert_eq!(asn("AS 4294967295"), Some(u32::MAX));
    }

    #[test]
    fn what_is_no_asn_is_none() {
        for text in ["", "AS", "0", "-1", "+5", "1.5", "4294967296", "AS15169 GOOGLE", "NA", "１"] {
            assert_eq!(asn(text), None, "{text:?}");
        }
    }

    #[test]
    fn countries_are_two_letters_that_mean_one() {
        assert_eq!(country("de"), Some(*b"DE"));
        assert_eq!(country(" US "), Some(*b"US"));
        for text in ["", "XX", "zz", "D", "DEU", "D1", "é"] {
            assert_eq!(country(text), None, "{text:?}");
        }
    }

    #[test]
    fn registries_are_known_in_both_spellings() {
        assert_eq!(registry("ripencc"), Some("RIPE"));
        assert_eq!(registry("RIPE"), Some("RIPE"));
        assert_eq!(registry("Arin"), Some("ARIN"));
        assert_eq!(registry("other"), None);
    }

    #[test]
    fn names_are_cleaned_and_none_where_nothing_is_left() {
        assert_eq!(name(" GOOGLE\0, US "), Some("GOOGLE, US".to_owned()));
        assert_eq!(name(" \u{1}\n"), None);
        assert_eq!(name("NA"), None);
    }
}
