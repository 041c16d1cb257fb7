//! The slot of a worker, and the slot of the process that recounts the sessions of a database.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering};

use cowrie_enrich_engine::timestamp::AtomicTimestamp;

use crate::pg::latch::SharedLatch;
use crate::pg::{background, shmem};
use crate::shared_state::owner_slot::{LOGGED, OWNER_SLOTS, OwnerSlot};
use crate::shared_state::report::Report;

crate::zeroable! {
    /// The slot of one background process. It contains the identity of the process, the requests that other
    /// processes have sent to the process, and the state of the process.
    pub struct WorkerSlot {
        /// OID of the database for which the process works. 0 while the slot is free.
        pub database: AtomicU32,
        /// 0 while the process is not running.
        pub pid: AtomicI32,
        pub(super) latch: SharedLatch,
        /// True if another process has announced work after this process last checked for work.
        pub woken: AtomicBool,
        /// True if the process must end. Either another session needs exclusive access to the database, or the database must no
        /// longer have a worker.
        pub shutdown_requested: AtomicBool,
        /// A bit for each provider. The bit is set while the process waits until another process returns a
        /// permit for the provider.
        waits_for: AtomicU32,
        /// True if the worker has read the spent quotas from the table `provider_quota` into shared memory.
        pub ledger_read: AtomicBool,
        /// True if a priority rule has changed after the worker last read the rules.
        pub rules_changed: AtomicBool,
        /// True if `known_networks` was edited after the worker last read the edits.
        pub networks_edited: AtomicBool,
        /// True if a process could not queue some lookups, so that a sweep is needed.
        pub sweep_wanted: AtomicBool,
        /// The process's activity, as a code of `worker::activity`.
        pub state: AtomicU32,
        /// The reason why the process ended, as a code of `worker::registry`.
        pub ending: AtomicU32,
        /// Time of the last change of the activity.
        pub since: AtomicTimestamp,
        pub started_at: AtomicTimestamp,
        /// Number of batches since the process was started.
        pub batches: AtomicI64,
        pub errors: AtomicI64,
        pub report: Report,
        pub recounter: Recounter,
        /// Slots of the processes that run code of table owners for this worker. Such a process may still run
        /// after the worker has ended.
        pub owner_slots: [OwnerSlot; OWNER_SLOTS],
        /// For each message, the time when an owner process last logged it. The times are in shared memory,
        /// because an owner process usually ends before the same message occurs again.
        pub logged_at: [AtomicTimestamp; LOGGED],
    }
}

impl WorkerSlot {
    pub fn is_taken(&self) -> bool {
        self.pid.load(Ordering::Acquire) != 0
    }

    /// Tells the process that there is work. Until the process has checked for work, further calls do nothing.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.set_latch();
        }
    }

    /// Records that the process waits for another process to return a permit for a provider.
    pub fn waits_for(&self, provider: usize) {
        self.waits_for.fetch_or(1 << provider, Ordering::AcqRel);
    }

    /// Clears the flag that the function `waits_for` sets. Returns true if the flag was set.
    pub fn waits_no_more(&self, provider: usize) -> bool {
        self.waits_for.fetch_and(!(1 << provider), Ordering::AcqRel) & 1 << provider != 0
    }

    /// Wakes the process, so that it checks the requests in its slot.
    pub fn set_latch(&self) {
        self.latch.set();
    }
}

crate::zeroable! {
    /// The slot of the process that recounts the sessions of a database. The process may still run after the
    /// worker that started it has ended.
    pub struct Recounter {
        /// 0 while no process has taken this slot.
        pid: AtomicI32,
        database: AtomicU32,
    }
}

thread_local! {
    /// The slot that this process has taken.
    static OWN_RECOUNTER: Cell<Option<&'static Recounter>> = const { Cell::new(None) };
}

impl Recounter {
    /// Makes this process the recounter of a database until the process exits. Returns false if another process is the recounter.
    pub fn take(&'static self, database: u32) -> bool {
        if self.pid.compare_exchange(0, background::own_pid(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        self.database.store(database, Ordering::Release);
        OWN_RECOUNTER.set(Some(self));
        shmem::at_exit(free_own_recounter);
        true
    }

    /// Terminates the recounter if it works for this database.
    pub fn end(&self, database: u32) {
        if self.database.load(Ordering::Acquire) == database {
            background::terminate(self.pid.load(Ordering::Acquire));
        }
    }
}

fn free_own_recounter() {
    if let Some(own) = OWN_RECOUNTER.take() {
        own.database.store(0, Ordering::Release);
        own.pid.store(0, Ordering::Release);
    }
}
