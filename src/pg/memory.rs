//! Temporary memory contexts.

use pgrx::pg_sys;

/// Runs `work` in a new memory context, which is deleted afterwards with all its allocations. The result of
/// `work` must not point there. On ERROR the context is deleted with its parent.
pub fn scratch<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the new context is a child of the current context, which becomes current again before the new
    // context is deleted.
    unsafe {
        let parent = pg_sys::CurrentMemoryContext;
        let own = pg_sys::AllocSetContextCreateInternal(
            parent,
            c"cowrie_enrich scratch".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        pg_sys::MemoryContextSwitchTo(own);
        let result = work();
        pg_sys::MemoryContextSwitchTo(parent);
        pg_sys::MemoryContextDelete(own);
        result
    }
}

/// Runs `work`, which may switch the memory context, and restores the current context afterwards.
pub(super) fn returning<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the context was current and belongs to a caller, so it outlives `work`.
    unsafe {
        let own = pg_sys::CurrentMemoryContext;
        let result = work();
        pg_sys::MemoryContextSwitchTo(own);
        result
    }
}
