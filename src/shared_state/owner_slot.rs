//! Slots in shared memory for the processes that run code of table owners.
//!
//! A worker assigns a slot to a table owner and starts a process for this owner. The process stores its pid in
//! the slot, and clears the pid when the process ends. So a process that does not end keeps its slot, even
//! after another worker has started. All fields of a slot are atomics. The worker writes the owner and the
//! requests to the process. The process writes its pid and its progress.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use cowrie_enrich_engine::timestamp::{AtomicDuration, AtomicTimestamp, Timestamp};

use crate::pg::latch::SharedLatch;
use crate::pg::{background, clock};

/// Number of slots for each database. They are enough for two running processes, or for two abandoned processes
/// and one running process.
pub const OWNER_SLOTS: usize = 3;
/// The time limit of a statement that runs code of an owner.
const CODE_LIMIT: Duration = Duration::from_millis(600);
/// The time limit of a statement that runs code of a new owner. The limit is short, because other owners must not wait long even if
/// many new owners have hostile code.
const TRIAL_LIMIT: Duration = Duration::from_millis(100);
/// Number of messages for which the time of the last log line is stored.
pub const LOGGED: usize = 32;

crate::zeroable! {
    pub struct OwnerSlot {
        /// OID of the database. The field keeps this OID until the process has ended.
        pub database: AtomicU32,
        /// OID of the role whose code the process runs. 0 while the slot is free.
        pub owner: AtomicU32,
        /// 0 while no process is running.
        pub pid: AtomicI32,
        pub(super) latch: SharedLatch,
        /// The pid of the worker that started the process. The process ends when that worker has ended.
        pub supervisor: AtomicI32,
        /// True if the process first connects as the bootstrap superuser, because the table owner is not
        /// allowed to connect.
        pub connects_as_superuser: AtomicBool,
        /// True if the process must end as soon as possible.
        pub shutdown_requested: AtomicBool,
        /// True if other table owners wait. In this case the process ends when the time that this owner may use
        /// is over.
        pub others_wait: AtomicBool,
        /// True if the table owner is new. In this case the owner's code gets less time.
        pub is_trial: AtomicBool,
        /// True if the worker no longer waits for the owner's code to end.
        pub is_abandoned: AtomicBool,
        /// True while the process evaluates the priority rules of the owner. The next step of the evaluation
        /// begins at `next_table` and `next_page`.
        pub evaluates: AtomicBool,
        /// True if the evaluation left out a table or pages because of a lock or a failed transaction.
        pub has_gaps: AtomicBool,
        pub next_table: AtomicU32,
        pub next_page: AtomicU32,
        /// True if a process has taken the slot after the worker reserved the slot.
        pub has_begun: AtomicBool,
        /// True if the process is connected to the database.
        pub is_connected: AtomicBool,
        /// True while the process waits for work.
        pub is_idle: AtomicBool,
        /// Start time of the owner's code that is now running. Unset if none is running.
        pub code_since: AtomicTimestamp,
        /// Total time that code of the owner has taken in this process. The total does not include the code
        /// that is now running.
        pub used: AtomicDuration,
        /// Number of statements that were cancelled because they exceeded the time limit.
        pub overruns: AtomicI64,
        /// True if the worker has terminated the process.
        pub is_terminated: AtomicBool,
        /// True if code of the table owner, such as a trigger, made the process end. False if another role ended the process by SIGTERM.
        pub ended_in_code: AtomicBool,
        /// True if the process ended by itself and had no unfinished work.
        pub has_finished: AtomicBool,
        /// Id of the process in its leases of rows. 0 before the first lease.
        pub holder: AtomicI64,
        /// Number of steps since the process was started.
        pub batches: AtomicI64,
        /// Number of failed steps since the process was started.
        pub errors: AtomicI64,
        pub started_at: AtomicTimestamp,
        pub since: AtomicTimestamp,
    }
}

impl OwnerSlot {
    pub fn is_free(&self) -> bool {
        self.owner.load(Ordering::Acquire) == 0
    }

    /// Wakes the process of the slot, so that the process reads the requests in its slot.
    pub fn set_latch(&self) {
        self.latch.set();
    }

    /// Returns the time after which code in this slot is cancelled.
    pub fn code_limit(&self) -> Duration {
        if self.is_trial.load(Ordering::Relaxed) { TRIAL_LIMIT } else { CODE_LIMIT }
    }

    /// Makes the process end at once. If code of the owner is running, this call interrupts the code if
    /// possible.
    pub fn end(&self) {
        self.shutdown_requested.store(true, Ordering::Release);
        background::terminate(self.pid.load(Ordering::Acquire));
    }

    /// Prepares a free slot for a new process.
    pub fn reserve(&self, database: u32, owner: u32, supervisor: i32) {
        let flags = [
            &self.connects_as_superuser,
            &self.shutdown_requested,
            &self.others_wait,
            &self.is_trial,
            &self.is_abandoned,
            &self.evaluates,
            &self.has_gaps,
            &self.has_begun,
            &self.is_connected,
            &self.is_idle,
            &self.is_terminated,
            &self.ended_in_code,
            &self.has_finished,
        ];
        flags.into_iter().for_each(|flag| flag.store(false, Ordering::Relaxed));
        let numbers = [&self.overruns, &self.holder, &self.batches, &self.errors];
        numbers.into_iter().for_each(|number| number.store(0, Ordering::Relaxed));
        self.code_since.store(Timestamp::UNSET, Ordering::Relaxed);
        self.used.store(Duration::ZERO, Ordering::Relaxed);
        self.started_at.store(clock::now(), Ordering::Relaxed);
        self.since.store(clock::now(), Ordering::Relaxed);
        self.supervisor.store(supervisor, Ordering::Relaxed);
        self.database.store(database, Ordering::Release);
        self.owner.store(owner, Ordering::Release);
    }

    /// Frees the slot of a process that has ended.
    pub fn free(&self) {
        self.owner.store(0, Ordering::Release);
        self.is_abandoned.store(false, Ordering::Release);
    }
}
