//! Implements the SQL functions that run the cascade of sources for given addresses.
//!
//! These functions write with the rights of the extension's owner. Therefore a role needs only the privilege EXECUTE on the
//! functions.

use std::collections::BTreeSet;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::country;
use cowrie_enrich_engine::mmdb::clean_name;

use crate::error::{self, require_writable, require_writable_or};
use crate::guc;
use crate::mmdb::{self, LoadPolicy};
use crate::pg;
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::Value;
use crate::pg::{mvcc_snapshot, transaction};
use crate::provider::{Provider, Providers};
use crate::sql_function;
use crate::store::enrich::{self, LockPolicy, Plan, SessionCount};
use crate::store::lookup_estimate::{self, RequestCount};
use crate::store::networks::{self, NetworkFacts};
use crate::store::{ExtensionOids, addresses, cluster};
use crate::telemetry::{self, Counter};

sql_function!(enrich_ip_wrapper, pg_finfo_enrich_ip_wrapper, enrich_ip);
fn enrich_ip(call: &Call) -> Option<Value> {
    let inet = call.inet(0)?;
    if !inet.is_host {
        error::not_a_host(inet.address);
    }
    let force = call.boolean(1).unwrap_or(false);
    let oids = ExtensionOids::of_caller(call);
    cluster::refuse_on_member(oids, "enrich_ip");
    telemetry::add(Counter::TotalIps, 1);
    mmdb::with(LoadPolicy::Import, |databases| {
        let fresh = (!force).then(mvcc_snapshot::of_statement).flatten().and_then(|snapshot| {
            addresses::probe(oids, inet.address, snapshot, |row| {
                let is_fresh = !addresses::is_due(row, databases);
                is_fresh.then(|| (row.composite(), addresses::due_providers(row, online())))
            })
        });
        if let Some(Some((row, due))) = fresh {
            telemetry::add(Counter::CacheHits, 1);
            enrich::request(oids, enrich::able(inet.address, due));
            return Some(row);
        }
        let plan = plan(oids, databases, [inet.address], force, online());
        write(oids, databases, &plan, "enrich_ip()");
        let latest = mvcc_snapshot::Latest::take();
        addresses::probe(oids, inet.address, latest.view(), |row| row.composite())
    })
}

sql_function!(enrich_addresses_wrapper, pg_finfo_enrich_addresses_wrapper, enrich_addresses);
fn enrich_addresses(call: &Call) {
    let mut wanted = Vec::new();
    for inet in call.inets(0).into_iter().flatten() {
        if !inet.is_host {
            error::not_a_host(inet.address);
        }
        wanted.push(inet.address);
    }
    wanted.sort_unstable();
    wanted.dedup();
    telemetry::add(Counter::TotalIps, wanted.len() as i64);
    let force = call.boolean(1).unwrap_or(false);
    let named = call.texts(2).map(|names| named_providers(&names));
    let limit = call.bigint(3);
    if let Some(limit) = limit.filter(|limit| *limit < 0) {
        error::out_of_range("max_requests", limit, (0, i64::MAX));
    }
    let ask = named.map_or(online(), |named| online().and(named));
    let skipped = named.map_or(Providers::NONE, |named| Providers::of(Provider::all()).without(named));
    let oids = ExtensionOids::of_caller(call);
    cluster::refuse_on_member(oids, "enrich_ips");
    mmdb::with(LoadPolicy::Import, |databases| {
        let mut plan = plan(oids, databases, wanted, force, ask);
        lookup_estimate::plan_lookups(&mut plan, databases, ask, skipped);
        announce(oids, &plan, limit);
        write(oids, databases, &plan, "enrich_ips()");
    });
}

/// Returns those providers that the argument `sources` of the SQL function names.
fn named_providers(names: &[Option<String>]) -> Providers {
    let enabled = guc::enabled_sources();
    Providers::of(names.iter().filter_map(|name| {
        let Some(name) = name else { error::null_argument("sources") };
        let provider = Provider::named(name);
        if provider.is_none() && name != "maxmind" {
            error::unknown_source(name);
        }
        if !guc::names(&enabled, name) {
            error::source_disabled(name);
        }
        provider
    }))
}

/// If a call queues lookups of more addresses than this number, a NOTICE is sent. It says how many provider requests these
/// lookups need.
const ADDRESSES_WITHOUT_NOTICE: usize = 100;

/// Sends a NOTICE that says how many provider requests the lookups of a plan need. Raises an error if this number is larger
/// than `limit`.
fn announce(oids: ExtensionOids, plan: &Plan, limit: Option<i64>) {
    let addresses: BTreeSet<Address> = plan.ask.iter().map(|(address, _)| *address).collect();
    let is_large = addresses.len() > ADDRESSES_WITHOUT_NOTICE;
    if !is_large && (limit.is_none() || addresses.is_empty()) {
        return;
    }
    let counts = acting_as(oids.owner, || {
        Connection::with(oids.schema, |connection| lookup_estimate::count_requests(connection, plan))
    });
    let requests: i64 = counts.iter().map(|count| count.requests).sum();
    let by_provider = counts.iter().map(in_words).collect::<Vec<_>>().join(", ");
    if let Some(limit) = limit.filter(|limit| requests > *limit) {
        error::too_many_requests(requests, limit, &by_provider);
    }
    if is_large && requests > 0 {
        pg::detailed_notice(
            format!("enrich_ips() queues {requests} requests to providers"),
            format!("Requests by provider: {by_provider}."),
            "To ask fewer providers or to limit the requests, use the arguments \"sources\" and \"max_requests\". To remove waiting requests, call cancel_requests().",
        );
    }
}

fn in_words(count: &RequestCount) -> String {
    let (name, requests) = (count.provider.name(), count.requests);
    match count.provider.limits().daily_quota {
        0 => format!("{name} {requests}"),
        quota => format!("{name} {requests} (at most {quota} a day)"),
    }
}

fn plan(
    oids: ExtensionOids,
    databases: &mmdb::Databases,
    addresses: impl IntoIterator<Item = Address>,
    force: bool,
    ask: Providers,
) -> Plan {
    let latest = mvcc_snapshot::Latest::take();
    let addresses = addresses.into_iter().map(|address| (address, SessionCount::default()));
    enrich::plan(oids, addresses, databases, latest.view(), force, ask)
}

fn write(oids: ExtensionOids, databases: &mmdb::Databases, plan: &Plan, function: &str) {
    telemetry::add(Counter::CacheHits, plan.fresh);
    if !(plan.missing.is_empty() && plan.due.is_empty()) {
        require_writable_or(function, USE_LOOKUPS);
    }
    acting_as(oids.owner, || {
        if plan.missing.is_empty() && plan.due.is_empty() {
            enrich::request(oids, plan.ask.iter().copied());
            return;
        }
        Connection::with(oids.schema, |connection| {
            enrich::write(oids, connection, databases, plan, LockPolicy::Wait);
        });
    });
}

const USE_LOOKUPS: &str = "Call maxmind_lookup() or ip_asn(), which only read, or repeat the call in a read-write transaction on the primary.";

/// Returns the providers that are asked about data that the mmdb files lack. The set is empty if the transaction cannot queue
/// lookups.
fn online() -> Providers {
    if transaction::may_write() { Providers::enabled() } else { Providers::NONE }
}

sql_function!(ensure_asn_inventory_wrapper, pg_finfo_ensure_asn_inventory_wrapper, ensure_asn_inventory);
fn ensure_asn_inventory(call: &Call) -> Option<Value> {
    let Some(asn) = call.bigint(0) else { error::null_argument("asn") };
    if !(1..=i64::from(u32::MAX)).contains(&asn) {
        error::asn_out_of_range(asn, 1);
    }
    let source_data = NetworkFacts {
        name: given(call, 1).map(|name| clean_name(&name).into_owned()),
        country: given(call, 2).map(|country| checked_country(&country)),
        registry: given(call, 3).map(|registry| checked_registry(&registry)),
        ..NetworkFacts::default()
    };
    let overwrites = call.boolean(4).unwrap_or(false);
    let oids = ExtensionOids::of_caller(call);
    cluster::refuse_on_member(oids, "ensure_asn_inventory");
    require_writable("ensure_asn_inventory()");
    acting_as(oids.owner, || {
        Connection::with(oids.schema, |connection| {
            networks::ensure(connection, asn, source_data, overwrites, |rows| rows.composite(0))
        })
    })
}

/// Returns a text argument without spaces at both ends. If the text is empty, returns `None`, as for null.
fn given(call: &Call, n: usize) -> Option<String> {
    call.text(n).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Returns a country code in capital letters. Rejects codes that sources use if the country is unknown.
fn checked_country(country: &str) -> String {
    match country::code(country.as_bytes()) {
        Some(code) => String::from_utf8_lossy(&code).into_owned(),
        None => error::invalid_country(country),
    }
}

/// Returns the name of a registry. Also accepts the name that Team Cymru uses for RIPE.
fn checked_registry(registry: &str) -> String {
    let upper = registry.to_ascii_uppercase();
    match upper.as_str() {
        "ARIN" | "RIPE" | "APNIC" | "LACNIC" | "AFRINIC" => upper,
        "RIPENCC" => "RIPE".to_owned(),
        _ => error::invalid_registry(registry),
    }
}
