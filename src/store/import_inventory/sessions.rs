//! A session table of another system's: its columns are made fit, and it is attached, where it is.
//!
//! What is done to it is done as its owner, in a restricted operation, except attaching, which its owner, or who may act as
//! such, calls: everything that somebody put on it runs with their rights.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::source::{Row, Table, as_owner};
use crate::error;
use crate::pg::array::{self, Element};
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Statement};
use crate::pg::text;
use crate::pg::user_table::{Lock, Others, TableStatement};
use crate::store::complete_sessions::blocked_reason;

thread_local! {
    static REFERENCES: Statement = const { Statement::new(
        "import_references", include_str!("../../../sql/queries/import/import_references.sql"),
        &[pg_sys::OIDOID, pg_sys::OIDOID]) };
    static ATTACHED: Statement = const { Statement::new(
        "import_attached", include_str!("../../../sql/queries/import/import_attached.sql"),
        &[pg_sys::OIDOID, pg_sys::TEXTOID]) };
    static MAY_ATTACH: Statement = const { Statement::new(
        "import_may_attach", include_str!("../../../sql/queries/import/import_may_attach.sql"), &[pg_sys::OIDOID]) };
    static ATTACH: Statement = const { Statement::new(
        "import_attach", include_str!("../../../sql/queries/import/import_attach.sql"),
        &[pg_sys::REGCLASSOID, pg_sys::NAMEOID, pg_sys::NAMEOID]) };
}

pub const ADDRESS: &str = "source_ip";
pub const TIME: &str = "first_event_at";
pub const KEY: &str = "session_id";
const TYPE: &str = "snapshot_ip_type";

/// A column whose type is to become another.
pub struct Change {
    pub column: &'static str,
    pub becomes: &'static str,
    /// How, where the server does not know by itself.
    using: Option<&'static str>,
}

impl Change {
    /// Says what the change does, for a notice.
    pub fn description(&self) -> String {
        match self.column {
            TYPE => format!("{TYPE} takes the first of {TYPES}"),
            column => format!("{column} becomes {}", self.becomes),
        }
    }
}

/// Types that sessions' columns may have, and what they become; raises where nothing can be made of one.
pub fn changes(table: &Table) -> Vec<Change> {
    const TEXTS: &[pg_sys::Oid] = &[pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID];
    if table.column(ADDRESS).is_none() {
        error::no_such_column(&table.name, ADDRESS);
    }
    let mut changes = Vec::new();
    // Whether a column's type is one of `fit`, or is missing; else it is changed if it is one of `others`.
    let mut check = |column, fit: &[pg_sys::Oid], becomes, others: &[(pg_sys::Oid, Option<&'static str>)]| {
        let Some(present) = table.column(column) else { return };
        if fit.contains(&present.type_oid) {
            return;
        }
        match others.iter().find(|(other, _)| *other == present.type_oid) {
            Some((_, using)) => changes.push(Change { column, becomes, using: *using }),
            None => error::wrong_column_type(&table.name, column, &present.type_name, becomes),
        }
    };
    check(ADDRESS, &[TEXTS, &[pg_sys::INETOID]].concat(), "inet", &[]);
    check("snapshot_asn", &[pg_sys::INT8OID], "bigint", &[(pg_sys::INT2OID, None), (pg_sys::INT4OID, None)]);
    check("snapshot_country", TEXTS, "text", &[]);
    check("snapshot_ip_type", TEXTS, "text", &[]);
    let by_text = Some("enrichment::pg_catalog.text::pg_catalog.jsonb");
    check(
        "enrichment",
        &[pg_sys::JSONBOID],
        "jsonb",
        &[(pg_sys::JSONOID, by_text), (pg_sys::TEXTOID, by_text), (pg_sys::VARCHAROID, by_text)],
    );
    let of_utc = Some("pg_catalog.timezone('UTC', enrichment_at)");
    check(
        "enrichment_at",
        &[pg_sys::TIMESTAMPTZOID],
        "timestamp with time zone",
        &[(pg_sys::TIMESTAMPOID, of_utc)],
    );
    changes
}

/// Older versions of the Python system kept a list of types. The first of them becomes the type of the session.
const TYPES: &str = "snapshot_ip_types";

/// How the first of the types of a session is taken into the column for one.
pub enum Types {
    /// The table has no list of types.
    None,
    First(Change),
    /// The list has a type that is not known to be a list.
    Unreadable,
}

pub fn types(table: &Table) -> Types {
    let Some(list) = table.column(TYPES) else { return Types::None };
    let using = match list.type_oid {
        pg_sys::TEXTARRAYOID | pg_sys::VARCHARARRAYOID => {
            "COALESCE(snapshot_ip_type::pg_catalog.text, snapshot_ip_types[1]::pg_catalog.text)"
        }
        pg_sys::JSONOID | pg_sys::JSONBOID => {
            "COALESCE(snapshot_ip_type::pg_catalog.text, snapshot_ip_types OPERATOR(pg_catalog.->>) 0)"
        }
        _ => return Types::Unreadable,
    };
    Types::First(Change { column: TYPE, becomes: "text", using: Some(using) })
}

/// The column with a session's time, if there is one that can be used.
pub fn time_column(table: &Table) -> Option<&'static str> {
    let usable = [pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPOID, pg_sys::DATEOID];
    table.column(TIME).is_some_and(|column| usable.contains(&column.type_oid)).then_some(TIME)
}

/// Foreign keys of a table to another, as SQL wants their names, in the server's encoding.
pub fn references(connection: &Connection, from: pg_sys::Oid, to: pg_sys::Oid) -> Vec<Vec<u8>> {
    let arguments = [Some(pg_sys::Datum::from(from)), Some(pg_sys::Datum::from(to))];
    REFERENCES.with(|statement| {
        connection
            .run(statement, &arguments, |rows| (0..rows.count).filter_map(|row| rows.bytes(row, 1)).collect())
    })
}

/// Changes types and drops foreign keys, in one pass over the table.
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

/// Replaces the documents of some rows by others that `jsonb` can hold. The owner's triggers fire as for any UPDATE.
pub fn replace_documents(connection: &Connection, table: &Table, documents: &[(&Row, Vec<u8>)]) {
    let Some(column) = table.column("enrichment").filter(|_| !documents.is_empty()) else { return };
    let type_name: &[u8] = match column.type_oid {
        pg_sys::JSONOID => b"pg_catalog.json",
        pg_sys::VARCHAROID => b"pg_catalog.varchar",
        _ => b"pg_catalog.text",
    };
    let part = |row: &Row| i64::from(row.part.to_u32()).into();
    let arguments = [
        array::write(Element::Tid, documents.iter().map(|(row, _)| Some(row.place.datum()))),
        array::write(Element::Bigint, documents.iter().map(|(row, _)| Some(part(row)))),
        array::write(Element::Text, documents.iter().map(|(_, text)| Some(text::write_bytes(text)))),
    ];
    let statement = TableStatement {
        name: "import_session_documents",
        text: include_str!("../../../sql/queries/import/import_session_documents.sql"),
        parts: &[("@type@", type_name)],
        argument_types: &[pg_sys::TIDARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::TEXTARRAYOID],
        result_types: &[pg_sys::TIDOID],
        others: Others::None,
        is_read_only: false,
    };
    let locked = table.lock(Lock::Write);
    let parts: HashSet<pg_sys::Oid> = documents.iter().map(|(row, _)| row.part).collect();
    if let Some(reason) = parts.into_iter().find_map(|part| blocked_reason(connection, part)) {
        error::blocked_by_trigger(&table.name, &reason);
    }
    with_settings(&[(c"enable_seqscan", c"off")], || {
        as_owner(&locked, || connection.run_on(&locked, &statement, &arguments, |_| ()));
    });
}

/// Raises where the caller may not attach tables.
pub fn check_may_attach(connection: &Connection, caller: pg_sys::Oid) {
    let caller = [Some(pg_sys::Datum::from(caller))];
    let may = MAY_ATTACH.with(|statement| connection.run(statement, &caller, |rows| rows.boolean(0, 1)));
    if may != Some(true) {
        error::may_not_attach();
    }
}

pub fn is_attached(connection: &Connection, table: &Table) -> bool {
    let arguments = [Some(pg_sys::Datum::from(table.oid)), Some(text::write(ADDRESS))];
    ATTACHED.with(|statement| connection.run(statement, &arguments, |rows| rows.count > 0))
}

/// Attaches it, with the rights of whoever calls.
pub fn attach(connection: &Connection, table: &Table) {
    let name = |name: &str| text::name(name);
    let arguments = [Some(pg_sys::Datum::from(table.oid)), Some(name(ADDRESS)), time_column(table).map(name)];
    ATTACH.with(|statement| connection.run(statement, &arguments, |_| ()));
}
