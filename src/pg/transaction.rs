//! Callbacks that the server calls when transactions and subtransactions end.
//!
//! Callbacks are registered once per backend. A callback before commit may do everything that a deferred trigger may do. A
//! callback that runs after the commit has begun must not fail, because an ERROR at that time restarts the whole cluster.

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
    /// The last callback before a commit or PREPARE TRANSACTION, after deferred triggers. May run SQL.
    pub before_commit: fn(),
    /// Called after the transaction has ended. May change only the memory of this backend.
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

/// Returns true if `before_commit` is running for PREPARE TRANSACTION. In this case, the transaction commits later or never.
pub fn is_being_prepared() -> bool {
    PREPARING.get()
}

/// Registers the callbacks of this backend. Only the first call has an effect.
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

/// Runs `work` in a new transaction and commits the transaction. Must be called in a background process, outside any
/// transaction. After an ERROR, rolls the transaction back and returns the error as a value. A cancellation is returned in the
/// same way, because only an operator cancels a background process. A shutdown ends the process.
pub fn run<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    // SAFETY: the code runs inside the transaction. The snapshot is popped before the transaction ends.
    run_after(|| unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) }, work)
}

/// Like [`run`], for work that sets its isolation level and chooses when it takes its snapshot.
pub fn run_without_snapshot<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    run_after(|| (), work)
}

fn run_after<T>(prepare: impl FnOnce(), work: impl FnOnce() -> T) -> Result<T, Failure> {
    let attempt = AssertUnwindSafe(|| {
        // SAFETY: no transaction is open in this process. The code below commits the transaction that begins here. After an
        // ERROR, it aborts this transaction.
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
        // SAFETY: the error is no longer on the server's error stack. AbortOutOfAnyTransaction aborts the transaction if one is
        // open.
        unsafe { pg_sys::AbortOutOfAnyTransaction() };
        failure
    })
}

unsafe extern "C-unwind" {
    /// Defined in src/backend/access/transam/xact.c. Declared here without pgrx's guard against ERRORs. Every change of a count
    /// calls the function, and the guard takes many times as long as the function. The function returns a static variable and
    /// cannot raise an error.
    safe fn GetCurrentSubTransactionId() -> Level;
}

/// Returns the innermost (sub)transaction.
pub fn current_level() -> Level {
    GetCurrentSubTransactionId()
}

/// Makes all deferrable triggers of this transaction immediate, as SET CONSTRAINTS ALL IMMEDIATE does. Then the triggers that a
/// statement fires run as the role that runs the statement. Must be called inside a transaction.
pub fn defer_nothing() {
    // SAFETY: the node has the type that the function expects. A zeroed node names no constraint, so it means all constraints.
    // It also makes them immediate.
    unsafe {
        let node: *mut pg_sys::ConstraintsSetStmt =
            pg_sys::palloc0(size_of::<pg_sys::ConstraintsSetStmt>()).cast();
        (*node).type_ = pg_sys::NodeTag::T_ConstraintsSetStmt;
        pg_sys::AfterTriggerSetState(node);
    }
}

/// Fires deferred triggers that were queued while the transaction was already committing.
pub fn fire_deferred_triggers() {
    // SAFETY: this code runs before the commit and outside any query. If no trigger is queued, the function does nothing.
    unsafe { pg_sys::AfterTriggerFireDeferred() }
}

/// As the current user, fires deferred triggers and fills the cursors WITH HOLD that a trigger left open. Otherwise the commit
/// would do this work as the user with which the session or the background process started.
pub fn end_as_current_user() {
    // SAFETY: the commit of a transaction calls the same functions. The extension has no open cursor. In a session of a client,
    // the cursors of the client were handled when the client's last transaction committed.
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

/// Runs `work` and ignores a panic, because a panic would become an ERROR here, and no ERROR is allowed at this point.
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

/// Sets the isolation level of the current transaction, regardless of default_transaction_isolation. Must be called before the
/// transaction reads data.
pub fn isolate(isolation: Isolation) {
    // SAFETY: this is a static variable of the transaction system. Each new transaction sets it again. The server uses it when
    // the transaction takes its first snapshot, and later.
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

/// Makes the commit of this transaction wait until the commit is on disk, regardless of synchronous_commit.
pub fn commit_durably() {
    // SAFETY: sets a flag of the current transaction.
    unsafe { pg_sys::ForceSyncCommit() }
}

/// Makes the commit of this transaction return without waiting for the disk. Used before a later commit that waits for the
/// disk, because the later commit also makes this one durable. If the server crashes before the later commit, the work is
/// repeated.
pub fn commit_lazily() {
    role::set(c"synchronous_commit", c"off", pg_sys::GucAction::GUC_ACTION_LOCAL);
}

/// Returns whether this transaction can write.
pub fn may_write() -> bool {
    // SAFETY: reads a static and shared memory.
    unsafe { !pg_sys::XactReadOnly && !pg_sys::RecoveryInProgress() }
}
