//! The process that runs code of a table owner: its slot, and the time that the code takes.

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
    /// The slot of this process, and the slot of the worker that it belongs to.
    static OWN: Cell<Option<(&'static OwnerSlot, &'static WorkerSlot)>> = const { Cell::new(None) };
}

/// Assigns this process to a slot until it exits. Returns whether the slot was waiting for a process.
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

/// Returns whether an owner process may log a message. It may if no owner process of its database has logged the
/// message within `pause`. `message` is a hash, and two messages may share an entry. Returns `None` in every other
/// process.
pub fn may_log(message: u64, now: Timestamp, pause: Duration) -> Option<bool> {
    let (_, worker_slot) = OWN.get()?;
    let at = &worker_slot.logged_at[(message % LOGGED as u64) as usize];
    let last = at.load(Ordering::Relaxed);
    if last != Timestamp::UNSET && now - last < pause {
        return Some(false);
    }
    Some(at.compare_exchange(last, now, Ordering::AcqRel, Ordering::Relaxed).is_ok())
}

/// Returns the slot of the worker that this owner process belongs to; `None` in every other process.
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

/// Runs `work`, which includes code of a table owner, in a subtransaction, and cancels it after `limit`. See
/// [`time_limit::contained_within`].
pub fn contained_within<T>(limit: Duration, work: impl FnOnce() -> T) -> Result<T, Failure> {
    code_runs(true);
    let limited = time_limit::contained_within(limit, work);
    code_runs(false);
    if limited.is_over {
        code_overran();
    }
    limited.result
}

/// Records that code of the owner begins or ends in this process.
fn code_runs(runs: bool) {
    let Some((slot, _)) = OWN.get() else { return };
    let now = clock::now();
    let since = slot.code_since.swap(if runs { now } else { Timestamp::UNSET }, Ordering::AcqRel);
    if !runs && let Some(since) = since.if_set() {
        slot.used.fetch_add(now - since, Ordering::Relaxed);
    }
}

/// Records that code of the owner exceeded its time.
fn code_overran() {
    if let Some((slot, _)) = OWN.get() {
        slot.overruns.fetch_add(1, Ordering::Relaxed);
    }
}
