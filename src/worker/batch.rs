//! A batch consists of the jobs of one request to a provider. It exists from the claim of the jobs to the commit that stores the
//! answers.
//!
//! ```text
//!            send            complete               apply
//! Claimed ----------> InFlight ---------> Completed ------> Applied
//!    |                                        ^ |  ^
//!    | release                                | +--+ another transaction stores more, or retries
//!    v                                        |
//! job is due again      an earlier answer ----+
//! ```
//!
//! | state | the jobs are | ends with |
//! |---|---|---|
//! | `Claimed` | leased; the quota is spent, nothing is sent | `Claimed::send`; `ProviderQueue::release` if the provider may not be queried |
//! | `InFlight` | leased; a thread exchanges data with the provider | `InFlight::complete`, with any reply |
//! | `Completed` | leased; the outcome of each is in memory | `Completed::apply`, possibly in several transactions |
//! | `Applied` | done, retried later, or dead letters; this is committed | |
//!
//! `ProviderQueue` holds the batches of its provider in all states. While the worker applies a batch, the queue does not hold this
//! batch. If the worker ends, the leases run out and the jobs are claimed again.

use std::collections::BTreeMap;
use std::time::Duration;

use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::providers::{Answer, Exchange, Failure, Lookups, Reply};
use cowrie_enrich_engine::timestamp::Timestamp;
use cowrie_enrich_engine::{as_registry, bogon};

use super::completed::{Completed, Outcome};
use super::exchanges::{Exchanges, Ticket};
use super::step_schedule::{AT_ONCE, retry_pause};
use super::steps::{Steps, Stop};
use super::trace::BatchTrace;
use super::{apply, apply_networks};
use crate::pg::clock;
use crate::provider::counters::{self, Count};
use crate::provider::limiter::{self, Permit, PermitDecision, SendTime};
use crate::provider::reply::apply_reply;
use crate::provider::{Limits, Provider, quota};
use crate::store::queue::{Asked, Blame, ClaimedJob, FailedJob, Lease};
use crate::telemetry;
use crate::telemetry::spans;
use crate::worker::activity::StepKind;

/// Pause before the next attempt, after all permits of the provider were in use by other processes.
pub const BUSY_PAUSE: Duration = Duration::from_millis(250);

pub enum Batch {
    Claimed(Claimed),
    InFlight(InFlight),
    Completed(Completed),
    Applied,
}

/// The leased jobs of one request that is not sent yet.
pub struct Claimed {
    pub provider: Provider,
    /// The lookup keys of the jobs. Each has the address or network about which the provider is queried.
    lookups: Vec<(LookupKey, Asked)>,
    /// The day whose quota includes this request, in days since 2000.
    pub day: Option<i32>,
    /// The permit for the request. A request that only tests the provider (a probe) has no permit until it is sent.
    permit: Option<Permit>,
}

/// The result of the attempt to send a batch.
pub enum Sending {
    Sent(InFlight),
    /// The batch may not be sent before this time.
    After(Timestamp, Claimed),
    /// This batch may not be sent. The provider may be queried again at the given time.
    Blocked(Timestamp, Claimed),
}

/// The jobs of a request that was sent.
pub struct InFlight {
    pub ticket: Ticket,
    claimed: Claimed,
    /// Time when the request was sent, in nanoseconds since 1970.
    sent_at: u64,
}

impl Claimed {
    /// Divides claimed jobs into batches of at most `size` jobs. Each batch gets a permit, as long as `permits` contains one. `day`
    /// is the day whose quota includes the requests.
    pub fn batches(
        provider: Provider,
        jobs: &[ClaimedJob],
        day: Option<i32>,
        size: usize,
        permits: Vec<Permit>,
    ) -> Vec<Batch> {
        let lookups = jobs.iter().filter_map(|job| job.ask.map(|asked| (job.lookup_key, asked)));
        // Bogons are not queued. This is the last check that no request contains a bogon.
        let public = lookups.filter(|(_, asked)| match asked {
            Asked::Address(address) => bogon::reason(*address).is_none(),
            Asked::Network(asn) => !as_registry::is_bogon(*asn),
        });
        // A claim returns either lookups of addresses or lookups of networks. The code below separates the two kinds again, so that
        // no request can contain both.
        let is_network = |(_, asked): &(LookupKey, Asked)| matches!(asked, Asked::Network(_));
        let (networks, addresses): (Vec<_>, Vec<_>) = public.partition(is_network);
        let permits = permits.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        addresses
            .chunks(size.max(1))
            .chain(networks.chunks(size.max(1)))
            .zip(permits)
            .map(|(lookups, permit)| {
                Batch::Claimed(Claimed { provider, lookups: lookups.to_vec(), day, permit })
            })
            .collect()
    }

    pub fn lookup_keys(&self) -> impl Iterator<Item = LookupKey> + '_ {
        self.lookups.iter().map(|(lookup_key, _)| *lookup_key)
    }

    /// If the provider may be queried now, starts a thread that sends the request.
    pub fn send(mut self, exchanges: &mut Exchanges, limits: &Limits) -> Sending {
        match self.send_time(limits) {
            SendTime::Now => {}
            SendTime::After(time) => return Sending::After(time, self),
            SendTime::Blocked(until) => return Sending::Blocked(until, self),
        }
        counters::count_start(self.provider, self.lookups.len());
        let sent_at = clock::unix_nanoseconds();
        let exchange = Exchange {
            provider: self.provider.declared(),
            settings: self.provider.settings(),
            lookups: self.contents(),
        };
        match exchanges.start(exchange) {
            Ok(ticket) => Sending::Sent(InFlight { ticket, claimed: self, sent_at }),
            Err(error) => {
                telemetry::error("could not start a thread for requests to a provider", &error.to_string());
                Sending::Blocked(clock::now() + retry_pause(), self)
            }
        }
    }

    fn contents(&self) -> Lookups {
        let asked = || self.lookups.iter().map(|(_, asked)| *asked);
        let networks: Vec<u32> = asked()
            .filter_map(|asked| if let Asked::Network(asn) = asked { Some(asn) } else { None })
            .collect();
        if !networks.is_empty() {
            return Lookups::Networks(networks);
        }
        let address = |asked| if let Asked::Address(address) = asked { Some(address) } else { None };
        Lookups::Addresses(asked().filter_map(address).collect())
    }

    /// Returns whether and when the request may be sent. This is the last check before the request is sent.
    fn send_time(&mut self, limits: &Limits) -> SendTime {
        if self.day.is_some_and(quota::is_over) {
            return SendTime::Blocked(AT_ONCE);
        }
        if let Some(permit) = &mut self.permit {
            return permit.send_time(limits);
        }
        match limiter::take_permit(self.provider, limits) {
            Ok((permit, _)) => {
                self.permit = Some(permit);
                SendTime::Now
            }
            Err(PermitDecision::NotBefore(until)) => SendTime::Blocked(until),
            Err(_) => SendTime::Blocked(clock::now() + BUSY_PAUSE),
        }
    }
}

impl InFlight {
    /// Handles the reply. Returns the permit, counts the provider's errors, and assigns an outcome to each job. `took` is the
    /// duration of the exchange.
    pub fn complete(self, reply: Reply, took: Duration) -> Completed {
        let InFlight { claimed: Claimed { provider, lookups, day, permit }, sent_at, .. } = self;
        if let Some(permit) = permit {
            apply_reply(permit, &reply, took, lookups.len(), &provider.limits());
        }
        let outcome = Count::of_outcome(reply.failure.as_ref()).outcome();
        let trace = BatchTrace::of(provider, sent_at, (lookups.len(), outcome), &reply, took);
        let blame = blame(&reply);
        let Reply { mut answers, mut networks, failure, unsent, .. } = reply;
        let mut outcomes = BTreeMap::new();
        for (lookup_key, asked) in lookups {
            let answer = match asked {
                Asked::Address(address) => answers.remove(&address),
                Asked::Network(asn) => networks.remove(&asn),
            };
            let outcome = match answer {
                Some(Answer::Refused(words)) => {
                    Outcome::Failed(FailedJob { lookup_key, error: format!("refused: {words}"), blame })
                }
                Some(answer) => Outcome::Answered(asked, answer),
                None => Outcome::Failed(unanswered(lookup_key, failure.as_ref(), blame)),
            };
            outcomes.insert(lookup_key, outcome);
        }
        let completed = Completed::of(provider, outcomes).traced(trace);
        match day.filter(|_| unsent) {
            Some(day) => completed.not_sent(day),
            None => completed,
        }
    }
}

impl Completed {
    /// Runs one transaction that stores outcomes of the batch. If this was the last transaction of the batch, returns
    /// `Batch::Applied`. Otherwise returns the batch, and the caller runs another transaction later. If the transaction failed,
    /// also returns the reason why the round ends.
    pub fn apply(mut self, steps: &Steps, lease: Lease) -> (Batch, Option<Stop>) {
        let span = self.begin_apply();
        let stored = spans::within(span, || {
            steps.step(StepKind::Apply, |oids, connection| match self.is_about_networks() {
                true => apply_networks::store(oids, connection, &self, lease),
                false => apply::store(oids, connection, &self, lease),
            })
        });
        match stored {
            Ok(stored) => {
                if self.advance(stored) {
                    self.end(None);
                    (Batch::Applied, None)
                } else {
                    (Batch::Completed(self), None)
                }
            }
            Err(stop) => {
                self.postpone(clock::now() + retry_pause());
                (Batch::Completed(self), Some(stop))
            }
        }
    }
}

/// Returns the rule for the lookups that this reply did not answer. The rule says whether such a lookup has used up an attempt:
/// always, never, or unless the provider is down.
fn blame(reply: &Reply) -> Blame {
    if reply.demand.is_some() || reply.unsent || reply.failure == Some(Failure::Cancelled) {
        Blame::Never
    } else if reply.blames_lookup {
        Blame::Always
    } else {
        Blame::UnlessDown
    }
}

fn unanswered(lookup_key: LookupKey, failure: Option<&Failure>, blame: Blame) -> FailedJob {
    match failure {
        Some(failure) => FailedJob { lookup_key, error: failure.to_string(), blame },
        None => FailedJob {
            lookup_key,
            error: "the provider's answer contains no result for this lookup".to_owned(),
            blame: Blame::Always,
        },
    }
}
