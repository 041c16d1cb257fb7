//! Addresses whose answers are past their lifetime, the most active first.

use std::ffi::CStr;

use cowrie_enrich_engine::address::Address;

use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Bigint, Inet, Text};
use crate::provider::Provider;

thread_local! {
    static ADDRESSES: Statement<(Text, Bigint), (Inet,)> = const { Statement::new(
        "stale_addresses", include_str!("../../sql/queries/procedures/stale_addresses.sql")) };
    static QUEUE: Statement<(Text, Bigint)> = const { Statement::new(
        "stale_queue", include_str!("../../sql/queries/procedures/stale_queue.sql")) };
}

/// What waits is held against every address, and statistics of a queue are seldom those of the moment: loops within loops
/// would take for ever where they are wrong.
const SETTINGS: &[(&CStr, &CStr)] =
    &[(c"enable_nestloop", c"off"), (c"plan_cache_mode", c"force_custom_plan"), (c"jit", c"off")];

/// At most `most` addresses whose answer from a source is stale, by activity.
pub fn addresses(connection: &Connection, source: &str, most: i64) -> Vec<Address> {
    with_settings(SETTINGS, || {
        ADDRESSES
            .run(connection, (source, most), |rows| rows.iter().filter_map(|(address,)| address).collect())
    })
}

/// Queues lookups for the same; answers how many.
pub fn queue(connection: &Connection, provider: Provider, most: i64) -> i64 {
    with_settings(SETTINGS, || QUEUE.run(connection, (provider.name(), most), |rows| rows.count() as i64))
}
