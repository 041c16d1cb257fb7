//! Reads one row of a table of the extension by a key of type oid. An INSERT of honeypot sessions reads the options of the
//! session table in this way. The read does not use the executor, and does not wait for a lock.

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
    /// exist. Also returns `None` if the lock of another transaction prevents reading the table or the index.
    pub fn open(schema: pg_sys::Oid, table: &CStr, index: &CStr) -> Option<Keyed> {
        let (table, index) = (find(schema, table), find(schema, index));
        if [table, index].contains(&pg_sys::InvalidOid) {
            return None;
        }
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: the server allows a lock on an OID even if no relation has this OID. try_table_open returns null for a
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

    /// If there is a committed row with this key, passes the row to `read`.
    pub fn find<T>(&self, key: pg_sys::Oid, read: impl FnOnce(&KeyedRow<'_>) -> T) -> Option<T> {
        let mut scan_key = pg_sys::ScanKeyData::default();
        // SAFETY: `open` checked that the first column of the open table is an oid, and that the index belongs to the table.
        // `open` also locked the index. The scan takes a catalog snapshot and releases it.
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
        // SAFETY: `open` opened this table, and it is closed only once. With NoLock, closing does not release the lock. The
        // transaction holds the lock until it ends.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

impl KeyedRow<'_> {
    /// Returns the value of a column with this name and type. Returns `None` if the value is null, or if the table has no such
    /// column.
    fn column(&self, name: &CStr, type_oid: pg_sys::Oid) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the tuple belongs to the open table. The descriptor of the table gives the column's number and type.
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
        // SAFETY: a value of type name is NUL-terminated within its fixed length, and stays valid while the row exists.
        self.column(name, pg_sys::NAMEOID)
            .map(|datum| unsafe { CStr::from_ptr(datum.cast_mut_ptr()) }.to_bytes().to_vec())
    }
}
