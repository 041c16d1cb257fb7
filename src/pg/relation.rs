//! Access to the extension's tables without the executor: locks, and appending rows. [`prober`](super::prober) finds rows by an
//! index.
//!
//! The extension may add only microseconds to the INSERT of a honeypot session. A statement through SPI takes longer, so this
//! module does not use SPI. Access rights are not checked here, because only the extension's tables are opened, and only in the
//! name of the extension's owner.

use std::ffi::CStr;
use std::time::Duration;

use pgrx::pg_sys;

use super::column::type_of;
use super::value::{Arguments, Parameters, Value};
use super::{role, text};

/// An open table. Its lock is kept until the transaction ends.
pub struct Table {
    pub(super) relation: pg_sys::Relation,
}

/// Returns the OID of a relation of the extension, or InvalidOid if there is no such relation.
pub fn find(schema: pg_sys::Oid, name: &CStr) -> pg_sys::Oid {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) }
}

/// Waits until a table can be read, and locks the table until the transaction ends, so that no other session can truncate or
/// rewrite it. Takes no snapshot. Does nothing if the table was dropped.
pub fn lock_for_reading(table: pg_sys::Oid) {
    // SAFETY: the server allows a lock on an OID even if no table has this OID.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) }
}

/// Takes the lock for reading on a table or an index, if the lock is available without waiting. Returns true if the lock was
/// taken. The transaction keeps the lock, so the relation can be opened later without waiting.
pub fn lock_for_reading_if_free(relation: pg_sys::Oid) -> bool {
    // SAFETY: the server allows a lock on an OID even if no relation has this OID.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) }
}

/// Returns true if a table of the extension may have rows, that is, if its file has pages. Returns false while the lock of
/// another session prevents reading the table.
pub fn may_have_rows(table: pg_sys::Oid) -> bool {
    lock_for_reading_if_free(table)
        && Table::open(table, pg_sys::AccessShareLock).is_some_and(|table| table.pages() > 0)
}

/// Takes the lock for appending to a table of the extension, until the transaction ends. Raises an error if the lock of another
/// session prevents this for longer than `longest`. The setting `lock_timeout` of this session does not apply.
pub fn lock_for_appending(table: pg_sys::Oid, longest: Duration) {
    let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the server allows a lock on an OID even if no table has this OID.
    if unsafe { pg_sys::ConditionalLockRelationOid(table, mode) } {
        return;
    }
    // 0 would mean no limit.
    let limit = role::setting_text(format!("{}ms", longest.as_millis().max(1)).as_bytes());
    // SAFETY: as above.
    role::with_settings(&[(c"lock_timeout", &limit)], || unsafe { pg_sys::LockRelationOid(table, mode) });
}

/// Locks a table until the transaction ends, so that other sessions can neither write to the table nor alter it. Adding a
/// foreign key takes the same lock.
pub fn lock_against_writers(table: pg_sys::Oid) {
    // SAFETY: the server allows a lock on an OID even if no table has this OID.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE) }
}

impl Table {
    /// Opens a table. Returns `None` if the table does not exist (any more).
    pub(super) fn open(table: pg_sys::Oid, lock: u32) -> Option<Table> {
        if table == pg_sys::InvalidOid {
            return None;
        }
        // SAFETY: try_table_open returns null for a relation that was dropped.
        let relation = unsafe { pg_sys::try_table_open(table, lock as pg_sys::LOCKMODE) };
        if relation.is_null() {
            return None;
        }
        let table = Table { relation };
        // SAFETY: the relation is open. A view, for example, has no access method.
        if unsafe { (*(*relation).rd_rel).relkind as u8 } != pg_sys::RELKIND_RELATION {
            table.is_altered("the relation is not an ordinary table");
        }
        Some(table)
    }

    /// Returns the table's current number of pages.
    pub fn pages(&self) -> u32 {
        // SAFETY: the table is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Opens a table of the extension for appending. Raises an error if the table does not exist.
    pub fn open_for_appending(schema: pg_sys::Oid, name: &CStr) -> Table {
        Table::open(find(schema, name), pg_sys::RowExclusiveLock)
            .unwrap_or_else(|| pgrx::error!("table \"{}\" does not exist", name.to_string_lossy()))
    }

    /// Returns the horizon of VACUUM. All snapshots in use see the changes of every transaction before this horizon.
    pub fn oldest_visible_to_all(&self) -> pg_sys::TransactionId {
        // SAFETY: the table is open. The function reads shared memory and raises no error.
        unsafe { pg_sys::GetOldestNonRemovableTransactionId(self.relation) }
    }

    /// Raises the error for a table whose definition its owner has changed. The code in this module requires the original
    /// definition.
    pub(super) fn is_altered(&self, how: &str) -> ! {
        // SAFETY: the relation is open.
        let name = unsafe { text::from_c((*(*self.relation).rd_rel).relname.data.as_ptr()) };
        pgrx::error!(
            "table \"{}\" does not have the definition that cowrie_enrich requires: {how}",
            name.unwrap_or_default()
        )
    }

    /// Opens a table of the extension for reading, if it exists.
    pub fn open_for_reading(table: pg_sys::Oid) -> Option<Table> {
        Table::open(table, pg_sys::AccessShareLock)
    }

    /// Opens a table of the extension for appending, if it exists.
    pub fn open_if_there_for_appending(table: pg_sys::Oid) -> Option<Table> {
        Table::open(table, pg_sys::RowExclusiveLock)
    }

    /// Appends rows whose columns have the types `P`. The table must have no index. Triggers of the table do not fire. Several
    /// rows of a page are written as one WAL record.
    pub fn append<P: Parameters>(&self, rows: impl Iterator<Item = impl Arguments<P>>) {
        for (number, wanted) in (1..).zip(P::OIDS.iter().copied()) {
            // SAFETY: the relation is open, and so is its descriptor.
            if unsafe { type_of((*self.relation).rd_att, number) } != wanted {
                self.is_altered(&format!("column {number} has a different type"));
            }
        }
        let mut slots = Vec::new();
        let mut filled = 0;
        for row in rows {
            if filled == slots.len() {
                // SAFETY: a slot for this table, dropped below.
                slots.push(unsafe { pg_sys::table_slot_create(self.relation, std::ptr::null_mut()) });
            }
            self.fill(slots[filled], row.write().as_ref());
            filled += 1;
            if filled == APPEND_BATCH {
                self.flush(&mut slots[..filled]);
                filled = 0;
            }
        }
        self.flush(&mut slots[..filled]);
        for slot in slots {
            // SAFETY: created above, dropped once.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(slot) };
        }
    }

    /// Stores a row in a slot of this table. The values of the row fill the first columns of the table. An upgrade may have
    /// added further columns, which become null.
    fn fill(&self, slot: *mut pg_sys::TupleTableSlot, row: &[Value]) {
        // SAFETY: the slot has as many columns as the table's descriptor.
        unsafe {
            pg_sys::ExecClearTuple(slot);
            for column in 0..(*(*self.relation).rd_att).natts as usize {
                let value = row.get(column).copied().unwrap_or(Value::NULL);
                *(*slot).tts_isnull.add(column) = value.is_null();
                *(*slot).tts_values.add(column) = value.datum_or_zero();
            }
            pg_sys::ExecStoreVirtualTuple(slot);
        }
    }

    fn flush(&self, slots: &mut [*mut pg_sys::TupleTableSlot]) {
        // SAFETY: the slots hold rows of this table. The table is locked for writing.
        unsafe {
            match slots {
                [] => {}
                [slot] => pg_sys::simple_table_tuple_insert(self.relation, *slot),
                _ => pg_sys::table_multi_insert(
                    self.relation,
                    slots.as_mut_ptr(),
                    slots.len() as i32,
                    pg_sys::GetCurrentCommandId(true),
                    0,
                    std::ptr::null_mut(),
                ),
            }
        }
    }
}

/// The number of rows that are inserted at once. A page has room for about two hundred such rows (session deltas).
const APPEND_BATCH: usize = 256;

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: `open` opened this table, and it is closed only once. With NoLock, closing does not release the lock. The
        // transaction holds the lock until it ends.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}
