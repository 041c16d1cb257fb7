//! The queue's entrance.

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use crate::pg::spi::{Connection, Statement};
use crate::pg::{inet, text};

thread_local! {
    static APPEND: Statement = const { Statement::new(
        "request_append", include_str!("../../sql/queries/request_append.sql"),
        &[pg_sys::INETOID, pg_sys::TEXTOID, pg_sys::INT4OID]) };
}

/// Queues one lookup.
pub fn append(connection: &Connection, address: Address, provider: &str, priority: i32) {
    let arguments =
        [Some(inet::write(address)), Some(text::write(provider)), Some(pg_sys::Datum::from(priority))];
    APPEND.with(|statement| connection.run(statement, &arguments, |_| ()));
}
