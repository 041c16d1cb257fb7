//! The process that runs code of a table owner: its slot, the time that the code takes, and the timer that ends it.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::owner_slot::{LOGGED, OwnerSlot};
use super::shared::WorkerSlot;
use super::subtransaction::{Failure, contained_unless, must_be_raised};
use super::timeouts::{
    RegisterTimeout, STATEMENT_TIMEOUT, USER_TIMEOUT, disable_timeout, enable_timeout_after,
};
use super::{background, clock, latch, shared};

thread_local! {
    /// The slot of this process, and the slot of the worker that it belongs to.
    static OWN: Cell<Option<(&'static OwnerSlot, &'static WorkerSlot)>> = const { Cell::new(None) };
}

/// Assigns this process to a slot until it exits. Returns whether the slot was waiting for a process.
pub fn take(slot: &'static OwnerSlot, worker_slot: &'static WorkerSlot) -> bool {
    // SAFETY: reads the pid of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    if slot.is_free() || slot.pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return false;
    }
    slot.has_begun.store(true, Ordering::Release);
    slot.latch.store(latch::own(), Ordering::Release);
    OWN.set(Some((slot, worker_slot)));
    // SAFETY: a static function, called once while the process still has access to shared memory.
    unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) };
    true
}

/// Returns the number of abandoned processes of a database.
pub fn abandoned(database: pg_sys::Oid) -> usize {
    let slots = shared::block().worker_slots.iter().flat_map(|worker_slot| &worker_slot.owner_slots);
    let is_abandoned = |slot: &&OwnerSlot| {
        slot.database.load(Ordering::Acquire) == database.to_u32()
            && slot.pid.load(Ordering::Acquire) != 0
            && slot.is_abandoned.load(Ordering::Acquire)
    };
    slots.filter(is_abandoned).count()
}

/// Returns whether an owner process may log a message: no owner process of its database has logged it within
/// `pause` microseconds. `message` is a hash, and two messages may share an entry. Returns `None` in every
/// other process.
pub fn may_log(message: u64, now: i64, pause: i64) -> Option<bool> {
    let (_, worker_slot) = OWN.get()?;
    let at = &worker_slot.logged_at[(message % LOGGED as u64) as usize];
    let last = at.load(Ordering::Relaxed);
    if last != 0 && now.saturating_sub(last) < pause {
        return Some(false);
    }
    Some(at.compare_exchange(last, now, Ordering::AcqRel, Ordering::Relaxed).is_ok())
}

/// Returns the slot of the worker that this owner process belongs to; `None` in every other process.
pub fn own_seat() -> Option<&'static WorkerSlot> {
    OWN.get().map(|(_, worker_slot)| worker_slot)
}

/// Records that code of the owner begins in this process, or ends.
fn code_runs(runs: bool) {
    let Some((slot, _)) = OWN.get() else { return };
    let now = clock::now();
    let since = slot.code_since.swap(if runs { now } else { 0 }, Ordering::AcqRel);
    if !runs && since != 0 {
        slot.used.fetch_add((now - since).max(0), Ordering::Relaxed);
    }
}

/// Records that code of the owner exceeded its time.
fn code_overran() {
    if let Some((slot, _)) = OWN.get() {
        slot.overruns.fetch_add(1, Ordering::Relaxed);
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_exit(_code: std::ffi::c_int, _argument: pg_sys::Datum) {
    if let Some((slot, worker_slot)) = OWN.take() {
        let since = slot.code_since.swap(0, Ordering::AcqRel);
        if since != 0 {
            let by_others = background::was_terminated() && !slot.is_terminated.load(Ordering::Acquire);
            slot.ended_in_code.store(!by_others, Ordering::Release);
            slot.used.fetch_add((clock::now() - since).max(0), Ordering::Relaxed);
        }
        slot.latch.store(0, Ordering::Release);
        slot.pid.store(0, Ordering::Release);
        worker_slot.set_latch();
    }
}

/// Runs `work` in a subtransaction, as [`contained`](super::subtransaction::contained) does. `work` includes
/// code of a table owner and is cancelled after `limit`. Called only in owner processes, because nothing else
/// uses the statement timer there.
///
/// The owner's code may catch the cancellation. Then the process ends a moment later. Advisory locks that the
/// code took for the session are released.
pub fn contained_within<T>(limit: Duration, work: impl FnOnce() -> T) -> Result<T, Failure> {
    let timer = Timer::start(limit);
    code_runs(true);
    let result = contained_unless(work, |error| must_be_raised(error) && !timer.has_ended());
    code_runs(false);
    if timer.has_ended() {
        code_overran();
    }
    // SAFETY: releases session-level advisory locks; the extension's locks belong to the transaction.
    unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as u16) };
    result
}

/// How long cancelled code may run at most, in milliseconds. It never runs longer than it ran before the
/// cancellation.
const GRACE: c_int = 500;

thread_local! {
    /// Number of the timeout that ends the process, once it is registered.
    static LAST_WARNING: Cell<Option<c_int>> = const { Cell::new(None) };
}

fn last_warning() -> c_int {
    LAST_WARNING.get().unwrap_or_else(|| {
        // SAFETY: once per process; the handler is a static function.
        let number = unsafe { RegisterTimeout(USER_TIMEOUT, end_process) };
        LAST_WARNING.set(Some(number));
        number
    })
}

/// Runs in a signal handler. It only sets flags for the next check for interrupts.
extern "C-unwind" fn end_process() {
    // SAFETY: flags of this process that the server's signal handlers set in the same way.
    unsafe {
        pg_sys::ProcDiePending = 1;
        pg_sys::InterruptPending = 1;
    }
}

/// Cancels the running code when its time is over, and ends the process if that does not help. Stops when it
/// is dropped.
struct Timer {
    started: Instant,
    limit: Duration,
}

impl Timer {
    fn start(limit: Duration) -> Timer {
        let milliseconds = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1);
        // The server counts whole milliseconds: it may end the work before a longer limit has passed.
        let limit = Duration::from_millis(u64::from(milliseconds.unsigned_abs()));
        let timer = Timer { started: Instant::now(), limit };
        // SAFETY: the server registered the first timeout when the process connected, and `last_warning`
        // registers the other; both are disabled when this is dropped.
        unsafe {
            enable_timeout_after(STATEMENT_TIMEOUT, milliseconds);
            enable_timeout_after(last_warning(), milliseconds.saturating_add(GRACE.min(milliseconds)));
        }
        timer
    }

    fn has_ended(&self) -> bool {
        self.started.elapsed() >= self.limit
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: as above. A cancellation that the timer sent after the work had ended is discarded.
        unsafe {
            disable_timeout(STATEMENT_TIMEOUT, false);
            disable_timeout(last_warning(), false);
            if self.has_ended() {
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
}
