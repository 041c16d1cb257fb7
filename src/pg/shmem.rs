//! One block of shared memory with one lock, for all processes of the server.
//!
//! The block has two parts, whose types the application defines with [`zeroable!`](crate::zeroable). The first part consists of
//! atomics, because all processes use it at any time. A process uses the second part only while it holds the lock. Zeroed
//! memory is the initial state of both parts. If the library is not preloaded, there is no shared memory, and every process has
//! a private block.

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
        // SAFETY: for these types, zeroed memory means 0, false, no latch, or an unset timestamp.
        $(unsafe impl Zeroable for $type {})*
    };
}

zeroable_types!(bool, u8, u32, u64, i32, i64);
zeroable_types!(AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64, SharedLatch);
zeroable_types!(Timestamp, AtomicTimestamp, AtomicDuration);

// SAFETY: each element is valid.
unsafe impl<T: Zeroable, const N: usize> Zeroable for [T; N] {}
// SAFETY: the type consists of numbers only. Zeroed memory is an empty ring.
unsafe impl<const WORDS: usize, const SLOTS: usize> Zeroable for Ring<WORDS, SLOTS> {}
// SAFETY: numbers only; zeroed, the breaker is closed.
unsafe impl Zeroable for Breaker {}
// SAFETY: the type consists of numbers only. In zeroed memory, the day is the first day, and nothing of the quota is used.
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
    /// The name of the block in pg_shmem_allocations, and of its lock in wait events.
    name: &'static CStr,
    initialize: fn(&B),
    /// The address of the shared block. Null if the library is not in shared_preload_libraries. When the server restarts after
    /// a crash, it makes a new block.
    shared: AtomicPtr<Content<B, G>>,
    lock: AtomicPtr<pg_sys::LWLock>,
    private: OnceLock<Box<Content<B, G>>>,
}

#[repr(C)]
struct Content<B, G> {
    block: B,
    guarded: UnsafeCell<G>,
}

// SAFETY: each process uses `guarded` only while it holds the lock.
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
    /// Makes the description of a block. `initialize` is called to complete a new shared block, but not for a private block.
    pub const fn new(name: &'static CStr, initialize: fn(&B)) -> Self {
        let (shared, lock) = (AtomicPtr::new(std::ptr::null_mut()), AtomicPtr::new(std::ptr::null_mut()));
        SharedMemory { name, initialize, shared, lock, private: OnceLock::new() }
    }

    /// Requests the block. Must be called from `_PG_init`. If the library is not being preloaded, does nothing and returns
    /// false.
    pub fn request(&'static self) -> bool {
        // SAFETY: the hooks are set while the postmaster starts. The postmaster has only one thread.
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

    /// Runs `work` while this process holds the lock. `work` must be short, and must neither raise an error nor wait. Panics if
    /// this process already holds the lock.
    pub fn locked<T>(&'static self, work: impl FnOnce(&mut G) -> T) -> T {
        let guarded = self.content().guarded.get();
        let lock = self.lock.load(Ordering::Relaxed);
        let _is_locked = IsLocked::begin();
        // SAFETY: while this process holds the lock, no other process uses the value. `IsLocked` prevents a second reference in
        // this process. The reference ends before the lock is released. If there is no lock, the block is private to this
        // process, which uses the block on its only thread.
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
        // SAFETY: the pointer is null, or it is the address of the block that `attach` stored. The block stays mapped as long
        // as this process uses it.
        if let Some(shared) = unsafe { self.shared.load(Ordering::Relaxed).as_ref() } {
            return shared;
        }
        self.private.get_or_init(|| {
            // SAFETY: both types are zeroable.
            unsafe { Box::<Content<B, G>>::new_zeroed().assume_init() }
        })
    }
}

/// While a value of this type exists, this process holds the lock.
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
    /// `block` is shared memory of at least `size()` bytes, and was zeroed when it was created. `lock` excludes all other
    /// processes.
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
            // SAFETY: the caller promises that the block is valid. Both types are zeroable.
            (self.initialize)(unsafe { &(*content).block });
        }
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_request() {
    // SAFETY: the postmaster calls this hook at the time when memory may be requested.
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
    // SAFETY: ShmemInitStruct returns the same block in every process, with a suitable alignment. The process that creates the
    // block zeroes it while it holds AddinShmemInitLock. The block stays valid as long as the process exists.
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

/// Index of AddinShmemInitLock in the server's list of individual locks (lwlocknames.txt). The index has not changed since
/// version 9.5.
const ADDIN_SHMEM_INIT_LOCK: usize = 21;

/// Registers `work` as a function that runs before this process ends for any reason except a crash. Shared memory is still
/// attached then. The last registered function runs first. A second registration of the same function changes nothing.
pub fn at_exit(work: fn()) {
    let index = AT_EXIT.with_borrow_mut(|registered| {
        let is_registered = registered.iter().any(|other| std::ptr::fn_addr_eq(*other, work));
        (!is_registered).then(|| {
            registered.push(work);
            registered.len() - 1
        })
    });
    if let Some(index) = index {
        // SAFETY: `on_exit` is a static function, and it checks the index.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(index)) };
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_exit(_code: std::ffi::c_int, index: pg_sys::Datum) {
    if let Some(work) = AT_EXIT.with_borrow(|registered| registered.get(index.value()).copied()) {
        work();
    }
}
