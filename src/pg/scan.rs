//! Reading a user's table below the executor.
//!
//! No code of the user's runs: no cast, no policy, no view. That matters where the reader acts with more rights than
//! the table's owner has.

use std::ffi::{CStr, c_int};

use pgrx::pg_sys;

use super::trigger::Column;
use super::{inet, snapshot, text};

unsafe extern "C-unwind" {
    /// src/backend/catalog/pg_inherits.c; pgrx has no binding.
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// A value of an address column.
pub enum Value<'a> {
    Inet(inet::Inet),
    Text(&'a [u8]),
}

/// Hands every non-null value of a column to `read`: of a table itself, or of all partitions of a partitioned one.
/// Columns of another type than inet or text are passed over, and so are partitions that are not tables.
pub fn column(table: pg_sys::Oid, name: &CStr, mut read: impl FnMut(Value<'_>)) {
    let latest = snapshot::Latest::take();
    for part in parts(table) {
        column_of_one(part, name, latest.raw(), &mut read);
    }
}

fn parts(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: the list holds OIDs, at least the table's own; the caller's TRUNCATE has locked all of them.
    unsafe {
        if pg_sys::get_rel_relkind(table) as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return vec![table];
        }
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(table, pg_sys::AccessShareLock as c_int, std::ptr::null_mut())
        });
        (0..(*list).length as usize).map(|i| (*(*list).elements.add(i)).oid_value).collect()
    }
}

fn column_of_one(
    table: pg_sys::Oid,
    name: &CStr,
    snapshot: pg_sys::Snapshot,
    read: &mut impl FnMut(Value<'_>),
) {
    // SAFETY: the table is open during the scan, the column's type decides how its datums are read; relation, slot and
    // scan are released below, or by the abort of the (sub)transaction.
    unsafe {
        if pg_sys::get_rel_relkind(table) as u8 != pg_sys::RELKIND_RELATION {
            return;
        }
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let descriptor = (*relation).rd_att;
        let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
        if number > 0 {
            let column =
                Column { number: number as i16, type_oid: pg_sys::SPI_gettypeid(descriptor, number) };
            let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
            let scan = pg_sys::table_beginscan(relation, snapshot, 0, std::ptr::null_mut());
            while column.holds_addresses()
                && pg_sys::table_scan_getnextslot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot)
            {
                super::check_for_interrupts();
                let mut is_null = false;
                let datum = pg_sys::slot_getattr(slot, number, &mut is_null);
                if is_null {
                    continue;
                }
                if column.is_text_like() {
                    read(Value::Text(text::bytes(datum)));
                } else if let Some(inet) = inet::read(datum) {
                    read(Value::Inet(inet));
                }
            }
            pg_sys::table_endscan(scan);
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
