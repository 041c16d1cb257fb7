//! The entry points of the procedures that process whole tables.

use crate::pg::sql_function::Call;
use crate::procedures::{
    add_session_foreign_key, backfill_sessions, build_asn_inventory, erase_address, expire_addresses,
    import_inventory, refresh_session_counts, refresh_stale,
};
use crate::sql_function;

sql_function!(backfill_sessions_wrapper, pg_finfo_backfill_sessions_wrapper, backfill_sessions);
fn backfill_sessions(call: &Call) {
    backfill_sessions::backfill(call);
}

sql_function!(
    add_session_foreign_key_wrapper,
    pg_finfo_add_session_foreign_key_wrapper,
    add_session_foreign_key
);
fn add_session_foreign_key(call: &Call) {
    add_session_foreign_key::add(call);
}

sql_function!(
    refresh_session_counts_wrapper,
    pg_finfo_refresh_session_counts_wrapper,
    refresh_session_counts
);
fn refresh_session_counts(call: &Call) {
    refresh_session_counts::refresh(call);
}

sql_function!(build_asn_inventory_wrapper, pg_finfo_build_asn_inventory_wrapper, build_asn_inventory);
fn build_asn_inventory(call: &Call) {
    build_asn_inventory::build(call);
}

sql_function!(refresh_stale_wrapper, pg_finfo_refresh_stale_wrapper, refresh_stale);
fn refresh_stale(call: &Call) {
    refresh_stale::refresh(call);
}

sql_function!(import_inventory_wrapper, pg_finfo_import_inventory_wrapper, import_inventory);
fn import_inventory(call: &Call) {
    import_inventory::take_over(call);
}

sql_function!(erase_address_wrapper, pg_finfo_erase_address_wrapper, erase_address);
fn erase_address(call: &Call) {
    erase_address::erase(call);
}

sql_function!(expire_addresses_wrapper, pg_finfo_expire_addresses_wrapper, expire_addresses);
fn expire_addresses(call: &Call) {
    expire_addresses::expire(call);
}
