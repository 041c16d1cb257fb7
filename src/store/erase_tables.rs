//! The session tables from which addresses are erased.

use super::refresh_session_counts::{self, CountedTable};
use super::{ExtensionOids, backfill_sessions};
use crate::error;
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::{Oid, catalog};

/// The view `attached_tables` gives a reason why a table is not intact. If a reason ends with this text, only the index for
/// completing sessions is missing. An erasure does not use this index.
const LACKS_INDEX: &str = "lacks the index of sessions with null snapshot columns";

/// A session table without partitions, or one partition of a session table.
pub struct SessionTable {
    pub(super) counted: CountedTable,
    pub(super) owner: Oid,
}

/// Selects session tables.
#[derive(Clone, Copy)]
pub enum Tables {
    All,
    /// This table or its partitions.
    Of(Oid),
    /// The tables for which the current role has the rights of the owner.
    Owned,
}

/// Raises an error if the current role lacks the rights of the owner of a session table.
pub fn require_owner_of_all(oids: ExtensionOids) {
    let all = Connection::with(oids.schema, |connection| {
        acting_as(oids.owner, || refresh_session_counts::tables(connection))
    });
    for CountedTable { table, .. } in all {
        if catalog::owner_of_table(table).is_some() && !catalog::owns_table(table) {
            error::not_owner_of_sessions(&catalog::table_name(table));
        }
    }
}

/// Returns session tables. Raises an error if the current role lacks the rights of a table's owner. Also raises an error if the
/// addresses of a table cannot be read.
pub fn tables(oids: ExtensionOids, connection: &Connection, which: Tables) -> Vec<SessionTable> {
    let (all, of_rel) = acting_as(oids.owner, || {
        let of_rel = match which {
            Tables::Of(rel) => Some(backfill_sessions::tables(connection, rel)),
            Tables::All | Tables::Owned => None,
        };
        (refresh_session_counts::tables(connection), of_rel)
    });
    let is_wanted = |counted: &CountedTable| {
        (!matches!(which, Tables::Owned) || catalog::owns_table(counted.table))
            && of_rel.as_ref().is_none_or(|of_rel| of_rel.iter().any(|table| table.oid == counted.table))
    };
    let tables = all.into_iter().filter(is_wanted).filter_map(|counted| {
        let owner = catalog::owner_of_table(counted.table)?;
        let name = catalog::table_name(counted.table);
        if !catalog::owns_table(counted.table) {
            error::not_owner_of_sessions(&name);
        }
        let reason = counted.not_intact_reason.as_deref();
        if let Some(reason) = reason.filter(|reason| !reason.ends_with(LACKS_INDEX)) {
            error::sessions_not_intact(&name, reason);
        }
        Some(SessionTable { counted, owner })
    });
    tables.collect()
}
