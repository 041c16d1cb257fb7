//! Evaluates the reply to a request: changes the counts and the breaker of the provider, and applies the
//! provider's demands.

use std::time::Duration;

use cowrie_enrich_engine::providers::{Answer, Demand, Failure, Reply};

use crate::provider::counters::{self, Count};
use crate::provider::limiter::{self, Permit, Verdict};
use crate::provider::{Limits, Provider};
use crate::telemetry;

/// Counts a reply, applies the demands in it, and returns the permit with a verdict about the provider. A
/// provider that answered at least one lookup is up.
pub fn apply_reply(permit: Permit, reply: &Reply, took: Duration, asked: usize, limits: &Limits) {
    let provider = permit.provider();
    count(provider, reply, asked);
    if !reply.unsent {
        counters::record_duration(provider, took);
    }
    if let Some(demand) = &reply.demand {
        // The refusal of a key that was replaced in the meantime says nothing about the current key.
        let is_current =
            !matches!(demand, Demand::Stop(_)) || reply.credentials == Some(provider.credentials());
        if is_current {
            limiter::apply_demand(provider, demand, reply.credentials.unwrap_or_default());
        }
    }
    if let Some(notice) = &reply.notice {
        limiter::store_notice(provider, notice);
    }
    let has_answers = reply.all_answers().next().is_some();
    match &reply.failure {
        _ if reply.all_answers().any(|answer| !matches!(answer, Answer::Refused(_))) => {
            permit.give_back(&Verdict::Answered, limits);
        }
        // The provider refused these particular lookups. This says nothing about the state of the provider.
        _ if has_answers && reply.blames_lookup => {
            permit.give_back(&Verdict::Unknown, limits);
        }
        _ if has_answers => {
            let words = reply.all_answers().find_map(|answer| match answer {
                Answer::Refused(words) => Some(format!("refused: {words}")),
                _ => None,
            });
            permit.give_back(&Verdict::Refused(&words.unwrap_or_default()), limits);
        }
        Some(Failure::Cancelled) => permit.give_back(&Verdict::Unknown, limits),
        Some(failure) => {
            telemetry::error_about(
                provider.title(),
                "a request to a provider returned no complete answer",
                &failure.to_string(),
            );
            let error = failure.to_string();
            // A provider that sends a demand is up.
            let verdict =
                if reply.demand.is_some() { Verdict::Deferred(&error) } else { Verdict::Failed(&error) };
            permit.give_back(&verdict, limits);
        }
        None => permit.give_back(&Verdict::Failed("the provider's answer contained no valid row"), limits),
    }
}

fn count(provider: Provider, reply: &Reply, asked: usize) {
    counters::count(provider, Count::Foreign, reply.anomalies.foreign);
    counters::count(provider, Count::Malformed, reply.anomalies.malformed);
    counters::count(provider, Count::Oversized, reply.anomalies.oversized);
    counters::count(provider, Count::Unanswered, asked.saturating_sub(reply.all_answers().count()) as u64);
    let refused = reply.all_answers().filter(|answer| matches!(answer, Answer::Refused(_))).count();
    counters::count(provider, Count::Refused, refused as u64);
    counters::count(provider, Count::of_outcome(reply.failure.as_ref()), 1);
}
