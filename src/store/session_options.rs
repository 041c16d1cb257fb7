//! Options of attached tables, in `session_table_option`.
//!
//! An option belongs to the owner that the table had when the option was set. It does not apply after the
//! table gets another owner, nor to a partition or an inheritance child of another owner.

use super::ExtensionOids;
use crate::error;
use crate::pg::keyed_table::Keyed;
use crate::pg::relation;
use crate::pg::role::{self, acting_as};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{self, Bigint, Boolean};
use crate::pg::{Oid, catalog, invalidation};

thread_local! {
    static SET: Statement<(value::Oid, Boolean, Boolean)> = const { Statement::new(
        "session_options_set", include_str!("../../sql/queries/sessions/session_options_set.sql")) };
    static FORGET: Statement<()> = const { Statement::new(
        "session_options_forget", include_str!("../../sql/queries/sessions/session_options_forget.sql")) };
    static ATTACHED: Statement<(value::Oid,), (Bigint,)> = const { Statement::new(
        "backfill_attached", include_str!("../../sql/queries/procedures/backfill_attached.sql")) };
}

/// Sets options of an attached table; `None` keeps an option as it is.
///
/// The caller must own the table. Only a role with the privileges of the extension's owner may turn on
/// `trust_input`. That role may do so for a table of any owner.
pub fn set(oids: ExtensionOids, table: Oid, run_triggers: Option<bool>, trust_input: Option<bool>) {
    let name = catalog::table_name(table);
    let (owns_table, acts_for_extension) = (catalog::owns_table(table), role::has_privileges_of(oids.owner));
    if !owns_table && (run_triggers.is_some() || !acts_for_extension) {
        error::not_owner(&name);
    }
    if trust_input == Some(true) && !acts_for_extension {
        error::may_not_trust();
    }
    Connection::with(oids.schema, |connection| {
        acting_as(oids.owner, || {
            if ATTACHED.first(connection, (table,), |(count,)| count).flatten() < Some(1) {
                error::not_attached(&name);
            }
            forget(connection);
            SET.execute(connection, (table, run_triggers, trust_input));
        });
    });
}

/// Deletes the options of tables that were dropped.
pub fn forget(connection: &Connection) {
    FORGET.execute(connection, ());
}

/// Tells all backends at commit that options changed.
pub fn announce(oids: ExtensionOids) {
    invalidation::announce(relation::find(oids.schema, c"session_table_option"));
}

/// Returns true if snapshots and documents that clients write into a table, or a partition, are trusted.
///
/// Reads below the executor and never waits for a lock: while the options are locked, no table is trusted.
pub fn is_input_trusted(oids: ExtensionOids, table: Oid) -> bool {
    let Some(keyed) = Keyed::open(oids.schema, c"session_table_option", c"session_table_option_pkey") else {
        return false;
    };
    let Some(owner) = catalog::owner_of_table(table) else { return false };
    let of_owner = |relation: &Oid| catalog::owner_of_table(*relation) == Some(owner);
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
