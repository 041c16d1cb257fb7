//! Metrics of a database.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use cowrie_enrich_engine::timestamp::{AtomicTimestamp, Timestamp};

use crate::shared_state::provider::PROVIDERS;

/// Kinds of steps of a worker and of its owner processes.
pub const STEP_KINDS: usize = 17;

crate::zeroable! {
    /// Metrics of one database, written by its worker. They stay when the worker ends, and the next worker
    /// continues them.
    pub struct Report {
        /// OID of the database; 0 is none.
        pub database: AtomicU32,
        /// When the worker last began a step or a pause.
        pub heartbeat: AtomicTimestamp,
        /// The same numbers as in the worker's slot, but summed over all workers that this database has had.
        pub batches: AtomicI64,
        pub errors: AtomicI64,
        /// Errors by kind of step, including the steps of owner processes. The index is the code of a `StepKind`.
        pub step_errors: [AtomicI64; STEP_KINDS],
        /// How long the worker slept without work in progress, in thousandths of `worker_naptime`.
        pub slept: AtomicI64,
        /// Unsafe foreign keys that the worker found at its last check.
        pub unsafe_keys: AtomicI64,
        /// Owner processes that could not be started, over all workers that this database has had.
        pub launch_failures: AtomicI64,
        /// The worker's counts. [`UNKNOWN`] or [`UNKNOWN_TIME`] until they are counted.
        pub networks: AtomicI64,
        /// When the oldest pending count was counted; unset without pending counts.
        pub oldest_count: AtomicTimestamp,
        pub queues: [QueueReport; PROVIDERS],
        /// Pending rows of `session_completion`, and when the oldest became pending; unset if none is.
        pub completions: AtomicI64,
        pub oldest_completion: AtomicTimestamp,
        pub suspended_owners: AtomicI64,
        /// Networks that an edit of `known_networks` affects and that are not reclassified yet.
        pub pending_networks: AtomicI64,
        /// Attached tables that are not intact.
        pub tables_not_intact: AtomicI64,
        /// When the oldest unfinished recount was requested; unset without such a recount.
        pub oldest_recount: AtomicTimestamp,
        /// Calls that erase addresses and failed, the last complete expiry (unset without one), and whether pg_cron
        /// expires addresses.
        pub failed_erasures: AtomicI64,
        pub last_expiry: AtomicTimestamp,
        pub expiry_scheduled: AtomicI64,
    }
}

impl Report {
    /// Resets the report for a database.
    pub fn begin(&self, database: u32) {
        self.database.store(0, Ordering::Release);
        let counters = [&self.batches, &self.errors, &self.slept, &self.unsafe_keys, &self.launch_failures];
        let sizes = [
            &self.networks,
            &self.completions,
            &self.suspended_owners,
            &self.pending_networks,
            &self.tables_not_intact,
            &self.failed_erasures,
            &self.expiry_scheduled,
        ];
        let sizes = sizes.into_iter().chain(self.queues.iter().flat_map(|queue| &queue.sizes));
        let times = [&self.oldest_count, &self.oldest_completion, &self.oldest_recount, &self.last_expiry];
        let times = times.into_iter().chain(self.queues.iter().map(|queue| &queue.oldest));
        let counters = counters.into_iter().chain(&self.step_errors);
        self.heartbeat.store(Timestamp::UNSET, Ordering::Relaxed);
        counters.for_each(|number| number.store(0, Ordering::Relaxed));
        sizes.for_each(|number| number.store(UNKNOWN, Ordering::Relaxed));
        times.for_each(|time| time.store(UNKNOWN_TIME, Ordering::Relaxed));
        self.database.store(database, Ordering::Release);
    }

    /// Returns whether counts were pending at the worker's last count.
    pub fn has_pending_counts(&self) -> bool {
        ![Timestamp::UNSET, UNKNOWN_TIME].contains(&self.oldest_count.load(Ordering::Relaxed))
    }
}

/// A size that has not been counted yet.
pub const UNKNOWN: i64 = -1;
/// A time that has not been determined yet.
pub const UNKNOWN_TIME: Timestamp = Timestamp::NEG_INFINITY;

crate::zeroable! {
    /// Sizes of one provider's queue.
    pub struct QueueReport {
        pub sizes: [AtomicI64; QUEUE_SIZES],
        /// Unset where the queue is empty.
        pub oldest: AtomicTimestamp,
    }
}

/// Number of sizes that `store::sizes` counts.
pub const QUEUE_SIZES: usize = 6;
