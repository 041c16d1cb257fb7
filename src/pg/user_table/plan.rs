//! Plans a statement on a user's table. First checks that the names in the statement denote the locked table.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys;

use super::errors;
use crate::pg::catalog;

/// The table of a statement.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub oid: pg_sys::Oid,
    /// The statement includes the inheritance children.
    pub reaches_children: bool,
    pub others: OtherRelations<'a>,
}

/// The relations that a statement may name in addition to the user's table.
#[derive(Clone, Copy)]
pub enum OtherRelations<'a> {
    None,
    /// The part of the statement that belongs to the extension may name only these relations. An expression in parentheses,
    /// which the table's owner or the caller wrote, may name any relation.
    InExpression(&'a [pg_sys::Oid]),
}

/// Analyses a statement, and compares the relations in it with the locked table. Then rewrites and plans the statement.
///
/// # Safety
/// The text must be NUL-terminated and outlive the plan. The parameters must have the declared types.
pub unsafe fn planned(
    target: Target<'_>,
    types: &[pg_sys::Oid],
    source: *const c_char,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the caller promises a valid text and valid parameters. The trees are in the current memory context, and the
    // snapshot is popped below.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let raw = only(pg_sys::pg_parse_query(source));
        let query = pg_sys::parse_analyze_fixedparams(
            raw,
            source,
            types.as_ptr(),
            types.len() as c_int,
            std::ptr::null_mut(),
        );
        compare(query, target);
        let (command, result) = ((*query).commandType, (*query).resultRelation);
        if has_rule_for(target.oid, command) {
            errors::has_rules(target.oid);
        }
        let rewritten = pg_sys::pg_rewrite_query(query);
        if rewritten.is_null() || (*rewritten).length != 1 {
            errors::has_rules(target.oid);
        }
        let query: *mut pg_sys::Query = (*(*rewritten).elements).ptr_value.cast();
        let is_original = (*query).querySource == pg_sys::QuerySource::QSRC_ORIGINAL;
        if !is_original || (*query).commandType != command || (*query).resultRelation != result {
            errors::has_rules(target.oid);
        }
        let plan = pg_sys::pg_plan_query(query, source, 0, parameters);
        pg_sys::PopActiveSnapshot();
        plan
    }
}

/// Compares the locked table with the relations that the server found for the names in a statement. Raises an error if they
/// differ.
///
/// # Safety
/// The query must be a tree that parse analysis has made.
unsafe fn compare(query: *mut pg_sys::Query, target: Target<'_>) {
    let mut found = 0;
    // SAFETY: the caller promises a tree from parse analysis. The lists hold OIDs.
    unsafe {
        let known = match target.others {
            OtherRelations::None => &[][..],
            OtherRelations::InExpression(known) => known,
        };
        compare_from(query, target, known, &mut found);
        if found == 0 {
            errors::changed(target.oid);
        }
        if matches!(target.others, OtherRelations::None) {
            // Subqueries inside expressions too.
            let (mut relations, mut items, mut has_policies) =
                (std::ptr::null_mut(), std::ptr::null_mut(), false);
            pg_sys::extract_query_dependencies(query.cast(), &mut relations, &mut items, &mut has_policies);
            if catalog::oids(relations).any(|relation| relation != target.oid) {
                errors::changed(target.oid);
            }
        }
    }
}

/// Compares the target table of a query with the locked table, and also the relations in FROM and WITH on all levels of the query.
/// [`compare`] calls this function.
///
/// # Safety
/// The query must be a tree that parse analysis has made, as for [`compare`].
unsafe fn compare_from(
    query: *mut pg_sys::Query,
    target: Target<'_>,
    known: &[pg_sys::Oid],
    found: &mut usize,
) {
    // SAFETY: the lists of a query tree hold range table entries and common table expressions. The queries in these expressions
    // are also trees that parse analysis has made.
    unsafe {
        for entry in pointers::<pg_sys::RangeTblEntry>((*query).rtable) {
            match (*entry).rtekind {
                pg_sys::RTEKind::RTE_RELATION if known.contains(&(*entry).relid) => {}
                pg_sys::RTEKind::RTE_RELATION => {
                    if (*entry).relid != target.oid || (*entry).inh != target.reaches_children {
                        errors::changed(target.oid);
                    }
                    *found += 1;
                }
                pg_sys::RTEKind::RTE_SUBQUERY => compare_from((*entry).subquery, target, known, found),
                _ => {}
            }
        }
        for expression in pointers::<pg_sys::CommonTableExpr>((*query).cteList) {
            compare_from((*expression).ctequery.cast(), target, known, found);
        }
    }
}

/// # Safety
/// The list must be null or hold nodes of the type `T`.
unsafe fn pointers<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: as the caller promises.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length as usize } };
    (0..length).map(move |i| unsafe {
        // SAFETY: one of the list's elements.
        (*(*list).elements.add(i)).ptr_value.cast()
    })
}

/// Returns the single statement of a text.
///
/// # Safety
/// The list must come from the parser.
pub unsafe fn only(statements: *mut pg_sys::List) -> *mut pg_sys::RawStmt {
    // SAFETY: as the caller promises.
    unsafe {
        if statements.is_null() || (*statements).length != 1 {
            pgrx::error!("a statement for a session table is not a single SQL statement");
        }
        (*(*statements).elements).ptr_value.cast()
    }
}

/// # Safety
/// Each argument must be a datum of the declared type, and must stay valid until the statement ends.
pub unsafe fn parameters(types: &[pg_sys::Oid], arguments: &[pg_sys::Datum]) -> pg_sys::ParamListInfo {
    if types.is_empty() {
        return std::ptr::null_mut();
    }
    // SAFETY: makeParamList allocates as many entries as there are types.
    unsafe {
        let list = pg_sys::makeParamList(types.len() as c_int);
        let entries = (*list).params.as_mut_ptr();
        for (number, (type_oid, value)) in types.iter().zip(arguments).enumerate() {
            let entry = &mut *entries.add(number);
            (entry.value, entry.isnull) = (*value, false);
            (entry.pflags, entry.ptype) = (pg_sys::PARAM_FLAG_CONST as u16, *type_oid);
        }
        list
    }
}

/// Returns true if a locked table has an enabled rule for a kind of command.
fn has_rule_for(table: pg_sys::Oid, command: pg_sys::CmdType::Type) -> bool {
    // SAFETY: the relation is open while its rules are read. numLocks is the number of its rules.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let rules = (*relation).rd_rules;
        let count = if rules.is_null() { 0 } else { (*rules).numLocks as usize };
        let has = (0..count).any(|number| {
            let rule = *(*rules).rules.add(number);
            (*rule).event == command && (*rule).enabled as u8 != b'D'
        });
        pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        has
    }
}
