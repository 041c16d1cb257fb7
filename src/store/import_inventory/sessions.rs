//! Prepares a session table of another system, and attaches it.
//!
//! The table is not moved or copied. Its columns are changed with the rights of the table's owner, in a restricted operation.
//! The caller attaches the table, and must be its owner or be able to act as its owner. So all code on the table runs with the
//! rights of the table's owner.

use std::collections::HashSet;

use super::source::{Row, Table, as_owner};
use crate::error;
use crate::pg::Oid;
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::user_table::{Lock, TableStatement};
use crate::pg::value::{self, Array, Boolean, Bytes, Name, Regclass, Text, Tid, array};
use crate::store::complete_sessions::blocked_reason;

thread_local! {
    static REFERENCES: Statement<(value::Oid, value::Oid), (Bytes,)> = const { Statement::new(
        "import_references", include_str!("../../../sql/queries/import/import_references.sql")) };
    static ATTACHED: Statement<(value::Oid, Text)> = const { Statement::new(
        "import_attached", include_str!("../../../sql/queries/import/import_attached.sql")) };
    static MAY_ATTACH: Statement<(value::Oid,), (Boolean,)> = const { Statement::new(
        "import_may_attach", include_str!("../../../sql/queries/import/import_may_attach.sql")) };
    static ATTACH: Statement<(Regclass, Name, Name)> = const { Statement::new(
        "import_attach", include_str!("../../../sql/queries/import/import_attach.sql")) };
}

type Replacements = (Array<Tid>, Array<value::Oid>, Array<Text>);
const REPLACE_DOCUMENTS: TableStatement<'static, Replacements, (Tid,)> = TableStatement::new(
    "import_session_documents",
    include_str!("../../../sql/queries/import/import_session_documents.sql"),
);

pub const ADDRESS: &str = "source_ip";
pub const TIME: &str = "first_event_at";
pub const KEY: &str = "session_id";
const TYPE: &str = "snapshot_ip_type";

/// A column whose type must be changed.
pub struct Change {
    pub column: &'static str,
    pub becomes: &'static str,
    /// The SQL expression that converts the values. It is set only if the server has no implicit conversion.
    using: Option<&'static str>,
}

impl Change {
    /// Returns a description of the change. A NOTICE shows this description.
    pub fn description(&self) -> String {
        match self.column {
            TYPE => format!("column {TYPE} gets the first element of column {TYPES}"),
            column => format!("{column} gets the type {}", self.becomes),
        }
    }
}

/// Returns the changes that the columns of sessions need. Raises an error if the type of a column cannot be converted.
pub fn changes(table: &Table) -> Vec<Change> {
    const TEXTS: &[&str] = &["text", "varchar", "bpchar"];
    if table.column(ADDRESS).is_none() {
        error::no_such_column(&table.name, ADDRESS);
    }
    let mut changes = Vec::new();
    // If the column is missing, or has a type in `fit`, nothing is done. If the column has a type in `others`, the change is
    // added. Any other type raises an error.
    let mut check = |column, fit: &[&str], becomes, others: &[(&str, Option<&'static str>)]| {
        let Some(present) = table.column(column) else { return };
        let builtin_type = present.builtin_type().unwrap_or_default();
        if fit.contains(&builtin_type) {
            return;
        }
        match others.iter().find(|(other, _)| *other == builtin_type) {
            Some((_, using)) => changes.push(Change { column, becomes, using: *using }),
            None => error::wrong_column_type(&table.name, column, &present.type_name, becomes),
        }
    };
    check(ADDRESS, &["text", "varchar", "bpchar", "inet"], "inet", &[]);
    check("snapshot_asn", &["int8"], "bigint", &[("int2", None), ("int4", None)]);
    check("snapshot_country", TEXTS, "text", &[]);
    check("snapshot_ip_type", TEXTS, "text", &[]);
    let by_text = Some("enrichment::pg_catalog.text::pg_catalog.jsonb");
    check("enrichment", &["jsonb"], "jsonb", &[("json", by_text), ("text", by_text), ("varchar", by_text)]);
    let of_utc = Some("pg_catalog.timezone('UTC', enrichment_at)");
    check("enrichment_at", &["timestamptz"], "timestamp with time zone", &[("timestamp", of_utc)]);
    changes
}

/// Older versions of the Python system stored a list of types for each session. The first type in the list becomes the type of
/// the session.
const TYPES: &str = "snapshot_ip_types";

/// How the list of types of a session is converted. The first type of the list is stored in the column for one type.
pub enum Types {
    /// The table has no list of types.
    None,
    First(Change),
    /// The type of the column with the list is not supported. The import supports arrays of text, and JSON.
    Unreadable,
}

pub fn types(table: &Table) -> Types {
    let Some(list) = table.column(TYPES) else { return Types::None };
    let using = match list.builtin_type() {
        Some("_text" | "_varchar") => {
            "COALESCE(snapshot_ip_type::pg_catalog.text, snapshot_ip_types[1]::pg_catalog.text)"
        }
        Some("json" | "jsonb") => {
            "COALESCE(snapshot_ip_type::pg_catalog.text, snapshot_ip_types OPERATOR(pg_catalog.->>) 0)"
        }
        _ => return Types::Unreadable,
    };
    Types::First(Change { column: TYPE, becomes: "text", using: Some(using) })
}

/// Returns the name of the column with the time of a session. Returns `None` if there is no such column, or if its type is not
/// supported.
pub fn time_column(table: &Table) -> Option<&'static str> {
    let column = table.column(TIME)?;
    matches!(column.builtin_type(), Some("timestamptz" | "timestamp" | "date")).then_some(TIME)
}

/// Returns the names of the foreign keys of the table `from` that refer to the table `to`. The names are quoted for SQL and are
/// in the server's encoding.
pub fn references(connection: &Connection, from: Oid, to: Oid) -> Vec<Vec<u8>> {
    REFERENCES.run(connection, (from, to), |rows| rows.iter().filter_map(|(name,)| name).collect())
}

/// Changes types of columns and drops foreign keys. One ALTER TABLE makes all these changes, so the server rewrites the table
/// at most once.
pub fn make_fit(connection: &Connection, table: &Table, changes: &[Change], references: &[Vec<u8>]) {
    if changes.is_empty() && references.is_empty() {
        return;
    }
    let drops = references.iter().map(|name| [b"DROP CONSTRAINT ", name.as_slice()].concat());
    let types = changes.iter().map(|change| {
        let using = change.using.map(|using| format!(" USING {using}")).unwrap_or_default();
        format!("ALTER COLUMN {} TYPE {}{using}", change.column, change.becomes).into_bytes()
    });
    let actions = drops.chain(types).collect::<Vec<_>>().join(&b", "[..]);
    let lacks_type = table.column(TYPE).is_none() && changes.iter().any(|change| change.column == TYPE);
    let frozen = table.freeze(Lock::Alter);
    as_owner(frozen.table(), || {
        if lacks_type {
            let column: &[(&'static str, &[u8])] =
                &[("@actions@", b"ADD COLUMN IF NOT EXISTS snapshot_ip_type text")];
            frozen.run_utility(connection, "ALTER TABLE @table@ @actions@", column);
        }
        frozen.run_utility(connection, "ALTER TABLE @table@ @actions@", &[("@actions@", &actions)]);
    });
}

/// Replaces the documents of some rows. The new documents can be stored as `jsonb`. The owner's triggers fire as for any
/// UPDATE.
pub fn replace_documents(connection: &Connection, table: &Table, documents: &[(&Row, Vec<u8>)]) {
    let Some(column) = table.column("enrichment").filter(|_| !documents.is_empty()) else { return };
    let type_name: &[u8] = match column.builtin_type() {
        Some("json") => b"pg_catalog.json",
        Some("varchar") => b"pg_catalog.varchar",
        _ => b"pg_catalog.text",
    };
    let parts: [(&str, &[u8]); 1] = [("@type@", type_name)];
    let statement = REPLACE_DOCUMENTS.with_parts(&parts);
    let arguments = (
        array(documents.iter().map(|(row, _)| row.tuple_id)),
        array(documents.iter().map(|(row, _)| row.part)),
        array(documents.iter().map(|(_, text)| text)),
    );
    let locked = table.lock(Lock::Write);
    let parts: HashSet<Oid> = documents.iter().map(|(row, _)| row.part).collect();
    if let Some(reason) = parts.into_iter().find_map(|part| blocked_reason(connection, part)) {
        error::blocked_by_trigger(&table.name, &reason);
    }
    with_settings(&[(c"enable_seqscan", c"off")], || {
        as_owner(&locked, || connection.run_on(&locked, &statement, arguments, |_| ()));
    });
}

/// Raises an error if the caller may not attach tables.
pub fn check_may_attach(connection: &Connection, caller: Oid) {
    if MAY_ATTACH.first(connection, (caller,), |(may,)| may).flatten() != Some(true) {
        error::may_not_attach();
    }
}

pub fn is_attached(connection: &Connection, table: &Table) -> bool {
    ATTACHED.run(connection, (table.oid, ADDRESS), |rows| rows.count() > 0)
}

/// Attaches the table, with the rights of the caller.
pub fn attach(connection: &Connection, table: &Table) {
    ATTACH.execute(connection, (table.oid, ADDRESS, time_column(table)));
}
