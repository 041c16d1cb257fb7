//! One provider's jobs, from the claim to the stored answer. Providers share only the process, so none waits
//! for another.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::sync::atomic::Ordering;

use cowrie_enrich_engine::prefix::Prefix;

use super::apply::{self, CompletedBatch};
use super::due::retry_pause;
use super::in_flight::InFlight;
use super::request::{Ask, BUSY_PAUSE, ProviderRequest};
use super::session_priority::SessionPriorities;
use super::steps::{Steps, Stop};
use crate::pg::clock;
use crate::pg::role::with_settings;
use crate::provider::limiter::{self, Leave, SendTime};
use crate::provider::quota;
use crate::provider::{Limits, Provider};
use crate::store::provider_quota;
use crate::store::queue::{self, Claimed, Lease};
use crate::telemetry::spans;
use crate::worker::registry::StepKind;

/// How long claimed jobs may wait until they are sent, in microseconds. They wait while it is another
/// worker's turn, or while this worker is delayed.
const LONGEST_WAIT: i64 = 2_000_000;
/// Interval at which the worker checks whether a refused key was replaced, in microseconds.
const CREDENTIALS_EVERY: i64 = 1_000_000;
/// How long a claim waits for a lock. Meanwhile the worker holds permits, for which other databases wait.
const CLAIM_WAITS: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"100ms")];
/// Lookups of a probe: enough to test whether the provider has recovered.
const PROBE_SIZE: usize = 10;

pub struct ProviderQueue {
    pub provider: Provider,
    /// When there are jobs to claim, and until when the provider may not be queried; microseconds since 2000.
    pub next_due: i64,
    blocked_until: i64,
    /// When to check again whether a stopped provider may be queried.
    next_credentials: i64,
    /// Requests whose jobs are claimed and whose quota is spent, but which are not sent yet because of the
    /// rate; and since when.
    ready: VecDeque<ProviderRequest>,
    ready_since: i64,
    /// The most urgent jobs need no request, so the next claim looks at many jobs together.
    is_behind_known: bool,
    /// Completed batches whose answers are not stored yet.
    completed_batches: Vec<CompletedBatch>,
    /// Unused jobs and quota, which the queue and the ledger must get back before the next claim.
    to_give_back: Vec<Unused>,
}

/// Jobs that are released without a request, and requests that were taken from the quota and not sent.
struct Unused {
    lookup_keys: Vec<Prefix>,
    day: Option<i32>,
    requests: usize,
    /// True if the requests were returned to shared memory.
    is_returned: bool,
}

impl ProviderQueue {
    pub fn of(provider: Provider) -> ProviderQueue {
        ProviderQueue {
            provider,
            next_due: 0,
            blocked_until: 0,
            next_credentials: 0,
            ready: VecDeque::new(),
            ready_since: 0,
            is_behind_known: false,
            completed_batches: Vec::new(),
            to_give_back: Vec::new(),
        }
    }

    /// Returns when there is something to do without a wake-up, microseconds since 2000.
    pub fn next(&self, in_flight: &InFlight) -> i64 {
        let is_stopped = self.next_due < self.blocked_until && limiter::stopped_with(self.provider).is_some();
        let blocked_until =
            if is_stopped { self.blocked_until.min(self.next_credentials) } else { self.blocked_until };
        let next_due = if self.ready.is_empty() { self.next_due } else { 0 };
        next_due.max(blocked_until).min(self.lands_at(in_flight))
    }

    /// Takes a completed batch.
    pub fn take(&mut self, completed_batch: CompletedBatch) {
        (self.next_due, self.blocked_until) = (0, 0);
        self.add(completed_batch);
    }

    /// Adds jobs that earlier answers serve. Blocks form one batch of any size, because their addresses are
    /// read in parts.
    pub fn serve(&mut self, lookup_keys: impl IntoIterator<Item = Prefix>) {
        let shares = self.provider.declared().shares_answers();
        let together = if shares { usize::MAX } else { apply::MOST_TOGETHER };
        let mut lookup_keys = lookup_keys.into_iter().peekable();
        while lookup_keys.peek().is_some() {
            self.add(CompletedBatch::of_known(self.provider, lookup_keys.by_ref().take(together)));
        }
    }

    fn add(&mut self, completed_batch: CompletedBatch) {
        let completed_batch = match self.completed_batches.last_mut() {
            Some(last) => last.absorb(completed_batch),
            None => Some(completed_batch),
        };
        self.completed_batches.extend(completed_batch);
    }

    /// Sends jobs while there are some and the provider may be queried. If no claimed job needs a request, it
    /// stops until the next round, because completed batches must not wait longer.
    pub fn dispatch(
        &mut self,
        steps: &Steps,
        in_flight: &mut InFlight,
        ranking: &SessionPriorities,
    ) -> Result<(), Stop> {
        let provider = self.provider;
        self.blocked_until = 0;
        steps.worker_slot.waits_no_more(provider.place());
        self.give_back(steps)?;
        if !provider.is_enabled() || provider.blocked_reason().is_some() {
            let ready = std::mem::take(&mut self.ready);
            self.blocked_until = i64::MAX;
            return self.release_jobs(steps, ready);
        }
        self.see_to_credentials();
        let limits = provider.limits();
        while self.depart(steps, in_flight, &limits)? && self.next_due <= clock::now() {
            // The session priorities decide on what a quota is spent, so they are evaluated first.
            if ranking.holds(provider) {
                return Ok(());
            }
            let (leave, permits) = self.may_ask(steps, &limits);
            let (permits, most) = match (leave, permits) {
                (Leave::Granted, permits) => {
                    // The permits are taken before the quota, because requests that are returned to the quota
                    // may have been counted elsewhere.
                    let permits = limiter::ask_for(provider, permits, &limits);
                    let most = permits.len().saturating_mul(limits.batch);
                    (permits, most)
                }
                // The probe's permit is taken once there is a job to send.
                (Leave::Probe, _) => (Vec::new(), PROBE_SIZE.min(limits.batch)),
                (Leave::NotBefore(until), _) => {
                    self.blocked_until = until;
                    return Ok(());
                }
                (Leave::Busy, _) => (Vec::new(), 0),
            };
            if most == 0 {
                // A process that returns a permit wakes this process. This pause is for the case that no
                // wake-up comes.
                self.blocked_until = clock::now() + BUSY_PAUSE.min(retry_pause());
                return Ok(());
            }
            let ask = self.claim(steps, most, &limits, leave == Leave::Probe)?;
            self.serve(ask.jobs.iter().filter(|job| job.ask.is_none()).map(|job| job.lookup_key));
            self.ready = ProviderRequest::of(provider, &ask, limits.batch, permits).into();
            self.ready_since = clock::now();
            self.is_behind_known = self.ready.is_empty() && !ask.jobs.is_empty();
            if self.ready.is_empty() {
                if ask.jobs.is_empty() && self.next_due <= clock::now() {
                    // Jobs are due, but another transaction holds them.
                    self.blocked_until = clock::now() + BUSY_PAUSE.min(retry_pause());
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lifts the stop of a provider that refused a key, once there is another key.
    fn see_to_credentials(&mut self) {
        let now = clock::now();
        if self.next_credentials > now {
            return;
        }
        self.next_credentials = now + CREDENTIALS_EVERY;
        let refused = limiter::stopped_with(self.provider);
        if refused.is_some_and(|refused| self.provider.credentials() != refused) {
            limiter::lift_stop(self.provider);
        }
    }

    fn may_ask(&self, steps: &Steps, limits: &Limits) -> (Leave, usize) {
        let (leave, permits) = limiter::look(self.provider, limits);
        if leave != Leave::Busy {
            return (leave, permits);
        }
        steps.worker_slot.waits_for(self.provider.place());
        // Another process may have returned a permit before the note was there.
        let (leave, permits) = limiter::look(self.provider, limits);
        if leave != Leave::Busy {
            steps.worker_slot.waits_no_more(self.provider.place());
        }
        (leave, permits)
    }

    /// Leases jobs, at most `most` of which need a request, and takes their requests out of the day's quota.
    /// If fewer jobs are found than looked for, finds out when the next ones fall due.
    fn claim(&mut self, steps: &Steps, most: usize, limits: &Limits, probe: bool) -> Result<Ask, Stop> {
        let (provider, lease) = (self.provider, steps.lease([self.provider]));
        let look_at = if self.is_behind_known { most.max(apply::MOST_TOGETHER) } else { most };
        let mut reserved = None;
        let claimed = steps.step(StepKind::Claim, |_, connection| {
            let jobs =
                with_settings(CLAIM_WAITS, || queue::claim(connection, provider, look_at, lease, probe));
            let mut next = (jobs.len() < look_at).then(|| queue::next_due(connection, provider));
            let mut asked = jobs.iter().filter(|job| job.ask.is_some()).count().min(most);
            if asked > 0 {
                reserved = quota::reserve(provider, asked.div_ceil(limits.batch), limits);
            }
            if let Some(reserved) = &reserved {
                asked = asked.min(reserved.requests as usize * limits.batch);
                provider_quota::spend(connection, provider, reserved);
            }
            let (jobs, excess) = within(jobs, asked);
            let excess: Vec<Prefix> = excess.iter().map(|job| job.lookup_key).collect();
            if !excess.is_empty() {
                queue::give_back(connection, provider, &excess, lease);
                next = Some(Some(0));
            }
            (jobs, next)
        });
        if let (Err(_), Some(reserved)) = (&claimed, reserved) {
            quota::give_back(provider, reserved.day, reserved.requests as usize);
        }
        let (jobs, next) = claimed?;
        if let Some(next) = next {
            self.next_due = next.unwrap_or(i64::MAX);
        }
        Ok(Ask { jobs, day: reserved.map(|reserved| reserved.day) })
    }

    /// Sends the requests that are ready. Returns whether all of them are in flight.
    fn depart(&mut self, steps: &Steps, in_flight: &mut InFlight, limits: &Limits) -> Result<bool, Stop> {
        while let Some(mut request) = self.ready.pop_front() {
            let now = clock::now();
            let is_late = now - self.ready_since > LONGEST_WAIT;
            let departure = if is_late { SendTime::Off(now) } else { request.departs(limits) };
            let not_before = match departure {
                SendTime::Now => match in_flight.start(request) {
                    None => continue,
                    Some(left) => {
                        request = left;
                        now + retry_pause()
                    }
                },
                SendTime::Waits(until) if until - now <= LONGEST_WAIT => {
                    self.ready.push_front(request);
                    self.blocked_until = until;
                    return Ok(false);
                }
                SendTime::Waits(until) | SendTime::Off(until) => until,
            };
            let mut left = std::mem::take(&mut self.ready);
            left.push_front(request);
            (self.next_due, self.blocked_until) = (0, not_before);
            self.release_jobs(steps, left)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Releases the jobs of requests that may not be sent after all, and returns their share of the day's
    /// quota.
    fn release_jobs(&mut self, steps: &Steps, requests: VecDeque<ProviderRequest>) -> Result<(), Stop> {
        let Some(first) = requests.front() else { return Ok(()) };
        // All were claimed together.
        let day = first.day;
        let lookup_keys: Vec<Prefix> = requests.iter().flat_map(ProviderRequest::lookup_keys).collect();
        self.to_give_back.push(Unused { lookup_keys, day, requests: requests.len(), is_returned: false });
        self.give_back(steps)
    }

    /// Returns unused jobs and quota. If a step fails, the rest stays for the next round.
    fn give_back(&mut self, steps: &Steps) -> Result<(), Stop> {
        let (provider, lease) = (self.provider, steps.lease([self.provider]));
        while let Some(unused) = self.to_give_back.last() {
            steps.step(StepKind::GiveBack, |_, connection| {
                queue::give_back(connection, provider, &unused.lookup_keys, lease);
                if let Some(day) = unused.day {
                    provider_quota::unspend(connection, provider, day, unused.requests);
                }
            })?;
            if let (Some(day), false) = (unused.day, unused.is_returned) {
                quota::give_back(provider, day, unused.requests);
            }
            self.to_give_back.pop();
            self.next_due = 0;
        }
        Ok(())
    }

    /// Returns when a batch is to be stored. Once no request is in flight, there are no more answers to
    /// gather.
    fn lands_at(&self, in_flight: &InFlight) -> i64 {
        let is_alone = !in_flight.has_any_of(self.provider);
        let of = |completed_batch: &CompletedBatch| {
            if is_alone { completed_batch.alone_at() } else { completed_batch.not_before }
        };
        self.completed_batches.iter().map(of).min().unwrap_or(i64::MAX)
    }

    /// Keeps a batch for a later transaction, unless its lease has run out: then the jobs will be claimed
    /// again.
    fn keep(&mut self, completed_batch: CompletedBatch, lease: Lease) {
        if completed_batch.not_before < completed_batch.since + (lease.seconds * 1e6) as i64 {
            self.completed_batches.push(completed_batch);
        } else {
            self.to_give_back.extend(completed_batch.unspent().map(|(day, requests)| Unused {
                lookup_keys: Vec::new(),
                day: Some(day),
                requests,
                is_returned: true,
            }));
            self.next_due = 0;
            completed_batch.ended(Some("it could not be written down in time"));
        }
    }

    /// Stores completed batches, one transaction for each batch and round. Returns whether it tried any. A
    /// batch that could not be stored is kept and retried. A batch that needs more than one transaction
    /// continues in the next round.
    pub fn land(&mut self, steps: &Steps, in_flight: &mut InFlight) -> Result<bool, Stop> {
        if self.lands_at(in_flight) > clock::now() {
            return Ok(false);
        }
        let lease = steps.lease([self.provider]);
        let is_alone = !in_flight.has_any_of(self.provider);
        let mut landed = Ok(true);
        for mut completed_batch in std::mem::take(&mut self.completed_batches) {
            // Responses that have arrived in the meantime return their permits to the provider.
            in_flight.collect();
            if (if is_alone { completed_batch.alone_at() } else { completed_batch.not_before }) > clock::now()
            {
                self.completed_batches.push(completed_batch);
                continue;
            }
            let whole = completed_batch.is_applied();
            let written = spans::within(whole, || {
                steps.step(StepKind::Apply, |home, connection| {
                    apply::write_down(home, connection, &completed_batch, lease)
                })
            });
            match written {
                Ok(written) => {
                    self.next_due = 0;
                    if completed_batch.advance(written) {
                        steps.worker_slot.batches.fetch_add(1, Ordering::Relaxed);
                        steps.worker_slot.report.batches.fetch_add(1, Ordering::Relaxed);
                        completed_batch.ended(None);
                    } else if completed_batch.is_blocked() {
                        self.keep(completed_batch, lease);
                    } else {
                        self.completed_batches.push(completed_batch);
                    }
                }
                Err(stop) => {
                    completed_batch.postpone(clock::now() + retry_pause());
                    self.keep(completed_batch, lease);
                    landed = Err(stop);
                }
            }
        }
        landed
    }
}

/// Splits jobs: up to `affordable` of those that need a request with all that need none, and the rest.
fn within(jobs: Vec<Claimed>, affordable: usize) -> (Vec<Claimed>, Vec<Claimed>) {
    let mut left = affordable;
    jobs.into_iter().partition(|job| {
        let is_affordable = job.ask.is_none() || left > 0;
        left -= usize::from(job.ask.is_some() && left > 0);
        is_affordable
    })
}
