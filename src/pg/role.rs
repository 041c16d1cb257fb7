//! Acting as the extension's owner, with a fixed search_path.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// Changes a setting until the surrounding call of [`acting_as`] or [`with_settings`] returns.
pub fn set_locally(name: &CStr, value: &CStr) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
}

/// Sets a setting for the scope of `action`.
pub(super) fn set(name: &CStr, value: &CStr, action: pg_sys::GucAction::Type) {
    // SAFETY: both strings are NUL-terminated. The server keeps the old value for the GUC level that the caller opened, or for
    // the transaction. The rights of the current role are not checked, because only the extension chooses the settings.
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
    // SAFETY: the setting always exists. Its text is copied before any code can change the setting.
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

/// Returns true inside a security-restricted operation. There, code cannot change the state of the session.
pub fn is_restricted() -> bool {
    // SAFETY: reads a static.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Returns true if the current user is a superuser or has the privileges of the given role.
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
    // SAFETY: the GUC level is closed below. After an ERROR, the abort of the surrounding transaction or subtransaction closes
    // it.
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
/// After an ERROR, the abort of the surrounding transaction or subtransaction restores the role and search_path, as it does for
/// SECURITY DEFINER functions.
///
/// Names in results are quoted only where this is necessary, because the statements store and compare names. The setting
/// `quote_all_identifiers` of the session has no effect.
pub fn acting_as<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    switched(role, pg_sys::SECURITY_LOCAL_USERID_CHANGE, || {
        // SAFETY: reads a setting of this process.
        if unsafe { pg_sys::quote_all_identifiers } {
            set_locally(c"quote_all_identifiers", c"off");
        }
        work()
    })
}

/// Like [`acting_as`], but for the owner of a user's table. The triggers, defaults and policies of the owner run with the
/// owner's rights, and cannot get the rights of the caller.
///
/// A superuser may have turned triggers off in the session with `session_replication_role`. This setting has no effect on
/// `work`: triggers and foreign keys of all tables fire. In a client's session, an error in the owner's code cannot end the
/// session.
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
    // SAFETY: the user and the GUC level are restored below, in reverse order.
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

/// While this value exists, no code can change a setting.
///
/// This type is used for `exit_on_error`, because every role may set this setting, and the setting has no check hook with which
/// an extension could refuse a value.
struct FixedSetting {
    record: *mut pg_sys::config_generic,
    context: pg_sys::GucContext::Type,
}

impl FixedSetting {
    fn exit_on_error() -> Option<FixedSetting> {
        let record = setting(c"exit_on_error")?;
        // SAFETY: the record of a built-in setting exists as long as the process.
        let context = unsafe { (*record).context };
        // SAFETY: the record exists as long as the process. `context` determines who may change the setting. When the server
        // restores a GUC level, it does not check `context`.
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
    // SAFETY: the server's array contains the given number of pointers to records. Each record has a NUL-terminated name.
    unsafe {
        let records =
            std::slice::from_raw_parts(pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions() as usize);
        records.iter().copied().find(|record| CStr::from_ptr((**record).name) == name)
    }
}

#[cfg(not(feature = "pg15"))]
fn setting(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    // SAFETY: the name is NUL-terminated. The result is a record of the server, or null.
    let record = unsafe { pg_sys::find_option(name.as_ptr(), false, true, pg_sys::DEBUG5 as i32) };
    (!record.is_null()).then_some(record)
}
