//! The main loop of a worker in its database.
//!
//! In one round, the worker creates jobs from the rows of the inbox, claims jobs, sends requests to providers and stores answers.
//! Then the worker reclassifies networks, folds counts, sweeps, and supervises the processes that run code of table owners. Each
//! step is a separate short transaction. No transaction is open while the worker sleeps or waits for a provider. After a round, the
//! worker sleeps until a commit wakes it, an exchange with a provider ends, a job becomes due, or the naptime ends.

use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;
use cowrie_enrich_engine::version::VersionMatch;

use super::exchanges::Exchanges;
use super::owner_supervisor::Owners;
use super::provider_queue::ProviderQueue;
use super::recounter::Recounter;
use super::session_priority::SessionPriorities;
use super::shards::Shards;
use super::step_schedule::{AT_ONCE, Due, NEVER, after_naptime, naptime, retry_pause};
use super::steps::{self, Steps, Stop, none_if_failed};
use crate::guc;
use crate::mmdb;
use crate::pg::background;
use crate::pg::exclusion::{self, Mark};
use crate::pg::role::with_settings;
use crate::pg::{Oid, catalog, clock};
use crate::provider::{Provider, Providers};
use crate::shared_state::{self, WorkerSlot, worker_process};
use crate::store::inbox_duplicates;
use crate::store::queue::{self, CreatedJobs};
use crate::store::recount_requests::RecountRequest;
use crate::store::requeue::{self, Progress};
use crate::store::{
    self, block_answer, cluster, completions, counter_deltas, fold, network_answers, provider_quota,
    reclassification, recount_requests, session_options, sizes,
};
use crate::telemetry::{self, metric_values};
use crate::versions;
use crate::worker::activity::{Activity, StepKind};
use crate::worker::registry::{self, ExitReason};

/// Interval between sweeps. A sweep looks for work that was not announced to the worker.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Pause between two rounds while the database is being restored.
const RESTORE_PAUSE: Duration = Duration::from_millis(500);
/// The worker regards the restore as ended if it has found no pg_restore for this time.
const RESTORE_IS_OVER: Duration = Duration::from_secs(2);
/// Interval at which the worker looks for sessions of pg_restore.
const RESTORE_CHECKED_EVERY: Duration = Duration::from_millis(250);
/// Minimum interval between two counts of the sizes, used after this worker has changed the sizes. Counting uses at most a fiftieth
/// of the worker's time: see [`COUNTING_SHARE`].
const COUNTED_EVERY: Duration = Duration::from_secs(1);
/// Interval between two counts of the sizes, used while this worker does not change the sizes.
const COUNTED_ANYWAY: Duration = Duration::from_secs(10);
/// Interval between two counts of the sizes, used while the queue is empty. The sizes may change even then, because DDL on session
/// tables does not wake the worker.
const COUNTED_WHEN_IDLE: Duration = Duration::from_secs(60);
const COUNTING_SHARE: u32 = 50;
/// After a collection that failed as a whole, the pause before the next collection is this many times the duration of the failed
/// collection, but at most [`LONGEST_COLLECTION_PAUSE`].
const COLLECTION_SHARE: u32 = 10;
const LONGEST_COLLECTION_PAUSE: Duration = Duration::from_secs(60);
/// A count of the sizes waits at most this long for a lock. After a wait, the next count is delayed by [`COUNTING_SHARE`] times the
/// duration of the wait.
const COUNT_WAITS: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"20ms")];

/// Marks of prepared transactions. For these marks, the worker checks whether the prepared transaction has ended. For the other
/// marks it need not check this, because every round finds the work that they announce.
const LOOKED_FOR: [Mark; 3] = [Mark::Rules, Mark::Recount, Mark::Sweep];

pub struct Worker {
    steps: Steps,
    exchanges: Exchanges,
    /// The queues of the providers. Each provider has one queue.
    provider_queues: Vec<ProviderQueue>,
    session_priorities: SessionPriorities,
    owners: Owners,
    shards: Shards,
    recounter: Recounter,
    /// For each mark in `LOOKED_FOR`, true if a prepared transaction with this mark existed at the last check.
    prepared: [bool; LOOKED_FOR.len()],
    take_over: Due,
    create_jobs: Due,
    fold: Due,
    /// On the coordinator of a Citus cluster: the collection of the counts of the nodes.
    collection: Due,
    /// On each node of a Citus cluster: the registration of sessions in new shards.
    registration: Due,
    reclassification: Due,
    sweep: Due,
    count: Due,
    /// Earliest time of the next count of the sizes.
    counted_until: Timestamp,
    /// The position that the current sweep has reached. If a step of the sweep fails, the next round repeats the step from this
    /// position.
    sweeping: Option<Progress>,
    /// True if another sweep starts as soon as the current one ends.
    sweeps_again: bool,
    /// The progress of the current pass over the pending counts. Unset if no pass is in progress.
    folding: Option<fold::FoldPass>,
    /// The network that the current pass has reached. The pass applies the edits of `known_networks` to existing networks.
    reclassified: Option<i64>,
    /// Time of the last check whether pg_restore is connected to this database.
    restore_checked_at: Timestamp,
    /// Time when such a check last found pg_restore.
    restored_at: Timestamp,
    /// Time when the worker last looked for outdated copies of mmdb files.
    files_checked_at: Timestamp,
    /// True if the counts of this database go to the coordinator of a Citus cluster.
    is_member: bool,
    /// True if this database is the coordinator of a Citus cluster, and collects the counts of the other nodes.
    is_coordinator: bool,
    /// True if the last round did no work because the database was being restored.
    waits_for_restore: bool,
    /// True if the last round found that the library and the SQL objects have different versions.
    outdated: bool,
    /// True if the last round found an unsafe foreign key.
    stopped_by_keys: bool,
    /// Time that the worker slept while no work was in progress. Contains only the part that is not yet added to the report.
    slept: Duration,
}

/// Entry point of the process.
pub fn run(worker_slot: i32) {
    background::accept_signals();
    let worker_slot = worker_process::worker_slot(worker_slot);
    if worker_slot.database.load(Ordering::Acquire) == 0 {
        // The launcher that started this worker has ended, and no other process supervises this worker. So the worker ends.
        return;
    }
    background::connect(Some(Oid::from(worker_slot.database.load(Ordering::Acquire))), super::PROGRAM);
    if !worker_process::take(worker_slot) {
        pgrx::error!("another cowrie_enrich worker is running in this database");
    }
    // From now on, this worker removes rows from the inbox. So a new epoch begins. In this epoch, no row is a duplicate of an
    // older row.
    inbox_duplicates::begin_epoch();
    if worker_slot.report.database.load(Ordering::Acquire) != catalog::own_database().to_u32() {
        worker_slot.report.begin(0);
    }
    let mut worker = match Worker::new(worker_slot) {
        Ok(worker) => worker,
        Err(error) => pgrx::error!("could not initialize the worker: {error}"),
    };
    loop {
        background::reload_settings();
        if worker_slot.woken.swap(false, Ordering::AcqRel) {
            worker.create_jobs.request();
        }
        if worker_slot.rules_changed.swap(false, Ordering::AcqRel) {
            worker.session_priorities.changed();
        }
        if worker_slot.networks_edited.swap(false, Ordering::AcqRel) {
            worker.reclassification.request();
        }
        if worker_slot.sweep_wanted.swap(false, Ordering::AcqRel) {
            worker.want_sweep();
        }
        worker.remove_old_files();
        let pause = match worker.round() {
            Ok(pause) => pause,
            Err(Stop::VersionMismatch(mismatch)) => worker.wait_for_an_update(mismatch),
            Err(Stop::UnsafeKeys) => worker.wait_for_safe_keys(),
            Err(Stop::Restoring) => {
                worker.found_restore();
                worker.wait_for_restore()
            }
            Err(Stop::NoExtension) => worker.end(ExitReason::NoExtension),
            Err(Stop::ShutdownRequested) => worker.end(ExitReason::Left),
            Err(Stop::Failed) => retry_pause(),
        };
        worker.sleep(pause);
    }
}

impl Worker {
    fn new(worker_slot: &'static WorkerSlot) -> std::io::Result<Worker> {
        let steps = Steps::of(worker_slot);
        Ok(Worker {
            owners: Owners::new(&steps),
            steps,
            exchanges: Exchanges::new()?,
            provider_queues: Provider::all().map(ProviderQueue::of).collect(),
            session_priorities: SessionPriorities::new(),
            shards: Shards::default(),
            recounter: Recounter::default(),
            prepared: [false; LOOKED_FOR.len()],
            take_over: Due::now(),
            create_jobs: Due::now(),
            fold: Due::now(),
            collection: Due::now(),
            registration: Due::now(),
            reclassification: Due::now(),
            sweep: Due::now(),
            count: Due::now(),
            counted_until: AT_ONCE,
            sweeping: None,
            sweeps_again: false,
            folding: None,
            reclassified: None,
            restore_checked_at: Timestamp::UNSET,
            restored_at: Timestamp::UNSET,
            files_checked_at: Timestamp::UNSET,
            is_member: false,
            is_coordinator: false,
            waits_for_restore: false,
            outdated: false,
            stopped_by_keys: false,
            slept: Duration::ZERO,
        })
    }

    /// Runs one round. Returns the time for which the worker has nothing to do. If a step fails, the round continues with the next
    /// step.
    fn round(&mut self) -> Result<Duration, Stop> {
        self.steps.check()?;
        if self.is_being_restored()? {
            return Ok(self.wait_for_restore());
        }
        if self.is_member {
            return self.round_of_member();
        }
        let mut made = vec![
            none_if_failed(self.take_over())?.is_some(),
            none_if_failed(self.create_jobs())?.is_some(),
            none_if_failed(self.sweep())?.is_some(),
            none_if_failed(self.evaluate_priorities())?.is_some(),
        ];
        self.receive();
        for provider_queue in &mut self.provider_queues {
            made.push(
                none_if_failed(provider_queue.send(
                    &self.steps,
                    &mut self.exchanges,
                    &self.session_priorities,
                ))?
                .is_some(),
            );
        }
        for index in 0..self.provider_queues.len() {
            let applied = none_if_failed(self.apply(index))?;
            made.push(applied.is_some());
            if applied == Some(true) {
                self.count.request();
                self.fold.request();
            }
            if applied != Some(false) {
                self.owners.look();
            }
        }
        made.push(none_if_failed(self.reclassify())?.is_some());
        made.push(none_if_failed(self.collect())?.is_some());
        if self.is_coordinator {
            made.push(none_if_failed(self.register_shards())?.is_some());
        }
        made.push(none_if_failed(self.fold())?.is_some());
        if self.recounter.step(&self.steps) {
            self.fold.request();
            self.count.request();
        }
        made.push(none_if_failed(self.owners.step(&self.steps, &mut self.session_priorities))?.is_some());
        // The count of the sizes comes after the steps that do work, because only the metrics need the sizes.
        none_if_failed(self.count())?;
        self.receive();
        background::report_statistics();

        if made.contains(&false) {
            return Ok(retry_pause());
        }
        if self.sweeping.is_some() {
            return Ok(Duration::ZERO);
        }
        let next = self.provider_queues.iter().map(ProviderQueue::next_at).min().unwrap_or(NEVER);
        let next = next
            .min(self.create_jobs.at())
            .min(self.fold.at())
            .min(self.collection.at())
            .min(self.session_priorities.next())
            .min(self.counts_at());
        let next = next.min(self.reclassification.at()).min(self.recounter.next());
        let next = next.min(self.take_over.at()).min(self.owners.next());
        let next = if self.is_coordinator { next.min(self.registration.at()) } else { next };
        Ok((next - clock::now()).min(naptime()))
    }

    /// Runs one round on a node of a Citus cluster whose counts go to the coordinator. The worker of the coordinator folds the
    /// counts and asks the providers. This worker only completes the sessions that are stored on this node.
    fn round_of_member(&mut self) -> Result<Duration, Stop> {
        let mut made = vec![none_if_failed(self.take_over())?.is_some()];
        if self.create_jobs.is_now() {
            let created = self.create_completions();
            self.create_jobs.attempted(&created, |is_full| if *is_full { AT_ONCE } else { after_naptime() });
            made.push(none_if_failed(created)?.is_some());
        }
        if self.sweep.is_now() {
            let swept = self.steps.step(StepKind::Sweep, |_, connection| {
                session_options::forget(connection);
                completions::forget(connection);
            });
            self.sweep.attempted(&swept, |()| clock::now() + SWEEP_EVERY);
            made.push(none_if_failed(swept)?.is_some());
        }
        made.push(none_if_failed(self.register_shards())?.is_some());
        // The coordinator sends answers at any time, and does not wake this worker.
        if self.collection.is_now() {
            self.owners.look();
            self.collection.attempted(&Ok(()), |()| after_naptime());
        }
        made.push(none_if_failed(self.owners.step(&self.steps, &mut self.session_priorities))?.is_some());
        none_if_failed(self.count())?;
        background::report_statistics();
        if made.contains(&false) {
            return Ok(retry_pause());
        }
        let next = self.create_jobs.at().min(self.counts_at()).min(self.owners.next());
        let next = next.min(self.collection.at()).min(self.sweep.at()).min(self.take_over.at());
        let next = next.min(self.registration.at());
        Ok((next - clock::now()).min(naptime()))
    }

    /// Collects the counts of the nodes of a Citus cluster. Does nothing in other databases. The fold then adds these counts to the
    /// inventories.
    fn collect(&mut self) -> Result<(), Stop> {
        if !self.collection.is_now() {
            return Ok(());
        }
        let begun_at = clock::now();
        let step = self.steps.step(StepKind::Collect, |oids, connection| {
            if !cluster::is_coordinator(oids) {
                return Default::default();
            }
            (cluster::collect_in_worker(connection), cluster::collection(connection))
        });
        self.collection.attempted(&step, |(collected, _)| match collected.counts {
            1.. => AT_ONCE,
            _ => after_naptime(),
        });
        if step.is_err() {
            // The step may have waited for a node until it was cancelled. Meanwhile, this worker did no other work.
            let pause =
                (clock::now() - begun_at).saturating_mul(COLLECTION_SHARE).min(LONGEST_COLLECTION_PAUSE);
            self.collection.not_before(clock::now() + pause);
        }
        let (collected, collection) = step?;
        let report = &self.steps.worker_slot.report;
        report.collected_counts.fetch_add(collected.counts, Ordering::Relaxed);
        report.collection_failures.fetch_add(collected.failed_nodes, Ordering::Relaxed);
        metric_values::report_collection(report, collection);
        if collected.counts > 0 {
            self.fold.request();
        }
        Ok(())
    }

    /// On a node of a Citus cluster, registers the sessions with gaps in shards that were moved to this node. Each round runs one
    /// transaction.
    fn register_shards(&mut self) -> Result<(), Stop> {
        if !self.registration.is_now() {
            return Ok(());
        }
        let read = match self.shards.are_needed() {
            true => {
                self.steps.step(StepKind::Sweep, |oids, connection| self.shards.read_next(oids, connection))
            }
            false => Ok(None),
        };
        self.registration.attempted(&read, |read| if read.is_some() { AT_ONCE } else { after_naptime() });
        if let Some(read) = read? {
            self.shards.committed(read);
            self.create_jobs.request();
        }
        Ok(())
    }

    /// Removes outdated copies of mmdb files. The copies are removed even if no sessions are being stored.
    fn remove_old_files(&mut self) {
        let now = clock::now();
        if now - self.files_checked_at >= naptime() {
            mmdb::remove_too_old();
            self.files_checked_at = now;
        }
    }

    /// Completes the batches whose replies have arrived. The permits of these batches become free, so the next request can use
    /// them. This request may come from another database.
    fn receive(&mut self) {
        for finished in self.exchanges.finished() {
            let queues = &mut self.provider_queues;
            queues.iter_mut().try_fold(finished, |finished, queue| queue.complete(finished));
        }
    }

    /// Applies the completed batches of one provider. In each round, one transaction runs for each batch. Returns true if the
    /// function tried to apply at least one batch.
    fn apply(&mut self, index: usize) -> Result<bool, Stop> {
        let due = self.provider_queues[index].take_due();
        let mut result = Ok(!due.is_empty());
        for batch in due {
            self.receive();
            if let Some(stop) = self.provider_queues[index].apply(&self.steps, batch) {
                result = Err(stop);
            }
        }
        result
    }

    /// The worker does not touch tables of another version of the extension. Sessions are still stored, and the requests of these
    /// sessions stay in the inbox.
    fn wait_for_an_update(&mut self, mismatch: VersionMatch) -> Duration {
        self.outdated = true;
        telemetry::log_once_per_burst(
            "a worker waits, because the library and the SQL objects of the extension have different versions",
            versions::remedy(mismatch),
        );
        naptime()
    }

    fn wait_for_restore(&mut self) -> Duration {
        self.waits_for_restore = true;
        RESTORE_PAUSE
    }

    /// The owner of an unsafe foreign key could run code with the rights of the extension's owner, so the worker does no work.
    /// Sessions are still stored, and the requests of these sessions stay in the inbox.
    fn wait_for_safe_keys(&mut self) -> Duration {
        self.stopped_by_keys = true;
        let report = &self.steps.worker_slot.report;
        if report.database.load(Ordering::Acquire) == 0 {
            // The worker refused the first step before the report of this database had begun. The report begins here, because the
            // metrics show only databases whose report has begun.
            let keys = report.unsafe_keys.load(Ordering::Relaxed);
            report.begin(catalog::own_database().to_u32());
            report.unsafe_keys.store(keys, Ordering::Relaxed);
        }
        naptime()
    }

    fn sleep(&mut self, pause: Duration) {
        self.steps.set_activity(match self.exchanges.is_empty() {
            _ if std::mem::take(&mut self.stopped_by_keys) => Activity::StoppedByKeys,
            _ if std::mem::take(&mut self.outdated) => Activity::WaitingForUpdate,
            _ if std::mem::take(&mut self.waits_for_restore) => Activity::WaitingForRestore,
            true => Activity::Sleeping,
            false => Activity::Waiting,
        });
        background::report_activity(None);
        let is_idle = self.exchanges.is_empty() && !self.owners.are_working();
        let from = clock::now();
        // `sleep` is called even if the pause is zero, because `sleep` also handles interrupts.
        background::sleep(pause, Some(self.exchanges.ready()));
        if is_idle {
            // The sleep may last longer than `pause`, because the system did not schedule the process. This additional time is not
            // counted as sleep.
            self.slept += (clock::now() - from).min(pause);
            let thousandth = (naptime() / 1_000).as_nanos().max(1);
            let slept = self.slept.as_nanos();
            self.steps.worker_slot.report.slept.fetch_add((slept / thousandth) as i64, Ordering::Relaxed);
            self.slept = Duration::from_nanos((slept % thousandth) as u64);
        }
    }

    fn end(&mut self, ending: ExitReason) -> ! {
        self.exchanges.cancel();
        if ending == ExitReason::NoExtension {
            self.steps.worker_slot.report.begin(0);
        }
        self.steps.worker_slot.ending.store(ending as u32, Ordering::Release);
        background::exit()
    }

    /// Returns true if pg_restore is restoring the database. A dump is restored one table after the other. If a worker wrote rows
    /// during the restore, these rows would conflict with rows that are restored later.
    fn is_being_restored(&mut self) -> Result<bool, Stop> {
        let now = clock::now();
        if now - self.restore_checked_at >= RESTORE_CHECKED_EVERY {
            let (is_restored, is_member, is_coordinator) =
                self.steps.step(StepKind::LookForRestore, |oids, _| {
                    (steps::has_pg_restore(), cluster::is_member(oids), cluster::is_coordinator(oids))
                })?;
            (self.is_member, self.is_coordinator) = (is_member, is_coordinator);
            if is_restored {
                self.found_restore();
            }
            self.restore_checked_at = now;
        }
        Ok(now - self.restored_at < RESTORE_IS_OVER)
    }

    /// Records that pg_restore is connected. The restored rows may need any kind of work, so a sweep must look for it.
    fn found_restore(&mut self) {
        self.restored_at = clock::now();
        self.sweep.request();
    }

    /// The first step of a worker. Repeats the work that the previous worker left unfinished, and publishes how much of the quotas
    /// this database has spent.
    fn take_over(&mut self) -> Result<(), Stop> {
        if !self.take_over.is_now() {
            return Ok(());
        }
        let holder = self.steps.holder;
        let holders = self.owners.holders();
        let taken = self.steps.step(StepKind::TakeOver, |_, connection| {
            queue::release_others(connection, holder);
            completions::release_others(connection, &holders, naptime());
            provider_quota::exchange(connection);
        });
        self.take_over.attempted(&taken, |()| NEVER);
        taken?;
        self.owners.look();
        let report = &self.steps.worker_slot.report;
        if report.database.load(Ordering::Acquire) == 0 {
            report.begin(catalog::own_database().to_u32());
        }
        if !self.steps.worker_slot.ledger_read.swap(true, Ordering::AcqRel) {
            // The launcher is woken, because it waits until all databases have reported their spent quotas.
            shared_state::block().launcher.set_latch();
        }
        Ok(())
    }

    /// Turns requests and new networks into jobs. Turns sessions with gaps into pending completions. Each of the three kinds has
    /// its own transaction, so a lock that stops one transaction does not stop the others. Requests come first, because sessions
    /// wait for an answer only if their address already has a job.
    fn create_jobs(&mut self) -> Result<(), Stop> {
        if !self.create_jobs.is_now() {
            return Ok(());
        }
        let attempts = [
            none_if_failed(self.create_jobs_from_requests())?,
            none_if_failed(self.create_completions())?,
            none_if_failed(self.create_jobs_of_networks())?,
        ];
        let result =
            if attempts.contains(&None) { Err(Stop::Failed) } else { Ok(attempts.contains(&Some(true))) };
        self.create_jobs.attempted(&result, |is_full| if *is_full { AT_ONCE } else { after_naptime() });
        result.map(|_| ())
    }

    /// Creates jobs for networks that never had a job. Runs at least once per naptime, because some transactions create a network
    /// without waking the worker. Returns true if there may be more such networks.
    fn create_jobs_of_networks(&mut self) -> Result<bool, Stop> {
        let Some(provider) = Providers::enabled().for_networks() else { return Ok(false) };
        let queued = self
            .steps
            .step(StepKind::CreateJobs, |_, connection| network_answers::queue_new(connection, provider))?;
        if queued > 0 {
            self.count.request();
            self.provider_queues[provider.index()].next_due = AT_ONCE;
        }
        Ok(queued >= network_answers::MOST_AT_ONCE)
    }

    /// Creates pending completions for sessions with gaps. Returns true if there may be more such sessions.
    fn create_completions(&mut self) -> Result<bool, Stop> {
        let sessions = self.steps.step(StepKind::CreateJobs, |oids, connection| {
            if store::has_rows(oids.schema, c"incomplete_session") == Some(false) {
                return 0;
            }
            completions::create(connection)
        })?;
        if sessions > 0 {
            self.owners.look();
            self.count.request();
        }
        Ok(sessions >= completions::MOST_MOVED)
    }

    /// Creates jobs from the requests in the inbox (the table `enrichment_request`). Returns true if there may be more requests.
    fn create_jobs_from_requests(&mut self) -> Result<bool, Stop> {
        let lease =
            self.steps.lease(self.provider_queues.iter().map(|provider_queue| provider_queue.provider));
        let created = self.steps.step(StepKind::CreateJobs, |oids, connection| {
            let prepared = LOOKED_FOR.map(|mark| exclusion::is_marked(catalog::own_database(), mark));
            counter_deltas::take(oids, connection);
            if store::has_rows(oids.schema, c"enrichment_request") == Some(false) || cluster::is_member(oids)
            {
                return (CreatedJobs::default(), prepared);
            }
            let created = queue::create_jobs(connection, lease);
            if created.requests >= queue::MOST_REQUESTS_AT_ONCE {
                queue::analyze(oids, connection);
            }
            (created, prepared)
        });
        let (created, prepared) = created?;
        self.process_ended_transactions(prepared);
        if created.requests > 0 {
            self.count.request();
        }
        self.session_priorities.note_new_lookups(created.jobs.keys().copied());
        for provider_queue in &mut self.provider_queues {
            let Some(answered) = created.jobs.get(&provider_queue.provider) else { continue };
            provider_queue.next_due = AT_ONCE;
            provider_queue.serve(answered.iter().copied());
        }
        Ok(created.requests >= queue::MOST_REQUESTS_AT_ONCE)
    }

    /// Does the work that prepared transactions announced, if these transactions have ended since the last check. Normally, the
    /// statement that ends a prepared transaction announces this work. If the process of that statement was terminated first, only
    /// this check finds the work.
    fn process_ended_transactions(&mut self, prepared: [bool; LOOKED_FOR.len()]) {
        let before = std::mem::replace(&mut self.prepared, prepared);
        let [rules, recount, sweep] = std::array::from_fn(|n| before[n] && !prepared[n]);
        if rules {
            self.session_priorities.changed();
        }
        if recount {
            registry::ask_for_recount();
        }
        if sweep {
            self.want_sweep();
        }
    }

    /// Requests a sweep, because some lookups were not queued. If a sweep is already running, another one follows it, because the
    /// running sweep may have passed the rows of these lookups.
    fn want_sweep(&mut self) {
        self.sweeps_again = self.sweeping.is_some();
        self.sweep.request();
    }

    /// If the rules of session priority must be evaluated now, begins the evaluation.
    fn evaluate_priorities(&mut self) -> Result<(), Stop> {
        if !self.session_priorities.is_due() {
            return Ok(());
        }
        let begun = self.steps.step(StepKind::EvaluatePriorities, SessionPriorities::begin);
        match begun {
            Ok(begun) => self.session_priorities.begun(begun),
            Err(stop) => {
                self.session_priorities.could_not_begin();
                return Err(stop);
            }
        }
        Ok(())
    }

    /// Looks for pending counts in every naptime and adds them to the inventories. Each round runs one transaction. If there are no
    /// pending counts, the transaction reads only a few pages. If an earlier step could not fold some counts, a later naptime finds
    /// them.
    fn fold(&mut self) -> Result<(), Stop> {
        if !self.fold.is_now() {
            return Ok(());
        }
        none_if_failed(self.look_for_recounts())?;
        let mut pass = self.folding.take().unwrap_or_default();
        let is_free = self.steps.step(StepKind::Fold, |oids, connection| {
            // This database may have become a member since the last round.
            !cluster::is_member(oids) && fold::batch_if_free(oids, connection, &mut pass)
        });
        self.fold.attempted(
            &is_free,
            |is_free| if *is_free && !pass.is_over() { AT_ONCE } else { after_naptime() },
        );
        if is_free? && !pass.is_over() {
            self.folding = Some(pass);
        }
        if pass.found_some || self.steps.worker_slot.report.has_pending_counts() {
            self.count.request();
        }
        Ok(())
    }

    /// Applies edits of `known_networks` to existing networks. Runs in every naptime, and when a commit announces an edit. If an
    /// earlier step could not apply an edit, a later naptime finds it. Each round runs one transaction. If there is no edit, the
    /// transaction reads only an index.
    fn reclassify(&mut self) -> Result<(), Stop> {
        if !self.reclassification.is_now() {
            return Ok(());
        }
        let after = self.reclassified.take().unwrap_or(0);
        let batch = self
            .steps
            .step(StepKind::Reclassify, |oids, connection| reclassification::step(oids, connection, after));
        self.reclassification
            .attempted(&batch, |batch| if batch.last.is_some() { AT_ONCE } else { after_naptime() });
        let batch = batch?;
        if batch.pending > 0 {
            self.count.request();
        }
        self.reclassified = batch.last;
        Ok(())
    }

    /// Looks for requests for a recount. If a commit could not append such a request, appends the request for that commit.
    fn look_for_recounts(&mut self) -> Result<(), Stop> {
        let is_needed = registry::is_recount_needed();
        let (oldest, is_wanted) = self.steps.step(StepKind::LookForRecounts, |oids, connection| {
            if is_needed {
                // Shared memory records that a recount is needed, but not the reason. So the request contains no number of
                // sessions, and assumes that some sessions have gaps.
                recount_requests::append(oids, RecountRequest { sessions: 0, has_gaps: true });
            }
            let may_exist = recount_requests::may_exist(oids);
            let oldest = may_exist.then(|| recount_requests::oldest(connection)).flatten();
            // On the coordinator of a cluster, a recount would find only the sessions of this server. The requests stay, and a
            // metric shows them.
            (oldest, oldest.is_some() && !cluster::is_coordinator(oids))
        })?;
        if is_needed {
            registry::recount_is_requested();
        }
        self.recounter.wanted(is_wanted);
        // This time is stored before the recount begins, because the sizes cannot be counted while the recount holds its lock on
        // session_delta.
        self.steps
            .worker_slot
            .report
            .oldest_recount
            .store(oldest.unwrap_or(Timestamp::UNSET), Ordering::Relaxed);
        if oldest.is_some() {
            self.count.request();
        }
        Ok(())
    }

    /// Counts the sizes that the metrics show, such as the length of the queue.
    fn count(&mut self) -> Result<(), Stop> {
        let now = clock::now();
        if self.counts_at() > now {
            return Ok(());
        }
        let counted = self
            .steps
            .step(StepKind::Count, |_, connection| with_settings(COUNT_WAITS, || sizes::count(connection)));
        self.count.attempted(&counted, |(sizes, _)| match sizes.is_queue_empty() {
            true => clock::now() + COUNTED_WHEN_IDLE,
            false => clock::now() + COUNTED_ANYWAY,
        });
        let pause = (clock::now() - now).saturating_mul(COUNTING_SHARE).max(COUNTED_EVERY);
        self.counted_until = clock::now() + pause;
        let (sizes, blocked) = counted?;
        metric_values::report(&self.steps.worker_slot.report, &sizes);
        if let Some(failure) = blocked {
            self.count.request();
            self.steps.failed(StepKind::Count, &failure);
        }
        Ok(())
    }

    fn counts_at(&self) -> Timestamp {
        if guc::metrics() { self.count.at().max(self.counted_until) } else { NEVER }
    }

    /// Looks for work that was not announced to the worker. Each round runs one transaction.
    fn sweep(&mut self) -> Result<(), Stop> {
        if !self.sweep.is_now() {
            return Ok(());
        }
        let is_first = self.sweeping.is_none();
        let progress = *self.sweeping.get_or_insert_with(Progress::start);
        let swept = self.steps.step(StepKind::Sweep, |_, connection| {
            Provider::all().filter(|provider| provider.declared().shares_answers()).for_each(|provider| {
                block_answer::forget_stale(connection, provider);
            });
            session_options::forget(connection);
            if is_first {
                completions::forget(connection);
            }
            let enabled = Providers::enabled();
            (!enabled.is_empty()).then(|| requeue::queue_unasked(connection, enabled, progress)).flatten()
        });
        self.sweep
            .attempted(&swept, |left| if left.is_some() { AT_ONCE } else { clock::now() + SWEEP_EVERY });
        self.sweeping = swept?;
        if self.sweeping.is_none() {
            self.take_over.request();
            if std::mem::take(&mut self.sweeps_again) {
                self.sweep.request();
            }
        }
        // Some jobs have no request in the inbox: a dump restored them, or a user made them due by an UPDATE. So all kinds of work
        // are requested here.
        self.fold.request();
        self.count.request();
        self.owners.look();
        self.provider_queues.iter_mut().for_each(|provider_queue| provider_queue.next_due = AT_ONCE);
        Ok(())
    }
}
