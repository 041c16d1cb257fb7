//! The batches of one provider. A batch can have any state of `batch`. One worker process handles all providers, but no provider
//! waits for another one.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::net::Finished;
use cowrie_enrich_engine::providers::Reply;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::batch::{BUSY_PAUSE, Batch, Claimed, Sending};
use super::completed::{Completed, MOST_TOGETHER};
use super::exchanges::Exchanges;
use super::session_priority::SessionPriorities;
use super::step_schedule::{AT_ONCE, NEVER, retry_pause};
use super::steps::{Steps, Stop};
use crate::pg::clock;
use crate::pg::role::with_settings;
use crate::provider::limiter::{self, PermitDecision};
use crate::provider::quota;
use crate::provider::{Limits, Provider};
use crate::store::provider_quota;
use crate::store::queue::{self, ClaimedJob};
use crate::worker::activity::StepKind;

/// Longest time for which claimed jobs wait to be sent. Jobs wait if other workers send requests first, or if this worker is
/// delayed.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// If a provider refused a key, interval at which the worker checks whether the configured key has changed.
const CREDENTIALS_EVERY: Duration = Duration::from_secs(1);
/// Longest time for which a claim waits for a lock. The time is short, because the worker holds permits during the wait. Other
/// databases wait for these permits.
const CLAIM_WAITS: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"100ms")];
/// Number of lookups in a probe. This number is enough to test whether the provider has recovered.
const PROBE_SIZE: usize = 10;

pub struct ProviderQueue {
    pub provider: Provider,
    /// Time when jobs can be claimed again. If `blocked_until` is later, the provider may not be queried until then, so the worker
    /// waits until `blocked_until`.
    pub next_due: Timestamp,
    blocked_until: Timestamp,
    /// Time of the next check whether the key of a stopped provider has changed.
    next_credentials: Timestamp,
    /// The batches, in the order in which they were claimed.
    batches: VecDeque<Batch>,
    /// Time when the claimed batches that are not sent yet were claimed.
    claimed_at: Timestamp,
    /// True if the jobs that were claimed last needed no request, because answers existed. In this case, the next claim reads more
    /// jobs at once.
    next_jobs_have_answers: bool,
    /// True if the settings allowed lookups of networks at the last round.
    looked_up_networks: bool,
    /// Jobs and requests that were not used. Before the next claim, the worker returns the jobs to the queue and the requests to
    /// the ledger of quotas.
    to_give_back: Vec<Unused>,
}

/// Jobs that are released without a request, and the number of requests that were taken from the quota but not sent.
struct Unused {
    lookup_keys: Vec<LookupKey>,
    day: Option<i32>,
    requests: usize,
}

impl ProviderQueue {
    pub fn of(provider: Provider) -> ProviderQueue {
        ProviderQueue {
            provider,
            next_due: AT_ONCE,
            blocked_until: AT_ONCE,
            next_credentials: AT_ONCE,
            batches: VecDeque::new(),
            claimed_at: Timestamp::UNSET,
            next_jobs_have_answers: false,
            looked_up_networks: false,
            to_give_back: Vec::new(),
        }
    }

    /// Returns the time when the queue must be handled again, even if no event wakes the worker.
    pub fn next_at(&self) -> Timestamp {
        let is_stopped = self.next_due < self.blocked_until && limiter::stopped_with(self.provider).is_some();
        let blocked_until =
            if is_stopped { self.blocked_until.min(self.next_credentials) } else { self.blocked_until };
        let next_due = if self.has_claimed() { AT_ONCE } else { self.next_due };
        next_due.max(blocked_until).min(self.applies_at())
    }

    fn has_claimed(&self) -> bool {
        self.batches.iter().any(|batch| matches!(batch, Batch::Claimed(_)))
    }

    /// Adds completed batches for jobs that need no request, because earlier answers can be used. If the provider's answers are for
    /// blocks of addresses, all jobs form one batch, because the addresses of such a batch are read in parts. Otherwise, a batch
    /// has at most `MOST_TOGETHER` jobs.
    pub fn serve(&mut self, lookup_keys: impl IntoIterator<Item = LookupKey>) {
        let shares = self.provider.declared().shares_answers();
        let together = if shares { usize::MAX } else { MOST_TOGETHER };
        let mut lookup_keys = lookup_keys.into_iter().peekable();
        while lookup_keys.peek().is_some() {
            self.add(Completed::of_answered(self.provider, lookup_keys.by_ref().take(together)));
        }
    }

    /// Adds a completed batch. If the last completed batch and this batch may be stored together, merges the two.
    fn add(&mut self, completed: Completed) {
        let last = self.batches.iter_mut().rev().find_map(|batch| match batch {
            Batch::Completed(last) => Some(last),
            _ => None,
        });
        let separate = match last {
            Some(last) => last.merge(completed),
            None => Some(completed),
        };
        self.batches.extend(separate.map(Batch::Completed));
    }

    /// Sends jobs until no job is left, or until the provider may not be queried. If none of the claimed jobs needs a request,
    /// returns, so that completed batches need not wait. The next round then continues.
    pub fn send(
        &mut self,
        steps: &Steps,
        exchanges: &mut Exchanges,
        priorities: &SessionPriorities,
    ) -> Result<(), Stop> {
        let provider = self.provider;
        self.blocked_until = AT_ONCE;
        steps.worker_slot.waits_no_more(provider.index());
        self.give_back(steps)?;
        if !provider.is_enabled() || provider.blocked_reason().is_some() {
            self.blocked_until = NEVER;
            return self.release(steps);
        }
        self.check_credentials();
        if std::mem::replace(&mut self.looked_up_networks, provider.looks_up_networks())
            != self.looked_up_networks
        {
            self.next_due = AT_ONCE;
        }
        let limits = provider.limits();
        while self.send_claimed(steps, exchanges, &limits)? && self.next_due <= clock::now() {
            // The session priorities determine for which lookups the quota is used. So the worker must evaluate the priorities
            // before it uses the quota.
            if priorities.holds(provider) {
                return Ok(());
            }
            let (decision, permits) = self.available_permits(steps, &limits);
            let (permits, most) = match (decision, permits) {
                (PermitDecision::Granted, permits) => {
                    // The worker takes the permits before it takes requests from the quota, so that each request has a permit.
                    // Requests without a permit would have to be returned to the quota. In the meantime, other databases may have
                    // seen an exhausted quota.
                    let permits = limiter::take_permits(provider, permits, &limits);
                    let most = permits.len().saturating_mul(limits.batch);
                    (permits, most)
                }
                // The permit of a probe is taken later, when the probe is sent.
                (PermitDecision::Probe, _) => (Vec::new(), PROBE_SIZE.min(limits.batch)),
                (PermitDecision::NotBefore(until), _) => {
                    self.blocked_until = until;
                    return Ok(());
                }
                (PermitDecision::Busy, _) => (Vec::new(), 0),
            };
            if most == 0 {
                // When another process returns a permit, it wakes this worker. The pause limits the wait if this wake-up does not
                // come.
                self.blocked_until = clock::now() + BUSY_PAUSE.min(retry_pause());
                return Ok(());
            }
            let (jobs, day) = self.claim(steps, most, &limits, decision == PermitDecision::Probe)?;
            self.serve(jobs.iter().filter(|job| job.ask.is_none()).map(|job| job.lookup_key));
            self.batches.extend(Claimed::batches(provider, &jobs, day, limits.batch, permits));
            self.claimed_at = clock::now();
            let needs_no_request = !self.has_claimed();
            self.next_jobs_have_answers = needs_no_request && !jobs.is_empty();
            if needs_no_request {
                if jobs.is_empty() && self.next_due <= clock::now() {
                    // Jobs are due, but another transaction has locked them.
                    self.blocked_until = clock::now() + BUSY_PAUSE.min(retry_pause());
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// If a provider was stopped because it refused a key, and the configured key has changed since then, ends the stop.
    fn check_credentials(&mut self) {
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

    /// Returns the number of permits that are available. If none is available, the next process that returns a permit wakes this
    /// worker.
    fn available_permits(&self, steps: &Steps, limits: &Limits) -> (PermitDecision, usize) {
        let (decision, permits) = limiter::available_permits(self.provider, limits);
        if decision != PermitDecision::Busy {
            return (decision, permits);
        }
        steps.worker_slot.waits_for(self.provider.index());
        // Checks again, because another process may have returned a permit just before the slot recorded that this worker waits.
        let (decision, permits) = limiter::available_permits(self.provider, limits);
        if decision != PermitDecision::Busy {
            steps.worker_slot.waits_no_more(self.provider.index());
        }
        (decision, permits)
    }

    /// Leases jobs and takes their requests from the day's quota. At most `most` of the jobs need a request. If the number of due
    /// jobs is smaller than the claim allows, also finds out when the next jobs become due. Returns the jobs, and the day whose
    /// quota includes the requests.
    fn claim(
        &mut self,
        steps: &Steps,
        most: usize,
        limits: &Limits,
        probe: bool,
    ) -> Result<(Vec<ClaimedJob>, Option<i32>), Stop> {
        let (provider, lease) = (self.provider, steps.lease([self.provider]));
        let look_at = if self.next_jobs_have_answers { most.max(MOST_TOGETHER) } else { most };
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
            let excess: Vec<LookupKey> = excess.iter().map(|job| job.lookup_key).collect();
            if !excess.is_empty() {
                queue::give_back(connection, provider, &excess, lease);
                next = Some(Some(AT_ONCE));
            }
            (jobs, next)
        });
        if let (Err(_), Some(reserved)) = (&claimed, reserved) {
            quota::give_back(provider, reserved.day, reserved.requests as usize);
        }
        let (jobs, next) = claimed?;
        if let Some(next) = next {
            self.next_due = next.unwrap_or(NEVER);
        }
        Ok((jobs, reserved.map(|reserved| reserved.day)))
    }

    /// Sends the claimed batches. Returns true if all of them were sent.
    fn send_claimed(
        &mut self,
        steps: &Steps,
        exchanges: &mut Exchanges,
        limits: &Limits,
    ) -> Result<bool, Stop> {
        while let Some(index) = self.batches.iter().position(|batch| matches!(batch, Batch::Claimed(_))) {
            let Some(Batch::Claimed(claimed)) = self.batches.remove(index) else { break };
            let now = clock::now();
            let is_late = now - self.claimed_at > LONGEST_WAIT;
            let sending =
                if is_late { Sending::Blocked(now, claimed) } else { claimed.send(exchanges, limits) };
            let (not_before, claimed) = match sending {
                Sending::Sent(sent) => {
                    self.batches.insert(index, Batch::InFlight(sent));
                    continue;
                }
                Sending::After(time, claimed) if time - now <= LONGEST_WAIT => {
                    self.batches.insert(index, Batch::Claimed(claimed));
                    self.blocked_until = time;
                    return Ok(false);
                }
                Sending::After(time, claimed) | Sending::Blocked(time, claimed) => (time, claimed),
            };
            self.batches.insert(index, Batch::Claimed(claimed));
            (self.next_due, self.blocked_until) = (AT_ONCE, not_before);
            self.release(steps)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Releases the jobs of the claimed batches, because these batches may not be sent now. Returns the requests of these batches
    /// to the day's quota.
    fn release(&mut self, steps: &Steps) -> Result<(), Stop> {
        let mut unused: Option<Unused> = None;
        self.batches.retain(|batch| {
            let Batch::Claimed(claimed) = batch else { return true };
            // All these jobs were claimed at the same time, so their requests belong to the quota of the same day.
            let unused = unused.get_or_insert_with(|| Unused {
                lookup_keys: Vec::new(),
                day: claimed.day,
                requests: 0,
            });
            unused.lookup_keys.extend(claimed.lookup_keys());
            unused.requests += 1;
            false
        });
        if unused.is_none() {
            return Ok(());
        }
        self.to_give_back.extend(unused);
        self.give_back(steps)
    }

    /// Returns the unused jobs to the queue and the unused requests to the quota. If a step fails, the next round returns the rest.
    fn give_back(&mut self, steps: &Steps) -> Result<(), Stop> {
        let (provider, lease) = (self.provider, steps.lease([self.provider]));
        while let Some(unused) = self.to_give_back.last() {
            steps.step(StepKind::ReleaseJobs, |_, connection| {
                queue::give_back(connection, provider, &unused.lookup_keys, lease);
                if let Some(day) = unused.day {
                    provider_quota::unspend(connection, provider, day, unused.requests);
                }
            })?;
            if let Some(day) = unused.day {
                quota::give_back(provider, day, unused.requests);
            }
            self.to_give_back.pop();
            self.next_due = AT_ONCE;
        }
        Ok(())
    }

    /// Completes the batch whose exchange has ended. If the exchange belongs to no batch of this queue, returns the exchange.
    pub fn complete(&mut self, finished: Finished<Reply>) -> Option<Finished<Reply>> {
        let is_its_batch =
            |batch: &Batch| matches!(batch, Batch::InFlight(sent) if sent.ticket == finished.ticket);
        let index = self.batches.iter().position(is_its_batch);
        let Some(Batch::InFlight(sent)) = index.and_then(|index| self.batches.remove(index)) else {
            return Some(finished);
        };
        (self.next_due, self.blocked_until) = (AT_ONCE, AT_ONCE);
        self.add(sent.complete(finished.done, finished.took));
        None
    }

    fn has_requests_in_flight(&self) -> bool {
        self.batches.iter().any(|batch| matches!(batch, Batch::InFlight(_)))
    }

    /// Returns the time when the next completed batch must be applied.
    fn applies_at(&self) -> Timestamp {
        let has_requests_in_flight = self.has_requests_in_flight();
        let due_at = |batch: &Batch| match batch {
            Batch::Completed(completed) => Some(completed.due_at(has_requests_in_flight)),
            _ => None,
        };
        self.batches.iter().filter_map(due_at).min().unwrap_or(NEVER)
    }

    /// Removes the completed batches that must be applied now, and returns them.
    pub fn take_due(&mut self) -> Vec<Completed> {
        let (now, has_requests_in_flight) = (clock::now(), self.has_requests_in_flight());
        let mut due = Vec::new();
        for batch in std::mem::take(&mut self.batches) {
            match batch {
                Batch::Completed(completed) if completed.due_at(has_requests_in_flight) <= now => {
                    due.push(completed);
                }
                batch => self.batches.push_back(batch),
            }
        }
        due
    }

    /// Runs one transaction for a batch. If the batch needs more transactions, the next round continues it. If the transaction
    /// failed, returns the reason why the round ends.
    pub fn apply(&mut self, steps: &Steps, batch: Completed) -> Option<Stop> {
        let lease = steps.lease([self.provider]);
        let (batch, stop) = batch.apply(steps, lease);
        if stop.is_none() {
            self.next_due = AT_ONCE;
        }
        match batch {
            Batch::Completed(batch) if (stop.is_some() || batch.is_blocked) && batch.outlives(lease) => {
                self.give_up(batch);
            }
            Batch::Applied => {
                steps.worker_slot.batches.fetch_add(1, Ordering::Relaxed);
                steps.worker_slot.report.batches.fetch_add(1, Ordering::Relaxed);
            }
            batch => self.batches.push_back(batch),
        }
        stop
    }

    /// Discards a batch whose lease has run out. The jobs of the batch will be claimed again.
    fn give_up(&mut self, batch: Completed) {
        self.to_give_back.extend(batch.unspent.iter().map(|(day, requests)| Unused {
            lookup_keys: Vec::new(),
            day: Some(*day),
            requests: *requests,
        }));
        self.next_due = AT_ONCE;
        batch.end(Some("the lease of the jobs ran out before the worker stored the answers"));
    }
}

/// Splits jobs into two lists. The first list has all jobs that need no request, and at most `affordable` jobs that need a request.
/// The second list has the other jobs.
fn within(jobs: Vec<ClaimedJob>, affordable: usize) -> (Vec<ClaimedJob>, Vec<ClaimedJob>) {
    let mut left = affordable;
    jobs.into_iter().partition(|job| {
        let is_affordable = job.ask.is_none() || left > 0;
        left -= usize::from(job.ask.is_some() && left > 0);
        is_affordable
    })
}
