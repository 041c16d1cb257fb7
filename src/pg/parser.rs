//! Checks SQL expressions of callers with the server's grammar.
//!
//! The extension writes such an expression into a statement, inside parentheses. The text is therefore parsed without
//! parentheses first. Otherwise a text such as `false) OR (true` would end the parentheses of the statement.

use std::ffi::{CString, c_void};
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::subtransaction::report;

/// The reason why a text is not an expression that a statement may contain.
pub enum ExpressionError {
    /// The text has a syntax error. The field is the message of the server.
    Syntax(String),
    /// The text is empty, has several expressions, or has further clauses such as `FROM`.
    NotSingle,
    /// The text contains a parameter such as `$1`. In the statement, this parameter would have a value of the extension.
    Parameter,
}

/// Returns an error if a text in the server's encoding is not one complete expression.
pub fn check_expression(text: &[u8]) -> Result<(), ExpressionError> {
    let select = parse(text.to_vec())?;
    // SAFETY: the parse tree is in the current memory context.
    unsafe {
        if (*select).type_ != pg_sys::NodeTag::T_SelectStmt || !is_bare(&*select.cast::<pg_sys::SelectStmt>())
        {
            return Err(ExpressionError::NotSingle);
        }
        if contains_parameter(select, std::ptr::null_mut()) {
            return Err(ExpressionError::Parameter);
        }
    }
    // A select list may begin with `ALL`, but an expression in parentheses may not.
    parse([b"(\n", text, b"\n)"].concat()).map(|_| ())
}

/// Parses a select list. Returns a `SELECT` without its keyword.
fn parse(text: Vec<u8>) -> Result<*mut pg_sys::Node, ExpressionError> {
    let text = CString::new(text).map_err(|_| ExpressionError::NotSingle)?;
    let parse = AssertUnwindSafe(|| {
        // SAFETY: the text is NUL-terminated.
        Ok(unsafe { pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR) })
    });
    let statements = PgTryBuilder::new(parse)
        .catch_when(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR, |error| Err(report(&error).message().to_owned()))
        .execute()
        .map_err(ExpressionError::Syntax)?;
    // SAFETY: the parser returns null or a list of raw statements.
    unsafe {
        if statements.is_null() || (*statements).length != 1 {
            return Err(ExpressionError::NotSingle);
        }
        let raw: *mut pg_sys::RawStmt = (*(*statements).elements).ptr_value.cast();
        Ok((*raw).stmt)
    }
}

/// Returns true if `select` is a `SELECT` of one value without an alias and without further clauses.
fn is_bare(select: &pg_sys::SelectStmt) -> bool {
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
    has_one_value(select)
        && no_lists.iter().all(|list| list.is_null())
        && no_nodes.iter().all(|node| node.is_null())
        && select.intoClause.is_null()
        && select.withClause.is_null()
        && select.op == pg_sys::SetOperation::SETOP_NONE
}

/// Returns true if the select list has one value without an alias. A `*` is not a value.
fn has_one_value(select: &pg_sys::SelectStmt) -> bool {
    // SAFETY: the pointer is null, or points to a list of the parse tree. The elements of a select list have the type
    // `ResTarget`.
    unsafe {
        if select.targetList.is_null() || (*select.targetList).length != 1 {
            return false;
        }
        let target: *mut pg_sys::ResTarget = (*(*select.targetList).elements).ptr_value.cast();
        (*target).name.is_null() && !is_star((*target).val)
    }
}

/// Returns true if an expression is `*` or ends in `.*`.
///
/// # Safety
/// The node must be in a parse tree.
unsafe fn is_star(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as the caller promises. The fields of a column reference are a list of nodes, and the list is not empty.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_ColumnRef {
            return false;
        }
        let fields = (*node.cast::<pg_sys::ColumnRef>()).fields;
        let last = (*(*fields).elements.add((*fields).length as usize - 1)).ptr_value.cast::<pg_sys::Node>();
        (*last).type_ == pg_sys::NodeTag::T_A_Star
    }
}

/// Returns true if a parse tree contains a parameter.
///
/// # Safety
/// The node must be null or be in a parse tree.
#[pg_guard]
unsafe extern "C-unwind" fn contains_parameter(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: as the caller promises. The walker calls this function for each node below the node.
    unsafe {
        !node.is_null()
            && ((*node).type_ == pg_sys::NodeTag::T_ParamRef
                || walk_raw_expression(node, Some(contains_parameter), context))
    }
}

type Walker = Option<unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool>;

/// Calls `walker` for each child of a node, until `walker` returns true.
///
/// # Safety
/// The node must be in a parse tree.
unsafe fn walk_raw_expression(node: *mut pg_sys::Node, walker: Walker, context: *mut c_void) -> bool {
    // SAFETY: as the caller promises.
    #[cfg(not(feature = "pg15"))]
    let found = unsafe { pg_sys::raw_expression_tree_walker_impl(node, walker, context) };
    // SAFETY: as the caller promises. The guard handles the ERROR for a tree that is too deep.
    #[cfg(feature = "pg15")]
    let found =
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| raw_expression_tree_walker(node, walker, context)) };
    found
}

#[cfg(feature = "pg15")]
unsafe extern "C-unwind" {
    /// src/backend/nodes/nodeFuncs.c; pgrx has no binding, because the header does not declare the arguments of the walker.
    fn raw_expression_tree_walker(node: *mut pg_sys::Node, walker: Walker, context: *mut c_void) -> bool;
}
