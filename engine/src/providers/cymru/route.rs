//! Parses one row about a network, and chooses between several rows.
//!
//! A whois row and a DNS text have the same fields in the same form. This module parses both:
//!
//! ```text
//! numbers  = "NA" / number *( blank number )      ; AS numbers, several for a network with several origins
//! prefix   = "" / "NA" / address "/" length       ; the announced network
//! country  = "" / 2ALPHA                          ; where it is registered
//! registry = "" / "other" / "arin" / "ripencc" / "apnic" / "lacnic" / "afrinic"
//! date     = "" / YYYY-MM-DD
//! name     = *OCTET                               ; mostly, not always, UTF-8
//! ```
//!
//! If an essential field (number, address, prefix) is invalid, the parser drops the whole row. If an optional field
//! (country, registry, date, name) is invalid, the parser drops only this field.

use super::{Registry, RouteAnswer};
use crate::address::Address;
use crate::as_registry;
use crate::country;
use crate::mmdb::clean_name;
use crate::prefix::Prefix;
use crate::timestamp;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// The network that announces an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The ASN, from 1 to 4294967295.
    pub asn: u32,
    /// The announced prefix. It contains the requested address.
    pub prefix: Option<Prefix>,
    /// Country where the prefix is registered: an ISO 3166 alpha-2 code in capitals. The registries also use the codes
    /// `EU` and `AP`.
    pub country: Option<[u8; 2]>,
    pub registry: Option<Registry>,
    /// A calendar date, `YYYY-MM-DD`.
    pub allocated: Option<String>,
    /// Name of the network. It has no control characters and at most `mmdb::LONGEST_NAME` characters.
    pub name: Option<String>,
    /// AS numbers of the other networks that announce the address, at most `MOST_ORIGINS`. The numbers are in ascending
    /// order, and each number occurs once. `asn` is not included.
    pub origins: Vec<u32>,
}

/// Maximum number of other origins stored. The lowest ones are kept.
pub const MOST_ORIGINS: usize = 32;

impl Route {
    /// Returns the country where the network itself is registered. Team Cymru appends this country to the name of the
    /// network (`GOOGLE, US`). The code `ZZ` means that the country is unknown. If the name contains no country,
    /// returns the country of the prefix, which may be a different country.
    pub fn network_country(&self) -> Option<[u8; 2]> {
        let of_name = self.name.as_deref().and_then(|name| {
            let (_, code) = name.rsplit_once(", ")?;
            <[u8; 2]>::try_from(code.as_bytes()).ok().filter(|code| code.iter().all(u8::is_ascii_uppercase))
        });
        match of_name {
            Some(code) => country::code(&code),
            None => self.country,
        }
    }
}

/// The result of the rows received so far for one requested address. A row with a route takes precedence over a row
/// that says "absent". An "absent" row takes precedence over a refusal. So the order of the rows does not matter.
#[derive(Clone, Default, Debug)]
pub(super) struct Candidates {
    best: Option<Route>,
    /// The lowest AS numbers of all rows, at most `MOST_ORIGINS` + 1. One number more than `MOST_ORIGINS` is stored,
    /// because the number of the best row is removed later.
    numbers: BTreeSet<u32>,
    absent: bool,
    refused: Option<String>,
}

impl Candidates {
    /// Adds a row, and keeps the best route. The best route has the most specific prefix. If two prefixes have the same
    /// length, a route whose AS number is not a bogon is better, then the lower AS number, then the earlier row.
    pub(super) fn add(&mut self, row: Row) {
        match row {
            Row::Absent => self.absent = true,
            Row::Route { route, numbers } => {
                self.numbers.extend(numbers);
                while self.numbers.len() > MOST_ORIGINS + 1 {
                    self.numbers.pop_last();
                }
                let wins = |best: &Route| rank(&route) > rank(best);
                if self.best.as_ref().is_none_or(wins) {
                    self.best = Some(route);
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, words: String) {
        self.refused.get_or_insert(words);
    }

    pub(super) fn answer(self) -> Option<RouteAnswer> {
        if let Some(mut route) = self.best {
            route.origins =
                self.numbers.into_iter().filter(|asn| *asn != route.asn).take(MOST_ORIGINS).collect();
            return Some(RouteAnswer::Route(route));
        }
        if self.absent { Some(RouteAnswer::Absent) } else { self.refused.map(RouteAnswer::Refused) }
    }
}

/// Ranks a route. The greater rank wins.
fn rank(route: &Route) -> (Option<u8>, Reverse<(bool, u32)>) {
    (route.prefix.map(Prefix::length), Reverse(origin_order(route.asn)))
}

/// Returns a key by which the origins of a prefix are sorted. The first origin counts as the network of the address.
/// Bogons come last, because a private AS number or AS_TRANS does not identify a network.
fn origin_order(asn: u32) -> (bool, u32) {
    (as_registry::is_bogon(asn), asn)
}

/// One row of a response, parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Row {
    Absent,
    /// `numbers` contains the AS numbers of all networks of the row, including the network of `route`.
    Route {
        route: Route,
        numbers: Vec<u32>,
    },
}

/// The fields of a row as received.
#[derive(Clone, Copy, Default)]
pub(super) struct Fields<'a> {
    pub(super) numbers: &'a [u8],
    pub(super) prefix: &'a [u8],
    pub(super) country: &'a [u8],
    pub(super) registry: &'a [u8],
    pub(super) date: &'a [u8],
    pub(super) name: &'a [u8],
}

impl Fields<'_> {
    /// Returns `None` if the row is malformed.
    pub(super) fn read(&self, address: Address) -> Option<Row> {
        if is_absent(self.numbers) {
            return Some(Row::Absent);
        }
        let mut numbers = Vec::new();
        for number in self.numbers.split(u8::is_ascii_whitespace).filter(|number| !number.is_empty()) {
            numbers.push(parse_asn(number)?);
        }
        let first = *numbers.first()?;
        let asn = numbers.iter().copied().min_by_key(|asn| origin_order(*asn))?;
        let prefix = match self.prefix.trim_ascii() {
            b"" => None,
            text if is_absent(text) => None,
            text => Some(
                Prefix::parse(std::str::from_utf8(text).ok()?).filter(|prefix| prefix.contains(address))?,
            ),
        };
        let route = Route {
            asn,
            prefix,
            country: country::code(self.country),
            registry: std::str::from_utf8(self.registry).ok().and_then(Registry::parse),
            allocated: parse_date(self.date),
            // A row with several AS numbers has only one name. It is the name of the network that the row lists first.
            name: if asn == first { parse_name(self.name) } else { None },
            origins: Vec::new(),
        };
        Some(Row::Route { route, numbers })
    }
}

pub(super) fn is_absent(text: &[u8]) -> bool {
    text.trim_ascii().eq_ignore_ascii_case(b"NA")
}

/// Parses a number from 1 to 4294967295 without sign.
pub(super) fn parse_asn(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|asn| digits && *asn > 0)
}

/// If the text is a valid date, returns it as it was written, because a column of type date accepts this form.
fn parse_date(text: &[u8]) -> Option<String> {
    timestamp::parse_date(text.trim_ascii()).map(|date| date.to_string())
}

/// Returns a name as text. Invalid UTF-8 is replaced by U+FFFD. If the text is empty or "NA", returns `None`.
pub(super) fn parse_name(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let name = clean_name(text.trim()).trim().to_owned();
    (!name.is_empty() && !is_absent(name.as_bytes())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(asn: u32, prefix: &str, name: Option<&str>) -> Route {
        Route {
            asn,
            prefix: Prefix::parse(prefix),
            country: Some(*b"DE"),
            registry: None,
            allocated: None,
            name: name.map(str::to_owned),
            origins: Vec::new(),
        }
    }

    #[test]
    fn network_whose_name_ends_with_zz_has_no_country() {
        assert_eq!(route(64998, "9.9.4.0/22", Some("-Reserved AS-, ZZ")).network_country(), None);
    }

    #[test]
    fn country_of_the_network_is_the_one_its_name_ends_with() {
        for (name, country) in [
            (Some("GOOGLE, US"), b"US"),
            (Some("A, B, FR"), b"FR"),
            (Some("ACME-AS Acme, Inc., US"), b"US"),
            (Some("Acme, Inc."), b"DE"),
            (Some("Acme, us"), b"DE"),
            (Some("Acme,US"), b"DE"),
            (Some("Acme, USA"), b"DE"),
            (Some(", é"), b"DE"),
            (Some(""), b"DE"),
            (None, b"DE"),
            (Some("ACME ZZ"), b"DE"),
        ] {
            assert_eq!(route(1, "8.8.8.0/24", name).network_country().as_ref(), Some(country), "{name:?}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for date in ["1998-09-25", "2000-02-29", "2024-02-29", "0001-01-01", "9999-12-31", " 1998-09-25 "] {
            assert_eq!(parse_date(date.as_bytes()).as_deref(), Some(date.trim()), "{date}");
        }
        for date in [
            "",
            "NA",
            "1998-9-25",
            "1998-00-25",
            "1998-13-01",
            "1998-09-31",
            "1998-09-00",
            "1900-02-29",
            "2023-02-29",
            "0000-01-01",
            "19980925",
            "1998/09/25",
            "1998-09-25 ",
            "1998-09-25T00",
            "+998-09-25",
            "1998-0\u{669}-1",
        ] {
            assert_eq!(parse_date(format!("x{date}").as_bytes()), None, "x{date}");
            if date.trim() == date {
                assert_eq!(parse_date(date.as_bytes()), None, "{date}");
            }
        }
    }

    #[test]
    fn numbers_are_those_a_network_can_have() {
        assert_eq!(parse_asn(b"1"), Some(1));
        assert_eq!(parse_asn(b" 4294967295 "), Some(u32::MAX));
        for text in ["", "0", "4294967296", "-1", "+1", "AS1", "1.1", "99999999999999999999", "1\0"] {
            assert_eq!(parse_asn(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn names_are_fit_to_be_stored() {
        assert_eq!(parse_name(b" TEAM-CYMRU, US ").as_deref(), Some("TEAM-CYMRU, US"));
        assert_eq!(parse_name(b"Telef\xf3nica\0 \x1b[31m").as_deref(), Some("Telef\u{fffd}nica [31m"));
        assert_eq!(parse_name(&[b'x'; 3000]).map(|name| name.len()), Some(256));
        for nothing in [&b""[..], b"  ", b"\0\0", b"NA", b"\x01 \x02"] {
            assert_eq!(parse_name(nothing), None, "{nothing:?}");
        }
    }

    fn rows() -> impl Strategy<Value = Vec<(Vec<u32>, u8)>> {
        proptest::collection::vec((proptest::collection::vec(1..60_u32, 1..8), 8..=24_u8), 0..30)
    }

    fn row(numbers: &[u32], length: u8) -> Row {
        let asn = numbers.iter().copied().min().unwrap();
        let route = route(asn, &format!("8.8.8.8/{length}"), None);
        Row::Route { route, numbers: numbers.to_vec() }
    }

    proptest! {
        #[test]
        fn most_specific_then_lowest_wins_in_any_order(rows in rows(), absent in 0..3_usize, turn in 0..30_usize) {
            let mut candidates = Candidates::default();
            candidates.refuse("no".into());
            let split = turn.min(rows.len());
            for (numbers, length) in rows[split..].iter().chain(&rows[..split]) {
                candidates.add(row(numbers, *length));
            }
            for _ in 0..absent {
                candidates.add(Row::Absent);
            }
            let winner = rows
                .iter()
                .map(|(numbers, length)| (*length, std::cmp::Reverse(*numbers.iter().min().unwrap())))
                .max();
            match (candidates.answer(), winner) {
                (Some(RouteAnswer::Route(route)), Some((length, std::cmp::Reverse(asn)))) => {
                    prop_assert_eq!((route.prefix.unwrap().length(), route.asn), (length, asn));
                    let all: BTreeSet<u32> = rows.iter().flat_map(|(numbers, _)| numbers.clone()).collect();
                    let others: Vec<u32> =
                        all.into_iter().filter(|other| *other != asn).take(MOST_ORIGINS).collect();
                    prop_assert_eq!(route.origins, others);
                }
                (Some(RouteAnswer::Absent), None) => prop_assert!(absent > 0),
                (Some(RouteAnswer::Refused(_)), None) => prop_assert_eq!(absent, 0),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
