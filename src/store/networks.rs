//! Rows of `asn_inventory`.

use std::collections::{BTreeMap, BTreeSet};

use pgrx::pg_sys;

use crate::pg::array::{self, Element};
use crate::pg::spi::{Connection, Rows, Statement};
use crate::pg::text;
use crate::telemetry::spans::Writing;
use crate::telemetry::{self, Operation, Source, Update, Work};

/// What a source says of a network.
#[derive(Clone, Default)]
pub struct Said {
    pub name: Option<String>,
    pub country: Option<String>,
    pub registry: Option<String>,
    /// Times of the sessions that brought the network up, if it was sessions.
    pub first_seen: Option<i64>,
    pub last_seen: Option<i64>,
}

impl Said {
    /// Several addresses of one network say different things: the first answer counts, the times widen.
    pub fn merge(&mut self, other: Said) {
        self.name = self.name.take().or(other.name);
        self.country = self.country.take().or(other.country);
        self.registry = self.registry.take().or(other.registry);
        self.first_seen = [self.first_seen, other.first_seen].into_iter().flatten().min();
        self.last_seen = [self.last_seen, other.last_seen].into_iter().flatten().max();
    }
}

/// By ASN, hence in the order of locks.
pub type Networks = BTreeMap<i64, Said>;

const ARRAYS: [pg_sys::Oid; 4] =
    [pg_sys::INT8ARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::TEXTARRAYOID];

thread_local! {
    static CREATE: Statement = const { Statement::new(
        "networks_create",
        include_str!("../../sql/queries/inventory/networks_create.sql"),
        &[ARRAYS[0], ARRAYS[1], ARRAYS[2], ARRAYS[3],
          pg_sys::TIMESTAMPTZARRAYOID, pg_sys::TIMESTAMPTZARRAYOID, ARRAYS[1], ARRAYS[1], ARRAYS[1]],
    ) };
    static REFINE: Statement = const { Statement::new(
        "networks_refine",
        include_str!("../../sql/queries/inventory/networks_refine.sql"),
        &[ARRAYS[0], ARRAYS[1], ARRAYS[2], ARRAYS[3], pg_sys::TEXTOID],
    ) };
    static SEEN: Statement = const { Statement::new(
        "networks_seen",
        include_str!("../../sql/queries/inventory/networks_seen.sql"),
        &[pg_sys::INT8ARRAYOID, pg_sys::TIMESTAMPTZARRAYOID, pg_sys::TIMESTAMPTZARRAYOID],
    ) };
    static EXISTING: Statement = const { Statement::new(
        "networks_existing", include_str!("../../sql/queries/inventory/networks_existing.sql"), &[pg_sys::INT8ARRAYOID]) };
    static COMPLETE: Statement = const { Statement::new(
        "networks_complete",
        include_str!("../../sql/queries/inventory/networks_complete.sql"),
        &[ARRAYS[0], ARRAYS[1], ARRAYS[1], ARRAYS[1], ARRAYS[1], ARRAYS[1], ARRAYS[1]],
    ) };
    static TOUCH: Statement = const { Statement::new(
        "network_touch",
        include_str!("../../sql/queries/inventory/network_touch.sql"),
        &[pg_sys::INT8OID],
    ) };
    static READ: Statement = const { Statement::new(
        "network_read",
        include_str!("../../sql/queries/inventory/network_read.sql"),
        &[pg_sys::INT8OID],
    ) };
}

/// Creates the networks that are not there yet, all as one source says; answers how many.
pub fn create(connection: &Connection, networks: &Networks, source: &str) -> i64 {
    create_said(connection, networks, |_| source).len() as i64
}

/// The same where several sources speak: in one pass all the same, because the order of locks is that of the numbers.
/// Answers which of them this created.
pub fn create_said<'a>(
    connection: &Connection,
    networks: &Networks,
    source: impl Fn(i64) -> &'a str,
) -> Vec<i64> {
    create_known(connection, networks, |asn| Origin::one(source(asn)))
}

/// Who a network is known from.
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

/// The same where a network's fields may be from several.
pub fn create_known<'a>(
    connection: &Connection,
    networks: &Networks,
    origin: impl Fn(i64) -> Origin<'a>,
) -> Vec<i64> {
    if networks.is_empty() {
        return Vec::new();
    }
    let (work, writing) = (Work::begin(), Writing::begin(networks.len()));
    let mut arguments = columns(networks);
    arguments.push(Some(times(networks, |said| said.first_seen)));
    arguments.push(Some(times(networks, |said| said.last_seen)));
    let fields: [fn(Origin<'a>) -> &'a str; 3] = [|it| it.name, |it| it.country, |it| it.registry];
    for field in fields {
        let sources = networks.keys().map(|asn| Some(text::write(field(origin(*asn)))));
        arguments.push(Some(array::write(Element::Text, sources)));
    }
    let created = CREATE.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let created = returned(rows);
            for (row, asn) in created.iter().enumerate() {
                let (country, registry) = (rows.text(row, 2), rows.text(row, 3));
                let source = Source::named(origin(*asn).network);
                telemetry::network_created(source, country.as_deref(), registry.as_deref());
            }
            writing.wrote(Operation::Create, rows, |asn| origin(asn).network);
            created
        })
    });
    work.end(Operation::Create, networks.len(), created.len());
    created
}

/// Fills and corrects the metadata of existing networks, as far as `source` may; answers of how many that were there before
/// this transaction: of the others it was counted that they were created.
pub fn refine(connection: &Connection, networks: &Networks, source: &str) -> usize {
    if networks.is_empty() {
        return 0;
    }
    let (work, writing) = (Work::begin(), Writing::begin(networks.len()));
    let mut arguments = columns(networks);
    arguments.push(Some(text::write(source)));
    let updated = REFINE.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            writing.wrote(Operation::Update, rows, |_| source);
            (0..rows.count).filter(|row| rows.boolean(*row, 5) == Some(true)).count()
        })
    });
    telemetry::networks_updated(Source::named(source), Update::Metadata, updated);
    work.end(Operation::Update, networks.len(), updated);
    updated
}

/// Returns those of some networks, given in order, that have a row.
pub fn existing<'a>(connection: &Connection, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    let numbers = array::bigints(networks);
    EXISTING.with(|statement| {
        connection.run(statement, &[Some(numbers)], |rows| {
            (0..rows.count).filter_map(|row| rows.bigint(row, 1)).collect()
        })
    })
}

/// Appends to the pending counts when networks were seen, as far as that is not known yet.
pub fn append_times(connection: &Connection, networks: &Networks) {
    if networks.is_empty() {
        return;
    }
    let arguments = [
        Some(numbers(networks)),
        Some(times(networks, |said| said.first_seen)),
        Some(times(networks, |said| said.last_seen)),
    ];
    SEEN.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// A field of a network, and who fills it.
pub type Filled = Option<(String, &'static str)>;

/// What is best of all that several sources say of a network.
#[derive(Default)]
pub struct Best {
    pub name: Filled,
    pub country: Filled,
    pub registry: Filled,
}

impl Best {
    /// Who fills the first of the fields.
    fn source(&self) -> Option<&'static str> {
        [&self.name, &self.country, &self.registry].into_iter().flatten().next().map(|(_, source)| *source)
    }
}

/// Fills the metadata of existing networks, by ASN, where there is none or a lesser source's. What one source says in many
/// places is not the same everywhere: it does not correct itself. Answers which networks this changed.
pub fn complete(connection: &Connection, networks: &BTreeMap<i64, Best>) -> Vec<i64> {
    if networks.is_empty() {
        return Vec::new();
    }
    let (work, writing) = (Work::begin(), Writing::begin(networks.len()));
    let asns = networks.keys().map(|asn| Some(pg_sys::Datum::from(*asn)));
    let mut arguments = vec![Some(array::write(Element::Bigint, asns))];
    let fields: [fn(&Best) -> &Filled; 3] = [|best| &best.name, |best| &best.country, |best| &best.registry];
    for field in fields {
        let texts = |part: fn(&(String, &'static str)) -> pg_sys::Datum| {
            Some(array::write(Element::Text, networks.values().map(|best| field(best).as_ref().map(part))))
        };
        arguments.extend([texts(|(value, _)| text::write(value)), texts(|(_, source)| text::write(source))]);
    }
    let source = |asn| networks.get(&asn).and_then(Best::source);
    let completed = COMPLETE.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            writing.wrote(Operation::Update, rows, |asn| source(asn).unwrap_or_default());
            returned(rows)
        })
    });
    for source in completed.iter().filter_map(|asn| source(*asn)) {
        telemetry::networks_updated(Source::named(source), Update::Metadata, 1);
    }
    work.end(Operation::Update, networks.len(), completed.len());
    completed
}

fn returned(rows: &Rows) -> Vec<i64> {
    (0..rows.count).filter_map(|row| rows.bigint(row, 1)).collect()
}

/// Creates one network as a caller says, or corrects it and moves `last_seen` to now; hands over the row. However much
/// that is, it is counted as one thing.
pub fn ensure<T>(connection: &Connection, asn: i64, said: Said, read: impl FnOnce(&Rows) -> T) -> T {
    let networks = Networks::from([(asn, said)]);
    let is_counted =
        create(connection, &networks, "manual") > 0 || refine(connection, &networks, "manual") > 0;
    let (work, writing) = (Work::begin(), Writing::begin(1));
    let argument = [Some(pg_sys::Datum::from(asn))];
    let moved = TOUCH.with(|statement| {
        connection.run(statement, &argument, |rows| {
            if !is_counted {
                writing.wrote(Operation::Update, rows, |_| "manual");
            }
            rows.count
        })
    });
    if !is_counted {
        telemetry::networks_updated(Source::Manual, Update::Timestamps, moved);
        work.end(Operation::Update, 1, moved);
    }
    READ.with(|statement| connection.run(statement, &argument, read))
}

fn columns(networks: &Networks) -> Vec<Option<pg_sys::Datum>> {
    let texts = |field: fn(&Said) -> &Option<String>| {
        Some(array::write(
            Element::Text,
            networks.values().map(|said| field(said).as_deref().map(text::write)),
        ))
    };
    vec![
        Some(numbers(networks)),
        texts(|said| &said.name),
        texts(|said| &said.country),
        texts(|said| &said.registry),
    ]
}

fn numbers(networks: &Networks) -> pg_sys::Datum {
    array::bigints(networks.keys())
}

fn times(networks: &Networks, field: fn(&Said) -> Option<i64>) -> pg_sys::Datum {
    array::write(Element::Timestamptz, networks.values().map(|said| field(said).map(pg_sys::Datum::from)))
}
