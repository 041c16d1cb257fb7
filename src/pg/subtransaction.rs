//! Containment: work of ours that may fail without failing the user's transaction.

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::prelude::*;

use super::owner_slot;

/// What the contained work raised.
pub struct Failure {
    pub message: String,
    /// True if another transaction held a lock, or renamed the table: the work may succeed a moment later.
    pub was_lock: bool,
    code: PgSqlErrorCode,
    hint: Option<String>,
}

impl Failure {
    pub(super) fn of(error: &CaughtError) -> Failure {
        let report = report(error);
        let was_lock = matches!(
            report.sql_error_code(),
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
                | PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED
                | PgSqlErrorCode::ERRCODE_OBJECT_IN_USE
        );
        Failure {
            message: report.message().to_owned(),
            was_lock,
            code: report.sql_error_code(),
            hint: report.hint().map(str::to_owned),
        }
    }

    /// Returns whether the server was out of memory, locks or disk space.
    pub fn was_resource(&self) -> bool {
        matches!(
            self.code,
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES
                | PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
                | PgSqlErrorCode::ERRCODE_DISK_FULL
                | PgSqlErrorCode::ERRCODE_TOO_MANY_CONNECTIONS
                | PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED
        )
    }

    /// Whether a row points at nothing.
    pub fn was_reference(&self) -> bool {
        self.code == PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION
    }

    /// Fails the caller with it after all.
    pub fn raise(self) -> ! {
        let mut report = pg_sys::panic::ErrorReport::new(self.code, self.message, "contained");
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(PgLogLevel::ERROR);
        unreachable!("ERROR does not return")
    }
}

/// Runs `work` in a subtransaction. An ERROR or a panic rolls it back and comes out as a value.
///
/// Cancellation and shutdown are not ours to swallow: they are raised again after the rollback, because the user's
/// statement is what they are meant for.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    contained_unless(work, must_be_raised)
}

/// The same for work that includes code of a table owner, which gets this much time. Only for owner processes, because
/// nothing else uses the timer of statements there.
///
/// That code may catch the cancellation. Then the process ends a moment later. Advisory locks that the code took for the
/// session are released.
pub fn contained_within<T>(limit: Duration, work: impl FnOnce() -> T) -> Result<T, Failure> {
    let timer = Timer::start(limit);
    owner_slot::code_runs(true);
    let result = contained_unless(work, |error| must_be_raised(error) && !timer.has_ended());
    owner_slot::code_runs(false);
    if timer.has_ended() {
        owner_slot::code_overran();
    }
    // SAFETY: releases session-level advisory locks; ours are the transaction's.
    unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as u16) };
    result
}

/// How long cancelled code may run at most, in milliseconds, and not longer than before it was cancelled.
const GRACE: c_int = 500;

thread_local! {
    /// Number of the timeout that ends the process, once it is registered.
    static LAST_WARNING: Cell<Option<c_int>> = const { Cell::new(None) };
}

fn last_warning() -> c_int {
    LAST_WARNING.get().unwrap_or_else(|| {
        // SAFETY: once per process; the handler is a static function.
        let number = unsafe { RegisterTimeout(USER_TIMEOUT, end_process) };
        LAST_WARNING.set(Some(number));
        number
    })
}

/// Runs in a signal handler: it only sets what the next check for interrupts looks at.
extern "C-unwind" fn end_process() {
    // SAFETY: flags of this process that signal handlers of the server's set in the same way.
    unsafe {
        pg_sys::ProcDiePending = 1;
        pg_sys::InterruptPending = 1;
    }
}

/// Cancels whatever runs when its time is over, and ends the process if that does not help; no more once it is dropped.
struct Timer {
    started: Instant,
    limit: Duration,
}

impl Timer {
    fn start(limit: Duration) -> Timer {
        let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
        // What the server counts: it may end the work before a longer limit has passed.
        let limit = Duration::from_millis(u64::from(milliseconds.unsigned_abs()));
        let timer = Timer { started: Instant::now(), limit };
        // SAFETY: the server registered the first timeout when the process connected, we the other; both are disabled when
        // this is dropped.
        unsafe {
            enable_timeout_after(STATEMENT_TIMEOUT, milliseconds);
            enable_timeout_after(last_warning(), milliseconds.saturating_add(GRACE.min(milliseconds)));
        }
        timer
    }

    fn has_ended(&self) -> bool {
        self.started.elapsed() >= self.limit
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: as above. A cancellation that the timer sent after the work had ended is nobody's.
        unsafe {
            disable_timeout(STATEMENT_TIMEOUT, false);
            disable_timeout(last_warning(), false);
            if self.has_ended() {
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
}

/// src/include/utils/timeout.h: the fourth in all versions since 9.3.
pub(super) const STATEMENT_TIMEOUT: c_int = 3;

/// In the same file: the first number that is free for others.
const USER_TIMEOUT: c_int = if cfg!(any(feature = "pg15", feature = "pg16")) { 12 } else { 13 };

unsafe extern "C-unwind" {
    /// src/backend/utils/misc/timeout.c; pgrx has no bindings.
    fn RegisterTimeout(number: c_int, handler: extern "C-unwind" fn()) -> c_int;
    fn enable_timeout_after(timeout: c_int, milliseconds: c_int);
    pub(super) fn disable_timeout(timeout: c_int, keep_indicator: bool);
}

fn contained_unless<T>(
    work: impl FnOnce() -> T,
    must_be_raised: impl Fn(&CaughtError) -> bool,
) -> Result<T, Failure> {
    // SAFETY: the pattern of PL/pgSQL's exception block: context and resource owner are those of before on every way out.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let restore = || {
        // SAFETY: both were current before the subtransaction and outlive it.
        unsafe {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        }
    };
    let work = AssertUnwindSafe(|| Ok(work()));
    let caught = |error| Err(Box::new(error));
    let result = PgTryBuilder::new(work).catch_others(caught).catch_rust_panic(caught).execute();
    match result {
        Ok(value) => {
            // SAFETY: the subtransaction begun above is the current one.
            unsafe { pg_sys::ReleaseCurrentSubTransaction() };
            restore();
            Ok(value)
        }
        Err(error) => {
            // SAFETY: as above.
            unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() };
            restore();
            if must_be_raised(&error) {
                error.rethrow();
            }
            Err(Failure::of(&error))
        }
    }
}

fn must_be_raised(error: &CaughtError) -> bool {
    if matches!(error, CaughtError::RustPanic { .. }) {
        return false;
    }
    matches!(
        report(error).sql_error_code(),
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_DATABASE_DROPPED
    )
}

fn report(error: &CaughtError) -> &ErrorReportWithLevel {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report,
    }
}
