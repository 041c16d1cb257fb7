//! Cache invalidation. Detects that the catalogs, or a table of the extension, changed after data was cached.
//!
//! The server calls the callbacks when this backend accepts invalidation messages: at the start of a transaction, when it takes
//! a lock, and after its own commands. The callbacks only increase counts. Code that caches data compares these counts.

use std::cell::Cell;

use pgrx::pg_sys;

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    static CATALOG: Cell<u64> = const { Cell::new(0) };
    static WATCHED: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static CONTENT: Cell<u64> = const { Cell::new(0) };
    static CONSTRAINTS: Cell<u64> = const { Cell::new(0) };
}

/// Returns a number that increases when a function or the definition of a table may have changed.
pub fn catalog_version() -> u64 {
    register();
    CATALOG.get()
}

/// Returns a number that increases when a constraint may have been added, dropped or changed.
pub fn constraints_version() -> u64 {
    register();
    CONSTRAINTS.get()
}

/// Returns a number that increases when [`announce`] announces a change of the watched table's content.
pub fn content_version(table: pg_sys::Oid) -> u64 {
    register();
    if WATCHED.get() != table {
        WATCHED.set(table);
        CONTENT.set(CONTENT.get() + 1);
    }
    CONTENT.get()
}

/// Announces a relevant change in the content of a table. This backend sees the announcement now, and all backends see it at
/// commit.
pub fn announce(table: pg_sys::Oid) {
    // SAFETY: the function only queues a message. The table is open in the statement whose trigger calls this code.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) }
}

fn register() {
    if REGISTERED.replace(true) {
        return;
    }
    // SAFETY: the callbacks are static functions, and are registered once per backend. The server has room for 64 callbacks and
    // 10 relation callbacks.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relation), pg_sys::Datum::from(0));
        let functions = pg_sys::SysCacheIdentifier::PROCOID as i32;
        pg_sys::CacheRegisterSyscacheCallback(functions, Some(on_function), pg_sys::Datum::from(0));
        let constraints = pg_sys::SysCacheIdentifier::CONSTROID as i32;
        pg_sys::CacheRegisterSyscacheCallback(constraints, Some(on_constraint), pg_sys::Datum::from(0));
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_relation(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    CATALOG.set(CATALOG.get() + 1);
    // InvalidOid stands for all relations.
    if relation == WATCHED.get() || relation == pg_sys::InvalidOid {
        CONTENT.set(CONTENT.get() + 1);
    }
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_function(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    CATALOG.set(CATALOG.get() + 1);
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_constraint(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    CONSTRAINTS.set(CONSTRAINTS.get() + 1);
}
