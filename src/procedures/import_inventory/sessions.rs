//! Sessions in the Python system's table `session_summaries`. The sessions stay in this table, and the import attaches the table.
//!
//! Snapshots date from the time of the attack, so the import does not change them, even if they are invalid. If a row is listed in
//! `rejected_row`, the row also stays in its table.

use cowrie_enrich_engine::{address, legacy};

use super::document::{self, ParsedDocument};
use super::{Batch, ImportCounts, RowReport, Run, shortened};
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::text::from_server;
use crate::pg::{self, catalog};
use crate::procedures::ATTACH_AGAIN;
use crate::store::backfill_sessions;
use crate::store::import_inventory::sessions as tables;
use crate::store::import_inventory::source::{Row, Table, WantedColumn, text, wanted};

const WITH_DOCUMENT: &[WantedColumn] = wanted(&[
    text(&[tables::ADDRESS]),
    text(&["snapshot_asn"]),
    text(&["snapshot_country"]),
    text(&["enrichment"]),
]);
/// These columns are read if the documents need no change, because documents can be large.
const WITHOUT_DOCUMENT: &[WantedColumn] = WITH_DOCUMENT.split_at(3).0;
const ADDRESS: usize = 0;
const ASN: usize = 1;
const COUNTRY: usize = 2;
const DOCUMENT: usize = 3;

/// Returns the columns that the import must read from the table of sessions.
pub fn columns(table: &Table) -> &'static [WantedColumn] {
    let becomes_jsonb = tables::changes(table).iter().any(|change| change.column == "enrichment");
    if becomes_jsonb { WITH_DOCUMENT } else { WITHOUT_DOCUMENT }
}

pub fn take(batch: &Batch, report: &mut RowReport, counts: &mut ImportCounts) {
    let mut documents = Vec::new();
    for row in batch.rows {
        let faults = faults(row, &mut documents);
        if let Err(address::AddressError::NotAnAddress | address::AddressError::TooLong { .. }) =
            address::parse_bytes(row.bytes(ADDRESS).unwrap_or_default())
        {
            report.reject(row, WITH_DOCUMENT, "source_ip is not an address, so the session is not counted");
        } else {
            counts.sessions += 1;
        }
        report.faults(row, faults);
    }
    tables::replace_documents(batch.connection, batch.table, &documents);
}

fn faults<'a>(row: &'a Row, documents: &mut Vec<(&'a Row, Vec<u8>)>) -> Vec<(String, Option<String>)> {
    let mut faults = Vec::new();
    let mut check = |column, name, makes_sense: &dyn Fn(&str) -> bool, wanted| {
        if let Some(text) = row.text(column).filter(|text| !makes_sense(text)) {
            faults.push((format!("{name} is \"{}\", not {wanted}", shortened(&text)), Some(text)));
        }
    };
    check(ASN, "snapshot_asn", &|text| legacy::asn(text).is_some(), "an ASN");
    check(COUNTRY, "snapshot_country", &is_country, "a country");
    if let Some(text) = row.bytes(DOCUMENT) {
        let (reason, replacement) = match document::read(text) {
            ParsedDocument::Whole(_) => return faults,
            ParsedDocument::Cleaned(_, replacement) => (document::CLEANED, replacement),
            ParsedDocument::Unreadable => (document::UNREADABLE, document::as_string(text)),
        };
        faults.push((reason.to_owned(), Some(from_server(text).into_owned())));
        documents.push((row, replacement));
    }
    faults
}

/// Returns true if the Python system's own check accepts the text as a country code. This check also accepts `XX`.
fn is_country(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|letter| letter.is_ascii_uppercase())
}

/// Changes the columns of the table to the required types, and attaches the table.
pub fn attach(run: &mut Run, table: &Table, inventory: Option<&Table>) {
    let schema = run.oids.schema;
    let mut changes = tables::changes(table);
    let name = String::from_utf8_lossy(&catalog::quoted_table_name(table.oid)).into_owned();
    let is_attached = || Connection::with(schema, |connection| tables::is_attached(connection, table));
    let is_attached = acting_as(run.oids.owner, is_attached);
    if !is_attached {
        take_types(table, &name, &mut changes);
    }
    let references = Connection::with(schema, |connection| {
        inventory
            .map(|inventory| tables::references(connection, table.oid, inventory.oid))
            .unwrap_or_default()
    });
    if !changes.is_empty() {
        let becomes: Vec<String> = changes.iter().map(tables::Change::description).collect();
        pg::notice(&format!(
            "rewriting table {name} to change columns; the table is locked during the rewrite: {}",
            becomes.join(", ")
        ));
    }
    run.begin("attaching session_summaries", 1);
    run.batch(|_| {
        Connection::with(schema, |connection| {
            tables::make_fit(connection, table, &changes, &references);
        });
        i64::from(!changes.is_empty() || !references.is_empty())
    });
    for reference in &references {
        pg::notice(&format!(
            "dropped foreign key {} of {name}, which referenced the imported table ip_inventory",
            String::from_utf8_lossy(reference)
        ));
    }
    if is_attached {
        let reason = |connection: &Connection| backfill_sessions::not_intact_reason(connection, table.oid);
        if let Some(reason) = acting_as(run.oids.owner, || Connection::with(schema, reason)) {
            pg::warning(
                &format!("{name} is already an attached session table, but is not intact: {reason}"),
                ATTACH_AGAIN,
            );
        }
        return;
    }
    tables::attach(run.connection, table);
    run.commit();
    let by = tables::time_column(table)
        .map_or_else(|| "no time column".to_owned(), |by| format!("time column {by}"));
    pg::notice(&format!(
        "{name} is now an attached session table (address column {}, {by}); next call backfill_sessions('{name}') to count the sessions and fill the snapshot columns",
        tables::ADDRESS
    ));
}

/// Older Python systems stored a list of types in the column `snapshot_ip_types`. If the table has this column, adds a change that
/// sets the type of each session to the first type in its list.
fn take_types(table: &Table, name: &str, changes: &mut Vec<tables::Change>) {
    match tables::types(table) {
        tables::Types::None => {}
        tables::Types::First(change) => changes.push(change),
        tables::Types::Unreadable => pg::notice(&format!(
            "column snapshot_ip_types of {name} is not imported, because the column is neither an array of text nor JSON; \
             fill snapshot_ip_type before you call import_inventory()"
        )),
    }
}
