//! SQL functions about the queue. For example, they tell which providers can be asked about an address, and which lookups
//! already have an answer.

use cowrie_enrich_engine::lookup_key::LookupKey;
use cowrie_enrich_engine::network_kind::NetworkKind;
use cowrie_enrich_engine::providers::{Lifetimes, Purpose};
use cowrie_enrich_engine::{as_registry, bogon};

use crate::document::{enrichment, skipped};
use crate::error::{self, require_writable};
use crate::mmdb::{self, LoadPolicy};
use crate::pg::mvcc_snapshot;
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::{Bigint, Boolean, Integer, ToSql, Typed, Value};
use crate::provider::limiter;
use crate::provider::{self, Provider, Providers};
use crate::store::{ExtensionOids, cancel_requests as cancelling, cluster, queue, session_priority};
use crate::{row, sql_function};

sql_function!(providers_wrapper, pg_finfo_providers_wrapper, providers);
fn providers(call: &Call) {
    call.set(Provider::all().map(|provider| row![Text: provider.name(), Text: provider.title()]));
}

sql_function!(is_provider_wrapper, pg_finfo_is_provider_wrapper, is_provider);
fn is_provider(call: &Call) -> Option<Typed<Boolean>> {
    Some(Provider::named(&call.text(0)?).is_some().to_sql())
}

sql_function!(may_be_asked_wrapper, pg_finfo_may_be_asked_wrapper, may_be_asked);
fn may_be_asked(call: &Call) -> Option<Typed<Boolean>> {
    let (provider, address) = (Provider::named(&call.text(0)?), call.address(1)?);
    Some(provider.is_some_and(|provider| provider.takes(address)).to_sql())
}

sql_function!(lookup_key_of_wrapper, pg_finfo_lookup_key_of_wrapper, lookup_key_of);
fn lookup_key_of(call: &Call) -> Option<Value> {
    let (name, address) = (call.text(0)?, call.address(1)?);
    let Some(provider) = Provider::named(&name) else { error::unknown_provider(&name) };
    let key = LookupKey::from(provider.declared().lookup_key(address));
    Some(call.record(row![Text: key.kind(), Text: key.text()]))
}

sql_function!(is_lookup_key_wrapper, pg_finfo_is_lookup_key_wrapper, is_lookup_key);
fn is_lookup_key(call: &Call) -> Option<Typed<Boolean>> {
    let (kind, key) = (call.text(0)?, LookupKey::parse(&call.text(1)?));
    Some(key.is_some_and(|key| key.kind() == kind).to_sql())
}

sql_function!(is_source_fresh_wrapper, pg_finfo_is_source_fresh_wrapper, is_source_fresh);
fn is_source_fresh(call: &Call) -> Option<Typed<Boolean>> {
    let lifetimes = Lifetimes { value: call.integer(2)?, absent: call.integer(3)? };
    Some(enrichment::is_fresh(call.jsonb(0)?, &call.text(1)?, lifetimes).to_sql())
}

sql_function!(is_source_open_wrapper, pg_finfo_is_source_open_wrapper, is_source_open);
fn is_source_open(call: &Call) -> Option<Typed<Boolean>> {
    Some(enrichment::is_open(call.jsonb(0)?, &call.text(1)?, call.boolean(2)?).to_sql())
}

sql_function!(
    has_sessions_since_skip_wrapper,
    pg_finfo_has_sessions_since_skip_wrapper,
    has_sessions_since_skip
);
fn has_sessions_since_skip(call: &Call) -> Option<Typed<Boolean>> {
    let sessions = call.bigint(2).unwrap_or_default();
    Some(skipped::has_sessions_since(call.jsonb(0)?, &call.text(1)?, sessions, call.timestamp(3)).to_sql())
}

sql_function!(is_source_stale_wrapper, pg_finfo_is_source_stale_wrapper, is_source_stale);
fn is_source_stale(call: &Call) -> Option<Typed<Boolean>> {
    let (document, source) = (call.jsonb(0)?, call.text(2)?);
    let is_stale = match Provider::named(&source) {
        Some(provider) => {
            let kind = call.text(3).and_then(|name| NetworkKind::named(&name));
            enrichment::is_stale(document, call.bigint(1), provider, kind)
        }
        None if source == "maxmind" => {
            mmdb::with(LoadPolicy::None, |files| files.is_due(enrichment::builds(document)))
        }
        None => error::unknown_source(&source),
    };
    Some(is_stale.to_sql())
}

sql_function!(answer_lifetime_wrapper, pg_finfo_answer_lifetime_wrapper, answer_lifetime);
fn answer_lifetime(call: &Call) -> Option<Typed<Integer>> {
    let kind = call.text(1).and_then(|name| NetworkKind::named(&name));
    Some(provider::lifetime_in(call.integer(0)?, kind).to_sql())
}

sql_function!(
    sessions_wait_for_types_wrapper,
    pg_finfo_sessions_wait_for_types_wrapper,
    sessions_wait_for_types
);
fn sessions_wait_for_types(_: &Call) -> Typed<Boolean> {
    let knows_types = |provider: Provider| provider.purpose() == Purpose::IpType;
    Providers::enabled().iter().any(knows_types).to_sql()
}

sql_function!(request_enrichment_wrapper, pg_finfo_request_enrichment_wrapper, request_enrichment);
fn request_enrichment(call: &Call) {
    let Some(inet) = call.inet(0) else { error::null_argument("ip") };
    let provider = named(call, 1);
    if !inet.is_host {
        error::not_a_host(inet.address);
    }
    if let Some(reason) = bogon::reason(inet.address) {
        error::bogon_refused(inet.address, reason);
    }
    if provider.leaves_out(inet.address) {
        error::benign_scanner(provider.title(), inet.address);
    }
    if !provider.takes(inet.address) {
        error::not_asked_about(provider.title(), inet.address);
    }
    require_writable("request_enrichment()");
    let oids = ExtensionOids::of_caller(call);
    acting_as(oids.owner, || {
        Connection::with(oids.schema, |connection| {
            queue::append(connection, inet.address, provider, call.integer(2).unwrap_or(0));
        });
    });
}

sql_function!(
    request_network_enrichment_wrapper,
    pg_finfo_request_network_enrichment_wrapper,
    request_network_enrichment
);
fn request_network_enrichment(call: &Call) {
    let Some(number) = call.bigint(0) else { error::null_argument("asn") };
    let provider = named(call, 1);
    let Some(asn) = u32::try_from(number).ok().filter(|asn| *asn > 0) else {
        error::asn_out_of_range(number, 1)
    };
    if !provider.declared().knows_networks() {
        error::no_lookups_of_networks(provider.title());
    }
    if as_registry::is_bogon(asn) {
        error::bogon_asn_refused(asn);
    }
    require_writable("request_enrichment()");
    let oids = ExtensionOids::of_caller(call);
    acting_as(oids.owner, || {
        Connection::with(oids.schema, |connection| queue::append_network(connection, asn, provider));
    });
}

sql_function!(cancel_requests_wrapper, pg_finfo_cancel_requests_wrapper, cancel_requests);
fn cancel_requests(call: &Call) -> Typed<Bigint> {
    let provider = named(call, 0);
    let inet = call.inet(1);
    if let Some(network) = inet.filter(|inet| !inet.is_host) {
        error::not_a_host(network.address);
    }
    require_writable("cancel_requests()");
    // The function requires READ COMMITTED, because its statements need different snapshots. With one snapshot for all
    // statements, the call could delete a job although another address waits for this job.
    if mvcc_snapshot::is_kept_for_transaction() {
        error::needs_read_committed("cancel_requests()");
    }
    let oids = ExtensionOids::of_caller(call);
    acting_as(oids.owner, || {
        Connection::with(oids.schema, |connection| {
            cancelling::run(connection, provider, inet.map(|inet| inet.address))
        })
    })
    .to_sql()
}

sql_function!(retry_dead_letters_wrapper, pg_finfo_retry_dead_letters_wrapper, retry_dead_letters);
fn retry_dead_letters(call: &Call) -> Typed<Bigint> {
    let provider = (!call.is_null(0)).then(|| named(call, 0));
    require_writable("retry_dead_letters()");
    let oids = ExtensionOids::of_caller(call);
    acting_as(oids.owner, || {
        Connection::with(oids.schema, |connection| queue::retry_dead_letters(connection, provider))
    })
    .to_sql()
}

sql_function!(resume_provider_wrapper, pg_finfo_resume_provider_wrapper, resume_provider);
fn resume_provider(call: &Call) {
    limiter::resume(named(call, 0));
}

fn named(call: &Call, n: usize) -> Provider {
    let Some(name) = call.text(n) else { error::null_argument("provider") };
    Provider::named(&name).unwrap_or_else(|| error::unknown_provider(&name))
}

sql_function!(set_session_priority_wrapper, pg_finfo_set_session_priority_wrapper, set_session_priority);
fn set_session_priority(call: &Call) {
    let Some(table) = call.oid(0) else { error::null_argument("rel") };
    require_writable("set_session_priority()");
    if cluster::is_citus_table(table) {
        error::of_distributed("set_session_priority");
    }
    let expression = call.text(1).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    session_priority::set(ExtensionOids::of_caller(call), table, expression.as_deref());
}
