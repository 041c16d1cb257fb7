//! Reads a user's table without the executor.
//!
//! No code of the user runs during the read: no cast, no policy, no view. This is necessary because the reader may have more
//! rights than the owner of the table.

use std::ffi::CStr;
use std::ops::{ControlFlow, Range};

use cowrie_enrich_engine::timestamp::Timestamp;
use pgrx::pg_sys;

use super::column::{Column, Generated};
use super::mvcc_snapshot::View;
use super::row::{Row, TupleId};
use super::{catalog, column, inet, mvcc_snapshot, text};

/// A value of an address column.
pub enum AddressValue<'a> {
    Inet(inet::Inet),
    Text(&'a [u8]),
}

/// Passes every value of a column, except nulls, to `read`. Reads the table, or all partitions of a partitioned table. Skips
/// partitions that are not tables, such as foreign tables. Returns true if every table that was read had the column.
pub fn column(table: pg_sys::Oid, name: &CStr, mut read: impl FnMut(AddressValue<'_>)) -> bool {
    let latest = mvcc_snapshot::Latest::take();
    let mut is_whole = true;
    for part in parts(table) {
        let Some(part) = ReadableTable::open(part) else { continue };
        let Some(column) = part.address_column(name) else {
            is_whole = false;
            continue;
        };
        part.rows(latest.view(), |row| {
            if let Some(value) = value(row, column) {
                read(value);
            }
            ControlFlow::Continue(())
        });
    }
    is_whole
}

fn parts(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: a system cache lookup.
    if unsafe { pg_sys::get_rel_relkind(table) } as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
        return vec![table];
    }
    catalog::table_and_descendants(table, pg_sys::AccessShareLock)
}

/// Returns the value of an address column in a row. The value is valid while the row is pinned.
pub fn value(row: &Row, column: Column) -> Option<AddressValue<'_>> {
    let datum = row.column(column.number)?;
    // SAFETY: the datum is read according to the type of the column.
    unsafe {
        if column.is_text_like() {
            Some(AddressValue::Text(text::bytes(datum)))
        } else {
            inet::read(datum).map(AddressValue::Inet)
        }
    }
}

/// Returns the value of a time column in a row as timestamptz. A time without time zone is interpreted in the TimeZone setting
/// of the session. Returns `None` for a time that timestamptz cannot hold.
pub fn time(row: &Row, column: Column) -> Option<Timestamp> {
    column::timestamptz(row.column(column.number)?, column.type_oid)
}

/// Returns the value of a column in a row, in the text form of the server. Returns `None` for types other than a few built-in
/// ones.
pub fn shown(row: &Row, column: Column) -> Option<String> {
    const SHOWN: [pg_sys::Oid; 5] =
        [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::UUIDOID, pg_sys::INETOID];
    let datum = row.column(column.number)?;
    // SAFETY: the datum has the type of the column. The output functions of these types belong to the server.
    unsafe {
        if column.is_text_like() {
            return Some(text::from_server(text::bytes(datum)).trim_end().to_owned());
        }
        if !SHOWN.contains(&column.type_oid) {
            return None;
        }
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(column.type_oid, &mut output, &mut is_varlena);
        text::from_c(pg_sys::OidOutputFunctionCall(output, datum)).map(|text| text.into_owned())
    }
}

/// A plain table that is open for reading. Its lock is kept until the transaction ends.
pub struct ReadableTable {
    relation: pg_sys::Relation,
}

impl ReadableTable {
    /// Opens a table for reading. Returns `None` if the table was dropped or is not a plain table. Also returns `None` for a
    /// temporary table of another session, because its pages are in the memory of that session.
    pub fn open(table: pg_sys::Oid) -> Option<ReadableTable> {
        // SAFETY: opening raises an error for an index, so the kind of the relation is checked first. The kind is checked again
        // after the relation was locked, because the kind cannot change any more then. try_table_open returns null for a
        // dropped table.
        unsafe {
            if pg_sys::get_rel_relkind(table) as u8 != pg_sys::RELKIND_RELATION {
                return None;
            }
            let relation = pg_sys::try_table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            if relation.is_null() {
                return None;
            }
            let readable = ReadableTable { relation };
            let form = (*relation).rd_rel;
            ((*form).relkind as u8 == pg_sys::RELKIND_RELATION
                && ((*form).relpersistence as u8 != pg_sys::RELPERSISTENCE_TEMP
                    || (*relation).rd_islocaltemp))
                .then_some(readable)
        }
    }

    /// Returns a column by its name.
    pub fn column(&self, name: &CStr) -> Option<Column> {
        // SAFETY: the table is open, so its descriptor is valid.
        unsafe { Column::named((*self.relation).rd_att, name) }
    }

    /// Returns a column from which addresses can be read. A virtual generated column is not returned, because its values are
    /// not in the rows.
    pub fn address_column(&self, name: &CStr) -> Option<Column> {
        // SAFETY: the table is open.
        let table = unsafe { (*self.relation).rd_id };
        self.column(name)
            .filter(|column| column.holds_addresses() && column.generated(table) != Generated::Virtual)
    }

    /// Returns the number of the table's file. This number changes when the table is rewritten or truncated.
    pub fn file(&self) -> u32 {
        // SAFETY: the table is open.
        unsafe { (*(*self.relation).rd_rel).relfilenode.to_u32() }
    }

    /// Returns the current number of pages.
    pub fn pages(&self) -> u32 {
        // SAFETY: the table is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Returns the planner's estimate of the number of rows.
    pub fn rows_estimated(&self) -> i64 {
        let (mut pages, mut rows, mut visible) = (0, 0.0, 0.0);
        // SAFETY: the table is open. The planner's own function writes three numbers, and the null pointer requests no column
        // widths.
        unsafe {
            pg_sys::estimate_rel_size(
                self.relation,
                std::ptr::null_mut(),
                &mut pages,
                &mut rows,
                &mut visible,
            );
        }
        rows as i64
    }

    /// Passes all rows that a snapshot sees to `read`. `read` can end the scan.
    pub fn rows(&self, view: View<'_>, read: impl FnMut(&Row) -> ControlFlow<()>) {
        // SAFETY: the table is open during the scan.
        let scan = unsafe { pg_sys::table_beginscan(self.relation, view.raw(), 0, std::ptr::null_mut()) };
        self.scan(scan, pg_sys::table_scan_getnextslot, read);
    }

    /// Passes the rows in a range of pages to `read`, in order. `read` can end the scan.
    pub fn rows_of_pages(
        &self,
        view: View<'_>,
        pages: Range<u32>,
        read: impl FnMut(&Row) -> ControlFlow<()>,
    ) {
        if pages.is_empty() {
            return;
        }
        let (mut first, mut last) =
            (TupleId::beginning_of(pages.start), TupleId::end_of_those_before(pages.end));
        // SAFETY: the table is open during the scan, and the scan copies both tuple ids. Some table access methods
        // do not support TID range scans. So the function first checks that this table's method supports them.
        let scan = unsafe {
            if (*(*self.relation).rd_tableam).scan_set_tidrange.is_none() {
                pgrx::error!("the table access method of a session table does not support TID range scans");
            }
            pg_sys::table_beginscan_tidrange(self.relation, view.raw(), first.pointer(), last.pointer())
        };
        self.scan(scan, pg_sys::table_scan_getnextslot_tidrange, read);
    }

    /// Memory that `read` allocates from the server is freed after each row.
    fn scan(
        &self,
        scan: pg_sys::TableScanDesc,
        next: unsafe fn(
            pg_sys::TableScanDesc,
            pg_sys::ScanDirection::Type,
            *mut pg_sys::TupleTableSlot,
        ) -> bool,
        mut read: impl FnMut(&Row) -> ControlFlow<()>,
    ) {
        // SAFETY: the scan and the slot are released below. After an ERROR, the abort of the transaction or subtransaction
        // releases them. The new memory context is a child of the current one, and is current only while `read` runs.
        unsafe {
            let outside = pg_sys::CurrentMemoryContext;
            let of_row = pg_sys::AllocSetContextCreateInternal(
                outside,
                c"cowrie_enrich row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            let slot = pg_sys::table_slot_create(self.relation, std::ptr::null_mut());
            while next(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
                super::check_for_interrupts();
                pg_sys::MemoryContextSwitchTo(of_row);
                let wanted = read(&Row { slot });
                pg_sys::MemoryContextSwitchTo(outside);
                pg_sys::MemoryContextReset(of_row);
                if wanted.is_break() {
                    break;
                }
            }
            pg_sys::table_endscan(scan);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::MemoryContextDelete(of_row);
        }
    }
}

impl Drop for ReadableTable {
    fn drop(&mut self) {
        // SAFETY: `open` opened this table, and it is closed only once. With NoLock, closing does not release the lock. The
        // transaction holds the lock until it ends.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}
