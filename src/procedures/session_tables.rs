//! Code that is shared by the procedures that work on session tables.

use crate::error;
use crate::pg::role::acting_as;
use crate::pg::scan::ReadableTable;
use crate::pg::spi::Connection;
use crate::pg::{Oid, catalog};
use crate::store::ExtensionOids;
use crate::store::backfill_sessions::{self, Table};
use crate::store::procedure_call::{self, RejectedRow};

/// Raises an error if the caller does not own the table, or if the table is not attached.
pub fn require_own_attached(oids: ExtensionOids, rel: Oid) {
    let name = catalog::table_name(rel);
    if !catalog::owns_table(rel) {
        error::not_owner(&name);
    }
    let is_attached = Connection::with(oids.schema, |connection| {
        acting_as(oids.owner, || backfill_sessions::is_attached(connection, rel))
    });
    if !is_attached {
        error::not_attached(&name);
    }
}

/// Collects the sessions that have invalid values, to list them in `rejected_row`.
pub struct RejectedRows {
    procedure: &'static str,
    pub rows: i64,
    /// Number of entries that may still be listed.
    room: usize,
    unlisted: Vec<RejectedRow>,
}

impl RejectedRows {
    pub fn new(procedure: &'static str, most: usize) -> RejectedRows {
        RejectedRows { procedure, rows: 0, room: most, unlisted: Vec::new() }
    }

    /// Counts one row, and adds its faults to the list. If no more entries may be listed, the faults are not computed.
    pub fn about(&mut self, rejected: impl IntoIterator<Item = RejectedRow>) {
        self.rows += 1;
        let before = self.unlisted.len();
        self.unlisted.extend(rejected.into_iter().take(self.room).map(RejectedRow::shortened));
        self.room -= self.unlisted.len() - before;
    }

    /// Writes the faults that were added since the last call to `rejected_row`. Runs in the transaction of the batch that found the
    /// faults.
    pub fn write(&mut self, connection: &Connection) {
        procedure_call::reject(connection, self.procedure, &self.unlisted);
        self.unlisted.clear();
    }
}

/// Returns the estimated total number of rows in some tables.
pub fn rows_estimated(tables: &[Table]) -> i64 {
    tables.iter().filter_map(|table| Some(ReadableTable::open(table.oid)?.rows_estimated())).sum()
}
