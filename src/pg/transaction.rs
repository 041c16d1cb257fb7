//! Ends of transactions and subtransactions.
//!
//! Callbacks are registered once per backend. One that runs before commit may do anything that a deferred trigger
//! may; the others must not fail: an ERROR after commit has begun takes the whole cluster down.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::role;
use super::subtransaction::Failure;

/// Identity of a subtransaction within its transaction.
pub type Level = pg_sys::SubTransactionId;

/// How a transaction ended, as far as this backend will ever know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    /// Somebody else will commit it, or not.
    Prepared,
    Aborted,
}

/// What wants to know of the ends of transactions.
#[derive(Clone, Copy)]
pub struct Observer {
    /// Last thing before commit or PREPARE TRANSACTION, after deferred triggers. May run SQL.
    pub before_commit: fn(),
    /// The transaction has ended. Touches nothing but this backend's own memory.
    pub ended: fn(Outcome),
    /// A subtransaction was released into its parent.
    pub released: fn(Level, Level),
    /// A subtransaction was rolled back.
    pub rolled_back: fn(Level),
}

thread_local! {
    static OBSERVER: Cell<Option<Observer>> = const { Cell::new(None) };
    static PREPARING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether `before_commit` runs for PREPARE TRANSACTION, so that the commit comes later or never.
pub fn is_being_prepared() -> bool {
    PREPARING.get()
}

/// Registers the one observer of this backend; later calls change nothing.
pub fn observe(observer: Observer) {
    if OBSERVER.get().is_some() {
        return;
    }
    OBSERVER.set(Some(observer));
    // SAFETY: both callbacks are static functions that live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
    }
}

/// Runs `work` in a transaction of its own and commits it. For background processes, which have none around them. An
/// ERROR, wherever in there it is raised, rolls back and comes out as a value; so does a cancellation, because nobody
/// but an operator sends a background process one. A shutdown ends the process.
pub fn run<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    // SAFETY: inside the transaction; the snapshot is popped before it ends.
    run_after(|| unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) }, work)
}

/// The same for work that chooses its isolation, and the time at which it takes its snapshot.
pub fn run_without_snapshot<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    run_after(|| (), work)
}

fn run_after<T>(prepare: impl FnOnce(), work: impl FnOnce() -> T) -> Result<T, Failure> {
    let attempt = AssertUnwindSafe(|| {
        // SAFETY: the process is in no transaction; what is begun here is ended here, or aborted below.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        prepare();
        let result = work();
        // SAFETY: as above.
        unsafe {
            if pg_sys::ActiveSnapshotSet() {
                pg_sys::PopActiveSnapshot();
            }
            pg_sys::CommitTransactionCommand();
        }
        Ok(result)
    });
    let caught = |error| Err(Box::new(error));
    PgTryBuilder::new(attempt).catch_others(caught).catch_rust_panic(caught).execute().map_err(|error| {
        let failure = Failure::of(&error);
        // SAFETY: the error has been taken off the server's error stack; whatever was begun is ended.
        unsafe { pg_sys::AbortOutOfAnyTransaction() };
        failure
    })
}

unsafe extern "C-unwind" {
    /// src/backend/access/transam/xact.c. Declared here without pgrx's guard against ERRORs, which costs many times what it
    /// guards: every count asks for the level, and the function returns a static and cannot raise.
    safe fn GetCurrentSubTransactionId() -> Level;
}

/// The innermost (sub)transaction.
pub fn current_level() -> Level {
    GetCurrentSubTransactionId()
}

/// Lets no trigger of this transaction be deferred any more, as SET CONSTRAINTS ALL IMMEDIATE does: what a statement sets off
/// runs with the rights that the statement has. Inside a transaction.
pub fn defer_nothing() {
    // SAFETY: a node of the type that the function takes, zeroed, which means all constraints, immediate.
    unsafe {
        let node: *mut pg_sys::ConstraintsSetStmt =
            pg_sys::palloc0(size_of::<pg_sys::ConstraintsSetStmt>()).cast();
        (*node).type_ = pg_sys::NodeTag::T_ConstraintsSetStmt;
        pg_sys::AfterTriggerSetState(node);
    }
}

/// Fires deferred triggers that were queued while the transaction was already committing.
pub fn fire_deferred_triggers() {
    // SAFETY: called before commit, outside any query; does nothing when nothing is queued.
    unsafe { pg_sys::AfterTriggerFireDeferred() }
}

/// Fires deferred triggers, and fills cursors WITH HOLD that a trigger left behind, as the current user. The commit would do
/// both as the user whom the session or the background process began as.
pub fn end_as_current_user() {
    // SAFETY: the commit does the same. The extension has no open cursor. In a session of a client, the commit has handled
    // the cursors of the client before.
    unsafe {
        loop {
            pg_sys::AfterTriggerFireDeferred();
            if !pg_sys::PreCommit_Portals(false) {
                break;
            }
        }
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn at_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut std::ffi::c_void) {
    let Some(observer) = OBSERVER.get() else { return };
    PREPARING.set(false);
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT | pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => {
            PREPARING.set(event == pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE);
            (observer.before_commit)();
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT => quietly(|| (observer.ended)(Outcome::Committed)),
        pg_sys::XactEvent::XACT_EVENT_PREPARE => quietly(|| (observer.ended)(Outcome::Prepared)),
        pg_sys::XactEvent::XACT_EVENT_ABORT => quietly(|| (observer.ended)(Outcome::Aborted)),
        _ => {}
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn at_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    level: Level,
    parent: Level,
    _argument: *mut std::ffi::c_void,
) {
    let Some(observer) = OBSERVER.get() else { return };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => quietly(|| (observer.released)(level, parent)),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => quietly(|| (observer.rolled_back)(level)),
        _ => {}
    }
}

/// A panic here would become an ERROR where none is allowed.
fn quietly(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

/// What a transaction sees of what others commit meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed when it began.
    ReadCommitted,
    /// All see one moment of the database.
    RepeatableRead,
}

/// Sets that for the current transaction, whatever default_transaction_isolation says; it must not have looked at
/// anything yet.
pub fn isolate(isolation: Isolation) {
    // SAFETY: a static of the transaction system, which the next transaction sets anew; what depends on it begins with the
    // first snapshot.
    unsafe {
        if pg_sys::FirstSnapshotSet {
            pgrx::error!("the transaction has begun to read");
        }
        pg_sys::XactIsoLevel = match isolation {
            Isolation::ReadCommitted => pg_sys::XACT_READ_COMMITTED,
            Isolation::RepeatableRead => pg_sys::XACT_REPEATABLE_READ,
        } as i32;
    }
}

/// This transaction's commit is on disk before it returns, whatever synchronous_commit says.
pub fn commit_durably() {
    // SAFETY: sets a flag of the current transaction.
    unsafe { pg_sys::ForceSyncCommit() }
}

/// This transaction's commit does not wait for the disk: for work that a later commit, which waits, makes durable, and
/// that is done again should the server crash before.
pub fn commit_lazily() {
    role::set(c"synchronous_commit", c"off", pg_sys::GucAction::GUC_ACTION_LOCAL);
}

/// Whether this transaction can write at all.
pub fn may_write() -> bool {
    // SAFETY: reads a static and shared memory.
    unsafe { !pg_sys::XactReadOnly && !pg_sys::RecoveryInProgress() }
}
