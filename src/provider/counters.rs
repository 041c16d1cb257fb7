//! Counters of providers in shared memory, and the names of the outcomes of requests.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::providers::Failure;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::clock;
use crate::provider::Provider;
use crate::shared_state::{self, PROVIDER_SLOTS};
use crate::telemetry::{self, Distribution};

/// Counters of a provider. New counters must be added at the end, because the numbers determine the positions in shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Count {
    /// Exchanges that began.
    Requests = 0,
    /// Lookup keys in these exchanges.
    LookupKeys,
    /// Applied answers with data.
    Values,
    /// Applied answers of providers that have no data about the address.
    Absent,
    /// Addresses that were served from an earlier answer for their block.
    Shared,
    /// Lookup keys for which an exchange returned no answer.
    Unanswered,
    /// Lookup keys that the provider refused.
    Refused,
    /// Dropped rows about addresses that were not in the request.
    Foreign,
    /// Dropped rows that are malformed.
    Malformed,
    /// Dropped rows that are too long.
    Oversized,
    /// Exchanges that failed, by reason.
    Unreachable,
    Silent,
    TimedOut,
    CutOff,
    TooLarge,
    Failed,
    /// Lookups that became dead letters.
    DeadLetters,
    /// Exchanges that the provider refused because of too many requests (429).
    Throttled,
    /// Exchanges that the provider refused because of the key (401, 403).
    Unauthorized,
    /// Exchanges that the provider refused with another status.
    BadStatus,
    /// Exchanges that succeeded.
    Completed,
}

/// The counts that `provider_status` shows, in its order.
pub const COUNTS: [Count; 20] = [
    Count::Requests,
    Count::LookupKeys,
    Count::Values,
    Count::Absent,
    Count::Shared,
    Count::Unanswered,
    Count::Refused,
    Count::Foreign,
    Count::Malformed,
    Count::Oversized,
    Count::Unreachable,
    Count::Silent,
    Count::TimedOut,
    Count::CutOff,
    Count::TooLarge,
    Count::Failed,
    Count::DeadLetters,
    Count::Throttled,
    Count::Unauthorized,
    Count::BadStatus,
];

const _: () = assert!((Count::Completed as usize) < PROVIDER_SLOTS);

/// The outcomes of requests, as the metrics name them.
pub const OUTCOMES: [(&str, Count); 10] = [
    ("completed", Count::Completed),
    ("unreachable", Count::Unreachable),
    ("silent", Count::Silent),
    ("timed_out", Count::TimedOut),
    ("cut_off", Count::CutOff),
    ("too_large", Count::TooLarge),
    ("failed", Count::Failed),
    ("throttled", Count::Throttled),
    ("unauthorized", Count::Unauthorized),
    ("bad_status", Count::BadStatus),
];

impl Count {
    /// Returns the outcome of a request that ended with `failure`.
    pub fn of_outcome(failure: Option<&Failure>) -> Count {
        match failure {
            None => Count::Completed,
            Some(Failure::Resolve(_) | Failure::Connect(_) | Failure::ConnectTimeout) => Count::Unreachable,
            Some(Failure::Silent) => Count::Silent,
            Some(Failure::Stalled | Failure::TooSlow) => Count::TimedOut,
            Some(Failure::Cut) => Count::CutOff,
            Some(Failure::TooLarge) => Count::TooLarge,
            Some(Failure::Status { code: 429, .. }) => Count::Throttled,
            Some(Failure::Status { code: 401 | 403, .. }) => Count::Unauthorized,
            Some(Failure::Status { .. }) => Count::BadStatus,
            Some(Failure::Io(_) | Failure::Malformed(_) | Failure::Cancelled) => Count::Failed,
        }
    }

    /// Returns the name of the outcome that this counter counts. Returns an empty text if the counter does not count an outcome of
    /// requests.
    pub fn outcome(self) -> &'static str {
        OUTCOMES.iter().find(|(_, outcome)| *outcome == self).map_or("", |(name, _)| name)
    }
}

/// Adds to a counter in shared memory at once, without waiting for the commit. The counted event happened on the network, even if
/// the transaction is rolled back.
pub fn count(provider: Provider, what: Count, amount: u64) {
    if amount > 0 {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        shared_state::block().provider_counters[provider.index()][what as usize]
            .fetch_add(amount, Ordering::Relaxed);
    }
}

/// Records that a lookup became a dead letter, and the reason.
pub fn record_dead_letter(provider: Provider, reason: &str) {
    let now = clock::now();
    shared_state::locked(|guarded| {
        let last = &mut guarded.last_dead_letter;
        (last.provider, last.at) = (provider.index() as u32, now);
        last.reason.set(reason);
    });
}

/// Returns the provider, the reason and the time of the most recent dead letter since the server was started.
pub fn last_dead_letter() -> Option<(Provider, String, Timestamp)> {
    let last = shared_state::locked(|guarded| guarded.last_dead_letter);
    let provider = Provider::all().nth(last.provider as usize)?;
    last.at.if_set().map(|at| (provider, last.reason.text().unwrap_or_default(), at))
}

/// Counts the start of an exchange with `lookup_keys` lookup keys.
pub fn count_start(provider: Provider, lookup_keys: usize) {
    count(provider, Count::Requests, 1);
    count(provider, Count::LookupKeys, lookup_keys as u64);
    telemetry::happened(Distribution::Batch(provider), i64::try_from(lookup_keys).unwrap_or(i64::MAX));
}

/// Records the duration of an exchange, from beginning to end.
pub fn record_duration(provider: Provider, time: Duration) {
    let nanoseconds = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    telemetry::happened(Distribution::Request(provider), nanoseconds);
}

/// Returns a count since the counters were last reset.
pub fn read(provider: Provider, what: Count) -> i64 {
    shared_state::block().provider_counters[provider.index()][what as usize].load(Ordering::Relaxed)
}
