//! Implements the SQL function `cymru_lookup()`, which looks up addresses at Team Cymru.
//!
//! The caller's lookups are neither queued nor stored. They count towards the same limits as the worker's lookups. The function
//! itself holds no locks while it waits for a permit or for the network.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::net::{Finished, Pool};
use cowrie_enrich_engine::providers::cymru::{self, RouteAnswer, RouteReply, RouteRequest};

use crate::document::enrichment::country_text;
use crate::error;
use crate::pg::sql_function::Call;
use crate::pg::value::Value;
use crate::pg::{background, clock, latch};
use crate::provider::limiter::{self, Permit, PermitDecision};
use crate::provider::reply::apply_reply;
use crate::provider::{Limits, Provider};
use crate::provider::{counters, health};
use crate::store::{ExtensionOids, cluster};
use crate::{row, sql_function};

/// While other processes hold all permits, the function pauses for this time and then tries again to get a permit.
const ASK_AGAIN: Duration = Duration::from_millis(50);

sql_function!(cymru_lookup_wrapper, pg_finfo_cymru_lookup_wrapper, cymru_lookup);
fn cymru_lookup(call: &Call) {
    let wanted = wanted(call);
    cluster::refuse_on_member(ExtensionOids::of_caller(call), "cymru_lookup");
    let provider = Provider::cymru();
    if !provider.is_enabled() {
        error::source_disabled(provider.name());
    }
    let public: Vec<Address> = wanted.iter().copied().filter(|a| bogon::reason(*a).is_none()).collect();
    let mut answers = BTreeMap::new();
    for batch in public.chunks(provider.limits().batch) {
        let reply = exchange(batch);
        if reply.answers.is_empty() {
            let why = reply.failure.map_or_else(
                || "the answer of Team Cymru contained no valid row".to_owned(),
                |f| f.to_string(),
            );
            error::provider_failed("Team Cymru", &why);
        }
        answers.extend(reply.answers);
    }
    let unanswered = public.iter().filter(|address| !answers.contains_key(address)).count();
    if unanswered > 0 {
        pgrx::warning!(
            "Team Cymru sent no answer for {unanswered} of {} addresses; the result has no rows for these addresses",
            public.len()
        );
    }
    // An address without an answer gets no row in the result. Two kinds of addresses get a row of nulls: bogons, which are
    // never sent, and addresses that no network announces.
    let answered = wanted.iter().filter(|a| answers.contains_key(a) || bogon::reason(**a).is_some());
    call.set(answered.map(|address| row(*address, answers.get(address))));
}

fn wanted(call: &Call) -> BTreeSet<Address> {
    let given = call.inets(0).into_iter().flatten();
    given
        .map(|inet| {
            if !inet.is_host {
                error::not_a_host(inet.address);
            }
            inet.address
        })
        .collect()
}

/// Runs one request: waits for a permit, sends the request, and waits for the reply. If the statement is cancelled, the permit
/// is returned at once, and the thread of the request sends nothing more.
fn exchange(addresses: &[Address]) -> RouteReply {
    let provider = Provider::cymru();
    let limits = provider.limits();
    let permit = wait_for_permit(&limits);
    let mut pool = Pool::new().unwrap_or_else(|error| error::no_network(&error));
    let task =
        RouteRequest { settings: cymru::settings(&provider.settings()), addresses: addresses.to_vec() };
    counters::count_start(provider, addresses.len());
    if let Err(error) = background::without_signals(|| pool.start(0, task)) {
        error::no_network(&error);
    }
    loop {
        if let Some(Finished { done: reply, took, .. }) = pool.finished().pop() {
            apply_reply(permit, &reply.clone().into(), took, addresses.len(), &limits);
            return reply;
        }
        latch::wait(Duration::from_secs(1), Some(pool.ready()));
    }
}

fn wait_for_permit(limits: &Limits) -> Permit {
    loop {
        let pause = match limiter::take_permit(Provider::cymru(), limits) {
            Ok((permit, _)) => return permit,
            Err(PermitDecision::NotBefore(until)) => {
                let rest = until - clock::now();
                // The caller waits while the rate limit is reached, but does not wait while the provider is considered down.
                if rest > limits.longest {
                    error::provider_is_paused("Team Cymru", &health::health(Provider::cymru()));
                }
                rest.clamp(Duration::from_millis(1), Duration::from_secs(1))
            }
            Err(_) => ASK_AGAIN,
        };
        latch::wait(pause, None);
    }
}

fn row(address: Address, answer: Option<&RouteAnswer>) -> Vec<Value> {
    let route = match answer {
        Some(RouteAnswer::Route(route)) => Some(route),
        _ => None,
    };
    row![
        Inet: address,
        Bigint: route.map(|route| i64::from(route.asn)),
        Cidr: route.and_then(|route| route.prefix),
        Text: route.and_then(|route| route.country).map(country_text),
        Text: route.and_then(|route| route.registry).map(|registry| registry.name()),
        Date: route.and_then(|route| route.allocated.as_deref()).and_then(clock::date),
        Text: route.and_then(|route| route.name.as_deref()),
    ]
}
