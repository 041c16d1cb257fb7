//! When a step is due.
//!
//! Only the success of a step postpones the step. After a failure the step is due again after a short pause. So a step that fails
//! is repeated until the fault is gone. Requests for a step are stored in this process, not in shared memory. When a worker starts,
//! all steps are due, because all waiting work is in tables.

use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;

use super::steps::Stop;
use crate::guc;
use crate::pg::clock;

/// The longest pause after a step that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The due time of work that is due at once.
pub const AT_ONCE: Timestamp = Timestamp::NEG_INFINITY;
/// The due time of a step that does not fall due by itself. Only a wake-up or other work makes the step due.
pub const NEVER: Timestamp = Timestamp::INFINITY;

/// The time of the next attempt of a step.
#[derive(Clone, Copy)]
pub struct Due(Timestamp);

impl Due {
    pub fn now() -> Due {
        Due(AT_ONCE)
    }

    pub fn at(self) -> Timestamp {
        self.0
    }

    pub fn is_now(self) -> bool {
        self.0 <= clock::now()
    }

    /// Makes the step due at once.
    pub fn request(&mut self) {
        self.0 = AT_ONCE;
    }

    /// Postpones the step after an attempt: after a success until the time that `next` returns, after a
    /// failure by a pause.
    pub fn attempted<T>(&mut self, attempt: &Result<T, Stop>, next: impl FnOnce(&T) -> Timestamp) {
        self.0 = match attempt {
            Ok(result) => next(result),
            Err(_) => clock::now() + retry_pause(),
        };
    }
}

/// Returns the longest time between two checks of a table.
pub fn naptime() -> Duration {
    guc::worker_naptime()
}

/// Returns the pause after a step that failed or was stopped by a lock.
pub fn retry_pause() -> Duration {
    LONGEST_PAUSE.min(naptime())
}

/// Returns when the next check of a table is due.
pub fn after_naptime() -> Timestamp {
    clock::now() + naptime()
}
