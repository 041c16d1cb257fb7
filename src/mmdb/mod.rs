//! Lookups in this server's mmdb files, per backend.
//!
//! A backend maps the private copies (see `private_copy`) and keeps the maps until a newer copy is in
//! service. It looks for a newer copy at most once a second and only between statements, so that one
//! statement sees one build. A session's insert never verifies or copies a file. It uses the copy in service.
//! If a newer file waits, it starts a background worker that puts the file into service.

mod databases;
mod file;
mod import;
pub mod max_age;
mod private_copy;
mod types;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use cowrie_enrich_engine::mmdb::Database;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::guc;
use crate::pg::background::{self, Needs, Program};
use crate::pg::clock;
use crate::telemetry;

use databases::LoadedDatabase;

pub use databases::{Databases, Found};
pub use file::{ConfiguredFile, FileId, Kind};
pub use import::ImportError;
pub use private_copy::Status;
pub use types::{published, unix_seconds};

/// How much work the caller allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LoadPolicy {
    /// Use the copy in service. A session's insert uses this policy.
    None,
    /// Put a new or changed file into service before the lookup. For calls that may take longer than an
    /// insert.
    Import,
}

thread_local! {
    static DATABASES: RefCell<Databases> = RefCell::default();
    /// Statement start at which this backend last started an import worker.
    static LAST_START: Cell<Timestamp> = const { Cell::new(Timestamp::NEG_INFINITY) };
    /// Statement start at which this backend last looked for newer copies.
    static LAST_LOOK: Cell<Timestamp> = const { Cell::new(Timestamp::NEG_INFINITY) };
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
const START_EVERY: Duration = Duration::from_secs(10);

/// Runs `work` with the databases in service.
pub fn with<T>(policy: LoadPolicy, work: impl FnOnce(&Databases) -> T) -> T {
    let now = clock::statement_start();
    let due = now >= LAST_LOOK.get() + LOOK_EVERY || now < LAST_LOOK.get();
    if due {
        look_for_newer(policy);
        LAST_LOOK.set(now);
    }
    DATABASES.with_borrow(work)
}

/// Verifies the configured files now, even if they were refused before, and puts changed files into service.
pub fn reload() -> Result<(), ImportError> {
    let mut failure = None;
    import::remove_too_old(import::Mode::Ask);
    for file in configured_files() {
        if let Err(error) = import::run(&file, import::Mode::Ask) {
            failure.get_or_insert(error);
        }
    }
    import::remove_unnamed();
    refresh_maps();
    failure.map_or(Ok(()), Err)
}

/// Returns the status of a configured file: its copy in service, and the source file that was refused, if
/// any.
pub fn status(id: FileId) -> Option<Status> {
    private_copy::read_status(id)
}

fn configured_files() -> impl Iterator<Item = ConfiguredFile> {
    Kind::EVERY.into_iter().flat_map(Kind::files)
}

fn look_for_newer(policy: LoadPolicy) {
    match policy {
        LoadPolicy::Import => import_changed(),
        LoadPolicy::None if may_start_import() && is_import_due() => {
            LAST_START.set(clock::statement_start());
            match background::start(IMPORT, IMPORT.kind, 0) {
                Some(process) => process.forget(),
                None => telemetry::log_once_per_burst(
                    "a newer mmdb file has not been loaded yet, or a copy that is too old has not been removed yet",
                    "no background worker slot is free; raise max_worker_processes, or call reload_mmdb()",
                ),
            }
        }
        LoadPolicy::None => {}
    }
    refresh_maps();
}

/// Returns true if a file waits to be put into service, or if a copy is too old.
fn is_import_due() -> bool {
    configured_files().any(|file| import::is_due(&file)) || import::has_too_old()
}

/// Removes the private copies that are too old. Called by processes that run even if no sessions are stored.
pub fn remove_too_old() {
    import::remove_too_old(import::Mode::IfChanged);
}

/// Returns true if this backend may start a worker. A failed import, for example on a full disk, is not
/// retried every second.
fn may_start_import() -> bool {
    let last = LAST_START.get();
    !(last..last + START_EVERY).contains(&clock::statement_start())
}

fn import_changed() {
    import::remove_too_old(import::Mode::IfChanged);
    for file in configured_files() {
        // The process that refused the file has recorded and logged the error.
        let _ = import::run(&file, import::Mode::IfChanged);
    }
}

/// The background worker that imports a file that a session's insert found waiting.
const IMPORT: Program =
    Program { symbol: "cowrie_enrich_import_main", kind: "cowrie_enrich mmdb import", needs: Needs::Nothing };

crate::background_process!(cowrie_enrich_import_main, import_in_background);

fn import_in_background(_argument: i32) {
    background::accept_termination();
    import_changed();
    import::remove_unnamed();
}

fn refresh_maps() {
    DATABASES.with(|cell| {
        // If this process is inside a lookup, the cell is already borrowed. The maps then stay as they are.
        let Ok(mut databases) = cell.try_borrow_mut() else { return };
        let is_enabled = guc::names(&guc::enabled_sources(), guc::FILES);
        let wanted = |kind: Kind| if is_enabled { kind.files() } else { Vec::new() };
        let mut changed = databases.types_mut().refresh(wanted(Kind::Types));
        for (kind, loaded) in databases.asked_in_order_mut() {
            let files = wanted(kind);
            changed |= loaded.len() != files.len();
            loaded.resize_with(files.len(), || None);
            for (file, slot) in files.iter().zip(loaded) {
                changed |= refresh_map(file.id, slot);
            }
        }
        if changed || databases.version() == 0 {
            databases.have_changed();
        }
    });
}

fn refresh_map(id: FileId, slot: &mut Option<LoadedDatabase>) -> bool {
    let is_too_old = |loaded: &LoadedDatabase| {
        max_age::is_too_old(id.kind, loaded.database.facts().build_epoch.try_into().ok())
    };
    if slot.as_ref().is_some_and(is_too_old) {
        *slot = None;
        return true;
    }
    let Some(version) = private_copy::version(id) else { return slot.take().is_some() };
    if slot.as_ref().is_some_and(|loaded| loaded.version == version) {
        return false;
    }
    match private_copy::map_current(id) {
        Some((map, version)) => match Database::open(map) {
            Ok(database) => {
                *slot = Some(LoadedDatabase { database, version });
                true
            }
            Err(error) => {
                telemetry::error(
                    "could not read the extension's private copy of an mmdb file",
                    &format!("{}: {error}", id.stem()),
                );
                false
            }
        },
        // The status names no file, or a file that does not exist any more or is too old. Keep the current map.
        None => false,
    }
}
