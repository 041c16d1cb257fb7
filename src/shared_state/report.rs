//! Metrics of a database.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use crate::shared_state::provider::PROVIDERS;

/// Kinds of steps of a worker and of its owner processes.
pub const STEP_KINDS: usize = 17;

crate::zeroable! {
    /// Metrics of one database, written by its worker. They stay when the worker ends, and the next worker
    /// continues them.
    pub struct Report {
        /// OID of the database; 0 is none.
        pub database: AtomicU32,
        /// When the worker last began a step or a pause, microseconds since 2000.
        pub heartbeat: AtomicI64,
        /// Like the fields of the slot, but for all workers that this database has had.
        pub batches: AtomicI64,
        pub errors: AtomicI64,
        /// The same by kind of step, including steps of owner processes; the index is the code of a `StepKind`.
        pub step_errors: [AtomicI64; STEP_KINDS],
        /// How long the worker slept without work in progress, in thousandths of `worker_naptime`.
        pub slept: AtomicI64,
        /// Unsafe foreign keys that the worker found at its last check.
        pub unsafe_keys: AtomicI64,
        /// Owner processes that could not be started, over all workers that this database has had.
        pub launch_failures: AtomicI64,
        /// The worker's counts. [`UNKNOWN`] until they are counted.
        pub networks: AtomicI64,
        /// When the oldest pending count was counted, microseconds since 2000; 0 without pending counts.
        pub oldest_count: AtomicI64,
        pub queues: [QueueReport; PROVIDERS],
        /// Pending rows of `session_completion`, and when the oldest became pending, microseconds since 2000; 0
        /// if none is.
        pub completions: AtomicI64,
        pub oldest_completion: AtomicI64,
        pub suspended_owners: AtomicI64,
        /// Networks that an edit of `known_networks` affects and that are not reclassified yet.
        pub pending_networks: AtomicI64,
        /// Attached tables that are not intact.
        pub tables_not_intact: AtomicI64,
        /// When the oldest unfinished recount was requested, microseconds since 2000; 0 without such a recount.
        pub oldest_recount: AtomicI64,
    }
}

impl Report {
    /// Resets the report for a database.
    pub fn begin(&self, database: u32) {
        self.database.store(0, Ordering::Release);
        let queues = self.queues.iter().flat_map(|queue| queue.sizes.iter().chain([&queue.oldest]));
        let counters = [
            &self.heartbeat,
            &self.batches,
            &self.errors,
            &self.slept,
            &self.unsafe_keys,
            &self.launch_failures,
        ];
        let sizes = [
            &self.networks,
            &self.oldest_count,
            &self.completions,
            &self.oldest_completion,
            &self.suspended_owners,
            &self.pending_networks,
            &self.tables_not_intact,
            &self.oldest_recount,
        ];
        let counters = counters.into_iter().chain(&self.step_errors);
        counters.for_each(|number| number.store(0, Ordering::Relaxed));
        sizes.into_iter().chain(queues).for_each(|number| number.store(UNKNOWN, Ordering::Relaxed));
        self.database.store(database, Ordering::Release);
    }
}

/// A size or a time that has not been counted yet.
pub const UNKNOWN: i64 = -1;

crate::zeroable! {
    /// Sizes of one provider's queue.
    pub struct QueueReport {
        pub sizes: [AtomicI64; QUEUE_SIZES],
        /// Microseconds since 2000; 0 where the queue is empty.
        pub oldest: AtomicI64,
    }
}

/// Number of sizes that `store::sizes` counts.
pub const QUEUE_SIZES: usize = 6;
