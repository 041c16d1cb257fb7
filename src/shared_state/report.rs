//! Metrics of a database.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use cowrie_enrich_engine::timestamp::{AtomicTimestamp, Timestamp};

use crate::shared_state::provider::PROVIDERS;

/// Kinds of steps of a worker and of its owner processes.
pub const STEP_KINDS: usize = 18;

crate::zeroable! {
    /// Metrics of one database. The worker of the database writes them. When the worker ends, the metrics
    /// remain, and the next worker adds to them.
    pub struct Report {
        /// OID of the database. 0 if the report belongs to no database.
        pub database: AtomicU32,
        /// When the worker last began a step or a pause.
        pub heartbeat: AtomicTimestamp,
        /// Number of batches, summed over all workers that this database has had. A worker's slot has the
        /// number for this worker only. The same applies to `errors`.
        pub batches: AtomicI64,
        pub errors: AtomicI64,
        /// Number of errors in each kind of step. The steps of owner processes are included. The index is the code of a `StepKind`.
        pub step_errors: [AtomicI64; STEP_KINDS],
        /// Total time in which the worker slept and no work was in progress, in thousandths of
        /// `worker_naptime`.
        pub slept: AtomicI64,
        /// Number of unsafe foreign keys that the worker found in its last check.
        pub unsafe_keys: AtomicI64,
        /// Number of owner processes that could not be started, summed over all workers that this database has
        /// had.
        pub launch_failures: AtomicI64,
        /// On the coordinator of a Citus cluster: numbers of counts that the workers collected from the nodes, and of attempts in
        /// which a node failed.
        pub collected_counts: AtomicI64,
        pub collection_failures: AtomicI64,
        /// Number of networks. This number and the following ones are counted by the worker. Each of them is
        /// [`UNKNOWN`] or [`UNKNOWN_TIME`] until the worker has counted it.
        pub networks: AtomicI64,
        /// Time when the oldest pending count was appended. Unset if no counts are pending.
        pub oldest_count: AtomicTimestamp,
        pub queues: [QueueReport; PROVIDERS],
        /// Number of pending rows of `session_completion`. `oldest_completion` is the time when the oldest of
        /// these rows became pending. This time is unset if no row is pending.
        pub completions: AtomicI64,
        pub oldest_completion: AtomicTimestamp,
        pub suspended_owners: AtomicI64,
        /// Number of networks that must still be reclassified, because `known_networks` was edited.
        pub pending_networks: AtomicI64,
        /// Number of attached tables that are not intact.
        pub tables_not_intact: AtomicI64,
        /// Time when the oldest unfinished recount was requested. Unset if all requested recounts are finished.
        pub oldest_recount: AtomicTimestamp,
        /// Number of failed calls that should erase addresses. `last_expiry` is the time of the last complete expiry, or unset.
        /// `expiry_scheduled` says whether pg_cron runs the expiry of addresses.
        pub failed_erasures: AtomicI64,
        pub last_expiry: AtomicTimestamp,
        pub expiry_scheduled: AtomicI64,
        /// On the coordinator of a Citus cluster: number of nodes whose counts could not be collected in the last attempt.
        /// `oldest_collection` is the oldest time at which the counts of a node were last collected, or unset.
        pub failed_nodes: AtomicI64,
        pub oldest_collection: AtomicTimestamp,
    }
}

impl Report {
    /// Resets the report for a database.
    pub fn begin(&self, database: u32) {
        self.database.store(0, Ordering::Release);
        let counters = [
            &self.batches,
            &self.errors,
            &self.slept,
            &self.unsafe_keys,
            &self.launch_failures,
            &self.collected_counts,
            &self.collection_failures,
        ];
        let sizes = [
            &self.networks,
            &self.completions,
            &self.suspended_owners,
            &self.pending_networks,
            &self.tables_not_intact,
            &self.failed_erasures,
            &self.expiry_scheduled,
            &self.failed_nodes,
        ];
        let sizes = sizes.into_iter().chain(self.queues.iter().flat_map(|queue| &queue.sizes));
        let times = [
            &self.oldest_count,
            &self.oldest_completion,
            &self.oldest_recount,
            &self.last_expiry,
            &self.oldest_collection,
        ];
        let times = times.into_iter().chain(self.queues.iter().map(|queue| &queue.oldest));
        let counters = counters.into_iter().chain(&self.step_errors);
        self.heartbeat.store(Timestamp::UNSET, Ordering::Relaxed);
        counters.for_each(|number| number.store(0, Ordering::Relaxed));
        sizes.for_each(|number| number.store(UNKNOWN, Ordering::Relaxed));
        times.for_each(|time| time.store(UNKNOWN_TIME, Ordering::Relaxed));
        self.database.store(database, Ordering::Release);
    }

    /// Returns true if session counts were pending when the worker last counted the rows.
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
        /// Time of the oldest row in the queue. Unset if the queue is empty.
        pub oldest: AtomicTimestamp,
    }
}

/// Number of sizes that `store::sizes` counts.
pub const QUEUE_SIZES: usize = 6;
