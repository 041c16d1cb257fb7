//! Finding work that no request announces: after a crash of a kind nobody thought of, a restore, a prepared transaction,
//! a time without the source, or simply because an answer "nobody announces it" has had its time.

use pgrx::pg_sys;

use crate::pg::spi::{Connection, Statement};
use crate::pg::{clock, text};

/// Addresses queued by one transaction.
pub const MOST_AT_ONCE: i64 = 10_000;

thread_local! {
    static UNPLACED: Statement = const { Statement::new(
        "sweep_unplaced", include_str!("../../sql/queries/sweep_unplaced.sql"), &[pg_sys::INT8OID, pg_sys::TEXTOID]) };
}

/// Queues addresses without a network that Cymru may be asked about; answers how many.
pub fn queue_unplaced(connection: &Connection) -> i64 {
    let now = clock::iso8601(clock::transaction_start());
    let arguments = [Some(pg_sys::Datum::from(MOST_AT_ONCE)), Some(text::write(&now))];
    UNPLACED.with(|statement| connection.run(statement, &arguments, |rows| rows.bigint(0, 1).unwrap_or(0)))
}
