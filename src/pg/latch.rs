//! Latches: waking another process, and waiting for a wake-up.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

/// The latch of a process, in shared memory.
///
/// The number is the address of a process's latch, or 0 for none. Latches are in the server's main shared memory. Every process
/// maps this memory at the same address, and the server never frees it. If the process of a latch has ended, setting the latch
/// has no effect, or wakes a new process that uses the same latch. The new process finds no work and sleeps again.
#[repr(transparent)]
pub struct SharedLatch(AtomicUsize);

impl SharedLatch {
    /// Stores the address of this process's latch.
    pub fn own(&self) {
        // SAFETY: this code reads a static variable, which the server sets before any code of a library runs in a backend.
        let latch = unsafe { pg_sys::MyLatch };
        self.0.store(latch as usize, Ordering::Release);
    }

    /// Called before the process ends.
    pub fn disown(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Wakes the process that owns the latch.
    pub fn set(&self) {
        let latch = self.0.load(Ordering::Acquire);
        if latch != 0 {
            // SAFETY: as the type explains, the latch is never freed. SetLatch neither raises an error nor waits.
            unsafe { pg_sys::SetLatch(latch as *mut pg_sys::Latch) }
        }
    }
}

/// Sleeps until another process sets this process's latch, the file descriptor `also` becomes readable, or the timeout ends.
/// Ends the process if the postmaster has ended. After the sleep, handles cancellation, shutdown and barriers, because other
/// processes may wait until this process has handled them.
pub fn wait(timeout: Duration, also: Option<BorrowedFd<'_>>) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    if also.is_some() {
        events |= pg_sys::WL_SOCKET_READABLE;
    }
    let descriptor = also.map_or(pg_sys::PGINVALID_SOCKET, |also| also.as_raw_fd());
    let milliseconds = timeout.as_millis().clamp(1, i32::MAX as u128) as std::ffi::c_long;
    // SAFETY: the process waits on its own latch, and on a descriptor that is open while it is borrowed.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            descriptor,
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    super::check_for_interrupts();
}
