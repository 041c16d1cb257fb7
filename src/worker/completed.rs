//! A completed batch holds the outcomes of its jobs until transactions have stored them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::providers::Answer;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::step_schedule::retry_pause;
use super::trace::BatchTrace;
use crate::pg::clock;
use crate::provider::counters::{self, Count};
use crate::provider::{Provider, quota};
use crate::store::queue::{Asked, FailedJob, Lease};
use crate::telemetry::spans::SpanContext;

/// Replies for single addresses are collected for this time. One transaction then stores them together. Fewer writes are better,
/// because each write to the inventory invalidates the attributions that every backend has cached.
const GATHERED_FOR: Duration = Duration::from_millis(500);
/// Largest number of jobs that are stored together, if the provider is queried about single addresses.
pub const MOST_TOGETHER: usize = 500;

/// Completed jobs of one provider and their outcomes.
pub struct Completed {
    pub provider: Provider,
    pub outcomes: BTreeMap<LookupKey, Outcome>,
    /// When the first reply arrived.
    pub since: Timestamp,
    /// The next transaction that stores outcomes may not run before this time.
    not_before: Timestamp,
    /// True until a transaction tries to store the batch. While it is true, another batch may be merged into this batch.
    is_gathering: bool,
    /// The last address, in the order of addresses, that an earlier transaction of this batch has stored. Unset if no transaction
    /// has stored an address.
    pub stored_to: Option<Address>,
    /// True if only blocked rows remain. A row is blocked if another transaction held its lock.
    pub is_blocked: bool,
    /// For each day, the number of requests that were taken from the quota of this day but were not sent. The transaction that
    /// stores the batch gives them back to the ledger, and after its commit they are given back to shared memory. If they were
    /// given back to shared memory earlier, another request could use them first. The ledger would then be too low for a moment,
    /// and a crash at that moment would raise the quota.
    pub unspent: BTreeMap<i32, usize>,
    /// Traces of the requests in this batch, if spans are collected.
    traces: Vec<BatchTrace>,
}

/// Outcome of a lookup.
pub enum Outcome {
    /// An earlier answer applies.
    AlreadyAnswered,
    /// The provider sent this answer for this address or network.
    Answered(Asked, Answer),
    Failed(FailedJob),
}

/// Results of one transaction that stored outcomes of a batch.
pub struct Stored {
    /// True if all jobs except the blocked ones are completed. False if another transaction must store more outcomes.
    pub is_last: bool,
    /// Lookups of single addresses whose answers could not be written, because another transaction has locked the address or its
    /// network.
    pub blocked: BTreeSet<LookupKey>,
    pub last: Option<Address>,
    pub values: u64,
    pub absent: u64,
    pub shared: u64,
    pub dead: u64,
    /// The error of the last job that became a dead letter.
    pub dead_letter_error: Option<String>,
}

impl Completed {
    pub fn of(provider: Provider, outcomes: BTreeMap<LookupKey, Outcome>) -> Completed {
        let now = clock::now();
        Completed {
            provider,
            outcomes,
            since: now,
            not_before: if provider.declared().shares_answers() { now } else { now + GATHERED_FOR },
            is_gathering: true,
            stored_to: None,
            is_blocked: false,
            unspent: BTreeMap::new(),
            traces: Vec::new(),
        }
    }

    /// Returns true if the lookups are about networks. All lookups of a batch are of the same kind.
    pub fn is_about_networks(&self) -> bool {
        matches!(self.outcomes.keys().next(), Some(LookupKey::Network(_)))
    }

    /// Adds the trace of this batch's request.
    pub fn traced(mut self, trace: Option<BatchTrace>) -> Completed {
        self.traces.extend(trace);
        self
    }

    /// Begins the `apply` spans of the batch. Returns the context for the spans of the transaction.
    pub fn begin_apply(&mut self) -> Option<SpanContext> {
        self.traces.iter_mut().rev().map(BatchTrace::begin_apply).last()
    }

    /// Ends the traces of the batch. If the batch was given up, `error` gives the reason.
    pub fn end(self, error: Option<&str>) {
        self.traces.into_iter().for_each(|trace| trace.end(error));
    }

    /// Records that a request was taken from the quota of this day, but was not sent.
    pub fn not_sent(mut self, day: i32) -> Completed {
        *self.unspent.entry(day).or_default() += 1;
        self
    }

    /// Creates a batch from jobs that need no request, because earlier answers can be used.
    pub fn of_answered(provider: Provider, lookup_keys: impl IntoIterator<Item = LookupKey>) -> Completed {
        let outcomes =
            lookup_keys.into_iter().map(|lookup_key| (lookup_key, Outcome::AlreadyAnswered)).collect();
        Completed { not_before: clock::now(), ..Completed::of(provider, outcomes) }
    }

    /// Merges `other` into this batch. If the two batches may not be stored together, returns `other` unchanged. If the provider's
    /// answers are for blocks, batches are not merged, because each is already large.
    pub fn merge(&mut self, other: Completed) -> Option<Completed> {
        let shares = self.provider.declared().shares_answers();
        let is_same_kind = self.is_about_networks() == other.is_about_networks();
        if shares
            || !is_same_kind
            || !self.is_gathering
            || self.outcomes.len() + other.outcomes.len() > MOST_TOGETHER
        {
            return Some(other);
        }
        self.not_before = self.not_before.min(other.not_before);
        self.outcomes.extend(other.outcomes);
        self.traces.extend(other.traces);
        for (day, requests) in other.unspent {
            *self.unspent.entry(day).or_default() += requests;
        }
        if self.outcomes.len() == MOST_TOGETHER {
            self.not_before = clock::now();
        }
        None
    }

    /// Returns the time when the batch is to be stored. A batch waits for further replies only while requests of its provider are
    /// in flight.
    pub fn due_at(&self, has_requests_in_flight: bool) -> Timestamp {
        if self.is_gathering && !has_requests_in_flight {
            self.since.min(self.not_before)
        } else {
            self.not_before
        }
    }

    /// Postpones the next attempt to store the batch until this time. From now on, no other batch is merged into this batch.
    pub fn postpone(&mut self, until: Timestamp) {
        (self.is_gathering, self.not_before) = (false, until);
    }

    /// Returns true if the lease ends before the next attempt to store the batch. In this case, the jobs will be claimed again.
    pub fn outlives(&self, lease: Lease) -> bool {
        self.not_before >= self.since + lease.duration
    }

    /// Records the results of a transaction that has committed. Returns true if the whole batch is stored.
    pub fn advance(&mut self, stored: Stored) -> bool {
        let count = |what, amount| counters::count(self.provider, what, amount);
        count(Count::Values, stored.values);
        count(Count::Absent, stored.absent);
        count(Count::Shared, stored.shared);
        count(Count::DeadLetters, stored.dead);
        if let Some(reason) = stored.dead_letter_error {
            counters::record_dead_letter(self.provider, &reason);
        }
        self.stored_to = stored.last;
        for (day, requests) in std::mem::take(&mut self.unspent) {
            quota::give_back(self.provider, day, requests);
        }
        if !self.provider.declared().shares_answers() {
            // The inventory contains the answer now, so the batch need not keep it.
            let is_stored = |(lookup_key, outcome): &(&LookupKey, &mut Outcome)| {
                matches!(outcome, Outcome::Answered(..)) && !stored.blocked.contains(lookup_key)
            };
            self.outcomes
                .iter_mut()
                .filter(is_stored)
                .for_each(|(_, outcome)| *outcome = Outcome::AlreadyAnswered);
        }
        if stored.is_last && !stored.blocked.is_empty() {
            // The jobs that are not blocked are completed, so only the blocked jobs stay in the batch.
            self.outcomes.retain(|lookup_key, _| stored.blocked.contains(lookup_key));
            self.is_blocked = true;
            self.postpone(clock::now() + retry_pause());
            return false;
        }
        self.postpone(clock::now());
        stored.is_last
    }
}
