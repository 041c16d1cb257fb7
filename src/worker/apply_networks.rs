//! Applies completed batches whose lookups are about networks. Stores the answers in `asn_inventory`, in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::providers::{Answer, Finding};

use super::apply;
use super::completed::{Completed, Outcome, Stored};
use crate::document::enrichment::{self, SourceAnswer};
use crate::pg::clock;
use crate::pg::spi::Connection;
use crate::pg::value::{Jsonb, Typed};
use crate::store::network_answers::{self, NetworkAnswer};
use crate::store::networks::{self, NetworkFacts, Networks};
use crate::store::queue::{self, Asked, FailedJob, Lease};
use crate::store::{ExtensionOids, provider_quota, skip_locked};

/// Runs one transaction. The transaction writes the networks in the order of locks, and completes the jobs. If another transaction
/// has locked a network or is creating it, the network and its job stay in the batch.
pub fn store(oids: ExtensionOids, connection: &Connection, batch: &Completed, lease: Lease) -> Stored {
    let provider = batch.provider;
    let all: Vec<LookupKey> = batch.outcomes.keys().copied().collect();
    let held: BTreeSet<LookupKey> = queue::hold(connection, provider, &all, lease).into_iter().collect();
    for (day, requests) in &batch.unspent {
        provider_quota::unspend(connection, provider, *day, *requests);
    }
    let (answered, failed) = apply::answered_and_failed(batch, &held);
    let mut answers = BTreeMap::new();
    for key in &answered {
        let (Some(asn), Some(Outcome::Answered(_, answer))) = (key.network(), batch.outcomes.get(key)) else {
            continue;
        };
        answers.extend(of_answer(batch, answer).map(|answer| (i64::from(asn), answer)));
    }
    let blocked = write(oids, connection, batch, &mut answers);
    let is_done = |key: &&LookupKey| key.network().is_none_or(|asn| !blocked.contains(&i64::from(asn)));
    let done: Vec<LookupKey> = answered.iter().filter(is_done).copied().collect();
    queue::finish(connection, provider, &done, &[], Duration::ZERO);

    let mut dead = fail(oids, connection, batch, &failed);
    let absent = answers.values().filter(|answer| answer.is_absent).count();
    Stored {
        is_last: true,
        blocked: answered.iter().filter(|key| !is_done(key)).copied().collect(),
        last: None,
        values: (answers.len() - absent) as u64,
        absent: absent as u64,
        shared: 0,
        dead: dead.len() as u64,
        dead_letter_error: dead.pop(),
    }
}

/// Returns the parts of an answer that are stored.
fn of_answer(batch: &Completed, answer: &Answer) -> Option<NetworkAnswer> {
    let lifetime = batch.provider.lifetimes().absent.max(0).unsigned_abs();
    let until = batch.since + Duration::from_secs(lifetime.into());
    let (facts, state) = match answer {
        Answer::Found(finding) => (facts(finding), SourceAnswer::Present),
        Answer::Absent(_) => (NetworkFacts::default(), SourceAnswer::Absent { words: None, until }),
        Answer::Refused(_) => return None,
    };
    Some(NetworkAnswer {
        facts,
        is_absent: matches!(answer, Answer::Absent(_)),
        document: enrichment::answered(batch.provider.name(), &state, batch.since),
    })
}

fn facts(finding: &Finding) -> NetworkFacts {
    let Some(network) = finding.network.clone() else { return NetworkFacts::default() };
    NetworkFacts {
        name: network.name,
        country: network.country,
        registry: network.registry.map(|registry| registry.name().to_owned()),
        as_name: network.as_name,
        allocated_on: network.allocated,
        ..NetworkFacts::default()
    }
}

/// Writes the answers. If another transaction has locked a network or is creating it, the network is not written. Removes these
/// networks from `answers`, and returns them. If a network has no row and the provider has facts about it, creates the row.
fn write(
    oids: ExtensionOids,
    connection: &Connection,
    batch: &Completed,
    answers: &mut BTreeMap<i64, NetworkAnswer>,
) -> BTreeSet<i64> {
    let being_created = skip_locked::networks_being_created(oids, answers.keys());
    let there = networks::existing(connection, answers.keys());
    let is_new = |asn: &i64, answer: &NetworkAnswer| {
        !there.contains(asn) && !being_created.contains(asn) && !answer.is_absent
    };
    let new: Networks = answers
        .iter()
        .filter(|(asn, answer)| is_new(asn, answer))
        .map(|(asn, answer)| (*asn, answer.facts.clone()))
        .collect();
    let source = batch.provider.name();
    networks::create(connection, &new, source);
    let locked = skip_locked::lock_networks(connection, there.iter().chain(new.keys()));
    let blocked: BTreeSet<i64> = there.difference(&locked).chain(&being_created).copied().collect();
    answers.retain(|asn, _| !blocked.contains(asn));
    network_answers::write(connection, answers, source);
    blocked
}

/// Handles the jobs that got no answer: each job is retried later, or becomes a dead letter. Returns the errors of the jobs that
/// became dead letters.
fn fail(
    oids: ExtensionOids,
    connection: &Connection,
    batch: &Completed,
    failed: &[&FailedJob],
) -> Vec<String> {
    let dead = apply::fail(connection, batch.provider, failed);
    let now = clock::now();
    let mut answers: BTreeMap<i64, NetworkAnswer> = BTreeMap::new();
    for (asked, error) in &dead {
        let Asked::Network(asn) = asked else { continue };
        let document: Typed<Jsonb> = enrichment::failed(batch.provider.name(), now, error);
        let answer = NetworkAnswer { facts: NetworkFacts::default(), is_absent: true, document };
        answers.insert(i64::from(*asn), answer);
    }
    write(oids, connection, batch, &mut answers);
    dead.into_iter().map(|(_, error)| error).collect()
}
