//! Temporary memory contexts.

use pgrx::pg_sys;

/// Runs `work` in a new memory context, and then deletes this context with all its allocations. The result of `work` must not
/// point into the new context. After an ERROR, the new context is deleted together with its parent.
pub fn scratch<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the new context is a child of the current context. The parent becomes current again before the new context is
    // deleted.
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

/// Runs `work`, which may switch to another memory context, and then restores the current context.
pub(super) fn returning<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the restored context was current before `work`. It belongs to a caller, so it outlives `work`.
    unsafe {
        let own = pg_sys::CurrentMemoryContext;
        let result = work();
        pg_sys::MemoryContextSwitchTo(own);
        result
    }
}
