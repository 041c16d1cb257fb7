//! Snapshots for reads of the extension.

use std::marker::PhantomData;

use pgrx::pg_sys;

/// A reference to a snapshot for reads. It may be used only while the snapshot is valid.
#[derive(Clone, Copy)]
pub struct View<'a>(pg_sys::Snapshot, PhantomData<&'a ()>);

impl View<'_> {
    pub(super) fn raw(self) -> pg_sys::Snapshot {
        self.0
    }
}

/// A registered snapshot of this instant, which includes all changes of this transaction so far.
pub struct Latest(pg_sys::Snapshot);

impl Latest {
    pub fn take() -> Self {
        // SAFETY: both calls are valid inside a transaction; registration keeps the snapshot until drop.
        Latest(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) })
    }

    pub fn view(&self) -> View<'_> {
        View(self.0, PhantomData)
    }
}

impl Drop for Latest {
    fn drop(&mut self) {
        // SAFETY: registered in `take`, unregistered once.
        unsafe { pg_sys::UnregisterSnapshot(self.0) }
    }
}

/// The snapshot of a repeatable read transaction, registered. It shows the database as all statements of the transaction see it.
pub struct TransactionSnapshot(pg_sys::Snapshot);

impl TransactionSnapshot {
    pub fn take() -> Self {
        // SAFETY: as for `Latest`.
        TransactionSnapshot(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()) })
    }

    pub fn view(&self) -> View<'_> {
        View(self.0, PhantomData)
    }
}

impl Drop for TransactionSnapshot {
    fn drop(&mut self) {
        // SAFETY: as for `Latest`.
        unsafe { pg_sys::UnregisterSnapshot(self.0) }
    }
}

/// A snapshot that also sees rows of transactions in progress, including prepared ones.
pub struct Dirty(*mut pg_sys::SnapshotData);

impl Dirty {
    pub fn new() -> Self {
        let snapshot = pg_sys::SnapshotData {
            snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY,
            ..Default::default()
        };
        Dirty(Box::into_raw(Box::new(snapshot)))
    }

    pub(super) fn raw(&self) -> pg_sys::Snapshot {
        self.0
    }

    /// Returns whether the row that was last read with this snapshot was inserted by another transaction that is still in progress.
    pub fn saw_insertion(&self) -> bool {
        // SAFETY: allocated in `new` and freed on drop; the server writes to it only while it checks a row.
        unsafe { (*self.0).xmin != pg_sys::InvalidTransactionId }
    }
}

impl Drop for Dirty {
    fn drop(&mut self) {
        // SAFETY: made from a Box in `new`, freed once.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// Returns the snapshot of the running statement, if one is active. It is valid until the statement ends.
pub fn of_statement() -> Option<View<'static>> {
    // SAFETY: GetActiveSnapshot is valid whenever one is set.
    unsafe { pg_sys::ActiveSnapshotSet().then(|| View(pg_sys::GetActiveSnapshot(), PhantomData)) }
}

/// Returns whether the server tracks this transaction's reads for serialization conflicts.
pub fn is_serializable() -> bool {
    // SAFETY: reads a static of the transaction system.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 }
}

/// Returns whether all statements of the transaction see the same snapshot, as in REPEATABLE READ.
pub fn is_kept_for_transaction() -> bool {
    // SAFETY: reads a static of the transaction system.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Returns the snapshot with which a session's insert reads the inventory: the statement's snapshot, if there
/// is one. In a serializable transaction, returns SnapshotSelf, which sees all committed rows and takes no
/// predicate locks. The user did not request these reads, and their predicate locks could make transactions
/// fail. A read with SnapshotSelf may miss a row that is being updated. The attribution then comes from the
/// mmdb files.
pub fn for_probe() -> Option<View<'static>> {
    if is_serializable() {
        return Some(View(&raw mut pg_sys::SnapshotSelfData, PhantomData));
    }
    of_statement()
}

/// Takes a new snapshot, and runs `work` while this snapshot is active. Statements at commit need this,
/// because no snapshot is active then.
pub fn with_fresh<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: a pushed snapshot is popped below, or by the abort of the enclosing subtransaction on ERROR.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}
