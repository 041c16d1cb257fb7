//! Which SQL objects this library works with.
//!
//! The files of a new version, the server's restart and `ALTER EXTENSION … UPDATE` come at different moments. In between
//! a library meets objects of another version than its own. Sessions are stored and counted all the same: what their
//! path needs of the tables never changes but by additions. The worker and the functions that write look here first.

use std::cell::Cell;

use cowrie_enrich_engine::version::{Fit, Version};

use crate::pg::call::Call;
use crate::pg::catalog;
use crate::pg::value::{Text, ToSql, Typed};
use crate::{error, sql_function};

/// This library's own version.
pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// The first version of the objects that all of `sql/queries` works with. A statement that needs what an update brings
/// raises it to the version of that update.
const OLDEST_OBJECTS: &str = "0.1.0";

pub fn fit(objects: &str) -> Fit {
    Fit::of(objects, OLDEST_OBJECTS, LIBRARY)
}

/// What to do where library and objects do not fit, in a few words.
pub fn remedy(fit: Fit) -> &'static str {
    match fit {
        Fit::Fits => "",
        Fit::ObjectsTooOld => "the library is newer than the extension: ALTER EXTENSION cowrie_enrich UPDATE",
        Fit::LibraryTooOld => {
            "the extension is newer than the library: install its files, restart the server"
        }
    }
}

thread_local! {
    /// Objects do not become older, and an update to newer ones refuses to run with this library.
    static FITTED: Cell<bool> = const { Cell::new(false) };
}

/// Raises where a caller's function would meet objects that it was not made for.
pub fn require_fitting_objects() {
    if FITTED.get() {
        return;
    }
    let Some(extension) = catalog::extension() else { return };
    match fit(&extension.version) {
        Fit::Fits => FITTED.set(true),
        misfit => error::version_misfit(misfit, &extension.version, LIBRARY),
    }
}

sql_function!(library_version_wrapper, pg_finfo_library_version_wrapper, library_version);
fn library_version(_: &Call) -> Typed<Text> {
    LIBRARY.to_sql()
}

sql_function!(require_library_wrapper, pg_finfo_require_library_wrapper, require_library);
/// First statement of every update script: the objects that it makes are bound to functions of its own library.
fn require_library(call: &Call) {
    let wanted = call.text(0).unwrap_or_default();
    if Version::of(LIBRARY) < Version::of(&wanted) {
        error::version_misfit(Fit::LibraryTooOld, &wanted, LIBRARY);
    }
}
