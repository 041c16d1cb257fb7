//! The block of memory that all processes share when the library is preloaded.
//!
//! Locking protocol:
//!
//! - `counters`, `cells`, `provider_counters`, `exports` and the fields of a [`WorkerSlot`] are atomics.
//!   Counters and cells are only added to or set to zero.
//! - Every process sets the fingerprints of waiting rows.
//! - Spans pass through a ring of atomics. No process waits for the ring.
//! - Only the launcher writes a worker slot's `database`. Only the process that has taken the slot writes its
//!   `pid`, latch, state and `report`. Any process may set its requests (`woken`, `leave`, …).
//! - Values of more than one word are in [`Guarded`], which only [`locked`] reaches, for one process at a
//!   time. A process that holds this lock must neither raise an error nor wait.
//!
//! A zeroed block is a valid initial state. Without preload there is no shared block, and every backend has a
//! private one.

use std::cell::{Cell, UnsafeCell};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use cowrie_enrich_engine::breaker::Breaker;
use cowrie_enrich_engine::otlp::WORDS;
use cowrie_enrich_engine::quota::Quota;
use cowrie_enrich_engine::ring::Ring;
use pgrx::pg_sys;

use super::owner_slot::{LOGGED, OWNER_SLOTS, OwnerSlot};
use super::{background, clock, latch};

/// Capacity for counters; each takes eight bytes.
pub const SLOTS: usize = 32;
/// Capacity for numbers by labels and for histograms. Most of it is for networks by source, country and
/// registry. Each number takes eight bytes, so this is 288 kB.
pub const CELLS: usize = 36 * 1024;
/// Capacity for counters of one provider.
pub const PROVIDER_SLOTS: usize = 24;
/// Providers that are queried over the network.
pub const PROVIDERS: usize = cowrie_enrich_engine::providers::ALL.len();
/// Ways in which metrics leave the server.
pub const EXPORTERS: usize = 3;
/// Capacity for spans that wait for the exporter: more than a worker creates in some seconds, and 540 kB.
pub const SPANS: usize = 2048;
/// Procedures that work in batches.
pub const PROCEDURES: usize = 6;
/// Databases that can have a worker at the same time.
pub const SEATS: usize = 64;
/// Databases without a worker that are shown with the reason.
const WAITING: usize = 128;
/// Kinds of steps of a worker and of its owner processes.
pub const STEP_KINDS: usize = 17;
/// Capacity for fingerprints of inbox rows that no worker has read yet; 64 kB.
const ROWS: usize = 8192;

#[repr(C)]
pub struct Block {
    pub counters: [AtomicI64; SLOTS],
    pub cells: [AtomicI64; CELLS],
    pub provider_counters: [[AtomicI64; PROVIDER_SLOTS]; PROVIDERS],
    pub launcher: WorkerSlot,
    pub exporter: WorkerSlot,
    /// Exports and failed exports, by exporter.
    pub exports: [[AtomicI64; 2]; EXPORTERS],
    /// When the counters were last zero, microseconds since 2000.
    pub counted_since: AtomicI64,
    /// True while the exporter collects spans; and the sampled share of networks, in 2^64ths.
    pub spans_collected: AtomicBool,
    pub networks_sampled: AtomicU64,
    pub spans: Ring<WORDS, SPANS>,
    /// True once every database that is to have a worker has reported its spent quotas since the server
    /// started. And since when a database that has not reported is waited for, microseconds since 2000.
    pub ledgers_known: AtomicBool,
    pub awaited_since: AtomicI64,
    pub worker_slots: [WorkerSlot; SEATS],
    /// Fingerprints of rows that wait in an inbox for a worker, and the two values that enter a fingerprint:
    /// see `inbox`.
    waiting_rows: [AtomicU64; ROWS],
    pub inbox_epoch: AtomicU64,
    pub inbox_secret: AtomicU64,
    guarded: UnsafeCell<Guarded>,
}

// SAFETY: all fields are atomic, except `guarded`, which is only reached under a lock that all processes
// respect.
unsafe impl Sync for Block {}

impl Block {
    /// Returns the entry for the fingerprint of a row.
    pub fn waiting_row(&self, fingerprint: u64) -> &AtomicU64 {
        &self.waiting_rows[(fingerprint % ROWS as u64) as usize]
    }
}

/// One background process: its identity, the requests that other processes sent to it, and its state.
#[repr(C)]
pub struct WorkerSlot {
    /// OID of the database for which the process works; 0 while the slot is free.
    pub database: AtomicU32,
    /// 0 while the process is not running.
    pub pid: AtomicI32,
    latch: AtomicUsize,
    /// Work was announced since the process last checked.
    pub woken: AtomicBool,
    /// The process must end, because another session needs exclusive access to the database or the worker is
    /// not wanted.
    pub leave: AtomicBool,
    /// Providers, by bit, that the process would query as soon as another process returns a permit.
    waits_for: AtomicU32,
    /// The spent quotas that the database's ledger records are in shared memory.
    pub ledger_read: AtomicBool,
    /// The rules of session priority changed.
    pub rules_changed: AtomicBool,
    /// `known_networks` was edited.
    pub networks_edited: AtomicBool,
    /// Some lookups were not queued.
    pub sweep_wanted: AtomicBool,
    /// The process's activity, how it ended, and since when (microseconds since 2000); the codes are those of
    /// `worker::registry`.
    pub state: AtomicU32,
    pub ending: AtomicU32,
    pub since: AtomicI64,
    pub started_at: AtomicI64,
    /// Work done since it was started.
    pub batches: AtomicI64,
    pub errors: AtomicI64,
    pub report: Report,
    pub recounter: Recounter,
    /// Processes that run code of table owners for this worker, and that may outlive it.
    pub owner_slots: [OwnerSlot; OWNER_SLOTS],
    /// When an owner process last logged a message, microseconds since 2000. An owner process ends too soon
    /// to remember this itself.
    pub logged_at: [AtomicI64; LOGGED],
}

/// Metrics of one database, written by its worker. They stay when the worker ends, and the next worker
/// continues them.
#[repr(C)]
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

/// A size or a time that has not been counted yet.
pub const UNKNOWN: i64 = -1;

/// Sizes of one provider's queue.
#[repr(C)]
pub struct QueueReport {
    pub sizes: [AtomicI64; QUEUE_SIZES],
    /// Microseconds since 2000; 0 where the queue is empty.
    pub oldest: AtomicI64,
}

/// Number of sizes that `store::sizes` counts.
pub const QUEUE_SIZES: usize = 6;

/// Data that is read and written under the lock.
#[repr(C)]
pub struct Guarded {
    /// Databases for the launcher to check; 0 is an empty entry.
    pub announced: [u32; 16],
    /// More databases were announced than fit: check all.
    pub announced_all: bool,
    /// Databases that are to have a worker and have none, the oldest first; written by the launcher.
    waiting: [Waiting; WAITING],
    /// Databases that need a recount for which `recount_request` has no row; 0 is an empty entry.
    pub recounts: [u32; SEATS],
    /// Databases in which no worker may start for a moment.
    pub kept_out: [KeptOut; 16],
    pub providers: [Provider; PROVIDERS],
    pub last_buried: Buried,
    /// The last call of each procedure that works in batches, in any database.
    pub calls: [ProcedureCall; PROCEDURES],
}

/// Returns the worker slot with the number that was passed to the process at its start.
pub fn worker_slot(number: i32) -> &'static WorkerSlot {
    &block().worker_slots[usize::try_from(number).unwrap_or_default() % SEATS]
}

/// Returns the number of a worker's slot. For other slots, returns the last worker slot's number.
pub fn number_of(slot: &WorkerSlot) -> usize {
    block().worker_slots.iter().position(|worker_slot| std::ptr::eq(worker_slot, slot)).unwrap_or(SEATS - 1)
}

impl Guarded {
    /// Notes that a database needs a recount, if there is room.
    pub fn ask_for_recount(&mut self, database: u32) {
        if !self.recounts.contains(&database)
            && let Some(entry) = self.recounts.iter_mut().find(|entry| **entry == 0)
        {
            *entry = database;
        }
    }
}

/// The process that recounts the sessions of a database. It may outlive the worker that started it.
#[repr(C)]
pub struct Recounter {
    /// 0 while no process has taken this slot.
    pid: AtomicI32,
    database: AtomicU32,
}

thread_local! {
    static OWN_RECOUNTER: Cell<Option<&'static Recounter>> = const { Cell::new(None) };
}

impl Recounter {
    /// Makes this process the recounter of a database until it exits. Returns false if another process is.
    pub fn take(&'static self, database: u32) -> bool {
        if self.pid.compare_exchange(0, background::own_pid(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        self.database.store(database, Ordering::Release);
        OWN_RECOUNTER.set(Some(self));
        at_exit(|| {
            if let Some(own) = OWN_RECOUNTER.take() {
                own.database.store(0, Ordering::Release);
                own.pid.store(0, Ordering::Release);
            }
        });
        true
    }

    /// Terminates the process if it works for this database.
    pub fn end(&self, database: u32) {
        if self.database.load(Ordering::Acquire) == database {
            background::terminate(self.pid.load(Ordering::Acquire));
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct KeptOut {
    pub database: u32,
    /// Microseconds since 2000.
    pub until: i64,
}

/// A database that is to have a worker and has none.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// 0 is an empty entry.
    pub database: u32,
    /// A code that the caller defines.
    pub reason: u32,
    /// Microseconds since 2000.
    pub since: i64,
}

/// Publishes the databases that wait for a worker. Those beyond the limit are left out.
pub fn publish_waiting(waiting: &[Waiting]) {
    let none = Waiting { database: 0, reason: 0, since: 0 };
    locked(|guarded| {
        let entries = waiting.iter().copied().chain(std::iter::repeat(none));
        guarded.waiting.iter_mut().zip(entries).for_each(|(to, entry)| *to = entry);
    });
}

/// Returns the databases that wait for a worker, as the launcher published them.
pub fn waiting() -> Vec<Waiting> {
    let entries = locked(|guarded| guarded.waiting);
    entries.into_iter().take_while(|entry| entry.database != 0).collect()
}

/// The last lookup that became a dead letter.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buried {
    /// The provider's index.
    pub provider: u32,
    /// Microseconds since 2000; 0 is never.
    pub at: i64,
    pub reason: Note,
}

/// Progress of a procedure call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcedureCall {
    pub database: u32,
    /// Process that runs the call; 0 before the first call.
    pub pid: i32,
    /// The call has not ended, according to the last report.
    pub is_open: bool,
    /// The call reached its end.
    pub is_complete: bool,
    pub phase: Note,
    pub batches: i64,
    /// Items of this phase that are done.
    pub done: i64,
    pub total: i64,
    /// Microseconds since 2000.
    pub began: i64,
    pub phase_began: i64,
    pub updated: i64,
}

/// A provider's health, and which processes query it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Provider {
    pub breaker: Breaker,
    /// State of the rate limit.
    pub rate: i64,
    /// Requests in flight.
    pub in_use: u32,
    /// How many times in a row the provider asked for a pause.
    pub rests: u32,
    /// Requests in a row whose lookup the provider rejected as invalid.
    pub refusals: u32,
    /// Database whose worker comes next, because it waits while other workers send one request after another;
    /// and until when the permit is kept for it (microseconds since 2000).
    pub next_turn: u32,
    pub turn_ends: i64,
    /// Microseconds since 2000; 0 is never.
    pub last_success: i64,
    pub last_failure: i64,
    pub last_error: Note,
    /// Requests of the current day that count against the quota.
    pub quota: Quota,
    pub stop: Stop,
    /// A notice that the provider sent with its last answer.
    pub notice: Note,
}

/// A provider refuses requests with the current credentials.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stop {
    /// Microseconds since 2000; 0 is not stopped. After this time, another request is tried.
    pub until: i64,
    /// Fingerprint of the refused credentials. While they are unchanged, further requests are pointless.
    pub credentials: u64,
    pub reason: Note,
}

/// A text of at most 200 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Note {
    length: u8,
    bytes: [u8; 200],
}

impl Note {
    /// Stores the text, truncated to the space.
    pub fn set(&mut self, text: &str) {
        let mut length = text.len().min(self.bytes.len());
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        self.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length = length as u8;
    }

    pub fn text(&self) -> Option<String> {
        let bytes = self.bytes.get(..usize::from(self.length))?;
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

thread_local! {
    static PREVIOUS_REQUEST: Cell<Option<unsafe extern "C-unwind" fn()>> = const { Cell::new(None) };
    static PREVIOUS_STARTUP: Cell<Option<unsafe extern "C-unwind" fn()>> = const { Cell::new(None) };
    static SHARED: Cell<Option<Shared>> = const { Cell::new(None) };
    /// The worker's slot that this process has taken.
    static OWN: Cell<Option<&'static WorkerSlot>> = const { Cell::new(None) };
    /// Further work to do when this process ends.
    static AT_EXIT: Cell<Option<fn()>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Shared {
    block: &'static Block,
    lock: *mut pg_sys::LWLock,
}

static PRIVATE: OnceLock<Box<Block>> = OnceLock::new();

/// Returns the shared block, or this backend's private one.
pub fn block() -> &'static Block {
    if let Some(shared) = SHARED.get() {
        return shared.block;
    }
    PRIVATE.get_or_init(|| {
        // SAFETY: zeroed memory is a valid block.
        unsafe { Box::<Block>::new_zeroed().assume_init() }
    })
}

/// Returns whether the library was preloaded. If so, there are shared memory and a launcher.
pub fn is_shared() -> bool {
    SHARED.get().is_some()
}

/// Runs `work` under the lock. `work` must be short, and must neither raise an error nor wait.
pub fn locked<T>(work: impl FnOnce(&mut Guarded) -> T) -> T {
    let guarded = block().guarded.get();
    match SHARED.get() {
        // SAFETY: the lock keeps all other processes out; the reference ends before it is released.
        Some(shared) => unsafe {
            pg_sys::LWLockAcquire(shared.lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let result = work(&mut *guarded);
            pg_sys::LWLockRelease(shared.lock);
            result
        },
        // SAFETY: the block is private to this backend and used on its only thread, and `work` does not call
        // `locked`.
        None => work(unsafe { &mut *guarded }),
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

impl WorkerSlot {
    pub fn is_taken(&self) -> bool {
        self.pid.load(Ordering::Acquire) != 0
    }

    /// Notifies the process of work, once until it checks.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.set_latch();
        }
    }

    /// Notes that the process would query a provider as soon as another process returns a permit.
    pub fn waits_for(&self, provider: usize) {
        self.waits_for.fetch_or(1 << provider, Ordering::AcqRel);
    }

    /// Withdraws that note. Returns whether it was set.
    pub fn waits_no_more(&self, provider: usize) -> bool {
        self.waits_for.fetch_and(!(1 << provider), Ordering::AcqRel) & 1 << provider != 0
    }

    /// Makes the process check its requests.
    pub fn set_latch(&self) {
        latch::set(self.latch.load(Ordering::Acquire));
    }

    /// Takes the slot until this process exits. Returns whether the slot was free.
    pub fn take(&'static self) -> bool {
        // SAFETY: reads this process's number.
        let pid = unsafe { pg_sys::MyProcPid };
        if self.pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        self.latch.store(latch::own(), Ordering::Release);
        OWN.set(Some(self));
        // SAFETY: a static function, called once while the process still has access to shared memory.
        unsafe { pg_sys::before_shmem_exit(Some(stand_up), pg_sys::Datum::from(0)) };
        true
    }
}

/// Registers `work` to run when this process ends for any reason except a crash, while it still has shared
/// memory. One function per process.
pub fn at_exit(work: fn()) {
    if AT_EXIT.replace(Some(work)).is_none() {
        // SAFETY: a static function, registered once.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) };
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn stand_up(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    if let Some(worker_slot) = OWN.take() {
        worker_slot.latch.store(0, Ordering::Release);
        worker_slot.pid.store(0, Ordering::Release);
        // The launcher is informed even if it is not the launcher that started this process.
        block().launcher.set_latch();
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    if let Some(work) = AT_EXIT.get() {
        work();
    }
}

/// Requests the shared block; called from `_PG_init`. Does nothing and returns false unless the library is
/// being preloaded.
pub fn request() -> bool {
    // SAFETY: hooks are chained while the postmaster starts, on its only thread.
    unsafe {
        if !pg_sys::process_shared_preload_libraries_in_progress {
            return false;
        }
        PREVIOUS_REQUEST.set(pg_sys::shmem_request_hook);
        pg_sys::shmem_request_hook = Some(on_request);
        PREVIOUS_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
    true
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_request() {
    // SAFETY: called by the postmaster at the time when memory may be requested.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST.get() {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(size_of::<Block>());
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), 1);
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_startup() {
    // SAFETY: ShmemInitStruct returns the same, suitably aligned block in every process. The process that
    // creates the block zeroes it under AddinShmemInitLock. The block lives as long as the process.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP.get() {
            previous();
        }
        let mut found = false;
        let init = &mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(init, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let block = pg_sys::ShmemInitStruct(TRANCHE.as_ptr(), size_of::<Block>(), &mut found);
        if !found {
            std::ptr::write_bytes(block.cast::<u8>(), 0, size_of::<Block>());
        }
        pg_sys::LWLockRelease(init);
        let lock = &raw mut (*pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr())).lock;
        let block = &*block.cast::<Block>();
        if !found {
            block.counted_since.store(clock::now(), Ordering::Relaxed);
        }
        SHARED.set(Some(Shared { block, lock }));
    }
}

/// Name of the block and of its lock, as pg_shmem_allocations and wait events show them.
const TRANCHE: &std::ffi::CStr = c"cowrie_enrich";

/// Index of AddinShmemInitLock among the individual locks (lwlocknames.txt), the same from 9.5 on.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;
