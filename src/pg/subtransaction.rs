//! Containment: runs work of the extension that may fail, so that its failure does not fail the user's transaction.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::prelude::*;

/// The error that the contained work raised.
pub struct Failure {
    pub message: String,
    /// True if the work failed because another transaction held a lock or renamed the table. In both cases, the work may
    /// succeed a moment later.
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

    /// Returns true if the server lacked memory, locks or disk space.
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

    /// Returns whether a foreign key was violated.
    pub fn was_reference(&self) -> bool {
        self.code == PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION
    }

    /// Raises the error in the caller.
    pub fn raise(self) -> ! {
        let mut report = pg_sys::panic::ErrorReport::new(self.code, self.message, "contained");
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(PgLogLevel::ERROR);
        unreachable!("ERROR does not return")
    }
}

/// Runs `work` in a subtransaction. After an ERROR or a panic, rolls the subtransaction back and returns the error as a value.
///
/// If the error is a cancellation or a shutdown, raises it again after the rollback, because it concerns the whole statement of
/// the user.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    contained_unless(work, must_be_raised)
}

/// Like [`contained`], but raises those errors again for which `must_be_raised` returns true.
pub(super) fn contained_unless<T>(
    work: impl FnOnce() -> T,
    must_be_raised: impl Fn(&CaughtError) -> bool,
) -> Result<T, Failure> {
    // SAFETY: this follows the pattern of PL/pgSQL's exception block. The previous memory context and resource owner are
    // restored in all cases.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let restore = || {
        // SAFETY: the memory context and the resource owner were current before the subtransaction, and outlive it.
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
            // SAFETY: the current subtransaction is the one that this function began above.
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

pub(super) fn must_be_raised(error: &CaughtError) -> bool {
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

pub(super) fn report(error: &CaughtError) -> &ErrorReportWithLevel {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report,
    }
}
