//! The slot of a worker, and the slot of the process that recounts the sessions of a database.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering};

use cowrie_enrich_engine::timestamp::AtomicTimestamp;

use crate::pg::latch::SharedLatch;
use crate::pg::{background, shmem};
use crate::shared_state::owner_slot::{LOGGED, OWNER_SLOTS, OwnerSlot};
use crate::shared_state::report::Report;

crate::zeroable! {
    /// One background process: its identity, the requests that other processes sent to it, and its state.
    pub struct WorkerSlot {
        /// OID of the database for which the process works; 0 while the slot is free.
        pub database: AtomicU32,
        /// 0 while the process is not running.
        pub pid: AtomicI32,
        pub(super) latch: SharedLatch,
        /// Work was announced since the process last checked.
        pub woken: AtomicBool,
        /// The process must end, because another session needs exclusive access to the database or the worker is
        /// not wanted.
        pub shutdown_requested: AtomicBool,
        /// Providers, by bit, for which the process waits until another process returns a permit.
        waits_for: AtomicU32,
        /// The worker has read the spent quotas from the database's ledger into shared memory.
        pub ledger_read: AtomicBool,
        /// The rules of session priority changed.
        pub rules_changed: AtomicBool,
        /// `known_networks` was edited.
        pub networks_edited: AtomicBool,
        /// Some lookups were not queued.
        pub sweep_wanted: AtomicBool,
        /// The process's activity, as a code of `worker::activity`.
        pub state: AtomicU32,
        /// The reason why the process ended, as a code of `worker::registry`.
        pub ending: AtomicU32,
        /// When the activity last changed.
        pub since: AtomicTimestamp,
        pub started_at: AtomicTimestamp,
        /// Work done since it was started.
        pub batches: AtomicI64,
        pub errors: AtomicI64,
        pub report: Report,
        pub recounter: Recounter,
        /// Slots of the processes that run code of table owners for this worker. Such a process may outlive
        /// the worker.
        pub owner_slots: [OwnerSlot; OWNER_SLOTS],
        /// When an owner process last logged a message. An owner process ends too soon to remember this itself.
        pub logged_at: [AtomicTimestamp; LOGGED],
    }
}

impl WorkerSlot {
    pub fn is_taken(&self) -> bool {
        self.pid.load(Ordering::Acquire) != 0
    }

    /// Notifies the process of work. Further calls do nothing until the process has checked for work.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.set_latch();
        }
    }

    /// Notes that the process waits until another process returns a permit for a provider.
    pub fn waits_for(&self, provider: usize) {
        self.waits_for.fetch_or(1 << provider, Ordering::AcqRel);
    }

    /// Clears the flag that the process waits for a permit. Returns whether the flag was set.
    pub fn waits_no_more(&self, provider: usize) -> bool {
        self.waits_for.fetch_and(!(1 << provider), Ordering::AcqRel) & 1 << provider != 0
    }

    /// Makes the process check its requests.
    pub fn set_latch(&self) {
        self.latch.set();
    }
}

crate::zeroable! {
    /// The process that recounts the sessions of a database. It may outlive the worker that started it.
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
    /// Makes this process the recounter of a database until it exits. Returns false if another process is the recounter.
    pub fn take(&'static self, database: u32) -> bool {
        if self.pid.compare_exchange(0, background::own_pid(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        self.database.store(database, Ordering::Release);
        OWN_RECOUNTER.set(Some(self));
        shmem::at_exit(free_own_recounter);
        true
    }

    /// Terminates the process if it works for this database.
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
