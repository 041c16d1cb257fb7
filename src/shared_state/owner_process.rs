//! Functions for a process that runs code of a table owner. They manage the slot of the process, and measure
//! the time that the code takes.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::subtransaction::Failure;
use crate::pg::{Oid, background, clock, shmem, time_limit};
use crate::shared_state::owner_slot::{LOGGED, OwnerSlot};
use crate::shared_state::shared_block::block;
use crate::shared_state::worker_slot::WorkerSlot;

thread_local! {
    /// The owner slot of this process, and the slot of the worker that started this process.
    static OWN: Cell<Option<(&'static OwnerSlot, &'static WorkerSlot)>> = const { Cell::new(None) };
}

/// Assigns this process to a slot until the process exits. Returns false if no worker has reserved the slot, or
/// if another process has already taken the slot.
pub fn take(slot: &'static OwnerSlot, worker_slot: &'static WorkerSlot) -> bool {
    let pid = background::own_pid();
    if slot.is_free() || slot.pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return false;
    }
    slot.has_begun.store(true, Ordering::Release);
    slot.latch.own();
    OWN.set(Some((slot, worker_slot)));
    shmem::at_exit(free_own);
    true
}

/// Returns the number of abandoned processes of a database.
pub fn abandoned(database: Oid) -> usize {
    let slots = block().worker_slots.iter().flat_map(|worker_slot| &worker_slot.owner_slots);
    let is_abandoned = |slot: &&OwnerSlot| {
        slot.database.load(Ordering::Acquire) == database.to_u32()
            && slot.pid.load(Ordering::Acquire) != 0
            && slot.is_abandoned.load(Ordering::Acquire)
    };
    slots.filter(is_abandoned).count()
}

/// Returns whether this owner process may log a message. Returns `Some(true)` if no owner process of the same database has logged
/// the message within `pause`. `message` is a hash of the message, and two messages may have the same entry. Returns `None` if this
/// process is not an owner process.
pub fn may_log(message: u64, now: Timestamp, pause: Duration) -> Option<bool> {
    let (_, worker_slot) = OWN.get()?;
    let at = &worker_slot.logged_at[(message % LOGGED as u64) as usize];
    let last = at.load(Ordering::Relaxed);
    if last != Timestamp::UNSET && now - last < pause {
        return Some(false);
    }
    Some(at.compare_exchange(last, now, Ordering::AcqRel, Ordering::Relaxed).is_ok())
}

/// Returns the slot of the worker that started this owner process. Returns `None` if this process is not an
/// owner process.
pub fn own_worker_slot() -> Option<&'static WorkerSlot> {
    OWN.get().map(|(_, worker_slot)| worker_slot)
}

fn free_own() {
    if let Some((slot, worker_slot)) = OWN.take() {
        let since = slot.code_since.swap(Timestamp::UNSET, Ordering::AcqRel);
        if let Some(since) = since.if_set() {
            let by_others = background::was_terminated() && !slot.is_terminated.load(Ordering::Acquire);
            slot.ended_in_code.store(!by_others, Ordering::Release);
            slot.used.fetch_add(clock::now() - since, Ordering::Relaxed);
        }
        slot.latch.disown();
        slot.pid.store(0, Ordering::Release);
        worker_slot.set_latch();
    }
}

/// Runs `work` in a subtransaction, and cancels `work` after `limit`. `work` includes code of a table owner.
/// See [`time_limit::contained_within`].
pub fn contained_within<T>(limit: Duration, work: impl FnOnce() -> T) -> Result<T, Failure> {
    code_runs(true);
    let limited = time_limit::contained_within(limit, work);
    code_runs(false);
    if limited.is_over {
        code_overran();
    }
    limited.result
}

/// Records that code of the table owner now begins or ends in this process.
fn code_runs(runs: bool) {
    let Some((slot, _)) = OWN.get() else { return };
    let now = clock::now();
    let since = slot.code_since.swap(if runs { now } else { Timestamp::UNSET }, Ordering::AcqRel);
    if !runs && let Some(since) = since.if_set() {
        slot.used.fetch_add(now - since, Ordering::Relaxed);
    }
}

/// Records that code of the table owner exceeded the time limit.
fn code_overran() {
    if let Some((slot, _)) = OWN.get() {
        slot.overruns.fetch_add(1, Ordering::Relaxed);
    }
}
