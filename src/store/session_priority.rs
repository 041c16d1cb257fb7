//! Evaluates the priority rules of session tables. A rule is an SQL expression that is evaluated for rows of a session table.
//! It makes the lookups for the addresses of some sessions more urgent. So the daily quota of a provider is used for the most
//! important addresses.
//!
//! The data about a session is complete only some time after the session began, and is often in other tables. So rules are not
//! evaluated when sessions are stored. They are evaluated at intervals, for a few pages of a table at a time. Only rows whose
//! address waits for an answer are evaluated. A rule is code of the table's owner. It runs with the rights of this owner, in a
//! restricted operation, and for a limited time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use cowrie_enrich_engine::address::{self, Address};

use super::ExtensionOids;
use crate::error;
use crate::pg::role::{self, acting_as};
use crate::pg::row::TupleId;
use crate::pg::spi::{Connection, Rows, Run, Statement};
use crate::pg::subtransaction::{Failure, contained};
use crate::pg::user_table::{Lock, OtherRelations, TableStatement, UserTable};
use crate::pg::value::{self, Array, Bigint, Boolean, Bytes, Columns, Float, Inet, Text, Tid, ToSql, array};
use crate::pg::{Oid, catalog, parser};
use crate::provider::{Provider, Providers};
use crate::shared_state::owner_process::contained_within;
use crate::telemetry;
use crate::worker::registry;

type Rules = (value::Oid, Text, Bytes, Bytes, Bytes, Boolean, Boolean, value::Oid, Boolean, Boolean);

thread_local! {
    static SET: Statement<(value::Oid, Text, Text)> = const { Statement::new(
        "priority_set", include_str!("../../sql/queries/priority/priority_set.sql")) };
    static UNSET: Statement<(value::Oid,)> = const { Statement::new(
        "priority_unset", include_str!("../../sql/queries/priority/priority_unset.sql")) };
    static FORGET: Statement<()> = const { Statement::new(
        "priority_forget", include_str!("../../sql/queries/priority/priority_forget.sql")) };
    static ATTACHED: Statement<(value::Oid,)> = const { Statement::new(
        "priority_attached", include_str!("../../sql/queries/priority/priority_attached.sql")) };
    static TABLES: Statement<(value::Oid,), Rules> = const { Statement::new(
        "priority_tables", include_str!("../../sql/queries/priority/priority_tables.sql")) };
    static PAGES: Statement<(value::Oid,), (Bigint,)> = const { Statement::new(
        "priority_pages", include_str!("../../sql/queries/priority/priority_pages.sql")) };
    static RANKED: Statement<(Array<Text>,), (Inet,)> = const { Statement::new(
        "jobs_ranked", include_str!("../../sql/queries/queue/jobs_ranked.sql")) };
    static RANK: Statement<(Array<Text>, Array<Inet>, Array<Bigint>)> = const { Statement::new(
        "jobs_rank", include_str!("../../sql/queries/queue/jobs_rank.sql")) };
}

/// A table without partitions, and the rule for the sessions in it. Texts are quoted for SQL and are in the server's encoding.
pub struct Table {
    oid: Oid,
    ip_column: Vec<u8>,
    expression: Vec<u8>,
    search_path: Vec<u8>,
    is_inet: bool,
}

/// Sets or removes the rule of a table. The caller must own the table. Raises an error if the evaluation of the new rule fails.
pub fn set(oids: ExtensionOids, table: Oid, expression: Option<&str>) {
    let name = catalog::table_name(table);
    if !catalog::owns_table(table) {
        error::not_owner(&name);
    }
    let search_path = role::search_path();
    Connection::with(oids.schema, |connection| {
        let attached = acting_as(oids.owner, || ATTACHED.run(connection, (table,), |rows| rows.count() > 0));
        let Some(expression) = expression else {
            acting_as(oids.owner, || UNSET.execute(connection, (table,)));
            return;
        };
        if !attached {
            error::not_attached(&name);
        }
        try_out(connection, table, expression.as_bytes(), &search_path);
        acting_as(oids.owner, || SET.execute(connection, (table, expression, search_path.as_slice())));
        registry::rules_changed();
    });
}

/// Evaluates a rule for zero rows, with the rights of the table's owner. Later evaluations of the rule use the same rights.
fn try_out(connection: &Connection, table: Oid, expression: &[u8], search_path: &[u8]) {
    let Some(table) = UserTable::lock(table, Lock::Read) else { return };
    table.as_owner(|| {
        role::set_locally(c"search_path", &role::setting_text(search_path));
        run_values(connection, &table, expression, std::iter::empty(), |_| ());
    });
}

/// Returns the owners of tables whose rules may be evaluated. For each owner, the value is true if its rules are evaluated
/// first, because it is a superuser or owns the extension. Also deletes the rules of dropped tables.
pub fn owners(oids: ExtensionOids, connection: &Connection) -> BTreeMap<u32, bool> {
    FORGET.execute(connection, ());
    TABLES.run(connection, (oids.owner,), |rows| {
        let evaluated = rows.iter().filter(may_be_evaluated);
        evaluated.filter_map(|(.., owner, is_first, _)| Some((owner?.to_u32(), is_first?))).collect()
    })
}

/// Returns those tables of an owner that have a rule, if this rule may be evaluated. The tables are ordered by OID.
pub fn tables(connection: &Connection, owner: Oid) -> Vec<Table> {
    TABLES.run(connection, (owner,), |rows| {
        let of_owner = rows.iter().filter(|(.., of, _, _)| *of == Some(owner)).filter(may_be_evaluated);
        let tables = of_owner.filter_map(|(oid, _, ip_column, expression, search_path, is_inet, ..)| {
            Some(Table {
                oid: oid?,
                ip_column: ip_column?,
                expression: expression?,
                search_path: search_path?,
                is_inet: is_inet?,
            })
        });
        tables.collect()
    })
}

/// Returns true if a rule may be evaluated. The rule was written by the role that owned the table when the rule was set. The
/// rule would run with the rights of the current owner of the table or partition. Therefore the former owner and the current
/// owner must be the same role.
fn may_be_evaluated(rule: &<Rules as Columns>::Row<'_>) -> bool {
    let (_, name, _, _, _, _, is_of_its_owner, _, _, is_suspended) = rule;
    let why = if *is_of_its_owner != Some(true) {
        "the owner of the table has changed since the priority was set; call set_session_priority() again"
    } else if *is_suspended == Some(true) {
        "the table's owner is suspended; see the table suspended_owner"
    } else {
        return true;
    };
    let name = name.as_deref().unwrap_or_default();
    telemetry::log_once_per_burst(
        "the session priority of a table is not evaluated",
        &format!("{name}: {why}"),
    );
    false
}

/// Returns the enabled providers that have a daily quota.
pub fn providers_with_quota() -> Vec<Provider> {
    Providers::enabled().iter().filter(|provider| has_quota(*provider)).collect()
}

pub fn has_quota(provider: Provider) -> bool {
    provider.limits().daily_quota > 0
}

impl Table {
    pub fn oid(&self) -> Oid {
        self.oid
    }
}

/// Returns the number of pages that a table has now.
pub fn pages(connection: &Connection, table: &Table) -> Result<u32, Failure> {
    contained(|| {
        let pages = PAGES.first(connection, (table.oid,), |(pages,)| pages).flatten();
        pages.and_then(|pages| u32::try_from(pages).ok()).unwrap_or_default()
    })
}

/// Returns the addresses that wait for answers of these providers.
pub fn waiting(connection: &Connection, providers: &[Provider]) -> BTreeSet<Address> {
    RANKED.run(connection, (names(providers),), |rows| rows.iter().filter_map(|(address,)| address).collect())
}

/// Raises the priority of jobs of waiting addresses. The new priorities depend on the sessions in some pages of a table. If the
/// evaluation fails, the jobs are not changed. If the table now belongs to another role, does nothing.
pub fn rank(
    connection: &Connection,
    (table, owner): (&Table, Oid),
    pages: Range<u32>,
    waiting: &BTreeSet<Address>,
    providers: &[Provider],
    limit: Duration,
) -> Result<(), Failure> {
    if catalog::owner_of_table(table.oid) != Some(owner) {
        return Ok(());
    }
    let urgent = contained_within(limit, || {
        let Some(locked) = UserTable::lock(table.oid, Lock::Read) else { return BTreeMap::new() };
        locked.as_owner(|| {
            role::set_locally(c"enable_seqscan", c"off");
            let tuple_ids = tuple_ids(connection, table, &locked, pages, waiting);
            // Names in the rule are resolved with the search_path that the role used when it set the rule.
            role::set_locally(c"search_path", &role::setting_text(&table.search_path));
            values(connection, table, &locked, &tuple_ids)
        })
    })?;
    if urgent.is_empty() {
        return Ok(());
    }
    RANK.execute(connection, (names(providers), array(urgent.keys()), array(urgent.values())));
    Ok(())
}

/// Returns the tuple ids of sessions in these pages. Leaves out sessions whose address does not wait for an answer.
fn tuple_ids(
    connection: &Connection,
    table: &Table,
    locked: &UserTable,
    pages: Range<u32>,
    waiting: &BTreeSet<Address>,
) -> HashMap<TupleId, Address> {
    const STATEMENT: TableStatement<'static, (Tid, Tid), (Tid, Bytes)> = TableStatement::new(
        "priority_addresses",
        include_str!("../../sql/queries/priority/priority_addresses.sql"),
    );
    let parts: [(&str, &[u8]); 2] =
        [("@host@", if table.is_inet { b"pg_catalog.host" } else { b"" }), ("@ip@", &table.ip_column)];
    let range = (TupleId::beginning_of(pages.start), TupleId::beginning_of(pages.end));
    connection.run_on(locked, &STATEMENT.with_parts(&parts), range, |rows| {
        let tuple_ids = rows.iter().filter_map(|(tuple_id, address)| {
            let address = address::parse_bytes(&address?).ok().flatten()?;
            waiting.contains(&address).then_some((tuple_id?, address))
        });
        tuple_ids.collect()
    })
}

/// Returns the highest value of the rule for each address. If a value is outside the range of the type, the nearest value in
/// the range is used.
fn values(
    connection: &Connection,
    table: &Table,
    locked: &UserTable,
    tuple_ids: &HashMap<TupleId, Address>,
) -> BTreeMap<Address, i64> {
    let mut urgent = BTreeMap::new();
    if tuple_ids.is_empty() {
        return urgent;
    }
    run_values(connection, locked, &table.expression, tuple_ids.keys(), |rows| {
        for (tuple_id, value) in rows.iter() {
            let (Some(tuple_id), Some(value)) = (tuple_id, value) else { continue };
            let Some(address) = tuple_ids.get(&tuple_id) else { continue };
            // If the value is too large or too small, the conversion returns the largest or the smallest integer. NaN becomes
            // 0.
            let rank = i64::from(value.round() as i32);
            urgent.entry(*address).and_modify(|known: &mut i64| *known = rank.max(*known)).or_insert(rank);
        }
    });
    urgent
}

/// Evaluates an expression for each of these rows. Passes the values to `read`, each with the tuple id of its row.
fn run_values<'a>(
    connection: &Connection,
    table: &UserTable,
    expression: &[u8],
    tuple_ids: impl Iterator<Item = &'a TupleId>,
    read: impl FnOnce(&Rows<(Tid, Float)>),
) {
    const STATEMENT: TableStatement<'static, (Array<Tid>,), (Tid, Float)> = TableStatement::new(
        "priority_values",
        include_str!("../../sql/queries/priority/priority_values.sql"),
    );
    if let Err(error) = parser::check_expression(expression) {
        error::not_an_expression(error);
    }
    let parts: [(&str, &[u8]); 1] = [("@expression@", expression)];
    let statement = STATEMENT.with_parts(&parts).naming(OtherRelations::InExpression(&[]));
    connection.run_on(table, &statement, (array(tuple_ids),), read);
}

fn names(providers: &[Provider]) -> impl ToSql<Array<Text>> {
    array(providers.iter().map(|provider| provider.name()))
}
