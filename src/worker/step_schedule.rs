//! Determines when a step runs again.
//!
//! A step that succeeds is postponed until the time that the step itself returns. A step that fails runs again after a short pause,
//! until the cause of the failure is removed. Requests for a step are stored in the worker process, not in shared memory. When a
//! worker starts, it runs all steps, because all waiting work is stored in tables.

use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;

use super::steps::Stop;
use crate::guc;
use crate::pg::clock;

/// The longest pause after a failure of a step.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The due time of a step that must run at once.
pub const AT_ONCE: Timestamp = Timestamp::NEG_INFINITY;
/// The due time of a step that runs only after a request. A wake-up or another step requests it.
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

    /// Postpones the step at least until this time.
    pub fn not_before(&mut self, at: Timestamp) {
        self.0 = self.0.max(at);
    }

    /// Stores when the step runs again after an attempt. If the attempt succeeded, `next` returns this time. If the attempt failed,
    /// the step runs again after a pause.
    pub fn attempted<T>(&mut self, attempt: &Result<T, Stop>, next: impl FnOnce(&T) -> Timestamp) {
        self.0 = match attempt {
            Ok(result) => next(result),
            Err(_) => clock::now() + retry_pause(),
        };
    }
}

/// Returns the longest time between two checks of a table (the setting of the naptime).
pub fn naptime() -> Duration {
    guc::worker_naptime()
}

/// Returns the pause before a step is repeated, after the step failed or a lock stopped it.
pub fn retry_pause() -> Duration {
    LONGEST_PAUSE.min(naptime())
}

/// Returns the time of the next check of a table, which is one naptime from now.
pub fn after_naptime() -> Timestamp {
    clock::now() + naptime()
}
