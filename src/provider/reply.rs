//! Processes the reply to a request. Updates the counters and the circuit breaker of the provider, and applies the demands that the
//! provider sent.

use std::time::Duration;

use cowrie_enrich_engine::providers::{Answer, Demand, Failure, Reply};

use crate::provider::counters::{self, Count};
use crate::provider::limiter::{self, Permit, Verdict};
use crate::provider::{Limits, Provider};
use crate::telemetry;

/// Counts a reply, applies the demands in the reply, and returns the permit with a verdict about the provider. If the provider
/// answered at least one lookup, the provider works.
pub fn apply_reply(permit: Permit, reply: &Reply, took: Duration, asked: usize, limits: &Limits) {
    let provider = permit.provider();
    count(provider, reply, asked);
    if !reply.unsent {
        counters::record_duration(provider, took);
    }
    if let Some(demand) = &reply.demand {
        // If the provider refused a key that was replaced in the meantime, the refusal says nothing about the current key.
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
        // The provider refused only these lookups. The refusal does not show whether the provider works.
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
