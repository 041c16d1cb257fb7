//! Errors of statements on users' tables.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::{PgLogLevel, PgSqlErrorCode};

use crate::pg::catalog;

/// Raises the error for a table whose name now denotes another relation.
pub fn changed(table: pg_sys::Oid) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!(
            "table {} or the schema of this table was renamed while a statement used the table",
            catalog::table_name(table)
        ),
        "Nothing was changed. Run the command again.",
    )
}

/// Raises the error for a table with a rule that would turn the statement into other statements.
pub fn has_rules(table: pg_sys::Oid) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("table {} has a rule for UPDATE", catalog::table_name(table)),
        "Drop the rule, or replace the rule with a trigger. A rule is refused, because a rule can make an UPDATE change a different table.",
    )
}

/// Raises an error, because the statement would write.
pub fn writes(statement: &str) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("statement \"{statement}\" would write to the database, but is only allowed to read"),
        "Use an SQL expression that only reads.",
    )
}

fn raise(code: PgSqlErrorCode, message: String, hint: &str) -> ! {
    ErrorReport::new(code, message, "cowrie_enrich").set_hint(hint.to_owned()).report(PgLogLevel::ERROR);
    unreachable!("ERROR does not return")
}
