//! When a step is due.
//!
//! Only the success of a step postpones the step. After a failure it is due again after a short pause. So an
//! obstacle only delays a step, and the end of the obstacle needs no announcement. Requests for a step are
//! state of this process and not flags in shared memory. When a worker starts, all steps are due, because all
//! waiting work is in tables.

use super::steps::Stop;
use crate::guc;
use crate::pg::clock;

/// The longest pause after a step that failed, in microseconds.
const LONGEST_PAUSE: i64 = 1_000_000;

/// The time of the next attempt of a step, microseconds since 2000.
#[derive(Clone, Copy)]
pub struct Due(i64);

impl Due {
    pub fn now() -> Due {
        Due(0)
    }

    pub fn at(self) -> i64 {
        self.0
    }

    pub fn is_now(self) -> bool {
        self.0 <= clock::now()
    }

    /// Makes the step due at once.
    pub fn request(&mut self) {
        self.0 = 0;
    }

    /// Postpones the step after an attempt: after a success until the time that `next` returns, after a
    /// failure by a pause.
    pub fn attempted<T>(&mut self, attempt: &Result<T, Stop>, next: impl FnOnce(&T) -> i64) {
        self.0 = match attempt {
            Ok(result) => next(result),
            Err(_) => clock::now() + retry_pause(),
        };
    }
}

/// Returns the longest time between two checks of a table, in microseconds.
pub fn naptime() -> i64 {
    clock::micros(guc::worker_naptime())
}

/// Returns the pause after a step that failed or met a lock, in microseconds.
pub fn retry_pause() -> i64 {
    LONGEST_PAUSE.min(naptime())
}

/// Returns when the next check of a table is due, microseconds since 2000.
pub fn after_naptime() -> i64 {
    clock::now().saturating_add(naptime())
}
