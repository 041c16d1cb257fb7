//! Types of addresses, such as VPN or TOR. This module defines the precedence of the types and the maximum ages of lists.
//!
//! | file | holds |
//! |---|---|
//! | `max_age` | reads the maximum ages of lists from the text of a setting |
//!
//! [`crate::mmdb::types`] describes the types.

mod max_age;

pub use max_age::{DEFAULT_MAX_AGES, MaxAges};

/// Types in order of precedence. If an address has several types, only the first of them in this order is stored with a session.
/// The types at the beginning say most about an attacker who hides. Types that are not in this list come after all others.
const PRECEDENCE: [&str; 10] = [
    "VPN",
    "TOR",
    "RESIDENTIAL_PROXY",
    "PROXY",
    "RELAY",
    "ANONYMOUS",
    "SCANNER_BENIGN",
    "DATACENTER",
    "RESIDENTIAL",
    "MOBILE",
];

/// Returns the position of a type in the order of precedence. The first position is 0. All types that are not in `PRECEDENCE` have
/// the same last position.
pub fn rank(kind: &str) -> usize {
    PRECEDENCE.iter().position(|known| *known == kind).unwrap_or(PRECEDENCE.len())
}

/// Returns the type with the highest precedence. If none of the types is in `PRECEDENCE`, returns the first of them.
pub fn leading<'a>(types: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    types.into_iter().min_by_key(|kind| rank(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmdb::types::{BENIGN_SCANNER, is_type};

    #[test]
    fn the_first_type_in_the_order_leads() {
        for (types, expected) in [
            (&["DATACENTER", "VPN", "MINE"][..], Some("VPN")),
            (&["MINE", "OTHER"], Some("MINE")),
            (&["OTHER", "MOBILE"], Some("MOBILE")),
            (&["DATACENTER", "SCANNER_BENIGN"], Some("SCANNER_BENIGN")),
            (&["PROXY", "RESIDENTIAL_PROXY"], Some("RESIDENTIAL_PROXY")),
            (&[], None),
        ] {
            assert_eq!(leading(types.iter().copied()), expected, "{types:?}");
        }
    }

    #[test]
    fn all_types_in_the_order_are_types() {
        assert!(PRECEDENCE.iter().all(|kind| is_type(kind)));
        assert!(rank(BENIGN_SCANNER) < PRECEDENCE.len());
    }
}
