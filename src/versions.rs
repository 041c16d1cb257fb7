//! Checks that this library works with the version of the SQL objects in the database.
//!
//! An upgrade consists of three steps at different times: the files are installed, the server is restarted, and `ALTER EXTENSION …
//! UPDATE` is run. Between these steps, the library has to work with SQL objects of another version. Sessions are still stored and
//! counted, because an update may add something to the tables that this work uses, but removes nothing from them. The worker and
//! the functions that write check the versions before they start.

use std::cell::Cell;

use cowrie_enrich_engine::version::{Version, VersionMatch};

use crate::pg::catalog;
use crate::pg::sql_function::Call;
use crate::pg::value::{Text, ToSql, Typed};
use crate::{error, sql_function};

/// This library's own version.
pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// The oldest version of the SQL objects that all statements in `sql/queries` work with. Increase this version if a statement needs
/// objects that a later update creates.
const OLDEST_OBJECTS: &str = "0.1.0";

pub fn compare(objects: &str) -> VersionMatch {
    VersionMatch::of(objects, OLDEST_OBJECTS, LIBRARY)
}

/// Returns a short text that tells the user how to bring the library and the SQL objects to the same version.
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
    /// Set to true by the first successful check, and never set to false again. An update never installs older SQL objects, and
    /// this library refuses an update to SQL objects that are newer than the library.
    static IS_COMPATIBLE: Cell<bool> = const { Cell::new(false) };
}

/// Raises an error if this library does not work with the SQL objects in the current database.
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
/// Every update script calls this function in its first statement. The new SQL objects need a library that is at least as new as
/// the update.
fn require_library(call: &Call) {
    let wanted = call.text(0).unwrap_or_default();
    if Version::of(LIBRARY) < Version::of(&wanted) {
        error::version_mismatch(VersionMatch::LibraryTooOld, &wanted, LIBRARY);
    }
}
