//! Rows about networks. A client asks about a network by its AS number.
//!
//! An answer of the real service to `begin`, `verbose`, `AS15169`, `AS48666`, `end`:
//!
//! ```text
//! Bulk mode; whois.cymru.com [2026-11-20 06:00:00 +0000]
//! 15169   | US | arin     | 2000-03-30 | GOOGLE, US
//! 48666   | RU | ripencc  | 2008-12-29 | AS-MAROSNET Moscow, Russia, RU
//! ```

use crate::behaviour::{FOREIGN_ASN, Fault};
use crate::routes::Route;

const HEADINGS: &str = "AS      | CC | Registry | Allocated  | AS Name";

/// A fault in rows about networks. A fault with wrong values uses [`FOREIGN_COUNTRY`] or [`FOREIGN_NAME`]. If one of
/// these values is stored, the client used such a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFault {
    /// Every second row has the seven columns of a row about an address. It is about an address of the network.
    MixedShapes,
    /// Every row has seven columns. Two of them are empty, as bgp.tools writes them.
    SevenColumns,
    /// The columns of country and registry are exchanged.
    SwappedColumns,
    /// The columns of registry and name are exchanged.
    SwappedNames,
    /// A registry that does not exist.
    UnknownRegistry,
    /// Each row twice.
    Duplicated,
    /// Each row is followed by another row about the same network, with other values.
    Contradicted,
    /// A `|` in each name.
    BarInName,
    /// Each row ends after the registry, with a line end.
    CutRows,
}

pub const FOREIGN_COUNTRY: &str = "KP";
pub const FOREIGN_NAME: &str = "WRONG-AS Not this network, KP";

pub(crate) fn headings(fault: Option<&Fault>) -> String {
    match fault {
        Some(Fault::Networks(NetworkFault::SwappedColumns)) => {
            "AS      | Registry | CC | Allocated  | AS Name".to_owned()
        }
        _ => HEADINGS.to_owned(),
    }
}

/// Returns the rows about the n-th network of a request.
pub(crate) fn rows(nth: usize, network: &Route, fault: Option<&Fault>) -> Vec<Vec<u8>> {
    let Route { asn, country, registry, allocated, name, .. } = network;
    let row = five(*asn, country, registry, allocated, name);
    let Some(Fault::Networks(fault)) = fault else { return vec![row.into_bytes()] };
    let rows = match fault {
        NetworkFault::MixedShapes if nth.is_multiple_of(2) => vec![format!(
            "{asn:<7} | 4.4.{}.{}          | 4.0.0.0/9           | {FOREIGN_COUNTRY} | arin     | 1992-12-01 | {FOREIGN_NAME}",
            nth / 250,
            nth % 250
        )],
        NetworkFault::MixedShapes => vec![row],
        NetworkFault::SevenColumns => {
            vec![format!(
                "{asn:<7} |                  |                     | {FOREIGN_COUNTRY} | ARIN     | 1992-12-01 | {FOREIGN_NAME}"
            )]
        }
        NetworkFault::SwappedColumns => vec![five(*asn, registry, country, allocated, name)],
        NetworkFault::SwappedNames => vec![five(*asn, country, name, allocated, registry)],
        NetworkFault::UnknownRegistry => vec![five(*asn, country, "garbage", allocated, name)],
        NetworkFault::Duplicated => vec![row.clone(), row],
        NetworkFault::Contradicted => {
            vec![row, five(*asn, FOREIGN_COUNTRY, "apnic", "1992-12-01", FOREIGN_NAME)]
        }
        NetworkFault::BarInName => vec![five(*asn, country, registry, allocated, &format!("A | {name}"))],
        NetworkFault::CutRows => vec![format!("{asn:<7} | {country:<2} | {registry}")],
    };
    rows.into_iter().map(String::into_bytes).collect()
}

/// Returns a row about a network that was not requested.
pub(crate) fn foreign(nth: usize, asked: &[u64]) -> Vec<u8> {
    let stranger = (FOREIGN_ASN + nth as u64 - 1..).find(|asn| !asked.contains(asn)).unwrap_or(FOREIGN_ASN);
    five(stranger, FOREIGN_COUNTRY, "arin", "1992-12-01", FOREIGN_NAME).into_bytes()
}

fn five(asn: u64, country: &str, registry: &str, allocated: &str, name: &str) -> String {
    format!("{asn:<7} | {country:<2} | {registry:<8} | {allocated:<10} | {name}")
}
