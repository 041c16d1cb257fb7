//! Applies completed batches: stores their answers in the inventories, one transaction at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::providers::{Answer, Finding};
use cowrie_enrich_engine::random;

use super::completed::{Completed, Outcome, Stored};
use super::step_schedule::retry_pause;
use crate::document::enrichment;
use crate::guc;
use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::spi::Connection;
use crate::pg::subtransaction::contained;
use crate::pg::value::{Jsonb, Typed};
use crate::pg::{clock, mvcc_snapshot};
use crate::provider::limiter;
use crate::provider::{Provider, Providers};
use crate::store::block_answer::{self, Kept, Waiting};
use crate::store::enrich::{self, Plan, SessionCount};
use crate::store::networks::{self, NetworkFacts, Networks};
use crate::store::queue::{self, Asked, FailedJob, Lease};
use crate::store::{ExtensionOids, completions, provider_quota, skip_locked};
use crate::telemetry::{self, Counter};

/// Runs one transaction. The transaction keeps the answers for blocks, writes the inventories in the order of locks, and completes
/// the jobs. After the transaction, the worker can complete the sessions of the addresses.
///
/// This transaction does not fold the statistics, because folding first locks existing networks, and this transaction has already
/// locked addresses. So the next transaction folds them.
pub fn store(oids: ExtensionOids, connection: &Connection, batch: &Completed, lease: Lease) -> Stored {
    let provider = batch.provider;
    let all: Vec<LookupKey> = batch.outcomes.keys().copied().collect();
    let mine: BTreeSet<LookupKey> = queue::hold(connection, provider, &all, lease).into_iter().collect();
    for (day, requests) in &batch.unspent {
        provider_quota::unspend(connection, provider, *day, *requests);
    }
    let (answered, failed) = answered_and_failed(batch, &mine);

    let mut stored = if provider.declared().shares_answers() {
        if batch.stored_to.is_none() {
            keep_answers(connection, batch, &answered);
        }
        let after = batch.stored_to;
        block_answer::waited_for(connection, provider, &answered, after, |waiting| {
            write_waiting(oids, connection, batch, &answered, waiting)
        })
    } else {
        let waiting: Vec<Waiting> =
            answered.iter().filter_map(|lookup_key| own(batch, *lookup_key)).collect();
        write_waiting(oids, connection, batch, &answered, &waiting)
    };
    if stored.is_last {
        let mut dead = move_to_dead_letters(connection, provider, &failed);
        stored.dead = dead.len() as u64;
        stored.dead_letter_error = dead.pop().map(|(_, error)| error);
    }
    stored
}

/// Divides the jobs that the worker still holds into jobs with an answer and jobs that failed.
pub fn answered_and_failed<'a>(
    batch: &'a Completed,
    held: &BTreeSet<LookupKey>,
) -> (Vec<LookupKey>, Vec<&'a FailedJob>) {
    let failed: Vec<&FailedJob> = batch
        .outcomes
        .iter()
        .filter(|(lookup_key, _)| held.contains(lookup_key))
        .filter_map(|(_, outcome)| if let Outcome::Failed(failed) = outcome { Some(failed) } else { None })
        .collect();
    let failed_keys: BTreeSet<LookupKey> = failed.iter().map(|failed| failed.lookup_key).collect();
    (held.difference(&failed_keys).copied().collect(), failed)
}

/// Returns the jsonb document that is added to an address when the answer is stored.
fn document(batch: &Completed, answer: &Answer) -> Option<Typed<Jsonb>> {
    let source_data = match answer {
        Answer::Found(finding) => enrichment::SourceAnswer::Value(&finding.source_data),
        Answer::Absent(words) => {
            let lifetime = batch.provider.lifetimes().absent.max(0).unsigned_abs();
            enrichment::SourceAnswer::Absent {
                words: words.as_ref(),
                until: batch.since + Duration::from_secs(lifetime.into()),
            }
        }
        Answer::Refused(_) => return None,
    };
    Some(enrichment::answered(batch.provider.name(), &source_data, batch.since))
}

/// Returns the AS number in an answer, and the facts about this network that the answer contains.
fn network(answer: &Answer) -> (Option<i64>, NetworkFacts) {
    let Answer::Found(Finding { network: Some(network), .. }) = answer else {
        return (None, NetworkFacts::default());
    };
    let source_data = NetworkFacts {
        name: network.name.clone(),
        country: network.country.clone(),
        registry: network.registry.map(|registry| registry.name().to_owned()),
        ..NetworkFacts::default()
    };
    (network.asn.map(i64::from), source_data)
}

/// Stores the answers for blocks in `block_answer`, because later lookups of addresses in these blocks use them.
fn keep_answers(connection: &Connection, batch: &Completed, lookup_keys: &[LookupKey]) {
    let mut kept = BTreeMap::new();
    for lookup_key in lookup_keys {
        let Some(Outcome::Answered(_, answer)) = batch.outcomes.get(lookup_key) else { continue };
        let Some(document) = document(batch, answer) else { continue };
        let Some(block) = lookup_key.prefix() else { continue };
        let smaller = match answer {
            Answer::Found(finding) => finding.prefix.filter(|prefix| prefix.length() > block.length()),
            _ => None,
        };
        let prefix = smaller.unwrap_or(block);
        let (asn, network) = network(answer);
        let is_absent = matches!(answer, Answer::Absent(_));
        kept.insert(prefix, Kept { prefix, asn, network, is_absent, document });
    }
    let kept: Vec<Kept> = kept.into_values().collect();
    block_answer::keep(connection, batch.provider, &kept, batch.since);
}

/// Returns the address of a lookup key, with the outcome of its lookup. Used for providers that look up each address separately.
fn own(batch: &Completed, lookup_key: LookupKey) -> Option<Waiting> {
    let address = lookup_key.prefix()?.network();
    let none = Waiting {
        address,
        lookup_key,
        asn: None,
        network: NetworkFacts::default(),
        is_absent: false,
        document: None,
    };
    match batch.outcomes.get(&lookup_key)? {
        Outcome::AlreadyAnswered => Some(none),
        Outcome::Failed(_) => None,
        Outcome::Answered(_, answer) => {
            let (asn, network) = network(answer);
            let is_absent = matches!(answer, Answer::Absent(_));
            Some(Waiting { asn, network, is_absent, document: Some(document(batch, answer)?), ..none })
        }
    }
}

/// Stores answers for the addresses that wait for them. Several calls may be needed, each in its own transaction. The last
/// transaction completes the jobs.
fn write_waiting(
    oids: ExtensionOids,
    connection: &Connection,
    batch: &Completed,
    answered: &[LookupKey],
    waiting: &[Waiting],
) -> Stored {
    let provider = batch.provider;
    // If the provider's answers are for blocks of addresses, `waiting` contains only a part of the addresses. Otherwise `waiting`
    // contains all addresses of the batch.
    let shares = provider.declared().shares_answers();
    let blocked = write_unblocked(oids, connection, batch, waiting);
    let is_done = |w: &&Waiting| !blocked.contains(&w.address);
    let addresses: Vec<Address> = waiting.iter().filter(is_done).map(|w| w.address).collect();
    completions::renew(connection, &addresses);
    queue::done(connection, provider, &addresses);
    let is_last = !shares || waiting.len() < block_answer::MOST_AT_ONCE;
    let blocked_keys: BTreeSet<LookupKey> =
        waiting.iter().filter(|w| !is_done(w)).map(|w| w.lookup_key).collect();
    if is_last {
        // An answer for a block is kept in `block_answer`. So the batch releases a job that has blocked addresses, and a later run
        // of the job uses the kept answer. An answer for a single address is only in this batch, so the batch keeps the job.
        let blocked: Vec<LookupKey> = blocked_keys.iter().copied().collect();
        let ended: Vec<LookupKey> = answered
            .iter()
            .filter(|lookup_key| shares || !blocked_keys.contains(lookup_key))
            .copied()
            .collect();
        queue::finish(connection, provider, &ended, &blocked, retry_pause());
    }
    let new = || waiting.iter().filter(|w| w.document.is_some() && is_done(w));
    let absent = new().filter(|w| w.is_absent).count();
    let values = new().count() - absent;
    if let Some(hits) = Counter::hits_of(provider.name()) {
        telemetry::add(hits, values as i64);
    }
    let is_asked = |outcome: &Outcome, w: &Waiting| matches!(outcome, Outcome::Answered(a, _) if *a == Asked::Address(w.address));
    let was_asked =
        |w: &&Waiting| batch.outcomes.get(&w.lookup_key).is_some_and(|outcome| is_asked(outcome, w));
    let shared = new().filter(|w| !was_asked(w)).count() as u64;
    Stored {
        is_last,
        blocked: if shares { BTreeSet::new() } else { blocked_keys },
        last: waiting.last().map(|w| w.address),
        values: values as u64,
        absent: absent as u64,
        shared,
        dead: 0,
        dead_letter_error: None,
    }
}

/// Writes the addresses into the inventories. Leaves out an address if another transaction has locked the address or its network.
/// Returns the addresses that were left out.
fn write_unblocked(
    oids: ExtensionOids,
    connection: &Connection,
    batch: &Completed,
    waiting: &[Waiting],
) -> BTreeSet<Address> {
    let provider = batch.provider;
    let all: Vec<&Waiting> = waiting.iter().collect();
    if !batch.is_blocked {
        match contained(|| write_inventories(oids, connection, provider, &all)) {
            Ok(()) => return BTreeSet::new(),
            Err(failure) if failure.was_lock => {}
            Err(failure) => failure.raise(),
        }
    }
    let blocked = blocked(oids, connection, &all);
    let rest: Vec<&Waiting> = all.into_iter().filter(|w| !blocked.contains(&w.address)).collect();
    write_inventories(oids, connection, provider, &rest);
    blocked
}

/// Locks the networks and addresses that no other transaction has locked. Returns the addresses that cannot be written without
/// waiting for a lock.
fn blocked(oids: ExtensionOids, connection: &Connection, waiting: &[&Waiting]) -> BTreeSet<Address> {
    mmdb::with(LoadPolicy::None, |databases| {
        let plan = planned(oids, databases, waiting);
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
        let mut held = skip_locked::networks_being_created(oids, all.iter());
        let locked = skip_locked::lock_networks(connection, there.iter());
        held.extend(there.difference(&locked));
        let being_created = skip_locked::addresses_being_created(oids, plan.missing.keys());
        let existing = waiting.iter().map(|w| &w.address).filter(|a| !plan.missing.contains_key(a));
        let free = skip_locked::lock_addresses(connection, existing);
        let is_blocked = |w: &&&Waiting| {
            let is_held = !free.contains(&w.address) && !plan.missing.contains_key(&w.address);
            is_held || being_created.contains(&w.address) || networks(w).iter().any(|asn| held.contains(asn))
        };
        waiting.iter().filter(is_blocked).map(|w| w.address).collect()
    })
}

/// Returns a plan that contains the addresses without an inventory row. Such addresses exist, because a lookup can be requested for
/// an address that has no row.
fn planned(oids: ExtensionOids, databases: &Databases, waiting: &[&Waiting]) -> Plan {
    let latest = mvcc_snapshot::Latest::take();
    let addresses = waiting.iter().map(|waiting| (waiting.address, SessionCount::default()));
    let mut plan = enrich::plan(oids, addresses, databases, latest.view(), false, Providers::NONE);
    plan.due.clear();
    plan
}

/// Writes networks first, then new addresses, and then existing addresses. Each of these groups is written in key order.
fn write_inventories(oids: ExtensionOids, connection: &Connection, provider: Provider, waiting: &[&Waiting]) {
    if waiting.is_empty() {
        return;
    }
    let mut source_data = Networks::new();
    for waiting in waiting {
        let Some(asn) = waiting.asn else { continue };
        source_data.entry(asn).or_default().merge(waiting.network.clone());
    }
    mmdb::with(LoadPolicy::None, |databases| {
        let plan = planned(oids, databases, waiting);
        let mut all = source_data.clone();
        for (asn, of_file) in enrich::networks_of(&plan, databases) {
            all.entry(asn).or_insert(of_file);
        }
        let source = |asn| if source_data.contains_key(&asn) { provider.name() } else { "maxmind" };
        networks::create_from_sources(connection, &all, source);
        networks::refine(connection, &source_data, provider.name());
        // The answer of `provider` has just arrived. So lookups are queued only at the other providers.
        let others = Providers::enabled().without(Providers::of([provider]));
        enrich::create_addresses(oids, connection, databases, &plan.missing, others);
    });
    let answers: Vec<_> = waiting
        .iter()
        .filter_map(|waiting| Some((waiting.address, waiting.asn, waiting.document?)))
        .collect();
    enrich::write_answers(connection, provider.name(), &answers);
}

/// Handles the jobs that got no answer. Returns the addresses and networks whose jobs became dead letters, each with its error.
pub fn fail(connection: &Connection, provider: Provider, failed: &[&FailedJob]) -> Vec<(Asked, String)> {
    let policy = queue::RetryPolicy {
        base: guc::retry_base(),
        max_attempts: guc::max_attempts(),
        last_success: limiter::last_success(provider),
        random: random::unit(),
    };
    queue::fail(connection, provider, failed, &policy)
}

/// Handles the jobs that got no answer. Returns the addresses whose jobs became dead letters, each with its error.
fn move_to_dead_letters(
    connection: &Connection,
    provider: Provider,
    failed: &[&FailedJob],
) -> Vec<(Address, String)> {
    let address =
        |(asked, error)| if let Asked::Address(address) = asked { Some((address, error)) } else { None };
    let dead: Vec<(Address, String)> =
        fail(connection, provider, failed).into_iter().filter_map(address).collect();
    let now = clock::now();
    let documents: Vec<_> = dead
        .iter()
        .map(|(address, error)| (*address, None, enrichment::failed(provider.name(), now, error)))
        .collect();
    enrich::write_answers(connection, provider.name(), &documents);
    dead
}
