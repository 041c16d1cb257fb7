//! Imports the data of an installation of the Python system.
//!
//! The import copies the inventories and the history of the Python system. The sessions stay in their table, and the import
//! attaches this table. Rows are read in key order. Each batch is one transaction, which also stores the position after its last
//! row. If a call is killed, the next call continues at this position. If the import is repeated, the second call changes nothing.
//! Every row is imported, or merged with another row of the same address, or listed in `rejected_row`.

mod addresses;
mod document;
mod history;
mod networks;
mod sessions;

use super::{Options, Procedure, Run, run};
use crate::error;
use crate::pg::jsonb::{self, Container, Value};
use crate::pg::role::{self, acting_as};
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::{Jsonb, Typed};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{self, Oid, catalog, mvcc_snapshot};
use crate::store::import_inventory::sessions as session_tables;
use crate::store::import_inventory::source::{self, Position, Reader, Row, Table, WantedColumn};
use crate::store::procedure_call::{self, RejectedRow};
use crate::store::{ExtensionOids, fold};

/// The names of the imported tables in the Python system.
const NETWORKS: &str = "asn_inventory";
const HISTORY: &str = "ip_asn_history";
const ADDRESSES: &str = "ip_inventory";
const SESSIONS: &str = "session_summaries";
const TABLES: [&str; 4] = [NETWORKS, HISTORY, ADDRESSES, SESSIONS];

pub fn take_over(call: &Call) {
    let Some(name) = call.name(0) else { error::null_argument("source_schema") };
    let oids = ExtensionOids::of_caller(call);
    if !role::has_privileges_of(oids.owner) {
        error::may_not_import();
    }
    let shown = name.to_string_lossy().into_owned();
    let schema = match catalog::schema(name) {
        None => error::unknown_schema(&shown),
        Some(schema) if schema == oids.schema => error::own_schema(&shown),
        Some(schema) => schema,
    };
    let tables = find(oids, schema, &shown);
    let relation = Oid::INVALID;
    let options =
        Options { procedure: Procedure::ImportInventory, relation, progress: true, needs_commits: true };
    run(call, &options, |run| {
        say_what_is_missing(&tables, &shown);
        let resume = run.resume_at().map(|kept| ResumePosition::read(kept, &shown)).unwrap_or_default();
        let mut import = Import { run, schema: shown, counts: resume.counts, resume: resume.position };
        // History is imported before addresses. Otherwise the import of an address would create a first row of history for an
        // address that has an imported history.
        for (phase, name) in TABLES.iter().enumerate() {
            if let Some(table) = tables.iter().find(|table| table.name == *name) {
                import.table(phase, table, &tables);
            }
        }
        import.fold();
        import.counts.report()
    });
}

/// Finds the tables to import. Checks all of them before the first one is imported.
fn find(oids: ExtensionOids, schema: Oid, schema_name: &str) -> Vec<Table> {
    let caller = role::current();
    let tables = acting_as(oids.owner, || {
        Connection::with(oids.schema, |connection| {
            let tables = source::tables(connection, schema, &TABLES);
            if tables.iter().any(|table| table.name == SESSIONS) {
                session_tables::check_may_attach(connection, caller);
            }
            tables
        })
    });
    if tables.is_empty() {
        error::nothing_to_import(schema_name, &TABLES);
    }
    for table in &tables {
        if !table.is_plain {
            error::not_a_plain_table(&table.name);
        }
        if !catalog::owns_table(table.oid) {
            error::not_owner(&table.name);
        }
        // The call of `reader` raises an error if the table has no valid key.
        reader(table);
        if table.name == SESSIONS {
            session_tables::changes(table);
        }
    }
    tables
}

fn reader(table: &Table) -> Reader<'_> {
    match table.name.as_str() {
        NETWORKS => Reader::new(table, "asn_number", networks::COLUMNS),
        HISTORY => Reader::new(table, "ip_address", history::COLUMNS),
        ADDRESSES => Reader::new(table, "ip_address", addresses::COLUMNS),
        _ => Reader::new(table, session_tables::KEY, sessions::columns(table)),
    }
}

fn say_what_is_missing(tables: &[Table], schema: &str) {
    for name in TABLES.iter().filter(|name| tables.iter().all(|table| table.name != **name)) {
        pg::notice(&format!(
            "schema \"{schema}\" has no table {name}, so no rows of this table are imported"
        ));
    }
    for table in tables {
        for column in reader(table).unreadable() {
            let (name, type_name) = (&column.name, &column.type_name);
            pg::notice(&format!(
                "column {name} of {} is not imported, because the type {type_name} is not supported",
                table.name
            ));
        }
    }
}

/// The counts for the final report. If earlier calls of this import were interrupted, the counts include the work of these calls.
#[derive(Default, Clone, Copy)]
struct ImportCounts {
    networks: i64,
    addresses: i64,
    history: i64,
    sessions: i64,
    /// Number of imported rows that were merged with another row for the same address or network.
    merged: i64,
    /// Number of rows that could not be used.
    rejected: i64,
    /// Number of rows of which only a part could be used. The unused parts are listed in `rejected_row`.
    partly_used: i64,
    /// Number of rows in this extension's tables that the import created or changed.
    written: i64,
}

impl ImportCounts {
    fn report(&self) -> Vec<(&'static str, i64)> {
        vec![
            ("networks", self.networks),
            ("addresses", self.addresses),
            ("history", self.history),
            ("sessions", self.sessions),
            ("merged", self.merged),
            ("rejected", self.rejected),
            ("partly_used", self.partly_used),
            ("written", self.written),
        ]
    }

    fn read(document: Container<'_>) -> ImportCounts {
        let number = |key| match document.get(key) {
            Some(Value::Number(number)) => number.text().parse().unwrap_or_default(),
            _ => 0,
        };
        ImportCounts {
            networks: number("networks"),
            addresses: number("addresses"),
            history: number("history"),
            sessions: number("sessions"),
            merged: number("merged"),
            rejected: number("rejected"),
            partly_used: number("partly_used"),
            written: number("written"),
        }
    }
}

/// The position at which an earlier call was killed. Used only if this call imports from the same schema as the killed call.
#[derive(Default)]
struct ResumePosition {
    counts: ImportCounts,
    position: Option<TablePosition>,
}

/// The index of a table, and a position in this table. If the position is `None`, it is after the last row.
type TablePosition = (usize, Option<Position>);

impl ResumePosition {
    fn read(kept: &OwnedVarlena, schema: &str) -> ResumePosition {
        let document = jsonb::container(kept);
        let phase = TABLES.iter().position(|name| document.text("table") == Some(name));
        match (phase, document.object("counts")) {
            (Some(phase), Some(counts)) if document.text("schema") == Some(schema) => {
                let position = document.object("position").map(Position::read);
                ResumePosition { counts: ImportCounts::read(counts), position: Some((phase, position)) }
            }
            _ => ResumePosition::default(),
        }
    }
}

/// A running import.
struct Import<'run, 'call> {
    run: &'run mut Run<'call>,
    schema: String,
    counts: ImportCounts,
    /// The position at which the import must continue. Unset after the import has continued there.
    resume: Option<TablePosition>,
}

impl Import<'_, '_> {
    /// Imports all rows of a table. If an earlier call was killed, imports only the rows that remain.
    fn table(&mut self, phase: usize, table: &Table, tables: &[Table]) {
        let begin = match self.resume.take() {
            Some((killed_in, position)) if killed_in > phase => {
                self.resume = Some((killed_in, position));
                return;
            }
            Some((killed_in, position)) if killed_in == phase => position,
            _ => Some(Position::beginning()),
        };
        let total = self.estimate(table);
        self.run.begin(TABLES[phase], total);
        let mut next = begin;
        while let Some(position) = next {
            next = self.batch(phase, table, &position);
        }
        if table.name == SESSIONS {
            let inventory = tables.iter().find(|table| table.name == ADDRESSES);
            sessions::attach(self.run, table, inventory);
        }
    }

    fn estimate(&self, table: &Table) -> i64 {
        let schema = self.run.oids.schema;
        Connection::with(schema, |connection| table.estimate(connection))
    }

    fn batch(&mut self, phase: usize, table: &Table, position: &Position) -> Option<Position> {
        let Import { run, schema, counts, .. } = self;
        let oids = run.oids;
        let mut next = None;
        run.batch_resumable(|_| {
            let mut report = RowReport::of(&format!("{schema}.{}", table.name));
            // A separate connection is used, because its memory is freed at the end of the batch. A snapshot is needed, because
            // long values are read after the statement that found their rows.
            let work = |connection: &Connection| {
                let reader = reader(table);
                let (rows, then) = reader.next(connection, position);
                let batch = Batch { connection, table, last_key: position.key.as_deref(), rows: &rows };
                match table.name.as_str() {
                    NETWORKS => networks::take(&batch, &mut report, counts),
                    HISTORY => history::take(&batch, &mut report, counts),
                    ADDRESSES => addresses::take(&batch, &mut report, counts),
                    _ => sessions::take(&batch, &mut report, counts),
                }
                procedure_call::reject(connection, Procedure::ImportInventory.name(), &report.rows);
                next = then;
                rows.len() as i64
            };
            let read = mvcc_snapshot::with_fresh(|| Connection::with(oids.schema, work));
            counts.rejected += report.rejected;
            counts.merged += report.merged;
            counts.partly_used += report.partly_used;
            // The position is stored even after the last row. Otherwise a repeated call would read the last rows again and count
            // their replaced documents twice.
            (read, Some(checkpoint_json(schema, phase, counts, next.as_ref())))
        });
        next
    }

    /// Folds the counter deltas of the batches, so that the counts in the inventories are correct when the call ends.
    fn fold(&mut self) {
        let oids = self.run.oids;
        self.run.begin("counting", 0);
        let mut pass = fold::FoldPass::default();
        let mut more = true;
        while more {
            self.run.batch(|connection| {
                more = fold::batch_if_free(oids, connection, &mut pass) && !pass.is_over();
                1
            });
        }
    }
}

fn checkpoint_json(
    schema: &str,
    phase: usize,
    counts: &ImportCounts,
    position: Option<&Position>,
) -> Typed<Jsonb> {
    jsonb::object(|object| {
        object.text("schema", schema);
        object.text("table", TABLES[phase]);
        if let Some(position) = position {
            object.object("position", |object| position.write(object));
        }
        object.object("counts", |object| {
            for (name, number) in counts.report() {
                object.number(name, number);
            }
        });
    })
}

/// Some rows of a table, in key order.
struct Batch<'a> {
    connection: &'a Connection,
    table: &'a Table,
    /// The key of the row before the first row of this batch.
    last_key: Option<&'a [u8]>,
    rows: &'a [Row],
}

impl Batch<'_> {
    /// Returns the rows of the batch. The flag of a row is true if the previous row has the same key.
    fn repeated(&self) -> impl Iterator<Item = (&Row, bool)> {
        let mut last = self.last_key;
        self.rows.iter().map(move |row| {
            let key = row.key.as_deref();
            let is_repeated = key.is_some() && key == last;
            last = key;
            (row, is_repeated)
        })
    }
}

/// The rows of a batch that must be listed in `rejected_row`.
struct RowReport {
    relation: String,
    rows: Vec<RejectedRow>,
    rejected: i64,
    merged: i64,
    partly_used: i64,
}

impl RowReport {
    fn of(relation: &str) -> RowReport {
        let relation = relation.to_owned();
        RowReport { relation, rows: Vec::new(), rejected: 0, merged: 0, partly_used: 0 }
    }

    /// Lists a row that cannot be used.
    fn reject(&mut self, row: &Row, wanted: &[WantedColumn], reason: &str) {
        self.rejected += 1;
        self.add(row.shown_key(), reason, Some(row.shown(wanted)));
    }

    /// Lists a row that was merged with another row for the same address or network.
    fn merge(&mut self, row_key: String, reason: &str, content: Option<String>) {
        self.merged += 1;
        self.add(row_key, reason, content);
    }

    /// Lists the parts of a row that cannot be used. Each part has a reason and may have the invalid value.
    fn faults(&mut self, row: &Row, faults: Vec<(String, Option<String>)>) {
        self.partly_used += i64::from(!faults.is_empty());
        for (reason, content) in faults {
            self.add(row.shown_key(), &reason, content);
        }
    }

    fn add(&mut self, row_key: String, reason: &str, content: Option<String>) {
        let (relation, reason) = (self.relation.clone(), reason.to_owned());
        self.rows.push(RejectedRow { relation, row_key, reason, content });
    }
}

/// Returns the beginning of a text. The beginning is long enough to find the text in the imported tables.
fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(60).collect()
}
