//! Suspends timeouts of the client while the extension does work that these timeouts must not end. Also limits the time of
//! statements in a background process.

use std::ffi::c_int;
use std::time::Duration;

use pgrx::pg_sys;

/// Timeouts that could end a statement or a session in the middle of a commit. From PostgreSQL 17 on, `transaction_timeout` is
/// the ninth timeout in src/include/utils/timeout.h.
#[cfg(any(feature = "pg15", feature = "pg16"))]
const ENDING: [c_int; 1] = [STATEMENT_TIMEOUT];
#[cfg(any(feature = "pg17", feature = "pg18"))]
const ENDING: [c_int; 2] = [STATEMENT_TIMEOUT, 8];

unsafe extern "C-unwind" {
    /// src/backend/utils/misc/timeout.c; pgrx has no bindings.
    fn get_timeout_active(timeout: c_int) -> bool;
    fn get_timeout_finish_time(timeout: c_int) -> pg_sys::TimestampTz;
    fn enable_timeout_at(timeout: c_int, at: pg_sys::TimestampTz);
}

/// Suspends the client's timeouts until the value is dropped. If a timeout expires before that, it fires when the value is
/// dropped. Used only for work that has its own time limit.
pub struct Suspended([Option<pg_sys::TimestampTz>; ENDING.len()]);

impl Suspended {
    pub fn begin() -> Suspended {
        Suspended(ENDING.map(|timeout| {
            // SAFETY: the server registers the timeouts with these numbers in every session. For an active timeout, the server
            // stores the time at which it would fire.
            unsafe {
                if !get_timeout_active(timeout) {
                    return None;
                }
                let at = get_timeout_finish_time(timeout);
                disable_timeout(timeout, false);
                Some(at)
            }
        }))
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        for (timeout, at) in ENDING.into_iter().zip(self.0) {
            if let Some(at) = at {
                // SAFETY: the server registers this timeout in every session. If the time has passed already, the timeout fires
                // at once.
                unsafe { enable_timeout_at(timeout, at) };
            }
        }
    }
}

/// Runs `work`, and cancels its current statement after `limit`, as `statement_timeout` does in a client's session. Must be called
/// in a background process, because there the statement timer has no other use.
pub fn cancelled_after<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    let _timer = StatementTimer::start(limit);
    work()
}

/// Cancels the current statement when the time is over. When the timer is dropped, it stops.
struct StatementTimer;

impl StatementTimer {
    fn start(limit: Duration) -> StatementTimer {
        let milliseconds = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX).max(1);
        // SAFETY: the server registered this timeout when the process connected. It is disabled when the timer is dropped.
        unsafe { enable_timeout_after(STATEMENT_TIMEOUT, milliseconds) };
        StatementTimer
    }
}

impl Drop for StatementTimer {
    fn drop(&mut self) {
        // SAFETY: this timeout is registered. If the timer fires after the last statement, the next check for interrupts cancels
        // the step of the worker, and the worker repeats the step.
        unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
    }
}

/// src/include/utils/timeout.h: the fourth in all versions since 9.3.
pub(super) const STATEMENT_TIMEOUT: c_int = 3;

/// The first number that src/include/utils/timeout.h leaves free for extensions.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub(super) const USER_TIMEOUT: c_int = 12;
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub(super) const USER_TIMEOUT: c_int = 13;

unsafe extern "C-unwind" {
    /// src/backend/utils/misc/timeout.c; pgrx has no bindings.
    pub(super) fn RegisterTimeout(number: c_int, handler: extern "C-unwind" fn()) -> c_int;
    pub(super) fn enable_timeout_after(timeout: c_int, milliseconds: c_int);
    pub(super) fn disable_timeout(timeout: c_int, keep_indicator: bool);
}
