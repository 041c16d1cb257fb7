//! Looks up a batch over Team Cymru's DNS.
//!
//! For each address, the client sends one TXT query for a name under `origin.asn.cymru.com` or `origin6.asn.cymru.com`.
//! The record of an address does not contain the name of the network. So the client sends one more query
//! (`AS<number>.asn.cymru.com`) for each network. If a network has no name, the answer about the address is still
//! valid. To look up a network by its AS number, the client sends only the second query.
//!
//! Some DNS servers say that a name does not exist although it exists. Examples are a filter, and a server without a
//! connection to the internet. So a name counts as absent only if the same server knows another of Team Cymru's names.
//! This is a name of the same batch, or else the name of Team Cymru's own network.
//!
//! The queries go to a recursive DNS server, and not directly to Team Cymru. The settings or the configuration of the
//! system name this server. If a response is in the cache of the server, the server does not query Team Cymru.
//!
//! | file | holds |
//! |---|---|
//! | `names` | names to query |
//! | `message` | one DNS message |
//! | `text` | the fields of one TXT record |
//! | `server` | choice of the DNS server |
//! | `resolver` | many concurrent queries, with retries and limits |

#[cfg(any(test, fuzzing))]
pub(super) mod invariants;
mod message;
mod names;
mod resolver;
mod server;
#[cfg(test)]
mod tests;
mod text;

pub use names::{network_name, origin_name};
pub use resolver::LONGEST_MESSAGE;

use super::network::NetworkCandidates;
use super::route::Candidates;
use super::{
    Anomalies, CymruReply, CymruSettings, Failure, NetworkAnswer, NetworkReply, RouteAnswer, RouteReply,
    Transport,
};
use crate::address::Address;
use crate::net::Cancel;
use resolver::{Outcome, Resolver, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(super) fn longest(timeout: Duration) -> Duration {
    Timing::new(timeout).whole
}

pub(super) fn exchange(settings: &CymruSettings, addresses: &[Address], cancel: &Cancel) -> RouteReply {
    run(settings.dns_server.as_deref(), addresses, &Timing::new(settings.timeout), cancel)
}

pub(super) fn exchange_networks(settings: &CymruSettings, asns: &[u32], cancel: &Cancel) -> NetworkReply {
    let timing = Timing::new(settings.timeout);
    ask_server(settings.dns_server.as_deref(), asns, &timing, cancel, |resolver| {
        ask_networks(resolver, asns, cancel)
    })
}

fn run(server: Option<&str>, addresses: &[Address], timing: &Timing, cancel: &Cancel) -> RouteReply {
    ask_server(server, addresses, timing, cancel, |resolver| ask_addresses(resolver, addresses, cancel))
}

/// Queries the first reachable address of the server.
fn ask_server<K: Ord, A>(
    server: Option<&str>,
    keys: &[K],
    timing: &Timing,
    cancel: &Cancel,
    ask: impl Fn(Resolver<'_>) -> CymruReply<K, A>,
) -> CymruReply<K, A> {
    let begun = Instant::now();
    let end = begun + timing.whole;
    let mut reply = match server::resolve_server(server, cancel) {
        Ok(peers) => {
            let connected = Some(begun.elapsed());
            let mut reply = CymruReply::new(Transport::Dns, Some(Failure::Silent));
            for peer in peers {
                reply = match Resolver::new(peer, timing, end) {
                    Ok(resolver) => ask(resolver),
                    Err(failure) => CymruReply::new(Transport::Dns, Some(failure)),
                };
                if !reply.failure.as_ref().is_some_and(Failure::is_unreachable) {
                    break;
                }
            }
            CymruReply { connected, ..reply }
        }
        Err(failure) => CymruReply::new(Transport::Dns, Some(failure)),
    };
    if keys.iter().all(|key| reply.answers.contains_key(key)) {
        reply.failure = None;
    }
    reply
}

/// Team Cymru's own network. Its name exists.
const OWN_NETWORK: u32 = 23_028;

fn ask_addresses(mut resolver: Resolver<'_>, addresses: &[Address], cancel: &Cancel) -> RouteReply {
    let names: Vec<String> = addresses.iter().map(|address| origin_name(*address)).collect();
    let mut anomalies = Anomalies::default();
    let asked = ask(&mut resolver, addresses, &names, RouteAnswer::Absent, cancel, |address, texts| {
        best_of(texts, address, &mut anomalies)
    });
    let Asked { mut answers, ending, refusal } = asked;
    if ending.is_ok() {
        add_names(&mut answers, &mut resolver, &mut anomalies, cancel);
    }
    Asked { answers, ending, refusal }.reply(&resolver, anomalies)
}

fn ask_networks(mut resolver: Resolver<'_>, asns: &[u32], cancel: &Cancel) -> NetworkReply {
    let names: Vec<String> = asns.iter().map(|asn| network_name(*asn)).collect();
    let mut anomalies = Anomalies::default();
    ask(&mut resolver, asns, &names, NetworkAnswer::Absent, cancel, |asn, texts| {
        network_of(texts, asn, &mut anomalies)
    })
    .reply(&resolver, anomalies)
}

/// The outcomes of the queries of a batch.
struct Asked<K, A> {
    answers: BTreeMap<K, A>,
    /// Why the batch was abandoned.
    ending: Result<(), Failure>,
    /// The first error that the server returned.
    refusal: Option<String>,
}

/// Sends one query for each key. `read` parses the texts of a response. If the server says that a name does not exist,
/// this is an answer only if the server knows another of Team Cymru's names.
fn ask<K: Ord + Copy, A: Clone>(
    resolver: &mut Resolver<'_>,
    keys: &[K],
    names: &[String],
    absent: A,
    cancel: &Cancel,
    mut read: impl FnMut(K, &[Vec<u8>]) -> Option<A>,
) -> Asked<K, A> {
    let (outcomes, ending) = resolver.ask(names, cancel);
    let (mut answers, mut absent_keys, mut refusal) = (BTreeMap::new(), Vec::new(), None);
    for (key, outcome) in keys.iter().zip(outcomes) {
        match outcome {
            Outcome::Texts(texts) => answers.extend(read(*key, &texts).map(|answer| (*key, answer))),
            Outcome::Nothing => absent_keys.push(*key),
            Outcome::Failed(reason) => {
                refusal.get_or_insert(reason);
            }
            Outcome::Unanswered => {}
        }
    }
    if !absent_keys.is_empty() && answers.is_empty() && !knows_own_network(resolver, cancel) {
        refusal.get_or_insert_with(|| format!("no valid record of {}", network_name(OWN_NETWORK)));
    } else {
        answers.extend(absent_keys.into_iter().map(|key| (key, absent.clone())));
    }
    Asked { answers, ending, refusal }
}

/// Asks for a name that exists.
fn knows_own_network(resolver: &mut Resolver<'_>, cancel: &Cancel) -> bool {
    let (outcomes, _) = resolver.ask(&[network_name(OWN_NETWORK)], cancel);
    let is_valid = |text: &Vec<u8>| text::network(text, OWN_NETWORK).is_some();
    outcomes.iter().any(|outcome| matches!(outcome, Outcome::Texts(texts) if texts.iter().any(is_valid)))
}

impl<K, A> Asked<K, A> {
    fn reply(self, resolver: &Resolver<'_>, mut anomalies: Anomalies) -> CymruReply<K, A> {
        let failure = match (self.ending, self.refusal) {
            (Err(failure), _) => Some(failure),
            (Ok(()), _) if !self.answers.is_empty() => None,
            (Ok(()), Some(reason)) => Some(Failure::Io(format!("the DNS server answered: {reason}"))),
            (Ok(()), None) if resolver.spoke => {
                Some(Failure::Io("the DNS server sent no valid answer".into()))
            }
            (Ok(()), None) => Some(Failure::Silent),
        };
        anomalies.malformed += resolver.malformed;
        anomalies.oversized += resolver.oversized;
        CymruReply {
            answers: self.answers,
            failure,
            anomalies,
            used: Transport::Dns,
            bytes: resolver.bytes,
            connected: None,
            spoke: resolver.spoke,
        }
    }
}

fn network_of(texts: &[Vec<u8>], asn: u32, anomalies: &mut Anomalies) -> Option<NetworkAnswer> {
    let mut candidates = NetworkCandidates::default();
    for text in texts {
        let is_valid = text::network(text, asn).is_some_and(|answer| candidates.add(answer));
        anomalies.malformed += u64::from(!is_valid);
    }
    candidates.answer()
}

fn best_of(texts: &[Vec<u8>], address: Address, anomalies: &mut Anomalies) -> Option<RouteAnswer> {
    let mut candidates = Candidates::default();
    for text in texts {
        match text::origin(text, address) {
            Some(row) => candidates.add(row),
            None => anomalies.malformed += 1,
        }
    }
    candidates.answer()
}

/// Queries each network once. A missing name is not a failure.
fn add_names(
    answers: &mut BTreeMap<Address, RouteAnswer>,
    resolver: &mut Resolver<'_>,
    anomalies: &mut Anomalies,
    cancel: &Cancel,
) {
    let asns: BTreeSet<u32> = answers.values().filter_map(asn_of).collect();
    let questions: Vec<String> = asns.iter().map(|asn| network_name(*asn)).collect();
    let (outcomes, _) = resolver.ask(&questions, cancel);
    let mut names = BTreeMap::new();
    for (asn, outcome) in asns.iter().zip(outcomes) {
        let Outcome::Texts(texts) = outcome else {
            continue;
        };
        for text in &texts {
            match text::name(text, *asn) {
                Some(name) => {
                    names.entry(*asn).or_insert(name);
                }
                None => anomalies.malformed += 1,
            }
        }
    }
    for answer in answers.values_mut() {
        if let RouteAnswer::Route(route) = answer {
            route.name = names.get(&route.asn).cloned().flatten();
        }
    }
}

fn asn_of(answer: &RouteAnswer) -> Option<u32> {
    match answer {
        RouteAnswer::Route(route) => Some(route.asn),
        RouteAnswer::Absent | RouteAnswer::Refused(_) => None,
    }
}
