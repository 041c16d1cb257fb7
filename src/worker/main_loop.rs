//! What a worker does in its database.
//!
//! A round: take requests in, claim jobs, send requests, write answers, reclassify networks, fold, sweep, supervise the
//! processes that run code of table owners. Each step is a short transaction of its own, none is open while the worker sleeps
//! or the network works. Then it sleeps until a commit wakes it, an exchange ends, a job falls due, or it has slept long
//! enough.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::version::Fit;
use pgrx::pg_sys;

use super::in_flight::InFlight;
use super::owners::Owners;
use super::provider_queue::ProviderQueue;
use super::recounter::Recounter;
use super::session_priority::SessionPriorities;
use super::steps::{FAILED_PAUSE, Steps, Stop, settled};
use crate::guc;
use crate::inbox;
use crate::pg::background;
use crate::pg::exclusion::{self, Mark};
use crate::pg::shared::{self, WorkerSlot};
use crate::pg::{catalog, clock};
use crate::provider::{Provider, Providers};
use crate::store::queue;
use crate::store::recount_requests::Missing;
use crate::store::requeue::{self, Progress};
use crate::store::{
    block_answer, completions, counter_deltas, fold, provider_quota, reclassification, recount_requests,
    session_options, sizes,
};
use crate::worker::registry::{self, Doing, Ending};
use crate::{telemetry, versions};

/// How often work is looked for that nobody announced, in microseconds.
const SWEEP_EVERY: i64 = 600_000_000;
/// Pause while the database is being restored, in microseconds, and for how long nobody must have been seen doing that.
const RESTORE_PAUSE: i64 = 500_000;
const RESTORE_IS_OVER: i64 = 2_000_000;
/// How often pg_restore is looked for.
const RESTORE_CHECKED_EVERY: i64 = 250_000;
/// How often it is counted what there is, in microseconds: while it changes by this worker's doing, and while something
/// else may change it. It never takes more than a fiftieth of the time.
const COUNTED_EVERY: i64 = 1_000_000;
const COUNTED_ANYWAY: i64 = 10_000_000;
/// The same while nothing is to be done: DDL on session tables wakes no worker.
const COUNTED_WHEN_IDLE: i64 = 60_000_000;
const COUNTING_SHARE: i64 = 50;

/// Marks of prepared transactions whose end the worker notices by itself. The others announce what every round looks for.
const LOOKED_FOR: [Mark; 2] = [Mark::Rules, Mark::Recount];

pub struct Worker {
    steps: Steps,
    air: InFlight,
    /// One for each provider.
    lanes: Vec<ProviderQueue>,
    ranking: SessionPriorities,
    owners: Owners,
    recounter: Recounter,
    /// Whether transactions with these marks were prepared when last looked.
    prepared: [bool; LOOKED_FOR.len()],
    released: bool,
    /// When a step has something to do without being woken, microseconds since 2000.
    next_take_in: i64,
    next_fold: i64,
    next_reclassification: i64,
    next_sweep: i64,
    next_count: i64,
    /// Not before, however much was done.
    counted_until: i64,
    /// How far a sweep under way has come.
    sweeping: Option<Progress>,
    /// How far a pass over the pending counts has come.
    folding: Option<fold::Pass>,
    /// The network to which a pass over the edits of `known_networks` has come.
    reclassified: Option<i64>,
    /// When pg_restore was last looked for and last seen in this database.
    restore_checked_at: i64,
    restored_at: i64,
    /// Library and SQL objects did not fit in the last round.
    outdated: bool,
    /// There was an unsafe foreign key in the last round.
    stopped_by_keys: bool,
}

/// Entry point of the process.
pub fn run(seat: i32) {
    background::accept_signals();
    let seat = &shared::block().seats[usize::try_from(seat).unwrap_or_default() % shared::SEATS];
    if seat.database.load(Ordering::Acquire) == 0 {
        // The launcher that started this worker is gone, and nobody knows of it.
        return;
    }
    background::connect(Some(pg_sys::Oid::from(seat.database.load(Ordering::Acquire))), super::PROGRAM);
    if !seat.take() {
        pgrx::error!("another cowrie_enrich worker is running in this database");
    }
    // From now on this worker takes what waits.
    inbox::begin_epoch();
    if seat.report.database.load(Ordering::Acquire) != catalog::own_database().to_u32() {
        seat.report.begin(0);
    }
    let mut worker = match Worker::new(seat) {
        Ok(worker) => worker,
        Err(error) => pgrx::error!("could not set the worker up: {error}"),
    };
    loop {
        background::reload_settings();
        if seat.woken.swap(false, Ordering::AcqRel) {
            worker.next_take_in = 0;
        }
        if seat.rules_changed.swap(false, Ordering::AcqRel) {
            worker.ranking.changed();
        }
        if seat.networks_edited.swap(false, Ordering::AcqRel) {
            worker.next_reclassification = 0;
        }
        let pause = match worker.round() {
            Ok(pause) => pause,
            Err(Stop::Misfit(misfit)) => worker.wait_for_an_update(misfit),
            Err(Stop::UnsafeKeys) => worker.wait_for_safe_keys(),
            Err(Stop::NoExtension) => worker.end(Ending::NoExtension),
            Err(Stop::Leave) => worker.end(Ending::Left),
            Err(Stop::Failed) => FAILED_PAUSE,
        };
        worker.sleep(pause);
    }
}

impl Worker {
    fn new(seat: &'static WorkerSlot) -> std::io::Result<Worker> {
        let steps = Steps::of(seat);
        Ok(Worker {
            owners: Owners::new(&steps),
            steps,
            air: InFlight::new()?,
            lanes: Provider::all().map(ProviderQueue::of).collect(),
            ranking: SessionPriorities::new(),
            recounter: Recounter::default(),
            prepared: [false; LOOKED_FOR.len()],
            released: false,
            next_take_in: 0,
            next_fold: 0,
            next_reclassification: 0,
            next_sweep: 0,
            next_count: 0,
            counted_until: 0,
            sweeping: None,
            folding: None,
            reclassified: None,
            restore_checked_at: 0,
            restored_at: 0,
            outdated: false,
            stopped_by_keys: false,
        })
    }

    /// One round; answers for how many microseconds there is nothing to do. A step that fails does not keep the others
    /// from being made.
    fn round(&mut self) -> Result<i64, Stop> {
        self.steps.check()?;
        if self.is_being_restored()? {
            return Ok(RESTORE_PAUSE);
        }
        let mut made = vec![
            settled(self.take_over())?.is_some(),
            settled(self.take_in())?.is_some(),
            settled(self.sweep())?.is_some(),
            settled(self.rank())?.is_some(),
        ];
        self.distribute();
        for lane in &mut self.lanes {
            made.push(settled(lane.dispatch(&self.steps, &mut self.air, &self.ranking))?.is_some());
        }
        for lane in &mut self.lanes {
            let landed = settled(lane.land(&self.steps, &mut self.air))?;
            made.push(landed.is_some());
            if landed == Some(true) {
                self.next_count = 0;
                self.next_fold = 0;
            }
            if landed != Some(false) {
                self.owners.look();
            }
        }
        made.push(settled(self.reclassify())?.is_some());
        made.push(settled(self.fold())?.is_some());
        if self.recounter.step(&self.steps) {
            (self.next_fold, self.next_count) = (0, 0);
        }
        made.push(settled(self.owners.step(&self.steps, &mut self.ranking))?.is_some());
        // For the metrics alone: nothing waits for it.
        settled(self.count())?;
        self.distribute();
        background::report_statistics();

        if made.contains(&false) {
            return Ok(FAILED_PAUSE);
        }
        if self.sweeping.is_some() {
            return Ok(0);
        }
        let next = self.lanes.iter().map(|lane| lane.next(&self.air)).min().unwrap_or(i64::MAX);
        let next =
            next.min(self.next_take_in).min(self.next_fold).min(self.ranking.next()).min(self.counts_at());
        let next = next.min(self.owners.next()).min(self.next_reclassification).min(self.recounter.next());
        Ok(next.saturating_sub(clock::now()).clamp(0, naptime()))
    }

    /// What came back goes where it belongs.
    fn distribute(&mut self) {
        for landing in self.air.landed() {
            let lane = self.lanes.iter_mut().find(|lane| lane.provider == landing.provider);
            if let Some(lane) = lane {
                lane.take(landing);
            }
        }
    }

    /// Another version's tables are not touched. Sessions come in meanwhile, and what they leave stays in the queue.
    fn wait_for_an_update(&mut self, misfit: Fit) -> i64 {
        self.outdated = true;
        telemetry::log_once_per_burst("a worker waits for an update", versions::remedy(misfit));
        naptime()
    }

    /// The owner of the key could run code as the extension's owner. Sessions are stored meanwhile, and their requests stay
    /// in the queue.
    fn wait_for_safe_keys(&mut self) -> i64 {
        self.stopped_by_keys = true;
        let report = &self.steps.seat.report;
        if report.database.load(Ordering::Acquire) == 0 {
            // Its first step already was refused, and the metrics show only databases that report.
            let keys = report.unsafe_keys.load(Ordering::Relaxed);
            report.begin(catalog::own_database().to_u32());
            report.unsafe_keys.store(keys, Ordering::Relaxed);
        }
        naptime()
    }

    fn sleep(&mut self, microseconds: i64) {
        self.steps.says(match self.air.is_empty() {
            _ if std::mem::take(&mut self.stopped_by_keys) => Doing::StoppedByKeys,
            _ if std::mem::take(&mut self.outdated) => Doing::WaitingForUpdate,
            true => Doing::Sleeping,
            false => Doing::Waiting,
        });
        background::report_activity(None);
        // Also when there is more to do at once: interrupts are accepted in there.
        background::sleep(Duration::from_micros(microseconds.unsigned_abs()), Some(self.air.ready()));
    }

    fn end(&mut self, ending: Ending) -> ! {
        self.air.cancel();
        if ending == Ending::NoExtension {
            self.steps.seat.report.begin(0);
        }
        self.steps.seat.ending.store(ending as u32, Ordering::Release);
        background::exit()
    }

    /// The tables of a dump arrive one after the other: what a worker wrote meanwhile would collide with rows that come
    /// later.
    fn is_being_restored(&mut self) -> Result<bool, Stop> {
        let now = clock::now();
        if now - self.restore_checked_at >= RESTORE_CHECKED_EVERY {
            if self.steps.step(Doing::Waiting, |_, _| catalog::has_superusers_client(c"pg_restore"))? {
                self.restored_at = now;
                // What came may be anything.
                self.next_sweep = 0;
            }
            self.restore_checked_at = now;
        }
        Ok(now - self.restored_at < RESTORE_IS_OVER)
    }

    /// The first thing: what a predecessor was doing when it ended is done again, and what this database spent of the
    /// quotas is made known.
    fn take_over(&mut self) -> Result<(), Stop> {
        if !self.released {
            let holder = self.steps.holder;
            self.steps.step(Doing::Requeueing, |_, connection| {
                queue::release_others(connection, holder);
                provider_quota::exchange(connection);
            })?;
            self.released = true;
            let report = &self.steps.seat.report;
            if report.database.load(Ordering::Acquire) == 0 {
                report.begin(catalog::own_database().to_u32());
            }
            if !self.steps.seat.ledger_read.swap(true, Ordering::AcqRel) {
                // It waits for all of them to say so.
                shared::block().launcher.set_latch();
            }
        }
        Ok(())
    }

    /// Requests become jobs.
    fn take_in(&mut self) -> Result<(), Stop> {
        if self.next_take_in > clock::now() {
            return Ok(());
        }
        let lease = self.steps.lease(self.lanes.iter().map(|lane| lane.provider));
        let taken = self.steps.step(Doing::CreatingJobs, |home, connection| {
            let taken = queue::take_in(connection, lease);
            if taken.requests >= queue::MOST_TAKEN_IN {
                queue::analyze(home, connection);
            }
            counter_deltas::take(home, connection);
            // After the requests, because sessions of an address with a job wait for its answer.
            let sessions = completions::take_in(connection);
            (taken, sessions, LOOKED_FOR.map(|mark| exclusion::is_marked(catalog::own_database(), mark)))
        })?;
        let (taken, sessions, prepared) = taken;
        self.heed_prepared(prepared);
        let is_full = taken.requests >= queue::MOST_TAKEN_IN || sessions >= completions::MOST_TAKEN_IN;
        self.next_take_in = if is_full { 0 } else { clock::now().saturating_add(naptime()) };
        if sessions > 0 {
            self.owners.look();
            self.next_count = 0;
        }
        if taken.requests > 0 {
            self.next_count = 0;
        }
        self.ranking.came_in(taken.jobs.keys().copied());
        for lane in &mut self.lanes {
            let Some(answered) = taken.jobs.get(&lane.provider) else { continue };
            lane.next_due = 0;
            lane.serve(answered.iter().copied());
        }
        Ok(())
    }

    /// Acts on prepared transactions that have ended since the last look. The statement that ended them has said so, unless
    /// its process was terminated before it could.
    fn heed_prepared(&mut self, prepared: [bool; LOOKED_FOR.len()]) {
        let before = std::mem::replace(&mut self.prepared, prepared);
        let [rules, recount] = std::array::from_fn(|n| before[n] && !prepared[n]);
        if rules {
            self.ranking.changed();
        }
        if recount {
            registry::ask_for_recount();
        }
    }

    /// Begins to evaluate the rules of which sessions matter, when it is time.
    fn rank(&mut self) -> Result<(), Stop> {
        if !self.ranking.is_due() {
            return Ok(());
        }
        let mut ranking = std::mem::replace(&mut self.ranking, SessionPriorities::new());
        let ranked =
            self.steps.step(Doing::EvaluatingPriorities, |home, connection| ranking.begin(home, connection));
        // A step that failed as a whole is no reason to try it again at once.
        self.ranking = if ranked.is_ok() { ranking } else { ranking.given_up() };
        ranked
    }

    /// Looks for pending counts every naptime and adds them to the inventories; one transaction a round. A look that
    /// finds none reads the tables' few pages. So counts are found again that an earlier step could not fold.
    fn fold(&mut self) -> Result<(), Stop> {
        let now = clock::now();
        if self.next_fold > now {
            return Ok(());
        }
        // Also where the step fails.
        self.next_fold = now + naptime();
        let is_needed = registry::is_recount_needed();
        let oldest = self.steps.step(Doing::Folding, |home, connection| {
            if is_needed {
                // Who could append no row told no more than that.
                recount_requests::append(home, Missing { sessions: 0, has_gaps: true });
            }
            let may_exist = recount_requests::may_exist(home);
            may_exist.then(|| recount_requests::oldest(connection)).flatten()
        });
        if let Some(oldest) = settled(oldest)? {
            if is_needed {
                registry::recount_is_requested();
            }
            self.recounter.wanted(oldest.is_some());
            // At once: while session_delta is locked, nothing can be counted.
            self.steps.seat.report.oldest_recount.store(oldest.unwrap_or(0), Ordering::Relaxed);
            if oldest.is_some() {
                self.next_count = 0;
            }
        }
        let mut pass = self.folding.take().unwrap_or_default();
        let is_free = self
            .steps
            .step(Doing::Folding, |home, connection| fold::batch_if_free(home, connection, &mut pass))?;
        if pass.found_some || self.steps.seat.report.oldest_count.load(Ordering::Relaxed) != 0 {
            self.next_count = 0;
        }
        if is_free && !pass.is_over() {
            (self.folding, self.next_fold) = (Some(pass), 0);
        }
        Ok(())
    }

    /// Applies edits of `known_networks` to existing networks every naptime, and when a commit announces one; one transaction a
    /// round. A look that finds none reads an index. So edits are found again that an earlier step could not apply.
    fn reclassify(&mut self) -> Result<(), Stop> {
        let now = clock::now();
        if self.next_reclassification > now {
            return Ok(());
        }
        // Also where the step fails.
        self.next_reclassification = now + naptime();
        let after = self.reclassified.take().unwrap_or(0);
        let batch = self
            .steps
            .step(Doing::Reclassifying, |home, connection| reclassification::step(home, connection, after))?;
        if batch.pending > 0 {
            self.next_count = 0;
        }
        if batch.last.is_some() {
            (self.reclassified, self.next_reclassification) = (batch.last, 0);
        }
        Ok(())
    }

    /// Counts what there is, for the metrics.
    fn count(&mut self) -> Result<(), Stop> {
        let now = clock::now();
        if self.counts_at() > now {
            return Ok(());
        }
        // Also where it fails, for want of a right.
        (self.next_count, self.counted_until) = (now + COUNTED_ANYWAY, now + COUNTED_EVERY);
        let sizes = self.steps.step(Doing::CollectingMetrics, |_, connection| sizes::count(connection))?;
        let pause = (clock::now() - now).saturating_mul(COUNTING_SHARE).max(COUNTED_EVERY);
        self.counted_until = clock::now().saturating_add(pause);
        let pause = if sizes.is_queue_empty() { COUNTED_WHEN_IDLE } else { COUNTED_ANYWAY };
        self.next_count = clock::now() + pause;
        let report = &self.steps.seat.report;
        report.networks.store(sizes.networks, Ordering::Relaxed);
        report.oldest_count.store(sizes.oldest_count.unwrap_or(0), Ordering::Relaxed);
        for queue in &sizes.queues {
            let to = &report.queues[queue.provider.place()];
            for (size, to) in queue.sizes.iter().zip(&to.sizes) {
                to.store(*size, Ordering::Relaxed);
            }
            to.oldest.store(queue.oldest.unwrap_or(0), Ordering::Relaxed);
        }
        report.completions.store(sizes.completions, Ordering::Relaxed);
        report.oldest_completion.store(sizes.oldest_completion.unwrap_or(0), Ordering::Relaxed);
        report.suspended_owners.store(sizes.suspended_owners, Ordering::Relaxed);
        report.pending_networks.store(sizes.pending_networks, Ordering::Relaxed);
        report.tables_not_intact.store(sizes.tables_not_intact, Ordering::Relaxed);
        report.oldest_recount.store(sizes.oldest_recount.unwrap_or(0), Ordering::Relaxed);
        report.counted_at.store(sizes.counted_at, Ordering::Release);
        Ok(())
    }

    fn counts_at(&self) -> i64 {
        if guc::metrics() { self.next_count.max(self.counted_until) } else { i64::MAX }
    }

    /// Looks for work that nobody announced; one transaction a round.
    fn sweep(&mut self) -> Result<(), Stop> {
        let now = clock::now();
        let progress = match self.sweeping.take() {
            Some(progress) => progress,
            None if self.next_sweep > now => return Ok(()),
            None => Progress::start(),
        };
        self.next_sweep = now + SWEEP_EVERY;
        // Also jobs that came otherwise than by requests: a restored dump's, or those that somebody made due by hand.
        (self.next_fold, self.next_count, self.released) = (0, 0, false);
        self.lanes.iter_mut().for_each(|lane| lane.next_due = 0);
        self.sweeping = self.steps.step(Doing::Requeueing, |_, connection| {
            Provider::all().filter(|provider| provider.declared().shares_answers()).for_each(|provider| {
                block_answer::forget_stale(connection, provider);
            });
            session_options::forget(connection);
            let enabled = Providers::enabled();
            (!enabled.is_empty()).then(|| requeue::queue_unasked(connection, enabled, progress)).flatten()
        })?;
        Ok(())
    }
}

/// In microseconds.
fn naptime() -> i64 {
    i64::try_from(guc::worker_naptime().as_micros()).unwrap_or(i64::MAX / 2)
}
