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

use super::Home;
use crate::pg::array::{self, Element};
use crate::pg::role::{acting_as_stranger, with_settings};
use crate::pg::spi::{Connection, Prepared, Statement};
use crate::pg::subtransaction::contained_within;
use crate::pg::{call, catalog, inet, text};
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

/// Names are as SQL wants them, in the server's encoding.
struct Table {
    oid: pg_sys::Oid,
    name: Vec<u8>,
    ip_column: Vec<u8>,
}

/// Completes the sessions of these addresses in all attached tables; answers the addresses of sessions that somebody
/// holds at the moment.
pub fn complete(home: Home, connection: &Connection, placed: &[Placed]) -> BTreeSet<Address> {
    let mut held = BTreeSet::new();
    if placed.is_empty() {
        return held;
    }
    let until = Instant::now() + TIME;
    for table in attached(connection) {
        let limit = until.saturating_duration_since(Instant::now()).max(LEAST_TIME);
        match contained_within(limit, || complete_table(home, connection, &table, placed)) {
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
                    Some(Table {
                        oid: pg_sys::Oid::from(u32::try_from(rows.bigint(row, 1)?).ok()?),
                        name: rows.bytes(row, 2)?,
                        ip_column: rows.bytes(row, 3)?,
                    })
                })
                .collect()
        })
    })
}

fn complete_table(home: Home, connection: &Connection, table: &Table, placed: &[Placed]) -> Vec<Address> {
    let (Some(owner), Some(schema)) =
        (catalog::owner_of_table(table.oid), call::quoted_schema_bytes(home.schema))
    else {
        return Vec::new();
    };
    let addresses = array::write(Element::Inet, placed.iter().map(|p| Some(inet::write(p.address))));
    let arguments = [
        addresses,
        array::write(Element::Bigint, placed.iter().map(|p| Some(pg_sys::Datum::from(p.asn)))),
        array::write(Element::Text, placed.iter().map(|p| p.country.as_deref().map(text::write))),
        array::write(Element::Jsonb, placed.iter().map(|p| Some(p.document))),
    ];
    // Set before anything is prepared: it makes the server forget its plans, and these are analysed with our rights,
    // since the table's owner need not have any on our schema. They are run with the owner's.
    with_settings(SETTINGS, || {
        let update = prepare(connection, UPDATE, table, &schema, &UPDATE_TYPES);
        let rest = prepare(connection, REST, table, &schema, &UPDATE_TYPES[..1]);
        acting_as_stranger(owner, || {
            connection.run_prepared(&update, &arguments, |_| ());
            connection.run_prepared(&rest, &[addresses], |rows| {
                (0..rows.count).filter_map(|row| rows.address(row, 1)).collect()
            })
        })
    })
}

const SETTINGS: &[(&std::ffi::CStr, &std::ffi::CStr)] = &[
    // Whoever has the TRIGGER privilege could otherwise have the owner run their code.
    (c"session_replication_role", c"replica"),
    // The index of those that wait is small, whatever the planner thinks of it before the table is analysed.
    (c"enable_seqscan", c"off"),
];

const UPDATE_TYPES: [pg_sys::Oid; 4] =
    [pg_sys::INETARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::JSONBARRAYOID];

const UPDATE: &str = include_str!("../../sql/queries/sessions_complete.sql");
const REST: &str = include_str!("../../sql/queries/sessions_incomplete.sql");

/// Puts names into a statement, which are in the server's encoding and need not be UTF-8.
fn prepare(
    connection: &Connection,
    statement: &str,
    table: &Table,
    schema: &[u8],
    types: &[pg_sys::Oid],
) -> Prepared {
    let mut text = Vec::with_capacity(statement.len() + 256);
    for (n, part) in statement.split('@').enumerate() {
        match part {
            "table" if n % 2 == 1 => text.extend_from_slice(&table.name),
            "ip" if n % 2 == 1 => text.extend_from_slice(&table.ip_column),
            "extschema" if n % 2 == 1 => text.extend_from_slice(schema),
            _ => text.extend_from_slice(part.as_bytes()),
        }
    }
    connection.prepare(&text, types)
}
