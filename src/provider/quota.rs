//! Daily quotas, exact across the cluster.
//!
//! What is spent of a day is one number in shared memory, raised before a request goes out. Each database writes the
//! number that it raised it to into its own ledger (`provider_quota`), in the transaction that claims the jobs, so
//! that the request is durable before it is sent. The highest number of all ledgers is what is spent: nothing is spent
//! before every worker has read its own, after a start of the server and whenever a database is to have a worker that
//! had none since. And each writes down what it knows of the others, when it starts and as often as it sweeps, so that a
//! database that goes away does not take its spending with it.

use std::sync::atomic::Ordering;

use cowrie_enrich_engine::quota::day_of;

use crate::pg::clock;
use crate::pg::shared;
use crate::provider::{Limits, Provider};

/// How long databases whose workers do not come up are waited for, in microseconds.
const WAITED_FOR: i64 = 60_000_000;

/// Requests of one day that may be sent, taken out of its quota.
#[derive(Clone, Copy)]
pub struct Reserved {
    /// Days since 2000, UTC.
    pub day: i32,
    pub requests: u32,
    /// What is spent of the day in the whole cluster, these included.
    pub spent: i64,
}

/// Takes as many requests out of the quota as are left, at most so many. `None`: the provider has none. What is asked is
/// counted all the same, for a quota that is set later in the day.
pub fn reserve(provider: Provider, wanted: usize, limits: &Limits) -> Option<Reserved> {
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    let now = clock::now();
    let reserved = shared::locked(|guarded| {
        let quota = &mut guarded.providers[provider.place()].quota;
        let requests = quota.take(now, wanted, limits.daily_quota);
        Reserved { day: quota.day, requests, spent: quota.used }
    });
    (limits.daily_quota != 0).then_some(reserved)
}

/// What is spent of today in the whole cluster, as far as this server knows: day and number.
pub fn spent(provider: Provider) -> (i32, i64) {
    let now = clock::now();
    shared::locked(|guarded| {
        let quota = &mut guarded.providers[provider.place()].quota;
        quota.take(now, 0, 0);
        (quota.day, quota.used)
    })
}

/// Whether a day has passed whose quota paid for a request: it must not leave any more. (A later one than today was taken
/// out of before the clock was set back.)
pub fn is_over(day: i32) -> bool {
    day < day_of(clock::now())
}

/// Requests that were not sent after all.
pub fn give_back(provider: Provider, day: i32, unspent: usize) {
    let unspent = u32::try_from(unspent).unwrap_or(u32::MAX);
    shared::locked(|guarded| guarded.providers[provider.place()].quota.give_back(day, unspent));
}

/// What a ledger says was spent of a day.
pub fn learn(provider: Provider, day: i32, spent: i64) {
    let now = clock::now();
    shared::locked(|guarded| guarded.providers[provider.place()].quota.learn(now, day, spent));
}

/// Whether every database that may have spent something has said so.
pub fn is_known() -> bool {
    let block = shared::block();
    let since = block.awaited_since.load(Ordering::Acquire);
    block.ledgers_known.load(Ordering::Acquire) || (since != 0 && clock::now() - since > WAITED_FOR)
}
