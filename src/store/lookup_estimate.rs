//! Plans the lookups that one call of `enrich_ips()` queues, and counts the provider requests that these lookups need.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;

use super::enrich::{self, Lookups, Plan};
use crate::mmdb::Databases;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Inet, Integer, Text, array};
use crate::provider::{Provider, Providers};

thread_local! {
    static TO_ASK: Statement<(Text, Array<Inet>, Boolean, Integer, Integer), (Bigint,)> = const { Statement::new(
        "lookups_to_ask", include_str!("../../sql/queries/queue/lookups_to_ask.sql")) };
}

/// The number of requests to one provider.
pub struct RequestCount {
    pub provider: Provider,
    pub requests: i64,
}

/// Collects all lookups of a plan in [`Plan::ask`]. `online` contains the providers to ask. In the documents of new addresses,
/// the providers in `skipped` are marked as skipped.
pub fn plan_lookups(plan: &mut Plan, databases: &Databases, online: Providers, skipped: Providers) {
    let has_network = |address| databases.network(address).is_some();
    let new = plan.missing.keys().map(|address| {
        let asn = databases.asn(*address).map(i64::from);
        (*address, asn)
    });
    plan.ask.extend(enrich::lookups_of_new(new, online));
    let is_wanted = |(address, provider): &(Address, Provider)| {
        provider.purpose() != Purpose::Network || !has_network(*address)
    };
    plan.ask.extend(std::mem::take(&mut plan.ask_if_renewed).into_iter().filter(is_wanted));
    plan.lookups = Lookups::Planned { skipped };
}

/// Counts for each provider the requests that the lookups of a plan need. One request contains as many lookup keys as the
/// provider accepts in one batch. A lookup that already waits in the queue is not counted.
pub fn count_requests(connection: &Connection, plan: &Plan) -> Vec<RequestCount> {
    let counted = Provider::all().map(|provider| {
        let addresses: Vec<Address> =
            plan.ask.iter().filter(|(_, asked)| *asked == provider).map(|(address, _)| *address).collect();
        let keys = if addresses.is_empty() { 0 } else { lookup_keys(connection, provider, &addresses) };
        let batch = i64::try_from(provider.limits().batch.max(1)).unwrap_or(i64::MAX);
        RequestCount { provider, requests: keys.unsigned_abs().div_ceil(batch.unsigned_abs()) as i64 }
    });
    counted.filter(|count| count.requests > 0).collect()
}

fn lookup_keys(connection: &Connection, provider: Provider, addresses: &[Address]) -> i64 {
    let lifetimes = provider.lifetimes();
    let arguments = (
        provider.name(),
        array(addresses),
        provider.declared().shares_answers(),
        lifetimes.value,
        lifetimes.absent,
    );
    TO_ASK.first(connection, arguments, |(keys,)| keys).flatten().unwrap_or_default()
}
