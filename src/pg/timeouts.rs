//! Suspends the timeouts of a client during work of the extension that these timeouts must not end.

use std::ffi::c_int;

use pgrx::pg_sys;

/// Timeouts that end a statement or a session in the middle of a commit. `transaction_timeout` is the ninth in
/// src/include/utils/timeout.h, from PostgreSQL 17 on.
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

/// Suspends the client's timeouts until the value is dropped. A timeout that expires meanwhile fires at the drop. Used only for
/// work with its own time limit.
pub struct Suspended([Option<pg_sys::TimestampTz>; ENDING.len()]);

impl Suspended {
    pub fn begin() -> Suspended {
        Suspended(ENDING.map(|timeout| {
            // SAFETY: numbers of timeouts that the server registers in every session. It stores the time at
            // which an active timeout would fire.
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
                // SAFETY: as above; a time that has passed fires at once.
                unsafe { enable_timeout_at(timeout, at) };
            }
        }
    }
}

/// src/include/utils/timeout.h: the fourth in all versions since 9.3.
pub(super) const STATEMENT_TIMEOUT: c_int = 3;

/// src/include/utils/timeout.h: the first number that is free for extensions.
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
