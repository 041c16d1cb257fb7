//! Counts of sessions, appended where nobody waits for anybody.

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::Home;
use super::enrich::Tally;
use crate::pg::relation::Table;
use crate::pg::{clock, inet};

/// Columns of `session_delta`.
const DELTA: [pg_sys::Oid; 5] = [
    pg_sys::INETOID,
    pg_sys::INT8OID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::TIMESTAMPTZOID,
];

/// Appends one delta per address, counted now.
pub fn append(home: Home, tallies: impl Iterator<Item = (Address, Tally)>) {
    let table = Table::open_for_appending(home.schema, c"session_delta");
    let now = clock::now();
    table.append(
        DELTA,
        tallies.map(|(address, tally)| {
            [
                Some(inet::write(address)),
                Some(pg_sys::Datum::from(tally.sessions)),
                tally.first_seen.map(pg_sys::Datum::from),
                tally.last_seen.map(pg_sys::Datum::from),
                Some(pg_sys::Datum::from(now)),
            ]
        }),
    );
}
