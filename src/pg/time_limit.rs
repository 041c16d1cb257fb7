//! A time limit for code of a table owner: the timer that cancels the code, and the timer that ends the process.

use std::cell::Cell;
use std::ffi::c_int;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::subtransaction::{Failure, contained_unless, must_be_raised};
use super::timeouts::{
    RegisterTimeout, STATEMENT_TIMEOUT, USER_TIMEOUT, disable_timeout, enable_timeout_after,
};

/// Result of work with a time limit.
pub struct LimitedResult<T> {
    pub result: Result<T, Failure>,
    /// The work took longer than its limit.
    pub is_over: bool,
}

/// Runs `work` in a subtransaction, as [`contained`](super::subtransaction::contained) does. `work` includes code of a table owner
/// and is cancelled after `limit`. Called only in owner processes. Their statement timer has no other use.
///
/// The owner's code may catch the cancellation. Then the process ends a moment later. Advisory locks that the
/// code took for the session are released.
pub fn contained_within<T>(limit: Duration, work: impl FnOnce() -> T) -> LimitedResult<T> {
    let timer = Timer::start(limit);
    let result = contained_unless(work, |error| must_be_raised(error) && !timer.has_ended());
    let is_over = timer.has_ended();
    // SAFETY: releases session-level advisory locks; the extension's locks belong to the transaction.
    unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as u16) };
    LimitedResult { result, is_over }
}

/// Longest time in milliseconds for which code may continue to run after its cancellation. This time is never
/// longer than the limit that led to the cancellation.
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

/// Runs in a signal handler. It only sets flags for the next check for interrupts.
extern "C-unwind" fn end_process() {
    // SAFETY: flags of this process that the server's signal handlers set in the same way.
    unsafe {
        pg_sys::ProcDiePending = 1;
        pg_sys::InterruptPending = 1;
    }
}

/// Cancels the running code when its time is over, and ends the process if that does not help. Stops when it
/// is dropped.
struct Timer {
    started: Instant,
    limit: Duration,
}

impl Timer {
    fn start(limit: Duration) -> Timer {
        let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
        // The server's timers count whole milliseconds. The limit is rounded down, because otherwise a timer
        // could fire before the limit.
        let limit = Duration::from_millis(u64::from(milliseconds.unsigned_abs()));
        let timer = Timer { started: Instant::now(), limit };
        // SAFETY: the server registered the first timeout when the process connected, and `last_warning`
        // registers the other; both are disabled when this is dropped.
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
        // SAFETY: as above. A cancellation that the timer sent after the work had ended is discarded.
        unsafe {
            disable_timeout(STATEMENT_TIMEOUT, false);
            disable_timeout(last_warning(), false);
            if self.has_ended() {
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
}
