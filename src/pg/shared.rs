//! The block of counters that all backends share when the library is preloaded.
//!
//! Locking protocol: none. Every field is an atomic that is only ever added to or set to zero; readers take what
//! they find. Without preload there is no block and every backend counts for itself.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::AtomicI64;

use pgrx::pg_sys;

/// Room for counters; one more costs eight bytes.
pub const SLOTS: usize = 32;

/// Zeroed memory is a valid initial state.
pub struct Counters(pub [AtomicI64; SLOTS]);

thread_local! {
    static PREVIOUS_REQUEST: Cell<Option<unsafe extern "C-unwind" fn()>> = const { Cell::new(None) };
    static PREVIOUS_STARTUP: Cell<Option<unsafe extern "C-unwind" fn()>> = const { Cell::new(None) };
    static SHARED: Cell<Option<&'static Counters>> = const { Cell::new(None) };
}

static PRIVATE: OnceLock<Counters> = OnceLock::new();

/// The shared counters, or this backend's own.
pub fn counters() -> &'static Counters {
    SHARED
        .get()
        .unwrap_or_else(|| PRIVATE.get_or_init(|| Counters(std::array::from_fn(|_| AtomicI64::new(0)))))
}

/// Asks for the shared block; called from `_PG_init`, does nothing unless the library is being preloaded.
pub fn request() {
    // SAFETY: hooks are chained while the postmaster starts, on its only thread.
    unsafe {
        if !pg_sys::process_shared_preload_libraries_in_progress {
            return;
        }
        PREVIOUS_REQUEST.set(pg_sys::shmem_request_hook);
        pg_sys::shmem_request_hook = Some(on_request);
        PREVIOUS_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_request() {
    // SAFETY: called by the postmaster at the time when memory may be requested.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST.get() {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(size_of::<Counters>());
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
        let lock = &mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let block =
            pg_sys::ShmemInitStruct(c"cowrie_enrich counters".as_ptr(), size_of::<Counters>(), &mut found);
        if !found {
            std::ptr::write_bytes(block.cast::<u8>(), 0, size_of::<Counters>());
        }
        pg_sys::LWLockRelease(lock);
        SHARED.set(Some(&*block.cast::<Counters>()));
    }
}

/// Index of AddinShmemInitLock among the individual locks (lwlocknames.txt), the same from 9.5 on.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;
