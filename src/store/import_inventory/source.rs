//! Reading tables that are other people's, for taking over what is in them.
//!
//! Only tables are read, no views; as their owner, in a restricted operation; and of columns only those whose type is the
//! server's own, so that a cast is the server's too. What an owner put on a table can do nothing that the owner could
//! not do, and policies do not apply: a table that must be read under one is an error, since rows would be missing.
//!
//! Rows come in the order of their key, some at a time. Neither a key that is there twice nor a missing one gets lost
//! between two batches: rows of one key are told apart by their place.

use pgrx::pg_sys;

use crate::error;
use crate::pg::jsonb::{self, Container, Value};
use crate::pg::relation::Place;
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Rows, Statement};
use crate::pg::user_table::{FrozenTable, Lock, Others, TableStatement, UserTable};
use crate::pg::{array, catalog, text};

thread_local! {
    static TABLES: Statement = const { Statement::new(
        "import_tables", include_str!("../../../sql/queries/import/import_tables.sql"),
        &[pg_sys::OIDOID, pg_sys::TEXTARRAYOID]) };
}

/// Rows of a batch: their documents stay within the default work_mem of 4 MB, so nothing is spilled.
pub const BATCH: usize = 2_000;

/// A table of somebody's.
pub struct Table {
    pub oid: pg_sys::Oid,
    pub name: String,
    /// Whether it is a permanent table.
    pub is_plain: bool,
    pub columns: Vec<Column>,
    owner: pg_sys::Oid,
    rows: i64,
}

pub struct Column {
    pub name: String,
    pub type_oid: pg_sys::Oid,
    pub type_name: String,
    /// Whether no code but the server's is in its type.
    pub is_builtin: bool,
    is_never_null: bool,
}

/// What is read of a table.
pub struct Wanted {
    /// Its names; where a table has several, the first that is not null counts.
    pub names: &'static [&'static str],
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As a text, whatever it is.
    Text,
    /// As microseconds since 2000-01-01; a time without a zone is of UTC, as Python programs write it.
    Time,
}

pub const fn text(names: &'static [&'static str]) -> Wanted {
    Wanted { names, kind: Kind::Text }
}

pub const fn time(names: &'static [&'static str]) -> Wanted {
    Wanted { names, kind: Kind::Time }
}

/// The tables of these names in a schema.
pub fn tables(connection: &Connection, schema: pg_sys::Oid, names: &[&str]) -> Vec<Table> {
    let names = array::write(array::Element::Text, names.iter().map(|name| Some(text::write(name))));
    let arguments = [Some(pg_sys::Datum::from(schema)), Some(names)];
    TABLES.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let mut tables: Vec<Table> = Vec::new();
            for row in 0..rows.count {
                let (Some(name), Some(oid)) = (rows.text(row, 1), oid(rows, row, 2)) else { continue };
                if tables.last().is_none_or(|last| last.oid != oid) {
                    tables.push(Table {
                        oid,
                        name,
                        is_plain: rows.boolean(row, 3).unwrap_or_default(),
                        columns: Vec::new(),
                        owner: catalog::owner_of_table(oid).unwrap_or(pg_sys::InvalidOid),
                        rows: rows.bigint(row, 4).unwrap_or_default(),
                    });
                }
                if let Some((table, column)) = tables.last_mut().zip(column(rows, row)) {
                    table.columns.push(column);
                }
            }
            tables
        })
    })
}

fn oid(rows: &Rows, row: usize, column: i32) -> Option<pg_sys::Oid> {
    u32::try_from(rows.bigint(row, column)?).ok().map(pg_sys::Oid::from)
}

fn column(rows: &Rows, row: usize) -> Option<Column> {
    Some(Column {
        name: rows.text(row, 5)?,
        type_oid: oid(rows, row, 6)?,
        type_name: rows.text(row, 9)?,
        is_builtin: rows.boolean(row, 8)?,
        is_never_null: rows.boolean(row, 7)?,
    })
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// About how many rows it has: counted where the server does not know.
    pub fn estimate(&self, connection: &Connection) -> i64 {
        if self.rows > 0 {
            return self.rows;
        }
        const COUNT: TableStatement<'static> = TableStatement {
            name: "import_count",
            text: include_str!("../../../sql/queries/import/import_count.sql"),
            parts: &[],
            argument_types: &[],
            result_types: &[pg_sys::INT8OID],
            others: Others::None,
            is_read_only: false,
        };
        let table = self.lock(Lock::Read);
        as_owner(&table, || {
            connection.run_on(&table, &COUNT, &[], |rows| rows.bigint(0, 1)).unwrap_or_default()
        })
    }

    /// Locks the table, as far as it is still the one that was found.
    pub fn lock(&self, lock: Lock) -> UserTable {
        let Some(table) = UserTable::lock(self.oid, lock) else { error::vanished(&self.name) };
        self.check(&table);
        table
    }

    /// The same for a utility statement.
    pub fn freeze(&self, lock: Lock) -> FrozenTable {
        let Some(table) = FrozenTable::lock(self.oid, lock) else { error::vanished(&self.name) };
        self.check(table.table());
        table
    }

    /// Raises where the table has another owner than when the caller's rights were checked, or where rows are in tables of
    /// other owners or in inheritance children.
    fn check(&self, table: &UserTable) {
        if table.owner() != self.owner {
            error::not_owner(&self.name);
        }
        let children = table.descendants();
        if !table.has_partitions() && !children.is_empty() {
            error::has_children(&self.name);
        }
        if children.into_iter().any(|child| catalog::owner_of_table(child) != Some(self.owner)) {
            error::foreign_partition(&self.name);
        }
    }
}

/// Runs `work` as the owner of a table, and never under a policy.
pub fn as_owner<T>(table: &UserTable, work: impl FnOnce() -> T) -> T {
    with_settings(&[(c"row_security", c"off")], || table.as_owner(work))
}

/// How a column is read; `None` where it cannot be.
fn expression(column: &Column, kind: Kind) -> Option<String> {
    let name = &column.name;
    match (kind, column.type_oid) {
        _ if !column.is_builtin => None,
        (Kind::Text, _) => Some(format!("t.{name}::pg_catalog.text")),
        (Kind::Time, pg_sys::TIMESTAMPTZOID) => Some(format!("t.{name}")),
        (Kind::Time, pg_sys::TIMESTAMPOID) => Some(format!("pg_catalog.timezone('UTC', t.{name})")),
        (Kind::Time, _) => None,
    }
}

/// Where reading goes on.
#[derive(Clone)]
pub struct Position {
    /// Rows without a key come first.
    is_in_nulls: bool,
    /// The last key, in the server's encoding.
    pub key: Option<Vec<u8>>,
    part: pg_sys::Oid,
    place: Place,
}

impl Position {
    pub fn beginning() -> Position {
        Position { is_in_nulls: true, key: None, part: pg_sys::InvalidOid, place: Place::beginning_of(0) }
    }

    /// Writes it down; [`Position::read`] reads it.
    pub fn write(&self, object: &mut jsonb::Object) {
        let (page, row) = self.place.numbers();
        object.boolean("nulls", self.is_in_nulls);
        object.number("part", i64::from(self.part.to_u32()));
        object.number("page", i64::from(page));
        object.number("row", i64::from(row));
        if let Some(key) = &self.key {
            object.text("key", &text::from_server(key));
        }
    }

    /// Where somebody was; the beginning where it cannot be told: what is read twice is written once.
    pub fn read(document: Container<'_>) -> Position {
        let number = |key| match document.get(key) {
            Some(Value::Number(number)) => number.text().parse::<u32>().ok(),
            _ => None,
        };
        let is_in_nulls = !matches!(document.get("nulls"), Some(Value::Bool(false)));
        let key = document.converted_text("key");
        let bytes = key.as_deref().map(|key| text::to_server(key).into_owned());
        // A key that the conversion does not bring back is no place to continue from.
        let is_told = bytes.as_deref().is_none_or(|bytes| Some(text::from_server(bytes)) == key);
        let place = || Some(Place::at(number("page")?, u16::try_from(number("row")?).ok()?));
        match (number("part"), place()) {
            (Some(part), Some(place)) if is_told => {
                Position { is_in_nulls, key: bytes, part: pg_sys::Oid::from(part), place }
            }
            _ => Position::beginning(),
        }
    }
}

/// A row that was read.
pub struct Row {
    /// Its key, in the server's encoding.
    pub key: Option<Vec<u8>>,
    pub place: Place,
    pub part: pg_sys::Oid,
    values: Vec<Read>,
}

enum Read {
    Text(Option<Vec<u8>>),
    Time(Option<i64>),
}

impl Row {
    /// A column that is read as a text, in the server's encoding.
    pub fn bytes(&self, number: usize) -> Option<&[u8]> {
        match self.values.get(number) {
            Some(Read::Text(text)) => text.as_deref(),
            _ => None,
        }
    }

    /// The same, without blanks around it; `None` where nothing is left.
    pub fn text(&self, number: usize) -> Option<String> {
        let text = text::from_server(self.bytes(number)?).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// A column that is read as a time. Infinity says nothing.
    pub fn time(&self, number: usize) -> Option<i64> {
        match self.values.get(number) {
            Some(Read::Time(time)) => time.filter(|time| crate::pg::clock::is_finite(*time)),
            _ => None,
        }
    }

    /// A column with the time of a session, if that is believed.
    pub fn session_time(&self, number: usize) -> Option<i64> {
        let time = self.time(number)?;
        cowrie_enrich_engine::session_time::believed(time, None, crate::pg::clock::now())
    }

    /// What a list of rows names it by: its key, and its place where that is not enough to find it.
    pub fn shown_key(&self) -> String {
        let (page, row) = self.place.numbers();
        match &self.key {
            Some(key) if key.len() <= 100 && !key.trim_ascii().is_empty() => {
                text::from_server(key).into_owned()
            }
            Some(key) => {
                let begin: String = text::from_server(key).chars().take(100).collect();
                format!("\"{begin}\" at ({page},{row})")
            }
            None => format!("({page},{row})"),
        }
    }

    /// The whole row, as far as it was read.
    pub fn shown(&self, wanted: &[Wanted]) -> String {
        let shown = wanted.iter().zip(&self.values).filter_map(|(wanted, value)| {
            let value = match value {
                Read::Text(text) => text::from_server(text.as_deref()?).into_owned(),
                Read::Time(time) if time.is_some_and(crate::pg::clock::is_finite) => {
                    crate::pg::clock::iso8601((*time)?)
                }
                Read::Time(_) => return None,
            };
            Some(format!("{}: {value}", wanted.names.first()?))
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// Reads a table by its key.
pub struct Reader<'a> {
    pub table: &'a Table,
    key: &'a Column,
    wanted: &'static [Wanted],
}

impl<'a> Reader<'a> {
    /// Raises where the key cannot be read.
    pub fn new(table: &'a Table, key: &str, wanted: &'static [Wanted]) -> Reader<'a> {
        match table.column(key).filter(|column| column.is_builtin) {
            Some(key) => Reader { table, key, wanted },
            None => error::no_such_column(&table.name, key),
        }
    }

    /// Columns that are there and cannot be read.
    pub fn unreadable(&self) -> impl Iterator<Item = &'a Column> {
        let pairs =
            self.wanted.iter().flat_map(|wanted| wanted.names.iter().map(move |name| (wanted, *name)));
        let table = self.table;
        pairs.filter_map(move |(wanted, name)| {
            table.column(name).filter(|column| expression(column, wanted.kind).is_none())
        })
    }

    /// The next rows, and where to go on behind them; `None` when these were the last.
    pub fn next(&self, connection: &Connection, position: &Position) -> (Vec<Row>, Option<Position>) {
        if position.is_in_nulls && self.key.is_never_null {
            return self.next(connection, &Position { is_in_nulls: false, ..Position::beginning() });
        }
        let rows = self.read(connection, position);
        let next = match rows.last() {
            Some(last) if rows.len() >= BATCH => Some(Position {
                is_in_nulls: position.is_in_nulls,
                key: last.key.clone(),
                part: last.part,
                place: last.place,
            }),
            _ if position.is_in_nulls => Some(Position { is_in_nulls: false, ..Position::beginning() }),
            _ => None,
        };
        (rows, next)
    }

    fn read(&self, connection: &Connection, position: &Position) -> Vec<Row> {
        let types: Vec<pg_sys::Oid> = [pg_sys::TEXTOID, pg_sys::OIDOID, pg_sys::TIDOID]
            .into_iter()
            .chain(self.wanted.iter().map(|wanted| match wanted.kind {
                Kind::Text => pg_sys::TEXTOID,
                Kind::Time => pg_sys::TIMESTAMPTZOID,
            }))
            .collect();
        let arguments = [
            text::write_bytes(position.key.as_deref().unwrap_or_default()),
            pg_sys::Datum::from(position.part),
            position.place.datum(),
        ];
        let parts = self.parts(position);
        let parts: Vec<(&'static str, &[u8])> =
            parts.iter().map(|(name, part)| (*name, part.as_bytes())).collect();
        let statement = TableStatement {
            name: "import_read",
            text: include_str!("../../../sql/queries/import/import_read.sql"),
            parts: &parts,
            argument_types: &[pg_sys::TEXTOID, pg_sys::OIDOID, pg_sys::TIDOID],
            result_types: &types,
            others: Others::None,
            is_read_only: false,
        };
        let table = self.table.lock(Lock::Read);
        as_owner(&table, || {
            connection.run_on(&table, &statement, &arguments, |rows| {
                (0..rows.count).filter_map(|row| self.row(rows, row)).collect()
            })
        })
    }

    fn row(&self, rows: &Rows, row: usize) -> Option<Row> {
        let value = |(column, wanted): (i32, &Wanted)| match wanted.kind {
            Kind::Text => Read::Text(rows.bytes(row, column)),
            Kind::Time => Read::Time(rows.bigint(row, column)),
        };
        Some(Row {
            key: rows.bytes(row, 1),
            part: rows.datum(row, 2).map(|datum| pg_sys::Oid::from(datum.value() as u32))?,
            place: rows.place(row, 3)?,
            values: (4..).zip(self.wanted).map(value).collect(),
        })
    }

    /// Returns the replacements of the placeholders.
    fn parts(&self, position: &Position) -> [(&'static str, String); 5] {
        let key = &self.key.name;
        let columns: Vec<String> = self.wanted.iter().map(|wanted| self.expression(wanted)).collect();
        // By the type's own order, which an index has; where the server has none for it, by that of its text.
        let (order, last) = match native(self.key.type_oid) {
            Some(type_name) => (format!("t.{key}"), format!("$1::pg_catalog.{type_name}")),
            None => {
                let bytewise = "COLLATE pg_catalog.\"C\"";
                (format!("(t.{key}::pg_catalog.text {bytewise})"), format!("($1 {bytewise})"))
            }
        };
        let behind = match (position.is_in_nulls, &position.key) {
            (true, _) => {
                format!("t.{key} IS NULL AND ROW(t.tableoid, t.ctid) OPERATOR(pg_catalog.>) ROW($2, $3)")
            }
            (false, None) => format!("t.{key} IS NOT NULL"),
            (false, Some(_)) => {
                format!("ROW({order}, t.tableoid, t.ctid) OPERATOR(pg_catalog.>) ROW({last}, $2, $3)")
            }
        };
        [
            ("@key@", key.clone()),
            ("@columns@", columns.join(", ")),
            ("@behind@", behind),
            ("@order@", order),
            ("@most@", BATCH.to_string()),
        ]
    }

    fn expression(&self, wanted: &Wanted) -> String {
        let columns = wanted.names.iter().filter_map(|name| self.table.column(name));
        let expressions: Vec<String> = columns.filter_map(|column| expression(column, wanted.kind)).collect();
        let missing = match wanted.kind {
            Kind::Text => "NULL::pg_catalog.text",
            Kind::Time => "NULL::pg_catalog.timestamptz",
        };
        match expressions.as_slice() {
            [] => missing.to_owned(),
            [one] => one.clone(),
            several => format!("COALESCE({})", several.join(", ")),
        }
    }
}

/// Types that a key is likely to have, with the server's own order.
fn native(type_oid: pg_sys::Oid) -> Option<&'static str> {
    Some(match type_oid {
        pg_sys::TEXTOID => "text",
        pg_sys::VARCHAROID => "varchar",
        pg_sys::BPCHAROID => "bpchar",
        pg_sys::INETOID => "inet",
        pg_sys::INT2OID => "int2",
        pg_sys::INT4OID => "int4",
        pg_sys::INT8OID => "int8",
        pg_sys::NUMERICOID => "numeric",
        pg_sys::UUIDOID => "uuid",
        _ => return None,
    })
}
