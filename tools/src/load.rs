//! Stores sessions in Cowrie's own PostgreSQL schema, with the same rows that Cowrie's database output would have
//! stored.
//!
//! One transaction stores one batch: COPY into temporary tables, then set-based inserts. The rules:
//!
//! - A load can be repeated. A stored session is not inserted again. Of its other rows, only the missing ones are
//!   inserted (as many times as the log has them).
//! - A value longer than its column is cut and counted. Cowrie itself would lose the row.
//! - An advisory lock, held for a batch, excludes other loads. Cowrie itself can write at the same time.
//!
//! A repeated load has one limit. If a session came in two parts, equal rows of a table without times (`params`,
//! `ttylog`, `keyfingerprints`) count as one row.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::ops::AddAssign;

use jiff::Timestamp;
use postgres::binary_copy::BinaryCopyInWriter;
use postgres::types::{ToSql, Type};
use postgres::{Client, Error, Transaction};

use crate::log::Event;
use crate::session::Session;

const STAGING: &str = include_str!("../sql/staging.sql");
const SENSORS: &str = include_str!("../sql/sensors.sql");
const CLIENTS: &str = include_str!("../sql/clients.sql");
const SESSIONS: &str = include_str!("../sql/sessions.sql");
const CONTINUED: &str = include_str!("../sql/continued.sql");
const OUTCOME: &str = include_str!("../sql/outcome.sql");

/// The number of the advisory lock, which no other program should use: "cowrielo" in ASCII.
pub(crate) const LOCK: i64 = 0x636f_7772_6965_6c6f;

/// Tables for a session's events, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Auth,
    Input,
    Downloads,
    Ttylog,
    Params,
    Keyfingerprints,
    Ipforwards,
    Ipforwardsdata,
}

pub const TABLES: [Table; 8] = [
    Table::Auth,
    Table::Input,
    Table::Downloads,
    Table::Ttylog,
    Table::Params,
    Table::Keyfingerprints,
    Table::Ipforwards,
    Table::Ipforwardsdata,
];

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Table::Auth => "auth",
            Table::Input => "input",
            Table::Downloads => "downloads",
            Table::Ttylog => "ttylog",
            Table::Params => "params",
            Table::Keyfingerprints => "keyfingerprints",
            Table::Ipforwards => "ipforwards",
            Table::Ipforwardsdata => "ipforwardsdata",
        }
    }

    /// The columns after the column `session`. Every table has `session`. In the staging table, `nth` is
    /// before these columns.
    pub(crate) fn columns(self) -> &'static [&'static str] {
        match self {
            Table::Auth => &["success", "username", "password", "\"timestamp\""],
            Table::Input => &["\"timestamp\"", "realm", "success", "input"],
            Table::Downloads => &["\"timestamp\"", "url", "outfile", "shasum"],
            Table::Ttylog => &["ttylog", "size"],
            Table::Params => &["arch"],
            Table::Keyfingerprints => &["username", "fingerprint"],
            Table::Ipforwards => &["\"timestamp\"", "dst_ip", "dst_port"],
            Table::Ipforwardsdata => &["\"timestamp\"", "dst_ip", "dst_port", "data"],
        }
    }

    /// Inserts rows of newly stored sessions, in the log's order.
    fn insert_fresh(self) -> String {
        let name = self.name();
        format!(
            "INSERT INTO {name} (session, {columns}) \
             SELECT staged.session, {values} \
             FROM loading_{name} AS staged \
             JOIN loading_sessions AS parent ON parent.id = staged.session \
             WHERE parent.fresh \
             ORDER BY parent.nth, staged.nth",
            columns = self.columns().join(", "),
            values = self.values("staged."),
        )
    }

    /// Inserts missing rows of sessions that were stored before. Equal rows are counted: each is inserted as
    /// often as it is missing.
    fn insert_missing(self) -> String {
        let name = self.name();
        format!(
            "INSERT INTO {name} (session, {columns}) \
             SELECT * FROM ( \
                 SELECT staged.session, {values} \
                 FROM loading_{name} AS staged \
                 JOIN loading_sessions AS parent ON parent.id = staged.session \
                 WHERE NOT parent.fresh \
                 EXCEPT ALL \
                 SELECT session, {columns} FROM {name} \
                 WHERE session IN (SELECT id FROM loading_sessions WHERE NOT fresh) \
             ) AS missing ORDER BY {order}",
            columns = self.columns().join(", "),
            values = self.values("staged."),
            order =
                if self.columns().contains(&"\"timestamp\"") { "\"timestamp\", session" } else { "session" },
        )
    }

    fn values(self, prefix: &str) -> String {
        let cast = |column: &&str| match *column {
            "\"timestamp\"" => format!("{prefix}{column}::timestamp AS {column}"),
            _ => format!("{prefix}{column}"),
        };
        self.columns().iter().map(cast).collect::<Vec<_>>().join(", ")
    }
}

/// Counts of the sessions and rows passed to [`Loader::store`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadCounts {
    pub sessions: u64,
    /// Stored sessions whose connect event is not in the log. Their start and address come from their first event.
    pub without_connect: u64,
    pub without_end: u64,
    /// Sessions, or parts of sessions, that were stored before.
    pub known: u64,
    /// Sessions that have the id of a stored session but are different sessions.
    pub other_of_same_id: u64,
    /// Known sessions whose end, client or terminal size was set now.
    pub continued: u64,
    /// Rows inserted, in the order of [`TABLES`].
    pub rows: [u64; 8],
    /// Values that were too long for their column or contained NUL characters.
    pub cut: u64,
    /// Rows for tables that this database does not have.
    pub without_table: u64,
}

impl AddAssign for LoadCounts {
    fn add_assign(&mut self, other: LoadCounts) {
        self.sessions += other.sessions;
        self.without_connect += other.without_connect;
        self.without_end += other.without_end;
        self.known += other.known;
        self.other_of_same_id += other.other_of_same_id;
        self.continued += other.continued;
        for (rows, more) in self.rows.iter_mut().zip(other.rows) {
            *rows += more;
        }
        self.cut += other.cut;
        self.without_table += other.without_table;
    }
}

pub struct Loader {
    client: Client,
    present: [bool; 8],
}

impl Loader {
    /// Prepares a connection. Fails if the database has no Cowrie schema. `sessions`, `sensors` and `clients` are
    /// required. Other tables are filled if they exist, because older versions of the schema lack some.
    pub fn new(mut client: Client) -> Result<Loader, Error> {
        client.batch_execute("SELECT id, starttime, endtime, sensor, ip, termsize, client FROM sessions LIMIT 0; SELECT id, ip FROM sensors LIMIT 0; SELECT id, version FROM clients LIMIT 0")?;
        client.batch_execute(STAGING)?;
        let mut present = [false; 8];
        for table in TABLES {
            let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table.name()])?;
            present[table as usize] = row.get(0);
        }
        Ok(Loader { client, present })
    }

    /// Stores a whole batch, or nothing if an error occurs.
    pub fn store(&mut self, batch: &[Session]) -> Result<LoadCounts, Error> {
        let mut stored = LoadCounts::default();
        let staged = StagedBatch::of(batch, &mut stored);
        let mut filled = [false; 8];
        let mut transaction = self.client.transaction()?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
        let columns = "nth, id, starttime, endtime, sensor, ip, termsize, client, connected";
        copy(&mut transaction, "loading_sessions", columns, staged.sessions)?;
        for (table, rows) in TABLES.into_iter().zip(staged.rows) {
            if !self.present[table as usize] {
                stored.without_table += rows.len() as u64;
            } else if !rows.is_empty() {
                filled[table as usize] = true;
                let columns = format!("nth, session, {}", table.columns().join(", "));
                copy(&mut transaction, &format!("loading_{}", table.name()), &columns, rows)?;
            }
        }
        transaction.execute(SENSORS, &[])?;
        transaction.execute(CLIENTS, &[])?;
        transaction.execute(SESSIONS, &[])?;
        let outcome = transaction.query_one(OUTCOME, &[])?;
        let count = |column: &str| outcome.get::<_, i64>(column) as u64;
        stored.sessions = count("stored");
        stored.without_connect = count("without_connect");
        stored.without_end = count("without_end");
        stored.known = count("known");
        stored.other_of_same_id = count("other_of_same_id");
        if stored.known > 0 {
            stored.continued = transaction.execute(CONTINUED, &[])?;
        }
        for table in TABLES {
            let index = table as usize;
            if !filled[index] {
                continue;
            }
            stored.rows[index] = transaction.execute(&table.insert_fresh(), &[])?;
            if stored.known > 0 {
                stored.rows[index] += transaction.execute(&table.insert_missing(), &[])?;
            }
        }
        transaction.commit()?;
        Ok(stored)
    }
}

/// Copies rows in binary format. The staging table defines the types of the values.
fn copy(transaction: &mut Transaction<'_>, table: &str, columns: &str, rows: Vec<Row>) -> Result<(), Error> {
    let described = transaction.prepare(&format!("SELECT {columns} FROM {table}"))?;
    let types: Vec<Type> = described.columns().iter().map(|column| column.type_().clone()).collect();
    let target = transaction.copy_in(&format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)"))?;
    let mut writer = BinaryCopyInWriter::new(target, &types);
    for row in rows {
        match writer.write_raw(row) {
            Ok(()) => {}
            // The server ended the copy, and `finish` returns its error.
            Err(error) if error.is_closed() => break,
            Err(error) => return Err(error),
        }
    }
    writer.finish().map(drop)
}

pub(crate) type Value = Box<dyn ToSql + Sync>;
pub(crate) type Row = Vec<Value>;

/// A batch as rows of the staging tables.
#[derive(Default)]
struct StagedBatch {
    sessions: Vec<Row>,
    rows: [Vec<Row>; 8],
}

impl StagedBatch {
    fn of(batch: &[Session], stored: &mut LoadCounts) -> StagedBatch {
        let mut staged = StagedBatch::default();
        // A batch has at most one session per id. Two parts of a session are never in the same batch.
        let mut seen = HashSet::with_capacity(batch.len());
        for (nth, session) in (0..).zip(batch) {
            let id = cut(&session.id, 32, stored);
            if seen.insert(id.clone()) {
                staged.sessions.push(vec![
                    Box::new(nth),
                    Box::new(id.clone()),
                    Box::new(session.start),
                    Box::new(session.end),
                    text(&session.sensor, 255, stored),
                    text(&session.address, 61, stored),
                    optional(session.terminal_size.as_deref(), 7, stored),
                    optional(session.client.as_deref(), 50, stored),
                    Box::new(session.connected),
                ]);
            }
            for (nth, (time, event)) in (0..).zip(&session.events) {
                if let Some((table, values)) = event_row(*time, event, stored) {
                    let mut row: Row = vec![Box::new(nth), Box::new(id.clone())];
                    row.extend(values);
                    staged.rows[table as usize].push(row);
                }
            }
        }
        staged
    }
}

/// Returns the table of an event, and the values of [`Table::columns`].
pub(crate) fn event_row(time: Timestamp, event: &Event, stored: &mut LoadCounts) -> Option<(Table, Row)> {
    let time = Box::new(time);
    Some(match event {
        Event::Login { success, username, password } => (
            Table::Auth,
            vec![Box::new(*success), text(username, 100, stored), text(password, 100, stored), time],
        ),
        Event::Input { success, realm, input } => (
            Table::Input,
            vec![
                time,
                optional(realm.as_deref(), 50, stored),
                Box::new(*success),
                text(input, usize::MAX, stored),
            ],
        ),
        Event::Download { url, outfile, shasum } => (
            Table::Downloads,
            vec![
                time,
                text(url, usize::MAX, stored),
                optional(outfile.as_deref(), usize::MAX, stored),
                optional(shasum.as_deref(), 64, stored),
            ],
        ),
        Event::Terminal { ttylog, size } => (Table::Ttylog, vec![text(ttylog, 100, stored), Box::new(*size)]),
        Event::Parameters { arch } => (Table::Params, vec![text(arch, 32, stored)]),
        Event::Fingerprint { username, fingerprint } => {
            (Table::Keyfingerprints, vec![text(username, 100, stored), text(fingerprint, 100, stored)])
        }
        Event::Forward { host, port } => {
            (Table::Ipforwards, vec![time, text(host, 255, stored), Box::new(*port)])
        }
        Event::ForwardedData { host, port, data } => (
            Table::Ipforwardsdata,
            vec![time, text(host, 255, stored), Box::new(*port), text(data, usize::MAX, stored)],
        ),
        Event::Connect | Event::Closed | Event::ClientVersion(_) | Event::TerminalSize(_) | Event::Other => {
            return None;
        }
    })
}

/// Keeps at most `limit` characters and drops NUL, which PostgreSQL's text cannot store.
pub(crate) fn cut(text: &str, limit: usize, stored: &mut LoadCounts) -> String {
    let clean: String = text.chars().filter(|character| *character != '\0').take(limit).collect();
    stored.cut += u64::from(clean.len() != text.len());
    clean
}

pub(crate) fn text(text: &str, limit: usize, stored: &mut LoadCounts) -> Value {
    Box::new(cut(text, limit, stored))
}

pub(crate) fn optional(text: Option<&str>, limit: usize, stored: &mut LoadCounts) -> Value {
    Box::new(text.map(|text| cut(text, limit, stored)))
}

/// Returns the text of an error with the server's message and all its causes.
pub fn explained(error: &Error) -> String {
    let mut text = without_values(error);
    if let Some(detail) = error.as_db_error().and_then(|database| database.detail()) {
        let _ = write!(text, " ({detail})");
    }
    text
}

/// Returns the text of an error without the values of the row that caused it. Errors with the same cause have the same text.
pub fn without_values(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(database) = error.as_db_error() {
        let _ = write!(text, ": {}", database.message());
    } else if let Some(source) = std::error::Error::source(error) {
        let _ = write!(text, ": {source}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_by_characters_and_counted() {
        let mut stored = LoadCounts::default();
        assert_eq!(cut("a\tb\\N\nc\r", 100, &mut stored), "a\tb\\N\nc\r");
        assert_eq!(stored.cut, 0);
        assert_eq!(cut(&"ä".repeat(101), 100, &mut stored), "ä".repeat(100));
        assert_eq!(cut("nul\0here", 100, &mut stored), "nulhere");
        assert_eq!(stored.cut, 2);
    }
}
