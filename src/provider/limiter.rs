//! Limits the requests to providers with rate limits, pauses and circuit breakers. The limits apply to all processes of the cluster
//! together.
//!
//! A process takes a permit before it sends a request to a provider. A provider has as many permits as it allows parallel requests.
//! Permits are granted at most at the rate that the provider allows. During a pause no permit is granted. After the request, the
//! process returns the permit, and says whether the provider worked (the verdict). The verdict changes the state of the circuit
//! breaker. When a process ends, it returns its permits.
//!
//! The state of permits, pauses and circuit breakers is in shared memory. If the library is not preloaded, each backend has its own
//! state and limits only its own requests.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::breaker::{Breaker, OPENS_AFTER, Permission};
use cowrie_enrich_engine::providers::Demand;
use cowrie_enrich_engine::random;
use cowrie_enrich_engine::rate::Admission;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::{catalog, clock, shmem};
use crate::provider::{Limits, Provider};
use crate::shared_state::{self, PROVIDERS, WorkerSlot};

/// Whether a process may send a request to a provider now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PermitDecision {
    Granted,
    /// A small request may test whether the provider has recovered.
    Probe,
    NotBefore(Timestamp),
    /// All permits are taken. When a process returns a permit, it wakes a worker that waits for a permit.
    Busy,
}

/// Permission for one request. The caller returns the permit with the outcome of the request. If the caller drops the permit
/// without an outcome, the permit is returned too, with the verdict `Unknown`.
pub struct Permit {
    provider: Provider,
    returned: bool,
    /// True if the request has already been counted against the rate.
    is_counted: bool,
}

/// When a request may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendTime {
    Now,
    /// Other processes have sent requests since the permit was taken. The rate limit allows the request at this time.
    After(Timestamp),
    /// No request may be sent to the provider now, because the provider was stopped or paused in the meantime. Requests may be
    /// allowed again at this time.
    Blocked(Timestamp),
}

/// What the result of an exchange says about the provider.
pub enum Verdict<'a> {
    Answered,
    Failed(&'a str),
    /// The provider rejected the lookup as invalid. The cause may be the lookup or the provider.
    Refused(&'a str),
    /// The provider responded, and deferred the request.
    Deferred(&'a str),
    /// The request was not sent, or it ended too early to say anything about the provider.
    Unknown,
}

thread_local! {
    /// Permits that this process holds, by provider.
    static HELD: Cell<[u32; PROVIDERS]> = const { Cell::new([0; PROVIDERS]) };
}

/// Returns whether a permit would be granted now, and how many permits are available. Does not take a permit.
pub fn available_permits(provider: Provider, limits: &Limits) -> (PermitDecision, usize) {
    let mut copy = shared_state::locked(|guarded| guarded.providers[provider.index()]);
    let now = clock::now();
    let left = copy.quota.left(now, limits.daily_quota);
    if left == Some(0) {
        return (PermitDecision::NotBefore(copy.quota.resets_at(now)), 0);
    }
    if left.is_some() && !super::quota::is_known() {
        return (PermitDecision::NotBefore(now + LEDGERS_ARE_READ_WITHIN), 0);
    }
    let decision = take_from(&mut copy, limits, RateCount::Now);
    let mut permits = usize::from(matches!(decision, PermitDecision::Granted | PermitDecision::Probe));
    while decision == PermitDecision::Granted
        && take_from(&mut copy, limits, RateCount::Now) == PermitDecision::Granted
    {
        permits += 1;
    }
    let left = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
    (decision, permits.min(left))
}

/// Takes a permit for a request that is sent now.
pub fn take_permit(provider: Provider, limits: &Limits) -> Result<(Permit, PermitDecision), PermitDecision> {
    take_permit_counted(provider, limits, RateCount::Now)
}

fn take_permit_counted(
    provider: Provider,
    limits: &Limits,
    rate_count: RateCount,
) -> Result<(Permit, PermitDecision), PermitDecision> {
    shmem::at_exit(process_ends);
    let (decision, more) = shared_state::locked(|guarded| {
        let state = &mut guarded.providers[provider.index()];
        (take_from(state, limits, rate_count), state.in_use < limits.parallel)
    });
    match decision {
        PermitDecision::Granted | PermitDecision::Probe => {
            if more {
                offer_permits(provider);
            }
            let mut held = HELD.get();
            held[provider.index()] += 1;
            HELD.set(held);
            Ok((Permit { provider, returned: false, is_counted: rate_count == RateCount::Now }, decision))
        }
        refused => Err(refused),
    }
}

/// Takes the permits that are available, at most `most`. The requests are sent later, see [`Permit::send_time`].
pub fn take_permits(provider: Provider, most: usize, limits: &Limits) -> Vec<Permit> {
    let grants = std::iter::from_fn(|| match take_permit_counted(provider, limits, RateCount::WhenSent) {
        Ok((permit, PermitDecision::Granted)) => Some(permit),
        _ => None,
    });
    grants.take(most).collect()
}

/// Determines when the rate limit counts a request: when the permit of the request is taken, or when the request is sent. If a
/// provider has a limit per second, this limit applies to the time at which requests are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RateCount {
    Now,
    WhenSent,
}

/// Takes a permit from the state of a provider. If no permit is available, does not change the state.
fn take_from(
    state: &mut shared_state::ProviderState,
    limits: &Limits,
    rate_count: RateCount,
) -> PermitDecision {
    let now = clock::now();
    forget_wrong_times(state, now);
    if state.stop.until > now {
        return PermitDecision::NotBefore(state.stop.until);
    }
    // After a pause, one request tests whether the pause is over.
    let parallel = if state.pauses > 0 { 1 } else { limits.parallel };
    if state.in_use >= parallel || is_others_turn(state, catalog::own_database().to_u32(), now) {
        return PermitDecision::Busy;
    }
    let next = match limits.rate.admit(state.rate, now) {
        _ if rate_count == RateCount::WhenSent => state.rate,
        Admission::Granted { next } => next,
        Admission::NotBefore(until) => return PermitDecision::NotBefore(until),
    };
    // The permission for a probe ends after this time, because the process that sent the probe may have been killed.
    let probe_lasts = limits.longest.saturating_mul(2);
    let decision = match state.breaker.permission(now, probe_lasts) {
        Permission::NotBefore(until) => return PermitDecision::NotBefore(until),
        Permission::Probe => PermitDecision::Probe,
        Permission::Ask => PermitDecision::Granted,
    };
    state.rate = next;
    state.in_use += 1;
    state.turn_ends = Timestamp::UNSET;
    decision
}

/// Corrects times that lie too far in the future. Such times were stored while the clock was wrong.
fn forget_wrong_times(state: &mut shared_state::ProviderState, now: Timestamp) {
    state.stop.until = state.stop.until.min(now + STOPPED_FOR);
    state.turn_ends = state.turn_ends.min(now + TURN_LASTS);
    state.breaker.until = state.breaker.until.min(now + MAX_REQUESTED_PAUSE);
    state.breaker.backoff_until = state.breaker.backoff_until.min(now + MAX_REQUESTED_PAUSE);
}

fn is_others_turn(state: &shared_state::ProviderState, own: u32, now: Timestamp) -> bool {
    now < state.turn_ends && state.next_turn != own
}

impl Permit {
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Returns the permit with a verdict.
    pub fn give_back(mut self, verdict: &Verdict<'_>, limits: &Limits) {
        self.release(verdict, limits.retry_base);
    }

    /// Returns when the request of this permit may be sent. If the request may be sent now, the rate limit counts it now, even if
    /// the permit was taken earlier. If the provider has requested a pause since the permit was taken, the request must wait.
    pub fn send_time(&mut self, limits: &Limits) -> SendTime {
        if self.is_counted {
            return SendTime::Now;
        }
        let now = clock::now();
        let send_time = shared_state::locked(|guarded| {
            let state = &mut guarded.providers[self.provider.index()];
            forget_wrong_times(state, now);
            let backoff_until = state.stop.until.max(state.breaker.until);
            if backoff_until > now {
                return SendTime::Blocked(backoff_until);
            }
            match limits.rate.admit(state.rate, now) {
                Admission::Granted { next } => {
                    state.rate = next;
                    SendTime::Now
                }
                Admission::NotBefore(until) => SendTime::After(until),
            }
        });
        self.is_counted = send_time == SendTime::Now;
        send_time
    }

    fn release(&mut self, verdict: &Verdict<'_>, base: Duration) {
        if std::mem::replace(&mut self.returned, true) {
            return;
        }
        let (now, random) = (clock::now(), random::unit());
        shared_state::locked(|guarded| {
            let state = &mut guarded.providers[self.provider.index()];
            state.in_use = state.in_use.saturating_sub(1);
            match verdict {
                Verdict::Answered => {
                    state.breaker.succeeded();
                    state.refusals = 0;
                    // The answer may belong to a request that was sent before the provider requested a pause. So while the pause
                    // lasts, an answer does not show that the provider accepts requests again.
                    if state.breaker.backoff_until <= now {
                        state.pauses = 0;
                    }
                    state.last_success = now;
                }
                Verdict::Refused(error) => {
                    state.refusals = state.refusals.saturating_add(1);
                    // If this many requests in a row were refused or failed, the cause is probably the provider. Otherwise the
                    // cause may be the lookup.
                    if state.refusals >= OPENS_AFTER || state.breaker.failures >= OPENS_AFTER {
                        fails(state, now, base, random, error);
                    }
                }
                Verdict::Failed(error) => fails(state, now, base, random, error),
                Verdict::Deferred(error) => {
                    state.last_failure = now;
                    state.last_error.set(error);
                }
                Verdict::Unknown => {}
            }
        });
        let mut held = HELD.get();
        held[self.provider.index()] = held[self.provider.index()].saturating_sub(1);
        HELD.set(held);
        offer_permits(self.provider);
    }
}

fn fails(state: &mut shared_state::ProviderState, now: Timestamp, base: Duration, random: f64, error: &str) {
    state.breaker.failed(now, base, random);
    state.last_failure = now;
    state.last_error.set(error);
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release(&Verdict::Unknown, Duration::ZERO);
    }
}

/// Returns all permits of this process when it ends.
fn process_ends() {
    let held = HELD.replace([0; PROVIDERS]);
    for (provider, permits) in Provider::all().zip(held) {
        if permits > 0 {
            shared_state::locked(|guarded| {
                let state = &mut guarded.providers[provider.index()];
                state.in_use = state.in_use.saturating_sub(permits);
            });
            offer_permits(provider);
        }
    }
}

/// If a provider refused the key, the next request is sent after this time. The refusal may have been an error of the provider.
const STOPPED_FOR: Duration = Duration::from_secs(60 * 60);
/// Longest pause, unless the provider itself names a longer pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// Maximum length of a pause. It applies even if the provider requests a longer pause.
const MAX_REQUESTED_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);
/// If a provider has a quota, no permit is granted until each database has reported how much of the quota it has spent. A worker
/// checks again after this time whether all databases have reported.
const LEDGERS_ARE_READ_WITHIN: Duration = Duration::from_millis(100);

/// How long a permit is kept for the next worker.
const TURN_LASTS: Duration = Duration::from_millis(200);

/// Offers the free permits to the next waiting worker, in the order of the worker slots. Without this order, a database with a long
/// queue could take all permits. Only one worker at a time is offered permits. When this worker has taken a permit, it offers the
/// remaining permits to the next worker.
fn offer_permits(provider: Provider) {
    let (own, worker_slots) = (catalog::own_database().to_u32(), &shared_state::block().worker_slots);
    let now = clock::now();
    if shared_state::locked(|guarded| is_others_turn(&guarded.providers[provider.index()], own, now)) {
        return;
    }
    let database = |worker_slot: &WorkerSlot| worker_slot.database.load(Ordering::Acquire);
    let mine = worker_slots.iter().position(|worker_slot| database(worker_slot) == own).unwrap_or(0);
    let in_order = (1..=worker_slots.len()).map(|step| &worker_slots[(mine + step) % worker_slots.len()]);
    let Some(next) = in_order.into_iter().find(|worker_slot| worker_slot.waits_no_more(provider.index()))
    else {
        return;
    };
    shared_state::locked(|guarded| {
        let state = &mut guarded.providers[provider.index()];
        (state.next_turn, state.turn_ends) = (database(next), now + TURN_LASTS);
    });
    next.set_latch();
}

/// Applies a demand of the provider, such as a pause. `credentials` is a fingerprint of the credentials with which the request was
/// sent.
pub fn apply_demand(provider: Provider, demand: &Demand, credentials: u64) {
    let now = clock::now();
    shared_state::locked(|guarded| {
        let state = &mut guarded.providers[provider.index()];
        match demand {
            Demand::Pause(pause) => {
                // Requests that were in flight together count as one pause.
                if state.breaker.backoff_until <= now {
                    state.pauses = state.pauses.saturating_add(1);
                }
                state.breaker.pause_until(now + longer(*pause, state.pauses));
            }
            Demand::Stop(reason) => {
                state.stop.until = now + STOPPED_FOR;
                state.stop.credentials = credentials;
                state.stop.reason.set(reason);
            }
        }
    });
}

/// Returns the length of a pause. `times` is the number of pauses that the provider has requested since its last answer. Each
/// further request for a pause doubles the length.
fn longer(pause: Duration, times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    pause.saturating_mul(factor).min(pause.max(LONGEST_PAUSE))
}

/// Stores a notice that the provider sent with its answer.
pub fn store_notice(provider: Provider, notice: &str) {
    shared_state::locked(|guarded| guarded.providers[provider.index()].notice.set(notice));
}

/// Returns the fingerprint of the credentials that the provider refused. Returns `None` if the provider is not stopped.
pub fn stopped_with(provider: Provider) -> Option<u64> {
    let stop = shared_state::locked(|guarded| guarded.providers[provider.index()].stop);
    (stop.until > clock::now()).then_some(stop.credentials)
}

/// Removes every state that prevents requests to a provider: a stop, a pause, and the count of repeated failures. Does not change
/// the rate and the quota.
pub fn resume(provider: Provider) {
    shared_state::locked(|guarded| {
        let state = &mut guarded.providers[provider.index()];
        state.stop.until = Timestamp::UNSET;
        (state.pauses, state.refusals) = (0, 0);
        state.breaker = Breaker::default();
    });
    wake_all();
}

/// Ends a stop after the cause of the stop has changed, for example after a new key was set. Does not end a pause, because a pause
/// has another cause.
pub fn lift_stop(provider: Provider) {
    shared_state::locked(|guarded| guarded.providers[provider.index()].stop.until = Timestamp::UNSET);
    wake_all();
}

/// Makes every worker check again whether it may send.
fn wake_all() {
    shared_state::block()
        .worker_slots
        .iter()
        .filter(|worker_slot| worker_slot.is_taken())
        .for_each(WorkerSlot::wake);
}

/// Answers older than this are certainly stored.
const WRITTEN_WITHIN: Duration = Duration::from_secs(600);

/// Returns true if it is possible that an answer of the provider is still on its way to the tables. This is so while a request is
/// running, and for some time after the last answer has arrived.
pub fn may_have_pending_answer(provider: Provider) -> bool {
    let state = shared_state::locked(|guarded| guarded.providers[provider.index()]);
    state.in_use > 0 || state.last_success > clock::transaction_start() - WRITTEN_WITHIN
}

/// Returns the time of the provider's last answer. The time is unset if the provider has never answered.
pub fn last_success(provider: Provider) -> Timestamp {
    shared_state::locked(|guarded| guarded.providers[provider.index()].last_success)
}
