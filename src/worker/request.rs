//! Requests to a provider: from claimed jobs to a task for the network, and the conclusions from its reply.

use std::collections::BTreeMap;
use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::{Answer, Demand, Exchange, Failure, Reply};

use super::apply::{CompletedBatch, Outcome};
use super::trace::Batch;
use crate::pg::clock;
use crate::provider::limiter::{self, Count, Leave, Permit, SendTime, Verdict};
use crate::provider::quota;
use crate::provider::{Limits, Provider};
use crate::store::queue::{Blame, Claimed, Failed};
use crate::telemetry;
use crate::telemetry::families;

/// Pause while other processes query the provider, in microseconds.
pub const BUSY_PAUSE: i64 = 250_000;

/// Claimed jobs, and the day whose quota paid for their requests.
pub struct Ask {
    pub jobs: Vec<Claimed>,
    pub day: Option<i32>,
}

/// Jobs in one request to the provider, each with the queried address.
pub struct ProviderRequest {
    pub provider: Provider,
    lookups: Vec<(Prefix, Address)>,
    /// The day whose quota paid for the request.
    pub day: Option<i32>,
    /// A probe takes its permit when it is sent.
    permit: Option<Permit>,
    /// When it was sent, nanoseconds since 1970.
    began: u64,
}

impl ProviderRequest {
    /// Makes one request for each exchange, and gives each a permit while there are permits.
    pub fn of(provider: Provider, ask: &Ask, batch: usize, permits: Vec<Permit>) -> Vec<ProviderRequest> {
        let asked = ask.jobs.iter().filter_map(|claimed| claimed.ask.map(|ask| (claimed.lookup_key, ask)));
        // The queue contains no bogons; this is the last check.
        let public: Vec<_> = asked.filter(|(_, address)| bogon::reason(*address).is_none()).collect();
        let batches = public.chunks(batch.max(1));
        let permits = permits.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        batches
            .zip(permits)
            .map(|(batch, permit)| ProviderRequest {
                provider,
                lookups: batch.to_vec(),
                day: ask.day,
                permit,
                began: 0,
            })
            .collect()
    }

    /// Returns when the request may be sent. This is the last check before sending.
    pub fn departs(&mut self, limits: &Limits) -> SendTime {
        if self.day.is_some_and(quota::is_over) {
            return SendTime::Off(0);
        }
        if let Some(permit) = &mut self.permit {
            return permit.departs(limits);
        }
        match limiter::ask(self.provider, limits) {
            Ok((permit, _)) => {
                self.permit = Some(permit);
                SendTime::Now
            }
            Err(Leave::NotBefore(until)) => SendTime::Off(until),
            Err(_) => SendTime::Off(clock::now() + BUSY_PAUSE),
        }
    }

    pub fn lookup_keys(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.lookups.iter().map(|(lookup_key, _)| *lookup_key)
    }

    /// Begins the exchange and returns its task for the network.
    pub fn task(&mut self) -> Exchange {
        limiter::begins(self.provider, self.lookups.len());
        self.began = clock::unix_nanoseconds();
        Exchange {
            provider: self.provider.declared(),
            settings: self.provider.settings(),
            addresses: self.lookups.iter().map(|(_, address)| *address).collect(),
        }
    }

    /// Handles the reply: judges the provider by it and counts the provider's errors.
    pub fn landed(mut self, reply: Reply, took: Duration, limits: &Limits) -> CompletedBatch {
        if let Some(permit) = self.permit.take() {
            judge(permit, &reply, took, self.lookups.len(), limits);
        }
        let said = (self.lookups.len(), outcome(&reply));
        let trace = Batch::of(self.provider, self.began, said, &reply, took);
        let blame = blame(&reply);
        let Reply { mut answers, failure, unsent, .. } = reply;
        let mut outcomes = BTreeMap::new();
        for (lookup_key, address) in self.lookups {
            let outcome = match answers.remove(&address) {
                Some(Answer::Refused(words)) => {
                    Outcome::Failed(Failed { lookup_key, error: format!("refused: {words}"), blame })
                }
                Some(answer) => Outcome::Answered(address, answer),
                None => Outcome::Failed(unanswered(lookup_key, failure.as_ref(), blame)),
            };
            outcomes.insert(lookup_key, outcome);
        }
        let completed_batch = CompletedBatch::of(self.provider, outcomes).traced(trace);
        match self.day.filter(|_| unsent) {
            Some(day) => {
                quota::give_back(self.provider, day, 1);
                completed_batch.not_spent(day)
            }
            None => completed_batch,
        }
    }
}

/// Returns whether a lookup without an answer counts against the lookup or the provider.
fn blame(reply: &Reply) -> Blame {
    if reply.demand.is_some() || reply.unsent || reply.failure == Some(Failure::Cancelled) {
        Blame::Never
    } else if reply.blames_lookup {
        Blame::Always
    } else {
        Blame::UnlessDown
    }
}

fn unanswered(lookup_key: Prefix, failure: Option<&Failure>, blame: Blame) -> Failed {
    match failure {
        Some(failure) => Failed { lookup_key, error: failure.to_string(), blame },
        None => Failed { lookup_key, error: "the answer has no row for it".to_owned(), blame: Blame::Always },
    }
}

/// Counts a reply, judges the provider by it and follows its demands. A provider that answered at least one
/// lookup is up.
pub fn judge(permit: Permit, reply: &Reply, took: Duration, asked: usize, limits: &Limits) {
    let provider = permit.provider();
    count(provider, reply, asked);
    if !reply.unsent {
        limiter::took(provider, took);
    }
    if let Some(demand) = &reply.demand {
        // The refusal of a key that was replaced in the meantime says nothing about the current key.
        let is_current =
            !matches!(demand, Demand::Stop(_)) || reply.credentials == Some(provider.credentials());
        if is_current {
            limiter::heed(provider, demand, reply.credentials.unwrap_or_default());
        }
    }
    if let Some(notice) = &reply.notice {
        limiter::note(provider, notice);
    }
    match &reply.failure {
        _ if reply.answers.values().any(|answer| !matches!(answer, Answer::Refused(_))) => {
            permit.give_back(&Verdict::Answered, limits);
        }
        // Refusals of these particular lookups say nothing about the provider.
        _ if !reply.answers.is_empty() && reply.blames_lookup => {
            permit.give_back(&Verdict::Unknown, limits);
        }
        _ if !reply.answers.is_empty() => {
            let words = reply.answers.values().find_map(|answer| match answer {
                Answer::Refused(words) => Some(format!("refused: {words}")),
                _ => None,
            });
            permit.give_back(&Verdict::Refused(&words.unwrap_or_default()), limits);
        }
        Some(Failure::Cancelled) => permit.give_back(&Verdict::Unknown, limits),
        Some(failure) => {
            telemetry::error_about(
                provider.title(),
                "a provider gave no complete answer",
                &failure.to_string(),
            );
            let error = failure.to_string();
            // A provider that sends a demand is up.
            let verdict =
                if reply.demand.is_some() { Verdict::Deferred(&error) } else { Verdict::Failed(&error) };
            permit.give_back(&verdict, limits);
        }
        None => permit.give_back(&Verdict::Failed("an answer without a row that makes sense"), limits),
    }
}

fn count(provider: Provider, reply: &Reply, asked: usize) {
    limiter::count(provider, Count::Foreign, reply.anomalies.foreign);
    limiter::count(provider, Count::Malformed, reply.anomalies.malformed);
    limiter::count(provider, Count::Oversized, reply.anomalies.oversized);
    limiter::count(provider, Count::Unanswered, asked.saturating_sub(reply.answers.len()) as u64);
    let refused = reply.answers.values().filter(|answer| matches!(answer, Answer::Refused(_))).count();
    limiter::count(provider, Count::Refused, refused as u64);
    limiter::count(provider, ending(reply), 1);
}

fn ending(reply: &Reply) -> Count {
    reply.failure.as_ref().map_or(Count::Completed, kind_of)
}

/// Returns the outcome of the exchange, as the metrics name it.
fn outcome(reply: &Reply) -> &'static str {
    families::outcome(ending(reply))
}

fn kind_of(failure: &Failure) -> Count {
    match failure {
        Failure::Resolve(_) | Failure::Connect(_) | Failure::ConnectTimeout => Count::Unreachable,
        Failure::Silent => Count::Silent,
        Failure::Stalled | Failure::TooSlow => Count::TimedOut,
        Failure::Cut => Count::CutOff,
        Failure::TooLarge => Count::TooLarge,
        Failure::Status { code: 429, .. } => Count::Throttled,
        Failure::Status { code: 401 | 403, .. } => Count::Unauthorized,
        Failure::Status { .. } => Count::BadStatus,
        Failure::Io(_) | Failure::Malformed(_) | Failure::Cancelled => Count::Failed,
    }
}
