//! Settings that are declared as data: their definitions in the server, and their current values. Also texts
//! that are checked when they are set.
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

// SAFETY: the pointer of a choice points to the value of a setting. Only the server's own thread reads and
// writes the values of settings.
unsafe impl Sync for DefinedSetting {}
// SAFETY: as above.
unsafe impl Send for DefinedSetting {}

/// Defines a setting; called while the library is loaded. Settings change only by a reload, because the
/// workers must see the same values as every backend.
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
    // SAFETY: name, descriptions, value and options live as long as the process; the options end with a null name.
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
            // SAFETY: written by the server's own thread, which is the current thread.
            Cell::Choice(value) => Value::Number(unsafe { *value }),
            Cell::Switch(cell) => Value::Number(i32::from(cell.get())),
        }
    }
}

/// A check of a text value. It must not call the server, because it runs in every process that reads
/// settings, even in the postmaster.
pub trait Check {
    /// Checks the text. The text has no surrounding blanks and is not empty.
    fn check(text: &str) -> Result<(), Refusal>;
}

/// Defines a text that only superusers may see and that must pass its check. An empty text always passes.
pub fn define_checked<C: Check>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    define_with_check::<C>(name, short, long, setting, GucFlags::SUPERUSER_ONLY);
}

/// Like [`define_checked`], for a text that all roles may see.
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

/// Refuses the value if the check panics or raises an ERROR. For example, memory may run out while a reason
/// is copied.
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
                // SAFETY: the fields in which the macros GUC_check_errdetail and GUC_check_errhint store
                // their texts.
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

/// Returns a copy that lives until the error has been reported; null if memory is exhausted.
fn for_the_report(text: &str) -> *mut c_char {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: copies a NUL-terminated text into the context that the server resets after it has handled an
    // error.
    unsafe { pg_sys::MemoryContextStrdup(pg_sys::ErrorContext, text.as_ptr()) }
}

/// Returns the current `lock_timeout`; `None` if statements wait without limit.
pub fn lock_timeout() -> Option<Duration> {
    // SAFETY: reads a setting of this process.
    let milliseconds = unsafe { pg_sys::LockTimeout };
    u64::try_from(milliseconds).ok().filter(|timeout| *timeout > 0).map(Duration::from_millis)
}
