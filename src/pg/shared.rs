//! The block of memory that all processes share when the library is preloaded.
//!
//! Locking protocol. `counters`, `cells`, `provider_counters`, `exports` and the fields of a [`WorkerSlot`] are atomics: counters and cells
//! are only ever added to or set to zero; every process sets fingerprints of waiting rows; spans pass through a ring of atomics that nobody waits at; a worker slot's `database` is written by the launcher alone, its `pid`, latch, state
//! and `report` by the process that sits in it, its requests (`woken`, `leave`, …) by anybody. What has more than one word is in
//! [`Guarded`], reached through [`locked`] alone, by one process at a time; whoever is in there must neither raise nor
//! wait. A zeroed block is a valid initial state.
//!
//! Without preload there is no such block, and every backend has one of its own.

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

/// Room for counters; one more costs eight bytes.
pub const SLOTS: usize = 32;
/// Room for numbers by labels and for histograms, most of it for networks by source, country and registry; eight bytes
/// each, so 288 kB.
pub const CELLS: usize = 36 * 1024;
/// Room for counters of one provider.
pub const PROVIDER_SLOTS: usize = 24;
/// Providers that are asked over the network.
pub const PROVIDERS: usize = cowrie_enrich_engine::providers::ALL.len();
/// Ways in which metrics leave the server.
pub const EXPORTERS: usize = 3;
/// Spans on their way to the exporter: more than a worker makes in some seconds, and 540 kB.
pub const SPANS: usize = 2048;
/// Procedures that work in batches.
pub const PROCEDURES: usize = 6;
/// Databases that can have a worker at the same time.
pub const SEATS: usize = 64;
/// Databases without a worker that are shown with the reason.
const WAITING: usize = 128;
/// Kinds of steps of a worker and of its owner processes.
pub const STEP_KINDS: usize = 17;
/// Rows of inboxes that are remembered while no worker reads them; 64 kB.
const ROWS: usize = 8192;

#[repr(C)]
pub struct Block {
    pub counters: [AtomicI64; SLOTS],
    pub cells: [AtomicI64; CELLS],
    pub provider_counters: [[AtomicI64; PROVIDER_SLOTS]; PROVIDERS],
    pub launcher: WorkerSlot,
    pub exporter: WorkerSlot,
    /// What each exporter handed on, and how often it could not.
    pub exports: [[AtomicI64; 2]; EXPORTERS],
    /// When counters were zero, microseconds since 2000.
    pub counted_since: AtomicI64,
    /// Whether the exporter collects spans, and of how many networks in 2^64.
    pub spans_collected: AtomicBool,
    pub networks_sampled: AtomicU64,
    pub spans: Ring<WORDS, SPANS>,
    /// Every database that is to have a worker has said what it spent of the quotas, since the server started; and since
    /// when one that has not is waited for, microseconds since 2000.
    pub ledgers_known: AtomicBool,
    pub awaited_since: AtomicI64,
    pub worker_slots: [WorkerSlot; SEATS],
    /// Fingerprints of rows that wait in an inbox for a worker, and what goes into a fingerprint: see `inbox`.
    waiting_rows: [AtomicU64; ROWS],
    pub inbox_epoch: AtomicU64,
    pub inbox_secret: AtomicU64,
    guarded: UnsafeCell<Guarded>,
}

// SAFETY: everything in it is atomic, except `guarded`, which is reached under a lock that all processes respect.
unsafe impl Sync for Block {}

impl Block {
    /// Where the fingerprint of a row would be.
    pub fn waiting_row(&self, fingerprint: u64) -> &AtomicU64 {
        &self.waiting_rows[(fingerprint % ROWS as u64) as usize]
    }
}

/// One background process: where it is and what it has been told.
#[repr(C)]
pub struct WorkerSlot {
    /// OID of the database it works for; 0 while nobody does.
    pub database: AtomicU32,
    /// 0 while the process is not running.
    pub pid: AtomicI32,
    latch: AtomicUsize,
    /// Work was announced since it last looked.
    pub woken: AtomicBool,
    /// It must go: somebody needs the database to themselves, or it is not wanted.
    pub leave: AtomicBool,
    /// It would ask these providers, by bit, if another process gave way.
    waits_for: AtomicU32,
    /// What its database knows of spent quotas is known to all.
    pub ledger_read: AtomicBool,
    /// It was said anew which sessions matter.
    pub rules_changed: AtomicBool,
    /// `known_networks` was edited.
    pub networks_edited: AtomicBool,
    /// Lookups were not queued.
    pub sweep_wanted: AtomicBool,
    /// What it is doing, how it ended, and since when (microseconds since 2000); the owner's own codes.
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
    /// When one of them last logged a message, microseconds since 2000: each lives too short to remember it.
    pub logged_at: [AtomicI64; LOGGED],
}

/// What the worker of a database says of it. It stays when the worker ends, for the next one to go on with.
#[repr(C)]
pub struct Report {
    /// OID of the database; 0 is none.
    pub database: AtomicU32,
    /// When the worker last began something, microseconds since 2000.
    pub heartbeat: AtomicI64,
    /// Like those of the slot, but of all workers that this database has had.
    pub batches: AtomicI64,
    pub errors: AtomicI64,
    /// The same by kind of step, with those of owner processes; the index is the owner's own code.
    pub step_errors: [AtomicI64; STEP_KINDS],
    /// How long the worker slept with nothing under way, in thousandths of `worker_naptime`.
    pub slept: AtomicI64,
    /// Unsafe foreign keys that the worker saw when it last looked.
    pub unsafe_keys: AtomicI64,
    /// Owner processes that could not be started, of all workers that this database has had.
    pub launch_failures: AtomicI64,
    /// What the worker counts. [`UNKNOWN`] until it has counted it.
    pub networks: AtomicI64,
    /// When the oldest pending count was counted, microseconds since 2000; 0 where there is none.
    pub oldest_count: AtomicI64,
    pub queues: [QueueReport; PROVIDERS],
    /// Rows of `session_completion` that are pending, and when the oldest became so, microseconds since 2000; 0 is none.
    pub completions: AtomicI64,
    pub oldest_completion: AtomicI64,
    pub suspended_owners: AtomicI64,
    /// Networks that an edit of `known_networks` concerns and that are not reclassified yet.
    pub pending_networks: AtomicI64,
    /// Attached tables that are not intact.
    pub tables_not_intact: AtomicI64,
    /// When the oldest recount that is still to be made was asked for, microseconds since 2000; 0 is none.
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

/// As many as `store::sizes` counts.
pub const QUEUE_SIZES: usize = 6;

/// What is read and written under the lock.
#[repr(C)]
pub struct Guarded {
    /// Databases that the launcher should look at; 0 is no entry.
    pub announced: [u32; 16],
    /// More were announced than there is room for: look at all.
    pub announced_all: bool,
    /// Databases that are to have a worker and have none, the oldest first; written by the launcher.
    waiting: [Waiting; WAITING],
    /// Databases that need a recount which no row of `recount_request` asks for; 0 is no entry.
    pub recounts: [u32; SEATS],
    /// Databases that must be left alone for a moment.
    pub kept_out: [KeptOut; 16],
    pub providers: [Provider; PROVIDERS],
    pub last_buried: Buried,
    /// The last call of each procedure that works in batches, in whichever database that was.
    pub calls: [ProcedureCall; PROCEDURES],
}

/// The worker's slot with the number that a process was started with.
pub fn worker_slot(number: i32) -> &'static WorkerSlot {
    &block().worker_slots[usize::try_from(number).unwrap_or_default() % SEATS]
}

/// The number of a worker's slot. Other slots have none, and get that of the last one.
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

/// The process that counts the sessions of a database again. It may outlive the worker that started it.
#[repr(C)]
pub struct Recounter {
    /// 0 while there is none.
    pid: AtomicI32,
    database: AtomicU32,
}

thread_local! {
    static OWN_RECOUNTER: Cell<Option<&'static Recounter>> = const { Cell::new(None) };
}

impl Recounter {
    /// Makes this process the one for a database until it exits. Returns whether there was none.
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

    /// Makes the process end, if it works for this database.
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
    /// 0 stands for an empty entry.
    pub database: u32,
    /// A code of the caller's.
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

/// The databases that wait for a worker, as the launcher published them.
pub fn waiting() -> Vec<Waiting> {
    let entries = locked(|guarded| guarded.waiting);
    entries.into_iter().take_while(|entry| entry.database != 0).collect()
}

/// The last lookup that became a dead letter.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Buried {
    /// Its place.
    pub provider: u32,
    /// Microseconds since 2000; 0 is never.
    pub at: i64,
    pub reason: Note,
}

/// How far a call is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcedureCall {
    pub database: u32,
    /// Process that runs it; 0 where there was none.
    pub pid: i32,
    /// It runs still, as far as anybody said.
    pub is_open: bool,
    /// It came to its end.
    pub is_complete: bool,
    pub phase: Note,
    pub batches: i64,
    /// Of this phase.
    pub done: i64,
    pub total: i64,
    /// Microseconds since 2000.
    pub began: i64,
    pub phase_began: i64,
    pub updated: i64,
}

/// How a provider is doing, and who is asking it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Provider {
    pub breaker: Breaker,
    /// State of the rate limit.
    pub rate: i64,
    /// Requests under way.
    pub in_use: u32,
    /// How often in a row it asked for a rest.
    pub rests: u32,
    /// Requests in a row whose lookup it could not make sense of.
    pub refusals: u32,
    /// Database whose worker is next, because it waits while others ask one request after another; until when it is
    /// waited for (microseconds since 2000).
    pub next_turn: u32,
    pub turn_ends: i64,
    /// Microseconds since 2000; 0 is never.
    pub last_success: i64,
    pub last_failure: i64,
    pub last_error: Note,
    /// What of a day's quota is spent.
    pub quota: Quota,
    pub stop: Stop,
    /// What it said beside its last answer.
    pub notice: Note,
}

/// A provider does not want to be asked as things are.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stop {
    /// Microseconds since 2000; 0 is not stopped. Then it is asked once more.
    pub until: i64,
    /// What was refused; while it is the same there is no sense in asking.
    pub credentials: u64,
    pub reason: Note,
}

/// A short text.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Note {
    length: u8,
    bytes: [u8; 200],
}

impl Note {
    /// Keeps as much of a text as there is room for.
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
    /// What else is to be done when this process ends.
    static AT_EXIT: Cell<Option<fn()>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Shared {
    block: &'static Block,
    lock: *mut pg_sys::LWLock,
}

static PRIVATE: OnceLock<Box<Block>> = OnceLock::new();

/// The shared block, or this backend's own.
pub fn block() -> &'static Block {
    if let Some(shared) = SHARED.get() {
        return shared.block;
    }
    PRIVATE.get_or_init(|| {
        // SAFETY: zeroed memory is a valid block.
        unsafe { Box::<Block>::new_zeroed().assume_init() }
    })
}

/// Whether the library was preloaded, so that there are shared memory and a launcher.
pub fn is_shared() -> bool {
    SHARED.get().is_some()
}

/// Runs `work` while no other process is in here. It must be short, and must neither raise nor wait.
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
        // SAFETY: the block is this backend's own, used on its only thread, and `work` does not come back here.
        None => work(unsafe { &mut *guarded }),
    }
}

impl Report {
    /// Begins anew, for a database.
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

    /// Tells the process that there is work; once until it looks.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.set_latch();
        }
    }

    /// It would ask a provider if another process gave way.
    pub fn waits_for(&self, provider: usize) {
        self.waits_for.fetch_or(1 << provider, Ordering::AcqRel);
    }

    /// It would not, any more; answers whether it did.
    pub fn waits_no_more(&self, provider: usize) -> bool {
        self.waits_for.fetch_and(!(1 << provider), Ordering::AcqRel) & 1 << provider != 0
    }

    /// Makes the process look at what it has been told.
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

/// Has `work` run when this process ends, however that comes about short of a crash, while it still has shared memory.
/// One function per process.
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
        // Also where the launcher is not the one that started this process.
        block().launcher.set_latch();
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    if let Some(work) = AT_EXIT.get() {
        work();
    }
}

/// Asks for the shared block; called from `_PG_init`. Does nothing, and says so, unless the library is being preloaded.
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
    // SAFETY: ShmemInitStruct returns the same, suitably aligned block in every process; it is zeroed under
    // AddinShmemInitLock by whoever finds it new. The block lives as long as the process.
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
