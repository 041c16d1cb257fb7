//! Settings that are declared as data: the server's definitions of them, and their values of the moment.
//!
//! The server keeps pointers to what it is given here, for as long as the process lives.

use std::ffi::{CStr, c_int};

use cowrie_enrich_engine::providers::setting::{Kind, Setting, Unit, Value};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;

/// A setting that the server knows.
pub struct Defined {
    pub declared: &'static Setting,
    cell: Cell,
}

enum Cell {
    Text(&'static GucSetting<Option<std::ffi::CString>>),
    Number(&'static GucSetting<i32>),
    Choice(*mut c_int),
}

// SAFETY: what a choice's pointer points to is read and written by the server's own thread only, like every setting.
unsafe impl Sync for Defined {}
// SAFETY: as above.
unsafe impl Send for Defined {}

/// Defines a setting; called while the library is loaded. All can be changed by a reload, and by nothing less: the
/// workers must see what every backend sees.
pub fn define(declared: &'static Setting) -> Defined {
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
    };
    Defined { declared, cell }
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

impl Defined {
    /// What it is set to.
    pub fn value(&self) -> Value {
        match self.cell {
            Cell::Text(cell) => Value::Text(super::text::setting(cell.get())),
            Cell::Number(cell) => Value::Number(cell.get()),
            // SAFETY: written by the server's own thread, which this is.
            Cell::Choice(value) => Value::Number(unsafe { *value }),
        }
    }
}
