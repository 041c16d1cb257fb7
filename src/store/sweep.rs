//! Finding work that no request announces: after a crash of a kind nobody thought of, a restore, a prepared transaction,
//! a time without the source, or simply because an answer "nobody announces it" has had its time.

use std::net::{IpAddr, Ipv4Addr};

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use crate::pg::spi::{Connection, Statement};
use crate::pg::{clock, inet, text};

/// Addresses looked at by one transaction.
const MOST_AT_ONCE: i64 = 10_000;

/// How far a sweep has come: the last key that it looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    retry_after: String,
    address: Option<Address>,
}

impl Progress {
    /// Before the first key: the lowest address is below all.
    pub fn start() -> Progress {
        Progress {
            retry_after: String::new(),
            address: Some(Address::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
        }
    }
}

thread_local! {
    static UNPLACED: Statement = const { Statement::new(
        "sweep_unplaced", include_str!("../../sql/queries/sweep_unplaced.sql"),
        &[pg_sys::INT8OID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INETOID]) };
}

/// Queues addresses without a network that Cymru may be asked about, some at a time; answers how far it came, or none
/// when it has seen all.
pub fn queue_unplaced(connection: &Connection, progress: &Progress) -> Option<Progress> {
    let now = clock::iso8601(clock::transaction_start());
    let arguments = [
        Some(pg_sys::Datum::from(MOST_AT_ONCE)),
        Some(text::write(&now)),
        Some(text::write(&progress.retry_after)),
        progress.address.map(inet::write),
    ];
    UNPLACED.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let is_full = rows.bigint(0, 3).is_some_and(|seen| seen >= MOST_AT_ONCE);
            let last = Progress { retry_after: rows.text(0, 2)?, address: rows.address(0, 1) };
            is_full.then_some(last)
        })
    })
}
