//! Procedures that work through whole tables.

use pgrx::pg_sys;

use crate::maintenance::{import, networks, recount, sessions, stale};
use crate::pg::call::Call;
use crate::sql_function;

sql_function!(backfill_sessions_wrapper, pg_finfo_backfill_sessions_wrapper, backfill_sessions);
fn backfill_sessions(call: &Call) -> Option<pg_sys::Datum> {
    sessions::backfill(call);
    None
}

sql_function!(
    refresh_session_counts_wrapper,
    pg_finfo_refresh_session_counts_wrapper,
    refresh_session_counts
);
fn refresh_session_counts(call: &Call) -> Option<pg_sys::Datum> {
    recount::refresh(call);
    None
}

sql_function!(build_asn_inventory_wrapper, pg_finfo_build_asn_inventory_wrapper, build_asn_inventory);
fn build_asn_inventory(call: &Call) -> Option<pg_sys::Datum> {
    networks::build(call);
    None
}

sql_function!(refresh_stale_wrapper, pg_finfo_refresh_stale_wrapper, refresh_stale);
fn refresh_stale(call: &Call) -> Option<pg_sys::Datum> {
    stale::refresh(call);
    None
}

sql_function!(import_inventory_wrapper, pg_finfo_import_inventory_wrapper, import_inventory);
fn import_inventory(call: &Call) -> Option<pg_sys::Datum> {
    import::take_over(call);
    None
}
