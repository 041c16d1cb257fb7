//! Applies completed batches: stores their answers in the inventories, one transaction at a time.

use std::collections::{BTreeMap, BTreeSet};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::providers::{Answer, Finding};
use cowrie_enrich_engine::random;

use super::due::retry_pause;
use super::trace::Batch;
use crate::document::enrichment;
use crate::guc;
use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::spi::Connection;
use crate::pg::subtransaction::contained;
use crate::pg::value::{Jsonb, Typed};
use crate::pg::{clock, snapshot};
use crate::provider::limiter::{self, Count};
use crate::provider::{Provider, Providers};
use crate::store::block_answer::{self, Kept, Waiting};
use crate::store::enrich::{self, Plan, SessionCount};
use crate::store::networks::{self, NetworkFacts, Networks};
use crate::store::queue::{self, Failed, Lease};
use crate::store::{Home, completions, provider_quota, unblocked};
use crate::telemetry::spans::Whole;
use crate::telemetry::{self, Counter};

/// How long replies for single addresses are gathered, in microseconds. Each write to the inventory
/// invalidates the answers that every backend has cached.
const GATHERED_FOR: i64 = 500_000;
/// Jobs that are stored together, of providers that are queried about single addresses.
pub const MOST_TOGETHER: usize = 500;

/// Completed jobs of one provider and their outcomes.
pub struct CompletedBatch {
    pub provider: Provider,
    outcomes: BTreeMap<Prefix, Outcome>,
    /// When the first reply arrived, microseconds since 2000.
    pub since: i64,
    pub not_before: i64,
    /// True until a transaction tries to store the batch. Until then another batch may be merged into it.
    is_gathering: bool,
    /// Earlier transactions stored the addresses up to this one.
    written_to: Option<Address>,
    /// True if only the rows that another transaction held are left.
    is_blocked: bool,
    /// Requests that were taken from a quota, by its day, and not sent.
    unspent: BTreeMap<i32, usize>,
    /// Traces of the requests in this batch, if spans are collected.
    traces: Vec<Batch>,
}

/// Outcome of a lookup.
pub enum Outcome {
    /// An earlier answer applies.
    Known,
    /// The answer for this address.
    Answered(Address, Answer),
    Failed(Failed),
}

/// Results of one transaction that applied a batch.
pub struct Written {
    /// True if all jobs but the blocked ones were completed. Otherwise another transaction stores more.
    is_last: bool,
    /// Lookups of single addresses that could not be written, because another transaction holds the address or its
    /// network.
    blocked: BTreeSet<Prefix>,
    last: Option<Address>,
    values: u64,
    absent: u64,
    shared: u64,
    dead: u64,
    /// The last dead letter's error.
    died_of: Option<String>,
}

impl CompletedBatch {
    pub fn of(provider: Provider, outcomes: BTreeMap<Prefix, Outcome>) -> CompletedBatch {
        let now = clock::now();
        CompletedBatch {
            provider,
            outcomes,
            since: now,
            not_before: if provider.declared().shares_answers() { now } else { now + GATHERED_FOR },
            is_gathering: true,
            written_to: None,
            is_blocked: false,
            unspent: BTreeMap::new(),
            traces: Vec::new(),
        }
    }

    /// Adds the trace of the request.
    pub fn traced(mut self, trace: Option<Batch>) -> CompletedBatch {
        self.traces.extend(trace);
        self
    }

    /// Marks the batch as being applied and returns the span context for it.
    pub fn is_applied(&mut self) -> Option<Whole> {
        self.traces.iter_mut().rev().map(Batch::is_applied).last()
    }

    /// Ends the traces: the batch is stored, or given up for this error.
    pub fn ended(self, error: Option<&str>) {
        self.traces.into_iter().for_each(|trace| trace.ended(error));
    }

    /// Notes a request of this day that was not sent.
    pub fn not_spent(mut self, day: i32) -> CompletedBatch {
        *self.unspent.entry(day).or_default() += 1;
        self
    }

    /// Returns the requests that were taken from a quota and not sent, by day.
    pub fn unspent(&self) -> impl Iterator<Item = (i32, usize)> + '_ {
        self.unspent.iter().map(|(day, requests)| (*day, *requests))
    }

    /// Makes a batch of jobs that earlier answers serve.
    pub fn of_known(provider: Provider, lookup_keys: impl IntoIterator<Item = Prefix>) -> CompletedBatch {
        let outcomes = lookup_keys.into_iter().map(|lookup_key| (lookup_key, Outcome::Known)).collect();
        CompletedBatch { not_before: clock::now(), ..CompletedBatch::of(provider, outcomes) }
    }

    /// Merges another batch into this one, or returns it if the two may not be stored together. Batches of
    /// providers that share answers are large already.
    pub fn absorb(&mut self, other: CompletedBatch) -> Option<CompletedBatch> {
        let shares = self.provider.declared().shares_answers();
        if shares || !self.is_gathering || self.outcomes.len() + other.outcomes.len() > MOST_TOGETHER {
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

    /// Returns when the batch is to be stored if no further replies are expected.
    pub fn alone_at(&self) -> i64 {
        if self.is_gathering { self.since.min(self.not_before) } else { self.not_before }
    }

    /// Returns whether only the rows that another transaction held are left.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Postpones the next attempt until this time, in microseconds since 2000. The batch gathers no further
    /// replies.
    pub fn postpone(&mut self, until: i64) {
        (self.is_gathering, self.not_before) = (false, until);
    }

    /// Records the results of a transaction that has committed. Returns whether the batch is finished.
    pub fn advance(&mut self, written: Written) -> bool {
        let count = |what, amount| limiter::count(self.provider, what, amount);
        count(Count::Values, written.values);
        count(Count::Absent, written.absent);
        count(Count::Shared, written.shared);
        count(Count::DeadLetters, written.dead);
        if let Some(reason) = written.died_of {
            limiter::buried(self.provider, &reason);
        }
        self.written_to = written.last;
        self.unspent.clear();
        if !self.provider.declared().shares_answers() {
            // The answer is in the inventory now.
            let is_written = |(lookup_key, outcome): &(&Prefix, &mut Outcome)| {
                matches!(outcome, Outcome::Answered(..)) && !written.blocked.contains(lookup_key)
            };
            self.outcomes.iter_mut().filter(is_written).for_each(|(_, outcome)| *outcome = Outcome::Known);
        }
        if written.is_last && !written.blocked.is_empty() {
            // The other jobs are completed.
            self.outcomes.retain(|lookup_key, _| written.blocked.contains(lookup_key));
            self.is_blocked = true;
            self.postpone(clock::now() + retry_pause());
            return false;
        }
        self.postpone(clock::now());
        written.is_last
    }
}

/// Runs one transaction: keeps the answers, writes the inventories in the order of locks, completes the jobs.
/// The sessions of the addresses then become due for completion.
///
/// The next transaction folds the statistics, because folding locks existing networks first, and this
/// transaction has locked addresses already.
pub fn write_down(
    home: Home,
    connection: &Connection,
    completed_batch: &CompletedBatch,
    lease: Lease,
) -> Written {
    let provider = completed_batch.provider;
    let all: Vec<Prefix> = completed_batch.outcomes.keys().copied().collect();
    let mine: BTreeSet<Prefix> = queue::hold(connection, provider, &all, lease).into_iter().collect();
    for (day, requests) in &completed_batch.unspent {
        provider_quota::unspend(connection, provider, *day, *requests);
    }
    let failed: Vec<&Failed> = completed_batch
        .outcomes
        .iter()
        .filter(|(lookup_key, _)| mine.contains(lookup_key))
        .filter_map(|(_, outcome)| if let Outcome::Failed(failed) = outcome { Some(failed) } else { None })
        .collect();
    let failed_keys: BTreeSet<Prefix> = failed.iter().map(|failed| failed.lookup_key).collect();
    let answered: Vec<Prefix> = mine.difference(&failed_keys).copied().collect();

    let mut written = if provider.declared().shares_answers() {
        if completed_batch.written_to.is_none() {
            keep_answers(connection, completed_batch, &answered);
        }
        let after = completed_batch.written_to;
        block_answer::waited_for(connection, provider, &answered, after, |waiting| {
            write_waiting(home, connection, completed_batch, &answered, waiting)
        })
    } else {
        let waiting: Vec<Waiting> =
            answered.iter().filter_map(|lookup_key| own(completed_batch, *lookup_key)).collect();
        write_waiting(home, connection, completed_batch, &answered, &waiting)
    };
    if written.is_last {
        let mut dead = move_to_dead_letters(connection, provider, &failed);
        written.dead = dead.len() as u64;
        written.died_of = dead.pop().map(|(_, error)| error);
    }
    written
}

/// Returns the jsonb document that an answer adds to an address.
fn document(completed_batch: &CompletedBatch, answer: &Answer) -> Option<Typed<Jsonb>> {
    let said = match answer {
        Answer::Found(finding) => enrichment::NetworkFacts::Value(&finding.said),
        Answer::Absent(words) => {
            let lifetime = i64::from(completed_batch.provider.lifetimes().absent) * 1_000_000;
            enrichment::NetworkFacts::Absent {
                words: words.as_ref(),
                until: completed_batch.since + lifetime,
            }
        }
        Answer::Refused(_) => return None,
    };
    Some(enrichment::answered(completed_batch.provider.name(), &said, completed_batch.since))
}

/// Returns the AS number in an answer, and its facts about the network.
fn network(answer: &Answer) -> (Option<i64>, NetworkFacts) {
    let Answer::Found(Finding { network: Some(network), .. }) = answer else {
        return (None, NetworkFacts::default());
    };
    let said = NetworkFacts {
        name: network.name.clone(),
        country: network.country.clone(),
        registry: network.registry.map(|registry| registry.name().to_owned()),
        ..NetworkFacts::default()
    };
    (Some(i64::from(network.asn)), said)
}

/// Keeps blocks' answers, which serve further addresses of these blocks.
fn keep_answers(connection: &Connection, completed_batch: &CompletedBatch, lookup_keys: &[Prefix]) {
    let mut kept = BTreeMap::new();
    for lookup_key in lookup_keys {
        let Some(Outcome::Answered(_, answer)) = completed_batch.outcomes.get(lookup_key) else { continue };
        let Some(document) = document(completed_batch, answer) else { continue };
        let smaller = match answer {
            Answer::Found(finding) => finding.prefix.filter(|prefix| prefix.length() > lookup_key.length()),
            _ => None,
        };
        let prefix = smaller.unwrap_or(*lookup_key);
        let (asn, network) = network(answer);
        let is_absent = matches!(answer, Answer::Absent(_));
        kept.insert(prefix, Kept { prefix, asn, network, is_absent, document });
    }
    let kept: Vec<Kept> = kept.into_values().collect();
    block_answer::keep(connection, completed_batch.provider, &kept, completed_batch.since);
}

/// Returns the entry of an address with a separate lookup.
fn own(completed_batch: &CompletedBatch, lookup_key: Prefix) -> Option<Waiting> {
    let address = lookup_key.network();
    let none = Waiting {
        address,
        lookup_key,
        asn: None,
        network: NetworkFacts::default(),
        is_absent: false,
        document: None,
    };
    match completed_batch.outcomes.get(&lookup_key)? {
        Outcome::Known => Some(none),
        Outcome::Failed(_) => None,
        Outcome::Answered(_, answer) => {
            let (asn, network) = network(answer);
            let is_absent = matches!(answer, Answer::Absent(_));
            Some(Waiting {
                asn,
                network,
                is_absent,
                document: Some(document(completed_batch, answer)?),
                ..none
            })
        }
    }
}

/// Stores waiting addresses' answers, in parts. The last part completes the jobs.
fn write_waiting(
    home: Home,
    connection: &Connection,
    completed_batch: &CompletedBatch,
    answered: &[Prefix],
    waiting: &[Waiting],
) -> Written {
    let provider = completed_batch.provider;
    // Addresses of blocks come in parts; single addresses are all here.
    let shares = provider.declared().shares_answers();
    let blocked = write_unblocked(home, connection, completed_batch, waiting);
    let is_done = |w: &&Waiting| !blocked.contains(&w.address);
    let addresses: Vec<Address> = waiting.iter().filter(is_done).map(|w| w.address).collect();
    completions::renew(connection, &addresses);
    queue::done(connection, provider, &addresses);
    let is_last = !shares || waiting.len() < block_answer::MOST_AT_ONCE;
    let blocked_keys: BTreeSet<Prefix> =
        waiting.iter().filter(|w| !is_done(w)).map(|w| w.lookup_key).collect();
    if is_last {
        // The answer for a block is kept, so its job continues without this batch. The answer for a single
        // address is not kept.
        let blocked: Vec<Prefix> = blocked_keys.iter().copied().collect();
        let ended: Vec<Prefix> = answered
            .iter()
            .filter(|lookup_key| shares || !blocked_keys.contains(lookup_key))
            .copied()
            .collect();
        queue::settle(connection, provider, &ended, &blocked, clock::seconds(retry_pause()));
    }
    let new = || waiting.iter().filter(|w| w.document.is_some() && is_done(w));
    let absent = new().filter(|w| w.is_absent).count();
    let values = new().count() - absent;
    if let Some(hits) = Counter::hits_of(provider.name()) {
        telemetry::add(hits, values as i64);
    }
    let is_asked =
        |outcome: &Outcome, w: &Waiting| matches!(outcome, Outcome::Answered(a, _) if *a == w.address);
    let was_asked = |w: &&Waiting| {
        completed_batch.outcomes.get(&w.lookup_key).is_some_and(|outcome| is_asked(outcome, w))
    };
    let shared = new().filter(|w| !was_asked(w)).count() as u64;
    Written {
        is_last,
        blocked: if shares { BTreeSet::new() } else { blocked_keys },
        last: waiting.last().map(|w| w.address),
        values: values as u64,
        absent: absent as u64,
        shared,
        dead: 0,
        died_of: None,
    }
}

/// Writes the inventories, except for addresses that another transaction holds or whose network it holds.
/// Returns these addresses.
fn write_unblocked(
    home: Home,
    connection: &Connection,
    completed_batch: &CompletedBatch,
    waiting: &[Waiting],
) -> BTreeSet<Address> {
    let provider = completed_batch.provider;
    let all: Vec<&Waiting> = waiting.iter().collect();
    if !completed_batch.is_blocked {
        match contained(|| write_inventories(home, connection, provider, &all)) {
            Ok(()) => return BTreeSet::new(),
            Err(failure) if failure.was_lock => {}
            Err(failure) => failure.raise(),
        }
    }
    let blocked = blocked(home, connection, &all);
    let rest: Vec<&Waiting> = all.into_iter().filter(|w| !blocked.contains(&w.address)).collect();
    write_inventories(home, connection, provider, &rest);
    blocked
}

/// Locks networks and addresses that no other transaction holds. Returns the addresses that cannot be written without
/// waiting.
fn blocked(home: Home, connection: &Connection, waiting: &[&Waiting]) -> BTreeSet<Address> {
    mmdb::with(LoadPolicy::None, |databases| {
        let plan = planned(home, databases, waiting);
        let of_files = |address: Address| {
            let missing = BTreeMap::from([(address, SessionCount::default())]);
            enrich::networks_of(&Plan { missing, ..Plan::default() }, databases)
        };
        let networks = |w: &Waiting| -> BTreeSet<i64> {
            let of_file = plan.missing.contains_key(&w.address).then(|| of_files(w.address));
            w.asn.into_iter().chain(of_file.into_iter().flat_map(Networks::into_keys)).collect()
        };
        let all: BTreeSet<i64> = waiting.iter().flat_map(|w| networks(w)).collect();
        let there = networks::existing(connection, all.iter());
        let mut held = unblocked::networks_being_created(home, all.iter());
        let locked = unblocked::lock_networks(connection, there.iter());
        held.extend(there.difference(&locked));
        let being_created = unblocked::addresses_being_created(home, plan.missing.keys());
        let existing = waiting.iter().map(|w| &w.address).filter(|a| !plan.missing.contains_key(a));
        let free = unblocked::lock_addresses(connection, existing);
        let is_blocked = |w: &&&Waiting| {
            let is_held = !free.contains(&w.address) && !plan.missing.contains_key(&w.address);
            is_held || being_created.contains(&w.address) || networks(w).iter().any(|asn| held.contains(asn))
        };
        waiting.iter().filter(is_blocked).map(|w| w.address).collect()
    })
}

/// Returns which of the addresses have no row. A lookup may have been requested for such an address.
fn planned(home: Home, databases: &Databases, waiting: &[&Waiting]) -> Plan {
    let latest = snapshot::Latest::take();
    let addresses = waiting.iter().map(|waiting| (waiting.address, SessionCount::default()));
    let mut plan = enrich::plan(home, addresses, databases, latest.view(), false, Providers::NONE);
    plan.due.clear();
    plan
}

/// Writes networks, then new addresses, then existing ones, each in key order.
fn write_inventories(home: Home, connection: &Connection, provider: Provider, waiting: &[&Waiting]) {
    if waiting.is_empty() {
        return;
    }
    let mut said = Networks::new();
    for waiting in waiting {
        let Some(asn) = waiting.asn else { continue };
        said.entry(asn).or_default().merge(waiting.network.clone());
    }
    mmdb::with(LoadPolicy::None, |databases| {
        let plan = planned(home, databases, waiting);
        let mut all = said.clone();
        for (asn, of_file) in enrich::networks_of(&plan, databases) {
            all.entry(asn).or_insert(of_file);
        }
        let source = |asn| if said.contains_key(&asn) { provider.name() } else { "maxmind" };
        networks::create_said(connection, &all, source);
        networks::refine(connection, &said, provider.name());
        // This provider's answer is already here.
        let others = Providers::enabled().without(Providers::of([provider]));
        enrich::create_addresses(home, connection, databases, &plan.missing, others);
    });
    let answers: Vec<_> = waiting
        .iter()
        .filter_map(|waiting| Some((waiting.address, waiting.asn, waiting.document?)))
        .collect();
    enrich::write_answers(connection, provider.name(), &answers);
}

/// Processes jobs without an answer. Returns the addresses that became dead letters, each with its error.
fn move_to_dead_letters(
    connection: &Connection,
    provider: Provider,
    failed: &[&Failed],
) -> Vec<(Address, String)> {
    let policy = queue::RetryPolicy {
        base_seconds: guc::retry_base().as_secs_f64(),
        max_attempts: guc::max_attempts(),
        last_success: limiter::last_success(provider),
        random: random::unit(),
    };
    let dead = queue::fail(connection, provider, failed, &policy);
    let now = clock::now();
    let documents: Vec<_> = dead
        .iter()
        .map(|(address, error)| (*address, None, enrichment::failed(provider.name(), now, error)))
        .collect();
    enrich::write_answers(connection, provider.name(), &documents);
    dead
}
