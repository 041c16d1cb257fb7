//! Parses bulk responses about networks. Assigns each row to the requested AS number.
//!
//! ```text
//! answer   = *( line LF )
//! line     = bulk / headings / row / error / comment / ""              ; as in responses about addresses
//! headings = "AS" "|" "CC" "|" "Registry" "|" "Allocated" "|" "AS Name"
//! row      = number "|" country "|" registry "|" date "|" name         ; see `network`
//! error    = "Error: no ASN or IP match on line " number "."           ; `begin` is line 1
//! ```
//!
//! An example:
//!
//! ```text
//! 15169   | US | arin     | 2000-03-30 | GOOGLE, US
//! ```
//!
//! A row must have exactly five columns. Rows about addresses have seven columns. Some services that imitate the
//! protocol send such rows for networks too, so a row of seven columns counts as foreign. If the headings name other
//! columns, or the columns in another order, the parser ignores all rows after the headings. If two rows about a
//! network contradict each other, the parser ignores both.

use super::super::Anomalies;
use super::super::network::{COLUMNS, NetworkAnswer, NetworkCandidates, parse_row};
use super::lines::{self, Lines};
use std::collections::BTreeMap;

/// Columns of a row about an address.
const ADDRESS_COLUMNS: usize = 7;
const HEADINGS: [&str; COLUMNS] = ["AS", "CC", "Registry", "Allocated", "AS Name"];
/// Text in the error line that Team Cymru sends if the AS number is unknown.
const NO_MATCH: &str = "no ASN or IP match";

/// Parses a response in pieces of any size.
pub struct NetworkParser {
    lines: Lines,
    rows: Rows,
}

struct Rows {
    /// Requested AS numbers, in the order of the request.
    asked: Vec<u32>,
    found: BTreeMap<u32, NetworkCandidates>,
    anomalies: Anomalies,
    /// True if the headings of the response are not the headings of rows about networks.
    has_other_headings: bool,
}

/// The contents of a response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParsedNetworks {
    /// Answers for requested AS numbers only.
    pub answers: BTreeMap<u32, NetworkAnswer>,
    pub anomalies: Anomalies,
    /// True if the response ended in the middle of a line. The incomplete line was dropped.
    pub incomplete: bool,
}

impl NetworkParser {
    /// `asked` contains distinct AS numbers in the order of the request.
    pub fn new(asked: &[u32]) -> Self {
        Self {
            lines: Lines::default(),
            rows: Rows {
                asked: asked.to_vec(),
                found: asked.iter().map(|asn| (*asn, NetworkCandidates::default())).collect(),
                anomalies: Anomalies::default(),
                has_other_headings: false,
            },
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { lines, rows } = self;
        lines.feed(bytes, |line| rows.read_line(line));
    }

    pub fn finish(self) -> ParsedNetworks {
        let Rows { found, mut anomalies, .. } = self.rows;
        anomalies.oversized = self.lines.oversized;
        let answers = found.into_iter().filter_map(|(asn, found)| Some((asn, found.answer()?))).collect();
        ParsedNetworks { answers, anomalies, incomplete: self.lines.is_incomplete() }
    }
}

impl Rows {
    fn read_line(&mut self, line: &[u8]) {
        if lines::is_error(line) {
            return self.read_error(line);
        }
        let columns: Vec<&[u8]> = line.split(|byte| *byte == b'|').collect();
        if columns[0].trim_ascii() == b"AS" {
            return self.read_headings(&columns);
        }
        if columns.len() == ADDRESS_COLUMNS {
            return self.anomalies.foreign += 1;
        }
        let row = <[&[u8]; COLUMNS]>::try_from(columns).ok().filter(|_| !self.has_other_headings);
        let Some((asn, row)) = row.and_then(parse_row) else {
            return self.anomalies.malformed += 1;
        };
        match self.found.get_mut(&asn) {
            Some(found) => self.anomalies.malformed += u64::from(!found.add(row)),
            None => self.anomalies.foreign += 1,
        }
    }

    fn read_headings(&mut self, columns: &[&[u8]]) {
        let is_expected = columns.len() == HEADINGS.len()
            && columns
                .iter()
                .zip(HEADINGS)
                .all(|(column, expected)| column.trim_ascii() == expected.as_bytes());
        if !is_expected {
            self.has_other_headings = true;
            self.anomalies.malformed += 1;
        }
    }

    fn read_error(&mut self, line: &[u8]) {
        let asn = lines::question_of_error(line).and_then(|question| self.asked.get(question));
        let Some(found) = asn.and_then(|asn| self.found.get_mut(asn)) else {
            return self.anomalies.malformed += 1;
        };
        let message = lines::message(line);
        found.add_error(match message.contains(NO_MATCH) {
            true => NetworkAnswer::Absent,
            false => NetworkAnswer::Refused(message),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Network, Registry};
    use super::*;
    use proptest::prelude::*;

    const ASKED: [u32; 3] = [15169, 48666, 64500];
    const GOOGLE: &str = "15169   | US | arin     | 2000-03-30 | GOOGLE, US\n";
    const MAROSNET: &str = "48666   | RU | ripencc  | 2008-12-29 | AS-MAROSNET Moscow, Russia, RU\n";

    fn parse(answer: impl AsRef<[u8]>) -> ParsedNetworks {
        let mut parser = NetworkParser::new(&ASKED);
        parser.feed(answer.as_ref());
        parser.finish()
    }

    fn google() -> NetworkAnswer {
        NetworkAnswer::Network(Network {
            country: Some(*b"US"),
            registry: Some(Registry::Arin),
            allocated: Some("2000-03-30".into()),
            name: Some("GOOGLE, US".into()),
        })
    }

    /// Asserts that the lines give no answer. Returns two counts: the number of foreign lines and the number of
    /// malformed lines.
    fn dropped(lines: &str) -> (u64, u64) {
        let parsed = parse(lines);
        assert_eq!(parsed.answers, BTreeMap::new(), "{lines}");
        (parsed.anomalies.foreign, parsed.anomalies.malformed)
    }

    #[test]
    fn whole_answer_is_read() {
        let parsed = parse(format!(
            "Bulk mode; whois.cymru.com [2026-11-20 06:00:00 +0000]\r\n\
             Error: no ASN or IP match on line 5.\r\n\
             AS      | CC | Registry | Allocated  | AS Name\r\n\r\n{MAROSNET}{GOOGLE}{GOOGLE}"
        ));
        assert_eq!((parsed.anomalies, parsed.incomplete), (Anomalies::default(), false));
        assert_eq!(parsed.answers.len(), 3);
        assert_eq!(parsed.answers[&15169], google());
        assert_eq!(parsed.answers[&64500], NetworkAnswer::Absent);
        let NetworkAnswer::Network(marosnet) = &parsed.answers[&48666] else { panic!() };
        assert_eq!(marosnet.name.as_deref(), Some("AS-MAROSNET Moscow, Russia, RU"));
    }

    #[test]
    fn rows_of_another_shape_are_counted() {
        assert_eq!(dropped("15169 | 8.8.8.8 | 8.8.8.0/24 | US | arin | 2023-12-28 | GOOGLE, US\n"), (1, 0));
        // bgp.tools: seven columns, of which two are empty.
        assert_eq!(dropped("15169 |  |  | US | ARIN | 2000-03-30 | Google LLC\n"), (1, 0));
        assert_eq!(dropped("15169 | US | arin | 2000-03-30 | GOOGLE | US\n"), (0, 1));
        assert_eq!(dropped("15169 | US | arin | 2000-03-30\n"), (0, 1));
        assert_eq!(dropped("15169 | GOOGLE, US\n"), (0, 1));
        assert_eq!(dropped("15169\n"), (0, 1));
        assert_eq!(dropped("15169 | US | ar\n| in | 2000-03-30 | GOOGLE, US\n"), (0, 2));
    }

    #[test]
    fn networks_that_were_not_asked_are_foreign() {
        assert_eq!(dropped("13335 | US | arin | 2010-07-14 | CLOUDFLARENET, US\n"), (1, 0));
    }

    #[test]
    fn rows_after_other_headings_do_not_count() {
        for headings in [
            "AS | Registry | CC | Allocated | AS Name",
            "AS | IP | BGP Prefix | CC | Registry | Allocated | AS Name",
            "AS | CC | Registry | Allocated",
        ] {
            assert_eq!(dropped(&format!("{headings}\n{GOOGLE}")), (0, 2), "{headings}");
        }
    }

    #[test]
    fn rows_that_contradict_each_other_are_dropped() {
        let other = GOOGLE.replace("US |", "DE |");
        for rows in [[GOOGLE, &other], [&other, GOOGLE]] {
            assert_eq!(dropped(&rows.concat()), (0, 1));
        }
    }

    #[test]
    fn error_of_another_kind_is_a_refusal() {
        let parsed = parse("Error: too many queries on line 3.\nError: no ASN or IP match on line 9.\n");
        assert!(matches!(parsed.answers[&15169], NetworkAnswer::Refused(_)));
        assert_eq!((parsed.answers.len(), parsed.anomalies.malformed), (1, 1));
        let both = parse(format!("Error: no ASN or IP match on line 3.\n{GOOGLE}"));
        assert_eq!(both.answers[&15169], google());
    }

    #[test]
    fn line_without_its_end_does_not_count() {
        let parsed = parse(format!("{MAROSNET}{}", GOOGLE.trim_end()));
        assert!(parsed.incomplete);
        assert_eq!(parsed.answers.keys().collect::<Vec<_>>(), [&48666]);
    }

    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let row = (
            "(15169|48666|64500|13335|NA|AS1|)",
            "(US|DE|ZZ|usa|)",
            "(arin|ripencc|other|garbage|US|)",
            "(2000-03-30|2000-02-30|arin|)",
            "[A-Z, ]{0,9}",
        );
        prop_oneof![
            8 => row.prop_map(|(number, country, registry, date, name)| {
                format!("{number} | {country} | {registry} | {date} | {name}").into_bytes()
            }),
            1 => Just(b"15169 |  |  | US | arin | 2000-03-30 | G".to_vec()),
            1 => (0..8_u32).prop_map(|line| format!("Error: no ASN or IP match on line {line}.").into_bytes()),
            1 => "(Bulk mode; x|AS \\| CC \\| Registry \\| Allocated \\| AS Name|AS \\| IP|# x|)".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..60),
        ]
    }

    proptest! {
        #[test]
        fn any_answer_is_read_the_same_in_pieces(lines in proptest::collection::vec(any_line(), 0..12)) {
            crate::invariants::network_answer(&lines.join(&b"\n"[..]));
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            crate::invariants::network_answer(&bytes);
        }
    }
}
