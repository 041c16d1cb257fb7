//! Daily quotas, exact across the cluster.
//!
//! Shared memory has the number of requests that were spent on a day. A process increases this number before it sends a request.
//! The transaction that claims the jobs writes the new number into the ledger of its database (`provider_quota`). So the number is
//! stored durably before the request is sent.
//!
//! The highest number in any database's ledger is the number of requests that the cluster has spent. After a start of the server,
//! no request is sent until every worker has read the ledger of its database. The same rule applies again when a database gets its
//! first worker after this start.
//!
//! Each ledger also has the requests that other databases have spent. Each worker writes them into the ledger of its own database
//! at its start and at every sweep. So if a database is dropped, the number of its requests is not lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::quota::day_of;

use crate::pg::clock;
use crate::provider::{Limits, Provider};
use crate::shared_state;

/// How long requests wait for the ledgers (tables of spent requests) of databases whose worker is not running.
const WAITED_FOR: Duration = Duration::from_secs(60);

/// A number of requests that were taken from the quota of one day. These requests may be sent only on this day.
#[derive(Clone, Copy)]
pub struct QuotaReservation {
    /// Days since 2000, UTC.
    pub day: i32,
    pub requests: u32,
    /// Number of requests that the whole cluster has spent on this day. The reserved requests are included.
    pub spent: i64,
}

/// Takes requests from the quota: at most `wanted`, and at most as many as remain. Returns `None` if the provider has no quota.
/// Even in this case the requests are counted, because a quota may be set later on the same day.
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

/// Returns the current day, and the number of requests that the whole cluster has spent on this day. After a start of the server,
/// the number may be too low until the workers have read their ledgers.
pub fn spent(provider: Provider) -> (i32, i64) {
    let now = clock::now();
    shared_state::locked(|guarded| {
        let quota = &mut guarded.providers[provider.index()].quota;
        quota.take(now, 0, 0);
        (quota.day, quota.used)
    })
}

/// Returns true if the day from whose quota a request was taken has passed. In this case the request must not be sent. (If the
/// clock was set back, a request may belong to a later day.)
pub fn is_over(day: i32) -> bool {
    day < day_of(clock::now())
}

/// Gives unsent requests back to the quota.
pub fn give_back(provider: Provider, day: i32, unspent: usize) {
    let unspent = u32::try_from(unspent).unwrap_or(u32::MAX);
    shared_state::locked(|guarded| guarded.providers[provider.index()].quota.give_back(day, unspent));
}

/// Raises the number of spent requests of a day to the number that a ledger has for this day.
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
