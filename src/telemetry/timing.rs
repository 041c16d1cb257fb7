//! Measures the duration of operations.
//!
//! The duration of work on networks is measured in processor time. So it does not include waits for locks and for the disk. The
//! process does not run while it waits, and PostgreSQL does not record the sum of such waits.
//!
//! The duration of the trigger is measured in wall-clock time, because a honeypot waits for the INSERT of its session. Only a
//! sample of the calls is timed. If the address is cached, reading the clock twice would take a large part of the total time.

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

    /// Records the duration of a statement. The statement processed `networks` networks and changed `changed` of them. The duration
    /// is divided by `networks`, and the result is recorded once for each changed network.
    pub fn end(self, operation: Operation, networks: usize, changed: usize) {
        if changed > 0 && guc::metrics() {
            let took = (clock::worked() - self.began).max(0);
            observe(Distribution::Operation(operation), took / networks.max(1) as i64, changed as i64);
        }
    }
}

/// Only every N-th call is timed, where N is this number. The number is a prime. Otherwise the timed calls could always be calls
/// for the same row of a statement with many rows.
const SAMPLED: u32 = 31;

thread_local! {
    /// For each event, the number of calls before the next timed call. The first value depends on the process id. So even if each
    /// backend makes only one call, some of these calls are timed.
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

    /// If this call was selected for timing, records the duration of the call in the histogram when the transaction commits.
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
