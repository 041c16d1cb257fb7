//! Measures the duration of operations.
//!
//! Work on networks is measured in processor time. So waits for locks and for the disk are left out: the
//! process does not run while it waits, and PostgreSQL does not sum up such waits.
//!
//! The trigger is measured in wall-clock time, because a honeypot waits for its session's INSERT. Only a
//! sample is timed, because reading a clock twice takes a large part of the time that a cached address needs.

use std::cell::Cell;
use std::time::Instant;

use super::cells::{Distribution, Event, Operation};
use super::observe;
use crate::guc;
use crate::pg::clock;

/// A statement on networks that is running.
pub struct Work {
    began: i64,
}

impl Work {
    pub fn begin() -> Work {
        Work { began: if guc::metrics() { clock::worked() } else { 0 } }
    }

    /// Records the time of a statement about `networks`, of which it changed `changed`. Each changed network
    /// gets its share of the time.
    pub fn end(self, operation: Operation, networks: usize, changed: usize) {
        if changed > 0 && guc::metrics() {
            let took = (clock::worked() - self.began).max(0);
            observe(Distribution::Operation(operation), took / networks.max(1) as i64, changed as i64);
        }
    }
}

/// One of this many calls is timed. The number is a prime, so that the sampled calls do not align with the rows of a statement.
const SAMPLED: u32 = 31;

thread_local! {
    /// Number of calls until the next call is timed, for each event. The first value depends on the process,
    /// so that backends with a single call are sampled too.
    static UNTIL_NEXT: [Cell<u32>; Event::ALL.len()] = const { [const { Cell::new(u32::MAX) }; Event::ALL.len()] };
}

/// A running call of the trigger.
pub struct TriggerTimer {
    event: Event,
    began: Option<Instant>,
}

impl TriggerTimer {
    pub fn begin(event: Event) -> TriggerTimer {
        let is_sampled = guc::metrics() && UNTIL_NEXT.with(|all| is_due(&all[event as usize]));
        TriggerTimer { event, began: is_sampled.then(Instant::now) }
    }

    /// Records the time when the transaction commits, if this call was sampled.
    pub fn end(self) {
        if let Some(began) = self.began {
            let took = i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX);
            observe(Distribution::Trigger(self.event), took, 1);
        }
    }
}

fn is_due(until_next: &Cell<u32>) -> bool {
    let left = match until_next.get() {
        u32::MAX => std::process::id() % SAMPLED,
        left => left,
    };
    until_next.set(if left == 0 { SAMPLED - 1 } else { left - 1 });
    left == 0
}
