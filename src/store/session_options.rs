//! Stores the options of attached tables in `session_table_option`.
//!
//! An option belongs to the role that owned the table when the option was set. If the table gets another owner, the option no
//! longer applies. It also does not apply to a partition or an inheritance child that has another owner.

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

/// Sets options of an attached table. If an argument is `None`, this option is not changed.
///
/// The caller must own the table. Only a role with the privileges of the extension's owner may turn on `trust_input`. Such a
/// role may turn it on for a table of any owner.
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

/// Informs all backends that options have changed. They receive this information when the transaction commits.
pub fn announce(oids: ExtensionOids) {
    invalidation::announce(relation::find(oids.schema, c"session_table_option"));
}

/// Returns true if the extension trusts the snapshots and documents that clients write into this table or partition.
///
/// Reads the options without the executor, and never waits for a lock. While the options are locked, the function returns false for
/// every table.
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
