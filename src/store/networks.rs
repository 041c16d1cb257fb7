//! Reads and writes rows of `asn_inventory`.

use std::collections::{BTreeMap, BTreeSet};

use cowrie_enrich_engine::as_registry;
use cowrie_enrich_engine::providers::Registry;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::spi::{Connection, Rows, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Text, Timestamptz, array};
use crate::telemetry::spans::NetworkSpans;
use crate::telemetry::{self, Operation, Source, Update, Work};

/// The values that a source has about a network.
#[derive(Clone, Default)]
pub struct NetworkFacts {
    pub name: Option<String>,
    pub country: Option<String>,
    pub registry: Option<String>,
    /// The network's name according to the provider. Only answers to lookups by AS number set this field.
    pub as_name: Option<String>,
    /// The date on which the network's AS number was allocated. Only answers to lookups by AS number set this field.
    pub allocated_on: Option<String>,
    /// The time of the first session that names the network. Unset if no session names the network.
    pub first_seen: Option<Timestamp>,
    /// The time of the last session that names the network. Unset if no session names the network.
    pub last_seen: Option<Timestamp>,
}

impl NetworkFacts {
    /// Merges the values from another address of the same network. A field that is set keeps its value. The range from
    /// `first_seen` to `last_seen` can only grow.
    pub fn merge(&mut self, other: NetworkFacts) {
        self.name = self.name.take().or(other.name);
        self.country = self.country.take().or(other.country);
        self.registry = self.registry.take().or(other.registry);
        self.first_seen = [self.first_seen, other.first_seen].into_iter().flatten().min();
        self.last_seen = [self.last_seen, other.last_seen].into_iter().flatten().max();
    }
}

/// The values of networks, by ASN. Networks are locked in the order of their ASNs.
pub type Networks = BTreeMap<i64, NetworkFacts>;

type Asns = Array<Bigint>;
type Texts = Array<Text>;
type Times = Array<Timestamptz>;
type Create = (Asns, Texts, Texts, Texts, Times, Times, Texts, Texts, Texts);
/// The columns of a network that a statement wrote: the ASN, country, registry and name.
type NetworkColumns = (Bigint, Text, Text, Text);

thread_local! {
    static CREATE: Statement<Create, NetworkColumns> = const {
        Statement::new("networks_create", include_str!("../../sql/queries/inventory/networks_create.sql"))
    };
    static REFINE: Statement<(Asns, Texts, Texts, Texts, Text, Boolean), (Bigint, Text, Text, Text, Boolean)> = const {
        Statement::new("networks_refine", include_str!("../../sql/queries/inventory/networks_refine.sql"))
    };
    static SEEN: Statement<(Asns, Times, Times)> = const { Statement::new(
        "networks_seen", include_str!("../../sql/queries/inventory/networks_seen.sql")) };
    static EXISTING: Statement<(Asns,), (Bigint,)> = const { Statement::new(
        "networks_existing", include_str!("../../sql/queries/inventory/networks_existing.sql")) };
    static COMPLETE: Statement<(Asns, Texts, Texts, Texts, Texts, Texts, Texts), NetworkColumns> = const {
        Statement::new("networks_complete", include_str!("../../sql/queries/inventory/networks_complete.sql"))
    };
    static TOUCH: Statement<(Bigint,), NetworkColumns> = const { Statement::new(
        "network_touch", include_str!("../../sql/queries/inventory/network_touch.sql")) };
    static READ: Statement<(Bigint,)> = const { Statement::new(
        "network_read", include_str!("../../sql/queries/inventory/network_read.sql")) };
}

/// The source that is stored for the registry of a network if the registry comes from IANA's list of AS numbers.
pub const IANA: &str = "iana";

/// Returns the registry to which IANA assigned this ASN.
pub fn iana_registry(asn: i64) -> Option<&'static str> {
    as_registry::registry(u32::try_from(asn).ok()?).map(Registry::name)
}

/// Returns the registry of a new network, and the source of this registry. If `source` has a lower rank than IANA,
/// the registry from IANA is used. The SQL function `source_rank` defines the ranks.
fn registry_and_source<'a>(asn: i64, known: Option<&'a str>, source: &'a str) -> (Option<&'a str>, &'a str) {
    let is_better = known.is_some() && matches!(source, "manual" | "cymru" | "maxmind");
    match iana_registry(asn) {
        Some(registry) if !is_better => (Some(registry), IANA),
        _ => (known, source),
    }
}

/// Creates the networks that do not exist yet. All values come from one source. If this source does not know the registry of a
/// network, the network gets the registry from IANA. Returns the number of created networks.
pub fn create(connection: &Connection, networks: &Networks, source: &str) -> i64 {
    create_from_sources(connection, networks, |_| source).len() as i64
}

/// Like [`create`], but the networks may have different sources. All networks are created in one pass, because rows must be
/// locked in the order of their ASNs. Returns the created networks.
pub fn create_from_sources<'a>(
    connection: &Connection,
    networks: &Networks,
    source: impl Fn(i64) -> &'a str,
) -> Vec<i64> {
    create_with_origins(connection, networks, |asn| Origin::one(source(asn)))
}

/// The source of a network, and the source of each of its fields.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    pub network: &'a str,
    pub name: &'a str,
    pub country: &'a str,
    pub registry: &'a str,
}

impl<'a> Origin<'a> {
    fn one(source: &'a str) -> Origin<'a> {
        Origin { network: source, name: source, country: source, registry: source }
    }
}

/// Like [`create_from_sources`], but the fields of one network may have different sources.
pub fn create_with_origins<'a>(
    connection: &Connection,
    networks: &Networks,
    origin: impl Fn(i64) -> Origin<'a>,
) -> Vec<i64> {
    if networks.is_empty() {
        return Vec::new();
    }
    let (work, spans) = (Work::begin(), NetworkSpans::begin(networks.len()));
    let origins = || networks.keys().map(|asn| origin(*asn));
    let registries = || {
        networks.iter().map(|(asn, source_data)| {
            registry_and_source(*asn, source_data.registry.as_deref(), origin(*asn).registry)
        })
    };
    let arguments = (
        array(networks.keys()),
        array(networks.values().map(|source_data| source_data.name.as_deref())),
        array(networks.values().map(|source_data| source_data.country.as_deref())),
        array(registries().map(|(registry, _)| registry)),
        array(networks.values().map(|source_data| source_data.first_seen)),
        array(networks.values().map(|source_data| source_data.last_seen)),
        array(origins().map(|origin| origin.name)),
        array(origins().map(|origin| origin.country)),
        array(registries().map(|(_, source)| source)),
    );
    let created = CREATE.run(connection, arguments, |rows| {
        for (asn, country, registry, _) in rows.iter() {
            let Some(asn) = asn else { continue };
            let source = Source::named(origin(asn).network);
            telemetry::network_created(source, asn, country.as_deref(), registry.as_deref());
        }
        spans.record(Operation::Create, rows.iter(), |asn| origin(asn).network);
        numbers(rows)
    });
    work.end(Operation::Create, networks.len(), created.len());
    created
}

/// Fills the empty metadata of existing networks. Replaces a value if `source` may replace it. Returns the number of changed
/// networks that existed before this transaction. Networks that this transaction created are not included, because they are
/// already counted as created.
pub fn refine(connection: &Connection, networks: &Networks, source: &str) -> usize {
    write(connection, networks, source, false)
}

/// Writes the metadata of existing networks. If `overwrites` is false, only those values are replaced that `source` may
/// replace.
fn write(connection: &Connection, networks: &Networks, source: &str, overwrites: bool) -> usize {
    if networks.is_empty() {
        return 0;
    }
    let (work, spans) = (Work::begin(), NetworkSpans::begin(networks.len()));
    let arguments = (
        array(networks.keys()),
        array(networks.values().map(|source_data| source_data.name.as_deref())),
        array(networks.values().map(|source_data| source_data.country.as_deref())),
        array(networks.values().map(|source_data| source_data.registry.as_deref())),
        source,
        overwrites,
    );
    let updated: Vec<i64> = REFINE.run(connection, arguments, |rows| {
        let written = rows.iter().map(|(asn, country, registry, name, _)| (asn, country, registry, name));
        spans.record(Operation::Update, written, |_| source);
        rows.iter().filter(|(.., was_there)| *was_there == Some(true)).filter_map(|(asn, ..)| asn).collect()
    });
    telemetry::networks_updated(Source::named(source), Update::Metadata, &updated);
    work.end(Operation::Update, networks.len(), updated.len());
    updated.len()
}

/// Returns those of these networks that have a row. The caller passes the networks in order.
pub fn existing<'a>(connection: &Connection, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    EXISTING.run(connection, (array(networks),), |rows| rows.iter().filter_map(|(asn,)| asn).collect())
}

/// Appends the times at which networks were seen to the pending counts. Leaves out a network if its row already includes these
/// times.
pub fn append_times(connection: &Connection, networks: &Networks) {
    if networks.is_empty() {
        return;
    }
    let first_seen = array(networks.values().map(|source_data| source_data.first_seen));
    let last_seen = array(networks.values().map(|source_data| source_data.last_seen));
    SEEN.execute(connection, (array(networks.keys()), first_seen, last_seen));
}

/// The value of a network's field, and the source of this value. `None` if no source has a value.
pub type Filled = Option<(String, &'static str)>;

/// The best values of a network, chosen from the values of several sources.
#[derive(Default)]
pub struct Best {
    pub name: Filled,
    pub country: Filled,
    pub registry: Filled,
}

impl Best {
    /// Returns the source of the first field that has a value.
    fn source(&self) -> Option<&'static str> {
        [&self.name, &self.country, &self.registry].into_iter().flatten().next().map(|(_, source)| *source)
    }
}

/// Writes metadata of existing networks. Writes a field only if it is empty or has a source of lower rank. A source does not
/// replace its own value, because the values of one source differ from document to document. Returns the changed networks.
pub fn complete(connection: &Connection, networks: &BTreeMap<i64, Best>) -> Vec<i64> {
    if networks.is_empty() {
        return Vec::new();
    }
    let (work, spans) = (Work::begin(), NetworkSpans::begin(networks.len()));
    let values = |field: fn(&Best) -> &Filled| {
        array(networks.values().map(move |best| field(best).as_ref().map(|(value, _)| value)))
    };
    let sources = |field: fn(&Best) -> &Filled| {
        array(networks.values().map(move |best| field(best).as_ref().map(|(_, source)| *source)))
    };
    let arguments = (
        array(networks.keys()),
        values(|best| &best.name),
        sources(|best| &best.name),
        values(|best| &best.country),
        sources(|best| &best.country),
        values(|best| &best.registry),
        sources(|best| &best.registry),
    );
    let source = |asn| networks.get(&asn).and_then(Best::source);
    let completed = COMPLETE.run(connection, arguments, |rows| {
        spans.record(Operation::Update, rows.iter(), |asn| source(asn).unwrap_or_default());
        numbers(rows)
    });
    for (asn, source) in completed.iter().filter_map(|asn| Some((*asn, source(*asn)?))) {
        telemetry::networks_updated(Source::named(source), Update::Metadata, &[asn]);
    }
    work.end(Operation::Update, networks.len(), completed.len());
    completed
}

fn numbers(rows: &Rows<NetworkColumns>) -> Vec<i64> {
    rows.iter().filter_map(|(asn, ..)| asn).collect()
}

/// Creates one network with the values of a caller. If the network exists, corrects its values and sets `last_seen` to the
/// current time. Values that other callers wrote are replaced only if `overwrites` is true. Passes the row of the network to
/// `read`. The metrics count each call as one operation.
pub fn ensure<T>(
    connection: &Connection,
    asn: i64,
    source_data: NetworkFacts,
    overwrites: bool,
    read: impl FnOnce(&Rows<()>) -> T,
) -> T {
    let networks = Networks::from([(asn, source_data)]);
    let is_counted =
        create(connection, &networks, "manual") > 0 || write(connection, &networks, "manual", overwrites) > 0;
    let (work, spans) = (Work::begin(), NetworkSpans::begin(1));
    let moved = TOUCH.run(connection, (asn,), |rows| {
        if !is_counted {
            spans.record(Operation::Update, rows.iter(), |_| "manual");
        }
        numbers(rows)
    });
    if !is_counted {
        telemetry::networks_updated(Source::Manual, Update::Timestamps, &moved);
        work.end(Operation::Update, 1, moved.len());
    }
    READ.run(connection, (asn,), read)
}
