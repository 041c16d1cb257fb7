//! How far a procedure is that works in batches, for those who cannot look into its database: what `procedure_call` says
//! of the last call there was, as of its last commit.

use crate::pg::shared::{self, PROCEDURES, ProcedureCall};
use crate::pg::{background, catalog, clock};

/// A call that tells how far it is.
pub struct Reporting {
    place: usize,
    pid: i32,
}

/// A call begins. Where two of one procedure run, in different databases or on different tables, the later is shown.
pub fn begin(place: usize) -> Reporting {
    let (now, pid) = (clock::now(), background::own_pid());
    let database = catalog::own_database().to_u32();
    shared::locked(|guarded| {
        let call = &mut guarded.calls[place];
        (call.database, call.pid, call.is_open, call.is_complete) = (database, pid, true, false);
        (call.batches, call.done, call.total) = (0, 0, 0);
        (call.began, call.phase_began, call.updated) = (now, now, now);
        call.phase.set("");
    });
    Reporting { place, pid }
}

impl Reporting {
    fn with(&self, report: impl FnOnce(&mut ProcedureCall, i64)) {
        let now = clock::now();
        shared::locked(|guarded| {
            let call = &mut guarded.calls[self.place];
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

    /// A batch was committed; so much is done of this phase.
    pub fn batch(&self, done: i64) {
        self.with(|call, _| {
            call.batches += 1;
            call.done = done;
        });
    }

    /// It came to its end.
    pub fn complete(&self) {
        self.with(|call, _| call.is_complete = true);
    }
}

/// However it ends.
impl Drop for Reporting {
    fn drop(&mut self) {
        self.with(|call, _| call.is_open = false);
    }
}

/// The last call of each procedure, where there was one, and whether it runs.
pub fn all() -> Vec<(usize, ProcedureCall, bool)> {
    let calls: [ProcedureCall; PROCEDURES] = shared::locked(|guarded| guarded.calls);
    let known = calls.into_iter().enumerate().filter(|(_, call)| call.pid != 0);
    // A process that was told to end had no time to say so.
    known.map(|(place, call)| (place, call, call.is_open && background::is_backend(call.pid))).collect()
}
