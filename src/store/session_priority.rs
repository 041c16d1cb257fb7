//! Which sessions matter: a rule for each session table, given as an SQL expression, makes lookups on behalf of their
//! addresses more urgent, so that a daily quota is spent where it tells most.
//!
//! What a session did is known only after it began, and often from other tables than its own. So the rules are not
//! evaluated when sessions are stored, but now and then over the tables, some pages at a time, and only for rows whose
//! address waits for an answer. They are their tables' owners' code: run as them, in a restricted operation, for a
//! limited time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use cowrie_enrich_engine::address::{self, Address};
use pgrx::pg_sys;

use super::Home;
use crate::error;
use crate::pg::array::{self, Element};
use crate::pg::relation::Place;
use crate::pg::role::{self, acting_as};
use crate::pg::spi::{Connection, Rows, Statement};
use crate::pg::subtransaction::{Failure, contained, contained_within};
use crate::pg::user_table::{Lock, Others, TableStatement, UserTable};
use crate::pg::{catalog, parser, text};
use crate::provider::{Provider, Providers};
use crate::telemetry;
use crate::worker::registry;

thread_local! {
    static SET: Statement = const { Statement::new(
        "priority_set", include_str!("../../sql/queries/priority/priority_set.sql"),
        &[pg_sys::OIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID]) };
    static UNSET: Statement = const { Statement::new(
        "priority_unset", include_str!("../../sql/queries/priority/priority_unset.sql"), &[pg_sys::OIDOID]) };
    static FORGET: Statement = const { Statement::new(
        "priority_forget", include_str!("../../sql/queries/priority/priority_forget.sql"), &[]) };
    static ATTACHED: Statement = const { Statement::new(
        "priority_attached", include_str!("../../sql/queries/priority/priority_attached.sql"), &[pg_sys::OIDOID]) };
    static TABLES: Statement = const { Statement::new(
        "priority_tables", include_str!("../../sql/queries/priority/priority_tables.sql"), &[pg_sys::OIDOID]) };
    static PAGES: Statement = const { Statement::new(
        "priority_pages", include_str!("../../sql/queries/priority/priority_pages.sql"), &[pg_sys::OIDOID]) };
    static RANKED: Statement = const { Statement::new(
        "jobs_ranked", include_str!("../../sql/queries/queue/jobs_ranked.sql"), &[pg_sys::TEXTARRAYOID]) };
    static RANK: Statement = const { Statement::new(
        "jobs_rank", include_str!("../../sql/queries/queue/jobs_rank.sql"),
        &[pg_sys::TEXTARRAYOID, pg_sys::INETARRAYOID, pg_sys::INT8ARRAYOID]) };
}

/// A table without partitions, and the rule for its sessions. Texts are as SQL wants them, in the server's encoding.
pub struct Table {
    oid: pg_sys::Oid,
    ip_column: Vec<u8>,
    expression: Vec<u8>,
    search_path: Vec<u8>,
    is_inet: bool,
}

/// Sets or removes the rule of a table, on behalf of a caller who must own it. A rule that does not work is an error now.
pub fn set(home: Home, table: pg_sys::Oid, expression: Option<&str>) {
    let name = catalog::table_name(table);
    if !catalog::owns_table(table) {
        error::not_owner(&name);
    }
    let search_path = role::search_path();
    Connection::with(home.schema, |connection| {
        let attached = acting_as(home.owner, || {
            let arguments = [Some(pg_sys::Datum::from(table))];
            ATTACHED.with(|statement| connection.run(statement, &arguments, |rows| rows.count > 0))
        });
        let Some(expression) = expression else {
            acting_as(home.owner, || {
                UNSET
                    .with(|statement| connection.run(statement, &[Some(pg_sys::Datum::from(table))], |_| ()));
            });
            return;
        };
        if !attached {
            error::not_attached(&name);
        }
        try_out(connection, table, expression.as_bytes(), &search_path);
        let arguments = [
            Some(pg_sys::Datum::from(table)),
            Some(text::write(expression)),
            Some(text::write_bytes(&search_path)),
        ];
        acting_as(home.owner, || SET.with(|statement| connection.run(statement, &arguments, |_| ())));
        registry::rules_changed();
    });
}

/// Evaluates a rule for no row at all, with the rights that it will be evaluated with.
fn try_out(connection: &Connection, table: pg_sys::Oid, expression: &[u8], search_path: &[u8]) {
    let Some(table) = UserTable::lock(table, Lock::Read) else { return };
    table.as_owner(|| {
        role::set_locally(c"search_path", &role::setting_text(search_path));
        run_values(connection, &table, expression, array::write(Element::Tid, []), |_| ());
    });
}

/// Owners of tables with rules that may be evaluated, and whether each comes first: a superuser, or the owner of the
/// extension. Rules of tables that are gone are deleted.
pub fn owners(home: Home, connection: &Connection) -> BTreeMap<u32, bool> {
    FORGET.with(|statement| connection.run(statement, &[], |_| ()));
    TABLES.with(|statement| {
        connection.run(statement, &[Some(pg_sys::Datum::from(home.owner))], |rows| {
            let owner = |row| Some((u32::try_from(rows.bigint(row, 8)?).ok()?, rows.boolean(row, 9)?));
            (0..rows.count).filter(|row| may_be_evaluated(rows, *row)).filter_map(owner).collect()
        })
    })
}

/// The tables of an owner with rules that may be evaluated, by OID.
pub fn tables(connection: &Connection, owner: pg_sys::Oid) -> Vec<Table> {
    TABLES.with(|statement| {
        connection.run(statement, &[Some(pg_sys::Datum::from(owner))], |rows| {
            let table = |row| {
                Some(Table {
                    oid: u32::try_from(rows.bigint(row, 1)?).ok().map(pg_sys::Oid::from)?,
                    ip_column: rows.bytes(row, 3)?,
                    expression: rows.bytes(row, 4)?,
                    search_path: rows.bytes(row, 5)?,
                    is_inet: rows.boolean(row, 6)?,
                })
            };
            let is_theirs = |row: &usize| rows.bigint(*row, 8) == Some(i64::from(owner.to_u32()));
            let mine = (0..rows.count).filter(is_theirs).filter(|row| may_be_evaluated(rows, *row));
            mine.filter_map(table).collect()
        })
    })
}

/// The rule is code of whoever owned the table then, and runs with the rights of whoever owns it, or the partition, now.
fn may_be_evaluated(rows: &Rows, row: usize) -> bool {
    let why = if rows.boolean(row, 7) != Some(true) {
        "its owner is another than who set the rule: set it again"
    } else if rows.boolean(row, 10) == Some(true) {
        "its owner is suspended"
    } else {
        return true;
    };
    let name = rows.text(row, 2).unwrap_or_default();
    telemetry::log_once_per_burst(
        "a rule of which sessions matter is not evaluated",
        &format!("{name}: {why}"),
    );
    false
}

/// Returns the enabled providers with a daily quota.
pub fn providers_with_quota() -> Vec<Provider> {
    Providers::enabled().iter().filter(|provider| has_quota(*provider)).collect()
}

pub fn has_quota(provider: Provider) -> bool {
    provider.limits().daily_quota > 0
}

impl Table {
    pub fn oid(&self) -> pg_sys::Oid {
        self.oid
    }
}

/// Pages of a table at the moment.
pub fn pages(connection: &Connection, table: &Table) -> Result<u32, Failure> {
    contained(|| {
        let table = [Some(pg_sys::Datum::from(table.oid))];
        let pages = PAGES.with(|statement| connection.run(statement, &table, |rows| rows.bigint(0, 1)));
        pages.and_then(|pages| u32::try_from(pages).ok()).unwrap_or_default()
    })
}

/// Addresses that wait for these providers' answers.
pub fn waiting(connection: &Connection, providers: &[Provider]) -> BTreeSet<Address> {
    RANKED.with(|statement| {
        connection.run(statement, &[Some(names(providers))], |rows| {
            (0..rows.count).filter_map(|row| rows.address(row, 1)).collect()
        })
    })
}

/// Makes jobs on behalf of waiting addresses as urgent as the sessions in some pages of a table make them. What fails
/// leaves them as they are. Does nothing for a table that belongs to another role by now.
pub fn rank(
    connection: &Connection,
    (table, owner): (&Table, pg_sys::Oid),
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
            let places = places(connection, table, &locked, pages, waiting);
            // From here on names mean what they meant to whoever set the rule.
            role::set_locally(c"search_path", &role::setting_text(&table.search_path));
            values(connection, table, &locked, &places)
        })
    })?;
    if urgent.is_empty() {
        return Ok(());
    }
    let arguments =
        [Some(names(providers)), Some(array::inets(urgent.keys())), Some(array::bigints(urgent.values()))];
    RANK.with(|statement| connection.run(statement, &arguments, |_| ()));
    Ok(())
}

/// Sessions in these pages whose address waits.
fn places(
    connection: &Connection,
    table: &Table,
    locked: &UserTable,
    pages: Range<u32>,
    waiting: &BTreeSet<Address>,
) -> HashMap<Place, Address> {
    let statement = TableStatement {
        name: "priority_addresses",
        text: include_str!("../../sql/queries/priority/priority_addresses.sql"),
        parts: &[
            ("@host@", if table.is_inet { b"pg_catalog.host" } else { b"" }),
            ("@ip@", &table.ip_column),
        ],
        argument_types: &[pg_sys::TIDOID, pg_sys::TIDOID],
        result_types: &[pg_sys::TIDOID, pg_sys::TEXTOID],
        others: Others::None,
        is_read_only: false,
    };
    let (first, last) = (Place::beginning_of(pages.start), Place::beginning_of(pages.end));
    connection.run_on(locked, &statement, &[first.datum(), last.datum()], |rows| {
        let place = |row| {
            let address = address::parse_bytes(&rows.bytes(row, 2)?).ok().flatten()?;
            waiting.contains(&address).then_some((rows.place(row, 1)?, address))
        };
        (0..rows.count).filter_map(place).collect()
    })
}

/// The highest value of the rule for each address; what does not fit is cut.
fn values(
    connection: &Connection,
    table: &Table,
    locked: &UserTable,
    places: &HashMap<Place, Address>,
) -> BTreeMap<Address, i64> {
    let mut urgent = BTreeMap::new();
    if places.is_empty() {
        return urgent;
    }
    let places_array = array::write(Element::Tid, places.keys().map(|place| Some(place.datum())));
    run_values(connection, locked, &table.expression, places_array, |rows| {
        for row in 0..rows.count {
            let (Some(place), Some(value)) = (rows.place(row, 1), rows.float(row, 2)) else { continue };
            let Some(address) = places.get(&place) else { continue };
            // Saturating; not a number is 0.
            let rank = i64::from(value.round() as i32);
            urgent.entry(*address).and_modify(|known: &mut i64| *known = rank.max(*known)).or_insert(rank);
        }
    });
    urgent
}

/// Passes the value of an expression for each of these rows to `read`, with the place of the row.
fn run_values(
    connection: &Connection,
    table: &UserTable,
    expression: &[u8],
    places: pg_sys::Datum,
    read: impl FnOnce(&Rows),
) {
    if !parser::is_expression(expression) {
        error::not_an_expression();
    }
    let statement = TableStatement {
        name: "priority_values",
        text: include_str!("../../sql/queries/priority/priority_values.sql"),
        parts: &[("@expression@", expression)],
        argument_types: &[pg_sys::TIDARRAYOID],
        result_types: &[pg_sys::TIDOID, pg_sys::FLOAT8OID],
        others: Others::InExpression(&[]),
        is_read_only: false,
    };
    connection.run_on(table, &statement, &[places], read);
}

fn names(providers: &[Provider]) -> pg_sys::Datum {
    array::write(Element::Text, providers.iter().map(|provider| Some(text::write(provider.name()))))
}
