//! The worker slots, and how workers are notified of work.
//!
//! The launcher gives each database a worker slot in shared memory. Backends find the slot of their database there. They wake its
//! worker when they commit queued work, once for any amount of work. They make the worker exit when another session needs exclusive
//! access to the database. A database without a slot is announced to the launcher.

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
    /// Wake-ups that this transaction sends when it commits.
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

/// How a worker ended. The worker stores this in its slot for the launcher.
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

/// Why a database that needs a worker has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum NoWorkerReason {
    /// All slots of max_worker_processes are taken, or are kept for databases that had a worker before.
    Slot = 1,
    /// The limit of workers is reached.
    Room,
    /// The last worker failed, and the pause before the next start is not over.
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

/// How long a database stays without a worker once another session needs exclusive access. The server itself
/// waits five seconds for other processes to disconnect.
const COOLDOWN: Duration = Duration::from_secs(6);

/// Begins to listen for `CREATE EXTENSION`, for `DROP EXTENSION`, and for commands that need a database without
/// other connections, such as `DROP DATABASE`.
///
/// A transaction may be prepared while the library is not preloaded, and committed after it is preloaded. The library may also be
/// loaded by the CREATE EXTENSION that is running now.
pub fn listen() {
    if hooks::is_extension_being_changed() {
        extension_changes();
    }
    hooks::listen(Listener { extension_changes, database_is_needed, prepared_commits });
}

/// Wakes the worker when this transaction commits.
pub fn work_was_queued() {
    WAKEUPS.set(Wakeups { work: true, ..WAKEUPS.get() });
}

/// Notes that this transaction changes the rules of session priority.
pub fn rules_changed() {
    WAKEUPS.set(Wakeups { work: true, rules: true, ..WAKEUPS.get() });
}

/// Notes that this transaction edits `known_networks`.
pub fn networks_were_edited() {
    WAKEUPS.set(Wakeups { work: true, networks: true, ..WAKEUPS.get() });
}

fn extension_changes() {
    WAKEUPS.set(Wakeups { extension: true, ..WAKEUPS.get() });
}

/// Notes that counts of this transaction are lost, and that the request for a recount could not be appended.
pub fn recount_is_needed() {
    WAKEUPS.set(Wakeups { work: true, recount: true, ..WAKEUPS.get() });
}

/// Notes that lookups of this transaction were not queued, because their requests could not be appended. A
/// sweep finds them.
pub fn sweep_is_needed() {
    WAKEUPS.set(Wakeups { work: true, sweep: true, ..WAKEUPS.get() });
}

/// Called last before PREPARE TRANSACTION. Sets marks, because the server keeps only the locks and rows of a prepared transaction.
/// The process that commits the transaction reads the marks. A launcher or worker that is running at that time also reads them.
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

/// Called before COMMIT PREPARED. If several transactions are prepared, the marks may belong to another prepared
/// transaction. The wake-up is then unnecessary, but costs little.
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
        // Edits of networks have no mark, because the worker looks for them each naptime.
        networks: wakeups.networks,
        extension: wakeups.extension || is_marked(Mark::Extension),
        recount: wakeups.recount || is_marked(Mark::Recount),
        sweep: wakeups.sweep || is_marked(Mark::Sweep),
    });
}

/// Sends the wake-ups of the transaction that ended. Sets atomics and latches and takes one short lock;
/// cannot fail.
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
        // A worker that starts later sweeps first.
        if wakeups.sweep {
            worker_slot.sweep_wanted.store(true, Ordering::Release);
        }
        worker_slot.wake();
    }
    // A new extension is always announced, because a worker in the slot may have just found no extension.
    if wakeups.extension || (worker_slot.is_none() && wakeups.work && guc::worker_enabled()) {
        announce(database);
    }
}

/// Makes the worker of this database request a recount.
pub fn ask_for_recount() {
    let database = catalog::own_database().to_u32();
    shared_state::locked(|guarded| guarded.ask_for_recount(database));
}

/// Returns whether shared memory says that this database needs a recount. The tables do not contain this request.
pub fn is_recount_needed() -> bool {
    let database = catalog::own_database().to_u32();
    shared_state::locked(|guarded| guarded.recounts.contains(&database))
}

/// Notes that the table `recount_request` now contains the request for a recount.
pub fn recount_is_requested() {
    let database = catalog::own_database().to_u32();
    shared_state::locked(|guarded| {
        guarded.recounts.iter_mut().filter(|entry| **entry == database).for_each(|entry| *entry = 0);
    });
}

/// Returns whether this database has a worker, or may have one soon.
pub fn has_worker() -> bool {
    shared_state::is_shared() && guc::worker_enabled()
}

/// Returns the slot of a database's worker.
pub fn worker_slot_of(database: Oid) -> Option<&'static WorkerSlot> {
    let wanted = database.to_u32();
    shared_state::block()
        .worker_slots
        .iter()
        .find(|worker_slot| worker_slot.database.load(Ordering::Acquire) == wanted && worker_slot.is_taken())
}

/// Makes the launcher check a database.
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

/// Databases announced since the launcher last checked, or all databases.
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

/// Makes a database's worker exit, because another session needs exclusive access. Keeps new workers out for
/// a while. Does not wait for the worker's exit, because the statement that needs the access waits for this
/// exit.
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
    // The slots include the slot of a worker that is being started and has not taken its slot yet.
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

/// Returns the time until which a database must stay without a worker. Returns `None` if it may have a worker
/// now.
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
