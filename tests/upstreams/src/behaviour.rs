//! The ways in which the bulk whois can answer, and the bytes of each answer.
//!
//! An answer of the real service, to `begin`, `verbose`, three addresses, `end`:
//!
//! ```text
//! Bulk mode; whois.cymru.com [2026-11-20 06:00:00 +0000]
//! 15169   | 8.8.8.8          | 8.8.8.0/24          | US | arin     | 2023-12-28 | GOOGLE, US
//! NA      | 192.0.2.1        | NA                  |    | other    |            | NA
//! Error: no ASN or IP match on line 5.
//! ```
//!
//! Without `verbose` a row has three columns: number, address, name. Rows about networks (`AS15169`) have other columns,
//! see `network_rows`. A request with addresses and networks gets rows of both forms.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::network_rows::{self, NetworkFault};
use crate::prefix::masked;
use crate::record::Connection;
use crate::routes::{Route, Routes};

/// The AS number in rows for addresses that were not requested. If it is stored, the client used such a row.
pub const FOREIGN_ASN: u64 = 64_500;

const BULK_LINE: &str = "Bulk mode; whois.cymru.com [2026-11-20 06:00:00 +0000]";
const HEADINGS: &str =
    "AS      | IP               | BGP Prefix          | CC | Registry | Allocated  | AS Name";

/// How one connection is answered.
#[derive(Clone)]
pub struct Behaviour {
    /// Time between the line `end` and the first byte of the answer.
    pub delay: Duration,
    pub bulk_line: bool,
    pub headings: bool,
    pub crlf: bool,
    pub fault: Option<Fault>,
}

#[derive(Clone)]
pub enum Fault {
    /// Reads the request, and sends nothing until the client leaves.
    Silent,
    /// Waits until `Whois::behave` is called again, and then answers as that call says.
    Held,
    /// One byte at a time.
    Drip { every: Duration },
    /// Sends the rows, and then an endless series of well-formed rows for addresses that were not requested.
    EndlessRows,
    /// Sends the rows, and then an endless line.
    EndlessLine,
    /// Closes the connection after this number of rows or, with `mid_row`, in the middle of the next row.
    CloseAfter { rows: usize, mid_row: bool },
    /// Closes without an answer as soon as this number of addresses was read, often with a reset. Smaller requests are
    /// answered.
    DropAfter { questions: usize },
    /// Sends a line of this number of bytes, and then the rows.
    LongLine(usize),
    /// Sends this number of arbitrary bytes instead of an answer.
    Garbage(usize),
    /// Sends a line of NUL bytes, and then rows with a NUL byte inside the name. Every second row also has a NUL byte
    /// inside the number.
    NulBytes,
    /// Bytes in each name that are not UTF-8.
    NotUtf8,
    /// Sends a row of `FOREIGN_ASN` for an address that was not requested. Each such row comes before a right row or,
    /// with `only`, replaces it.
    Foreign { only: bool },
    /// Every n-th question has no row.
    Missing { every: usize },
    /// The last question's row first.
    Reordered,
    /// IPv6 addresses in capitals and without `::`.
    OtherSpelling,
    /// The number 4294967296 in each row.
    AsnTooLarge,
    /// No route for anything.
    AllNa,
    /// Sends an error line for every n-th address, instead of its row. The error lines come before all rows.
    ErrorLines { every: usize },
    /// Sends three rows instead of each row:
    /// - a wider prefix, with the true number minus 1
    /// - the prefix, with two numbers: the true number plus 1, and the true number
    /// - the prefix, with the true number plus 2
    ///
    /// The most specific prefix and its lowest number are the true ones.
    MultiOrigin,
    /// Has this fault in each row about a network. Rows about addresses have no fault.
    Networks(NetworkFault),
    /// Sends these bytes instead of an answer, and then nothing until the client leaves.
    HangAfter(Vec<u8>),
    /// Sends the bytes that this function returns for the requested addresses.
    Custom(Arc<CustomAnswer>),
}

pub type CustomAnswer = dyn Fn(&[IpAddr]) -> Vec<u8> + Send + Sync;

impl Behaviour {
    /// Answers at once, as the real service does.
    pub fn normal() -> Behaviour {
        Behaviour { delay: Duration::ZERO, bulk_line: true, headings: false, crlf: false, fault: None }
    }

    #[must_use]
    pub fn delayed(self, delay: Duration) -> Behaviour {
        Behaviour { delay, ..self }
    }

    #[must_use]
    pub fn with_headings(self) -> Behaviour {
        Behaviour { headings: true, ..self }
    }

    #[must_use]
    pub fn without_bulk_line(self) -> Behaviour {
        Behaviour { bulk_line: false, ..self }
    }

    #[must_use]
    pub fn with_crlf(self) -> Behaviour {
        Behaviour { crlf: true, ..self }
    }
}

impl From<Fault> for Behaviour {
    fn from(fault: Fault) -> Behaviour {
        Behaviour { fault: Some(fault), ..Behaviour::normal() }
    }
}

impl Behaviour {
    /// Returns the bytes of the answer. The server implements delays and endless answers.
    pub(crate) fn answer(&self, routes: &Routes, request: &Connection) -> Vec<u8> {
        let questions = &request.questions;
        match &self.fault {
            Some(Fault::Garbage(bytes)) => return noise(*bytes),
            Some(Fault::HangAfter(bytes)) => return bytes.clone(),
            Some(Fault::Custom(answer)) => return answer(questions),
            _ => {}
        }
        let mut before: Vec<Vec<u8>> = Vec::new();
        if self.bulk_line {
            before.push(BULK_LINE.into());
        }
        if self.headings && (!questions.is_empty() || request.networks.is_empty()) {
            before.push(HEADINGS.into());
        }
        if self.headings && !request.networks.is_empty() {
            before.push(network_rows::headings(self.fault.as_ref()).into());
        }
        match self.fault {
            Some(Fault::LongLine(bytes)) => before.push(vec![b'x'; bytes]),
            Some(Fault::NulBytes) => before.push(vec![0; 40]),
            _ => {}
        }
        let mut rows: Vec<Vec<u8>> = Vec::new();
        for (nth, &question) in (1..).zip(questions) {
            match self.fault {
                Some(Fault::Missing { every }) if nth % every == 0 => continue,
                Some(Fault::ErrorLines { every }) if nth % every == 0 => {
                    before.push(no_match(request.line_of_address(question)));
                    continue;
                }
                Some(Fault::Foreign { only }) => {
                    rows.push(foreign_row(nth, questions, request.verbose));
                    if only {
                        continue;
                    }
                }
                _ => {}
            }
            rows.extend(
                self.rows_of(routes, question)
                    .into_iter()
                    .map(|row| self.spoilt(nth, row.bytes(request.verbose))),
            );
        }
        for (nth, &asn) in (1..).zip(&request.networks) {
            match self.fault {
                Some(Fault::Missing { every }) if nth % every == 0 => continue,
                Some(Fault::ErrorLines { every }) if nth % every == 0 => {
                    before.push(no_match(request.line_of_network(asn)));
                    continue;
                }
                Some(Fault::Foreign { only }) => {
                    rows.push(network_rows::foreign(nth, &request.networks));
                    if only {
                        continue;
                    }
                }
                _ => {}
            }
            let network = routes.by_asn(asn).filter(|_| !matches!(self.fault, Some(Fault::AllNa)));
            match network {
                Some(network) => rows.extend(
                    network_rows::rows(nth, &network, self.fault.as_ref())
                        .into_iter()
                        .map(|row| self.spoilt(nth, row)),
                ),
                None => before.push(no_match(request.line_of_network(asn))),
            }
        }
        if let Some(Fault::Reordered) = self.fault {
            rows.reverse();
        }
        let mut half_a_row = Vec::new();
        if let Some(Fault::CloseAfter { rows: complete, mid_row }) = self.fault {
            if mid_row && let Some(row) = rows.get(complete) {
                half_a_row = row[..row.len() / 2].to_vec();
            }
            rows.truncate(complete);
        }
        let line_end: &[u8] = if self.crlf { b"\r\n" } else { b"\n" };
        let mut answer: Vec<u8> =
            before.into_iter().chain(rows).flat_map(|line| [&line, line_end].concat()).collect();
        answer.extend(half_a_row);
        answer
    }

    fn rows_of(&self, routes: &Routes, question: IpAddr) -> Vec<Row> {
        let found = match self.fault {
            Some(Fault::AllNa) => Vec::new(),
            _ => routes.of(question),
        };
        let address = match (&self.fault, question) {
            (Some(Fault::OtherSpelling), IpAddr::V6(v6)) => {
                v6.segments().map(|segment| format!("{segment:04X}")).join(":")
            }
            _ => question.to_string(),
        };
        if found.is_empty() {
            return vec![Row::without_route(address)];
        }
        let row =
            |route: &Route, number: String| Row { number, address: address.clone(), route: route.clone() };
        let rows_of = |route: &Route| match self.fault {
            Some(Fault::AsnTooLarge) => vec![row(route, "4294967296".to_owned())],
            Some(Fault::MultiOrigin) => {
                let asn = route.asn;
                let wider = Route { prefix: wider(question), ..route.clone() };
                vec![
                    row(&wider, (asn - 1).to_string()),
                    row(route, format!("{} {asn}", asn + 1)),
                    row(route, (asn + 2).to_string()),
                ]
            }
            _ => vec![row(route, route.asn.to_string())],
        };
        found.iter().flat_map(rows_of).collect()
    }

    /// Changes a row if the fault requires it.
    fn spoilt(&self, nth: usize, mut row: Vec<u8>) -> Vec<u8> {
        match self.fault {
            Some(Fault::NulBytes) => {
                row.insert(row.len() - 1, 0);
                if nth.is_multiple_of(2) {
                    row.insert(1, 0);
                }
            }
            Some(Fault::NotUtf8) => row.extend(b" Tel\xe9com \xff\xfe"),
            _ => {}
        }
        row
    }

    /// Returns the next 64 kB or so of an endless answer.
    pub(crate) fn more(&self, request: &Connection) -> Option<Vec<u8>> {
        match self.fault {
            Some(Fault::EndlessRows) => Some(
                (1..=700)
                    .flat_map(|nth| {
                        [&foreign_row(nth, &request.questions, request.verbose)[..], b"\n"].concat()
                    })
                    .collect(),
            ),
            Some(Fault::EndlessLine) => Some(vec![b'x'; 65_536]),
            _ => None,
        }
    }
}

struct Row {
    number: String,
    address: String,
    route: Route,
}

impl Row {
    fn without_route(address: String) -> Row {
        let route = Route {
            prefix: "NA".to_owned(),
            asn: 0,
            country: String::new(),
            registry: "other".to_owned(),
            allocated: String::new(),
            name: "NA".to_owned(),
        };
        Row { number: "NA".to_owned(), address, route }
    }

    fn bytes(&self, verbose: bool) -> Vec<u8> {
        let Row { number, address, route: Route { prefix, country, registry, allocated, name, .. } } = self;
        // An IPv6 address does not fit in the column of IPv4, and has another width.
        let width = if address.contains(':') { 40 } else { 16 };
        if verbose {
            format!("{number:<7} | {address:<width$} | {prefix:<19} | {country:<2} | {registry:<8} | {allocated:<10} | {name}")
        } else {
            format!("{number:<7} | {address:<width$} | {name}")
        }
        .into_bytes()
    }
}

fn no_match(line: usize) -> Vec<u8> {
    format!("Error: no ASN or IP match on line {line}.").into_bytes()
}

/// Returns a row for the n-th address of 4.4.0.0/16, or for the next one that was not requested.
fn foreign_row(nth: usize, questions: &[IpAddr], verbose: bool) -> Vec<u8> {
    let stranger = (nth as u32..)
        .map(|nth| IpAddr::V4(Ipv4Addr::from(0x0404_0000 | (nth & 0xffff))))
        .find(|address| !questions.contains(address))
        .unwrap_or(IpAddr::V4(Ipv4Addr::new(4, 5, 0, 1)));
    let route = Route {
        prefix: "4.0.0.0/9".to_owned(),
        asn: FOREIGN_ASN,
        country: "US".to_owned(),
        registry: "arin".to_owned(),
        allocated: "1992-12-01".to_owned(),
        name: "FOREIGN - Not what was asked, US".to_owned(),
    };
    Row { number: FOREIGN_ASN.to_string(), address: stranger.to_string(), route }.bytes(verbose)
}

/// Returns a prefix that holds the address and is usually wider than the prefixes of a table.
pub(crate) fn wider(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 8 } else { 16 };
    format!("{}/{length}", masked(address, length))
}

/// Returns arbitrary bytes, the same in each run.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
