//! Reads tables of other roles for the import.
//!
//! Only tables are read, not views. Each table is read with the rights of its owner, in a restricted operation. Only columns of
//! built-in types are read, so the casts are built in too. Therefore code on a table can do no more than the table's owner can.
//! If row-level security would hide rows from the owner, reading is an error, because rows would be missing.
//!
//! Rows are read in batches, in the order of their key. Several rows may have the same key or a null key. Such rows are
//! distinguished by their tuple ids. So no row is lost between two batches.

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::error;
use crate::pg::jsonb::{self, Container, Value};
use crate::pg::role::with_settings;
use crate::pg::row::TupleId;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::user_table::{FrozenTable, Lock, TableStatement, UserTable};
use crate::pg::value::{self, Array, Bigint, Boolean, Bytes, Columns, Text, Tid, Timestamptz, array};
use crate::pg::{Oid, catalog, text};

/// A table, and one of the columns of this table.
type TableColumns = (Text, value::Oid, Boolean, Bigint, Text, Boolean, Text, Text);

thread_local! {
    static TABLES: Statement<(value::Oid, Array<Text>), TableColumns> = const { Statement::new(
        "import_tables", include_str!("../../../sql/queries/import/import_tables.sql")) };
}

/// Number of rows that one batch reads. The documents of this number of rows fit into the default work_mem of 4 MB, so
/// PostgreSQL writes no temporary files.
pub const BATCH: usize = 2_000;

/// A table to read.
pub struct Table {
    pub oid: Oid,
    pub name: String,
    /// True for an ordinary or partitioned table that is not temporary.
    pub is_plain: bool,
    pub columns: Vec<Column>,
    owner: Oid,
    rows: i64,
}

pub struct Column {
    pub name: String,
    /// The type of the column in SQL syntax. Messages contain this text.
    pub type_name: String,
    /// The name of the column's type in the catalog `pg_type`. It is set only if all code of the type is built in.
    builtin_type: Option<String>,
    is_never_null: bool,
}

/// A column to read.
pub struct WantedColumn {
    /// The possible names of the column. A table may have columns with several of these names. In this case, the first value
    /// that is not null is used.
    pub names: &'static [&'static str],
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The column may have any type. Its value is read as text.
    Text,
    /// The value is converted to a timestamp. If a time has no time zone, the time is read as UTC, because Python programs
    /// write UTC times.
    Time,
}

/// Number of columns of the kind `Text` that the statement returns.
const TEXTS: usize = 7;
/// Number of columns of the kind `Time` that the statement returns.
const TIMES: usize = 5;

/// The columns are: the key, the OID of the partition, the tuple id, the texts, the times.
#[rustfmt::skip]
type RowColumns = (
    Bytes, value::Oid, Tid,
    Bytes, Bytes, Bytes, Bytes, Bytes, Bytes, Bytes,
    Timestamptz, Timestamptz, Timestamptz, Timestamptz, Timestamptz,
);

const READ: TableStatement<'static, (Text, value::Oid, Tid), RowColumns> =
    TableStatement::new("import_read", include_str!("../../../sql/queries/import/import_read.sql"));

/// Fails to compile if `columns` has more columns than the statement returns.
pub const fn wanted(columns: &'static [WantedColumn]) -> &'static [WantedColumn] {
    let (mut n, mut texts, mut times) = (0, 0, 0);
    while n < columns.len() {
        match columns[n].kind {
            Kind::Text => texts += 1,
            Kind::Time => times += 1,
        }
        n += 1;
    }
    assert!(
        texts <= TEXTS && times <= TIMES,
        "the import needs more columns than the statement import_read returns"
    );
    columns
}

pub const fn text(names: &'static [&'static str]) -> WantedColumn {
    WantedColumn { names, kind: Kind::Text }
}

pub const fn time(names: &'static [&'static str]) -> WantedColumn {
    WantedColumn { names, kind: Kind::Time }
}

/// Returns the tables with these names in a schema.
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
    /// Returns the name of the column's type in `pg_type` if the type is built in. The name of an array type begins with `_`.
    pub fn builtin_type(&self) -> Option<&str> {
        self.builtin_type.as_deref()
    }
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Returns the estimated number of rows. If the server has no estimate, counts the rows.
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

    /// Locks the table. Raises an error if the table was dropped or changed after the import had found it.
    pub fn lock(&self, lock: Lock) -> UserTable {
        let Some(table) = UserTable::lock(self.oid, lock) else { error::vanished(&self.name) };
        self.check(&table);
        table
    }

    /// Like [`Table::lock`], but for a utility statement, such as ALTER TABLE.
    pub fn freeze(&self, lock: Lock) -> FrozenTable {
        let Some(table) = FrozenTable::lock(self.oid, lock) else { error::vanished(&self.name) };
        self.check(table.table());
        table
    }

    /// Raises an error if the table's owner is not the role whose rights were checked. Also raises an error if some rows are in
    /// partitions of other owners or in inheritance children.
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

/// Runs `work` with the rights of the table's owner. Row-level security is off.
pub fn as_owner<T>(table: &UserTable, work: impl FnOnce() -> T) -> T {
    with_settings(&[(c"row_security", c"off")], || table.as_owner(work))
}

/// Returns the SQL expression that reads a column. Returns `None` if the column cannot be read.
fn expression(column: &Column, kind: Kind) -> Option<String> {
    let name = &column.name;
    match (kind, column.builtin_type()?) {
        (Kind::Text, _) => Some(format!("t.{name}::pg_catalog.text")),
        (Kind::Time, "timestamptz") => Some(format!("t.{name}")),
        (Kind::Time, "timestamp") => Some(format!("pg_catalog.timezone('UTC', t.{name})")),
        (Kind::Time, _) => None,
    }
}

/// The position at which reading continues.
#[derive(Clone)]
pub struct Position {
    /// True while rows with a null key are read. These rows are read before all others.
    is_in_nulls: bool,
    /// The key of the row that was read last. The text is in the server's encoding.
    pub key: Option<Vec<u8>>,
    part: Oid,
    tuple_id: TupleId,
}

impl Position {
    pub fn beginning() -> Position {
        Position { is_in_nulls: true, key: None, part: Oid::INVALID, tuple_id: TupleId::beginning_of(0) }
    }

    /// Writes the position into a document. [`Position::read`] reads this document.
    pub fn write(&self, object: &mut jsonb::Object) {
        let (page, row) = self.tuple_id.numbers();
        object.boolean("nulls", self.is_in_nulls);
        object.number("part", i64::from(self.part.to_u32()));
        object.number("page", i64::from(page));
        object.number("row", i64::from(row));
        if let Some(key) = &self.key {
            object.text("key", &text::from_server(key));
        }
    }

    /// Reads a position from a document. If the document has no valid position, returns the beginning. This is safe, because
    /// rows that are read twice are written only once.
    pub fn read(document: Container<'_>) -> Position {
        let number = |key| match document.get(key) {
            Some(Value::Number(number)) => number.text().parse::<u32>().ok(),
            _ => None,
        };
        let is_in_nulls = !matches!(document.get("nulls"), Some(Value::Bool(false)));
        let key = document.converted_text("key");
        let bytes = key.as_deref().map(|key| text::to_server(key).into_owned());
        // The key must be the same after a conversion to the server's encoding and back. Otherwise reading cannot continue at
        // this key.
        let was_told_to_stop = bytes.as_deref().is_none_or(|bytes| Some(text::from_server(bytes)) == key);
        let tuple_id = || Some(TupleId::at(number("page")?, u16::try_from(number("row")?).ok()?));
        match (number("part"), tuple_id()) {
            (Some(part), Some(tuple_id)) if was_told_to_stop => {
                Position { is_in_nulls, key: bytes, part: Oid::from(part), tuple_id }
            }
            _ => Position::beginning(),
        }
    }
}

/// A row that was read.
pub struct Row {
    /// The key of the row, in the server's encoding.
    pub key: Option<Vec<u8>>,
    pub tuple_id: TupleId,
    pub part: Oid,
    values: Vec<Cell>,
}

enum Cell {
    Text(Option<Vec<u8>>),
    Time(Option<Timestamp>),
}

impl Row {
    /// Returns the value of a text column. The value is in the server's encoding.
    pub fn bytes(&self, number: usize) -> Option<&[u8]> {
        match self.values.get(number) {
            Some(Cell::Text(text)) => text.as_deref(),
            _ => None,
        }
    }

    /// Like [`Row::bytes`], but returns the value as a trimmed string. Returns `None` if this string is empty.
    pub fn text(&self, number: usize) -> Option<String> {
        let text = text::from_server(self.bytes(number)?).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Returns the value of a time column. Returns `None` if the time is infinite.
    pub fn time(&self, number: usize) -> Option<Timestamp> {
        match self.values.get(number) {
            Some(Cell::Time(time)) => time.filter(|time| time.is_finite()),
            _ => None,
        }
    }

    /// Returns the value of a column with the time of a session. Returns `None` if the time is implausible.
    pub fn session_time(&self, number: usize) -> Option<Timestamp> {
        let time = self.time(number)?;
        cowrie_enrich_engine::session_time::believed(time, None, crate::pg::clock::now())
    }

    /// Returns a text that identifies the row in lists of rows. The text contains the key. If the key is not enough to find the
    /// row, the text also contains the tuple id.
    pub fn shown_key(&self) -> String {
        let (page, row) = self.tuple_id.numbers();
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

    /// Returns a text with all values of the row that were read.
    pub fn shown(&self, wanted: &[WantedColumn]) -> String {
        let shown = wanted.iter().zip(&self.values).filter_map(|(wanted, value)| {
            let value = match value {
                Cell::Text(text) => text::from_server(text.as_deref()?).into_owned(),
                Cell::Time(time) if time.is_some_and(Timestamp::is_finite) => {
                    crate::pg::clock::iso8601((*time)?)
                }
                Cell::Time(_) => return None,
            };
            Some(format!("{}: {value}", wanted.names.first()?))
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// Reads a table in the order of its key.
pub struct Reader<'a> {
    pub table: &'a Table,
    key: &'a Column,
    wanted: &'static [WantedColumn],
}

impl<'a> Reader<'a> {
    /// Creates a reader. Raises an error if the key column cannot be read.
    pub fn new(table: &'a Table, key: &str, wanted: &'static [WantedColumn]) -> Reader<'a> {
        match table.column(key).filter(|column| column.builtin_type.is_some()) {
            Some(key) => Reader { table, key, wanted },
            None => error::no_such_column(&table.name, key),
        }
    }

    /// Returns those wanted columns that exist in the table but cannot be read.
    pub fn unreadable(&self) -> impl Iterator<Item = &'a Column> {
        let pairs =
            self.wanted.iter().flat_map(|wanted| wanted.names.iter().map(move |name| (wanted, *name)));
        let table = self.table;
        pairs.filter_map(move |(wanted, name)| {
            table.column(name).filter(|column| expression(column, wanted.kind).is_none())
        })
    }

    /// Returns the next rows, and the position after these rows. The position is `None` if there are no more rows.
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
                tuple_id: last.tuple_id,
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
        let arguments = (position.key.as_deref().unwrap_or_default(), position.part, position.tuple_id);
        let table = self.table.lock(Lock::Read);
        as_owner(&table, || {
            connection.run_on(&table, &statement, arguments, |rows| {
                rows.iter().filter_map(|row| self.row(row)).collect()
            })
        })
    }

    #[rustfmt::skip]
    fn row(&self, columns: <RowColumns as Columns>::Row<'_>) -> Option<Row> {
        let (key, part, tuple_id, a, b, c, d, e, f, g, v, w, x, y, z) = columns;
        let (mut texts, mut times) = ([a, b, c, d, e, f, g].into_iter(), [v, w, x, y, z].into_iter());
        let value = |wanted: &WantedColumn| match wanted.kind {
            Kind::Text => Cell::Text(texts.next().flatten()),
            Kind::Time => Cell::Time(times.next().flatten()),
        };
        Some(Row { key, part: part?, tuple_id: tuple_id?, values: self.wanted.iter().map(value).collect() })
    }

    /// Returns the placeholders of the statement, and the texts that replace them.
    fn parts(&self, position: &Position) -> [(&'static str, String); 5] {
        let key = &self.key.name;
        let columns = self.columns(Kind::Text, TEXTS).chain(self.columns(Kind::Time, TIMES));
        let columns: Vec<String> = columns.collect();
        // If `ORDERED` contains the type of the key, the rows are read in the order of this type, because an index has the same
        // order. Otherwise the rows are read in the order of the key's text.
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

    /// Returns the SQL expressions that read the columns of one kind. Nulls are appended, so there are always `number`
    /// expressions.
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

    fn expression(&self, wanted: &WantedColumn) -> Option<String> {
        let columns = wanted.names.iter().filter_map(|name| self.table.column(name));
        let expressions: Vec<String> = columns.filter_map(|column| expression(column, wanted.kind)).collect();
        match expressions.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            several => Some(format!("COALESCE({})", several.join(", "))),
        }
    }
}

/// Types that a key column often has. The server can sort values of these types.
const ORDERED: [&str; 9] = ["text", "varchar", "bpchar", "inet", "int2", "int4", "int8", "numeric", "uuid"];
