//! Lookups in this server's mmdb files, per backend.
//!
//! A backend maps the private copies (see `private_copy`) and keeps the maps until a newer copy is in
//! service. It looks for a newer copy at most once a second and only between statements, so that one
//! statement sees one build. A session's insert never verifies or copies a file. It uses the copy in service.
//! If a newer file waits, it starts a background worker that puts the file into service.

mod import;
mod private_copy;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mmdb::{Content, Database, DetailedLocation, Facts, Location, Network};
use cowrie_enrich_engine::timestamp::Timestamp;
use memmap2::Mmap;

use crate::guc;
use crate::pg::background::{self, Needs, Program};
use crate::pg::clock;
use crate::telemetry;

pub use import::ImportError;
pub use private_copy::Status;

/// The two settings. Each names one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    City,
    Asn,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::City, Kind::Asn];

    pub fn name(self) -> &'static str {
        match self {
            Kind::City => "city",
            Kind::Asn => "asn",
        }
    }

    pub fn setting(self) -> &'static str {
        match self {
            Kind::City => "cowrie_enrich.city_database",
            Kind::Asn => "cowrie_enrich.asn_database",
        }
    }

    pub fn source_path(self) -> Option<String> {
        match self {
            Kind::City => guc::city_database(),
            Kind::Asn => guc::asn_database(),
        }
    }

    /// Returns true if a file with this content is valid for this setting.
    fn accepts(self, content: Content) -> bool {
        matches!(
            (self, content),
            (_, Content::Both) | (Kind::City, Content::Location) | (Kind::Asn, Content::Network)
        )
    }
}

/// How much work the caller allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LoadPolicy {
    /// A session's insert: use the copy in service.
    None,
    /// A call that may take longer: put a new or changed file into service first.
    Import,
}

struct LoadedDatabase {
    database: Database<Mmap>,
    version: private_copy::Version,
}

/// The maps of this backend.
#[derive(Default)]
pub struct Databases {
    city: Option<LoadedDatabase>,
    asn: Option<LoadedDatabase>,
    /// Increases with every change of the maps.
    version: u64,
    /// Builds of both files, `<city epoch>/<ASN epoch>` with `-` for none. An answer is due again when this
    /// changes.
    builds: String,
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
    for kind in Kind::ALL {
        if let Err(error) = import::run(kind, import::Mode::Ask) {
            failure.get_or_insert(error);
        }
    }
    refresh_maps();
    failure.map_or(Ok(()), Err)
}

/// Returns the copy in service for a setting, and the file that was refused.
pub fn status(kind: Kind) -> Option<Status> {
    private_copy::read_status(kind)
}

fn look_for_newer(policy: LoadPolicy) {
    match policy {
        LoadPolicy::Import => import_changed(),
        LoadPolicy::None if may_start_import() && Kind::ALL.into_iter().any(import::is_due) => {
            LAST_START.set(clock::statement_start());
            match background::start(IMPORT, IMPORT.kind, 0) {
                Some(process) => process.forget(),
                None => telemetry::log_once_per_burst(
                    "a newer mmdb file has not been loaded yet",
                    "no background worker slot is free; raise max_worker_processes, or call reload_mmdb()",
                ),
            }
        }
        LoadPolicy::None => {}
    }
    refresh_maps();
}

/// Returns true if this backend may start a worker. A failed import, for example on a full disk, is not
/// retried every second.
fn may_start_import() -> bool {
    let last = LAST_START.get();
    !(last..last + START_EVERY).contains(&clock::statement_start())
}

fn import_changed() {
    for kind in Kind::ALL {
        // The process that refused the file has recorded and logged the error.
        let _ = import::run(kind, import::Mode::IfChanged);
    }
}

/// The background worker that imports a file that a session's insert found waiting.
const IMPORT: Program =
    Program { symbol: "cowrie_enrich_import_main", kind: "cowrie_enrich mmdb import", needs: Needs::Nothing };

crate::background_process!(cowrie_enrich_import_main, import_in_background);

fn import_in_background(_argument: i32) {
    background::accept_termination();
    import_changed();
}

fn refresh_maps() {
    DATABASES.with(|cell| {
        // The cell is borrowed if a lookup is running further up the stack. That lookup keeps its maps.
        let Ok(mut databases) = cell.try_borrow_mut() else { return };
        let mut changed = false;
        for kind in Kind::ALL {
            let slot = match kind {
                Kind::City => &mut databases.city,
                Kind::Asn => &mut databases.asn,
            };
            changed |= refresh_map(kind, slot);
        }
        if changed || databases.builds.is_empty() {
            databases.builds = databases.describe_builds();
            databases.version += 1;
        }
    });
}

fn refresh_map(kind: Kind, slot: &mut Option<LoadedDatabase>) -> bool {
    if kind.source_path().is_none() || !guc::names(&guc::enabled_sources(), "maxmind") {
        return slot.take().is_some();
    }
    let Some(version) = private_copy::version(kind) else { return slot.take().is_some() };
    if slot.as_ref().is_some_and(|loaded| loaded.version == version) {
        return false;
    }
    match private_copy::map_current(kind) {
        Some((map, version)) => match Database::open(map) {
            Ok(database) => {
                *slot = Some(LoadedDatabase { database, version });
                true
            }
            Err(error) => {
                telemetry::error(
                    "could not read the extension's private copy of an mmdb file",
                    &format!("{}: {error}", kind.name()),
                );
                false
            }
        },
        // The status names no file, or a file that does not exist any more. Keep the current map.
        None => false,
    }
}

impl Databases {
    pub fn is_empty(&self) -> bool {
        self.city.is_none() && self.asn.is_none()
    }

    pub fn facts(&self, kind: Kind) -> Option<&Facts> {
        self.loaded(kind).map(|loaded| loaded.database.facts())
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn builds(&self) -> &str {
        &self.builds
    }

    /// Returns true if the current files differ from `builds`, the files of an earlier answer. Files that are
    /// not loaded here do not count: an answer does not expire because a file is missing.
    pub fn is_due(&self, builds: Option<&str>) -> bool {
        if self.is_empty() {
            return false;
        }
        let Some((city, asn)) = builds.and_then(|b| b.split_once('/')) else { return true };
        let (now_city, now_asn) = self.builds.split_once('/').unwrap_or(("-", "-"));
        (now_city != "-" && now_city != city) || (now_asn != "-" && now_asn != asn)
    }

    pub fn country(&self, address: Address) -> Option<[u8; 2]> {
        let loaded = self.city.as_ref()?;
        answered(loaded.database.country(address))
    }

    /// Returns the country where the network of an address is registered.
    pub fn registered_country(&self, address: Address) -> Option<[u8; 2]> {
        answered(self.city.as_ref()?.database.registered_country(address))
    }

    pub fn city(&self, address: Address) -> Option<&str> {
        answered(self.city.as_ref()?.database.city(address))
    }

    pub fn asn(&self, address: Address) -> Option<u32> {
        answered(self.network_file()?.database.asn(address))
    }

    pub fn organization(&self, address: Address) -> Option<&str> {
        answered(self.network_file()?.database.organization(address))
    }

    pub fn location(&self, address: Address) -> Option<Location<'_>> {
        answered(self.city.as_ref()?.database.location(address))
    }

    /// Returns the location with the fields that a session's insert does not need.
    pub fn detailed_location(&self, address: Address) -> Option<DetailedLocation<'_>> {
        answered(self.city.as_ref()?.database.detailed_location(address))
    }

    pub fn network(&self, address: Address) -> Option<Network<'_>> {
        answered(self.network_file()?.database.network(address))
    }

    /// Returns the ASN file. Without one, returns the city file if it also has networks (Enterprise).
    fn network_file(&self) -> Option<&LoadedDatabase> {
        self.asn
            .as_ref()
            .or_else(|| self.city.as_ref().filter(|city| city.database.content() == Content::Both))
    }

    /// Returns true if a file can serve lookups of this kind.
    pub fn serves(&self, kind: Kind) -> bool {
        match kind {
            Kind::City => self.city.is_some(),
            Kind::Asn => self.network_file().is_some(),
        }
    }

    fn loaded(&self, kind: Kind) -> Option<&LoadedDatabase> {
        match kind {
            Kind::City => self.city.as_ref(),
            Kind::Asn => self.asn.as_ref(),
        }
    }

    fn describe_builds(&self) -> String {
        let epoch = |kind| self.facts(kind).map_or_else(|| "-".to_owned(), |f| f.build_epoch.to_string());
        format!("{}/{}", epoch(Kind::City), epoch(Kind::Asn))
    }
}

/// Counts and logs a damaged record, and returns `None`. Verification makes damaged records very unlikely.
fn answered<T>(result: Result<Option<T>, cowrie_enrich_engine::mmdb::MmdbError>) -> Option<T> {
    result.unwrap_or_else(|error| {
        telemetry::error("could not look up an address in an mmdb file", &error.to_string());
        None
    })
}
