//! Reads one row of a table of the extension by its key of type oid. A session's insert uses this to look up
//! rules, once per statement. The read does not use the executor, and does not wait for a lock.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::relation::find;

/// An open table and the index of its key.
pub struct Keyed {
    relation: pg_sys::Relation,
    index: pg_sys::Oid,
}

/// A row that was found.
pub struct KeyedRow<'a> {
    table: &'a Keyed,
    tuple: pg_sys::HeapTuple,
}

impl Keyed {
    /// Opens a table whose first column is the key, of type oid or regclass. Returns `None` if the table or the index does not
    /// exist. Also returns `None` if another transaction's lock prevents reading it.
    pub fn open(schema: pg_sys::Oid, table: &CStr, index: &CStr) -> Option<Keyed> {
        let (table, index) = (find(schema, table), find(schema, index));
        if [table, index].contains(&pg_sys::InvalidOid) {
            return None;
        }
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: a lock on an OID is valid even if no relation has this OID. try_table_open returns null for a
        // relation that does not exist. Otherwise the relation is locked, and `drop` closes it.
        unsafe {
            if !pg_sys::ConditionalLockRelationOid(table, mode)
                || !pg_sys::ConditionalLockRelationOid(index, mode)
            {
                return None;
            }
            let relation = pg_sys::try_table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
            if relation.is_null() {
                return None;
            }
            let keyed = Keyed { relation, index };
            let key_type = pg_sys::SPI_gettypeid((*relation).rd_att, 1);
            let is_by_oid = matches!(key_type, pg_sys::OIDOID | pg_sys::REGCLASSOID);
            (is_by_oid && pg_sys::IndexGetRelation(index, true) == table).then_some(keyed)
        }
    }

    /// Passes the committed row with this key to `read`.
    pub fn find<T>(&self, key: pg_sys::Oid, read: impl FnOnce(&KeyedRow<'_>) -> T) -> Option<T> {
        let mut scan_key = pg_sys::ScanKeyData::default();
        // SAFETY: the table is open, its first column is an oid, and the index belongs to the table and is
        // locked; see `open`. The scan takes a catalog snapshot and releases it.
        unsafe {
            pg_sys::ScanKeyInit(
                &mut scan_key,
                1,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::Oid::from(pg_sys::F_OIDEQ),
                pg_sys::Datum::from(key),
            );
            let scan = pg_sys::systable_beginscan(
                self.relation,
                self.index,
                true,
                std::ptr::null_mut(),
                1,
                &mut scan_key,
            );
            let tuple = pg_sys::systable_getnext(scan);
            let result = (!tuple.is_null()).then(|| read(&KeyedRow { table: self, tuple }));
            pg_sys::systable_endscan(scan);
            result
        }
    }
}

impl Drop for Keyed {
    fn drop(&mut self) {
        // SAFETY: opened once in `open`; NoLock keeps the lock until the transaction ends.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

impl KeyedRow<'_> {
    /// Returns a column of this type; `None` if it is null, or the table has no such column.
    fn column(&self, name: &CStr, type_oid: pg_sys::Oid) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the tuple is of the open table, whose descriptor names the column and its type.
        unsafe {
            let descriptor = (*self.table.relation).rd_att;
            let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
            if number <= 0 || pg_sys::SPI_gettypeid(descriptor, number) != type_oid {
                return None;
            }
            let datum = pg_sys::heap_getattr(self.tuple, number, descriptor, &mut is_null);
            (!is_null).then_some(datum)
        }
    }

    /// Returns a column of type boolean.
    pub fn boolean(&self, name: &CStr) -> Option<bool> {
        self.column(name, pg_sys::BOOLOID).map(|datum| datum.value() != 0)
    }

    /// Returns a column of type name, in the server's encoding.
    pub fn name(&self, name: &CStr) -> Option<Vec<u8>> {
        // SAFETY: a name is NUL-terminated within its fixed length, and stays valid while the row exists.
        self.column(name, pg_sys::NAMEOID)
            .map(|datum| unsafe { CStr::from_ptr(datum.cast_mut_ptr()) }.to_bytes().to_vec())
    }
}
