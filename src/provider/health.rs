//! The state of a provider, as `provider_status` and the metrics show it.

use cowrie_enrich_engine::breaker::State;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::clock;
use crate::provider::{Provider, quota};
use crate::shared_state;

/// A provider's health, as `provider_status` shows it.
pub struct Health {
    pub state: State,
    /// The reason why no requests are sent to the provider. Unset if requests are allowed, or if only the circuit breaker prevents
    /// them.
    pub blocked_reason: Option<String>,
    /// True if the provider refused the key, so that no requests are sent for a time.
    pub is_stopped: bool,
    pub failures: u32,
    pub backoff_until: Option<Timestamp>,
    pub in_use: u32,
    pub last_success: Option<Timestamp>,
    pub last_failure: Option<Timestamp>,
    pub last_error: Option<String>,
    pub notice: Option<String>,
    /// The daily quota, the number of requests that remain today, and the time when the next day begins. Unset if the provider has
    /// no daily quota.
    pub quota: Option<(u32, u64, Timestamp)>,
}

/// Returns the current state of a provider.
pub fn health(provider: Provider) -> Health {
    let now = clock::now();
    let state = shared_state::locked(|guarded| guarded.providers[provider.index()]);
    let limit = provider.limits().daily_quota;
    let left = state.quota.left(now, limit);
    Health {
        state: state.breaker.state(now),
        is_stopped: state.stop.until > now,
        blocked_reason: blocked_reason(provider, &state, left),
        failures: state.breaker.failures,
        backoff_until: Some(state.breaker.until.max(state.stop.until)).filter(|until| *until > now),
        in_use: state.in_use,
        last_success: state.last_success.if_set(),
        last_failure: state.last_failure.if_set(),
        last_error: state.last_error.text(),
        notice: state.notice.text(),
        quota: left.map(|left| (limit, left, state.quota.resets_at(now))),
    }
}

fn blocked_reason(
    provider: Provider,
    state: &shared_state::ProviderState,
    left: Option<u64>,
) -> Option<String> {
    if !provider.is_enabled() {
        return Some("the provider is not in cowrie_enrich.enabled_sources".to_owned());
    }
    if let Some(blocked_reason) = provider.blocked_reason() {
        return Some(blocked_reason);
    }
    if state.stop.until > clock::now() {
        return Some(format!("stopped: {}", state.stop.reason.text().unwrap_or_default()));
    }
    match left {
        Some(0) => Some("the daily quota is spent".to_owned()),
        Some(_) if !quota::is_known() => Some(
            "waiting until each database has reported how many requests the database sent today".to_owned(),
        ),
        _ => None,
    }
}
