//! Computes the expected counts without the extension: fetches addresses as text, and parses and adds them here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::session::Session;
use crate::wait::wait_until;

/// Returns the number of sessions of each address in the given tables. A table is given as `(table, address column)`.
pub fn sessions_per_address(session: &mut Session, tables: &[(&str, &str)]) -> BTreeMap<IpAddr, i64> {
    let mut counts = BTreeMap::new();
    for (table, column) in tables {
        for text in session.rows(&format!("SELECT {column}::text FROM {table} WHERE {column} IS NOT NULL")) {
            if let Some(address) = host(&text) {
                *counts.entry(address).or_insert(0) += 1;
            }
        }
    }
    counts
}

/// Parses an address. Returns an IPv4-mapped address as IPv4.
fn host(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = text.strip_suffix("/32").unwrap_or(text);
    let text = text.strip_suffix("/128").unwrap_or(text);
    text.parse::<IpAddr>().ok().map(|a| a.to_canonical())
}

/// Folds, then compares all three counts with a recount.
#[track_caller]
pub fn assert_counts_are_exact(session: &mut Session, tables: &[(&str, &str)]) {
    session.run("CALL enrich.fold_statistics()");
    let expected = sessions_per_address(session, tables);

    let mut networks: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let mut counted = BTreeMap::new();
    for row in session.rows(
        "SELECT host(ip_address), session_count, coalesce(current_asn::text, '-')
         FROM enrich.ip_inventory",
    ) {
        let mut columns = row.split('|');
        let mut next = || columns.next().expect("three columns");
        let address: IpAddr = next().parse().expect("an address");
        let sessions: i64 = next().parse().expect("a count");
        let network = networks.entry(next().to_owned()).or_default();
        network.0 += 1;
        network.1 += sessions;
        if sessions != 0 {
            counted.insert(address, sessions);
        }
    }
    let wrong: Vec<String> = expected
        .keys()
        .chain(counted.keys())
        .filter(|a| expected.get(a) != counted.get(a))
        .map(|a| {
            let (is, should) = (counted.get(a), expected.get(a));
            format!("{a}: counted {is:?}, there are {should:?}")
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} addresses are counted wrongly: {:?}",
        wrong.len(),
        expected.len(),
        &wrong[..wrong.len().min(10)]
    );

    networks.remove("-");
    let folded: BTreeMap<String, (i64, i64)> = session
        .rows(
            "SELECT asn_number, unique_ip_count, total_session_count
             FROM enrich.asn_inventory
             WHERE unique_ip_count <> 0 OR total_session_count <> 0",
        )
        .iter()
        .map(|row| {
            let columns: Vec<&str> = row.split('|').collect();
            let number = |i: usize| columns[i].parse().expect("a count");
            (columns[0].to_owned(), (number(1), number(2)))
        })
        .collect();
    assert_eq!(folded, networks, "addresses and sessions of networks: folded (left), recounted (right)");
}

/// Returns `session_count` of an address; an empty text if the address is not in `ip_inventory`.
pub fn count(session: &mut Session, address: &str) -> String {
    session
        .rows(&format!("SELECT session_count FROM enrich.ip_inventory WHERE ip_address = '{address}'"))
        .join(",")
}

/// Waits until this many sessions of an address are folded.
#[track_caller]
pub fn wait_for_count(session: &mut Session, address: &str, expected: i64) {
    let expected = expected.to_string();
    wait_until("the count is folded", || count(session, address), |count| *count == expected);
}
