//! Acting as the extension's owner, with a fixed search_path.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// Sets a setting until the surrounding [`acting_as`] or [`with_settings`] returns.
pub fn set_locally(name: &CStr, value: &CStr) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
}

/// Sets a setting for the scope of `action`.
pub(super) fn set(name: &CStr, value: &CStr, action: pg_sys::GucAction::Type) {
    // SAFETY: two NUL-terminated strings. The server keeps the old value for the GUC level that the caller
    // opened, or for the transaction. Only the extension chooses the settings, so the current role's rights
    // do not matter.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}

/// Returns the current search_path, in the server's encoding.
pub fn search_path() -> Vec<u8> {
    // SAFETY: the setting always exists; its text is copied before anything can change it.
    unsafe {
        let value = pg_sys::GetConfigOption(c"search_path".as_ptr(), false, false);
        if value.is_null() { Vec::new() } else { CStr::from_ptr(value).to_bytes().to_vec() }
    }
}

/// Returns the current role.
pub fn current() -> pg_sys::Oid {
    // SAFETY: reads a static.
    unsafe { pg_sys::GetUserId() }
}

/// Returns true in a security-restricted operation, in which code cannot change the state of the session.
pub fn is_restricted() -> bool {
    // SAFETY: reads a static.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Returns true if the current user is a superuser or has the privileges of a role.
pub fn has_privileges_of(role: pg_sys::Oid) -> bool {
    // SAFETY: lookups in the system caches.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// Returns a text as a setting's value.
pub fn setting_text(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_default()
}

/// Runs `work` with some settings changed.
pub fn with_settings<T>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> T) -> T {
    // SAFETY: the level is closed below, or by the abort of the surrounding (sub)transaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    for (name, value) in settings {
        set_locally(name, value);
    }
    let result = work();
    // SAFETY: see above.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    result
}

/// Runs `work` as `role` with `search_path = pg_catalog, pg_temp`.
///
/// On ERROR, the abort of the surrounding (sub)transaction restores the role and search_path, as it does for SECURITY
/// DEFINER functions.
///
/// Names in results are quoted only where necessary, regardless of the session's `quote_all_identifiers`,
/// because the statements store and compare names.
pub fn acting_as<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    switched(role, pg_sys::SECURITY_LOCAL_USERID_CHANGE, || {
        // SAFETY: reads a setting of this process.
        if unsafe { pg_sys::quote_all_identifiers } {
            set_locally(c"quote_all_identifiers", c"off");
        }
        work()
    })
}

/// Like [`acting_as`], for the owner of a user's table. The owner's triggers, defaults and policies run with the owner's rights,
/// and cannot get the caller's rights.
///
/// Triggers and foreign keys fire regardless of the session's `session_replication_role`. A superuser may have switched triggers
/// off in the session. They must still fire for the owner's code, in every table. In a client's session, errors of the owner's code
/// cannot end the session either.
pub fn in_restricted_operation_as<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let flags = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
    // SAFETY: reads a static.
    let in_session = unsafe { pg_sys::MyBgworkerEntry.is_null() };
    let _fixed = if in_session { FixedSetting::exit_on_error() } else { None };
    switched(role, flags, || {
        set_locally(c"session_replication_role", c"origin");
        work()
    })
}

fn switched<T>(role: pg_sys::Oid, flags: u32, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: user and GUC level are restored below, in reverse order.
    let level = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | flags as i32);
        pg_sys::NewGUCNestLevel()
    };
    set_locally(c"search_path", c"pg_catalog, pg_temp");
    let result = work();
    // SAFETY: see above.
    unsafe {
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    result
}

/// A setting that no code can change until this is dropped.
///
/// Every role may set `exit_on_error`, and it has no check hook with which an extension could refuse a value.
struct FixedSetting {
    record: *mut pg_sys::config_generic,
    context: pg_sys::GucContext::Type,
}

impl FixedSetting {
    fn exit_on_error() -> Option<FixedSetting> {
        let record = setting(c"exit_on_error")?;
        // SAFETY: the record of a built-in setting lives as long as the process.
        let context = unsafe { (*record).context };
        // SAFETY: see above. `context` determines who may set it; restoring a GUC level does not check it.
        unsafe { (*record).context = pg_sys::GucContext::PGC_INTERNAL };
        Some(FixedSetting { record, context })
    }
}

impl Drop for FixedSetting {
    fn drop(&mut self) {
        // SAFETY: see `exit_on_error`.
        unsafe { (*self.record).context = self.context };
    }
}

#[cfg(feature = "pg15")]
fn setting(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    // SAFETY: the server's array has this number of pointers to records, and each record has a NUL-terminated
    // name.
    unsafe {
        let records =
            std::slice::from_raw_parts(pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions() as usize);
        records.iter().copied().find(|record| CStr::from_ptr((**record).name) == name)
    }
}

#[cfg(not(feature = "pg15"))]
fn setting(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    // SAFETY: a NUL-terminated name; the server's record, or null.
    let record = unsafe { pg_sys::find_option(name.as_ptr(), false, true, pg_sys::DEBUG5 as i32) };
    (!record.is_null()).then_some(record)
}
