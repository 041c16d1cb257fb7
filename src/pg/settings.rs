//! Settings that are declared as data: their definitions in the server, and their current values. This module also defines text
//! settings whose values are checked when a user sets them.
//!
//! The server keeps pointers to the definitions for the lifetime of the process.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use cowrie_enrich_engine::export::settings::Refusal;
use cowrie_enrich_engine::providers::setting::{Kind, Setting, Unit, Value};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

/// A setting that is defined in the server.
pub struct DefinedSetting {
    pub declared: &'static Setting,
    cell: Cell,
}

enum Cell {
    Text(&'static GucSetting<Option<std::ffi::CString>>),
    Number(&'static GucSetting<i32>),
    Choice(*mut c_int),
    Switch(&'static GucSetting<bool>),
}

// SAFETY: the pointer in `Choice` points to the value of a setting. Only the server's own thread reads and writes the values of
// settings.
unsafe impl Sync for DefinedSetting {}
// SAFETY: as above.
unsafe impl Send for DefinedSetting {}

/// Defines a setting. Must be called while the library is loaded. A setting changes only when the configuration is reloaded,
/// because the workers must see the same value as every backend.
pub fn define(declared: &'static Setting) -> DefinedSetting {
    let guard = if declared.guarded { GucFlags::SUPERUSER_ONLY } else { GucFlags::default() };
    let cell = match declared.kind {
        Kind::Text { default } => {
            let cell = &*Box::leak(Box::new(GucSetting::<Option<std::ffi::CString>>::new(default)));
            let Setting { name, short, long, .. } = declared;
            GucRegistry::define_string_guc(name, short, long, cell, GucContext::Sighup, guard);
            Cell::Text(cell)
        }
        Kind::Number { default, least, most, unit } => {
            let cell = &*Box::leak(Box::new(GucSetting::<i32>::new(default)));
            let unit = match unit {
                Unit::None => GucFlags::default(),
                Unit::Milliseconds => GucFlags::UNIT_MS,
                Unit::Seconds => GucFlags::UNIT_S,
            };
            let Setting { name, short, long, .. } = declared;
            GucRegistry::define_int_guc(
                name,
                short,
                long,
                cell,
                least,
                most,
                GucContext::Sighup,
                unit | guard,
            );
            Cell::Number(cell)
        }
        Kind::Choice { default, words } => Cell::Choice(define_choice(declared, default, words, guard)),
        Kind::Switch { default } => {
            let cell = &*Box::leak(Box::new(GucSetting::<bool>::new(default)));
            let Setting { name, short, long, .. } = declared;
            GucRegistry::define_bool_guc(name, short, long, cell, GucContext::Sighup, guard);
            Cell::Switch(cell)
        }
    };
    DefinedSetting { declared, cell }
}

fn define_choice(
    declared: &'static Setting,
    default: i32,
    words: &'static [&'static CStr],
    guard: GucFlags,
) -> *mut c_int {
    let entry = |name: *const std::ffi::c_char, val| pg_sys::config_enum_entry { name, val, hidden: false };
    let mut options: Vec<_> = (0..).zip(words).map(|(val, word)| entry(word.as_ptr(), val)).collect();
    options.push(entry(std::ptr::null(), 0));
    let options = Box::leak(options.into_boxed_slice());
    let value: *mut c_int = Box::leak(Box::new(default));
    // SAFETY: the name, descriptions, value and options exist as long as the process. The last option has a null name.
    unsafe {
        pg_sys::DefineCustomEnumVariable(
            declared.name.as_ptr(),
            declared.short.as_ptr(),
            declared.long.as_ptr(),
            value,
            default,
            options.as_ptr(),
            pg_sys::GucContext::PGC_SIGHUP,
            guard.bits() as c_int,
            None,
            None,
            None,
        );
    }
    value
}

impl DefinedSetting {
    /// Returns its current value.
    pub fn value(&self) -> Value {
        match self.cell {
            Cell::Text(cell) => Value::Text(super::text::setting(cell.get())),
            Cell::Number(cell) => Value::Number(cell.get()),
            // SAFETY: only the server's own thread writes this value, and that is the current thread.
            Cell::Choice(value) => Value::Number(unsafe { *value }),
            Cell::Switch(cell) => Value::Number(i32::from(cell.get())),
        }
    }
}

/// A check of a text value. The check must not call the server, because it runs in every process that reads settings, including
/// the postmaster.
pub trait Check {
    /// Checks a text that has no surrounding blanks and is not empty.
    fn check(text: &str) -> Result<(), Refusal>;
}

/// Defines a text setting that only superusers may see. The server accepts a new value only if it passes the check `C`. An
/// empty text is always accepted.
pub fn define_checked<C: Check>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    define_with_check::<C>(name, short, long, setting, GucFlags::SUPERUSER_ONLY);
}

/// Like [`define_checked`], but for a text that all roles may see.
pub fn define_checked_for_all<C: Check>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    define_with_check::<C>(name, short, long, setting, GucFlags::default());
}

fn define_with_check<C: Check>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    guard: GucFlags,
) {
    // SAFETY: no panic leaves the hook.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Sighup,
            guard,
            Some(check_text::<C>),
            None,
            None,
        );
    }
}

/// The server's check hook for a text setting. Refuses the value if the check panics or raises an ERROR, for example because
/// memory runs out while the reason is copied.
unsafe extern "C-unwind" fn check_text<C: Check>(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    let check = || {
        // SAFETY: the server passes a pointer to a NUL-terminated string or to null.
        let text = unsafe { super::text::from_c(*value) }.unwrap_or_default();
        let text = text.trim();
        if text.is_empty() {
            return true;
        }
        match C::check(text) {
            Ok(()) => true,
            Err(refusal) => {
                // SAFETY: these are the fields in which the macros GUC_check_errdetail and GUC_check_errhint store their texts.
                unsafe {
                    pg_sys::GUC_check_errdetail_string = for_the_report(refusal.reason);
                    pg_sys::GUC_check_errhint_string = for_the_report(refusal.hint);
                }
                false
            }
        }
    };
    catch_unwind(AssertUnwindSafe(check)).unwrap_or(false)
}

/// Returns a copy that stays valid until the error has been reported. Returns null if no memory is available.
fn for_the_report(text: &str) -> *mut c_char {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: MemoryContextStrdup copies a NUL-terminated text into ErrorContext. The server resets this memory context after
    // it has handled an error.
    unsafe { pg_sys::MemoryContextStrdup(pg_sys::ErrorContext, text.as_ptr()) }
}

/// Returns the current `lock_timeout`, or `None` if statements wait for locks without limit.
pub fn lock_timeout() -> Option<Duration> {
    // SAFETY: reads a setting of this process.
    let milliseconds = unsafe { pg_sys::LockTimeout };
    u64::try_from(milliseconds).ok().filter(|timeout| *timeout > 0).map(Duration::from_millis)
}
