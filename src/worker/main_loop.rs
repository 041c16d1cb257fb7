//! The main loop of a worker in its database.
//!
//! One round creates jobs from requests, claims jobs, sends requests and stores answers. Then it reclassifies networks, folds,
//! sweeps, and supervises the processes that run code of table owners. Each step is a separate short transaction. No transaction is
//! open while the worker sleeps or the network works. After a round, the worker sleeps until a commit wakes it, an exchange ends, a
//! job falls due, or the naptime ends.

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
use super::step_schedule::{AT_ONCE, Due, NEVER, after_naptime, naptime, retry_pause};
use super::steps::{Steps, Stop, none_if_failed};
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
    self, block_answer, completions, counter_deltas, fold, network_answers, provider_quota, reclassification,
    recount_requests, session_options, sizes,
};
use crate::telemetry::{self, metric_values};
use crate::versions;
use crate::worker::activity::{Activity, StepKind};
use crate::worker::registry::{self, ExitReason};

/// Interval of sweeps, which look for unannounced work.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Pause between two rounds while the database is being restored.
const RESTORE_PAUSE: Duration = Duration::from_millis(500);
/// The restore counts as over when the worker has found no pg_restore for this time.
const RESTORE_IS_OVER: Duration = Duration::from_secs(2);
/// How often the worker looks for pg_restore.
const RESTORE_CHECKED_EVERY: Duration = Duration::from_millis(250);
/// Interval at which sizes are counted after this worker has changed them. Counting takes at most a
/// fiftieth of the time, see [`COUNTING_SHARE`].
const COUNTED_EVERY: Duration = Duration::from_secs(1);
/// Interval at which sizes are counted if this worker has not changed them.
const COUNTED_ANYWAY: Duration = Duration::from_secs(10);
/// Interval at which sizes are counted while the queue is empty. They are still counted, because DDL on session tables
/// wakes no worker.
const COUNTED_WHEN_IDLE: Duration = Duration::from_secs(60);
const COUNTING_SHARE: u32 = 50;
/// A count waits at most this long for a lock. A wait delays the next count by [`COUNTING_SHARE`] times the duration of the wait.
const COUNT_WAITS: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"20ms")];

/// For these marks, the worker checks whether the prepared transaction has ended. The other marks need no check,
/// because every round finds their work.
const LOOKED_FOR: [Mark; 3] = [Mark::Rules, Mark::Recount, Mark::Sweep];

pub struct Worker {
    steps: Steps,
    exchanges: Exchanges,
    /// The queues, one for each provider.
    provider_queues: Vec<ProviderQueue>,
    session_priorities: SessionPriorities,
    owners: Owners,
    recounter: Recounter,
    /// For each mark in `LOOKED_FOR`, true if a prepared transaction with this mark existed at the last check.
    prepared: [bool; LOOKED_FOR.len()],
    take_over: Due,
    create_jobs: Due,
    fold: Due,
    reclassification: Due,
    sweep: Due,
    count: Due,
    /// Earliest time of the next count.
    counted_until: Timestamp,
    /// Progress of the current sweep. If a step fails, the next round repeats the step from this position.
    sweeping: Option<Progress>,
    /// True if another sweep starts as soon as the current one ends.
    sweeps_again: bool,
    /// Progress of a pass over the pending counts.
    folding: Option<fold::FoldPass>,
    /// The network that the current pass over the edits of `known_networks` has reached.
    reclassified: Option<i64>,
    /// When the worker last searched this database for pg_restore.
    restore_checked_at: Timestamp,
    /// When the worker last found pg_restore in this database.
    restored_at: Timestamp,
    /// When the worker last looked for copies of mmdb files that are too old.
    files_checked_at: Timestamp,
    /// The last round did nothing because the database is being restored.
    waits_for_restore: bool,
    /// The versions of library and SQL objects did not match in the last round.
    outdated: bool,
    /// True if the last round found an unsafe foreign key.
    stopped_by_keys: bool,
    /// Time that the worker slept while no work was in progress. Does not include time that was already added
    /// to the report.
    slept: Duration,
}

/// Entry point of the process.
pub fn run(worker_slot: i32) {
    background::accept_signals();
    let worker_slot = worker_process::worker_slot(worker_slot);
    if worker_slot.database.load(Ordering::Acquire) == 0 {
        // The launcher that started this worker has ended, and no process knows about this worker.
        return;
    }
    background::connect(Some(Oid::from(worker_slot.database.load(Ordering::Acquire))), super::PROGRAM);
    if !worker_process::take(worker_slot) {
        pgrx::error!("another cowrie_enrich worker is running in this database");
    }
    // From now on this worker reads the waiting rows.
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
            recounter: Recounter::default(),
            prepared: [false; LOOKED_FOR.len()],
            take_over: Due::now(),
            create_jobs: Due::now(),
            fold: Due::now(),
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
            waits_for_restore: false,
            outdated: false,
            stopped_by_keys: false,
            slept: Duration::ZERO,
        })
    }

    /// Runs one round. Returns for how long there is nothing to do. After a step that fails, the round continues with the next
    /// step.
    fn round(&mut self) -> Result<Duration, Stop> {
        self.steps.check()?;
        self.waits_for_restore = self.is_being_restored()?;
        if self.waits_for_restore {
            return Ok(RESTORE_PAUSE);
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
        made.push(none_if_failed(self.fold())?.is_some());
        if self.recounter.step(&self.steps) {
            self.fold.request();
            self.count.request();
        }
        made.push(none_if_failed(self.owners.step(&self.steps, &mut self.session_priorities))?.is_some());
        // This step comes after the steps that do work, because only the metrics need its counts.
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
            .min(self.session_priorities.next())
            .min(self.counts_at());
        let next = next.min(self.reclassification.at()).min(self.recounter.next());
        let next = next.min(self.take_over.at()).min(self.owners.next());
        Ok((next - clock::now()).min(naptime()))
    }

    /// Removes copies of mmdb files that are too old, also while no sessions are stored.
    fn remove_old_files(&mut self) {
        let now = clock::now();
        if now - self.files_checked_at >= naptime() {
            mmdb::remove_too_old();
            self.files_checked_at = now;
        }
    }

    /// Completes the batches whose replies have arrived. Their permits become free for the next request,
    /// perhaps of another database.
    fn receive(&mut self) {
        for finished in self.exchanges.finished() {
            let queues = &mut self.provider_queues;
            queues.iter_mut().try_fold(finished, |finished, queue| queue.complete(finished));
        }
    }

    /// Applies the completed batches of one provider, one transaction for each batch and round. Returns whether it tried to apply a
    /// batch.
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

    /// Tables of another version are not touched. Sessions are still stored, and their requests stay in the
    /// queue.
    fn wait_for_an_update(&mut self, mismatch: VersionMatch) -> Duration {
        self.outdated = true;
        telemetry::log_once_per_burst(
            "a worker waits, because the library and the SQL objects of the extension have different versions",
            versions::remedy(mismatch),
        );
        naptime()
    }

    /// The owner of an unsafe foreign key could run code as the extension's owner. Sessions are still stored, and their requests
    /// stay in the queue.
    fn wait_for_safe_keys(&mut self) -> Duration {
        self.stopped_by_keys = true;
        let report = &self.steps.worker_slot.report;
        if report.database.load(Ordering::Acquire) == 0 {
            // The first step was refused before the report began. The report begins here, because metrics show only databases whose
            // report has begun.
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
        // The sleep is called even with a pause of zero, because it accepts interrupts.
        background::sleep(pause, Some(self.exchanges.ready()));
        if is_idle {
            // Excludes the time during which the system did not schedule the process.
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

    /// The tables of a dump are restored one after the other. Rows that a worker wrote in between would
    /// collide with rows that are restored later.
    fn is_being_restored(&mut self) -> Result<bool, Stop> {
        let now = clock::now();
        if now - self.restore_checked_at >= RESTORE_CHECKED_EVERY {
            if self
                .steps
                .step(StepKind::LookForRestore, |_, _| catalog::has_superusers_client(c"pg_restore"))?
            {
                self.restored_at = now;
                // The restored rows may need any kind of work.
                self.sweep.request();
            }
            self.restore_checked_at = now;
        }
        Ok(now - self.restored_at < RESTORE_IS_OVER)
    }

    /// Runs first: repeats the work that a predecessor left unfinished, and publishes how much of the quotas this database
    /// has spent.
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
            // The launcher waits until all databases have reported.
            shared_state::block().launcher.set_latch();
        }
        Ok(())
    }

    /// Turns requests and new networks into jobs, and sessions with gaps into pending completions, each in a separate transaction.
    /// So a lock that stops one transaction does not stop the others. Requests come first, because sessions of an address with a
    /// job wait for its answer.
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

    /// Creates jobs for networks that never had a job. Runs every naptime, because not every transaction that creates a
    /// network wakes the worker. Returns whether there may be more such networks.
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

    /// Returns whether there may be more.
    fn create_completions(&mut self) -> Result<bool, Stop> {
        let sessions = self.steps.step(StepKind::CreateJobs, |oids, connection| {
            if store::has_rows(oids, c"incomplete_session") == Some(false) {
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

    /// Returns whether there may be more.
    fn create_jobs_from_requests(&mut self) -> Result<bool, Stop> {
        let lease =
            self.steps.lease(self.provider_queues.iter().map(|provider_queue| provider_queue.provider));
        let created = self.steps.step(StepKind::CreateJobs, |oids, connection| {
            let prepared = LOOKED_FOR.map(|mark| exclusion::is_marked(catalog::own_database(), mark));
            counter_deltas::take(oids, connection);
            if store::has_rows(oids, c"enrichment_request") == Some(false) {
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

    /// Acts on prepared transactions that have ended since the last check. The statement that ended them announces the end, unless
    /// its process was terminated first.
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

    /// Requests a sweep for lookups that were not queued and that a running sweep may have passed already.
    fn want_sweep(&mut self) {
        self.sweeps_again = self.sweeping.is_some();
        self.sweep.request();
    }

    /// Begins to evaluate the rules of session priority when they are due.
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

    /// Looks for pending counts every naptime and adds them to the inventories, one transaction per round. If
    /// there are none, it reads only the tables' few pages. So counts that an earlier step could not fold are
    /// found again.
    fn fold(&mut self) -> Result<(), Stop> {
        if !self.fold.is_now() {
            return Ok(());
        }
        none_if_failed(self.look_for_recounts())?;
        let mut pass = self.folding.take().unwrap_or_default();
        let is_free = self
            .steps
            .step(StepKind::Fold, |oids, connection| fold::batch_if_free(oids, connection, &mut pass));
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

    /// Applies edits of `known_networks` to existing networks: in every naptime, and when a commit announces an
    /// edit. So it also finds edits that an earlier step could not apply. A round has one transaction. If there
    /// is no edit, the transaction reads only an index.
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

    /// Looks for requests for a recount. If a commit could not append its request, adds a request.
    fn look_for_recounts(&mut self) -> Result<(), Stop> {
        let is_needed = registry::is_recount_needed();
        let oldest = self.steps.step(StepKind::LookForRecounts, |oids, connection| {
            if is_needed {
                // Shared memory says that a recount is needed, but not why. So the number of sessions is unknown, and some sessions
                // may have gaps.
                recount_requests::append(oids, RecountRequest { sessions: 0, has_gaps: true });
            }
            let may_exist = recount_requests::may_exist(oids);
            may_exist.then(|| recount_requests::oldest(connection)).flatten()
        })?;
        if is_needed {
            registry::recount_is_requested();
        }
        self.recounter.wanted(oldest.is_some());
        // The time is stored before the recount begins, because no count is possible while session_delta is locked.
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

    /// Counts sizes for the metrics.
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

    /// Looks for unannounced work, one transaction per round.
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
        // Jobs may also exist without requests: from a restored dump, or made due by hand.
        self.fold.request();
        self.count.request();
        self.owners.look();
        self.provider_queues.iter_mut().for_each(|provider_queue| provider_queue.next_due = AT_ONCE);
        Ok(())
    }
}
