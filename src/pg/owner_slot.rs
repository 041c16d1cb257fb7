//! Slots in shared memory for the processes that run code of table owners.
//!
//! A worker gives a slot to an owner and starts a process for it. The process stores its pid there and clears it at
//! its end. So a process that does not end keeps its slot, also under the next worker. All fields are atomics. The worker
//! writes the owner and the requests. The process writes its pid and its progress.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use super::shared::WorkerSlot;
use super::{background, clock, latch, shared};

/// Slots of a database: for two running processes, or for two abandoned ones and one that runs.
pub const OWNER_SLOTS: usize = 3;
/// The time of a statement that runs code of an owner.
const CODE_LIMIT: Duration = Duration::from_millis(600);
/// The same for a new owner: many new owners with hostile code must not keep another one waiting.
const TRIAL_LIMIT: Duration = Duration::from_millis(100);
/// Messages whose last time is remembered.
pub const LOGGED: usize = 32;

#[repr(C)]
pub struct OwnerSlot {
    /// OID of the database; it stays until the process has ended.
    pub database: AtomicU32,
    /// OID of the role whose code the process runs; 0 while the slot is free.
    pub owner: AtomicU32,
    /// 0 while no process is running.
    pub pid: AtomicI32,
    latch: AtomicUsize,
    /// The pid of the worker that started the process. The process ends when that worker has ended.
    pub supervisor: AtomicI32,
    /// The process connects as the bootstrap superuser first, because the owner may not connect.
    pub connects_as_superuser: AtomicBool,
    /// The process must end as soon as it can.
    pub leave: AtomicBool,
    /// Other owners wait, so that the process ends when its share of the time is over.
    pub others_wait: AtomicBool,
    /// The owner is new, so that the code gets less time.
    pub is_trial: AtomicBool,
    /// The worker did not wait any longer for the code to end.
    pub is_abandoned: AtomicBool,
    /// The process evaluates the rules of the owner, from this table and page on.
    pub evaluates: AtomicBool,
    /// The evaluation left out a table or pages because of a lock or a failed transaction.
    pub has_gaps: AtomicBool,
    pub next_table: AtomicU32,
    pub next_page: AtomicU32,
    /// A process has taken the slot since it was reserved.
    pub has_begun: AtomicBool,
    /// The process is connected.
    pub is_connected: AtomicBool,
    /// The process waits for work.
    pub is_idle: AtomicBool,
    /// Since when code of the owner has been running, microseconds since 2000; 0 while none is.
    pub code_since: AtomicI64,
    /// Time that this code has taken so far, microseconds.
    pub used: AtomicI64,
    /// Statements that were cancelled because their time was over.
    pub overruns: AtomicI64,
    /// The worker terminated the process.
    pub is_terminated: AtomicBool,
    /// The code of the owner ended the process, and no SIGTERM by another role.
    pub ended_in_code: AtomicBool,
    /// The process ended by itself, with nothing left half done.
    pub has_finished: AtomicBool,
    /// Holder of the leases of the process; 0 before the first.
    pub holder: AtomicI64,
    /// Steps made and steps that failed since the process was started.
    pub batches: AtomicI64,
    pub errors: AtomicI64,
    /// Microseconds since 2000.
    pub started_at: AtomicI64,
    pub since: AtomicI64,
}

thread_local! {
    /// The slot of this process, and the worker seat that it belongs to.
    static OWN: Cell<Option<(&'static OwnerSlot, &'static WorkerSlot)>> = const { Cell::new(None) };
}

impl OwnerSlot {
    pub fn is_free(&self) -> bool {
        self.owner.load(Ordering::Acquire) == 0
    }

    /// Wakes the process, so that it reads its slot.
    pub fn set_latch(&self) {
        latch::set(self.latch.load(Ordering::Acquire));
    }

    /// Returns the time after which code in this slot is cancelled.
    pub fn code_limit(&self) -> Duration {
        if self.is_trial.load(Ordering::Relaxed) { TRIAL_LIMIT } else { CODE_LIMIT }
    }

    /// Makes the process end at once, also in the middle of code that can be interrupted.
    pub fn end(&self) {
        self.leave.store(true, Ordering::Release);
        background::terminate(self.pid.load(Ordering::Acquire));
    }

    /// Prepares a free slot for a new process.
    pub fn reserve(&self, database: u32, owner: u32, supervisor: i32) {
        let flags = [
            &self.connects_as_superuser,
            &self.leave,
            &self.others_wait,
            &self.is_trial,
            &self.is_abandoned,
            &self.evaluates,
            &self.has_gaps,
            &self.has_begun,
            &self.is_connected,
            &self.is_idle,
            &self.is_terminated,
            &self.ended_in_code,
            &self.has_finished,
        ];
        flags.into_iter().for_each(|flag| flag.store(false, Ordering::Relaxed));
        let numbers =
            [&self.code_since, &self.used, &self.overruns, &self.holder, &self.batches, &self.errors];
        numbers.into_iter().for_each(|number| number.store(0, Ordering::Relaxed));
        self.started_at.store(clock::now(), Ordering::Relaxed);
        self.since.store(clock::now(), Ordering::Relaxed);
        self.supervisor.store(supervisor, Ordering::Relaxed);
        self.database.store(database, Ordering::Release);
        self.owner.store(owner, Ordering::Release);
    }

    /// Frees the slot of a process that has ended.
    pub fn free(&self) {
        self.owner.store(0, Ordering::Release);
        self.is_abandoned.store(false, Ordering::Release);
    }

    /// Makes this process the one of the slot until it exits. Returns whether the slot was waiting for a process.
    pub fn take(&'static self, seat: &'static WorkerSlot) -> bool {
        // SAFETY: reads the pid of this process.
        let pid = unsafe { pg_sys::MyProcPid };
        if self.is_free() || self.pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        self.has_begun.store(true, Ordering::Release);
        self.latch.store(latch::own(), Ordering::Release);
        OWN.set(Some((self, seat)));
        // SAFETY: a static function, called once while the process still has access to shared memory.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) };
        true
    }
}

/// Abandoned processes of a database.
pub fn abandoned(database: pg_sys::Oid) -> usize {
    let slots = shared::block().seats.iter().flat_map(|seat| &seat.owner_slots);
    let is_abandoned = |slot: &&OwnerSlot| {
        slot.database.load(Ordering::Acquire) == database.to_u32()
            && slot.pid.load(Ordering::Acquire) != 0
            && slot.is_abandoned.load(Ordering::Acquire)
    };
    slots.filter(is_abandoned).count()
}

/// Returns whether an owner process may log a message: no owner process of its database has logged it within `pause`
/// microseconds. `message` is a hash, and two messages may share a place. Returns `None` in every other process.
pub fn may_log(message: u64, now: i64, pause: i64) -> Option<bool> {
    let (_, seat) = OWN.get()?;
    let at = &seat.logged_at[(message % LOGGED as u64) as usize];
    let last = at.load(Ordering::Relaxed);
    if last != 0 && now.saturating_sub(last) < pause {
        return Some(false);
    }
    Some(at.compare_exchange(last, now, Ordering::AcqRel, Ordering::Relaxed).is_ok())
}

/// Returns the worker seat that this owner process belongs to; `None` in every other process.
pub fn own_seat() -> Option<&'static WorkerSlot> {
    OWN.get().map(|(_, seat)| seat)
}

/// Notes that code of the owner begins in this process, or ends.
pub fn code_runs(runs: bool) {
    let Some((slot, _)) = OWN.get() else { return };
    let now = clock::now();
    let since = slot.code_since.swap(if runs { now } else { 0 }, Ordering::AcqRel);
    if !runs && since != 0 {
        slot.used.fetch_add((now - since).max(0), Ordering::Relaxed);
    }
}

/// Notes that code of the owner took longer than it may.
pub fn code_overran() {
    if let Some((slot, _)) = OWN.get() {
        slot.overruns.fetch_add(1, Ordering::Relaxed);
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    if let Some((slot, seat)) = OWN.take() {
        let since = slot.code_since.swap(0, Ordering::AcqRel);
        if since != 0 {
            let by_others = background::was_terminated() && !slot.is_terminated.load(Ordering::Acquire);
            slot.ended_in_code.store(!by_others, Ordering::Release);
            slot.used.fetch_add((clock::now() - since).max(0), Ordering::Relaxed);
        }
        slot.latch.store(0, Ordering::Release);
        slot.pid.store(0, Ordering::Release);
        seat.set_latch();
    }
}
