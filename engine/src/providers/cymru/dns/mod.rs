//! Looks up a batch over Team Cymru's DNS.
//!
//! Each address is one TXT query under `origin.asn.cymru.com` or `origin6.asn.cymru.com`. Then each network found is
//! one query (`AS<number>.asn.cymru.com`), because only that record contains the name. A network without a name is
//! still an answer.
//!
//! The queries go to the recursive server of the settings or of the system, not to Team Cymru. Its cache serves names
//! and blocks that were queried before.
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

use super::route::Candidates;
use super::{Anomalies, CymruSettings, Failure, RouteAnswer, RouteReply, Transport};
use crate::address::Address;
use crate::net::Cancel;
use resolver::{Outcome, Resolver, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(super) fn longest(timeout: Duration) -> Duration {
    Timing::new(timeout).whole
}

pub(super) fn exchange(settings: &CymruSettings, addresses: &[Address], cancel: &Cancel) -> RouteReply {
    run(settings.dns_server.as_deref(), addresses, &Timing::new(settings.timeout), cancel)
}

fn run(server: Option<&str>, addresses: &[Address], timing: &Timing, cancel: &Cancel) -> RouteReply {
    let begun = Instant::now();
    let end = begun + timing.whole;
    let mut reply = match server::resolve_server(server, cancel) {
        Ok(peers) => {
            let connected = Some(begun.elapsed());
            RouteReply { connected, ..ask_first(&peers, addresses, timing, end, cancel) }
        }
        Err(failure) => RouteReply::new(Transport::Dns, Some(failure)),
    };
    if addresses.iter().all(|address| reply.answers.contains_key(address)) {
        reply.failure = None;
    }
    reply
}

/// Queries the first reachable address of the server.
fn ask_first(
    peers: &[SocketAddr],
    addresses: &[Address],
    timing: &Timing,
    end: Instant,
    cancel: &Cancel,
) -> RouteReply {
    let mut reply = RouteReply::new(Transport::Dns, Some(Failure::Silent));
    for peer in peers {
        reply = match Resolver::new(*peer, timing, end) {
            Ok(resolver) => ask(resolver, addresses, cancel),
            Err(failure) => RouteReply::new(Transport::Dns, Some(failure)),
        };
        if !reply.failure.as_ref().is_some_and(Failure::is_unreachable) {
            break;
        }
    }
    reply
}

fn ask(mut resolver: Resolver<'_>, addresses: &[Address], cancel: &Cancel) -> RouteReply {
    let names: Vec<String> = addresses.iter().map(|address| origin_name(*address)).collect();
    let (outcomes, ending) = resolver.ask(&names, cancel);
    let mut anomalies = Anomalies::default();
    let mut answers = BTreeMap::new();
    let mut refusal = None;
    for (address, outcome) in addresses.iter().zip(outcomes) {
        let answer = match outcome {
            Outcome::Texts(texts) => best_of(&texts, *address, &mut anomalies),
            Outcome::Nothing => Some(RouteAnswer::Absent),
            Outcome::Failed(reason) => {
                refusal.get_or_insert(reason);
                None
            }
            Outcome::Unanswered => None,
        };
        answers.extend(answer.map(|answer| (*address, answer)));
    }
    if ending.is_ok() {
        add_names(&mut answers, &mut resolver, &mut anomalies, cancel);
    }

    let failure = match (ending, refusal) {
        (Err(failure), _) => Some(failure),
        (Ok(()), _) if !answers.is_empty() => None,
        (Ok(()), Some(reason)) => Some(Failure::Io(format!("the DNS server answered: {reason}"))),
        (Ok(()), None) if resolver.spoke => Some(Failure::Io("the DNS server sent no valid answer".into())),
        (Ok(()), None) => Some(Failure::Silent),
    };
    anomalies.malformed += resolver.malformed;
    anomalies.oversized += resolver.oversized;
    RouteReply {
        answers,
        failure,
        anomalies,
        used: Transport::Dns,
        bytes: resolver.bytes,
        connected: None,
        spoke: resolver.spoke,
    }
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
