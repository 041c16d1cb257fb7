//! Locks on things that are no tables.

use pgrx::pg_sys;

/// Tells these locks from those of the SQL functions pg_advisory_lock(…), which use 1 and 2: nobody can take one of ours
/// by a statement.
const OURS: u16 = 0xC0;

/// Whether to wait for whoever has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

/// Has one transaction at a time work on what `object` stands for, until it ends. Answers whether it is this one.
pub fn exclude_others(object: pg_sys::Oid, wait: Wait) -> bool {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: reads a static.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: object.to_u32(),
        locktag_field3: 0,
        locktag_field4: OURS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    };
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: a complete tag; the lock is the transaction's and goes with it.
    let result = unsafe { pg_sys::LockAcquire(&tag, mode, false, wait == Wait::No) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}
