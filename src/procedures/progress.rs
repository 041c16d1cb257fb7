//! Stores the progress of procedures in shared memory, so that sessions in other databases can read it. For each procedure, shared
//! memory contains the state of the most recent call. This state is updated each time the call commits.

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::{background, catalog, clock};
use crate::shared_state::{self, PROCEDURES, ProcedureCall};

/// A procedure call that reports its progress.
pub struct ProgressReporter {
    index: usize,
    pid: i32,
}

/// Begins to report a procedure call. Two calls of one procedure can run at the same time, in different databases or on different
/// tables. In this case, the call that began later is shown.
pub fn begin(index: usize) -> ProgressReporter {
    let (now, pid) = (clock::now(), background::own_pid());
    let database = catalog::own_database().to_u32();
    shared_state::locked(|guarded| {
        let call = &mut guarded.calls[index];
        (call.database, call.pid, call.is_open, call.is_complete) = (database, pid, true, false);
        (call.batches, call.done, call.total) = (0, 0, 0);
        (call.began, call.phase_began, call.updated) = (now, now, now);
        call.phase.set("");
    });
    ProgressReporter { index, pid }
}

impl ProgressReporter {
    fn with(&self, report: impl FnOnce(&mut ProcedureCall, Timestamp)) {
        let now = clock::now();
        shared_state::locked(|guarded| {
            let call = &mut guarded.calls[self.index];
            if call.pid == self.pid && call.is_open {
                report(call, now);
                call.updated = now;
            }
        });
    }

    pub fn phase(&self, phase: &str, total: i64) {
        self.with(|call, now| {
            call.phase.set(phase);
            (call.done, call.total, call.phase_began) = (0, total, now);
        });
    }

    /// Reports that a batch was committed. `done` is the number of units that the current phase has processed.
    pub fn batch(&self, done: i64) {
        self.with(|call, _| {
            call.batches += 1;
            call.done = done;
        });
    }

    /// Reports that the call has completed its work.
    pub fn complete(&self) {
        self.with(|call, _| call.is_complete = true);
    }
}

/// Reports that the call has ended, either normally or because of an error.
impl Drop for ProgressReporter {
    fn drop(&mut self) {
        self.with(|call, _| call.is_open = false);
    }
}

/// Returns the most recent call of each procedure, with a flag that is true if the call is still running. Leaves out procedures
/// that were never called.
pub fn all() -> Vec<(usize, ProcedureCall, bool)> {
    let calls: [ProcedureCall; PROCEDURES] = shared_state::locked(|guarded| guarded.calls);
    let known = calls.into_iter().enumerate().filter(|(_, call)| call.pid != 0);
    // If a process was killed, it could not report the end of its call. So this code checks whether the process still exists.
    known.map(|(index, call)| (index, call, call.is_open && background::is_backend(call.pid))).collect()
}
