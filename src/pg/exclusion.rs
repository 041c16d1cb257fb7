//! Advisory locks of the extension, on objects other than tables.

use pgrx::pg_sys;

/// Distinguishes these locks from the locks of the SQL functions pg_advisory_lock(…). These functions use 1
/// and 2. So no statement can take a lock of this kind.
const OURS: u16 = 0xC0;

/// Reaction to a lock that another process holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

/// Releases all advisory locks of the session when the guard is dropped. They are locks of the functions pg_advisory_lock(…), or
/// locks of the extension.
///
/// A table owner's code may take advisory locks in another user's session. Without this guard, the locks would stay in that
/// session.
pub struct AdvisoryLockGuard(());

impl AdvisoryLockGuard {
    /// The session must not hold advisory locks when the guard begins. Then all locks that the guard releases come from work that
    /// ran while the guard existed.
    pub fn begin() -> AdvisoryLockGuard {
        AdvisoryLockGuard(())
    }
}

impl Drop for AdvisoryLockGuard {
    fn drop(&mut self) {
        // SAFETY: changes only the lock table, which stays usable while an ERROR unwinds.
        unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as pg_sys::LOCKMETHODID) };
    }
}

const MODE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;

/// In pg_locks, `classid` is the OID of the object, `objid` is the part of the object, and `objsubid` is the kind.
fn tag(object: pg_sys::Oid, part: u32, kind: u16) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: reads a static.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: object.to_u32(),
        locktag_field3: part,
        locktag_field4: kind,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Takes a lock on `object` until the transaction ends, so that only one transaction works on it. Returns whether the lock was
/// taken.
pub fn exclude_others(object: pg_sys::Oid, wait: Wait) -> bool {
    // SAFETY: the tag is complete. The lock belongs to the transaction and is released with it.
    let result = unsafe { pg_sys::LockAcquire(&tag(object, 0, OURS), MODE, false, wait == Wait::No) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// A lock on a part of an object, held by this process over several transactions.
pub struct HeldLock(pg_sys::LOCKTAG);

impl HeldLock {
    /// Returns `None` if another process holds the lock. `kind` distinguishes the kinds of work on one part;
    /// see [`kind_in_pg_locks`].
    pub fn take(object: pg_sys::Oid, part: u32, kind: u16) -> Option<HeldLock> {
        let tag = tag(object, part, kind_in_pg_locks(kind));
        // SAFETY: the tag is complete. The lock belongs to the process. It is released when this is dropped, or when
        // the process ends.
        let result = unsafe { pg_sys::LockAcquire(&tag, MODE, true, true) };
        // `then` with a closure creates the value only if the lock was taken. Otherwise the drop of an unused value would release a
        // lock that this process does not have.
        (result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL).then(|| HeldLock(tag))
    }
}

/// `objsubid` of a lock of this kind in pg_locks.
pub const fn kind_in_pg_locks(kind: u16) -> u16 {
    OURS + 1 + kind
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        // SAFETY: taken once; releasing changes only the lock table, which stays usable while an ERROR
        // unwinds.
        unsafe { pg_sys::LockRelease(&self.0, MODE, true) };
    }
}

/// A mark of a prepared transaction. It tells other processes what the transaction's commit will change. The
/// mark is a lock. The server keeps the locks of prepared transactions, even after a restart. So other
/// processes see the mark while the transaction is prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Mark {
    /// The transaction queued work for the worker.
    Work = 0,
    /// The transaction changed the rules of session priority.
    Rules,
    /// The transaction created, altered or dropped an extension.
    Extension,
    /// The transaction could append neither its counts nor a request for a recount.
    Recount,
    /// The transaction could not queue its lookups.
    Sweep,
}

/// `objsubid` of the first mark in pg_locks. It is greater than any `objsubid` of the procedures' locks.
const FIRST_MARK: u16 = 0xE0;

fn mark_tag(database: pg_sys::Oid, mark: Mark) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database.to_u32(),
        ..tag(pg_sys::InvalidOid, 0, FIRST_MARK + mark as u16)
    }
}

/// Marks this transaction until it ends. Marks do not wait for each other.
pub fn mark(mark: Mark) {
    let tag = mark_tag(super::catalog::own_database(), mark);
    // SAFETY: all fields of the tag are set. The lock belongs to the transaction, and no process takes a lock that conflicts with
    // it.
    unsafe { pg_sys::LockAcquire(&tag, pg_sys::ShareLock as pg_sys::LOCKMODE, false, false) };
}

/// Returns whether another transaction in a database has this mark. Reads only the lock table. Called inside
/// a transaction.
pub fn is_marked(database: pg_sys::Oid, mark: Mark) -> bool {
    let mut count = 0;
    // SAFETY: a complete tag; the list is allocated in the current memory context and freed once.
    unsafe {
        let holders = pg_sys::GetLockConflicts(&mark_tag(database, mark), MODE, &mut count);
        pg_sys::pfree(holders.cast());
    }
    count > 0
}
