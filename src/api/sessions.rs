//! Session tables, and folding what they counted.

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::require_writable;
use crate::pg::array::{self, Element};
use crate::pg::call::Call;
use crate::pg::user_table::{FrozenTable, Lock};
use crate::pg::{catalog, invalidation, role};
use crate::session::trigger;
use crate::store::{Home, addresses, fold, session_foreign_key, session_options};
use crate::{error, sql_function};

sql_function!(enrich_session_wrapper, pg_finfo_enrich_session_wrapper, trigger::enrich_session);

sql_function!(forget_sessions_wrapper, pg_finfo_forget_sessions_wrapper, trigger::forget_sessions);

sql_function!(inventory_changed_wrapper, pg_finfo_inventory_changed_wrapper, inventory_changed);
/// Statement trigger on `ip_inventory`: answers in there changed or went away.
fn inventory_changed(call: &Call) -> Option<pg_sys::Datum> {
    invalidation::announce(Home::of(call).inventory);
    Some(pg_sys::Datum::from(0))
}

sql_function!(
    session_options_changed_wrapper,
    pg_finfo_session_options_changed_wrapper,
    session_options_changed
);
/// Statement trigger on `session_table_option`.
fn session_options_changed(call: &Call) -> Option<pg_sys::Datum> {
    session_options::announce(Home::of(call));
    Some(pg_sys::Datum::from(0))
}

sql_function!(
    set_session_table_options_wrapper,
    pg_finfo_set_session_table_options_wrapper,
    set_session_table_options
);
fn set_session_table_options(call: &Call) -> Option<pg_sys::Datum> {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    session_options::set(Home::of_caller(call), rel, call.boolean(1), call.boolean(2));
    None
}

sql_function!(create_address_key_wrapper, pg_finfo_create_address_key_wrapper, create_address_key);
fn create_address_key(call: &Call) -> Option<pg_sys::Datum> {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    let Some(column) = call.name(1) else { error::null_argument("ip_column") };
    session_foreign_key::create(Home::of_caller(call), rel, column);
    None
}

sql_function!(
    in_restricted_operation_wrapper,
    pg_finfo_in_restricted_operation_wrapper,
    in_restricted_operation
);
fn in_restricted_operation(_: &Call) -> Option<pg_sys::Datum> {
    Some(pg_sys::Datum::from(role::is_restricted()))
}

sql_function!(delete_addresses_wrapper, pg_finfo_delete_addresses_wrapper, delete_addresses);
fn delete_addresses(call: &Call) -> Option<pg_sys::Datum> {
    if call.datum(0).is_none() {
        error::null_argument("ips");
    }
    let addresses: Vec<Address> = call.inets(0).into_iter().flatten().map(|inet| inet.address).collect();
    Some(pg_sys::Datum::from(addresses::delete(Home::of_caller(call), &addresses)))
}

sql_function!(lock_session_table_wrapper, pg_finfo_lock_session_table_wrapper, lock_session_table);
/// Locks tables for SQL functions that run commands by name, so that the names keep their meaning until the transaction ends.
fn lock_session_table(call: &Call) -> Option<pg_sys::Datum> {
    let table = call.oid(0)?;
    if !catalog::owns_table(table) {
        error::not_owner(&catalog::table_name(table));
    }
    let lock = if call.boolean(1)? { Lock::Alter } else { Lock::Index };
    let tables = FrozenTable::lock_tree(table, lock);
    Some(array::write(Element::Regclass, tables.iter().map(|table| Some(table.table().oid().into()))))
}

sql_function!(fold_statistics_wrapper, pg_finfo_fold_statistics_wrapper, fold_statistics);
fn fold_statistics(call: &Call) -> Option<pg_sys::Datum> {
    require_writable("fold_statistics()");
    fold::run(Home::of_caller(call), !call.is_atomic()).report();
    None
}
