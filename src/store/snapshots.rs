//! Sessions that were stored before everything about their address was known: their snapshots are completed, from null
//! to a value and never else.
//!
//! The session tables are other people's. They are written as their owners, in a restricted operation, with no trigger
//! but those that only an owner can make fire always, and for a limited time: nothing that somebody put on a table can
//! do what its owner could not do by an UPDATE of their own, nor hold the worker up. One table's failure is contained
//! and keeps neither the inventory nor other tables from being written.
//!
//! Rows that somebody holds are passed over, since a session's own transaction must never wait for this one in the
//! wrong order; who calls is told, and comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::addresses;
use crate::pg::array::{self, Element};
use crate::pg::relation::{Place, Prober, Row};
use crate::pg::role::{acting_as_stranger, with_settings};
use crate::pg::spi::{Connection, Prepared, Statement};
use crate::pg::subtransaction::contained_within;
use crate::pg::trigger::Length;
use crate::pg::{catalog, inet, snapshot, text};
use crate::telemetry;

thread_local! {
    static ATTACHED: Statement = const { Statement::new(
        "sessions_attached", include_str!("../../sql/queries/sessions_attached.sql"), &[]) };
}

/// For all tables together: a transaction of the worker's ends within a second.
const TIME: Duration = Duration::from_millis(600);
/// For each table at least.
const LEAST_TIME: Duration = Duration::from_millis(50);

/// What is known now of an address. The document is what a session's snapshot holds when it holds nothing yet.
pub struct Standing {
    pub address: Address,
    pub asn: Option<i64>,
    pub country: Option<String>,
    pub ip_type: Option<String>,
    pub document: pg_sys::Datum,
}

/// A table without partitions, and the index of its sessions with gaps in their snapshots. The name is as SQL wants it,
/// in the server's encoding.
struct Table {
    oid: pg_sys::Oid,
    index: pg_sys::Oid,
    name: Vec<u8>,
    /// Whether sessions that lack the type alone are in the index.
    has_types: bool,
}

/// Completes the sessions of these addresses in all attached tables by what the inventory knows now; answers the
/// addresses of sessions that somebody holds at the moment.
pub fn complete(connection: &Connection, addresses: &[Address]) -> BTreeSet<Address> {
    if addresses.is_empty() {
        return BTreeSet::new();
    }
    let tables = attached(connection);
    if tables.is_empty() {
        return BTreeSet::new();
    }
    addresses::standing(connection, addresses, |standing| complete_tables(connection, &tables, standing))
}

fn attached(connection: &Connection) -> Vec<Table> {
    ATTACHED.with(|statement| {
        connection.run(statement, &[], |rows| {
            (0..rows.count)
                .filter_map(|row| {
                    let oid = |column| u32::try_from(rows.bigint(row, column)?).ok().map(pg_sys::Oid::from);
                    Some(Table {
                        oid: oid(1)?,
                        index: oid(2)?,
                        name: rows.bytes(row, 3)?,
                        has_types: rows.boolean(row, 4)?,
                    })
                })
                .collect()
        })
    })
}

fn complete_tables(connection: &Connection, tables: &[Table], standing: &[Standing]) -> BTreeSet<Address> {
    let mut held = BTreeSet::new();
    let until = Instant::now() + TIME;
    for table in tables {
        let limit = until.saturating_duration_since(Instant::now()).max(LEAST_TIME);
        match contained_within(limit, || complete_table(connection, table, standing)) {
            Ok(waiting) => held.extend(waiting),
            Err(failure) if failure.was_lock => held.extend(standing.iter().map(|standing| standing.address)),
            // It would fail again: a constraint of theirs, a column of another type.
            Err(failure) => telemetry::error(
                "sessions of a table could not be completed",
                &format!("{}: {}", String::from_utf8_lossy(&table.name), failure.message),
            ),
        }
    }
    held
}

fn complete_table(connection: &Connection, table: &Table, standing: &[Standing]) -> Vec<Address> {
    let Some(owner) = catalog::owner_of_table(table.oid) else { return Vec::new() };
    if !table.has_types && standing.iter().any(|standing| standing.ip_type.is_some()) {
        telemetry::log_once_per_burst(
            "sessions of a table may lack their type: attach it again, now that there is a source of types",
            &String::from_utf8_lossy(&table.name),
        );
    }
    let Some((columns, waiting)) = waiting(table, standing) else { return Vec::new() };
    if waiting.is_empty() {
        return Vec::new();
    }
    let texts = |value: &dyn Fn(&Standing) -> Option<pg_sys::Datum>| {
        array::write(Element::Text, waiting.iter().map(|(standing, _)| value(standing)))
    };
    let arguments = [
        array::write(Element::Tid, waiting.iter().map(|(_, place)| Some(place.datum()))),
        array::write(Element::Bigint, waiting.iter().map(|(s, _)| s.asn.map(pg_sys::Datum::from))),
        texts(&|standing| columns.country(standing).map(text::write)),
        texts(&|standing| columns.ip_type(standing).map(text::write)),
        array::write(Element::Jsonb, waiting.iter().map(|(s, _)| Some(s.document))),
    ];
    with_settings(SETTINGS, || {
        acting_as_stranger(owner, || {
            let update = prepare(connection, table);
            connection.run_prepared(&update, &arguments, |_| ());
        });
    });
    let still = self::waiting(table, standing).map(|(_, still)| still).unwrap_or_default();
    still.into_iter().map(|(standing, _)| standing.address).collect()
}

/// The snapshot columns of a table; what a column does not take is not written there.
struct Columns {
    asn: Option<i16>,
    country: Option<(i16, Length)>,
    ip_type: Option<(i16, Length)>,
}

impl Columns {
    fn of(table: &Table, sessions: &Prober) -> Columns {
        let text = |name| sessions.column(name).map(|column| (column.number, column.length(table.oid)));
        Columns {
            asn: sessions.column(c"snapshot_asn").map(|column| column.number),
            country: text(c"snapshot_country"),
            ip_type: text(c"snapshot_ip_type"),
        }
    }

    fn country<'a>(&self, standing: &'a Standing) -> Option<&'a str> {
        fitting(self.country, standing.country.as_deref())
    }

    fn ip_type<'a>(&self, standing: &'a Standing) -> Option<&'a str> {
        fitting(self.ip_type, standing.ip_type.as_deref())
    }

    /// Whether a session's row lacks something that is known now.
    fn are_lacking(&self, row: &Row, standing: &Standing) -> bool {
        let lacks = |number: i16| row.column(number).is_none();
        (standing.asn.is_some() && self.asn.is_some_and(lacks))
            || (self.country(standing).is_some() && self.country.is_some_and(|(number, _)| lacks(number)))
            || (self.ip_type(standing).is_some() && self.ip_type.is_some_and(|(number, _)| lacks(number)))
    }
}

fn fitting(column: Option<(i16, Length)>, text: Option<&str>) -> Option<&str> {
    let (_, length) = column?;
    text.filter(|text| length.takes(text.chars().count()))
}

/// Sessions of these addresses that lack what is known now, found by our own index and below the executor: planning a
/// query on somebody's table already runs code of theirs. `None`: the table is gone.
fn waiting<'a>(table: &Table, standing: &'a [Standing]) -> Option<(Columns, Vec<(&'a Standing, Place)>)> {
    let latest = snapshot::Latest::take();
    let mut sessions = Prober::open(table.oid, table.index, latest.raw())?;
    let columns = Columns::of(table, &sessions);
    let mut waiting = Vec::new();
    for standing in standing {
        let places = sessions.places(inet::write(standing.address), |row| columns.are_lacking(row, standing));
        waiting.extend(places.into_iter().map(|place| (standing, place)));
    }
    Some((columns, waiting))
}

const SETTINGS: &[(&std::ffi::CStr, &std::ffi::CStr)] = &[
    // Whoever has the TRIGGER privilege could otherwise have the owner run their code.
    (c"session_replication_role", c"replica"),
    // The rows are named; the table may be large.
    (c"enable_seqscan", c"off"),
];

/// The statement for a table, whose name is in the server's encoding and need not be UTF-8.
fn prepare(connection: &Connection, table: &Table) -> Prepared {
    const STATEMENT: &str = include_str!("../../sql/queries/sessions_complete.sql");
    const TYPES: [pg_sys::Oid; 5] = [
        pg_sys::TIDARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::JSONBARRAYOID,
    ];
    let parts: Vec<&[u8]> = STATEMENT.split("@table@").map(str::as_bytes).collect();
    connection.prepare(&parts.join(table.name.as_slice()), &TYPES)
}
