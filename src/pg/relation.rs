//! Access to the extension's tables below the executor: one index probe, one append.
//!
//! A session's insert may cost only microseconds; a statement through SPI costs more than that. Access rights
//! are not checked here, because only the extension's tables are opened, on behalf of its owner.

use std::ffi::CStr;
use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::column::{Column, type_of};
use super::jsonb::Container;
use super::snapshot::{Dirty, View};
use super::value::{Arguments, Parameters, Value};
use super::{inet, role, text};

/// An open table; its lock is kept until the transaction ends.
pub struct Table {
    relation: pg_sys::Relation,
}

/// Returns the OID of a relation of the extension, or InvalidOid.
pub fn find(schema: pg_sys::Oid, name: &CStr) -> pg_sys::Oid {
    // SAFETY: a system cache lookup.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) }
}

/// Waits until a table can be read, and keeps it from being emptied or rewritten until the transaction ends.
/// Takes no snapshot. Ignores a table that was dropped.
pub fn lock_for_reading(table: pg_sys::Oid) {
    // SAFETY: locks a number, whether or not there is such a table.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) }
}

/// Takes the lock for reading on a table or an index of the extension, if it is available without waiting.
/// Returns whether it was taken. The transaction keeps the lock, so opening the relation does not wait.
pub fn lock_for_reading_if_free(relation: pg_sys::Oid) -> bool {
    // SAFETY: locks a number, whether or not there is such a relation.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) }
}

/// Returns whether a table of the extension may have rows, that is, has pages. Returns `false` while another
/// session's lock prevents reading it.
pub fn may_have_rows(table: pg_sys::Oid) -> bool {
    lock_for_reading_if_free(table)
        && Table::open(table, pg_sys::AccessShareLock).is_some_and(|table| table.pages() > 0)
}

/// Takes the lock for appending to a table of the extension, until the transaction ends. Raises an error if
/// another session keeps it for longer than `longest`. The session's own `lock_timeout` does not apply.
pub fn lock_for_appending(table: pg_sys::Oid, longest: Duration) {
    let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: locks a number, whether or not there is such a table.
    if unsafe { pg_sys::ConditionalLockRelationOid(table, mode) } {
        return;
    }
    // 0 would mean no limit.
    let limit = role::setting_text(format!("{}ms", longest.as_millis().max(1)).as_bytes());
    // SAFETY: as above.
    role::with_settings(&[(c"lock_timeout", &limit)], || unsafe { pg_sys::LockRelationOid(table, mode) });
}

/// Prevents other sessions from writing and from altering a table, until the transaction ends. Adding a
/// foreign key takes the same lock.
pub fn lock_against_writers(table: pg_sys::Oid) {
    // SAFETY: locks a number, whether or not there is such a table.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE) }
}

impl Table {
    /// Opens a table; returns `None` if it does not exist (any more).
    fn open(table: pg_sys::Oid, lock: u32) -> Option<Table> {
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
            table.is_altered("it is not a plain table");
        }
        Some(table)
    }

    /// Returns the table's current number of pages.
    pub fn pages(&self) -> u32 {
        // SAFETY: the table is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Opens a table of the extension for appending. Raises an error if there is none.
    pub fn open_for_appending(schema: pg_sys::Oid, name: &CStr) -> Table {
        Table::open(find(schema, name), pg_sys::RowExclusiveLock)
            .unwrap_or_else(|| pgrx::error!("table \"{}\" does not exist", name.to_string_lossy()))
    }

    /// Returns the horizon of VACUUM: all snapshots in use see the changes of older transactions.
    pub fn oldest_visible_to_all(&self) -> pg_sys::TransactionId {
        // SAFETY: the table is open. The function reads shared memory and raises nothing.
        unsafe { pg_sys::GetOldestNonRemovableTransactionId(self.relation) }
    }

    /// Raises an error, because the table's owner has changed the table and this code requires the original
    /// definition.
    fn is_altered(&self, how: &str) -> ! {
        // SAFETY: the relation is open.
        let name = unsafe { text::from_c((*(*self.relation).rd_rel).relname.data.as_ptr()) };
        pgrx::error!("table \"{}\" is not as cowrie_enrich needs it: {how}", name.unwrap_or_default())
    }

    /// Opens a table of the extension for reading, if it exists.
    pub fn open_for_reading(table: pg_sys::Oid) -> Option<Table> {
        Table::open(table, pg_sys::AccessShareLock)
    }

    /// Opens a table of the extension for appending, if it exists.
    pub fn open_if_there_for_appending(table: pg_sys::Oid) -> Option<Table> {
        Table::open(table, pg_sys::RowExclusiveLock)
    }

    /// Appends rows whose columns have the types `P`; the table must have no index, and its triggers do not fire. Several
    /// rows of a page are one WAL record.
    pub fn append<P: Parameters>(&self, rows: impl Iterator<Item = impl Arguments<P>>) {
        for (number, wanted) in (1..).zip(P::OIDS.iter().copied()) {
            // SAFETY: the relation is open, and so is its descriptor.
            if unsafe { type_of((*self.relation).rd_att, number) } != wanted {
                self.is_altered(&format!("column {number} has another type"));
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

    /// Stores a row in a slot of this table. The row's values fill the first columns. Further columns, which
    /// an upgrade may have added, become null.
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
        // SAFETY: the slots hold rows of this table, which is locked for writing.
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

/// Rows inserted at once: a page holds about two hundred deltas.
const APPEND_BATCH: usize = 256;

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
    // SAFETY: the caller holds both relations open; no instrumentation is requested.
    unsafe { pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), 1, 0) }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: opened once in `open`; NoLock keeps the lock until the transaction ends.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

/// One table open for probes by its key.
pub struct Prober {
    // Declared before the table, hence dropped before it.
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

    /// The operator family of btree that has this function, and the type of the index's column. The families are
    /// `network_ops` and `integer_ops`: src/include/catalog/pg_opfamily.dat, the same in all versions.
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

/// One table open for finding keys that other transactions are inserting. Never waits for these transactions.
pub struct InsertionProber {
    // Declared before the snapshot, hence dropped before it.
    prober: Prober,
    snapshot: Dirty,
}

impl InsertionProber {
    /// Opens a table and an index on it with one column of this type; `None` if either does not exist (any
    /// more).
    pub fn open(table: pg_sys::Oid, index: pg_sys::Oid, key_type: KeyType) -> Option<InsertionProber> {
        let snapshot = Dirty::new();
        let prober = Prober::open_raw(table, index, key_type, snapshot.raw())?;
        Some(InsertionProber { prober, snapshot })
    }

    /// Returns whether another transaction in progress has inserted a row with this key.
    pub fn is_being_inserted(&mut self, key: Key) -> bool {
        self.prober.holds(key) && self.snapshot.saw_insertion()
    }
}

struct Scan {
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    /// The memory context in which the scan began. The access method allocates memory for the scan later, in
    /// the current context. The caller's context may be freed before the scan ends.
    context: pg_sys::MemoryContext,
}

impl Scan {
    fn in_its_memory<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: the context outlives the scan. The caller's context is restored afterwards; after an ERROR,
        // the error handler sets the current context.
        unsafe {
            let outside = pg_sys::MemoryContextSwitchTo(self.context);
            let result = work();
            pg_sys::MemoryContextSwitchTo(outside);
            result
        }
    }
}

impl Prober {
    /// Opens a table and an index on it whose first column is inet; `None` if either does not exist (any
    /// more).
    pub fn open(table: pg_sys::Oid, index: pg_sys::Oid, view: View<'_>) -> Option<Prober> {
        Prober::open_by(table, index, KeyType::Inet, view)
    }

    /// Does the same for a key of any type.
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
        // SAFETY: the index belongs to the open table, which outlives the scan; the snapshot outlives the prober, as
        // its users ensure.
        unsafe {
            let index = pg_sys::try_index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            if index.is_null() {
                return None;
            }
            // Probes pass a key of this type to the operator of this family.
            let (family, type_oid) = key_type.operators();
            let form = (*index).rd_index;
            let is_fitting = (*form).indrelid == (*table.relation).rd_id
                && (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
                && (*form).indnkeyatts >= 1
                && *(*index).rd_opfamily == family
                && *(*index).rd_opcintype == type_oid;
            if !is_fitting {
                pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
                table.is_altered("the index of the key is another one");
            }
            let slot = pg_sys::table_slot_create(table.relation, std::ptr::null_mut());
            let scan = begin_scan(table.relation, index, snapshot);
            let context = pg_sys::CurrentMemoryContext;
            Some(Prober { scan: Scan { index, scan, slot, context }, table, key_type })
        }
    }

    /// Returns whether there is a row with this key. Returns false for a key of another type.
    pub fn holds(&mut self, key: Key) -> bool {
        self.seek(key) && self.next().is_some()
    }

    /// Passes the row with this key to `read`, while its buffer is pinned.
    pub fn probe<T>(&mut self, key: Key, read: impl FnOnce(&Row) -> T) -> Option<T> {
        if !self.seek(key) {
            return None;
        }
        self.next().map(|row| read(&row))
    }

    /// Returns the tuple ids of up to `most` rows with this key that are `wanted`.
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
        // SAFETY: the table is open, and so is its descriptor.
        unsafe { Column::named((*self.table.relation).rd_att, name) }
    }

    /// Begins a search for a key. Returns false for a key of another type.
    fn seek(&mut self, key: Key) -> bool {
        let key = match (self.key_type, key) {
            (KeyType::Inet, Key::Address(address)) => inet::write(address),
            (KeyType::Bigint, Key::Number(number)) => pg_sys::Datum::from(number),
            _ => return false,
        };
        let mut scan_key = pg_sys::ScanKeyData::default();
        // SAFETY: the index's first column is of the key's type with the default operator class; the scan is open and copies
        // the key.
        unsafe {
            pg_sys::ScanKeyInit(
                &mut scan_key,
                1,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                self.key_type.equality(),
                key,
            );
            self.scan.in_its_memory(|| {
                pg_sys::index_rescan(self.scan.scan, &mut scan_key, 1, std::ptr::null_mut(), 0);
            });
        }
        true
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

/// The tuple id of a row in its table; valid until the end of the transaction that read it.
#[derive(Clone, Copy)]
pub struct TupleId(pg_sys::ItemPointerData);

impl PartialEq for TupleId {
    fn eq(&self, other: &TupleId) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for TupleId {}

impl std::hash::Hash for TupleId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl TupleId {
    /// # Safety
    /// `datum` must be a non-null tid.
    pub(super) unsafe fn read(datum: pg_sys::Datum) -> TupleId {
        // SAFETY: as the caller promises.
        TupleId(unsafe { *datum.cast_mut_ptr::<pg_sys::ItemPointerData>() })
    }

    /// Returns the tuple id before the first row of a page.
    pub fn beginning_of(page: u32) -> TupleId {
        let block = pg_sys::BlockIdData { bi_hi: (page >> 16) as u16, bi_lo: page as u16 };
        TupleId(pg_sys::ItemPointerData { ip_blkid: block, ip_posid: 0 })
    }

    /// Returns the tuple id after the last row of the preceding page.
    pub fn end_of_those_before(page: u32) -> TupleId {
        let mut tuple_id = TupleId::beginning_of(page.saturating_sub(1));
        tuple_id.0.ip_posid = u16::MAX;
        tuple_id
    }

    pub fn page(&self) -> u32 {
        let (high, low, _) = self.parts();
        u32::from(high) << 16 | u32::from(low)
    }

    /// Returns the tuple id as the server writes it, `(page,number)`.
    pub fn text(&self) -> String {
        format!("({},{})", self.page(), self.0.ip_posid)
    }

    /// Makes a tuple id from the numbers of a page and of a row in it.
    pub fn at(page: u32, row: u16) -> TupleId {
        TupleId(pg_sys::ItemPointerData { ip_posid: row, ..TupleId::beginning_of(page).0 })
    }

    /// Returns the numbers of the page and of the row in it.
    pub fn numbers(&self) -> (u32, u16) {
        let (high, low, row) = self.parts();
        (u32::from(high) << 16 | u32::from(low), row)
    }

    fn parts(&self) -> (u16, u16, u16) {
        (self.0.ip_blkid.bi_hi, self.0.ip_blkid.bi_lo, self.0.ip_posid)
    }

    /// Returns a pointer for functions of the server. It is valid while `self` is.
    pub(super) fn pointer(&mut self) -> pg_sys::ItemPointer {
        &raw mut self.0
    }

    /// Writes a tid into the current memory context.
    pub(super) fn write(self) -> pg_sys::Datum {
        // SAFETY: palloc returns memory for a whole tid, or raises an error.
        unsafe {
            let tid = pg_sys::palloc(size_of::<pg_sys::ItemPointerData>()).cast::<pg_sys::ItemPointerData>();
            tid.write(self.0);
            pg_sys::Datum::from(tid)
        }
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        // SAFETY: opened in `Prober::open`, closed once. After an ERROR, the server's cleanup comes after
        // this unwinding.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }
}

/// A row that a probe or a scan found, while its buffer is pinned.
pub struct Row {
    pub(super) slot: *mut pg_sys::TupleTableSlot,
}

impl Row {
    pub fn tuple_id(&self) -> TupleId {
        // SAFETY: the slot holds a row of a table.
        TupleId(unsafe { (*self.slot).tts_tid })
    }

    /// Returns column `number`, from 1. By-reference datums are valid while the row is.
    pub(super) fn column(&self, number: i16) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the slot holds a row and column numbers are those of the table's definition.
        let datum = unsafe { pg_sys::slot_getattr(self.slot, i32::from(number), &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// The same for a column that must have this type. Raises an error if the table's owner has changed the
    /// type, because the datum would be misread.
    fn typed(&self, number: i16, wanted: pg_sys::Oid) -> Option<pg_sys::Datum> {
        // SAFETY: the slot holds a row, and so has a descriptor.
        if unsafe { type_of((*self.slot).tts_tupleDescriptor, number) } != wanted {
            pgrx::error!("column {number} of a table has another type than cowrie_enrich needs");
        }
        self.column(number)
    }

    /// Returns a column of type bigint.
    pub fn bigint(&self, number: i16) -> Option<i64> {
        self.typed(number, pg_sys::INT8OID).map(|datum| datum.value() as i64)
    }

    pub fn is_null(&self, number: i16) -> bool {
        self.column(number).is_none()
    }

    /// Returns the address of a column of type inet.
    pub fn address(&self, number: i16) -> Option<Address> {
        // SAFETY: the column is an inet and lives as long as the row.
        self.typed(number, pg_sys::INETOID)
            .and_then(|datum| unsafe { inet::read(datum) })
            .map(|inet| inet.address)
    }

    /// Returns a column of type regclass.
    pub fn regclass(&self, number: i16) -> Option<pg_sys::Oid> {
        self.typed(number, pg_sys::REGCLASSOID).map(|datum| pg_sys::Oid::from(datum.value() as u32))
    }

    /// Returns a column of type timestamptz, in microseconds since 2000.
    pub fn timestamptz(&self, number: i16) -> Option<i64> {
        self.typed(number, pg_sys::TIMESTAMPTZOID).map(|datum| datum.value() as i64)
    }

    /// Returns a column of type boolean.
    pub fn boolean(&self, number: i16) -> Option<bool> {
        self.typed(number, pg_sys::BOOLOID).map(|datum| datum.value() != 0)
    }

    /// Returns a column of type jsonb.
    pub fn jsonb(&self, number: i16) -> Option<Container<'_>> {
        // SAFETY: the column is jsonb; the container points into the row or into a detoasted copy of it.
        self.typed(number, pg_sys::JSONBOID).map(|datum| unsafe { Container::read(datum) })
    }

    /// Returns the bytes of a column of type text.
    pub fn text(&self, number: i16) -> Option<&[u8]> {
        // SAFETY: the column is text and lives as long as the row.
        self.typed(number, pg_sys::TEXTOID).map(|datum| unsafe { text::bytes(datum) })
    }

    /// Returns the whole row as a composite value, copied to the current memory context.
    pub fn composite(&self) -> Value {
        // SAFETY: the slot holds a row of a table, whose descriptor has a registered row type.
        Value::composite(unsafe { pg_sys::ExecFetchSlotHeapTupleDatum(self.slot) })
    }
}
