//! The versions of SQL objects that this library works with.
//!
//! An upgrade installs the files, restarts the server and runs `ALTER EXTENSION … UPDATE` at different times. In between, the
//! library works with objects of another version. Sessions are still stored and counted, because updates only add to the tables
//! that this work uses. The worker and the functions that write check the versions first.

use std::cell::Cell;

use cowrie_enrich_engine::version::{Version, VersionMatch};

use crate::pg::catalog;
use crate::pg::sql_function::Call;
use crate::pg::value::{Text, ToSql, Typed};
use crate::{error, sql_function};

/// This library's own version.
pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// The oldest version of the objects that all of `sql/queries` works with. Raise it if a statement needs
/// objects of a later update.
const OLDEST_OBJECTS: &str = "0.1.0";

pub fn compare(objects: &str) -> VersionMatch {
    VersionMatch::of(objects, OLDEST_OBJECTS, LIBRARY)
}

/// Returns a short text that says how to make the versions of the library and the SQL objects match.
pub fn remedy(result: VersionMatch) -> &'static str {
    match result {
        VersionMatch::Compatible => "",
        VersionMatch::ObjectsTooOld => {
            "the library is newer than the SQL objects; run ALTER EXTENSION cowrie_enrich UPDATE"
        }
        VersionMatch::LibraryTooOld => {
            "the SQL objects are newer than the library; install the library of the same version and restart the server"
        }
    }
}

thread_local! {
    /// Set to true by the first successful check, and never reset. Objects are never replaced by older objects, and this library
    /// refuses an update to newer objects.
    static IS_COMPATIBLE: Cell<bool> = const { Cell::new(false) };
}

/// Raises an error if this library does not work with the SQL objects in this database.
pub fn require_compatible_objects() {
    if IS_COMPATIBLE.get() {
        return;
    }
    let Some(extension) = catalog::extension() else { return };
    match compare(&extension.version) {
        VersionMatch::Compatible => IS_COMPATIBLE.set(true),
        mismatch => error::version_mismatch(mismatch, &extension.version, LIBRARY),
    }
}

sql_function!(library_version_wrapper, pg_finfo_library_version_wrapper, library_version);
fn library_version(_: &Call) -> Typed<Text> {
    LIBRARY.to_sql()
}

sql_function!(require_library_wrapper, pg_finfo_require_library_wrapper, require_library);
/// First statement of every update script, because the new objects are bound to functions of the update's own
/// library.
fn require_library(call: &Call) {
    let wanted = call.text(0).unwrap_or_default();
    if Version::of(LIBRARY) < Version::of(&wanted) {
        error::version_mismatch(VersionMatch::LibraryTooOld, &wanted, LIBRARY);
    }
}
