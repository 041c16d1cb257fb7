//! Parses bulk responses and assigns their rows to the requested addresses.
//!
//! ```text
//! answer   = *( line LF )
//! line     = bulk / headings / row / short / error / comment / ""      ; a CR before the LF is dropped
//! bulk     = "Bulk mode; whois.cymru.com [" date time zone "]"
//! headings = "AS" *blank "|" *blank "IP" *( "|" text )                 ; sent in bulk mode on request only
//! row      = numbers "|" ip "|" prefix "|" country "|" registry "|" date "|" name
//! short    = numbers "|" ip "|" name                                   ; without `verbose`
//! error    = "Error: no ASN or IP match on line " number "."           ; `begin` is line 1
//! comment  = ( "#" / "%" / ";" ) text
//! ```
//!
//! The fields of a row are padded with blanks. The name is all text after the sixth "|". An example:
//!
//! ```text
//! 23028   | 216.90.108.31    | 216.90.108.0/24     | US | arin     | 1998-09-25 | TEAM-CYMRU, US
//! ```
//!
//! Source: Team Cymru's page "IP to ASN mapping", <https://www.team-cymru.com/ip-asn-mapping>, and captured responses.
//!
//! The parser reads only complete lines. Rows may arrive in any order, before or after error lines. The parser assigns
//! a row to a request by the address in the row, and not by the position of the row. It stores at most one line, and
//! the result for each requested address, so its memory is limited for any input.

use super::super::route::{Candidates, Fields};
use super::super::{Anomalies, RouteAnswer};
use super::lines::{self, Lines};
use crate::address::{self, Address};
use std::collections::BTreeMap;

/// Parses a response in pieces of any size.
pub struct Parser {
    lines: Lines,
    rows: Rows,
}

struct Rows {
    /// Requested addresses, in the order of the request.
    asked: Vec<Address>,
    found: BTreeMap<Address, Candidates>,
    anomalies: Anomalies,
}

/// The contents of a response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// Answers for requested addresses only.
    pub answers: BTreeMap<Address, RouteAnswer>,
    pub anomalies: Anomalies,
    /// True if the response ended in the middle of a line. The incomplete line was dropped.
    pub incomplete: bool,
}

impl Parser {
    /// `asked` contains distinct addresses in the order of the request.
    pub fn new(asked: &[Address]) -> Self {
        Self {
            lines: Lines::default(),
            rows: Rows {
                asked: asked.to_vec(),
                found: asked.iter().map(|address| (*address, Candidates::default())).collect(),
                anomalies: Anomalies::default(),
            },
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { lines, rows } = self;
        lines.feed(bytes, |line| rows.read_line(line));
    }

    pub fn finish(self) -> Parsed {
        let Rows { found, mut anomalies, .. } = self.rows;
        anomalies.oversized = self.lines.oversized;
        let answers =
            found.into_iter().filter_map(|(address, found)| Some((address, found.answer()?))).collect();
        Parsed { answers, anomalies, incomplete: self.lines.is_incomplete() }
    }
}

impl Rows {
    fn read_line(&mut self, line: &[u8]) {
        if lines::is_error(line) {
            self.read_error(line);
        } else {
            self.read_row(line);
        }
    }

    fn read_row(&mut self, line: &[u8]) {
        let fields: Vec<&[u8]> = line.splitn(7, |byte| *byte == b'|').map(<[u8]>::trim_ascii).collect();
        let (ip, fields) = match fields[..] {
            [b"AS", b"IP", ..] => return,
            [numbers, ip, prefix, country, registry, date, name] => {
                (ip, Fields { numbers, prefix, country, registry, date, name })
            }
            [numbers, ip, name] => (ip, Fields { numbers, name, ..Fields::default() }),
            _ => return self.anomalies.malformed += 1,
        };
        let Ok(Some(address)) = address::parse_bytes(ip) else {
            return self.anomalies.malformed += 1;
        };
        let Some(found) = self.found.get_mut(&address) else {
            return self.anomalies.foreign += 1;
        };
        match fields.read(address) {
            Some(row) => found.add(row),
            None => self.anomalies.malformed += 1,
        }
    }

    fn read_error(&mut self, line: &[u8]) {
        let address = lines::question_of_error(line).and_then(|question| self.asked.get(question));
        match address.and_then(|address| self.found.get_mut(address)) {
            Some(found) => found.refuse(lines::message(line)),
            None => self.anomalies.malformed += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Registry, Route};
    use super::super::lines::LONGEST_LINE;
    use super::*;
    use crate::prefix::Prefix;
    use proptest::prelude::*;

    fn host(text: &str) -> Address {
        Address::new(text.parse().unwrap())
    }

    /// The requested addresses: 8.8.8.8, 1.1.1.1 and 2001:4860:4860::8888, in this order.
    fn asked() -> [Address; 3] {
        ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888"].map(host)
    }

    fn parse(answer: impl AsRef<[u8]>) -> Parsed {
        let mut parser = Parser::new(&asked());
        parser.feed(answer.as_ref());
        parser.finish()
    }

    fn route(answer: impl AsRef<[u8]>) -> Route {
        match parse(answer).answers.remove(&host("8.8.8.8")) {
            Some(RouteAnswer::Route(route)) => route,
            other => panic!("{other:?}"),
        }
    }

    /// Asserts that the line gives no answer. Returns the anomalies that the parser counted for the line.
    fn dropped(line: impl AsRef<[u8]>) -> Anomalies {
        let parsed = parse([line.as_ref(), b"\n"].concat());
        assert_eq!(parsed.answers, BTreeMap::new(), "{}", String::from_utf8_lossy(line.as_ref()));
        parsed.anomalies
    }

    const MALFORMED: Anomalies = Anomalies { foreign: 0, malformed: 1, oversized: 0 };
    const FOREIGN: Anomalies = Anomalies { foreign: 1, malformed: 0, oversized: 0 };
    const OVERSIZED: Anomalies = Anomalies { foreign: 0, malformed: 0, oversized: 1 };

    #[test]
    fn row_is_read_with_all_fields() {
        let route = route(
            "15169   | 8.8.8.8          | 8.8.8.0/24          | US | arin     | 2023-12-28 | GOOGLE, US\n",
        );
        let expected = Route {
            asn: 15169,
            prefix: Prefix::parse("8.8.8.0/24"),
            country: Some(*b"US"),
            registry: Some(Registry::Arin),
            allocated: Some("2023-12-28".into()),
            name: Some("GOOGLE, US".into()),
            origins: vec![],
        };
        assert_eq!(route, expected);
    }

    #[test]
    fn whole_answer_is_read() {
        let parsed = parse(
            "Bulk mode; whois.cymru.com [2026-11-20 06:00:00 +0000]\r\n\
             Error: no ASN or IP match on line 4.\r\n\
             \r\n\
             # a comment\r\n\
             AS      | IP               | BGP Prefix          | CC | Registry | Allocated  | AS Name\r\n\
             NA      | 2001:4860:4860:0:0:0:0:8888 | NA | US | other |  | NA\r\n\
             15169   | 8.8.8.8          | 8.8.8.0/24          | US | arin     | 2023-12-28 | GOOGLE, US\r\n",
        );
        assert_eq!(parsed.anomalies, Anomalies::default());
        assert!(!parsed.incomplete);
        assert_eq!(parsed.answers.len(), 3);
        assert_eq!(
            parsed.answers[&host("1.1.1.1")],
            RouteAnswer::Refused("Error: no ASN or IP match on line 4.".into())
        );
        assert_eq!(parsed.answers[&host("2001:4860:4860::8888")], RouteAnswer::Absent);
        assert!(matches!(&parsed.answers[&host("8.8.8.8")], RouteAnswer::Route(route) if route.asn == 15169));
    }

    #[test]
    fn short_row_has_a_number_and_a_name() {
        let parsed = parse("AS | IP | AS Name\n15169 | 8.8.8.8 | GOOGLE, US\n");
        assert_eq!(parsed.anomalies, Anomalies::default());
        let RouteAnswer::Route(route) = &parsed.answers[&host("8.8.8.8")] else { panic!() };
        assert_eq!((route.asn, route.prefix, route.name.as_deref()), (15169, None, Some("GOOGLE, US")));
    }

    #[test]
    fn address_is_compared_as_an_address() {
        for text in ["2001:4860:4860::8888", "2001:4860:4860:0000:0:0:0:8888", "2001:4860:4860:0:0::8888"] {
            let parsed = parse(format!("15169 | {text} | 2001:4860::/32 | US | arin | | GOOGLE\n"));
            assert!(parsed.answers.contains_key(&host("2001:4860:4860::8888")), "{text}");
        }
        assert_eq!(route("15169 | ::FFFF:8.8.8.8 | 8.8.8.0/24 | US | arin | | GOOGLE\n").asn, 15169);
    }

    #[test]
    fn most_specific_prefix_wins_whatever_comes_last() {
        let rows = [
            "3 | 8.8.8.8 | 8.0.0.0/9 | US | arin | | THREE\n",
            "20 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | TWENTY\n",
            "10 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | TEN\n",
            "NA | 8.8.8.8 | NA | | | | NA\n",
            "2 | 8.8.8.8 | | US | arin | | TWO\n",
        ];
        for first in 0..rows.len() {
            let answer = [&rows[first..], &rows[..first]].concat().concat();
            let route = route(&answer);
            assert_eq!((route.asn, route.name.as_deref()), (10, Some("TEN")), "{answer}");
            assert_eq!(route.origins, [2, 3, 20]);
        }
    }

    #[test]
    fn row_of_several_numbers_is_the_lowest_ones_route() {
        let route = route("36040 15169  36040 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | YOUTUBE, US\n");
        assert_eq!((route.asn, &route.origins[..]), (15169, &[36040][..]));
        // The row contains the name of network 36040.
        assert_eq!(route.name, None);
    }

    /// 23456 is AS_TRANS, and 64512 is for private use.
    #[test]
    fn network_is_no_bogon_if_another_network_announces_the_prefix() {
        for row in ["23456 197540", "197540 23456", "64512 197540 23456"] {
            let route = route(format!("{row} | 8.8.8.8 | 8.8.8.0/24 | DE | ripencc | | NETCUP\n"));
            assert_eq!(route.asn, 197540, "{row}");
            assert!(route.origins.contains(&23456), "{row}");
        }
        let rows = "64512 | 8.8.8.8 | 8.8.8.0/24 | | | | A\n197540 | 8.8.8.8 | 8.8.8.0/24 | | | | B\n";
        assert_eq!(route(rows).asn, 197540);
        assert_eq!(route("64512 | 8.8.8.8 | 8.8.8.0/24 | | | | A\n").asn, 64512);
    }

    #[test]
    fn origins_are_the_lowest_thirty_two() {
        let answer: String =
            (1..=600).rev().map(|asn| format!("{asn} | 8.8.8.8 | 8.8.8.0/24 | | | | N\n")).collect();
        let route = route(answer);
        assert_eq!((route.asn, route.origins), (1, (2..=33).collect()));
    }

    #[test]
    fn name_is_everything_after_the_sixth_bar() {
        let name = |text: &[u8]| {
            let line = [&b"1 | 8.8.8.8 | 8.8.8.0/24 | US | arin | 2023-12-28 | "[..], text, b"\n"].concat();
            route(line).name
        };
        assert_eq!(name(b"A | B, C || D, US").as_deref(), Some("A | B, C || D, US"));
        assert_eq!(
            name(b"Telef\xf3nica\0de \x07Espa\xc3\xb1a, ES").as_deref(),
            Some("Telef\u{fffd}nicade España, ES")
        );
        assert_eq!(name(b"NA"), None);
        assert_eq!(name(b""), None);
    }

    #[test]
    fn what_only_decorates_is_dropped_alone() {
        let route = route("1 | 8.8.8.8 | 8.8.8.0/24 | 12 | other | 2023-02-30 |\n");
        assert_eq!((route.asn, route.country, route.registry), (1, None, None));
        assert_eq!((route.allocated, route.name), (None, None));
    }

    #[test]
    fn rows_that_make_no_sense_are_counted() {
        for line in [
            "0 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | N",
            "4294967296 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | N",
            "15169 4294967296 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | N",
            "NA 15169 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | N",
            "-1 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | N",
            " | 8.8.8.8 | 8.8.8.0/24 | US | arin | | N",
            "15169\0 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | N",
            "15169 | 8.8.8.8 | 8.8.4.0/24 | US | arin | | N",
            "15169 | 8.8.8.8 | 8.8.8.0/33 | US | arin | | N",
            "15169 | 8.8.8.8 | 8.8.8.0 | US | arin | | N",
            "15169 | 8.8.8.8 | ::/0 | US | arin | | N",
            "15169 | 8.8.8.8 | garbage | US | arin | | N",
            "15169 | 8.8.8 | 8.8.8.0/24 | US | arin | | N",
            "15169 | | 8.8.8.0/24 | US | arin | | N",
            "15169 | 8.8.8.8 | 8.8.8.0/24 | US | arin",
            "15169 | US | arin | 2000-03-30 | GOOGLE, US",
            "15169 | 8.8.8.8",
            "HTTP/1.1 400 Bad Request",
            "|",
            "Error: something else",
            "Error: no ASN or IP match on line x.",
            "Error: no ASN or IP match on line +3.",
            "Error: no ASN or IP match on line .",
            "Error: no ASN or IP match on line 0.",
            "Error: no ASN or IP match on line 2.",
            "Error: no ASN or IP match on line 6.",
            "Error: no ASN or IP match on line 99999999999999999999999.",
        ] {
            assert_eq!(dropped(line), MALFORMED, "{line}");
        }
        assert_eq!(dropped(b"\xff\xfe\x00\x01"), MALFORMED);
    }

    #[test]
    fn rows_of_other_people_are_counted() {
        for line in [
            "15169 | 8.8.4.4 | 8.8.4.0/24 | US | arin | | GOOGLE",
            "NA | 8.8.4.4 | NA | | | | NA",
            "15169 | 2001:4860:4860::8844 | 2001:4860::/32 | US | arin | | GOOGLE",
        ] {
            assert_eq!(dropped(line), FOREIGN, "{line}");
        }
    }

    #[test]
    fn error_lines_count_from_begin() {
        for (line, address) in [(3, "8.8.8.8"), (4, "1.1.1.1"), (5, "2001:4860:4860::8888")] {
            let parsed = parse(format!("Error: no ASN or IP match on line {line}.\n"));
            assert_eq!(parsed.answers.keys().collect::<Vec<_>>(), [&host(address)]);
        }
        let both = "Error: no ASN or IP match on line 3.\n1 | 8.8.8.8 | 8.8.8.0/24 | | | | N\n";
        assert_eq!(route(both).asn, 1);
    }

    #[test]
    fn line_without_its_end_does_not_count() {
        let parsed =
            parse("NA | 1.1.1.1 | NA | | | | NA\n15169 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | GOOGLE");
        assert!(parsed.incomplete);
        assert_eq!(parsed.answers.keys().collect::<Vec<_>>(), [&host("1.1.1.1")]);
        assert!(!parse("").incomplete);
    }

    #[test]
    fn too_long_a_line_is_dropped_and_the_next_is_read() {
        let start = "1 | 8.8.8.8 | 8.8.8.0/24 | US | arin | | ";
        let longest = format!("{start}{}\n", "x".repeat(LONGEST_LINE - start.len()));
        assert_eq!(route(&longest).asn, 1);
        assert_eq!(dropped(format!("{start}{}", "x".repeat(LONGEST_LINE + 1 - start.len()))), OVERSIZED);

        let parsed = parse(format!("{}\n{longest}", "x".repeat(10_000_000)));
        assert_eq!((parsed.answers.len(), parsed.anomalies), (1, OVERSIZED));
        assert!(parse("x".repeat(10_000_000)).incomplete);
    }

    #[test]
    fn memory_does_not_grow_with_the_answer() {
        let mut parser = Parser::new(&asked());
        let mut asn = 0;
        for _ in 0..2_000 {
            let rows: String = (0..20)
                .map(|_| {
                    asn += 1;
                    format!("{asn} | 8.8.8.8 | 8.8.8.0/24 | | | | {}\n", "n".repeat(1000))
                })
                .collect();
            parser.feed(rows.as_bytes());
            parser.feed(&[b'x'; 10_000]);
            assert!(parser.lines.capacity() <= 2 * LONGEST_LINE);
            parser.feed(b"\n");
        }
        let parsed = parser.finish();
        assert_eq!((parsed.answers.len(), parsed.anomalies.oversized), (1, 2_000));
    }

    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let number = prop_oneof![
            4 => (1..50_u32).prop_map(|asn| asn.to_string()),
            1 => "NA|0|4294967296|1 2 3| |[0-9 ]{1,12}",
        ];
        let ip = prop_oneof![
            "8\\.8\\.8\\.8",
            "1\\.1\\.1\\.1",
            "9\\.9\\.9\\.9",
            "2001:4860:4860:0:0:0:0:8888",
            "[0-9.:]{0,8}"
        ];
        let prefix = prop_oneof![
            "8\\.8\\.(8\\.)?0/(16|24)",
            "1\\.1\\.0\\.0/16",
            "2001:4860::/32",
            "NA",
            "",
            "[0-9./]{0,12}"
        ];
        let rest = " \\| (US|)\\|(arin|other)\\|(2020-01-01|)\\|[A-Z|, ]{0,12}";
        prop_oneof![
            8 => (number, ip, prefix, rest).prop_map(|(number, ip, prefix, rest)| {
                format!("{number} | {ip} | {prefix}{rest}").into_bytes()
            }),
            1 => (0..8_u32).prop_map(|line| format!("Error: no ASN or IP match on line {line}.").into_bytes()),
            1 => "(Bulk mode; x|AS \\| IP \\| AS Name|# x|)".prop_map(String::into_bytes),
            1 => (LONGEST_LINE - 5..LONGEST_LINE + 5).prop_map(|length| vec![b'x'; length]),
            1 => proptest::collection::vec(any::<u8>(), 0..80),
        ]
    }

    fn any_answer() -> impl Strategy<Value = Vec<u8>> {
        let line = (any_line(), prop_oneof![Just(&b"\n"[..]), Just(&b"\r\n"[..])]);
        (proptest::collection::vec(line, 0..12), any_line(), any::<bool>()).prop_map(|(lines, last, cut)| {
            let mut answer: Vec<u8> =
                lines.into_iter().flat_map(|(line, end)| [&line, end].concat()).collect();
            if cut {
                answer.extend(last);
            }
            answer
        })
    }

    proptest! {
        #[test]
        fn any_chunking_reads_the_same(answer in any_answer(), sizes in proptest::collection::vec(1..40_usize, 1..50)) {
            let mut parser = Parser::new(&asked());
            let mut rest = &answer[..];
            for size in sizes.iter().cycle() {
                let (chunk, after) = rest.split_at((*size).min(rest.len()));
                parser.feed(chunk);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(parser.finish(), parse(&answer));
        }

        #[test]
        fn no_answer_is_about_what_was_not_asked(answer in any_answer()) {
            crate::invariants::whois_answer(&answer);
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            crate::invariants::whois_answer(&bytes);
        }
    }
}
