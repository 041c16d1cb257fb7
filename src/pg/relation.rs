//! Our own tables below the executor: one index probe, one append.
//!
//! A session's insert may cost microseconds only; a statement through SPI costs more than the whole budget. Access
//! rights are not checked here: only the extension's own tables are opened, on behalf of its owner.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::jsonb::Container;
use super::text;

/// An open table; its lock is kept until the transaction ends.
pub struct Table {
    relation: pg_sys::Relation,
}

/// OID of a relation of ours, or InvalidOid.
pub fn find(schema: pg_sys::Oid, name: &CStr) -> pg_sys::Oid {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) }
}

impl Table {
    /// Opens a table, or answers `None` when it is not there (any more).
    pub fn open(table: pg_sys::Oid, lock: u32) -> Option<Table> {
        if table == pg_sys::InvalidOid {
            return None;
        }
        // SAFETY: try_table_open returns null for a relation that vanished.
        let relation = unsafe { pg_sys::try_table_open(table, lock as pg_sys::LOCKMODE) };
        (!relation.is_null()).then_some(Table { relation })
    }

    /// The row whose first index column equals `key` under `snapshot`, handed to `read` while its buffer is pinned.
    pub fn probe<T>(
        &self,
        index: pg_sys::Oid,
        key: pg_sys::Datum,
        snapshot: pg_sys::Snapshot,
        read: impl FnOnce(&Row) -> T,
    ) -> Option<T> {
        // SAFETY: the index belongs to the open table and its first column is inet with the default operator class;
        // scan, slot and index are released below or by the abort of the (sub)transaction.
        unsafe {
            let index = pg_sys::index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let slot = pg_sys::table_slot_create(self.relation, std::ptr::null_mut());
            let mut scan_key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut scan_key,
                1,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::Oid::from(pg_sys::F_NETWORK_EQ),
                key,
            );
            let scan = begin_scan(self.relation, index, snapshot);
            pg_sys::index_rescan(scan, &mut scan_key, 1, std::ptr::null_mut(), 0);
            let found = pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot)
                .then(|| read(&Row { slot }));
            pg_sys::index_endscan(scan);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
            found
        }
    }

    /// Appends rows; the table must have neither indexes nor triggers.
    pub fn append<const N: usize>(&self, rows: impl Iterator<Item = [Option<pg_sys::Datum>; N]>) {
        // SAFETY: the slot is made for this table, whose first N columns are those of a row and whose other columns,
        // should an upgrade have added some, are set to null.
        unsafe {
            let slot = pg_sys::table_slot_create(self.relation, std::ptr::null_mut());
            let columns = (*(*self.relation).rd_att).natts as usize;
            for row in rows {
                pg_sys::ExecClearTuple(slot);
                for column in 0..columns {
                    let value = row.get(column).copied().flatten();
                    *(*slot).tts_isnull.add(column) = value.is_none();
                    *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0));
                }
                pg_sys::ExecStoreVirtualTuple(slot);
                pg_sys::simple_table_tuple_insert(self.relation, slot);
            }
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
    }
}

#[cfg(not(feature = "pg18"))]
unsafe fn begin_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller holds both relations open.
    unsafe { pg_sys::index_beginscan(table, index, snapshot, 1, 0) }
}

#[cfg(feature = "pg18")]
unsafe fn begin_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller holds both relations open; no instrumentation is asked for.
    unsafe { pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), 1, 0) }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: opened once in `open`; NoLock keeps the lock until the transaction ends.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

/// A row found by [`Table::probe`].
pub struct Row {
    slot: *mut pg_sys::TupleTableSlot,
}

impl Row {
    /// Column `number`, from 1. By-reference datums are valid while the row is.
    pub fn column(&self, number: i16) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the slot holds a row and column numbers are those of the table's definition.
        let datum = unsafe { pg_sys::slot_getattr(self.slot, i32::from(number), &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// A column that the table declares jsonb.
    pub fn jsonb(&self, number: i16) -> Option<Container<'_>> {
        // SAFETY: the column is jsonb; the container points into the row or into a detoasted copy of it.
        self.column(number).map(|datum| unsafe { Container::read(datum) })
    }

    /// The bytes of a column that the table declares text.
    pub fn text(&self, number: i16) -> Option<&[u8]> {
        // SAFETY: the column is text and lives as long as the row.
        self.column(number).map(|datum| unsafe { text::bytes(datum) })
    }

    /// The whole row as a composite value, copied to the current memory context.
    pub fn composite(&self) -> pg_sys::Datum {
        // SAFETY: the slot holds a row of a table, whose descriptor has a registered row type.
        unsafe { pg_sys::ExecFetchSlotHeapTupleDatum(self.slot) }
    }
}
