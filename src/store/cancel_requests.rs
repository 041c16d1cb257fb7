//! Cancels waiting lookups. Stores the cancellation in the rows of their addresses, so that no sweep queues these lookups
//! again.
//!
//! The order of locks is: requests, jobs, networks, addresses. Except for requests, the rows of each kind are locked in key
//! order. The worker skips locked requests. So while the worker holds locks on jobs, it never waits for requests.

use std::collections::BTreeSet;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::providers::Purpose;

use super::enrich;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Inet, Text, array};
use crate::pg::{check_for_interrupts, clock, memory};
use crate::provider::Provider;

thread_local! {
    static REQUESTS: Statement<(Text, Inet), (Inet, Bigint)> = const { Statement::new(
        "requests_cancel", include_str!("../../sql/queries/queue/requests_cancel.sql")) };
    static LOCK_JOBS: Statement<(Text, Inet), (Text,)> = const { Statement::new(
        "jobs_lock_waiting", include_str!("../../sql/queries/queue/jobs_lock_waiting.sql")) };
    static JOBS: Statement<(Text, Inet, Array<Text>), (Inet,)> = const { Statement::new(
        "jobs_cancel", include_str!("../../sql/queries/queue/jobs_cancel.sql")) };
    static SKIP_NETWORKS: Statement<(Array<Bigint>, Text, Text)> = const { Statement::new(
        "networks_skip", include_str!("../../sql/queries/queue/networks_skip.sql")) };
    static SKIP: Statement<(Array<Inet>, Text, Boolean, Text)> = const { Statement::new(
        "lookups_skip", include_str!("../../sql/queries/queue/lookups_skip.sql")) };
}

/// Number of addresses that one statement processes.
const CHUNK: usize = 2_000;

/// Removes the waiting requests and jobs of a provider. If an address is given, removes only the requests and jobs of this
/// address. Does not remove jobs that a worker has leased. Returns the number of addresses and networks whose lookups were
/// cancelled.
pub fn run(connection: &Connection, provider: Provider, address: Option<Address>) -> i64 {
    let name = provider.name();
    let (mut cancelled, mut networks) = (BTreeSet::new(), BTreeSet::new());
    REQUESTS.run(connection, (name, address), |rows| {
        for (address, asn) in rows.iter() {
            cancelled.extend(address);
            networks.extend(asn);
        }
    });
    let jobs: Vec<String> =
        LOCK_JOBS.run(connection, (name, address), |rows| rows.iter().filter_map(|(key,)| key).collect());
    if !jobs.is_empty() {
        JOBS.run(connection, (name, address, array(&jobs)), |rows| {
            cancelled.extend(rows.iter().filter_map(|(address,)| address));
        });
    }
    let network = |key: &String| LookupKey::parse(key)?.network().map(i64::from);
    networks.extend(jobs.iter().filter_map(network));
    let skipped_at = clock::iso8601(clock::transaction_start());
    let for_unplaced = provider.purpose() == Purpose::Network;
    if !networks.is_empty() {
        SKIP_NETWORKS.execute(connection, (array(&networks), name, &skipped_at));
    }
    let cancelled: Vec<Address> = cancelled.into_iter().collect();
    for chunk in cancelled.chunks(CHUNK) {
        check_for_interrupts();
        memory::scratch(|| {
            enrich::lock_addresses(connection, chunk);
            SKIP.execute(connection, (array(chunk), name, for_unplaced, &skipped_at));
        });
    }
    (cancelled.len() + networks.len()) as i64
}
