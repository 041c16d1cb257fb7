//! Rate limits, pauses and circuit breakers of providers, across all processes of the cluster.
//!
//! A process takes a permit before it sends a request to a provider. The number of permits is the provider's
//! limit of parallel requests. Permits are granted no faster than the provider's rate, and none during a
//! pause. The holder returns the permit with a verdict, which moves the breaker. A process that ends returns
//! its permits. The state is in shared memory; without preload, every backend limits itself alone.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::breaker::{Breaker, OPENS_AFTER, Permission, State};
use cowrie_enrich_engine::providers::Demand;
use cowrie_enrich_engine::random;
use cowrie_enrich_engine::rate::Admission;

use crate::pg::shared::{self, PROVIDER_SLOTS, PROVIDERS, WorkerSlot};
use crate::pg::{catalog, clock};
use crate::provider::{Limits, Provider};
use crate::telemetry::{self, Distribution};

/// Counters of a provider. Append only: the slots are laid out by these numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Count {
    /// Exchanges begun, and lookup keys in them.
    Requests = 0,
    Questions,
    /// Answers that were applied: values, and valid answers that the address is not announced.
    Values,
    Absent,
    /// Addresses that were served from an earlier answer for their block.
    Shared,
    /// Lookup keys that an exchange left without an answer, and those that the provider refused.
    Unanswered,
    Refused,
    /// Rows dropped: for addresses that were not in the request, invalid, too long.
    Foreign,
    Malformed,
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
    /// Exchanges that the provider refused: too many requests (429), the key (401, 403), another status.
    Throttled,
    Unauthorized,
    BadStatus,
    /// Exchanges that succeeded.
    Completed,
}

/// The counts that `provider_status` shows, in its order.
pub const COUNTS: [Count; 20] = [
    Count::Requests,
    Count::Questions,
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

/// Adds to a count at once, because the counted event happened on the network even if the transaction rolls
/// back.
pub fn count(provider: Provider, what: Count, amount: u64) {
    if amount > 0 {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        shared::block().provider_counters[provider.place()][what as usize]
            .fetch_add(amount, Ordering::Relaxed);
    }
}

/// Records that a lookup became a dead letter, and the reason.
pub fn buried(provider: Provider, reason: &str) {
    let now = clock::now();
    shared::locked(|guarded| {
        let last = &mut guarded.last_buried;
        (last.provider, last.at) = (provider.place() as u32, now);
        last.reason.set(reason);
    });
}

/// Returns the last dead letter since the server was started: provider, reason, time (microseconds since
/// 2000).
pub fn last_buried() -> Option<(Provider, String, i64)> {
    let last = shared::locked(|guarded| guarded.last_buried);
    let provider = Provider::all().nth(last.provider as usize)?;
    (last.at != 0).then(|| (provider, last.reason.text().unwrap_or_default(), last.at))
}

/// Counts the start of an exchange with `questions` lookup keys.
pub fn begins(provider: Provider, questions: usize) {
    count(provider, Count::Requests, 1);
    count(provider, Count::Questions, questions as u64);
    telemetry::happened(Distribution::Batch(provider), i64::try_from(questions).unwrap_or(i64::MAX));
}

/// Records the duration of an exchange, from beginning to end.
pub fn took(provider: Provider, time: Duration) {
    let nanoseconds = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    telemetry::happened(Distribution::Request(provider), nanoseconds);
}

pub fn counted(provider: Provider, what: Count) -> i64 {
    shared::block().provider_counters[provider.place()][what as usize].load(Ordering::Relaxed)
}

/// Answer to a process that wants to query a provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    Granted,
    /// A small request may test whether the provider has recovered.
    Probe,
    /// Microseconds since 2000.
    NotBefore(i64),
    /// All permits are taken; a process that returns one wakes those that wait.
    Busy,
}

/// Permission for one request. It is returned with a verdict, or without one when it is dropped.
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
    /// Other processes sent first, and the rate requires a pause; until microseconds since 2000.
    Waits(i64),
    /// The provider may no longer be queried, until this time.
    Off(i64),
}

/// Result of an exchange, as far as it says something about the provider.
pub enum Verdict<'a> {
    Answered,
    Failed(&'a str),
    /// The provider rejected the lookup as invalid; the fault may be in the lookup or at the provider.
    Refused(&'a str),
    /// The provider responded, and deferred the request.
    Deferred(&'a str),
    /// The request was not sent, or ended too early for a verdict.
    Unknown,
}

thread_local! {
    /// Permits that this process holds, by provider.
    static HELD: Cell<[u32; PROVIDERS]> = const { Cell::new([0; PROVIDERS]) };
}

/// Returns whether a permit would be granted now, and how many are available; takes none.
pub fn look(provider: Provider, limits: &Limits) -> (Leave, usize) {
    let mut copy = shared::locked(|guarded| guarded.providers[provider.place()]);
    let now = clock::now();
    let left = copy.quota.left(now, limits.daily_quota);
    if left == Some(0) {
        return (Leave::NotBefore(copy.quota.resets_at(now)), 0);
    }
    if left.is_some() && !super::quota::is_known() {
        return (Leave::NotBefore(now + LEDGERS_ARE_READ_WITHIN), 0);
    }
    let leave = take(&mut copy, limits, Rated::Now);
    let mut permits = usize::from(matches!(leave, Leave::Granted | Leave::Probe));
    while leave == Leave::Granted && take(&mut copy, limits, Rated::Now) == Leave::Granted {
        permits += 1;
    }
    let left = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
    (leave, permits.min(left))
}

/// Takes a permit for a request that is sent now.
pub fn ask(provider: Provider, limits: &Limits) -> Result<(Permit, Leave), Leave> {
    ask_rated(provider, limits, Rated::Now)
}

fn ask_rated(provider: Provider, limits: &Limits, rated: Rated) -> Result<(Permit, Leave), Leave> {
    shared::at_exit(process_ends);
    let (leave, more) = shared::locked(|guarded| {
        let state = &mut guarded.providers[provider.place()];
        (take(state, limits, rated), state.in_use < limits.parallel)
    });
    match leave {
        Leave::Granted | Leave::Probe => {
            if more {
                hand_on(provider);
            }
            let mut held = HELD.get();
            held[provider.place()] += 1;
            HELD.set(held);
            Ok((Permit { provider, returned: false, is_counted: rated == Rated::Now }, leave))
        }
        refused => Err(refused),
    }
}

/// Takes up to `most` available permits for requests that are sent later: see [`Permit::departs`].
pub fn ask_for(provider: Provider, most: usize, limits: &Limits) -> Vec<Permit> {
    let grants = std::iter::from_fn(|| match ask_rated(provider, limits, Rated::Later) {
        Ok((permit, Leave::Granted)) => Some(permit),
        _ => None,
    });
    grants.take(most).collect()
}

/// When the rate counts a request: the limit of a second applies to the requests sent in it, not to the
/// permits taken in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rated {
    Now,
    Later,
}

/// Takes a permit out of a provider's state. If none is available, the state stays unchanged.
fn take(state: &mut shared::Provider, limits: &Limits, rated: Rated) -> Leave {
    let now = clock::now();
    forget_wrong_times(state, now);
    if state.stop.until > now {
        return Leave::NotBefore(state.stop.until);
    }
    // After a pause, one request tests whether it is over.
    let parallel = if state.rests > 0 { 1 } else { limits.parallel };
    if state.in_use >= parallel || is_others_turn(state, catalog::own_database().to_u32(), now) {
        return Leave::Busy;
    }
    let next = match limits.rate.admit(state.rate, now) {
        _ if rated == Rated::Later => state.rate,
        Admission::Granted { next } => next,
        Admission::NotBefore(until) => return Leave::NotBefore(until),
    };
    // A probe expires after a while, in case its process was killed.
    let probe_lasts = 2 * clock::micros(limits.longest);
    let leave = match state.breaker.permission(now, probe_lasts) {
        Permission::NotBefore(until) => return Leave::NotBefore(until),
        Permission::Probe => Leave::Probe,
        Permission::Ask => Leave::Granted,
    };
    state.rate = next;
    state.in_use += 1;
    state.turn_ends = 0;
    leave
}

/// Corrects times that lie too far ahead, because the clock was ahead when they were set.
fn forget_wrong_times(state: &mut shared::Provider, now: i64) {
    state.stop.until = state.stop.until.min(now + clock::micros(STOPPED_FOR));
    state.turn_ends = state.turn_ends.min(now + TURN_LASTS);
    state.breaker.until = state.breaker.until.min(now + clock::micros(LONGEST_NAMED_REST));
    state.breaker.backoff_until = state.breaker.backoff_until.min(now + clock::micros(LONGEST_NAMED_REST));
}

fn is_others_turn(state: &shared::Provider, own: u32, now: i64) -> bool {
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

    /// Returns whether the permit's request may be sent now. The rate counts the request from here on, even
    /// if the permit was taken earlier. A pause that the provider has asked for since then applies.
    pub fn departs(&mut self, limits: &Limits) -> SendTime {
        if self.is_counted {
            return SendTime::Now;
        }
        let now = clock::now();
        let departure = shared::locked(|guarded| {
            let state = &mut guarded.providers[self.provider.place()];
            forget_wrong_times(state, now);
            let backoff_until = state.stop.until.max(state.breaker.until);
            if backoff_until > now {
                return SendTime::Off(backoff_until);
            }
            match limits.rate.admit(state.rate, now) {
                Admission::Granted { next } => {
                    state.rate = next;
                    SendTime::Now
                }
                Admission::NotBefore(until) => SendTime::Waits(until),
            }
        });
        self.is_counted = departure == SendTime::Now;
        departure
    }

    fn release(&mut self, verdict: &Verdict<'_>, base: Duration) {
        if std::mem::replace(&mut self.returned, true) {
            return;
        }
        let (now, random) = (clock::now(), random::unit());
        shared::locked(|guarded| {
            let state = &mut guarded.providers[self.provider.place()];
            state.in_use = state.in_use.saturating_sub(1);
            match verdict {
                Verdict::Answered => {
                    state.breaker.succeeded();
                    state.refusals = 0;
                    // A response to a request sent before the provider asked for a pause does not show that
                    // the pause is over.
                    if state.breaker.backoff_until <= now {
                        state.rests = 0;
                    }
                    state.last_success = now;
                }
                Verdict::Refused(error) => {
                    state.refusals = state.refusals.saturating_add(1);
                    // After this number of refusals in a row, or while the provider was down, the fault is
                    // not in the lookups.
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
        held[self.provider.place()] = held[self.provider.place()].saturating_sub(1);
        HELD.set(held);
        hand_on(self.provider);
    }
}

fn fails(state: &mut shared::Provider, now: i64, base: Duration, random: f64, error: &str) {
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
            shared::locked(|guarded| {
                let state = &mut guarded.providers[provider.place()];
                state.in_use = state.in_use.saturating_sub(permits);
            });
            hand_on(provider);
        }
    }
}

/// A provider that refused the key is tried again after this time, because the refusal may have been the
/// provider's own fault.
const STOPPED_FOR: Duration = Duration::from_secs(60 * 60);
/// A pause does not grow beyond this, unless the provider itself names a longer one.
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);
/// No pause is longer than this, even if the provider names a longer one.
const LONGEST_NAMED_REST: Duration = Duration::from_secs(24 * 60 * 60);
/// Interval, in microseconds, at which a worker checks whether all databases' spent quotas are known.
const LEDGERS_ARE_READ_WITHIN: i64 = 100_000;

/// How long a permit is kept for the next worker, in microseconds.
const TURN_LASTS: i64 = 200_000;

/// Offers free permits to the next waiting worker in the order of the slots. Otherwise a database with a long
/// queue would keep the others from sending. One turn at a time: the worker that takes a permit passes the
/// remaining ones on.
fn hand_on(provider: Provider) {
    let (own, worker_slots) = (catalog::own_database().to_u32(), &shared::block().worker_slots);
    let now = clock::now();
    if shared::locked(|guarded| is_others_turn(&guarded.providers[provider.place()], own, now)) {
        return;
    }
    let database = |worker_slot: &WorkerSlot| worker_slot.database.load(Ordering::Acquire);
    let mine = worker_slots.iter().position(|worker_slot| database(worker_slot) == own).unwrap_or(0);
    let in_order = (1..=worker_slots.len()).map(|step| &worker_slots[(mine + step) % worker_slots.len()]);
    let Some(next) = in_order.into_iter().find(|worker_slot| worker_slot.waits_no_more(provider.place()))
    else {
        return;
    };
    shared::locked(|guarded| {
        let state = &mut guarded.providers[provider.place()];
        (state.next_turn, state.turn_ends) = (database(next), now + TURN_LASTS);
    });
    next.set_latch();
}

/// Applies the provider's demand to its clients. `credentials` is the fingerprint of those in the request.
pub fn heed(provider: Provider, demand: &Demand, credentials: u64) {
    let now = clock::now();
    let after = |pause: Duration| now.saturating_add(clock::micros(pause));
    shared::locked(|guarded| {
        let state = &mut guarded.providers[provider.place()];
        match demand {
            Demand::Rest(pause) => {
                // Requests that were in flight together count as one pause.
                if state.breaker.backoff_until <= now {
                    state.rests = state.rests.saturating_add(1);
                }
                state.breaker.rest_until(after(longer(*pause, state.rests)));
            }
            Demand::Stop(reason) => {
                state.stop.until = after(STOPPED_FOR);
                state.stop.credentials = credentials;
                state.stop.reason.set(reason);
            }
        }
    });
}

/// Returns the pause. It doubles if the provider asks again and again without an answer in between.
fn longer(pause: Duration, times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX);
    pause.saturating_mul(factor).min(pause.max(LONGEST_REST))
}

/// Stores a notice that the provider sent with its answer.
pub fn note(provider: Provider, notice: &str) {
    shared::locked(|guarded| guarded.providers[provider.place()].notice.set(notice));
}

/// Returns the fingerprint of the refused credentials while the provider is stopped.
pub fn stopped_with(provider: Provider) -> Option<u64> {
    let stop = shared::locked(|guarded| guarded.providers[provider.place()].stop);
    (stop.until > clock::now()).then_some(stop.credentials)
}

/// Clears the reasons for which a provider is not queried: a stop, a pause, repeated failures. The rate and
/// the quota stay.
pub fn resume(provider: Provider) {
    shared::locked(|guarded| {
        let state = &mut guarded.providers[provider.place()];
        state.stop.until = 0;
        (state.rests, state.refusals) = (0, 0);
        state.breaker = Breaker::default();
    });
    wake_all();
}

/// Lifts a stop after its cause has changed. A pause that the provider asked for stays, because it had
/// another reason.
pub fn lift_stop(provider: Provider) {
    shared::locked(|guarded| guarded.providers[provider.place()].stop.until = 0);
    wake_all();
}

/// Makes every worker check again whether it may send.
fn wake_all() {
    shared::block()
        .worker_slots
        .iter()
        .filter(|worker_slot| worker_slot.is_taken())
        .for_each(WorkerSlot::wake);
}

/// A provider's health, as `provider_status` shows it.
pub struct Health {
    pub state: State,
    /// Why it is not queried, for reasons other than the circuit breaker.
    pub blocked_reason: Option<String>,
    /// True if the provider refused the key and is stopped for that reason.
    pub is_stopped: bool,
    pub failures: u32,
    /// Microseconds since 2000.
    pub backoff_until: Option<i64>,
    pub in_use: u32,
    pub last_success: Option<i64>,
    pub last_failure: Option<i64>,
    pub last_error: Option<String>,
    pub notice: Option<String>,
    /// For a provider with a daily quota: the quota, the remaining requests, and when the next day begins.
    pub quota: Option<(u32, u64, i64)>,
}

pub fn health(provider: Provider) -> Health {
    let now = clock::now();
    let state = shared::locked(|guarded| guarded.providers[provider.place()]);
    let ever = |time: i64| (time != 0).then_some(time);
    let limit = provider.limits().daily_quota;
    let left = state.quota.left(now, limit);
    Health {
        state: state.breaker.state(now),
        is_stopped: state.stop.until > now,
        blocked_reason: blocked_reason(provider, &state, left),
        failures: state.breaker.failures,
        backoff_until: ever(state.breaker.until.max(state.stop.until)).filter(|until| *until > now),
        in_use: state.in_use,
        last_success: ever(state.last_success),
        last_failure: ever(state.last_failure),
        last_error: state.last_error.text(),
        notice: state.notice.text(),
        quota: left.map(|left| (limit, left, state.quota.resets_at(now))),
    }
}

fn blocked_reason(provider: Provider, state: &shared::Provider, left: Option<u64>) -> Option<String> {
    if !provider.is_enabled() {
        return Some("not in cowrie_enrich.enabled_sources".to_owned());
    }
    if let Some(blocked_reason) = provider.blocked_reason() {
        return Some(blocked_reason);
    }
    if state.stop.until > clock::now() {
        return Some(format!("stopped: {}", state.stop.reason.text().unwrap_or_default()));
    }
    match left {
        Some(0) => Some("the daily quota is spent".to_owned()),
        Some(_) if !super::quota::is_known() => Some("waiting for what all databases spent today".to_owned()),
        _ => None,
    }
}

/// Answers older than this are certainly stored, in microseconds.
const WRITTEN_WITHIN: i64 = 600_000_000;

/// Returns whether an answer of the provider may be pending: requested, or received and not stored yet.
pub fn is_speaking(provider: Provider) -> bool {
    let state = shared::locked(|guarded| guarded.providers[provider.place()]);
    state.in_use > 0 || state.last_success > clock::transaction_start() - WRITTEN_WITHIN
}

/// Returns when the provider last answered; 0 is never.
pub fn last_success(provider: Provider) -> i64 {
    shared::locked(|guarded| guarded.providers[provider.place()].last_success)
}
