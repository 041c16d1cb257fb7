//! Advisory locks of the extension, on objects other than tables.

use pgrx::pg_sys;

/// Distinguishes the locks of the extension from the locks of the SQL functions pg_advisory_lock(…). The SQL functions use the
/// numbers 1 and 2 in the same field of a lock tag. So no SQL statement can take a lock of the extension.
const OURS: u16 = 0xC0;

/// Reaction to a lock that another process holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

/// Releases all advisory locks of the session when the guard is dropped. This includes the locks that code took with
/// pg_advisory_lock(…), and the session-level locks of the extension.
///
/// The code of a table owner may take advisory locks in the session of another user. Without this guard, the session would keep
/// these locks.
pub struct AdvisoryLockGuard(());

impl AdvisoryLockGuard {
    /// Begins the guard. The session must not hold advisory locks at this time. Then all locks that the guard releases were
    /// taken while the guard existed.
    pub fn begin() -> AdvisoryLockGuard {
        AdvisoryLockGuard(())
    }
}

impl Drop for AdvisoryLockGuard {
    fn drop(&mut self) {
        // SAFETY: LockReleaseSession changes only the lock table, which stays usable while an ERROR unwinds.
        unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as pg_sys::LOCKMETHODID) };
    }
}

const MODE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;

/// Returns the tag of a lock. In pg_locks, `classid` is the OID of the object, `objid` is the part of the object, and
/// `objsubid` is the kind.
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

/// Takes a lock on `object` until the transaction ends, so that only one transaction works on the object. Returns true if the
/// lock was taken.
pub fn exclude_others(object: pg_sys::Oid, wait: Wait) -> bool {
    // SAFETY: all fields of the tag are set. The lock belongs to the transaction, and the server releases it when the
    // transaction ends.
    let result = unsafe { pg_sys::LockAcquire(&tag(object, 0, OURS), MODE, false, wait == Wait::No) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// A lock on a part of an object. This process can hold the lock over several transactions.
pub struct HeldLock(pg_sys::LOCKTAG);

impl HeldLock {
    /// Takes a lock on one part of an object. Returns `None` if another process holds the lock. `kind` distinguishes the kinds
    /// of work on one part: see [`kind_in_pg_locks`].
    pub fn take(object: pg_sys::Oid, part: u32, kind: u16) -> Option<HeldLock> {
        let tag = tag(object, part, kind_in_pg_locks(kind));
        // SAFETY: all fields of the tag are set. The lock belongs to the process. It is released when the `HeldLock` is
        // dropped, or when the process ends.
        let result = unsafe { pg_sys::LockAcquire(&tag, MODE, true, true) };
        // `then` makes the `HeldLock` only if the lock was taken. If it were made without the lock, its drop would release a
        // lock that this process does not hold.
        (result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL).then(|| HeldLock(tag))
    }
}

/// Returns the `objsubid` that locks of this kind have in pg_locks.
pub const fn kind_in_pg_locks(kind: u16) -> u16 {
    OURS + 1 + kind
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        // SAFETY: the lock was taken once, and is released once. LockRelease changes only the lock table, which stays usable
        // while an ERROR unwinds.
        unsafe { pg_sys::LockRelease(&self.0, MODE, true) };
    }
}

/// A mark of a prepared transaction. It tells other processes what the commit of the transaction will change. The mark is a
/// lock. The server keeps the locks of a prepared transaction, even after a restart. So other processes see the mark while the
/// transaction is prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Mark {
    /// The transaction queued work for the worker.
    Work = 0,
    /// The transaction changed the rules of session priority.
    Rules,
    /// The transaction created, altered or dropped an extension.
    Extension,
    /// The transaction could not append its counts. It also could not append a request for a recount.
    Recount,
    /// The transaction could not queue its lookups.
    Sweep,
}

/// The `objsubid` that the first mark has in pg_locks. It is greater than every `objsubid` of a lock that a procedure takes.
const FIRST_MARK: u16 = 0xE0;

fn mark_tag(database: pg_sys::Oid, mark: Mark) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database.to_u32(),
        ..tag(pg_sys::InvalidOid, 0, FIRST_MARK + mark as u16)
    }
}

/// Sets a mark on this transaction. The mark stays until the transaction ends. Several transactions can have the same mark at
/// the same time.
pub fn mark(mark: Mark) {
    let tag = mark_tag(super::catalog::own_database(), mark);
    // SAFETY: all fields of the tag are set. The lock belongs to the transaction. No process takes a lock that conflicts with
    // this lock.
    unsafe { pg_sys::LockAcquire(&tag, pg_sys::ShareLock as pg_sys::LOCKMODE, false, false) };
}

/// Returns true if another transaction in a database has this mark. Reads only the lock table. Must be called inside a
/// transaction.
pub fn is_marked(database: pg_sys::Oid, mark: Mark) -> bool {
    let mut count = 0;
    // SAFETY: all fields of the tag are set. The list is allocated in the current memory context and freed once.
    unsafe {
        let holders = pg_sys::GetLockConflicts(&mark_tag(database, mark), MODE, &mut count);
        pg_sys::pfree(holders.cast());
    }
    count > 0
}
