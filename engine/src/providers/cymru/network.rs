//! Parses one row about a network. The request contained the AS number of the network.
//!
//! A whois row and a DNS text have the same five fields in the same form. This module parses both:
//!
//! ```text
//! row      = number "|" country "|" registry "|" date "|" name
//! number   = the AS number, without "AS"
//! country  = "" / 2ALPHA                          ; where the network is registered; ZZ means unknown
//! registry = "" / word                            ; "arin" / "ripencc" / "apnic" / "lacnic" / "afrinic" / others
//! date     = "" / YYYY-MM-DD                      ; of the allocation
//! name     = *OCTET                               ; with commas; ends with ", " and the country
//! ```
//!
//! The request contained the AS number of a row, but not the values of the other fields. If these values are in a wrong
//! order, the row can still look valid. So the parser drops a row if any field does not have the form of its column.
//! Rows about addresses have seven columns, so the parser cannot mistake them for rows about networks.

use super::Registry;
use super::route::{is_absent, parse_asn, parse_name};
use crate::country;
use crate::timestamp;

/// Facts about a network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Network {
    /// Country where the network is registered: an ISO 3166 alpha-2 code in capitals. The registries also use the codes
    /// `EU` and `AP`.
    pub country: Option<[u8; 2]>,
    pub registry: Option<Registry>,
    /// A calendar date, `YYYY-MM-DD`.
    pub allocated: Option<String>,
    /// Name of the network as received: `GOOGLE, US`.
    pub name: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetworkAnswer {
    Network(Network),
    /// No registry has allocated the AS number. This answer is stored, and its lifetime is limited.
    Absent,
    /// The provider did not accept the lookup. Contains its message.
    Refused(String),
}

/// Columns of a row.
pub(super) const COLUMNS: usize = 5;

/// If no registry has allocated an AS number, Team Cymru writes one of these texts instead of the name of a network.
const PLACEHOLDERS: [&str; 5] = ["-Reserved AS-", "-Private Use AS-", "NO_NAME", "AS-", "UNALLOCATED"];

/// Parses a row. Returns `None` if it is malformed.
pub(super) fn parse_row(columns: [&[u8]; COLUMNS]) -> Option<(u32, NetworkAnswer)> {
    let [number, country, registry, date, name] = columns.map(<[u8]>::trim_ascii);
    let asn = parse_asn(number)?;
    let network = Network {
        country: parse_country(country)?,
        registry: parse_registry(registry)?,
        allocated: parse_date(date)?,
        name: parse_network_name(name)?,
    };
    let is_unknown = network == Network::default();
    Some((asn, if is_unknown { NetworkAnswer::Absent } else { NetworkAnswer::Network(network) }))
}

fn parse_country(text: &[u8]) -> Option<Option<[u8; 2]>> {
    match text {
        b"" | b"NA" => Some(None),
        [first, second] if first.is_ascii_alphabetic() && second.is_ascii_alphabetic() => {
            Some(country::code(text))
        }
        _ => None,
    }
}

/// Parses the name of a registry. Returns `Some(None)` if the text is empty, or is a word that names no known registry.
/// Returns `None` for any other text, for example for a country code or a date.
fn parse_registry(text: &[u8]) -> Option<Option<Registry>> {
    let text = std::str::from_utf8(text).ok()?;
    let is_word = |text: &str| text.len() > 2 && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
    match Registry::parse(text) {
        None if !text.is_empty() && text != "NA" && !is_word(text) => None,
        registry => Some(registry),
    }
}

/// Parses a date. Returns `Some(None)` if the text is empty, is "NA", or is a date that does not exist in the calendar.
/// Returns `None` if the text does not have the form of a date.
fn parse_date(text: &[u8]) -> Option<Option<String>> {
    if text.is_empty() || is_absent(text) {
        return Some(None);
    }
    has_form_of_date(text).then(|| timestamp::parse_date(text).map(|date| date.to_string()))
}

fn has_form_of_date(text: &[u8]) -> bool {
    text.len() == 10
        && text.iter().enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// Refuses texts that belong in another column.
fn parse_network_name(text: &[u8]) -> Option<Option<String>> {
    let is_registry = std::str::from_utf8(text).is_ok_and(|text| Registry::parse(text).is_some());
    if is_registry || has_form_of_date(text) || text.len() == 2 && !is_absent(text) {
        return None;
    }
    let name = parse_name(text);
    Some(name.filter(|name| !PLACEHOLDERS.contains(&without_country(name).unwrap_or_default())))
}

/// Returns the name of a network without the country that Team Cymru appends to the name: `GOOGLE` for `GOOGLE, US`.
/// Returns `None` if the rest is empty.
pub fn without_country(name: &str) -> Option<&str> {
    let name = match name.rsplit_once(", ") {
        Some((rest, code)) if code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase()) => rest,
        _ => name,
    };
    Some(name.trim()).filter(|name| !name.is_empty())
}

/// The result of the rows received so far for one requested network.
#[derive(Clone, Default, Debug)]
pub(super) struct NetworkCandidates {
    answer: Option<NetworkAnswer>,
    refused: Option<NetworkAnswer>,
    /// True if two rows about the same network differ. In this case, no row about the network can be trusted.
    is_ambiguous: bool,
}

impl NetworkCandidates {
    /// Adds a row. Returns false if it contradicts an earlier one.
    pub(super) fn add(&mut self, row: NetworkAnswer) -> bool {
        match &self.answer {
            Some(earlier) if *earlier != row => self.is_ambiguous = true,
            _ => self.answer = Some(row),
        }
        !self.is_ambiguous
    }

    /// Adds an error of the provider. A row takes precedence.
    pub(super) fn add_error(&mut self, error: NetworkAnswer) {
        self.refused.get_or_insert(error);
    }

    pub(super) fn answer(self) -> Option<NetworkAnswer> {
        if self.is_ambiguous { None } else { self.answer.or(self.refused) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(row: &str) -> Option<(u32, NetworkAnswer)> {
        let columns: Vec<&[u8]> = row.split('|').map(str::as_bytes).collect();
        parse_row(columns.try_into().expect("five columns"))
    }

    fn network(row: &str) -> Network {
        match read(row) {
            Some((_, NetworkAnswer::Network(network))) => network,
            other => panic!("{row}: {other:?}"),
        }
    }

    #[test]
    fn captured_rows_are_read() {
        for (row, asn, country, registry, date, name) in [
            (
                "15169   | US | arin     | 2000-03-30 | GOOGLE, US",
                15169,
                b"US",
                "ARIN",
                "2000-03-30",
                "GOOGLE, US",
            ),
            (
                "12389 | RU | ripencc | 2005-07-01 | ROSTELECOM-AS, RU",
                12389,
                b"RU",
                "RIPE",
                "2005-07-01",
                "ROSTELECOM-AS, RU",
            ),
            (
                "48666 | RU | ripencc | 2008-12-29 | AS-MAROSNET Moscow, Russia, RU",
                48666,
                b"RU",
                "RIPE",
                "2008-12-29",
                "AS-MAROSNET Moscow, Russia, RU",
            ),
        ] {
            let (read, _) = read(row).unwrap();
            let found = network(row);
            assert_eq!(read, asn);
            assert_eq!((found.country, found.registry.map(Registry::name)), (Some(*country), Some(registry)));
            assert_eq!((found.allocated.as_deref(), found.name.as_deref()), (Some(date), Some(name)));
        }
    }

    #[test]
    fn unknown_values_are_none() {
        let found = network("64500 | ZZ | other | | SOME-AS, ZZ");
        assert_eq!((found.country, found.registry, found.allocated), (None, None, None));
        assert_eq!(found.name.as_deref(), Some("SOME-AS, ZZ"));
        assert_eq!(network("1 | | garbage | 2000-02-30 | A").name.as_deref(), Some("A"));
        assert_eq!(network("1 | us | RIPE | | ").country, Some(*b"US"));
    }

    #[test]
    fn network_without_any_value_is_absent() {
        for row in [
            "1 | | | | ",
            "1 | NA | NA | NA | NA",
            "1 | ZZ | other | | -Reserved AS-, ZZ",
            "1 | | | | -Private Use AS-, ZZ",
            "1 | | other | | NO_NAME",
            "1 | ZZ | | | AS-, ZZ",
        ] {
            assert_eq!(read(row), Some((1, NetworkAnswer::Absent)), "{row}");
        }
    }

    #[test]
    fn rows_with_fields_in_another_order_are_refused() {
        for row in [
            "15169 | arin | US | 2000-03-30 | GOOGLE, US",
            "15169 | US | 2000-03-30 | arin | GOOGLE, US",
            "15169 | US | arin | GOOGLE, US | 2000-03-30",
            "15169 | US | GOOGLE | 2000-03-30 | arin",
            "15169 | US | arin | 2000-03-30 | US",
            "15169 | GOOGLE, US | arin | 2000-03-30 | US",
            "15169 | 8.8.8.8 | arin | 2000-03-30 | GOOGLE, US",
            "15169 | US | 8.8.8.0/24 | 2000-03-30 | GOOGLE, US",
            "US | 15169 | arin | 2000-03-30 | GOOGLE, US",
            "AS15169 | US | arin | 2000-03-30 | GOOGLE, US",
            "NA | US | arin | 2000-03-30 | GOOGLE, US",
            "0 | US | arin | 2000-03-30 | GOOGLE, US",
            "4294967296 | US | arin | 2000-03-30 | GOOGLE, US",
            "15169 64500 | US | arin | 2000-03-30 | GOOGLE, US",
            "15169 | USA | arin | 2000-03-30 | GOOGLE, US",
            "15169 | US | arin | 2000-03 | GOOGLE, US",
        ] {
            assert_eq!(read(row), None, "{row}");
        }
    }

    #[test]
    fn country_at_the_end_of_a_name_is_removed() {
        for (name, rest) in [
            ("GOOGLE, US", Some("GOOGLE")),
            ("AS-MAROSNET Moscow, Russia, RU", Some("AS-MAROSNET Moscow, Russia")),
            ("ACME, Inc., US", Some("ACME, Inc.")),
            ("ACME, Inc.", Some("ACME, Inc.")),
            ("-Reserved AS-, ZZ", Some("-Reserved AS-")),
            ("ACME, us", Some("ACME, us")),
            ("ACME,US", Some("ACME,US")),
            (" , US", None),
        ] {
            assert_eq!(without_country(name), rest, "{name}");
        }
    }

    #[test]
    fn rows_that_differ_give_no_answer() {
        let row =
            |name: &str| NetworkAnswer::Network(Network { name: Some(name.into()), ..Network::default() });
        let mut same = NetworkCandidates::default();
        assert!(same.add(row("A")) && same.add(row("A")));
        assert_eq!(same.answer(), Some(row("A")));
        let mut different = NetworkCandidates::default();
        assert!(different.add(row("A")) && !different.add(row("B")) && !different.add(row("A")));
        assert_eq!(different.answer(), None);
    }
}
