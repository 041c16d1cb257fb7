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

/// A registered snapshot, as new as possible when it is taken. It also shows all earlier changes of this transaction.
pub struct Latest(pg_sys::Snapshot);

impl Latest {
    pub fn take() -> Self {
        // SAFETY: both calls are valid inside a transaction. The registration keeps the snapshot until it is unregistered in
        // `drop`.
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

/// The registered snapshot of a repeatable read transaction. All statements of the transaction see the database in this state.
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

    /// Returns true if another transaction that is still in progress inserted the row that was last read with this snapshot.
    pub fn saw_insertion(&self) -> bool {
        // SAFETY: the snapshot is allocated in `new` and freed on drop. The server writes to it only while the server checks a
        // row.
        unsafe { (*self.0).xmin != pg_sys::InvalidTransactionId }
    }
}

impl Drop for Dirty {
    fn drop(&mut self) {
        // SAFETY: made from a Box in `new`, freed once.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// Returns the snapshot of the running statement, if a snapshot is active. The snapshot is valid until the statement ends.
pub fn of_statement() -> Option<View<'static>> {
    // SAFETY: if a snapshot is active, GetActiveSnapshot returns it.
    unsafe { pg_sys::ActiveSnapshotSet().then(|| View(pg_sys::GetActiveSnapshot(), PhantomData)) }
}

/// Returns whether the server tracks this transaction's reads for serialization conflicts.
pub fn is_serializable() -> bool {
    // SAFETY: reads a static of the transaction system.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 }
}

/// Returns true if all statements of the transaction see the same snapshot, as in REPEATABLE READ.
pub fn is_kept_for_transaction() -> bool {
    // SAFETY: reads a static of the transaction system.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Returns the snapshot with which an INSERT of honeypot sessions reads the inventory. Normally, this is the snapshot of the
/// statement, if there is one. In a serializable transaction, it is SnapshotSelf, which sees all committed rows and takes no
/// predicate locks. The user did not request these reads, and predicate locks for them could make transactions fail. A read
/// with SnapshotSelf may miss a row that is being updated. In this case, the attribution comes from the mmdb files.
pub fn for_probe() -> Option<View<'static>> {
    if is_serializable() {
        return Some(View(&raw mut pg_sys::SnapshotSelfData, PhantomData));
    }
    of_statement()
}

/// Takes a new snapshot, and runs `work` while this snapshot is active. Statements at commit need a new snapshot, because no
/// snapshot is active at that time.
pub fn with_fresh<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the pushed snapshot is popped below. After an ERROR, the abort of the enclosing subtransaction pops it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}
