//! The worker slots, and the wake-ups by which backends notify the workers of new work.
//!
//! The launcher gives the worker of each database a slot in shared memory. Backends find the slot of their database there. When a
//! transaction with queued work commits, its backend wakes the worker once. If another session needs exclusive access to the
//! database, the backend of that session makes the worker exit. If a database has no slot, the backend announces the database to
//! the launcher.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::guc;
use crate::pg::exclusion::{self, Mark};
use crate::pg::hooks::{self, Listener};
use crate::pg::transaction::Outcome;
use crate::pg::{Oid, catalog, clock};
use crate::shared_state::{self, DatabaseCooldown, OwnerSlot, WorkerSlot};

thread_local! {
    /// The wake-ups that will be sent when the current transaction commits.
    static WAKEUPS: Cell<Wakeups> = Cell::default();
}

#[derive(Clone, Copy, Default, PartialEq)]
struct Wakeups {
    work: bool,
    rules: bool,
    networks: bool,
    extension: bool,
    recount: bool,
    sweep: bool,
}

/// The reason why a worker ended. The worker stores the reason in its slot, where the launcher reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ExitReason {
    /// The process failed without reporting a reason.
    Crashed = 0,
    /// The database does not have the extension.
    NoExtension,
    /// The process was told to end.
    Left,
}

impl ExitReason {
    pub fn of(worker_slot: &WorkerSlot) -> ExitReason {
        match worker_slot.ending.load(Ordering::Acquire) {
            1 => ExitReason::NoExtension,
            2 => ExitReason::Left,
            _ => ExitReason::Crashed,
        }
    }
}

/// The reason why a database needs a worker but has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum NoWorkerReason {
    /// All slots of max_worker_processes are in use, or are reserved for databases that had a worker before.
    Slot = 1,
    /// The maximum number of workers is running.
    Room,
    /// The last worker failed, and the pause before the next start has not ended.
    Pause,
}

impl NoWorkerReason {
    /// Returns the text of the reason as `worker_status` shows it.
    pub fn name(code: u32) -> &'static str {
        match code {
            1 => "waiting for a slot of max_worker_processes",
            2 => "waiting, because 64 databases have a worker; more workers are not possible",
            _ => "waiting to be restarted after an error",
        }
    }
}

/// If another session needs exclusive access to a database, the database gets no worker for this time. The server itself waits five
/// seconds for other processes to disconnect.
const COOLDOWN: Duration = Duration::from_secs(6);

/// Makes the hooks call this module for `CREATE EXTENSION`, `DROP EXTENSION`, and commands that need a database without other
/// connections. An example of such a command is `DROP DATABASE`.
///
/// The hooks are needed even if the library is not preloaded, because a transaction that is prepared now may be committed after the
/// library is preloaded. If the running CREATE EXTENSION has loaded the library, its hook call is already over. So this change of
/// the extension is recorded here.
pub fn listen() {
    if hooks::is_extension_being_changed() {
        extension_changes();
    }
    hooks::listen(Listener { extension_changes, database_is_needed, prepared_commits });
}

/// Requests that the worker is woken when this transaction commits.
pub fn work_was_queued() {
    WAKEUPS.set(Wakeups { work: true, ..WAKEUPS.get() });
}

/// Records that this transaction changes the rules of session priority.
pub fn rules_changed() {
    WAKEUPS.set(Wakeups { work: true, rules: true, ..WAKEUPS.get() });
}

/// Records that this transaction edits `known_networks`.
pub fn networks_were_edited() {
    WAKEUPS.set(Wakeups { work: true, networks: true, ..WAKEUPS.get() });
}

fn extension_changes() {
    WAKEUPS.set(Wakeups { extension: true, ..WAKEUPS.get() });
}

/// Records that counts of this transaction are lost, and that this transaction could not append a request for a recount.
pub fn recount_is_needed() {
    WAKEUPS.set(Wakeups { work: true, recount: true, ..WAKEUPS.get() });
}

/// Records that lookups of this transaction are not queued, because the transaction could not append requests for them. A sweep
/// will find the addresses.
pub fn sweep_is_needed() {
    WAKEUPS.set(Wakeups { work: true, sweep: true, ..WAKEUPS.get() });
}

/// Called immediately before PREPARE TRANSACTION. The server keeps only the locks and rows of a prepared transaction, so this
/// function stores the wake-ups as marks. The process that commits the prepared transaction reads the marks. A launcher or worker
/// that runs at that time also reads them.
pub fn transaction_is_prepared() {
    let wakeups = WAKEUPS.get();
    let marks = [
        (wakeups.work, Mark::Work),
        (wakeups.rules, Mark::Rules),
        (wakeups.extension, Mark::Extension),
        (wakeups.recount, Mark::Recount),
        (wakeups.sweep, Mark::Sweep),
    ];
    marks
        .into_iter()
        .filter(|(was_told_to_stop, _)| *was_told_to_stop)
        .for_each(|(_, mark)| exclusion::mark(mark));
}

/// Called before COMMIT PREPARED. If several transactions of the database are prepared, the marks may belong to a different one. In
/// this case, the wake-up is unnecessary, but it costs little.
fn prepared_commits() {
    if !shared_state::is_shared() {
        return;
    }
    let database = catalog::own_database();
    let is_marked = |mark| exclusion::is_marked(database, mark);
    let wakeups = WAKEUPS.get();
    WAKEUPS.set(Wakeups {
        work: wakeups.work || is_marked(Mark::Work),
        rules: wakeups.rules || is_marked(Mark::Rules),
        // Edits of networks have no mark, because the worker looks for such edits in every naptime.
        networks: wakeups.networks,
        extension: wakeups.extension || is_marked(Mark::Extension),
        recount: wakeups.recount || is_marked(Mark::Recount),
        sweep: wakeups.sweep || is_marked(Mark::Sweep),
    });
}

/// Sends the wake-ups of the transaction that has ended. Cannot fail, because it only sets atomics and latches and briefly takes
/// one lock.
pub fn transaction_ended(outcome: Outcome) {
    let wakeups = WAKEUPS.take();
    let tells_some = wakeups != Wakeups::default();
    if outcome != Outcome::Committed || !tells_some || !shared_state::is_shared() {
        return;
    }
    let database = catalog::own_database();
    if wakeups.recount {
        ask_for_recount();
    }
    let worker_slot = worker_slot_of(database);
    if let Some(worker_slot) = worker_slot {
        if wakeups.rules {
            worker_slot.rules_changed.store(true, Ordering::Release);
        }
        if wakeups.networks {
            worker_slot.networks_edited.store(true, Ordering::Release);
        }
        // If no worker is running, no flag is needed: each worker begins with a sweep.
        if wakeups.sweep {
            worker_slot.sweep_wanted.store(true, Ordering::Release);
        }
        worker_slot.wake();
    }
    // A new extension is announced even if the database has a worker, because this worker may have looked for the extension just
    // before the commit.
    if wakeups.extension || (worker_slot.is_none() && wakeups.work && guc::worker_enabled()) {
        announce(database);
    }
}

/// Requests that the worker of this database recounts the sessions.
pub fn ask_for_recount() {
    let database = catalog::own_database().to_u32();
    shared_state::locked(|guarded| guarded.ask_for_recount(database));
}

/// Returns true if shared memory contains a request for a recount of this database. The table `recount_request` does not contain
/// this request.
pub fn is_recount_needed() -> bool {
    let database = catalog::own_database().to_u32();
    shared_state::locked(|guarded| guarded.recounts.contains(&database))
}

/// Removes the request from shared memory, because the table `recount_request` contains it now.
pub fn recount_is_requested() {
    let database = catalog::own_database().to_u32();
    shared_state::locked(|guarded| {
        guarded.recounts.iter_mut().filter(|entry| **entry == database).for_each(|entry| *entry = 0);
    });
}

/// Returns true if this database may have a worker now or soon.
pub fn has_worker() -> bool {
    shared_state::is_shared() && guc::worker_enabled()
}

/// Returns the slot of the worker that runs in a database.
pub fn worker_slot_of(database: Oid) -> Option<&'static WorkerSlot> {
    let wanted = database.to_u32();
    shared_state::block()
        .worker_slots
        .iter()
        .find(|worker_slot| worker_slot.database.load(Ordering::Acquire) == wanted && worker_slot.is_taken())
}

/// Asks the launcher to check whether a database needs a worker.
fn announce(database: Oid) {
    let wanted = database.to_u32();
    let was_announced = shared_state::locked(|guarded| {
        if guarded.announced_all || guarded.announced.contains(&wanted) {
            return false;
        }
        match guarded.announced.iter_mut().find(|entry| **entry == 0) {
            Some(entry) => *entry = wanted,
            None => guarded.announced_all = true,
        }
        true
    });
    if was_announced {
        shared_state::block().launcher.wake();
    }
}

/// The databases that were announced since the launcher last looked. If too many databases were announced, the launcher checks all
/// databases.
pub enum AnnouncedDatabases {
    These(Vec<u32>),
    All,
}

pub fn take_announced() -> AnnouncedDatabases {
    shared_state::locked(|guarded| {
        let databases = std::mem::take(&mut guarded.announced);
        if std::mem::take(&mut guarded.announced_all) {
            AnnouncedDatabases::All
        } else {
            AnnouncedDatabases::These(databases.into_iter().filter(|database| *database != 0).collect())
        }
    })
}

/// Makes the worker of a database exit, because another session needs exclusive access to the database. The database gets no new
/// worker for a while. This function does not wait until the worker has exited, because the server itself waits for that.
fn database_is_needed(database: Oid) {
    if !shared_state::is_shared() {
        return;
    }
    let (wanted, now) = (database.to_u32(), clock::now());
    let entry = DatabaseCooldown { database: wanted, until: now + COOLDOWN };
    shared_state::locked(|guarded| {
        let mine = guarded.cooldowns.iter().position(|cooldown| cooldown.database == wanted);
        let free = || guarded.cooldowns.iter().position(|cooldown| cooldown.until <= now);
        if let Some(index) = mine.or_else(free) {
            guarded.cooldowns[index] = entry;
        }
    });
    let block = shared_state::block();
    // A slot is reserved for a worker before the worker has started. So these slots include those of starting workers.
    for worker_slot in
        block.worker_slots.iter().filter(|worker_slot| worker_slot.database.load(Ordering::Acquire) == wanted)
    {
        worker_slot.shutdown_requested.store(true, Ordering::Release);
        worker_slot.set_latch();
    }
    block.worker_slots.iter().for_each(|worker_slot| worker_slot.recounter.end(wanted));
    let slots = block.worker_slots.iter().flat_map(|worker_slot| &worker_slot.owner_slots);
    slots.filter(|slot| slot.database.load(Ordering::Acquire) == wanted).for_each(OwnerSlot::end);
    block.launcher.set_latch();
}

/// Returns the time until which a database must have no worker. If the database may have a worker now, returns `None`.
pub fn cooldown_end(database: Oid) -> Option<Timestamp> {
    let (wanted, now) = (database.to_u32(), clock::now());
    shared_state::locked(|guarded| {
        guarded
            .cooldowns
            .iter()
            .find(|cooldown| cooldown.database == wanted && cooldown.until > now)
            .map(|cooldown| cooldown.until)
    })
}
