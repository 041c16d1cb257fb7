//! Stores sessions with `INSERT` alone on the table of sessions.
//!
//! A session and its rows in other tables are stored by one transaction. `INSERT … ON CONFLICT DO NOTHING` without a
//! conflict target needs no right to read the table. The number of inserted rows says whether all sessions of a batch
//! are new, or none is. If a batch is mixed, the caller divides it.
//!
//! Late rows (of sessions that are stored already) have no key that would show whether they are stored. The number of
//! their transaction shows it: `txid_status()` needs no privilege either.

use std::collections::{BTreeSet, HashMap};

use postgres::error::SqlState;
use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type};
use postgres::{Client, Error, Transaction};

use crate::load::{LOCK, LoadCounts, Row, TABLES, Table, Value, cut, event_row, optional, text};
use crate::session::Session;

const INSERT_SESSIONS: &str = include_str!("../../sql/follow_sessions.sql");
const UNIQUE_KEY: &str = include_str!("../../sql/follow_unique_key.sql");

/// Number of names of sensors or clients that are remembered for one connection.
const MOST_NAMES: usize = 10_000;

/// The result of inserting a batch of sessions. Nothing is committed yet.
pub enum Inserted<'a> {
    AllNew(Prepared<'a>),
    NoneNew,
    /// Some sessions of the batch are stored already. The transaction was rolled back.
    Mixed,
}

/// A transaction that only needs its commit.
pub struct Prepared<'a> {
    transaction: Transaction<'a>,
    /// Rows in all tables.
    pub rows: u64,
    /// Values that were too long for their column or contained NUL characters.
    pub cut: u64,
}

impl Prepared<'_> {
    pub fn commit(self) -> Result<(), Error> {
        self.transaction.commit()
    }
}

/// The outcome of an earlier transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    Aborted,
    InProgress,
}

/// A table that has a number for each name: `sensors` or `clients`.
struct Names {
    table: &'static str,
    column: &'static str,
    numbers: HashMap<String, i32>,
}

pub struct Writer {
    client: Client,
    present: [bool; 8],
    /// True if the table has a unique key on the id alone.
    is_id_unique: bool,
    sensors: Names,
    clients: Names,
}

impl Writer {
    /// Finds the tables of Cowrie's schema. Other tables than `sessions`, `sensors` and `clients` may be missing.
    pub fn new(mut client: Client) -> Result<Writer, Error> {
        let mut present = [false; 8];
        for table in TABLES {
            let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table.name()])?;
            present[table as usize] = row.get(0);
        }
        let names = |table, column| Names { table, column, numbers: HashMap::new() };
        let (sensors, clients) = (names("sensors", "ip"), names("clients", "version"));
        Ok(Writer { client, present, is_id_unique: false, sensors, clients })
    }

    /// Returns true if the table of sessions has a unique key by which a second insert of a session is noticed.
    pub fn has_unique_key(&mut self) -> Result<bool, Error> {
        let key = self.client.query_one(UNIQUE_KEY, &[])?;
        self.is_id_unique = key.get("is_id_alone");
        Ok(key.get("is_there"))
    }

    /// Returns true if the table would take this part of a session as another session. Without its connect event, the part has
    /// another start.
    pub fn is_unsafe(&self, session: &Session) -> bool {
        !self.is_id_unique && !session.connected
    }

    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Inserts sessions with all their rows, if none of them is stored already.
    pub fn insert(&mut self, sessions: &[Session]) -> Result<Inserted<'_>, Error> {
        let mut counts = LoadCounts::default();
        let sensor_names: Vec<String> = sessions.iter().map(|s| cut(&s.sensor, 255, &mut counts)).collect();
        let client_names: Vec<Option<String>> =
            sessions.iter().map(|s| s.client.as_ref().map(|name| cut(name, 50, &mut counts))).collect();
        self.sensors.find(&mut self.client, sensor_names.iter().collect())?;
        self.clients.find(&mut self.client, client_names.iter().flatten().collect())?;
        let mut columns: [Vec<Cell>; 7] = Default::default();
        for ((session, sensor), client) in sessions.iter().zip(&sensor_names).zip(&client_names) {
            let sensor = self.sensors.numbers.get(sensor).copied();
            let client = client.as_ref().and_then(|name| self.clients.numbers.get(name).copied());
            let values: [Value; 7] = [
                text(&session.id, 32, &mut counts),
                Box::new(session.start),
                Box::new(session.end),
                Box::new(sensor),
                text(&session.address, 61, &mut counts),
                optional(session.terminal_size.as_deref(), 7, &mut counts),
                Box::new(client),
            ];
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(Cell(value));
            }
        }
        let mut transaction = self.client.transaction()?;
        let inserted = transaction.execute(INSERT_SESSIONS, &columns.each_ref().map(|c| c as _))?;
        if inserted == 0 {
            transaction.rollback()?;
            return Ok(Inserted::NoneNew);
        }
        if inserted < sessions.len() as u64 {
            transaction.rollback()?;
            return Ok(Inserted::Mixed);
        }
        let rows = inserted + insert_events(&mut transaction, &self.present, sessions, &mut counts)?;
        Ok(Inserted::AllNew(Prepared { transaction, rows, cut: counts.cut }))
    }

    /// Inserts the rows of late events. Also returns the number of the transaction.
    pub fn insert_late(&mut self, parts: &[Session]) -> Result<(Prepared<'_>, i64), Error> {
        let mut counts = LoadCounts::default();
        let mut transaction = self.client.transaction()?;
        let number = transaction.query_one("SELECT txid_current()", &[])?.get(0);
        let rows = insert_events(&mut transaction, &self.present, parts, &mut counts)?;
        Ok((Prepared { transaction, rows, cut: counts.cut }, number))
    }

    /// Returns the outcome of a transaction of this server.
    pub fn outcome(&mut self, transaction: i64) -> Result<Outcome, Error> {
        let status = self.client.query_one("SELECT txid_status($1)", &[&transaction]);
        let status: Option<String> = match status {
            Ok(row) => row.get(0),
            // The server does not know this number. It crashed before the transaction was on disk.
            Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => {
                return Ok(Outcome::Aborted);
            }
            Err(error) => return Err(error),
        };
        Ok(match status.as_deref() {
            Some("in progress") => Outcome::InProgress,
            Some("aborted") => Outcome::Aborted,
            // Null means that the transaction is so old that the server forgot it. Most transactions are committed.
            _ => Outcome::Committed,
        })
    }
}

/// Inserts the rows of all events, in the log's order.
fn insert_events(
    transaction: &mut Transaction<'_>,
    present: &[bool; 8],
    sessions: &[Session],
    counts: &mut LoadCounts,
) -> Result<u64, Error> {
    let mut rows: [Vec<(String, Row)>; 8] = Default::default();
    for session in sessions {
        for (time, event) in &session.events {
            if let Some((table, row)) = event_row(*time, event, counts)
                && present[table as usize]
            {
                rows[table as usize].push((cut(&session.id, 32, &mut LoadCounts::default()), row));
            }
        }
    }
    let mut inserted = 0;
    for (table, rows) in TABLES.into_iter().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
        let mut columns: Vec<Vec<Cell>> = Vec::new();
        columns.resize_with(1 + table.columns().len(), Vec::new);
        for (session, row) in rows {
            let values = [Box::new(session) as Value].into_iter().chain(row);
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(Cell(value));
            }
        }
        let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|column| column as _).collect();
        inserted += transaction.execute(&insert_statement(table), &parameters)?;
    }
    Ok(inserted)
}

/// Returns the statement that inserts arrays of values, one for each column.
fn insert_statement(table: Table) -> String {
    let array_type = |column: &&str| match *column {
        "success" => "boolean[]",
        "size" | "dst_port" => "integer[]",
        // The server converts times by the connection's time zone, which is UTC.
        "\"timestamp\"" => "timestamptz[]",
        _ => "text[]",
    };
    let value = |column: &&str| match *column {
        "\"timestamp\"" => "\"timestamp\"::timestamp".to_owned(),
        column => column.to_owned(),
    };
    let arrays = table.columns().iter().enumerate();
    format!(
        "INSERT INTO {name} (session, {columns}) SELECT session, {values} \
         FROM unnest($1::text[], {arrays}) AS batch (session, {columns})",
        name = table.name(),
        columns = table.columns().join(", "),
        values = table.columns().iter().map(value).collect::<Vec<_>>().join(", "),
        arrays = arrays
            .map(|(nth, column)| format!("${}::{}", nth + 2, array_type(column)))
            .collect::<Vec<_>>()
            .join(", "),
    )
}

impl Names {
    /// Finds the numbers of names, and stores names that the table lacks. Names are not unique in Cowrie's tables, so
    /// the lowest number counts, and an advisory lock prevents two loaders from storing the same name.
    fn find(&mut self, client: &mut Client, names: BTreeSet<&String>) -> Result<(), Error> {
        if self.numbers.len() > MOST_NAMES {
            self.numbers.clear();
        }
        let unknown: Vec<&String> =
            names.into_iter().filter(|name| !self.numbers.contains_key(*name)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let Names { table, column, .. } = self;
        let find = format!("SELECT {column}, min(id) FROM {table} WHERE {column} = ANY ($1) GROUP BY 1");
        let mut found = client.query(&find, &[&unknown])?;
        if found.len() < unknown.len() {
            let mut transaction = client.transaction()?;
            transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
            transaction.execute(
                &format!(
                    "INSERT INTO {table} ({column}) SELECT name FROM unnest($1::text[]) AS name \
                     WHERE NOT EXISTS (SELECT FROM {table} WHERE {column} = name)"
                ),
                &[&unknown],
            )?;
            transaction.commit()?;
            found = client.query(&find, &[&unknown])?;
        }
        self.numbers.extend(found.iter().map(|row| (row.get(0), row.get(1))));
        Ok(())
    }
}

/// A value of any type that a column accepts.
#[derive(Debug)]
struct Cell(Value);

impl ToSql for Cell {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.to_sql_checked(ty, out)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    postgres::types::to_sql_checked!();
}

/// Returns true if the error comes from the values of a row, or from code that runs for each row. Then other rows may
/// still be stored.
pub fn is_caused_by_a_row(error: &Error) -> bool {
    // Program limits are here because an index can refuse a long value.
    const CLASSES: [&str; 5] = ["22", "23", "44", "54", "P0"];
    error.code().is_some_and(|code| CLASSES.contains(&&code.code()[..2]))
}

/// Returns true if a smaller batch may succeed: `statement_timeout` ended the statement.
pub fn is_timeout(error: &Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}
