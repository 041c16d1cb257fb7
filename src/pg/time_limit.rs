//! A time limit for the code of a table owner. One timer cancels the code. A second timer ends the process.

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

/// Runs `work` in a subtransaction, as [`contained`](super::subtransaction::contained) does. `work` includes code of a table
/// owner, and is cancelled after `limit`. Must be called only in owner processes, because there the statement timer has no
/// other use.
///
/// The owner's code may catch the cancellation. In this case, the process ends a moment later. The advisory locks that the code
/// took for the session are released.
pub fn contained_within<T>(limit: Duration, work: impl FnOnce() -> T) -> LimitedResult<T> {
    let timer = Timer::start(limit);
    let result = contained_unless(work, |error| must_be_raised(error) && !timer.has_ended());
    let is_over = timer.has_ended();
    // SAFETY: this call releases session-level advisory locks. The extension's own locks belong to the transaction.
    unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as u16) };
    LimitedResult { result, is_over }
}

/// The longest time in milliseconds for which code may continue to run after its cancellation. If the limit that led to the
/// cancellation is shorter, that limit is used instead.
const GRACE: c_int = 500;

thread_local! {
    /// The number of the timeout that ends the process. Unset until this timeout is registered.
    static LAST_WARNING: Cell<Option<c_int>> = const { Cell::new(None) };
}

fn last_warning() -> c_int {
    LAST_WARNING.get().unwrap_or_else(|| {
        // SAFETY: this timeout is registered once per process. The handler is a static function.
        let number = unsafe { RegisterTimeout(USER_TIMEOUT, end_process) };
        LAST_WARNING.set(Some(number));
        number
    })
}

/// Handles the second timer. It runs in a signal handler, so it only sets flags. The server reads the flags when it next checks
/// for interrupts.
extern "C-unwind" fn end_process() {
    // SAFETY: these flags belong to this process. The server's signal handlers set the flags in the same way.
    unsafe {
        pg_sys::ProcDiePending = 1;
        pg_sys::InterruptPending = 1;
    }
}

/// Cancels the running code when its time limit is reached, and ends the process if the code continues. When the timer is
/// dropped, it stops.
struct Timer {
    started: Instant,
    limit: Duration,
}

impl Timer {
    fn start(limit: Duration) -> Timer {
        let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
        // The server's timers count whole milliseconds. The limit is rounded down to milliseconds, because otherwise a timer
        // could fire before the limit.
        let limit = Duration::from_millis(u64::from(milliseconds.unsigned_abs()));
        let timer = Timer { started: Instant::now(), limit };
        // SAFETY: the server registered the first timeout when the process connected. `last_warning` registers the second
        // timeout. Both timeouts are disabled when the timer is dropped.
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
        // SAFETY: both timeouts are registered. If the first timer sent a cancellation after the work had ended, the
        // cancellation is discarded.
        unsafe {
            disable_timeout(STATEMENT_TIMEOUT, false);
            disable_timeout(last_warning(), false);
            if self.has_ended() {
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
}
