//! Classifies SQL text with the server's grammar.

use std::ffi::CString;

use pgrx::pg_sys;

/// Returns true if a text in the server's encoding is a single expression. The text is parsed inside parentheses. Raises an
/// error if the text has a syntax error.
pub fn is_expression(text: &[u8]) -> bool {
    let Ok(statement) = CString::new([b"SELECT (\n", text, b"\n)"].concat()) else { return false };
    // SAFETY: the text is NUL-terminated. The parse tree is in the current memory context.
    unsafe {
        let statements = pg_sys::raw_parser(statement.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if statements.is_null() || (*statements).length != 1 {
            return false;
        }
        let raw: *mut pg_sys::RawStmt = (*(*statements).elements).ptr_value.cast();
        let select = (*raw).stmt;
        (*select).type_ == pg_sys::NodeTag::T_SelectStmt && is_bare(&*select.cast::<pg_sys::SelectStmt>())
    }
}

/// Returns true if `select` is a `SELECT` of one value without further clauses.
fn is_bare(select: &pg_sys::SelectStmt) -> bool {
    // SAFETY: the pointer is null, or points to a list of the parse tree.
    let is_one = !select.targetList.is_null() && unsafe { (*select.targetList).length } == 1;
    let no_lists = [
        select.distinctClause,
        select.fromClause,
        select.groupClause,
        select.windowClause,
        select.valuesLists,
        select.sortClause,
        select.lockingClause,
    ];
    let no_nodes = [select.whereClause, select.havingClause, select.limitOffset, select.limitCount];
    is_one
        && no_lists.iter().all(|list| list.is_null())
        && no_nodes.iter().all(|node| node.is_null())
        && select.intoClause.is_null()
        && select.withClause.is_null()
        && select.op == pg_sys::SetOperation::SETOP_NONE
}
