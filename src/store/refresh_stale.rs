//! Addresses whose answers are past their lifetime, the most active first.

use std::ffi::CStr;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Statement};
use crate::pg::text;
use crate::provider::Provider;

thread_local! {
    static ADDRESSES: Statement = const { Statement::new(
        "stale_addresses", include_str!("../../sql/queries/procedures/stale_addresses.sql"),
        &[pg_sys::TEXTOID, pg_sys::INT8OID]) };
    static QUEUE: Statement = const { Statement::new(
        "stale_queue", include_str!("../../sql/queries/procedures/stale_queue.sql"), &[pg_sys::TEXTOID, pg_sys::INT8OID]) };
}

/// What waits is held against every address, and statistics of a queue are seldom those of the moment: loops within loops
/// would take for ever where they are wrong.
const SETTINGS: &[(&CStr, &CStr)] =
    &[(c"enable_nestloop", c"off"), (c"plan_cache_mode", c"force_custom_plan"), (c"jit", c"off")];

/// At most `most` addresses whose answer from a source is stale, by activity.
pub fn addresses(connection: &Connection, source: &str, most: i64) -> Vec<Address> {
    with_settings(SETTINGS, || {
        ADDRESSES.with(|statement| {
            connection.run(statement, &arguments(source, most), |rows| {
                (0..rows.count).filter_map(|row| rows.address(row, 1)).collect()
            })
        })
    })
}

/// Queues lookups for the same; answers how many.
pub fn queue(connection: &Connection, provider: Provider, most: i64) -> i64 {
    with_settings(SETTINGS, || {
        let arguments = arguments(provider.name(), most);
        QUEUE.with(|statement| connection.run(statement, &arguments, |rows| rows.count as i64))
    })
}

fn arguments(source: &str, most: i64) -> [Option<pg_sys::Datum>; 2] {
    [Some(text::write(source)), Some(pg_sys::Datum::from(most))]
}
