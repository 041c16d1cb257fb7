//! The short transactions of a worker.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::version::VersionMatch;

use crate::pg::background;
use crate::pg::spi::Connection;
use crate::pg::subtransaction::Failure;
use crate::pg::{catalog, clock, invalidation, transaction};
use crate::provider::Provider;
use crate::shared_state::WorkerSlot;
use crate::store::queue::Lease;
use crate::store::{ExtensionOids, session_foreign_key};
use crate::telemetry;
use crate::versions;
use crate::worker::activity::{Activity, StepKind};

/// The reason why a round ended early.
pub enum Stop {
    /// The database does not have the extension. It may have had the extension before.
    NoExtension,
    /// The library and the SQL objects have different versions, because an update of the extension is in progress.
    VersionMismatch(VersionMatch),
    /// A foreign key that references a table of the extension can run code with the rights of the extension's owner.
    UnsafeKeys,
    /// pg_restore is restoring the database.
    Restoring,
    /// The worker must leave.
    ShutdownRequested,
    /// A step failed and was rolled back. The failure is already logged.
    Failed,
}

/// The time that a lease includes for the work before and after an exchange with a provider.
const AROUND_EXCHANGE: Duration = Duration::from_secs(60);

/// Runs the steps of one worker.
pub struct Steps {
    pub worker_slot: &'static WorkerSlot,
    /// Identifies this worker as the holder of leases. The value is the time when the worker started. A database has only one
    /// worker at a time, so no two workers of a database have the same value.
    pub holder: i64,
    /// Version of the constraints when the last check found no unsafe foreign key. Unset if the last check found an unsafe foreign
    /// key.
    keys_were_safe_at: Cell<Option<u64>>,
}

impl Steps {
    pub fn of(worker_slot: &'static WorkerSlot) -> Steps {
        Steps { worker_slot, holder: clock::now().micros(), keys_were_safe_at: Cell::new(None) }
    }

    /// Returns an error if the worker must exit.
    pub fn check(&self) -> Result<(), Stop> {
        if self.worker_slot.shutdown_requested.load(Ordering::Acquire) {
            Err(Stop::ShutdownRequested)
        } else {
            Ok(())
        }
    }

    pub fn set_activity(&self, activity: Activity) {
        self.worker_slot.report.heartbeat.store(clock::now(), Ordering::Relaxed);
        if self.worker_slot.state.swap(activity as u32, Ordering::Relaxed) != activity as u32 {
            self.worker_slot.since.store(clock::now(), Ordering::Relaxed);
        }
    }

    /// Runs one transaction. The transaction runs as the extension's owner, or as the role in `worker_role` if it is set.
    ///
    /// Does no work while pg_restore is connected. Parallel jobs of pg_restore may connect after the round has begun. A fold could then
    /// find restored counts whose addresses are not restored yet.
    pub fn step<T>(
        &self,
        kind: StepKind,
        work: impl FnOnce(ExtensionOids, &Connection) -> T,
    ) -> Result<T, Stop> {
        self.check()?;
        self.set_activity(kind.activity());
        background::report_activity(Some(kind.activity().c_name()));
        let done = transaction::run(|| {
            let Some(extension) = catalog::extension() else { return Err(Stop::NoExtension) };
            match versions::compare(&extension.version) {
                VersionMatch::Compatible => {}
                mismatch => return Err(Stop::VersionMismatch(mismatch)),
            }
            if kind != StepKind::LookForRestore && has_pg_restore() {
                return Err(Stop::Restoring);
            }
            let oids = ExtensionOids::of_extension(&extension);
            if !self.keys_are_safe(oids) {
                return Err(Stop::UnsafeKeys);
            }
            Ok(oids.with_worker_role().run_by_owner(work))
        });
        match done {
            Ok(result) => result,
            Err(failure) => {
                self.failed(kind, &failure);
                Err(Stop::Failed)
            }
        }
    }

    /// Counts and logs a failure of a step. Also used if only a part of the step failed.
    pub fn failed(&self, kind: StepKind, failure: &Failure) {
        self.worker_slot.errors.fetch_add(1, Ordering::Relaxed);
        self.worker_slot.report.errors.fetch_add(1, Ordering::Relaxed);
        kind.failed(
            &self.worker_slot.report,
            "a step of a worker failed and will be retried",
            &failure.message,
        );
    }

    /// Returns true if no foreign key can run code with the rights of the extension's owner. If the last check found no such key,
    /// checks again only after a constraint has changed.
    fn keys_are_safe(&self, oids: ExtensionOids) -> bool {
        let version = invalidation::constraints_version();
        if self.keys_were_safe_at.get() == Some(version) {
            return true;
        }
        let keys = oids.run_by_owner(|_, connection| session_foreign_key::unsafe_keys(connection));
        self.worker_slot.report.unsafe_keys.store(keys.count, Ordering::Relaxed);
        self.keys_were_safe_at.set((keys.count == 0).then_some(version));
        if let Some(first) = keys.first {
            let detail = format!(
                "found {} unsafe foreign keys, for example {first}; see the view unsafe_foreign_keys",
                keys.count
            );
            telemetry::log_once_per_burst(
                "a worker stops, because foreign keys can run code as the owner of the extension",
                &detail,
            );
        }
        keys.count == 0
    }

    /// Returns a lease for jobs of these providers. The lease is longer than any exchange with these providers, including the work
    /// before and after the exchange.
    pub fn lease(&self, providers: impl IntoIterator<Item = Provider>) -> Lease {
        let longest = providers.into_iter().map(|provider| provider.limits().longest).max();
        let duration = longest.unwrap_or_default().saturating_mul(2).saturating_add(AROUND_EXCHANGE);
        Lease { holder: self.holder, duration }
    }
}

/// Returns true if pg_restore is connected to this database. Must be called inside a transaction.
pub fn has_pg_restore() -> bool {
    catalog::has_superusers_client(c"pg_restore")
}

/// Returns `None` if the step failed. If the round must end for another reason, returns this reason as an error.
pub fn none_if_failed<T>(step: Result<T, Stop>) -> Result<Option<T>, Stop> {
    match step {
        Ok(result) => Ok(Some(result)),
        Err(Stop::Failed) => Ok(None),
        Err(stop) => Err(stop),
    }
}
