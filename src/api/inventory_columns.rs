//! Computes the generated columns of `ip_inventory`. These functions are immutable and never raise an error. A provider may
//! send malformed JSON, and the statement that stores this JSON must not fail.

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::document::{enrichment, types};
use crate::pg::sql_function::Call;
use crate::pg::value::{Array, Boolean, Cidr, Text, Timestamptz, ToSql, Typed, array};
use crate::sql_function;

sql_function!(geo_country_of_wrapper, pg_finfo_geo_country_of_wrapper, geo_country_of);
fn geo_country_of(call: &Call) -> Option<Typed<Text>> {
    let country = enrichment::country(call.jsonb(0)?);
    Some(country.as_deref().unwrap_or("XX").to_sql())
}

sql_function!(ip_types_of_wrapper, pg_finfo_ip_types_of_wrapper, ip_types_of);
fn ip_types_of(call: &Call) -> Option<Typed<Array<Text>>> {
    let types = types::ip_types(call.jsonb(0)?);
    Some(array(types.iter().map(|t| &**t)).to_sql())
}

sql_function!(announced_prefix_wrapper, pg_finfo_announced_prefix_wrapper, announced_prefix);
fn announced_prefix(call: &Call) -> Option<Typed<Cidr>> {
    Some(enrichment::announced_prefix(call.jsonb(0)?)?.to_sql())
}

sql_function!(document_time_wrapper, pg_finfo_document_time_wrapper, document_time);
fn document_time(call: &Call) -> Option<Typed<Timestamptz>> {
    Some(Timestamp::parse(&call.text(0)?)?.to_sql())
}

sql_function!(is_scanner_of_wrapper, pg_finfo_is_scanner_of_wrapper, is_scanner_of);
fn is_scanner_of(call: &Call) -> Option<Typed<Boolean>> {
    Some(enrichment::is_scanner(call.jsonb(0)?).to_sql())
}

sql_function!(is_bogon_of_wrapper, pg_finfo_is_bogon_of_wrapper, is_bogon_of);
fn is_bogon_of(call: &Call) -> Option<Typed<Boolean>> {
    Some(enrichment::is_bogon(call.jsonb(0)?).to_sql())
}
