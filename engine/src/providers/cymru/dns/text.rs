//! Parses TXT records.
//!
//! ```text
//! origin = numbers "|" prefix "|" country "|" registry "|" date
//! name   = number "|" country "|" registry "|" date "|" name
//! ```
//!
//! Examples from Team Cymru's page "IP to ASN mapping", <https://www.team-cymru.com/ip-asn-mapping>:
//!
//! ```text
//! 23028 | 216.90.108.0/24 | US | arin | 1998-09-25
//! 23028 | US | arin | 2002-01-04 | TEAM-CYMRU - Team Cymru Inc.,US
//! ```
//!
//! Some resolvers return a text of their own for every name. So a text about another address or another network counts
//! as malformed.

use super::super::network::{COLUMNS, NetworkAnswer, parse_row};
use super::super::route::{Fields, Row, parse_asn, parse_name};
use crate::address::Address;

/// Parses a text about an address. Returns `None` if the text is malformed. If the text names a network, it must also
/// contain a prefix, because only the prefix proves that the text is about this address.
pub(super) fn origin(text: &[u8], address: Address) -> Option<Row> {
    let fields: Vec<&[u8]> = text.split(|byte| *byte == b'|').collect();
    let [numbers, prefix, country, registry, date] = fields[..] else {
        return None;
    };
    let row = Fields { numbers, prefix, country, registry, date, name: b"" }.read(address)?;
    let proven = match &row {
        Row::Absent => true,
        Row::Route { route, .. } => route.prefix.is_some(),
    };
    proven.then_some(row)
}

/// Parses a text about a network. Returns `None` if the text is malformed, and `Some(None)` if the network has no name.
pub(super) fn name(text: &[u8], asn: u32) -> Option<Option<String>> {
    let fields: Vec<&[u8]> = text.splitn(5, |byte| *byte == b'|').collect();
    let [number, _, _, _, name] = fields[..] else {
        return None;
    };
    (parse_asn(number) == Some(asn)).then(|| parse_name(name))
}

/// Returns the facts about a network. Returns `None` if the text is malformed or about another network.
pub(super) fn network(text: &[u8], asn: u32) -> Option<NetworkAnswer> {
    let columns: Vec<&[u8]> = text.split(|byte| *byte == b'|').collect();
    let (number, answer) = parse_row(<[&[u8]; COLUMNS]>::try_from(columns).ok()?)?;
    (number == asn).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(text: &str) -> Address {
        Address::new(text.parse().unwrap())
    }

    #[test]
    fn documented_lines_are_read() {
        let row = origin(b"23028 | 216.90.108.0/24 | US | arin | 1998-09-25", host("216.90.108.31"));
        let Some(Row::Route { route, numbers }) = row else { panic!() };
        assert_eq!(
            (route.asn, numbers, route.allocated.as_deref()),
            (23028, vec![23028], Some("1998-09-25"))
        );
        assert_eq!(
            name(b"23028 | US | arin | 2002-01-04 | TEAM-CYMRU - Team Cymru Inc.,US", 23028),
            Some(Some("TEAM-CYMRU - Team Cymru Inc.,US".into()))
        );
    }

    #[test]
    fn odd_names_are_read() {
        assert_eq!(name(b"1 | | | | A | B, US", 1), Some(Some("A | B, US".into())));
        assert_eq!(name(b"1 | US | arin | |", 1), Some(None));
        assert_eq!(name(b"1 | US | arin | | A", 2), None);
        assert_eq!(name(b"A", 1), None);
    }

    #[test]
    fn facts_are_those_of_the_network_that_was_asked() {
        let text = b"23028 | US | arin | 2002-01-04 | TEAM-CYMRU, US";
        let Some(NetworkAnswer::Network(found)) = network(text, 23028) else { panic!() };
        assert_eq!((found.country, found.allocated.as_deref()), (Some(*b"US"), Some("2002-01-04")));
        assert_eq!(found.name.as_deref(), Some("TEAM-CYMRU, US"));
        assert_eq!(network(b"23028 | | | | ", 23028), Some(NetworkAnswer::Absent));
        assert_eq!(network(text, 23029), None);
        assert_eq!(network(b"23028 | 216.90.108.0/24 | US | arin | 1998-09-25", 23028), None);
        assert_eq!(network(b"23028 | | | US | arin | 2002-01-04 | TEAM-CYMRU", 23028), None);
    }

    #[test]
    fn absent_needs_no_prefix() {
        assert_eq!(origin(b"NA | NA | | other |", host("8.8.8.8")), Some(Row::Absent));
        assert_eq!(origin(b"1 | NA | | other |", host("8.8.8.8")), None);
    }

    proptest! {
        #[test]
        fn invariants_hold_for_any_text(text in "[0-9 ]{1,12}\\|( NA |8.8.8.8/[0-9]{1,2}|.{0,12})\\|.{0,4}\\|.{0,8}\\|.{0,12}") {
            crate::invariants::dns_message(text.as_bytes());
        }
    }
}
