//! Containment: work of ours that may fail without failing the user's transaction.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

/// What the contained work raised.
pub struct Failure {
    pub message: String,
}

/// Runs `work` in a subtransaction. An ERROR or a panic rolls it back and comes out as a value.
///
/// Cancellation and shutdown are not ours to swallow: they are raised again after the rollback, because the user's
/// statement is what they are meant for.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
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
            Err(Failure { message: message(&error) })
        }
    }
}

fn must_be_raised(error: &CaughtError) -> bool {
    let report = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { .. } => return false,
    };
    matches!(
        report.sql_error_code(),
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_DATABASE_DROPPED
    )
}

/// What an error said, without detail and hint.
pub(super) fn message(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report.message().to_owned(),
    }
}
