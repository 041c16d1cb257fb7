//! Stores sessions in Cowrie's own PostgreSQL schema, row for row what Cowrie's database output would have stored.
//!
//! One batch, one transaction: COPY into temporary tables, then set-based inserts. The rules:
//!
//! - A load can be repeated. A session that is there is not inserted again, and of its other rows only those that are
//!   not there yet (as many times as the log has them).
//! - A value longer than its column is cut and counted; Cowrie itself would lose the row.
//! - Nobody else loads at the same time: an advisory lock, held for a batch. Cowrie's own writing goes on.
//!
//! The one thing a repeated load cannot tell: of a session that came in two parts, two rows of a table without times
//! (`params`, `ttylog`, `keyfingerprints`) that are equal in all columns count as one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::AddAssign;

use jiff::Timestamp;
use postgres::{Client, Error, Transaction};

use crate::log::Event;
use crate::session::Session;

const STAGING: &str = include_str!("../sql/staging.sql");
const SENSORS: &str = include_str!("../sql/sensors.sql");
const CLIENTS: &str = include_str!("../sql/clients.sql");
const SESSIONS: &str = include_str!("../sql/sessions.sql");
const CONTINUED: &str = include_str!("../sql/continued.sql");
const OUTCOME: &str = include_str!("../sql/outcome.sql");

/// Any number that no other program uses: "cowrielo" in ASCII.
const LOCK: i64 = 0x636f_7772_6965_6c6f;

/// The tables that hold a session's events, in the order that the report names them.
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

    /// As in the staging table, after `nth` and `session`.
    fn columns(self) -> &'static [&'static str] {
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

    /// Rows of sessions that were just stored, in the log's order.
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

    /// Rows of sessions that were there before: those that the table lacks, counted.
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

/// What became of the sessions and rows handed to [`Loader::store`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub sessions: u64,
    /// Of those, the ones whose connect event the log lacks: start and address are from their first event.
    pub without_connect: u64,
    pub without_end: u64,
    /// Sessions, or parts of sessions, that were in the table.
    pub known: u64,
    /// Of those, the ones that are another session by the same id.
    pub other_of_same_id: u64,
    /// Of those, the ones that got their end, client or terminal size now.
    pub continued: u64,
    /// Rows inserted, in the order of [`TABLES`].
    pub rows: [u64; 8],
    /// Values that were too long for their column, or held zero characters.
    pub cut: u64,
    /// Rows for tables that this database does not have.
    pub without_table: u64,
}

impl AddAssign for Stored {
    fn add_assign(&mut self, other: Stored) {
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
    /// Fails when the database has no Cowrie schema. Of the tables beside `sessions`, `sensors` and `clients` those
    /// are filled that exist: older versions of the schema lack some.
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

    /// Stores a batch, all of it or, on error, nothing.
    pub fn store(&mut self, batch: &[Session]) -> Result<Stored, Error> {
        let mut stored = Stored::default();
        let staged = Staged::of(batch, &mut stored);
        let mut transaction = self.client.transaction()?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
        copy(
            &mut transaction,
            "loading_sessions (nth, id, starttime, endtime, sensor, ip, termsize, client, connected)",
            &staged.sessions,
        )?;
        for table in TABLES {
            let rows = &staged.rows[table as usize];
            if self.present[table as usize] {
                let columns = table.columns().join(", ");
                copy(&mut transaction, &format!("loading_{} (nth, session, {columns})", table.name()), rows)?;
            } else {
                stored.without_table += rows.iter().filter(|byte| **byte == b'\n').count() as u64;
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
            if !self.present[index] || staged.rows[index].is_empty() {
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

fn copy(transaction: &mut Transaction<'_>, target: &str, rows: &[u8]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut writer = transaction.copy_in(&format!("COPY {target} FROM STDIN"))?;
    // An error of the server comes out of finish(); a write only fails when the connection is gone.
    let _ = writer.write_all(rows);
    writer.finish().map(|_| ())
}

/// A batch in COPY's text format.
#[derive(Default)]
struct Staged {
    sessions: Vec<u8>,
    rows: [Vec<u8>; 8],
}

impl Staged {
    fn of(batch: &[Session], stored: &mut Stored) -> Staged {
        let mut staged = Staged::default();
        // A batch holds an id once; two parts of a session never come in the same one.
        let mut seen = HashMap::with_capacity(batch.len());
        for (nth, session) in batch.iter().enumerate() {
            let id = Line::cut(&session.id, 32, stored);
            if seen.insert(id.clone(), nth).is_none() {
                Line::start(&mut staged.sessions, nth)
                    .text(&id)
                    .time(session.start)
                    .optional(session.end.map(|end| end.to_string()).as_deref())
                    .text(&Line::cut(&session.sensor, 255, stored))
                    .text(&Line::cut(&session.address, 61, stored))
                    .optional(
                        session.terminal_size.as_deref().map(|size| Line::cut(size, 7, stored)).as_deref(),
                    )
                    .optional(
                        session.client.as_deref().map(|client| Line::cut(client, 50, stored)).as_deref(),
                    )
                    .boolean(session.connected)
                    .end();
            }
            for (nth, (time, event)) in session.events.iter().enumerate() {
                staged.event(nth, &id, *time, event, stored);
            }
        }
        staged
    }

    fn line(&mut self, table: Table, (nth, session): (usize, &str)) -> Line<'_> {
        Line::start(&mut self.rows[table as usize], nth).text(session)
    }

    fn event(&mut self, nth: usize, session: &str, time: Timestamp, event: &Event, stored: &mut Stored) {
        let at = (nth, session);
        match event {
            Event::Login { success, username, password } => self
                .line(Table::Auth, at)
                .boolean(*success)
                .text(&Line::cut(username, 100, stored))
                .text(&Line::cut(password, 100, stored))
                .time(time)
                .end(),
            Event::Input { success, realm, input } => self
                .line(Table::Input, at)
                .time(time)
                .optional(realm.as_deref().map(|realm| Line::cut(realm, 50, stored)).as_deref())
                .optional(success.map(|success| if success { "t" } else { "f" }))
                .text(&Line::cut(input, usize::MAX, stored))
                .end(),
            Event::Download { url, outfile, shasum } => self
                .line(Table::Downloads, at)
                .time(time)
                .text(&Line::cut(url, usize::MAX, stored))
                .optional(outfile.as_deref().map(|file| Line::cut(file, usize::MAX, stored)).as_deref())
                .optional(shasum.as_deref().map(|sum| Line::cut(sum, 64, stored)).as_deref())
                .end(),
            Event::Terminal { ttylog, size } => {
                self.line(Table::Ttylog, at).text(&Line::cut(ttylog, 100, stored)).number(*size).end();
            }
            Event::Parameters { arch } => {
                self.line(Table::Params, at).text(&Line::cut(arch, 32, stored)).end()
            }
            Event::Fingerprint { username, fingerprint } => self
                .line(Table::Keyfingerprints, at)
                .text(&Line::cut(username, 100, stored))
                .text(&Line::cut(fingerprint, 100, stored))
                .end(),
            Event::Forward { host, port } => {
                self.line(Table::Ipforwards, at)
                    .time(time)
                    .text(&Line::cut(host, 255, stored))
                    .number(*port)
                    .end();
            }
            Event::ForwardedData { host, port, data } => self
                .line(Table::Ipforwardsdata, at)
                .time(time)
                .text(&Line::cut(host, 255, stored))
                .number(*port)
                .text(&Line::cut(data, usize::MAX, stored))
                .end(),
            Event::Connect
            | Event::Closed
            | Event::ClientVersion(_)
            | Event::TerminalSize(_)
            | Event::Other => {}
        }
    }
}

/// One line of COPY's text format: tabs between, `\N` for null, backslash escapes.
struct Line<'a>(&'a mut Vec<u8>);

impl<'a> Line<'a> {
    fn start(out: &'a mut Vec<u8>, nth: usize) -> Line<'a> {
        out.extend_from_slice(nth.to_string().as_bytes());
        Line(out)
    }

    /// At most `limit` characters, and none that is zero: PostgreSQL's text cannot hold it.
    fn cut(text: &str, limit: usize, stored: &mut Stored) -> String {
        let clean: String = text.chars().filter(|character| *character != '\0').take(limit).collect();
        stored.cut += u64::from(clean.len() != text.len());
        clean
    }

    fn text(self, text: &str) -> Line<'a> {
        self.0.push(b'\t');
        for byte in text.bytes() {
            match byte {
                b'\\' => self.0.extend_from_slice(b"\\\\"),
                b'\n' => self.0.extend_from_slice(b"\\n"),
                b'\r' => self.0.extend_from_slice(b"\\r"),
                b'\t' => self.0.extend_from_slice(b"\\t"),
                byte => self.0.push(byte),
            }
        }
        self
    }

    fn optional(self, text: Option<&str>) -> Line<'a> {
        match text {
            Some(text) => self.text(text),
            None => {
                self.0.extend_from_slice(b"\t\\N");
                self
            }
        }
    }

    fn time(self, time: Timestamp) -> Line<'a> {
        self.text(&time.to_string())
    }

    fn boolean(self, value: bool) -> Line<'a> {
        self.text(if value { "t" } else { "f" })
    }

    fn number(self, value: i32) -> Line<'a> {
        self.text(&value.to_string())
    }

    fn end(self) {
        self.0.push(b'\n');
    }
}

/// An error with what the server says about it, cause by cause.
pub fn explained(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(database) = error.as_db_error() {
        let _ = write!(text, ": {}", database.message());
        if let Some(detail) = database.detail() {
            let _ = write!(text, " ({detail})");
        }
    } else if let Some(source) = std::error::Error::source(error) {
        let _ = write!(text, ": {source}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_cut_by_characters_and_counted() {
        let mut stored = Stored::default();
        let mut out = Vec::new();
        let long = "ä".repeat(101);
        Line::start(&mut out, 7)
            .text(&Line::cut("a\tb\\N\nc\r", 100, &mut stored))
            .text(&Line::cut(&long, 100, &mut stored))
            .text(&Line::cut("nul\0here", 100, &mut stored))
            .optional(None)
            .boolean(true)
            .number(-3)
            .end();
        let expected = format!("7\ta\\tb\\\\N\\nc\\r\t{}\tnulhere\t\\N\tt\t-3\n", "ä".repeat(100));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(stored.cut, 2);
    }
}
