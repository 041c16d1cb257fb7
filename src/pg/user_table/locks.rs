//! Locks parts of a user's table, such as its indexes, and the row of its schema. Also reads the facts that show which locks
//! are necessary.

use std::ffi::c_int;

use pgrx::pg_sys;

use super::errors;
use crate::pg::{self, catalog};

/// The row of a relation in pg_class.
pub struct RelationClass {
    pub kind: u8,
    persistence: u8,
    pub schema: pg_sys::Oid,
    pub owner: pg_sys::Oid,
}

impl RelationClass {
    pub fn is_permanent(&self) -> bool {
        self.is_table() && self.persistence != pg_sys::RELPERSISTENCE_TEMP
    }

    pub fn is_table(&self) -> bool {
        [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&self.kind)
    }
}

/// Returns the row of a relation in pg_class.
pub fn class(relation: pg_sys::Oid) -> Option<RelationClass> {
    // SAFETY: the tuple comes from the system cache. It is released after some of its fixed-width fields were read.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(relation));
        if tuple.is_null() {
            return None;
        }
        let form: *mut pg_sys::FormData_pg_class = pg_sys::GETSTRUCT(tuple).cast();
        let class = RelationClass {
            kind: (*form).relkind as u8,
            persistence: (*form).relpersistence as u8,
            schema: (*form).relnamespace,
            owner: (*form).relowner,
        };
        pg_sys::ReleaseSysCache(tuple);
        Some(class)
    }
}

/// Returns the partitions and inheritance children of all levels, ordered by level. Takes the given lock on each of them.
pub fn descendants(table: pg_sys::Oid, lock: u32) -> Vec<pg_sys::Oid> {
    catalog::table_and_descendants(table, lock).split_off(1)
}

/// Locks the indexes of a table. This is necessary because a lock on the table alone does not prevent a rename of an index.
pub fn lock_indexes(table: pg_sys::Oid) {
    // SAFETY: the table is locked. So it can be opened without a further lock, and no session can add an index.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        for index in catalog::oids(pg_sys::RelationGetIndexList(relation)) {
            pg_sys::LockRelationOid(index, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE);
        }
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}

/// Locks the row of a table's schema, as the check of a foreign key locks a referenced row. Then no transaction can rename or
/// drop the schema. If another transaction is renaming or dropping the schema, waits for that transaction.
pub fn hold_schema(table: pg_sys::Oid) {
    // SAFETY: the catalog is open while it is scanned. The row is locked at the tuple id that the scan found. If another
    // transaction has changed the row in the meantime, the catalog is read again.
    unsafe {
        let Some(class) = class(table) else { errors::changed(table) };
        let mode = pg_sys::RowShareLock as pg_sys::LOCKMODE;
        let relation = pg_sys::table_open(pg_sys::NamespaceRelationId, mode);
        loop {
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                pg_sys::Anum_pg_namespace_oid as i16,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::Oid::from(pg_sys::F_OIDEQ),
                pg_sys::Datum::from(class.schema),
            );
            let index = pg_sys::Oid::from(pg_sys::NamespaceOidIndexId);
            let scan = pg_sys::systable_beginscan(relation, index, true, std::ptr::null_mut(), 1, &mut key);
            let found = pg_sys::systable_getnext(scan);
            let place = (!found.is_null()).then(|| (*found).t_self);
            pg_sys::systable_endscan(scan);
            let Some(place) = place else { errors::changed(table) };
            let mut tuple = pg_sys::HeapTupleData { t_self: place, ..Default::default() };
            let (mut buffer, mut failure) = (0, pg_sys::TM_FailureData::default());
            let locked = pg_sys::heap_lock_tuple(
                relation,
                &mut tuple,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleKeyShare,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                false,
                &mut buffer,
                &mut failure,
            );
            pg_sys::ReleaseBuffer(buffer);
            pg_sys::AcceptInvalidationMessages();
            match locked {
                pg_sys::TM_Result::TM_Ok => break,
                pg_sys::TM_Result::TM_Updated | pg_sys::TM_Result::TM_Deleted => {
                    pg::check_for_interrupts();
                    pg_sys::InvalidateCatalogSnapshot();
                }
                _ => errors::changed(table),
            }
        }
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}
