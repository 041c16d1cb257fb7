//! Daily quotas, exact across the cluster.
//!
//! Shared memory has the number of requests spent on a day. A process raises this number before it sends a request. Each
//! database writes the raised number into its ledger (`provider_quota`), in the transaction that claims the jobs. So the
//! request is durable before it is sent.
//!
//! The highest number of all ledgers is the number spent. Nothing is spent before every worker has read its ledger.
//! This rule applies after a start of the server. It applies again when a database needs its first worker after
//! that start.
//!
//! Each worker also writes the spending of other databases into its ledger, at its start and at every sweep.
//! So the spending of a database is not lost when the database is dropped.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::quota::day_of;

use crate::pg::clock;
use crate::provider::{Limits, Provider};
use crate::shared_state;

/// How long requests wait for the ledgers of databases without a running worker.
const WAITED_FOR: Duration = Duration::from_secs(60);

/// Requests that were taken out of the quota of one day and may be sent on that day.
#[derive(Clone, Copy)]
pub struct QuotaReservation {
    /// Days since 2000, UTC.
    pub day: i32,
    pub requests: u32,
    /// Number of requests that the whole cluster has spent on this day, including the reserved requests.
    pub spent: i64,
}

/// Takes up to `wanted` of the remaining requests out of the quota. Returns `None` if the provider has no
/// quota. Counts the requests even without a quota, because a quota may be set later in the day.
pub fn reserve(provider: Provider, wanted: usize, limits: &Limits) -> Option<QuotaReservation> {
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    let now = clock::now();
    let reserved = shared_state::locked(|guarded| {
        let quota = &mut guarded.providers[provider.index()].quota;
        let requests = quota.take(now, wanted, limits.daily_quota);
        QuotaReservation { day: quota.day, requests, spent: quota.used }
    });
    (limits.daily_quota != 0).then_some(reserved)
}

/// Returns the current day, and the number of requests that the whole cluster has spent on it, as far as this
/// server knows.
pub fn spent(provider: Provider) -> (i32, i64) {
    let now = clock::now();
    shared_state::locked(|guarded| {
        let quota = &mut guarded.providers[provider.index()].quota;
        quota.take(now, 0, 0);
        (quota.day, quota.used)
    })
}

/// Returns whether the day whose quota paid for a request has passed. The request must then not be sent.
/// (A request may belong to a later day if the clock was set back.)
pub fn is_over(day: i32) -> bool {
    day < day_of(clock::now())
}

/// Gives unsent requests back to the quota.
pub fn give_back(provider: Provider, day: i32, unspent: usize) {
    let unspent = u32::try_from(unspent).unwrap_or(u32::MAX);
    shared_state::locked(|guarded| guarded.providers[provider.index()].quota.give_back(day, unspent));
}

/// Takes over the requests of a day that a ledger records as spent.
pub fn learn(provider: Provider, day: i32, spent: i64) {
    let now = clock::now();
    shared_state::locked(|guarded| guarded.providers[provider.index()].quota.learn(now, day, spent));
}

/// Returns whether every database that may have spent requests has reported.
pub fn is_known() -> bool {
    let block = shared_state::block();
    let since = block.awaited_since.load(Ordering::Acquire).if_set();
    block.ledgers_known.load(Ordering::Acquire)
        || since.is_some_and(|since| clock::now() - since > WAITED_FOR)
}
