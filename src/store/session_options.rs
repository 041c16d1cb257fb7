//! Options of attached tables, in `session_table_option`.
//!
//! An option belongs to the owner that the table had when it was set. It does not apply once the table has another owner,
//! nor to a partition or an inheritance child of another owner.

use pgrx::pg_sys;

use super::Home;
use crate::error;
use crate::pg::keyed::Keyed;
use crate::pg::relation;
use crate::pg::role::{self, acting_as};
use crate::pg::spi::{Connection, Statement};
use crate::pg::{catalog, invalidation};

thread_local! {
    static SET: Statement = const { Statement::new(
        "session_options_set", include_str!("../../sql/queries/sessions/session_options_set.sql"),
        &[pg_sys::OIDOID, pg_sys::BOOLOID, pg_sys::BOOLOID]) };
    static FORGET: Statement = const { Statement::new(
        "session_options_forget", include_str!("../../sql/queries/sessions/session_options_forget.sql"), &[]) };
    static ATTACHED: Statement = const { Statement::new(
        "backfill_attached", include_str!("../../sql/queries/procedures/backfill_attached.sql"), &[pg_sys::OIDOID]) };
}

/// Sets options of an attached table; `None` keeps an option as it is.
///
/// The caller must own the table. Only a role with the privileges of the extension's owner may turn on `trust_input`, of any
/// role's table.
pub fn set(home: Home, table: pg_sys::Oid, run_triggers: Option<bool>, trust_input: Option<bool>) {
    let name = catalog::table_name(table);
    let (owns_table, acts_for_extension) = (catalog::owns_table(table), role::has_privileges_of(home.owner));
    if !owns_table && (run_triggers.is_some() || !acts_for_extension) {
        error::not_owner(&name);
    }
    if trust_input == Some(true) && !acts_for_extension {
        error::may_not_trust();
    }
    Connection::with(home.schema, |connection| {
        acting_as(home.owner, || {
            let table = Some(pg_sys::Datum::from(table));
            if ATTACHED.with(|statement| connection.run(statement, &[table], |rows| rows.bigint(0, 1)))
                < Some(1)
            {
                error::not_attached(&name);
            }
            forget(connection);
            let arguments =
                [table, run_triggers.map(pg_sys::Datum::from), trust_input.map(pg_sys::Datum::from)];
            SET.with(|statement| connection.run(statement, &arguments, |_| ()));
        });
    });
}

/// Deletes the options of tables that were dropped.
pub fn forget(connection: &Connection) {
    FORGET.with(|statement| connection.run(statement, &[], |_| ()));
}

/// Tells all backends at commit that options changed.
pub fn announce(home: Home) {
    invalidation::announce(relation::find(home.schema, c"session_table_option"));
}

/// Returns true if snapshots and documents that clients write into a table, or a partition, are trusted.
///
/// Reads below the executor and never waits for a lock: while the options are locked, no table is trusted.
pub fn is_input_trusted(home: Home, table: pg_sys::Oid) -> bool {
    let Some(keyed) = Keyed::open(home.schema, c"session_table_option", c"session_table_option_pkey") else {
        return false;
    };
    let Some(owner) = catalog::owner_of_table(table) else { return false };
    let of_owner = |relation: &pg_sys::Oid| catalog::owner_of_table(*relation) == Some(owner);
    let mut relations = catalog::table_and_parents(table).into_iter().filter(of_owner);
    relations.any(|relation| {
        let is_trusted = keyed.find(relation, |row| {
            let set_by = row.name(c"table_owner");
            row.boolean(c"trust_input") == Some(true)
                && set_by.is_some()
                && set_by == catalog::role_name(owner)
        });
        is_trusted == Some(true)
    })
}
