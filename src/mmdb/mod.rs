//! Lookups of a backend in the mmdb files of this server.
//!
//! A backend maps the private copies (see `private_copy`) into memory, and keeps each map until a newer copy is
//! in service. A backend looks for newer copies at most once a second, and only between statements, so that a
//! statement sees only one build of a file. The INSERT of a session never verifies or copies a file, but uses
//! the copy in service. If a newer file is not in service yet, the INSERT starts a background worker that puts
//! the file into service.

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

/// Says whether a lookup may put files into service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LoadPolicy {
    /// The lookup uses the copies in service. The INSERT of a session uses this policy.
    None,
    /// The lookup first puts new and changed files into service. Function calls that may take longer than an
    /// INSERT use this policy.
    Import,
}

thread_local! {
    static DATABASES: RefCell<Databases> = RefCell::default();
    /// Start time of the statement in which this backend last started a background worker for an import.
    static LAST_START: Cell<Timestamp> = const { Cell::new(Timestamp::NEG_INFINITY) };
    /// Start time of the statement in which this backend last looked for newer copies.
    static LAST_LOOK: Cell<Timestamp> = const { Cell::new(Timestamp::NEG_INFINITY) };
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
const START_EVERY: Duration = Duration::from_secs(10);

/// Runs `work` with the mmdb files that are in service.
pub fn with<T>(policy: LoadPolicy, work: impl FnOnce(&Databases) -> T) -> T {
    let now = clock::statement_start();
    let due = now >= LAST_LOOK.get() + LOOK_EVERY || now < LAST_LOOK.get();
    if due {
        look_for_newer(policy);
        LAST_LOOK.set(now);
    }
    DATABASES.with_borrow(work)
}

/// Verifies the configured files now, including files that were refused before, and puts changed files into
/// service.
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

/// Returns the status of a configured file. The status describes the copy in service, and the source file that
/// was refused, if any.
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

/// Returns true if a configured file must be put into service, or if a private copy is too old.
fn is_import_due() -> bool {
    configured_files().any(|file| import::is_due(&file)) || import::has_too_old()
}

/// Removes the private copies that are too old. Processes that run even while no sessions are stored call this
/// function.
pub fn remove_too_old() {
    import::remove_too_old(import::Mode::IfChanged);
}

/// Returns true if this backend may start a background worker for an import. Limits the rate, so that an import
/// that fails, for example on a full disk, is not retried every second.
fn may_start_import() -> bool {
    let last = LAST_START.get();
    !(last..last + START_EVERY).contains(&clock::statement_start())
}

fn import_changed() {
    import::remove_too_old(import::Mode::IfChanged);
    for file in configured_files() {
        // Ignores the error, because the process that refused the file has already stored and logged the error.
        let _ = import::run(&file, import::Mode::IfChanged);
    }
}

/// The background worker that an INSERT of a session starts if a file must be put into service.
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
        // If this process is in the middle of a lookup, the cell is already borrowed. In this case the maps
        // remain unchanged.
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
        // The status names no file, or names a file that no longer exists or is too old. Keeps the current map.
        None => false,
    }
}
