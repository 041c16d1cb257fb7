//! One block of shared memory with one lock, for all processes of the server.
//!
//! The block has two parts, whose types the application defines with [`zeroable!`](crate::zeroable). All processes use the first
//! part at any time, so it consists of atomics. A process uses the second part only under the lock. Zeroed memory is the initial
//! state of both parts. Without preload there is no shared memory, and every process has a private block.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{CStr, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering,
};

use cowrie_enrich_engine::breaker::Breaker;
use cowrie_enrich_engine::quota::Quota;
use cowrie_enrich_engine::ring::Ring;
use cowrie_enrich_engine::timestamp::{AtomicDuration, AtomicTimestamp, Timestamp};
use pgrx::pg_sys;

use super::latch::SharedLatch;

/// A type that may be in shared memory.
///
/// # Safety
/// Zeroed memory must be a valid value of the type. A value must have the same meaning in every process.
pub unsafe trait Zeroable {}

macro_rules! zeroable_types {
    ($($type:ty),*) => {
        // SAFETY: zeroed memory means 0 or false, no latch, or an unset timestamp.
        $(unsafe impl Zeroable for $type {})*
    };
}

zeroable_types!(bool, u8, u32, u64, i32, i64);
zeroable_types!(AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64, SharedLatch);
zeroable_types!(Timestamp, AtomicTimestamp, AtomicDuration);

// SAFETY: each element is valid.
unsafe impl<T: Zeroable, const N: usize> Zeroable for [T; N] {}
// SAFETY: numbers only; zeroed, it is an empty ring.
unsafe impl<const WORDS: usize, const SLOTS: usize> Zeroable for Ring<WORDS, SLOTS> {}
// SAFETY: numbers only; zeroed, the breaker is closed.
unsafe impl Zeroable for Breaker {}
// SAFETY: numbers only; zeroed, nothing is used on the first day.
unsafe impl Zeroable for Quota {}

/// Defines a struct that may be in shared memory. Compiles only if all of its fields may be there.
#[macro_export]
macro_rules! zeroable {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_visibility:vis $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[repr(C)]
        $visibility struct $name {
            $($(#[$field_meta])* $field_visibility $field: $type,)*
        }

        const _: () = {
            const fn is_zeroable<T: $crate::pg::shmem::Zeroable>() {}
            $(is_zeroable::<$type>();)*
        };

        // SAFETY: the constant above compiles only if all fields are zeroable.
        unsafe impl $crate::pg::shmem::Zeroable for $name {}
    };
}

/// The block of the application, or its private replacement.
pub struct SharedMemory<B: 'static, G: 'static> {
    /// Name of the block and of its lock, as pg_shmem_allocations and wait events show them.
    name: &'static CStr,
    initialize: fn(&B),
    /// Null if the library is not in shared_preload_libraries. The server replaces the block when it restarts after a crash.
    shared: AtomicPtr<Content<B, G>>,
    lock: AtomicPtr<pg_sys::LWLock>,
    private: OnceLock<Box<Content<B, G>>>,
}

#[repr(C)]
struct Content<B, G> {
    block: B,
    guarded: UnsafeCell<G>,
}

// SAFETY: `guarded` is only reached under a lock that all processes respect.
unsafe impl<B: Sync, G: Send> Sync for Content<B, G> {}

thread_local! {
    /// The only block that is requested.
    static REQUESTED: Cell<Option<&'static dyn Request>> = const { Cell::new(None) };
    static PREVIOUS_REQUEST: Cell<Option<unsafe extern "C-unwind" fn()>> = const { Cell::new(None) };
    static PREVIOUS_STARTUP: Cell<Option<unsafe extern "C-unwind" fn()>> = const { Cell::new(None) };
    /// True if this process has the lock.
    static IS_LOCKED: Cell<bool> = const { Cell::new(false) };
    static AT_EXIT: RefCell<Vec<fn()>> = const { RefCell::new(Vec::new()) };
}

impl<B: Zeroable + Send + Sync, G: Zeroable + Send> SharedMemory<B, G> {
    /// `initialize` completes a new shared block; it is not called for a private one.
    pub const fn new(name: &'static CStr, initialize: fn(&B)) -> Self {
        let (shared, lock) = (AtomicPtr::new(std::ptr::null_mut()), AtomicPtr::new(std::ptr::null_mut()));
        SharedMemory { name, initialize, shared, lock, private: OnceLock::new() }
    }

    /// Requests the block; called from `_PG_init`. Does nothing and returns false unless the library is being
    /// preloaded.
    pub fn request(&'static self) -> bool {
        // SAFETY: hooks are chained while the postmaster starts, on its only thread.
        unsafe {
            if !pg_sys::process_shared_preload_libraries_in_progress || REQUESTED.get().is_some() {
                return false;
            }
            REQUESTED.set(Some(self));
            PREVIOUS_REQUEST.set(pg_sys::shmem_request_hook);
            pg_sys::shmem_request_hook = Some(on_request);
            PREVIOUS_STARTUP.set(pg_sys::shmem_startup_hook);
            pg_sys::shmem_startup_hook = Some(on_startup);
        }
        true
    }

    /// Returns whether the block is shared, because the library was preloaded.
    pub fn is_shared(&self) -> bool {
        !self.shared.load(Ordering::Relaxed).is_null()
    }

    /// Returns the part that needs no lock.
    pub fn block(&'static self) -> &'static B {
        &self.content().block
    }

    /// Runs `work` under the lock. `work` must be short, and must neither raise an error nor wait. Panics if this
    /// process has the lock already.
    pub fn locked<T>(&'static self, work: impl FnOnce(&mut G) -> T) -> T {
        let guarded = self.content().guarded.get();
        let lock = self.lock.load(Ordering::Relaxed);
        let _is_locked = IsLocked::begin();
        // SAFETY: the lock keeps all other processes out, and `IsLocked` excludes a second reference in this one. The
        // reference ends before the lock is released. Without a lock, the block is private to this process, which uses
        // it on its only thread.
        unsafe {
            if lock.is_null() {
                return work(&mut *guarded);
            }
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let result = work(&mut *guarded);
            pg_sys::LWLockRelease(lock);
            result
        }
    }

    fn content(&'static self) -> &'static Content<B, G> {
        // SAFETY: null, or the block that `attach` stored. It stays mapped as long as this process uses it.
        if let Some(shared) = unsafe { self.shared.load(Ordering::Relaxed).as_ref() } {
            return shared;
        }
        self.private.get_or_init(|| {
            // SAFETY: both types are zeroable.
            unsafe { Box::<Content<B, G>>::new_zeroed().assume_init() }
        })
    }
}

/// Marks the lock as held by this process until the mark is dropped.
struct IsLocked(());

impl IsLocked {
    fn begin() -> IsLocked {
        assert!(
            !IS_LOCKED.replace(true),
            "this process already holds the lock on the shared memory of cowrie_enrich"
        );
        IsLocked(())
    }
}

impl Drop for IsLocked {
    fn drop(&mut self) {
        IS_LOCKED.set(false);
    }
}

/// A [`SharedMemory`], as the hooks use it.
trait Request {
    fn name(&self) -> &'static CStr;

    fn size(&self) -> usize;

    /// # Safety
    /// `block` is shared memory of this size that starts zeroed, and `lock` excludes all other processes.
    unsafe fn attach(&self, block: *mut c_void, lock: *mut pg_sys::LWLock, is_new: bool);
}

impl<B: Zeroable + Send + Sync, G: Zeroable + Send> Request for SharedMemory<B, G> {
    fn name(&self) -> &'static CStr {
        self.name
    }

    fn size(&self) -> usize {
        size_of::<Content<B, G>>()
    }

    unsafe fn attach(&self, block: *mut c_void, lock: *mut pg_sys::LWLock, is_new: bool) {
        let content = block.cast::<Content<B, G>>();
        self.shared.store(content, Ordering::Relaxed);
        self.lock.store(lock, Ordering::Relaxed);
        if is_new {
            // SAFETY: as the caller promises; both types are zeroable.
            (self.initialize)(unsafe { &(*content).block });
        }
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_request() {
    // SAFETY: called by the postmaster at the time when memory may be requested.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST.get() {
            previous();
        }
        if let Some(memory) = REQUESTED.get() {
            pg_sys::RequestAddinShmemSpace(memory.size());
            pg_sys::RequestNamedLWLockTranche(memory.name().as_ptr(), 1);
        }
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_startup() {
    // SAFETY: ShmemInitStruct returns the same, suitably aligned block in every process. The process that creates the
    // block zeroes it under AddinShmemInitLock. The block lives as long as the process.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP.get() {
            previous();
        }
        let Some(memory) = REQUESTED.get() else { return };
        let (name, size) = (memory.name().as_ptr(), memory.size());
        let mut found = false;
        let init = &mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(init, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let block = pg_sys::ShmemInitStruct(name, size, &mut found);
        if !found {
            std::ptr::write_bytes(block.cast::<u8>(), 0, size);
        }
        pg_sys::LWLockRelease(init);
        let lock = &raw mut (*pg_sys::GetNamedLWLockTranche(name)).lock;
        memory.attach(block, lock, !found);
    }
}

/// Index of AddinShmemInitLock among the individual locks (lwlocknames.txt), the same from 9.5 on.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

/// Registers `work` to run when this process ends for any reason except a crash, while it still has shared memory. The
/// last registered function runs first. A second registration of the same function changes nothing.
pub fn at_exit(work: fn()) {
    let index = AT_EXIT.with_borrow_mut(|registered| {
        let is_registered = registered.iter().any(|other| std::ptr::fn_addr_eq(*other, work));
        (!is_registered).then(|| {
            registered.push(work);
            registered.len() - 1
        })
    });
    if let Some(index) = index {
        // SAFETY: a static function, and an index that it checks.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(index)) };
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_exit(_code: std::ffi::c_int, index: pg_sys::Datum) {
    if let Some(work) = AT_EXIT.with_borrow(|registered| registered.get(index.value()).copied()) {
        work();
    }
}
