//! The generated columns of `ip_inventory`. Immutable, and without errors: a provider's malformed JSON must not
//! fail the write that stores it.

use pgrx::pg_sys;

use crate::document::enrichment;
use crate::pg::array::{self, Element};
use crate::pg::call::Call;
use crate::pg::text;
use crate::sql_function;

sql_function!(geo_country_of_wrapper, pg_finfo_geo_country_of_wrapper, geo_country_of);
fn geo_country_of(call: &Call) -> Option<pg_sys::Datum> {
    let country = enrichment::country(call.jsonb(0)?);
    Some(text::write(country.as_deref().unwrap_or("XX")))
}

sql_function!(ip_types_of_wrapper, pg_finfo_ip_types_of_wrapper, ip_types_of);
fn ip_types_of(call: &Call) -> Option<pg_sys::Datum> {
    let types = enrichment::ip_types(call.jsonb(0)?);
    Some(array::write(Element::Text, types.iter().map(|t| Some(text::write(t)))))
}

sql_function!(is_scanner_of_wrapper, pg_finfo_is_scanner_of_wrapper, is_scanner_of);
fn is_scanner_of(call: &Call) -> Option<pg_sys::Datum> {
    Some(pg_sys::Datum::from(enrichment::is_scanner(call.jsonb(0)?)))
}

sql_function!(is_bogon_of_wrapper, pg_finfo_is_bogon_of_wrapper, is_bogon_of);
fn is_bogon_of(call: &Call) -> Option<pg_sys::Datum> {
    Some(pg_sys::Datum::from(enrichment::is_bogon(call.jsonb(0)?)))
}
