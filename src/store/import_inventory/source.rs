//! Reading tables that are other people's, for taking over what is in them.
//!
//! Only tables are read, no views; as their owner, in a restricted operation; and of columns only those whose type is the
//! server's own, so that a cast is the server's too. What an owner put on a table can do nothing that the owner could
//! not do, and policies do not apply: a table that must be read under one is an error, since rows would be missing.
//!
//! Rows come in the order of their key, some at a time. Neither a key that is there twice nor a missing one gets lost
//! between two batches: rows of one key are told apart by their place.

use crate::error;
use crate::pg::jsonb::{self, Container, Value};
use crate::pg::relation::Place;
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::user_table::{FrozenTable, Lock, TableStatement, UserTable};
use crate::pg::value::{self, Array, Bigint, Boolean, Bytes, Columns, Text, Tid, Timestamptz, array};
use crate::pg::{Oid, catalog, text};

/// A table and one of its columns.
type TableColumns = (Text, value::Oid, Boolean, Bigint, Text, Boolean, Text, Text);

thread_local! {
    static TABLES: Statement<(value::Oid, Array<Text>), TableColumns> = const { Statement::new(
        "import_tables", include_str!("../../../sql/queries/import/import_tables.sql")) };
}

/// Rows of a batch: their documents stay within the default work_mem of 4 MB, so nothing is spilled.
pub const BATCH: usize = 2_000;

/// A table of somebody's.
pub struct Table {
    pub oid: Oid,
    pub name: String,
    /// Whether it is a permanent table.
    pub is_plain: bool,
    pub columns: Vec<Column>,
    owner: Oid,
    rows: i64,
}

pub struct Column {
    pub name: String,
    /// The type as SQL writes it, for messages.
    pub type_name: String,
    /// The name of the type in the catalog `pg_type`, if no code but the server's is in it.
    builtin_type: Option<String>,
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

/// Columns of each kind that the statement returns.
const TEXTS: usize = 7;
const TIMES: usize = 5;

/// Key, part, place, texts and times.
#[rustfmt::skip]
type RowColumns = (
    Bytes, value::Oid, Tid,
    Bytes, Bytes, Bytes, Bytes, Bytes, Bytes, Bytes,
    Timestamptz, Timestamptz, Timestamptz, Timestamptz, Timestamptz,
);

const READ: TableStatement<'static, (Text, value::Oid, Tid), RowColumns> =
    TableStatement::new("import_read", include_str!("../../../sql/queries/import/import_read.sql"));

/// Does not compile if more is wanted than the statement returns.
pub const fn wanted(columns: &'static [Wanted]) -> &'static [Wanted] {
    let (mut n, mut texts, mut times) = (0, 0, 0);
    while n < columns.len() {
        match columns[n].kind {
            Kind::Text => texts += 1,
            Kind::Time => times += 1,
        }
        n += 1;
    }
    assert!(texts <= TEXTS && times <= TIMES, "more columns than import_read returns");
    columns
}

pub const fn text(names: &'static [&'static str]) -> Wanted {
    Wanted { names, kind: Kind::Text }
}

pub const fn time(names: &'static [&'static str]) -> Wanted {
    Wanted { names, kind: Kind::Time }
}

/// The tables of these names in a schema.
pub fn tables(connection: &Connection, schema: Oid, names: &[&str]) -> Vec<Table> {
    TABLES.run(connection, (schema, array(names.iter().copied())), |rows| {
        let mut tables: Vec<Table> = Vec::new();
        for (name, oid, is_plain, rows, column, is_never_null, builtin_type, type_name) in rows.iter() {
            let (Some(name), Some(oid)) = (name, oid) else { continue };
            if tables.last().is_none_or(|last| last.oid != oid) {
                tables.push(Table {
                    oid,
                    name,
                    is_plain: is_plain.unwrap_or_default(),
                    columns: Vec::new(),
                    owner: catalog::owner_of_table(oid).unwrap_or(Oid::INVALID),
                    rows: rows.unwrap_or_default(),
                });
            }
            let column = || {
                Some(Column {
                    name: column?,
                    type_name: type_name?,
                    builtin_type,
                    is_never_null: is_never_null?,
                })
            };
            if let Some(table) = tables.last_mut() {
                table.columns.extend(column());
            }
        }
        tables
    })
}

impl Column {
    /// The name of its type in `pg_type`, if it is the server's own: an array's begins with `_`.
    pub fn builtin_type(&self) -> Option<&str> {
        self.builtin_type.as_deref()
    }
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
        const COUNT: TableStatement<'static, (), (Bigint,)> =
            TableStatement::new("import_count", include_str!("../../../sql/queries/import/import_count.sql"));
        let table = self.lock(Lock::Read);
        let count = || connection.run_on(&table, &COUNT, (), |rows| rows.first());
        as_owner(&table, count).and_then(|(count,)| count).unwrap_or_default()
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
    match (kind, column.builtin_type()?) {
        (Kind::Text, _) => Some(format!("t.{name}::pg_catalog.text")),
        (Kind::Time, "timestamptz") => Some(format!("t.{name}")),
        (Kind::Time, "timestamp") => Some(format!("pg_catalog.timezone('UTC', t.{name})")),
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
    part: Oid,
    place: Place,
}

impl Position {
    pub fn beginning() -> Position {
        Position { is_in_nulls: true, key: None, part: Oid::INVALID, place: Place::beginning_of(0) }
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
                Position { is_in_nulls, key: bytes, part: Oid::from(part), place }
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
    pub part: Oid,
    values: Vec<Cell>,
}

enum Cell {
    Text(Option<Vec<u8>>),
    Time(Option<i64>),
}

impl Row {
    /// A column that is read as a text, in the server's encoding.
    pub fn bytes(&self, number: usize) -> Option<&[u8]> {
        match self.values.get(number) {
            Some(Cell::Text(text)) => text.as_deref(),
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
            Some(Cell::Time(time)) => time.filter(|time| crate::pg::clock::is_finite(*time)),
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
                Cell::Text(text) => text::from_server(text.as_deref()?).into_owned(),
                Cell::Time(time) if time.is_some_and(crate::pg::clock::is_finite) => {
                    crate::pg::clock::iso8601((*time)?)
                }
                Cell::Time(_) => return None,
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
        match table.column(key).filter(|column| column.builtin_type.is_some()) {
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
        let parts = self.parts(position);
        let parts: Vec<(&'static str, &[u8])> =
            parts.iter().map(|(name, part)| (*name, part.as_bytes())).collect();
        let statement = READ.with_parts(&parts);
        let arguments = (position.key.as_deref().unwrap_or_default(), position.part, position.place);
        let table = self.table.lock(Lock::Read);
        as_owner(&table, || {
            connection.run_on(&table, &statement, arguments, |rows| {
                rows.iter().filter_map(|row| self.row(row)).collect()
            })
        })
    }

    #[rustfmt::skip]
    fn row(&self, columns: <RowColumns as Columns>::Row<'_>) -> Option<Row> {
        let (key, part, place, a, b, c, d, e, f, g, v, w, x, y, z) = columns;
        let (mut texts, mut times) = ([a, b, c, d, e, f, g].into_iter(), [v, w, x, y, z].into_iter());
        let value = |wanted: &Wanted| match wanted.kind {
            Kind::Text => Cell::Text(texts.next().flatten()),
            Kind::Time => Cell::Time(times.next().flatten()),
        };
        Some(Row { key, part: part?, place: place?, values: self.wanted.iter().map(value).collect() })
    }

    /// Returns the replacements of the placeholders.
    fn parts(&self, position: &Position) -> [(&'static str, String); 5] {
        let key = &self.key.name;
        let columns = self.columns(Kind::Text, TEXTS).chain(self.columns(Kind::Time, TIMES));
        let columns: Vec<String> = columns.collect();
        // By the type's own order, which an index has; where the server has none for it, by that of its text.
        let (order, last) = match self.key.builtin_type().filter(|name| ORDERED.contains(name)) {
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

    /// Expressions for the columns of a kind, as many as the statement returns.
    fn columns(&self, kind: Kind, number: usize) -> impl Iterator<Item = String> {
        let missing = match kind {
            Kind::Text => "NULL::pg_catalog.text",
            Kind::Time => "NULL::pg_catalog.timestamptz",
        };
        let wanted = self.wanted.iter().filter(move |wanted| wanted.kind == kind);
        let expressions =
            wanted.map(move |wanted| self.expression(wanted).unwrap_or_else(|| missing.to_owned()));
        expressions.chain(std::iter::repeat_with(|| missing.to_owned())).take(number)
    }

    fn expression(&self, wanted: &Wanted) -> Option<String> {
        let columns = wanted.names.iter().filter_map(|name| self.table.column(name));
        let expressions: Vec<String> = columns.filter_map(|column| expression(column, wanted.kind)).collect();
        match expressions.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => Some(format!("COALESCE({})", several.join(", "))),
        }
    }
}

/// Types that a key is likely to have, with the server's own order.
const ORDERED: [&str; 9] = ["text", "varchar", "bpchar", "inet", "int2", "int4", "int8", "numeric", "uuid"];
