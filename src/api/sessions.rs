//! Session tables, and folding what they counted.

use pgrx::pg_sys;

use crate::pg::call::Call;
use crate::pg::invalidation;
use crate::store::{Home, fold, foreign_key};
use crate::{error, session, sql_function};

sql_function!(enrich_session_wrapper, pg_finfo_enrich_session_wrapper, session::enrich_session);

sql_function!(forget_sessions_wrapper, pg_finfo_forget_sessions_wrapper, session::forget_sessions);

sql_function!(inventory_changed_wrapper, pg_finfo_inventory_changed_wrapper, inventory_changed);
/// Statement trigger on `ip_inventory`: answers in there changed or went away.
fn inventory_changed(call: &Call) -> Option<pg_sys::Datum> {
    invalidation::announce(Home::of(call).inventory);
    Some(pg_sys::Datum::from(0))
}

sql_function!(create_address_key_wrapper, pg_finfo_create_address_key_wrapper, create_address_key);
fn create_address_key(call: &Call) -> Option<pg_sys::Datum> {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    let Some(column) = call.name(1) else { error::null_argument("ip_column") };
    foreign_key::create(Home::of_caller(call), rel, column);
    None
}

sql_function!(fold_statistics_wrapper, pg_finfo_fold_statistics_wrapper, fold_statistics);
fn fold_statistics(call: &Call) -> Option<pg_sys::Datum> {
    fold::run(Home::of_caller(call), !call.is_atomic());
    None
}
