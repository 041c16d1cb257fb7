//! Finds addresses whose answers are stale (expired or missing). The addresses with the most sessions come first.

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

/// Nested loops are off. The statement compares all addresses with the queue, and the planner's statistics of the queue are
/// rarely current. With wrong statistics, the planner could choose nested loops, which would take very long.
const SETTINGS: &[(&CStr, &CStr)] =
    &[(c"enable_nestloop", c"off"), (c"plan_cache_mode", c"force_custom_plan"), (c"jit", c"off")];

/// Returns at most `most` addresses for which the answer of a source is stale. The addresses with the most sessions come first.
pub fn addresses(connection: &Connection, source: &str, most: i64) -> Vec<Address> {
    with_settings(SETTINGS, || {
        ADDRESSES
            .run(connection, (source, most), |rows| rows.iter().filter_map(|(address,)| address).collect())
    })
}

/// Queues lookups for at most `most` addresses for which the answer of a provider is stale. Returns the number of queued
/// lookups.
pub fn queue(connection: &Connection, provider: Provider, most: i64) -> i64 {
    with_settings(SETTINGS, || QUEUE.run(connection, (provider.name(), most), |rows| rows.count() as i64))
}
