//! SQL functions that manage session tables and fold the counts of sessions.

use cowrie_enrich_engine::address::Address;

use crate::error::{self, require_writable};
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::user_table::{FrozenTable, Lock};
use crate::pg::value::{Array, Bigint, Boolean, Regclass, ToSql, Typed, array};
use crate::pg::{catalog, check_for_interrupts, invalidation, role};
use crate::session::trigger;
use crate::sql_function;
use crate::store::{ExtensionOids, addresses, cluster, fold, session_foreign_key, session_options};

sql_function!(enrich_session_wrapper, pg_finfo_enrich_session_wrapper, trigger::enrich_session);

sql_function!(forget_sessions_wrapper, pg_finfo_forget_sessions_wrapper, trigger::forget_sessions);

sql_function!(inventory_changed_wrapper, pg_finfo_inventory_changed_wrapper, inventory_changed);
/// A statement trigger on `ip_inventory`. It fires when answers were changed or deleted.
fn inventory_changed(call: &Call) {
    invalidation::announce(ExtensionOids::of(call).inventory);
}

sql_function!(
    session_options_changed_wrapper,
    pg_finfo_session_options_changed_wrapper,
    session_options_changed
);
/// Statement trigger on `session_table_option`.
fn session_options_changed(call: &Call) {
    session_options::announce(ExtensionOids::of(call));
}

sql_function!(
    set_session_table_options_wrapper,
    pg_finfo_set_session_table_options_wrapper,
    set_session_table_options
);
fn set_session_table_options(call: &Call) {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    let (run_triggers, trust_input) = (call.boolean(1), call.boolean(2));
    // An option from the time before the table was distributed can be turned off.
    if (run_triggers == Some(true) || trust_input == Some(true)) && cluster::is_citus_table(rel) {
        error::of_distributed("set_session_table_options");
    }
    session_options::set(ExtensionOids::of_caller(call), rel, run_triggers, trust_input);
}

sql_function!(create_address_key_wrapper, pg_finfo_create_address_key_wrapper, create_address_key);
fn create_address_key(call: &Call) {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    let Some(column) = call.name(1) else { error::null_argument("ip_column") };
    session_foreign_key::create(ExtensionOids::of_caller(call), rel, column);
}

sql_function!(
    in_restricted_operation_wrapper,
    pg_finfo_in_restricted_operation_wrapper,
    in_restricted_operation
);
fn in_restricted_operation(_: &Call) -> Typed<Boolean> {
    role::is_restricted().to_sql()
}

sql_function!(delete_addresses_wrapper, pg_finfo_delete_addresses_wrapper, delete_addresses);
fn delete_addresses(call: &Call) -> Typed<Bigint> {
    if call.is_null(0) {
        error::null_argument("ips");
    }
    require_writable("delete_addresses()");
    let addresses: Vec<Address> = call.inets(0).into_iter().flatten().map(|inet| inet.address).collect();
    addresses::delete(ExtensionOids::of_caller(call), &addresses).to_sql()
}

sql_function!(lock_session_table_wrapper, pg_finfo_lock_session_table_wrapper, lock_session_table);
/// Locks tables for SQL functions whose commands refer to tables by name. While the locks are held, each name refers to the
/// same table. The locks are held until the transaction ends.
fn lock_session_table(call: &Call) -> Option<Typed<Array<Regclass>>> {
    let table = call.oid(0)?;
    if !catalog::owns_table(table) {
        error::not_owner(&catalog::table_name(table));
    }
    let lock = if call.boolean(1)? { Lock::Alter } else { Lock::Index };
    let tables = FrozenTable::lock_tree(table, lock);
    Some(array(tables.iter().map(|table| table.table().oid())).to_sql())
}

sql_function!(fold_statistics_wrapper, pg_finfo_fold_statistics_wrapper, fold_statistics);
fn fold_statistics(call: &Call) {
    require_writable("fold_statistics()");
    let oids = ExtensionOids::of_caller(call);
    cluster::refuse_on_member(oids, "fold_statistics");
    if cluster::is_coordinator(oids) {
        collect(oids, !call.is_atomic());
    }
    fold::run(oids, !call.is_atomic()).report();
}

/// Collects the counts of the nodes of a Citus cluster. If `may_commit` is true, commits after each batch, until no counts are left.
/// Otherwise collects one batch of each node, because a node sends the next batch only after a commit.
fn collect(oids: ExtensionOids, may_commit: bool) {
    if !may_commit {
        Connection::with(oids.schema, |connection| {
            acting_as(oids.owner, || cluster::collect(connection, false))
        });
        return;
    }
    Connection::with_commits(oids.schema, |connection| {
        let mut is_repeated = false;
        loop {
            // A node that did not answer in the first round would delay each further round.
            let collected = acting_as(oids.owner, || cluster::collect(connection, is_repeated));
            connection.commit();
            check_for_interrupts();
            if collected.counts == 0 {
                break;
            }
            is_repeated = true;
        }
    });
}
