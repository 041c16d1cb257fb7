//! Runs the cascade on demand.
//!
//! These functions write as the extension's owner. A role therefore needs only the privilege EXECUTE on them.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mmdb::clean_name;

use crate::error::{self, require_writable, require_writable_or};
use crate::mmdb::{self, LoadPolicy};
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::Value;
use crate::pg::{mvcc_snapshot, transaction};
use crate::provider::Providers;
use crate::sql_function;
use crate::store::enrich::{self, LockPolicy, SessionCount};
use crate::store::networks::{self, NetworkFacts};
use crate::store::{ExtensionOids, addresses};
use crate::telemetry::{self, Counter};

sql_function!(enrich_ip_wrapper, pg_finfo_enrich_ip_wrapper, enrich_ip);
fn enrich_ip(call: &Call) -> Option<Value> {
    let inet = call.inet(0)?;
    if !inet.is_host {
        error::not_a_host(inet.address);
    }
    let force = call.boolean(1).unwrap_or(false);
    let oids = ExtensionOids::of_caller(call);
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
        write(oids, databases, [inet.address], force, "enrich_ip()");
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
    mmdb::with(LoadPolicy::Import, |databases| {
        write(ExtensionOids::of_caller(call), databases, wanted, force, "enrich_ips()");
    });
}

fn write(
    oids: ExtensionOids,
    databases: &mmdb::Databases,
    addresses: impl IntoIterator<Item = Address>,
    force: bool,
    function: &str,
) {
    let latest = mvcc_snapshot::Latest::take();
    let addresses = addresses.into_iter().map(|address| (address, SessionCount::default()));
    let plan = enrich::plan(oids, addresses, databases, latest.view(), force, online());
    drop(latest);
    telemetry::add(Counter::CacheHits, plan.fresh);
    if !(plan.missing.is_empty() && plan.due.is_empty()) {
        require_writable_or(function, USE_LOOKUPS);
    }
    acting_as(oids.owner, || {
        if plan.missing.is_empty() && plan.due.is_empty() {
            enrich::request(oids, plan.ask);
            return;
        }
        Connection::with(oids.schema, |connection| {
            enrich::write(oids, connection, databases, &plan, LockPolicy::Wait);
        });
    });
}

const USE_LOOKUPS: &str = "Call maxmind_lookup() or ip_asn(), which only read, or repeat the call in a read-write transaction on the primary.";

/// Returns the providers to ask about data that the mmdb files lack. The set is empty if lookups cannot be
/// queued.
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
    let oids = ExtensionOids::of_caller(call);
    require_writable("ensure_asn_inventory()");
    acting_as(oids.owner, || {
        Connection::with(oids.schema, |connection| {
            networks::ensure(connection, asn, source_data, |rows| rows.composite(0))
        })
    })
}

/// Returns a trimmed text argument. An empty text counts as null.
fn given(call: &Call, n: usize) -> Option<String> {
    call.text(n).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn checked_country(country: &str) -> String {
    if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_alphabetic()) {
        error::invalid_country(country);
    }
    country.to_ascii_uppercase()
}

/// Returns the name of a registry. Accepts the name that Team Cymru uses for RIPE.
fn checked_registry(registry: &str) -> String {
    let upper = registry.to_ascii_uppercase();
    match upper.as_str() {
        "ARIN" | "RIPE" | "APNIC" | "LACNIC" | "AFRINIC" => upper,
        "RIPENCC" => "RIPE".to_owned(),
        _ => error::invalid_registry(registry),
    }
}
