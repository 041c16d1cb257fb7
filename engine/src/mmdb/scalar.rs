//! Converts values of any type to countries, coordinates and ASNs.
//!
//! If a value is invalid, the functions return `None` and not an error. So if a record has an invalid value, a session still gets
//! the other values of this record.

use super::format::Token;
use crate::country;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A value at the end of a path, in the form in which the file stores it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Scalar<'a> {
    Text(&'a str),
    Whole(u64),
    Real(f64),
    /// Map, array, bytes, bool, or a number outside every valid range.
    Other,
}

impl<'a> Scalar<'a> {
    /// Returns the text of a value. Returns `None` if the text is empty or `-`. IP2Location's files contain `-` if a value is
    /// unknown.
    pub fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) if !text.is_empty() && text != "-" => Some(text),
            _ => None,
        }
    }

    /// Returns a country code, as [`country::code`] parses it.
    pub fn country(self) -> Option<[u8; 2]> {
        match self {
            Self::Text(text) => country::code(text.as_bytes()),
            _ => None,
        }
    }

    /// Returns the text of a value if the text is not a country code. In the key `country`, some vendors store a code, and others
    /// store a name.
    pub fn country_name(self) -> Option<&'a str> {
        let is_code = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
        self.text().filter(|text| !is_code(text))
    }

    pub fn whole(self) -> Option<u32> {
        match self {
            Self::Whole(number) => u32::try_from(number).ok(),
            Self::Text(text) => text.parse().ok(),
            Self::Real(_) | Self::Other => None,
        }
    }

    /// Parses `15169`, `"15169"`, `"AS15169"` or `"AS15169 Google LLC"`. Returns `None` for 0. The number 0 is reserved (RFC 7607),
    /// and files contain it if an address has no ASN.
    pub fn asn(self) -> Option<u32> {
        match self {
            Self::Text(text) => {
                let digits = match text.as_bytes() {
                    [b'A' | b'a', b'S' | b's', ..] => &text[2..],
                    _ => text,
                };
                let number = digits.split(' ').next()?;
                // `parse` would accept "+1".
                number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
            }
            other => other.whole(),
        }
        .filter(|asn| *asn != 0)
    }

    /// Returns degrees within `-limit..=limit`. Exactly 0 is valid.
    pub fn coordinate(self, limit: f64) -> Option<f64> {
        let degrees = match self {
            Self::Real(degrees) => degrees,
            Self::Whole(degrees) => degrees as f64,
            Self::Text(text) => text.parse().ok()?,
            Self::Other => return None,
        };
        // False for NaN too.
        (degrees.abs() <= limit).then_some(degrees)
    }
}

pub(super) fn of_token(token: Token<'_>) -> Scalar<'_> {
    match token {
        Token::Text(text) => std::str::from_utf8(text).map_or(Scalar::Other, Scalar::Text),
        Token::Unsigned(number) => u64::try_from(number).map_or(Scalar::Other, Scalar::Whole),
        Token::Signed(number) => of_signed(number),
        Token::Double(number) => Scalar::Real(number),
        Token::Float(number) => of_float(number),
        Token::Pointer(_) | Token::Bytes | Token::Bool(_) | Token::Map(_) | Token::Array(_) => Scalar::Other,
    }
}

fn of_signed(number: i32) -> Scalar<'static> {
    u64::try_from(number).map_or(Scalar::Real(number.into()), Scalar::Whole)
}

/// Returns the double that has the same decimal text as the float. For example, 52.52_f32 becomes 52.52, not 52.52000045776367.
fn of_float(number: f32) -> Scalar<'static> {
    Scalar::Real(number.to_string().parse().unwrap_or(f64::from(number)))
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    #[inline]
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(text))
    }

    #[inline]
    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Whole(number))
    }

    fn visit_u128<E: Error>(self, number: u128) -> Result<Self::Value, E> {
        Ok(of_token(Token::Unsigned(number)))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(i32::try_from(number).map_or(Scalar::Other, of_signed))
    }

    fn visit_f32<E: Error>(self, number: f32) -> Result<Self::Value, E> {
        Ok(of_float(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Real(number))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    // The members of the map are not read. This is safe, because the decoder does not read anything after the map either.
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asn_may_be_number_or_text() {
        for (value, asn) in [
            (Scalar::Whole(15169), Some(15169)),
            (Scalar::Whole(u32::MAX.into()), Some(u32::MAX)),
            (Scalar::Whole(1 << 32), None),
            (Scalar::Whole(0), None),
            (Scalar::Text("AS15169"), Some(15169)),
            (Scalar::Text("as15169"), Some(15169)),
            (Scalar::Text("15169"), Some(15169)),
            (Scalar::Text("AS15169 Google LLC"), Some(15169)),
            (Scalar::Text("AS4294967295"), Some(u32::MAX)),
            (Scalar::Text("AS4294967296"), None),
            (Scalar::Text("AS0"), None),
            (Scalar::Text("AS+1"), None),
            (Scalar::Text("AS-1"), None),
            (Scalar::Text("AS"), None),
            (Scalar::Text("ASé"), None),
            (Scalar::Text("é1"), None),
            (Scalar::Text(""), None),
            (Scalar::Text("Google"), None),
            (Scalar::Real(15169.0), None),
            (Scalar::Other, None),
        ] {
            assert_eq!(value.asn(), asn, "{value:?}");
        }
    }

    #[test]
    fn a_country_is_two_ascii_letters() {
        for (text, country) in [
            ("GB", Some(*b"GB")),
            ("gb", Some(*b"GB")),
            ("", None),
            ("G", None),
            ("GBR", None),
            ("G1", None),
            ("é", None),
            ("--", None),
            ("\0\0", None),
        ] {
            assert_eq!(Scalar::Text(text).country(), country, "{text:?}");
        }
        assert_eq!(Scalar::Whole(1).country(), None);
    }

    #[test]
    fn a_coordinate_is_finite_and_in_range() {
        for (value, degrees) in [
            (Scalar::Real(51.5), Some(51.5)),
            (Scalar::Real(0.0), Some(0.0)),
            (Scalar::Real(-90.0), Some(-90.0)),
            (Scalar::Real(90.1), None),
            (Scalar::Real(f64::NAN), None),
            (Scalar::Real(f64::INFINITY), None),
            (Scalar::Text("37.38605"), Some(37.38605)),
            (Scalar::Text("inf"), None),
            (Scalar::Text("NaN"), None),
            (Scalar::Text("north"), None),
            (Scalar::Whole(7), Some(7.0)),
            (of_signed(-7), Some(-7.0)),
            (of_float(52.52), Some(52.52)),
            (of_float(f32::NAN), None),
            (Scalar::Other, None),
        ] {
            assert_eq!(value.coordinate(90.0), degrees, "{value:?}");
        }
    }
}
