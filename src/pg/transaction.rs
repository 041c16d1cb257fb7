//! Ends of transactions and subtransactions.
//!
//! Callbacks are registered once per backend. A callback before commit may do anything that a deferred trigger may do. A callback
//! after the commit has begun must not fail, because an ERROR there restarts the whole cluster.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::role;
use super::subtransaction::Failure;

/// Identity of a subtransaction within its transaction.
pub type Level = pg_sys::SubTransactionId;

/// How a transaction ended, as far as this backend can know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    /// The transaction is prepared. Another session will commit it, or roll it back.
    Prepared,
    Aborted,
}

/// Callbacks at the ends of transactions and subtransactions.
#[derive(Clone, Copy)]
pub struct Callbacks {
    /// Called last before commit or PREPARE TRANSACTION, after deferred triggers. May run SQL.
    pub before_commit: fn(),
    /// The transaction has ended. Changes only this backend's memory.
    pub ended: fn(Outcome),
    /// A subtransaction was released into its parent.
    pub released: fn(Level, Level),
    /// A subtransaction was rolled back.
    pub rolled_back: fn(Level),
}

thread_local! {
    static CALLBACKS: Cell<Option<Callbacks>> = const { Cell::new(None) };
    static PREPARING: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether `before_commit` runs for PREPARE TRANSACTION. The commit then comes later or never.
pub fn is_being_prepared() -> bool {
    PREPARING.get()
}

/// Registers the only callbacks of this backend; later calls change nothing.
pub fn register(callbacks: Callbacks) {
    if CALLBACKS.get().is_some() {
        return;
    }
    CALLBACKS.set(Some(callbacks));
    // SAFETY: both callbacks are static functions that live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_end), std::ptr::null_mut());
    }
}

/// Runs `work` in a new transaction and commits it. Called in background processes, outside any transaction.
/// An ERROR rolls back and is returned as a value. A cancellation is returned too, because only an operator
/// cancels a background process. A shutdown ends the process.
pub fn run<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    // SAFETY: inside the transaction; the snapshot is popped before it ends.
    run_after(|| unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) }, work)
}

/// Like [`run`], for work that sets its isolation level and chooses when it takes its snapshot.
pub fn run_without_snapshot<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    run_after(|| (), work)
}

fn run_after<T>(prepare: impl FnOnce(), work: impl FnOnce() -> T) -> Result<T, Failure> {
    let attempt = AssertUnwindSafe(|| {
        // SAFETY: the process is in no transaction; the transaction begun here is ended here, or aborted
        // below.
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
        // SAFETY: the error has been taken off the server's error stack; this ends any open transaction.
        unsafe { pg_sys::AbortOutOfAnyTransaction() };
        failure
    })
}

unsafe extern "C-unwind" {
    /// src/backend/access/transam/xact.c. Declared here without pgrx's guard against ERRORs, because every
    /// count calls the function and the guard costs many times as much. The function returns a static and
    /// cannot raise an error.
    safe fn GetCurrentSubTransactionId() -> Level;
}

/// Returns the innermost (sub)transaction.
pub fn current_level() -> Level {
    GetCurrentSubTransactionId()
}

/// Makes all triggers of this transaction immediate, as SET CONSTRAINTS ALL IMMEDIATE does. The triggers that
/// a statement fires then run as the role that runs the statement. Called inside a transaction.
pub fn defer_nothing() {
    // SAFETY: the node has the type that the function expects. A zeroed node names no constraint, which means
    // all constraints, and makes them immediate.
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

/// Fires deferred triggers, and fills cursors WITH HOLD that a trigger left open, as the current user. The commit would do this
/// work as the user that the session or the background process had at its start.
pub fn end_as_current_user() {
    // SAFETY: a commit calls the same functions. The extension has no open cursor. In a session of a client, the commit of the
    // client's last transaction has handled the client's cursors.
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
    let Some(callbacks) = CALLBACKS.get() else { return };
    PREPARING.set(false);
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT | pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => {
            PREPARING.set(event == pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE);
            (callbacks.before_commit)();
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT => quietly(|| (callbacks.ended)(Outcome::Committed)),
        pg_sys::XactEvent::XACT_EVENT_PREPARE => quietly(|| (callbacks.ended)(Outcome::Prepared)),
        pg_sys::XactEvent::XACT_EVENT_ABORT => quietly(|| (callbacks.ended)(Outcome::Aborted)),
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
    let Some(callbacks) = CALLBACKS.get() else { return };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => quietly(|| (callbacks.released)(level, parent)),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => quietly(|| (callbacks.rolled_back)(level)),
        _ => {}
    }
}

/// A panic here would become an ERROR where no ERROR is allowed.
fn quietly(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

/// How a transaction sees commits of others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees the transactions that committed before the statement began.
    ReadCommitted,
    /// All statements see the same state of the database.
    RepeatableRead,
}

/// Sets the isolation of the current transaction, regardless of default_transaction_isolation. The
/// transaction must not have read anything yet.
pub fn isolate(isolation: Isolation) {
    // SAFETY: a static of the transaction system. The next transaction sets it again. The server uses it from the first snapshot
    // on.
    unsafe {
        if pg_sys::FirstSnapshotSet {
            pgrx::error!(
                "could not set the isolation level, because the transaction has already taken an MVCC snapshot"
            );
        }
        pg_sys::XactIsoLevel = match isolation {
            Isolation::ReadCommitted => pg_sys::XACT_READ_COMMITTED,
            Isolation::RepeatableRead => pg_sys::XACT_REPEATABLE_READ,
        } as i32;
    }
}

/// Makes this transaction's commit wait until it is on disk, regardless of synchronous_commit.
pub fn commit_durably() {
    // SAFETY: sets a flag of the current transaction.
    unsafe { pg_sys::ForceSyncCommit() }
}

/// Makes this transaction's commit not wait for the disk. Used before a later commit that waits for the disk,
/// because that commit also makes this one durable. If the server crashes before that commit, the work is
/// repeated.
pub fn commit_lazily() {
    role::set(c"synchronous_commit", c"off", pg_sys::GucAction::GUC_ACTION_LOCAL);
}

/// Returns whether this transaction can write.
pub fn may_write() -> bool {
    // SAFETY: reads a static and shared memory.
    unsafe { !pg_sys::XactReadOnly && !pg_sys::RecoveryInProgress() }
}
