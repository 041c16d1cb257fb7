//! The cells of metrics with labels in shared memory.
//!
//! One array of atomics holds these cells:
//! - the number of created networks, by source, country and registry. Each combination of these labels has its own cell, so finding
//!   the cell needs no search and no lock.
//! - the number of updated networks.
//! - the number of requests of the OTLP export, and the number of data points and spans in these requests.
//! - histograms. A histogram has one cell for each bucket, one cell for values above all buckets, and one cell for the sum. The sum
//!   is in nanoseconds or in whole numbers.
//!
//! Empty cells of the first two are not shown.

use std::sync::atomic::Ordering;

use cowrie_enrich_engine::metrics::declarations::{
    BATCH_ADDRESSES, OPERATION_MS, REQUEST_SECONDS, TRIGGER_SECONDS,
};
use cowrie_enrich_engine::metrics::{Histogram, bucket};
use cowrie_enrich_engine::otlp::Signal;
use cowrie_enrich_engine::providers::Registry;

use crate::provider::Provider;
use crate::shared_state::{self, PROVIDERS};

/// The source of a change to a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Maxmind,
    /// A caller of the SQL functions.
    Manual,
    /// Imported tables.
    Import,
    /// The times and documents of sessions.
    Sessions,
    /// IANA's list of AS numbers.
    Iana,
    Provider(Provider),
}

impl Source {
    /// Returns the source that has this name in the column `asn_inventory.enrichment`. If the name is unknown, the network was
    /// imported, so the function returns `Import`.
    pub fn named(name: &str) -> Source {
        match name {
            "maxmind" => Source::Maxmind,
            "manual" => Source::Manual,
            "document" => Source::Sessions,
            "iana" => Source::Iana,
            _ => Provider::named(name).map_or(Source::Import, Source::Provider),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Source::Maxmind => "maxmind",
            Source::Manual => "manual",
            Source::Import => "import",
            Source::Sessions => "sessions",
            Source::Iana => "iana",
            Source::Provider(provider) => provider.name(),
        }
    }

    fn all() -> impl Iterator<Item = Source> {
        [Source::Maxmind, Source::Manual, Source::Import, Source::Sessions, Source::Iana]
            .into_iter()
            .chain(Provider::all().map(Source::Provider))
    }

    fn index(self) -> usize {
        match self {
            Source::Maxmind => 0,
            Source::Manual => 1,
            Source::Import => 2,
            Source::Provider(provider) => 3 + provider.index(),
            // The sources `Sessions` and `Iana` create no networks. They have the last indexes, so that the cells for created
            // networks need no space for them.
            Source::Sessions => CREATORS,
            Source::Iana => CREATORS + 1,
        }
    }
}

/// The number of sources that create networks.
const CREATORS: usize = 3 + PROVIDERS;
const SOURCES: usize = CREATORS + 2;

/// The kind of an update of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Update {
    Metadata,
    Timestamps,
}

impl Update {
    pub fn name(self) -> &'static str {
        match self {
            Update::Metadata => "metadata_enrichment",
            Update::Timestamps => "timestamp_refresh",
        }
    }

    const ALL: [Update; 2] = [Update::Metadata, Update::Timestamps];
}

/// The timed operations on networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Create,
    Update,
}

impl Operation {
    pub const ALL: [Operation; 2] = [Operation::Create, Operation::Update];

    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "create",
            Operation::Update => "update",
        }
    }
}

/// The event at which the trigger fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Before,
    After,
    Commit,
}

impl Event {
    pub const ALL: [Event; 3] = [Event::Before, Event::After, Event::Commit];

    pub fn name(self) -> &'static str {
        match self {
            Event::Before => "before",
            Event::After => "after",
            Event::Commit => "commit",
        }
    }
}

/// The values that are measured in histograms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Distribution {
    Operation(Operation),
    Trigger(Event),
    Request(Provider),
    Batch(Provider),
}

/// Index of a number in the array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell(u16);

impl Cell {
    fn at(index: usize) -> Cell {
        // All indexes are below `shared_state::CELLS`, see below.
        Cell(index as u16)
    }

    /// Returns the cell with this number, if it exists.
    pub fn numbered(number: i64) -> Option<Cell> {
        usize::try_from(number).ok().filter(|index| *index < END).map(Cell::at)
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub fn read(self) -> i64 {
        shared_state::block().cells[self.index()].load(Ordering::Relaxed)
    }
}

const LETTERS: usize = 26;
/// Number of country labels: all pairs of two letters, and "unknown".
const COUNTRIES: usize = LETTERS * LETTERS + 1;
const REGISTRIES: [Registry; 5] =
    [Registry::Arin, Registry::Ripe, Registry::Apnic, Registry::Lacnic, Registry::Afrinic];
/// Number of registry labels: the registries, and "unknown".
const REGISTRY_COUNT: usize = REGISTRIES.len() + 1;
const UNKNOWN: &str = "unknown";

const CREATED: usize = 0;
const UPDATED: usize = CREATED + CREATORS * COUNTRIES * REGISTRY_COUNT;
const OPERATIONS: usize = UPDATED + SOURCES * Update::ALL.len();
const TRIGGERS: usize = OPERATIONS + Operation::ALL.len() * size(OPERATION_MS);
const REQUESTS: usize = TRIGGERS + Event::ALL.len() * size(TRIGGER_SECONDS);
const BATCHES: usize = REQUESTS + PROVIDERS * size(REQUEST_SECONDS);
const OTLP_REQUESTS: usize = BATCHES + PROVIDERS * size(BATCH_ADDRESSES);
const OTLP_ITEMS: usize = OTLP_REQUESTS + Signal::ALL.len() * ResponseKind::ALL.len();
const END: usize = OTLP_ITEMS + Signal::ALL.len() * DeliveryOutcome::ALL.len();
const _: () = assert!(END <= shared_state::CELLS && shared_state::CELLS <= u16::MAX as usize);

/// Returns the number of cells of a histogram.
const fn size(bounds: &[f64]) -> usize {
    bounds.len() + 2
}

pub fn created(source: Source, country: Option<&str>, registry: Option<&str>) -> Cell {
    let of_letter = |letter: u8| letter.checked_sub(b'A').map(usize::from).filter(|n| *n < LETTERS);
    let country = match country.map(str::as_bytes) {
        Some([first, second]) => of_letter(*first).zip(of_letter(*second)).map(|(a, b)| a * LETTERS + b),
        _ => None,
    };
    let registry = registry.and_then(|name| REGISTRIES.iter().position(|known| known.name() == name));
    let source = source.index().min(CREATORS - 1);
    let country = country.unwrap_or(COUNTRIES - 1);
    let registry = registry.unwrap_or(REGISTRIES.len());
    Cell::at(CREATED + (source * COUNTRIES + country) * REGISTRY_COUNT + registry)
}

pub fn updated(source: Source, update: Update) -> Cell {
    Cell::at(UPDATED + source.index() * Update::ALL.len() + update as usize)
}

/// Returns the number of created networks for each source, country and registry. Leaves out combinations whose number is zero.
pub fn all_created() -> impl Iterator<Item = (Source, String, &'static str, i64)> {
    let creators = Source::all().filter(|source| source.index() < CREATORS);
    creators.flat_map(|source| (0..COUNTRIES).map(move |country| (source, country))).flat_map(
        |(source, country)| {
            (0..REGISTRY_COUNT).filter_map(move |registry| {
                let index = (source.index() * COUNTRIES + country) * REGISTRY_COUNT + registry;
                let number = Cell::at(CREATED + index).read();
                let name = REGISTRIES.get(registry).map_or(UNKNOWN, |registry| registry.name());
                (number != 0).then(|| (source, country_name(country), name, number))
            })
        },
    )
}

fn country_name(index: usize) -> String {
    if index == COUNTRIES - 1 {
        return UNKNOWN.to_owned();
    }
    [index / LETTERS, index % LETTERS].map(|letter| char::from(b'A' + letter as u8)).iter().collect()
}

/// Returns the number of updated networks for each source and kind of update. Leaves out combinations whose number is zero.
pub fn all_updated() -> impl Iterator<Item = (Source, Update, i64)> {
    let kinds = Source::all().flat_map(|source| Update::ALL.map(|update| (source, update)));
    kinds.map(|(source, update)| (source, update, updated(source, update).read())).filter(|(.., n)| *n != 0)
}

/// A collector's response to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseKind {
    Taken,
    /// The collector is busy or did not respond.
    Deferred,
    Refused,
}

impl ResponseKind {
    pub const ALL: [ResponseKind; 3] = [ResponseKind::Taken, ResponseKind::Deferred, ResponseKind::Refused];

    pub fn name(self) -> &'static str {
        match self {
            ResponseKind::Taken => "taken",
            ResponseKind::Deferred => "deferred",
            ResponseKind::Refused => "refused",
        }
    }
}

/// The outcome of exporting data points and spans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryOutcome {
    Taken,
    /// The collector rejected them.
    Rejected,
    /// The buffer for spans was full, or the collector did not accept the data points or spans in time.
    Dropped,
}

impl DeliveryOutcome {
    pub const ALL: [DeliveryOutcome; 3] =
        [DeliveryOutcome::Taken, DeliveryOutcome::Rejected, DeliveryOutcome::Dropped];

    pub fn name(self) -> &'static str {
        match self {
            DeliveryOutcome::Taken => "taken",
            DeliveryOutcome::Rejected => "rejected",
            DeliveryOutcome::Dropped => "dropped",
        }
    }
}

/// Returns the cell that counts the requests to which the collector gave this response.
pub fn requests(signal: Signal, answered: ResponseKind) -> Cell {
    Cell::at(OTLP_REQUESTS + signal as usize * ResponseKind::ALL.len() + answered as usize)
}

/// Returns the cell that counts data points or spans with this outcome.
pub fn items(signal: Signal, delivery: DeliveryOutcome) -> Cell {
    Cell::at(OTLP_ITEMS + signal as usize * DeliveryOutcome::ALL.len() + delivery as usize)
}

impl Distribution {
    fn bounds(self) -> &'static [f64] {
        match self {
            Distribution::Operation(_) => OPERATION_MS,
            Distribution::Trigger(_) => TRIGGER_SECONDS,
            Distribution::Request(_) => REQUEST_SECONDS,
            Distribution::Batch(_) => BATCH_ADDRESSES,
        }
    }

    /// Returns the factor that converts a bucket bound of the metric to the unit of the metric's cells. Cells store times in
    /// nanoseconds.
    fn unit(self) -> f64 {
        match self {
            Distribution::Operation(_) => 1e6,
            Distribution::Trigger(_) | Distribution::Request(_) => 1e9,
            Distribution::Batch(_) => 1.0,
        }
    }

    fn index(self) -> usize {
        let size = size(self.bounds());
        match self {
            Distribution::Operation(operation) => OPERATIONS + operation as usize * size,
            Distribution::Trigger(event) => TRIGGERS + event as usize * size,
            Distribution::Request(provider) => REQUESTS + provider.index() * size,
            Distribution::Batch(provider) => BATCHES + provider.index() * size,
        }
    }

    pub fn bucket(self, value: i64) -> Cell {
        Cell::at(self.index() + bucket(self.bounds(), value as f64 / self.unit()))
    }

    pub fn sum(self) -> Cell {
        Cell::at(self.index() + self.bounds().len() + 1)
    }

    pub fn read(self) -> Histogram {
        let counts = (0..=self.bounds().len()).map(|n| Cell::at(self.index() + n).read());
        Histogram {
            bounds: self.bounds(),
            counts: counts.map(|count| u64::try_from(count).unwrap_or_default()).collect(),
            sum: self.sum().read() as f64 / self.unit(),
        }
    }
}
