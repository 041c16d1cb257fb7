//! The launcher. It is one process per cluster. It starts a worker in every database with the extension. If an exporter is
//! configured, it also starts the exporter.
//!
//! Databases that already had a worker come first. While the worker of such a database restarts, no other database gets a worker in
//! its place: see [`DatabaseOrder`].
//!
//! The launcher cannot read the catalogs of other databases. So it starts a worker in each database that it does not know yet. A
//! worker that finds no extension reports this and ends. The launcher does not start this worker again until an extension is
//! announced. A new database may get the extension from its template. The launcher detects such a database when work is queued in
//! it, or when it reads the list of databases again.
//!
//! On a standby, the launcher only supervises the exporter until the server is promoted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;
use cowrie_enrich_engine::{backoff, random};

use crate::exporter::Supervisor;
use crate::guc;
use crate::pg::background::{self, Needs, Process, ProcessState, Program};
use crate::pg::catalog::{self, Database};
use crate::pg::exclusion::{self, Mark};
use crate::pg::{Oid, clock, transaction};
use crate::shared_state::{self, WORKER_SLOTS, WaitingDatabase, WorkerSlot, worker_process};
use crate::telemetry;
use crate::worker::registry::{self, AnnouncedDatabases, ExitReason, NoWorkerReason};

use super::database_order::{DatabaseOrder, SortKey};

const PROGRAM: Program =
    Program { symbol: "cowrie_enrich_launcher_main", kind: "cowrie_enrich launcher", needs: Needs::Reading };

/// Interval at which the launcher reads the list of databases, even if no database was announced.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Interval at which the launcher of a standby checks whether the server was promoted. No process reports a promotion.
const PROMOTED_WITHIN: Duration = Duration::from_secs(1);
/// Pause before a crashed worker is started again. The pause doubles with each further crash.
const RESTART_BASE: Duration = Duration::from_secs(1);
const RESTART_CAP: Duration = Duration::from_secs(60);
/// If no slot was free for a worker, the launcher tries again to start the worker after this pause.
const START_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A started process must take its slot within this time.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// If a worker ran longer than this before it crashed, its earlier crashes are no longer counted.
const LIVED: Duration = Duration::from_secs(300);

/// Registers the launcher with the postmaster. Called when the library is loaded.
pub fn register() {
    background::register(PROGRAM);
}

crate::background_process!(cowrie_enrich_launcher_main, run);

/// What the launcher knows about a database.
#[derive(Default)]
struct DatabaseState {
    /// The index of the worker's slot, and the handle of the worker's process. The handle is `None` if an earlier launcher started
    /// the process.
    worker: Option<(usize, Option<Process>)>,
    has_no_extension: bool,
    /// True if the last check found a prepared transaction of this database that changes an extension.
    change_is_prepared: bool,
    /// True if an extension was announced after the worker started. The worker may have looked for the extension before the
    /// announcement.
    was_announced: bool,
    crashes: u32,
    started_at: Timestamp,
    /// Earliest time of the next start of the database's worker.
    backoff_until: Timestamp,
    /// The reason why the database has no worker, and the time since when it has none.
    no_worker: Option<(NoWorkerReason, Timestamp)>,
    /// True if the database should have a worker.
    is_wanted: bool,
    /// True if the database's worker has read the ledger (the table `provider_quota`) of spent quotas.
    has_reported: bool,
    /// True if the workers of the other databases wait until this database's ledger is read.
    is_awaited: bool,
}

impl DatabaseState {
    fn set_no_worker(&mut self, what: NoWorkerReason) {
        match &mut self.no_worker {
            Some((reason, _)) => *reason = what,
            none => *none = Some((what, clock::now())),
        }
    }

    /// Returns true if the database's worker was told to end.
    fn is_leaving(&self) -> bool {
        let was_told_to_stop = |(index, _): &(usize, _)| {
            shared_state::block().worker_slots[*index].shutdown_requested.load(Ordering::Acquire)
        };
        self.worker.as_ref().is_some_and(was_told_to_stop)
    }

    /// Returns true if the database has published its spent quotas, or if it need not publish them.
    fn has_reported(&self) -> bool {
        !self.is_wanted || self.has_reported || self.has_no_extension
    }

    /// If this database has not reported its spent quotas, makes the other databases wait for the report. Returns true if they did
    /// not wait for it before.
    fn becomes_awaited(&mut self) -> bool {
        let is_awaited = !self.has_reported();
        is_awaited && !std::mem::replace(&mut self.is_awaited, is_awaited)
    }
}

fn run(_argument: i32) {
    background::accept_signals();
    background::connect(None, PROGRAM);
    let own = &shared_state::block().launcher;
    if !worker_process::take(own) {
        // An earlier launcher has not ended yet. This launcher ends with an error, so the postmaster starts it again later.
        pgrx::error!("another cowrie_enrich launcher is running");
    }
    let mut states = find_running_workers();
    let mut order = Order { seniority: DatabaseOrder::read(), room: None };
    let mut exporter = Supervisor::default();
    loop {
        background::reload_settings();
        own.woken.store(false, Ordering::Release);
        let pause = exporter.supervise().min(if catalog::is_standby() {
            PROMOTED_WITHIN
        } else {
            check_announced_databases(&mut states, &mut order.seniority);
            collect_ended(&mut states, &mut order.seniority);
            supervise_workers(&mut states, &mut order)
        });
        background::report_activity(None);
        background::sleep(pause, None);
    }
}

/// Returns the workers that an earlier launcher started and that are still running.
fn find_running_workers() -> BTreeMap<u32, DatabaseState> {
    let mut states = BTreeMap::new();
    for (index, worker_slot) in shared_state::block().worker_slots.iter().enumerate() {
        let database = worker_slot.database.load(Ordering::Acquire);
        if database != 0 {
            states
                .insert(database, DatabaseState { worker: Some((index, None)), ..DatabaseState::default() });
        }
    }
    states
}

fn check_announced_databases(states: &mut BTreeMap<u32, DatabaseState>, seniority: &mut DatabaseOrder) {
    match registry::take_announced() {
        AnnouncedDatabases::All => {
            states.iter_mut().for_each(|(database, state)| check_again(*database, state, seniority))
        }
        AnnouncedDatabases::These(databases) => {
            databases
                .into_iter()
                .for_each(|database| check_again(database, states.entry(database).or_default(), seniority));
        }
    }
}

/// Records that an extension may have been created in this database, so that a worker is started there.
fn check_again(database: u32, state: &mut DatabaseState, seniority: &mut DatabaseOrder) {
    seniority.announced(database);
    state.has_no_extension = false;
    state.was_announced = true;
    state.backoff_until = Timestamp::UNSET;
}

/// Looks for databases without the extension in which a prepared transaction that changes an extension has ended. The transaction
/// may have created the extension, and the statement that ended the transaction may not have announced this. So such a database is
/// checked again. Returns true if such prepared transactions remain.
fn process_ended_transactions(
    states: &mut BTreeMap<u32, DatabaseState>,
    marked: &[u32],
    seniority: &mut DatabaseOrder,
) -> bool {
    for (database, state) in states.iter_mut().filter(|(_, state)| state.has_no_extension) {
        let is_prepared = marked.contains(database);
        if std::mem::replace(&mut state.change_is_prepared, is_prepared) && !is_prepared {
            check_again(*database, state, seniority);
        }
    }
    states.values().any(|state| state.has_no_extension && state.change_is_prepared)
}

fn collect_ended(states: &mut BTreeMap<u32, DatabaseState>, seniority: &mut DatabaseOrder) {
    let now = clock::now();
    let mut is_slot_free = false;
    for (database, state) in states.iter_mut() {
        let Some((index, process)) = &state.worker else { continue };
        let worker_slot = &shared_state::block().worker_slots[*index];
        let gone = match process {
            Some(process) => process.state() == ProcessState::Gone,
            // An earlier launcher started this process. The process may not have taken its slot yet.
            None => {
                !worker_slot.is_taken()
                    && now - worker_slot.started_at.load(Ordering::Relaxed) > STARTS_WITHIN
            }
        };
        if !gone {
            continue;
        }
        match ExitReason::of(worker_slot) {
            ExitReason::NoExtension => {
                state.has_no_extension = !state.was_announced;
                if state.has_no_extension {
                    seniority.has_no_extension(*database);
                }
            }
            ExitReason::Left => {}
            ExitReason::Crashed => {
                state.crashes =
                    if now - state.started_at > LIVED { 1 } else { state.crashes.saturating_add(1) };
                let pause = backoff::delay(state.crashes, RESTART_BASE, RESTART_CAP, random::unit());
                state.backoff_until = now + pause;
            }
        }
        free(worker_slot);
        is_slot_free = true;
        if let Some((_, Some(process))) = state.worker.take() {
            process.forget();
        }
    }
    if is_slot_free {
        let waits = |state: &&mut DatabaseState| {
            matches!(state.no_worker, Some((NoWorkerReason::Slot | NoWorkerReason::Room, _)))
        };
        states.values_mut().filter(waits).for_each(|state| state.backoff_until = Timestamp::UNSET);
    }
}

/// The order in which databases get their workers.
struct Order {
    seniority: DatabaseOrder,
    /// The number of workers that can probably run at the same time. This number of workers ran when the server refused to start
    /// another one. The server does not report how many slots are free.
    room: Option<usize>,
}

impl Order {
    /// Returns true if another worker may start. `running` is the number of running workers. `older` is the number of databases
    /// that come first and have no worker yet.
    fn is_room(&self, running: usize, older: usize) -> bool {
        older == 0 || self.room.is_none_or(|room| running + older < room)
    }
}

/// Starts missing workers, and stops workers that are not wanted. Returns the time until this function must be called again.
fn supervise_workers(states: &mut BTreeMap<u32, DatabaseState>, order: &mut Order) -> Duration {
    let listed = || {
        let databases = catalog::databases();
        // A database is removed from the order only if it was dropped. If it only refuses connections for a while, it keeps its
        // place.
        let is_gone = |oid: &u32| catalog::database_name(Oid::from(*oid)).is_none();
        let unlisted = order.seniority.databases();
        let unlisted = unlisted.filter(|oid| !databases.iter().any(|database| database.oid.to_u32() == *oid));
        let gone: Vec<u32> = unlisted.filter(is_gone).collect();
        let is_marked = |database: &&Database| exclusion::is_marked(database.oid, Mark::Extension);
        let marked: Vec<u32> =
            databases.iter().filter(is_marked).map(|database| database.oid.to_u32()).collect();
        (databases, gone, marked)
    };
    let mut next = clock::now() + LOOK_EVERY;
    let mut databases = match transaction::run(listed) {
        Ok((databases, gone, marked)) => {
            gone.into_iter().for_each(|database| order.seniority.remove(database));
            if process_ended_transactions(states, &marked, &mut order.seniority) {
                next = next.min(clock::now() + guc::worker_naptime());
            }
            databases
        }
        Err(failure) => {
            telemetry::error("could not list the databases", &failure.message);
            return RESTART_BASE;
        }
    };
    let known: Vec<u32> = databases.iter().map(|database| database.oid.to_u32()).collect();
    states.retain(|oid, state| state.worker.is_some() || known.contains(oid));
    for state in states.iter().filter(|(oid, _)| !known.contains(oid)).map(|(_, state)| state) {
        stop_worker(state);
    }
    let block = shared_state::block();
    databases.sort_by_key(|database| order.seniority.sort_key(database.oid.to_u32()));
    // The number of databases that had a worker before and have none now. Only the databases that the loop has already visited are
    // counted.
    let mut older = 0;
    let mut waiting = Vec::new();
    for database in &databases {
        let oid = database.oid.to_u32();
        let running = states.values().filter(|state| state.worker.is_some()).count();
        let is_known = order.seniority.is_known(oid);
        let state = states.entry(oid).or_default();
        let is_wanted = guc::worker_enabled() && guc::database_is_wanted(&database.name);
        state.is_wanted = is_wanted;
        if let Some((index, _)) = &state.worker
            && block.worker_slots[*index].ledger_read.load(Ordering::Acquire)
        {
            state.has_reported = true;
            order.seniority.add(oid);
        }
        if state.becomes_awaited() {
            // A database that gets its first worker must report its spent quotas before any worker sends requests. So the time
            // limit of this wait starts again for all databases. This code runs before the worker is started.
            block.awaited_since.store(clock::now(), Ordering::Release);
            block.ledgers_known.store(false, Ordering::Release);
        }
        match &state.worker {
            Some(_) if !is_wanted => stop_worker(state),
            None if is_wanted && !state.has_no_extension => {
                next = next.min(match order.is_room(running, older) {
                    true => start(database, state, order, running),
                    false => {
                        state.set_no_worker(NoWorkerReason::Slot);
                        clock::now() + START_AGAIN_AFTER
                    }
                });
            }
            _ => {}
        }
        let is_missing = is_wanted && !state.has_no_extension && state.worker.is_none();
        if !is_missing {
            state.no_worker = None;
        } else if let Some((reason, since)) =
            state.no_worker.filter(|_| !order.seniority.is_without_extension(oid))
        {
            waiting.push(WaitingDatabase { database: oid, reason: reason as u32, since });
        }
        if is_missing && is_known {
            older += 1;
            if state.no_worker.is_some_and(|(reason, _)| reason != NoWorkerReason::Pause) {
                let key = order.seniority.sort_key(oid);
                stop_worker_for_older_database(states, &order.seniority, key, older);
            }
        }
    }
    if waiting != shared_state::waiting() {
        shared_state::publish_waiting(&waiting);
    }
    order.seniority.write_if_changed();
    let has_reported =
        |database: &Database| states.get(&database.oid.to_u32()).is_none_or(DatabaseState::has_reported);
    if databases.iter().all(has_reported) && !block.ledgers_known.swap(true, Ordering::AcqRel) {
        // All workers are woken at the same time. Otherwise the worker that is woken first could take the whole quota.
        block.worker_slots.iter().for_each(WorkerSlot::set_latch);
    }
    (next - clock::now()).max(Duration::from_millis(10))
}

fn stop_worker(state: &DatabaseState) {
    if let Some((index, _)) = &state.worker {
        let worker_slot = &shared_state::block().worker_slots[*index];
        worker_slot.shutdown_requested.store(true, Ordering::Release);
        worker_slot.set_latch();
    }
}

/// Stops the worker with the highest sort key, so that a database without a worker can get one. `key` is the sort key of the
/// database without a worker, and `waiting` is the number of databases that wait. If no worker has a higher sort key than `key`,
/// stops no worker. If at least `waiting` workers are already stopping, stops no worker.
fn stop_worker_for_older_database(
    states: &BTreeMap<u32, DatabaseState>,
    seniority: &DatabaseOrder,
    key: SortKey,
    waiting: usize,
) {
    let running = states.iter().filter(|(_, state)| state.worker.is_some());
    let (leaving, staying): (Vec<_>, Vec<_>) = running.partition(|(_, state)| state.is_leaving());
    if leaving.len() >= waiting {
        return;
    }
    let last = staying.into_iter().max_by_key(|(oid, _)| seniority.sort_key(**oid));
    if let Some((_, state)) = last.filter(|(oid, _)| seniority.sort_key(**oid) > key) {
        stop_worker(state);
    }
}

/// If the worker of a database may start now, starts it. `running` is the number of running workers. Returns the time when the
/// launcher must check this database again.
fn start(database: &Database, state: &mut DatabaseState, order: &mut Order, running: usize) -> Timestamp {
    let now = clock::now();
    let cooldown_end = registry::cooldown_end(database.oid).unwrap_or(Timestamp::UNSET);
    let not_before = cooldown_end.max(state.backoff_until);
    if not_before > now {
        if state.no_worker.is_none() && state.crashes > 0 && cooldown_end <= now {
            state.set_no_worker(NoWorkerReason::Pause);
        }
        return not_before;
    }
    (state.started_at, state.was_announced) = (now, false);
    let (reason, problem) = match take_slot(database.oid) {
        None => (NoWorkerReason::Room, "64 databases already have a worker; more workers are not possible"),
        Some(index) => match super::start(&database.name, index) {
            Some(process) => {
                state.worker = Some((index, Some(process)));
                order.room = order.room.map(|room| room.max(running + 1));
                return Timestamp::INFINITY;
            }
            None => {
                free(&shared_state::block().worker_slots[index]);
                (NoWorkerReason::Slot, "no background worker slot is free; raise max_worker_processes")
            }
        },
    };
    order.room = Some(running);
    state.set_no_worker(reason);
    telemetry::log_once_per_burst(
        "could not start a worker",
        &format!("database {}: {problem}", database.name),
    );
    state.backoff_until = now + START_AGAIN_AFTER;
    state.backoff_until
}

fn take_slot(database: Oid) -> Option<usize> {
    let worker_slots: &[WorkerSlot; WORKER_SLOTS] = &shared_state::block().worker_slots;
    // The slot of another database's worker cannot be used while an owner process of that database is still running in it.
    let is_anothers = |worker_slot: &WorkerSlot| {
        let mut running = worker_slot.owner_slots.iter().filter(|slot| slot.pid.load(Ordering::Acquire) != 0);
        running.any(|slot| slot.database.load(Ordering::Acquire) != database.to_u32())
    };
    let is_free = |worker_slot: &WorkerSlot| {
        worker_slot.database.load(Ordering::Acquire) == 0
            && !worker_slot.is_taken()
            && !is_anothers(worker_slot)
    };
    let is_free = |(_, worker_slot): &(usize, &WorkerSlot)| is_free(worker_slot);
    // The new worker gets the slot that holds the report about this database, if that slot is free. Otherwise it gets a slot
    // without a report, if there is one, because a report about another database would be lost.
    let key =
        |(_, worker_slot): &(usize, &WorkerSlot)| match worker_slot.report.database.load(Ordering::Acquire) {
            whose if whose == database.to_u32() => 0,
            0 => 1,
            _ => 2,
        };
    let (index, _) = worker_slots.iter().enumerate().filter(is_free).min_by_key(key)?;
    let worker_slot = &worker_slots[index];
    worker_slot.shutdown_requested.store(false, Ordering::Release);
    worker_slot.ending.store(ExitReason::Crashed as u32, Ordering::Release);
    worker_slot.batches.store(0, Ordering::Relaxed);
    worker_slot.errors.store(0, Ordering::Relaxed);
    worker_slot.ledger_read.store(false, Ordering::Release);
    worker_slot.state.store(0, Ordering::Relaxed);
    worker_slot.since.store(clock::now(), Ordering::Relaxed);
    worker_slot.started_at.store(clock::now(), Ordering::Relaxed);
    worker_slot.database.store(database.to_u32(), Ordering::Release);
    Some(index)
}

fn free(worker_slot: &WorkerSlot) {
    worker_slot.database.store(0, Ordering::Release);
}
