//! Sessions that were stored before their address's network was known: their snapshots are completed, from null to a
//! value and never else.
//!
//! The session tables are their owners'. They are written as those owners, in a restricted operation, and one table's
//! failure is contained: a trigger of somebody's that raises keeps neither the inventory nor other tables from being
//! written. Rows that somebody holds are passed over, since a session's own transaction must never wait for this one
//! in the wrong order; who calls is told, and comes back.

use std::collections::BTreeSet;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::Home;
use crate::pg::array::{self, Element};
use crate::pg::role::{self, acting_as_stranger};
use crate::pg::spi::{Connection, Prepared, Statement};
use crate::pg::subtransaction::contained;
use crate::pg::{call, catalog, inet, text};
use crate::telemetry;

thread_local! {
    static ATTACHED: Statement = const { Statement::new(
        "sessions_attached", include_str!("../../sql/queries/sessions_attached.sql"), &[]) };
}

/// What is known now of an address. The document is what a session's snapshot holds when it holds nothing yet.
pub struct Placed {
    pub address: Address,
    pub asn: i64,
    pub country: Option<String>,
    pub document: pg_sys::Datum,
}

struct Table {
    oid: pg_sys::Oid,
    /// Quoted and qualified.
    name: String,
    ip_column: String,
}

/// Completes the sessions of these addresses in all attached tables; answers the addresses with sessions that could
/// not be completed now.
pub fn complete(home: Home, connection: &Connection, placed: &[Placed]) -> BTreeSet<Address> {
    let mut incomplete = BTreeSet::new();
    if placed.is_empty() {
        return incomplete;
    }
    // Deferred triggers of the tables' owners would run at commit, as nobody in particular: they run at once.
    let immediate = connection.prepare("SET CONSTRAINTS ALL IMMEDIATE", &[]);
    connection.run_prepared(&immediate, &[], |_| ());
    for table in attached(connection) {
        match contained(|| complete_table(home, connection, &table, placed)) {
            Ok(waiting) => incomplete.extend(waiting),
            Err(failure) => {
                telemetry::error(
                    "sessions of a table could not be completed",
                    &format!("{}: {}", table.name, failure.message),
                );
                incomplete.extend(placed.iter().map(|placed| placed.address));
            }
        }
    }
    incomplete
}

fn attached(connection: &Connection) -> Vec<Table> {
    ATTACHED.with(|statement| {
        connection.run(statement, &[], |rows| {
            (0..rows.count)
                .filter_map(|row| {
                    Some(Table {
                        oid: pg_sys::Oid::from(u32::try_from(rows.bigint(row, 1)?).ok()?),
                        name: rows.text(row, 2)?,
                        ip_column: rows.text(row, 3)?,
                    })
                })
                .collect()
        })
    })
}

fn complete_table(home: Home, connection: &Connection, table: &Table, placed: &[Placed]) -> Vec<Address> {
    let (Some(owner), Some(schema)) = (catalog::owner_of_table(table.oid), call::quoted_schema(home.schema))
    else {
        return Vec::new();
    };
    let address = format!("{schema}.session_address(s.{})", text::quoted_name(&table.ip_column));
    // Prepared with our rights, since the table's owner need not have any on our schema; run with theirs.
    let update = prepare_update(connection, &table.name, &address);
    let rest = connection.prepare(
        &format!(
            "SELECT DISTINCT {address} FROM {} s WHERE s.snapshot_asn IS NULL AND {address} = ANY ($1)",
            table.name
        ),
        &[pg_sys::INETARRAYOID],
    );
    let addresses = array::write(Element::Inet, placed.iter().map(|p| Some(inet::write(p.address))));
    let arguments = [
        addresses,
        array::write(Element::Bigint, placed.iter().map(|p| Some(pg_sys::Datum::from(p.asn)))),
        array::write(Element::Text, placed.iter().map(|p| p.country.as_deref().map(text::write))),
        array::write(Element::Jsonb, placed.iter().map(|p| Some(p.document))),
    ];
    acting_as_stranger(owner, || {
        // The index of those that wait is small, whatever the planner thinks of it before the table is analysed.
        role::set_locally(c"enable_seqscan", c"off");
        connection.run_prepared(&update, &arguments, |_| ());
        connection.run_prepared(&rest, &[addresses], |rows| {
            (0..rows.count).filter_map(|row| rows.address(row, 1)).collect()
        })
    })
}

fn prepare_update(connection: &Connection, table: &str, address: &str) -> Prepared {
    let statement = format!(
        "WITH waiting AS (
             SELECT s.tableoid AS part, s.ctid AS place, {address} AS ip
             FROM {table} s
             WHERE s.snapshot_asn IS NULL AND {address} = ANY ($1)
             FOR NO KEY UPDATE OF s SKIP LOCKED
         )
         UPDATE {table} s
         SET snapshot_asn = g.asn,
             snapshot_country = COALESCE(s.snapshot_country, g.country),
             enrichment = COALESCE(s.enrichment, g.document - '_meta'),
             enrichment_at = COALESCE(s.enrichment_at, now())
         FROM waiting w
         JOIN unnest($1, $2, $3, $4) AS g(ip, asn, country, document) ON g.ip = w.ip
         WHERE s.ctid = w.place AND s.tableoid = w.part"
    );
    let types = [pg_sys::INETARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::JSONBARRAYOID];
    connection.prepare(&statement, &types)
}
