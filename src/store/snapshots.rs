//! Sessions that were stored before their address's network was known: their snapshots are completed, from null to a
//! value and never else.
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

use crate::pg::array::{self, Element};
use crate::pg::relation::{Place, Prober};
use crate::pg::role::{acting_as_stranger, with_settings};
use crate::pg::spi::{Connection, Prepared, Statement};
use crate::pg::subtransaction::contained_within;
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
pub struct Placed {
    pub address: Address,
    pub asn: i64,
    pub country: Option<String>,
    pub document: pg_sys::Datum,
}

/// A table without partitions, and the index of its sessions without a network. The name is as SQL wants it, in the
/// server's encoding.
struct Table {
    oid: pg_sys::Oid,
    index: pg_sys::Oid,
    name: Vec<u8>,
}

/// Completes the sessions of these addresses in all attached tables; answers the addresses of sessions that somebody
/// holds at the moment.
pub fn complete(connection: &Connection, placed: &[Placed]) -> BTreeSet<Address> {
    let mut held = BTreeSet::new();
    if placed.is_empty() {
        return held;
    }
    let until = Instant::now() + TIME;
    for table in attached(connection) {
        let limit = until.saturating_duration_since(Instant::now()).max(LEAST_TIME);
        match contained_within(limit, || complete_table(connection, &table, placed)) {
            Ok(waiting) => held.extend(waiting),
            Err(failure) if failure.was_lock => held.extend(placed.iter().map(|placed| placed.address)),
            // It would fail again: a constraint of theirs, a column of another type.
            Err(failure) => telemetry::error(
                "sessions of a table could not be completed",
                &format!("{}: {}", String::from_utf8_lossy(&table.name), failure.message),
            ),
        }
    }
    held
}

fn attached(connection: &Connection) -> Vec<Table> {
    ATTACHED.with(|statement| {
        connection.run(statement, &[], |rows| {
            (0..rows.count)
                .filter_map(|row| {
                    let oid = |column| u32::try_from(rows.bigint(row, column)?).ok().map(pg_sys::Oid::from);
                    Some(Table { oid: oid(1)?, index: oid(2)?, name: rows.bytes(row, 3)? })
                })
                .collect()
        })
    })
}

fn complete_table(connection: &Connection, table: &Table, placed: &[Placed]) -> Vec<Address> {
    let Some(owner) = catalog::owner_of_table(table.oid) else { return Vec::new() };
    let waiting = waiting(table, placed);
    if waiting.is_empty() {
        return Vec::new();
    }
    let arguments = [
        array::write(Element::Tid, waiting.iter().map(|(_, place)| Some(place.datum()))),
        array::write(Element::Bigint, waiting.iter().map(|(p, _)| Some(pg_sys::Datum::from(p.asn)))),
        array::write(Element::Text, waiting.iter().map(|(p, _)| p.country.as_deref().map(text::write))),
        array::write(Element::Jsonb, waiting.iter().map(|(p, _)| Some(p.document))),
    ];
    with_settings(SETTINGS, || {
        acting_as_stranger(owner, || {
            let update = prepare(connection, table);
            connection.run_prepared(&update, &arguments, |_| ());
        });
    });
    self::waiting(table, placed).into_iter().map(|(placed, _)| placed.address).collect()
}

/// Sessions without a network of these addresses, found by our own index and below the executor: planning a query on
/// somebody's table already runs code of theirs.
fn waiting<'a>(table: &Table, placed: &'a [Placed]) -> Vec<(&'a Placed, Place)> {
    let latest = snapshot::Latest::take();
    let Some(mut sessions) = Prober::open(table.oid, table.index, latest.raw()) else { return Vec::new() };
    let of = |placed: &'a Placed| {
        let places = sessions.places(inet::write(placed.address));
        places.into_iter().map(move |place| (placed, place))
    };
    placed.iter().flat_map(of).collect()
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
    const TYPES: [pg_sys::Oid; 4] =
        [pg_sys::TIDARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::JSONBARRAYOID];
    let parts: Vec<&[u8]> = STATEMENT.split("@table@").map(str::as_bytes).collect();
    connection.prepare(&parts.join(table.name.as_slice()), &TYPES)
}
