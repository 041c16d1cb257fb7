//! Finds rows through an index of the extension, without using the executor.

use std::ffi::CStr;
use std::ops::ControlFlow;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::column::Column;
use super::inet;
use super::mvcc_snapshot::{Dirty, View};
use super::relation::Table;
use super::row::{Row, TupleId};

/// An open table and an open index, for finding rows by a key.
pub struct Prober {
    // The scan uses the table, so it must be dropped first: this field is declared before `table`.
    scan: Scan,
    table: Table,
    key_type: KeyType,
}

/// Type of a key.
#[derive(Clone, Copy)]
pub enum KeyType {
    Inet,
    Bigint,
}

impl KeyType {
    /// Returns the function that compares two keys for equality.
    fn equality(self) -> pg_sys::Oid {
        pg_sys::Oid::from(match self {
            KeyType::Inet => pg_sys::F_NETWORK_EQ,
            KeyType::Bigint => pg_sys::F_INT8EQ,
        })
    }

    /// Returns the btree operator family for index keys of this type, and the type of the index's column. The families are
    /// `network_ops` and `integer_ops`. Their OIDs come from src/include/catalog/pg_opfamily.dat, and are the same in all
    /// server versions.
    fn operators(self) -> (pg_sys::Oid, pg_sys::Oid) {
        match self {
            KeyType::Inet => (pg_sys::Oid::from_u32(1974), pg_sys::INETOID),
            KeyType::Bigint => (pg_sys::Oid::from_u32(1976), pg_sys::INT8OID),
        }
    }
}

/// A key to find.
#[derive(Clone, Copy)]
pub enum Key {
    Address(Address),
    Number(i64),
}

/// An open table and an open index. They are used to find out whether another transaction in progress has inserted a row with a
/// key. The search never waits for that transaction.
pub struct InsertionProber {
    // The prober uses the snapshot, so it must be dropped first: this field is declared before `snapshot`.
    prober: Prober,
    snapshot: Dirty,
}

impl InsertionProber {
    /// Opens a table, and an index on it that has one column of this type. Returns `None` if the table or the index does not
    /// exist (any more).
    pub fn open(table: pg_sys::Oid, index: pg_sys::Oid, key_type: KeyType) -> Option<InsertionProber> {
        let snapshot = Dirty::new();
        let prober = Prober::open_raw(table, index, key_type, snapshot.raw())?;
        Some(InsertionProber { prober, snapshot })
    }

    /// Returns true if another transaction that is still in progress has inserted a row with this key.
    pub fn is_being_inserted(&mut self, key: Key) -> bool {
        self.prober.holds(key) && self.snapshot.saw_insertion()
    }
}

struct Scan {
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    /// The memory context in which the scan began. The index access method allocates memory for the scan later, in the memory
    /// context that is current then. The memory context of the caller may be freed before the scan ends, so `context` is made
    /// current.
    context: pg_sys::MemoryContext,
}

impl Scan {
    fn in_its_memory<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: `context` outlives the scan. The memory context of the caller is restored afterwards. After an ERROR, the
        // error handler sets the current memory context.
        unsafe {
            let outside = pg_sys::MemoryContextSwitchTo(self.context);
            let result = work();
            pg_sys::MemoryContextSwitchTo(outside);
            result
        }
    }
}

impl Prober {
    /// Opens a table, and an index on it whose first column is of type inet. Returns `None` if the table or the index does not
    /// exist (any more).
    pub fn open(table: pg_sys::Oid, index: pg_sys::Oid, view: View<'_>) -> Option<Prober> {
        Prober::open_by(table, index, KeyType::Inet, view)
    }

    /// Opens a table and an index on it, as [`Prober::open`] does, for a key of any type.
    pub fn open_by(
        table: pg_sys::Oid,
        index: pg_sys::Oid,
        key_type: KeyType,
        view: View<'_>,
    ) -> Option<Prober> {
        Prober::open_raw(table, index, key_type, view.raw())
    }

    fn open_raw(
        table: pg_sys::Oid,
        index: pg_sys::Oid,
        key_type: KeyType,
        snapshot: pg_sys::Snapshot,
    ) -> Option<Prober> {
        let table = Table::open(table, pg_sys::AccessShareLock)?;
        // SAFETY: the code checks that the index belongs to the open table, and the table outlives the scan. The callers ensure
        // that the snapshot outlives the prober.
        unsafe {
            let index = pg_sys::try_index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            if index.is_null() {
                return None;
            }
            // The index must have this operator family and this type of key.
            let (family, type_oid) = key_type.operators();
            let form = (*index).rd_index;
            let is_expected = (*form).indrelid == (*table.relation).rd_id
                && (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && (*form).indnkeyatts >= 1
                && *(*index).rd_opfamily == family
                && *(*index).rd_opcintype == type_oid;
            if !is_expected {
                pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
                table.is_altered("an index of the table has an unexpected definition");
            }
            let slot = pg_sys::table_slot_create(table.relation, std::ptr::null_mut());
            let scan = begin_scan(table.relation, index, snapshot);
            let context = pg_sys::CurrentMemoryContext;
            Some(Prober { scan: Scan { index, scan, slot, context }, table, key_type })
        }
    }

    /// Returns true if there is a row with this key. Returns false if the key has another type than the index.
    pub fn holds(&mut self, key: Key) -> bool {
        self.seek(key) && self.next().is_some()
    }

    /// Passes the row with this key to `read`, while the buffer of the row is pinned.
    pub fn probe<T>(&mut self, key: Key, read: impl FnOnce(&Row) -> T) -> Option<T> {
        if !self.seek(key) {
            return None;
        }
        self.next().map(|row| read(&row))
    }

    /// Returns the tuple ids of the rows that have this key and for which `wanted` returns true. Returns at most `most` tuple
    /// ids.
    pub fn tuple_ids(&mut self, key: Key, most: usize, wanted: impl Fn(&Row) -> bool) -> Vec<TupleId> {
        let mut tuple_ids = Vec::new();
        if most == 0 || !self.seek(key) {
            return tuple_ids;
        }
        while tuple_ids.len() < most {
            super::check_for_interrupts();
            let Some(row) = self.next() else { break };
            if wanted(&row) {
                tuple_ids.push(row.tuple_id());
            }
        }
        tuple_ids
    }

    /// Returns a column of the table by its name.
    pub fn column(&self, name: &CStr) -> Option<Column> {
        // SAFETY: the table is open, so its descriptor is valid.
        unsafe { Column::named((*self.table.relation).rd_att, name) }
    }

    /// Passes the rows whose key is an address greater than `after` to `read`, in the order of their keys. `read` can end the search.
    pub fn rows_after(&mut self, after: Address, mut read: impl FnMut(Address, &Row) -> ControlFlow<()>) {
        // SAFETY: the scan is open. From its next start on, it also returns the entries of the index.
        unsafe { (*self.scan.scan).xs_want_itup = true };
        self.start(pg_sys::BTGreaterStrategyNumber, pg_sys::F_NETWORK_GT, inet::write(after));
        loop {
            super::check_for_interrupts();
            let Some(row) = self.next() else { break };
            if self.key_address().is_some_and(|address| read(address, &row).is_break()) {
                break;
            }
        }
    }

    /// Returns the address in the index entry of the row that was found last.
    fn key_address(&self) -> Option<Address> {
        const COLUMNS: usize = pg_sys::INDEX_MAX_KEYS as usize;
        let (mut values, mut nulls) = ([pg_sys::Datum::from(0); COLUMNS], [true; COLUMNS]);
        // SAFETY: the scan returns entries of the index, and has just found one. An index has at most `COLUMNS` columns, and
        // `open_raw` has checked that the first one is of type inet. The entry is valid until the scan goes on.
        unsafe {
            let scan = self.scan.scan;
            pg_sys::index_deform_tuple(
                (*scan).xs_itup,
                (*scan).xs_itupdesc,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            if nulls[0] { None } else { inet::read(values[0]).map(|inet| inet.address) }
        }
    }

    /// Begins a search for a key. Returns false if the key has another type than the index.
    fn seek(&mut self, key: Key) -> bool {
        let key = match (self.key_type, key) {
            (KeyType::Inet, Key::Address(address)) => inet::write(address),
            (KeyType::Bigint, Key::Number(number)) => pg_sys::Datum::from(number),
            _ => return false,
        };
        self.start(pg_sys::BTEqualStrategyNumber, self.key_type.equality(), key);
        true
    }

    /// Starts the scan for the rows whose key compares with `key` as the operator of this strategy and this function requires.
    fn start(&mut self, strategy: u32, comparison: impl Into<pg_sys::Oid>, key: pg_sys::Datum) {
        let mut scan_key = pg_sys::ScanKeyData::default();
        // SAFETY: the first column of the index has the type of the key, with the default operator class. The scan is open and
        // copies the key.
        unsafe {
            pg_sys::ScanKeyInit(&mut scan_key, 1, strategy as pg_sys::StrategyNumber, comparison.into(), key);
            self.scan.in_its_memory(|| {
                pg_sys::index_rescan(self.scan.scan, &mut scan_key, 1, std::ptr::null_mut(), 0);
            });
        }
    }

    fn next(&mut self) -> Option<Row> {
        let Scan { scan, slot, .. } = self.scan;
        // SAFETY: scan and slot are open.
        let found = self.scan.in_its_memory(|| unsafe {
            pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot)
        });
        found.then_some(Row { slot })
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
    // SAFETY: the caller keeps both relations open. The null pointer requests no instrumentation.
    unsafe { pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), 1, 0) }
}

impl Drop for Scan {
    fn drop(&mut self) {
        // SAFETY: `Prober::open_raw` opened the scan, and the scan is closed once. After an ERROR, the server's own cleanup
        // runs later than this code.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }
}
