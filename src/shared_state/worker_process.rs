//! The worker slot of this process, if this process is the launcher, the exporter or a worker.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use crate::pg::{background, shmem};
use crate::shared_state::shared_block::{WORKER_SLOTS, block};
use crate::shared_state::worker_slot::WorkerSlot;

thread_local! {
    static OWN: Cell<Option<&'static WorkerSlot>> = const { Cell::new(None) };
}

/// Takes a slot for this process until the process exits. Returns false if another process has the slot.
pub fn take(slot: &'static WorkerSlot) -> bool {
    if slot.pid.compare_exchange(0, background::own_pid(), Ordering::AcqRel, Ordering::Acquire).is_err() {
        return false;
    }
    slot.latch.own();
    OWN.set(Some(slot));
    shmem::at_exit(free_own);
    true
}

fn free_own() {
    if let Some(slot) = OWN.take() {
        slot.latch.disown();
        slot.pid.store(0, Ordering::Release);
        // Wakes the present launcher, even if an earlier launcher started this process.
        block().launcher.set_latch();
    }
}

/// Returns the worker slot with a given number. The number was passed to the process at its start.
pub fn worker_slot(number: i32) -> &'static WorkerSlot {
    &block().worker_slots[usize::try_from(number).unwrap_or_default() % WORKER_SLOTS]
}

/// Returns the number of a worker's slot. For a slot outside the array, returns the number of the array's last slot.
pub fn number_of(slot: &WorkerSlot) -> usize {
    block()
        .worker_slots
        .iter()
        .position(|worker_slot| std::ptr::eq(worker_slot, slot))
        .unwrap_or(WORKER_SLOTS - 1)
}
