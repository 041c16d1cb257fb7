//! Sessions that were stored before everything about their address was known: their snapshots are completed, from null
//! to a value and never else.
//!
//! The session tables are other people's. They are written as their owners, in a restricted operation, and for a limited
//! time. The owner's triggers and constraints fire as for any UPDATE of the owner, deferred ones with the statement. A
//! table with a trigger that runs code of a third role is left alone, until the owner allows it. So code on a table can do
//! no more than its owner could by an UPDATE, and cannot hold the worker up. One table's
//! failure is contained and keeps neither the inventory nor other tables from being written.
//!
//! Rows that somebody holds are passed over, since a session's own transaction must never wait for this one in the
//! wrong order; who calls is told, and comes back.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::fill_register::{self, Copies, Values};
use super::{Home, addresses};
use crate::pg::array::{self, Element};
use crate::pg::kept::Kept;
use crate::pg::relation::{Place, Prober, Row};
use crate::pg::role::{acting_as, with_settings};
use crate::pg::spi::{Connection, Statement};
use crate::pg::subtransaction::contained_within;
use crate::pg::trigger::Length;
use crate::pg::user_table::{Lock, Others, TableStatement, UserTable};
use crate::pg::{catalog, inet, jsonb, shared, snapshot, text};
use crate::telemetry;

thread_local! {
    static ATTACHED: Statement = const { Statement::new(
        "sessions_attached", include_str!("../../sql/queries/sessions_attached.sql"), &[]) };
    static INDEXED: Statement = const { Statement::new(
        "sessions_indexed", include_str!("../../sql/queries/sessions_indexed.sql"), &[pg_sys::OIDOID]) };
    static BLOCKED: Statement = const { Statement::new(
        "session_table_blocked", include_str!("../../sql/queries/session_table_blocked.sql"),
        &[pg_sys::REGCLASSOID]) };
    static CONSTRAINTS_IMMEDIATE: Statement = const { Statement::new(
        "constraints_immediate", include_str!("../../sql/queries/constraints_immediate.sql"), &[]) };
}

/// For all tables together: a transaction of the worker's ends within a second.
const TIME: Duration = Duration::from_millis(600);
/// For each table at least.
const LEAST_TIME: Duration = Duration::from_millis(50);
/// Sessions of a table that are written together; fewer where that takes too long.
const MOST_SESSIONS: usize = 2_000;

/// What is known now of an address. The document is what a session's snapshot holds when it holds nothing yet.
pub struct Standing {
    pub address: Address,
    pub asn: Option<i64>,
    pub country: Option<String>,
    pub ip_type: Option<String>,
    pub document: pg_sys::Datum,
}

/// A table without partitions, and the index of its sessions with gaps in their snapshots. The name is as SQL wants it,
/// in the server's encoding.
struct Table {
    oid: pg_sys::Oid,
    index: pg_sys::Oid,
    name: Vec<u8>,
    /// Whether it belongs to whom its partitioned table belongs.
    is_of_one_owner: bool,
}

/// Addresses with sessions that are not complete yet.
#[derive(Default)]
pub struct Incomplete {
    /// Somebody holds them at the moment.
    pub held: BTreeSet<Address>,
    /// There are more than one transaction completes.
    pub more: BTreeSet<Address>,
}

thread_local! {
    /// How many sessions of a table were too many for the time that there is.
    static TOO_MANY: RefCell<HashMap<pg_sys::Oid, usize>> = RefCell::default();
}

/// Completes the sessions of these addresses in all attached tables by what the inventory knows now.
pub fn complete(connection: &Connection, addresses: &[Address]) -> Incomplete {
    if addresses.is_empty() {
        return Incomplete::default();
    }
    let tables = attached(connection);
    if tables.is_empty() {
        return Incomplete::default();
    }
    addresses::standing(connection, addresses, |standing| complete_tables(connection, &tables, standing))
}

fn attached(connection: &Connection) -> Vec<Table> {
    ATTACHED.with(|statement| {
        connection.run(statement, &[], |rows| {
            (0..rows.count)
                .filter_map(|row| {
                    let oid = |column| u32::try_from(rows.bigint(row, column)?).ok().map(pg_sys::Oid::from);
                    Some(Table {
                        oid: oid(1)?,
                        index: oid(2)?,
                        name: rows.bytes(row, 3)?,
                        is_of_one_owner: rows.boolean(row, 4)?,
                    })
                })
                .filter(may_be_written)
                .collect()
        })
    })
}

/// Constraints of a partitioned table are checked with the rights of whoever writes the partition.
fn may_be_written(table: &Table) -> bool {
    let why = if !table.is_of_one_owner {
        "the partition belongs to somebody else than the table"
    } else if shared::is_suspect(table.oid) {
        "code on it did not end, and it is left alone for an hour"
    } else {
        return true;
    };
    let name = String::from_utf8_lossy(&table.name);
    telemetry::log_once_per_burst("sessions of a table are not completed", &format!("{name}: {why}"));
    false
}

fn complete_tables(connection: &Connection, tables: &[Table], standing: &[Standing]) -> Incomplete {
    let mut incomplete = Incomplete::default();
    let all = || standing.iter().map(|standing| standing.address);
    let until = Instant::now() + TIME;
    for table in tables {
        let limit = until.saturating_duration_since(Instant::now()).max(LEAST_TIME);
        let most = TOO_MANY.with_borrow(|known| known.get(&table.oid).map_or(MOST_SESSIONS, |many| many / 2));
        let started = Instant::now();
        match contained_within(limit, table.oid, || complete_table(connection, table, standing, most)) {
            Ok(left) => {
                incomplete.held.extend(left.held);
                incomplete.more.extend(left.more);
                if started.elapsed() < limit / 4 {
                    TOO_MANY.with_borrow_mut(|known| {
                        known.entry(table.oid).and_modify(|many| *many *= 2);
                        known.retain(|_, many| *many < 2 * MOST_SESSIONS);
                    });
                }
            }
            Err(failure) if failure.was_lock => incomplete.held.extend(all()),
            // So many take too long: fewer may not.
            Err(_) if started.elapsed() >= limit && most > 1 => {
                TOO_MANY.with_borrow_mut(|known| known.insert(table.oid, most));
                incomplete.more.extend(all());
            }
            // It would fail again: a constraint of theirs, a column of another type.
            Err(failure) => telemetry::error(
                "sessions of a table could not be completed",
                &format!("{}: {}", String::from_utf8_lossy(&table.name), failure.message),
            ),
        }
    }
    incomplete
}

/// Whether those that lack the type alone are among the sessions in an index; `None`: it is no index of waiting sessions.
fn indexed(connection: &Connection, table: &Table) -> Option<bool> {
    let index = [Some(pg_sys::Datum::from(table.index))];
    INDEXED.with(|statement| connection.run(statement, &index, |rows| rows.boolean(0, 1)))
}

fn complete_table(connection: &Connection, table: &Table, standing: &[Standing], most: usize) -> Incomplete {
    let Some(has_types) = indexed(connection, table) else { return Incomplete::default() };
    if !has_types && standing.iter().any(|standing| standing.ip_type.is_some()) {
        telemetry::log_once_per_burst(
            "sessions of a table may lack their type: attach it again, now that there is a source of types",
            &String::from_utf8_lossy(&table.name),
        );
    }
    let Some((columns, waiting)) = waiting(table, standing, most) else { return Incomplete::default() };
    if waiting.is_empty() {
        return Incomplete::default();
    }
    if blocks_completion(connection, table.oid) {
        return Incomplete::default();
    }
    let documents: Vec<Kept> = standing
        .iter()
        .map(|standing| jsonb::keep_without(jsonb::view(standing.document), "_meta"))
        .collect();
    let document = |of: &Standing| {
        standing.iter().zip(&documents).find(|(standing, _)| standing.address == of.address).map(|(_, d)| d)
    };
    let fillings: Vec<Filling> = waiting
        .iter()
        .map(|(standing, place)| Filling {
            place: *place,
            address: standing.address,
            asn: standing.asn,
            country: columns.country(standing),
            ip_type: columns.ip_type(standing),
            document: document(standing),
        })
        .collect();
    let is_cut = waiting.len() >= most;
    let Some(locked) = UserTable::lock(table.oid, Lock::Write) else { return Incomplete::default() };
    let any_completed = as_owner(connection, &locked, || {
        let written = update(connection, &locked, &fillings);
        let completed: Vec<Place> =
            written.into_iter().filter_map(|(place, lacks_nothing)| lacks_nothing.then_some(place)).collect();
        is_cut && are_any_there(connection, &locked, &completed)
    });
    let still = lacking(table, standing);
    if !still.is_empty() && catalog::is_filtered(table.oid, locked.owner()) {
        telemetry::log_once_per_burst(
            "sessions of a table may be hidden from its owner, who completes them: row-level security is forced",
            &String::from_utf8_lossy(&table.name),
        );
    }
    // Where nothing moves, it is not that there are so many.
    if is_cut && any_completed {
        Incomplete { more: still, ..Incomplete::default() }
    } else {
        Incomplete { held: still, ..Incomplete::default() }
    }
}

/// What is null in the snapshot of a session.
#[derive(Clone, Copy)]
pub struct Filling<'a> {
    pub place: Place,
    pub address: Address,
    pub asn: Option<i64>,
    pub country: Option<&'a str>,
    pub ip_type: Option<&'a str>,
    pub document: Option<&'a Kept>,
}

/// Fills null columns of these sessions of a table, as its owner; returns how many sessions it filled. Rows that another
/// transaction has locked are left out, and all rows of a table that [`blocked_reason`] names. An ERROR of the owner's
/// code fails the caller.
pub fn fill(connection: &Connection, table: &UserTable, sessions: &[Filling<'_>]) -> usize {
    as_owner(connection, table, || update(connection, table, sessions).len())
}

/// Why sessions of a table, or partition, are not completed: a trigger would run code of a third role.
pub fn blocked_reason(connection: &Connection, table: pg_sys::Oid) -> Option<String> {
    // The view is the extension's, and this process may act as another role at the moment.
    let home = Home::of_extension(&catalog::extension()?);
    let table = [Some(pg_sys::Datum::from(table))];
    acting_as(home.owner, || {
        BLOCKED.with(|statement| connection.run(statement, &table, |rows| rows.text(0, 1)))
    })
}

/// Returns true if a table is left alone for that reason, and logs the reason.
fn blocks_completion(connection: &Connection, table: pg_sys::Oid) -> bool {
    let Some(reason) = blocked_reason(connection, table) else { return false };
    telemetry::log_once_per_burst("sessions of a table are not completed", &reason);
    true
}

/// The snapshot columns of a table; what a column does not take is not written there.
struct Columns {
    asn: Option<i16>,
    country: Option<(i16, Length)>,
    ip_type: Option<(i16, Length)>,
}

impl Columns {
    fn of(table: &Table, sessions: &Prober) -> Columns {
        let text = |name| sessions.column(name).map(|column| (column.number, column.length(table.oid)));
        Columns {
            asn: sessions.column(c"snapshot_asn").map(|column| column.number),
            country: text(c"snapshot_country"),
            ip_type: text(c"snapshot_ip_type"),
        }
    }

    fn country<'a>(&self, standing: &'a Standing) -> Option<&'a str> {
        fitting(self.country, standing.country.as_deref())
    }

    fn ip_type<'a>(&self, standing: &'a Standing) -> Option<&'a str> {
        fitting(self.ip_type, standing.ip_type.as_deref())
    }

    /// Whether a session's row lacks something that is known now.
    fn are_lacking(&self, row: &Row, standing: &Standing) -> bool {
        let lacks = |number: i16| row.column(number).is_none();
        (standing.asn.is_some() && self.asn.is_some_and(lacks))
            || (self.country(standing).is_some() && self.country.is_some_and(|(number, _)| lacks(number)))
            || (self.ip_type(standing).is_some() && self.ip_type.is_some_and(|(number, _)| lacks(number)))
    }
}

fn fitting(column: Option<(i16, Length)>, text: Option<&str>) -> Option<&str> {
    let (_, length) = column?;
    text.filter(|text| length.takes(text.chars().count()))
}

/// At most so many sessions of these addresses that lack what is known now, found by our own index and below the executor:
/// planning a query on somebody's table already runs code of theirs. `None`: the table is gone.
fn waiting<'a>(
    table: &Table,
    standing: &'a [Standing],
    most: usize,
) -> Option<(Columns, Vec<(&'a Standing, Place)>)> {
    let latest = snapshot::Latest::take();
    let mut sessions = Prober::open(table.oid, table.index, latest.raw())?;
    let columns = Columns::of(table, &sessions);
    let mut waiting = Vec::new();
    for standing in standing {
        let left = most - waiting.len();
        let is_lacking = |row: &Row| columns.are_lacking(row, standing);
        let places = sessions.places(inet::write(standing.address), left, is_lacking);
        waiting.extend(places.into_iter().map(|place| (standing, place)));
    }
    Some((columns, waiting))
}

/// Those addresses that have such sessions.
fn lacking(table: &Table, standing: &[Standing]) -> BTreeSet<Address> {
    let has_any = |standing: &Standing| {
        waiting(table, std::slice::from_ref(standing), 1).is_some_and(|(_, waiting)| !waiting.is_empty())
    };
    standing.iter().filter(|standing| has_any(standing)).map(|standing| standing.address).collect()
}

const SETTINGS: &[(&std::ffi::CStr, &std::ffi::CStr)] = &[
    // The rows are named; the table may be large.
    (c"enable_seqscan", c"off"),
    (c"jit", c"off"),
];

/// Makes deferred triggers fire with the statement that queues them, until the transaction ends.
///
/// At the end of the transaction they would run as another role than the table's owner, so the server refuses to defer
/// them in a restricted operation.
pub fn make_constraints_immediate(connection: &Connection) {
    CONSTRAINTS_IMMEDIATE.with(|statement| connection.run(statement, &[], |_| ()));
}

/// Runs `work` as the owner of a table of theirs.
fn as_owner<T>(connection: &Connection, table: &UserTable, work: impl FnOnce() -> T) -> T {
    make_constraints_immediate(connection);
    with_settings(SETTINGS, || table.as_owner(work))
}

const COMPLETE: TableStatement<'static> = TableStatement {
    name: "sessions_complete",
    text: include_str!("../../sql/queries/sessions_complete.sql"),
    parts: &[],
    argument_types: &[
        pg_sys::TIDARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::JSONBARRAYOID,
    ],
    result_types: &[pg_sys::TIDOID, pg_sys::BOOLOID],
    others: Others::None,
    is_read_only: false,
};

const COMPLETED: TableStatement<'static> = TableStatement {
    name: "sessions_completed",
    text: include_str!("../../sql/queries/sessions_completed.sql"),
    parts: &[],
    argument_types: &[pg_sys::TIDARRAYOID],
    result_types: &[pg_sys::BOOLOID],
    others: Others::None,
    is_read_only: false,
};

/// Writes the sessions of a table; returns the place of each, and whether it has all values that are known.
fn update(connection: &Connection, table: &UserTable, sessions: &[Filling<'_>]) -> Vec<(Place, bool)> {
    // The table is locked, so no trigger is created between this check and the statement.
    if blocks_completion(connection, table.oid()) {
        return Vec::new();
    }
    let texts = |value: fn(&Filling<'_>) -> Option<pg_sys::Datum>| {
        array::write(Element::Text, sessions.iter().map(value))
    };
    let arguments = [
        array::write(Element::Tid, sessions.iter().map(|session| Some(session.place.datum()))),
        array::write(Element::Bigint, sessions.iter().map(|session| session.asn.map(pg_sys::Datum::from))),
        texts(|session| session.country.map(text::write)),
        texts(|session| session.ip_type.map(text::write)),
        array::write(Element::Jsonb, sessions.iter().map(|session| session.document.map(Kept::datum))),
    ];
    let mut copies = Copies::default();
    let rows = sessions.iter().map(|session| {
        let values = Values {
            asn: session.asn,
            country: session.country.map(|text| copies.text(text)),
            ip_type: session.ip_type.map(|text| copies.text(text)),
            document: session.document.map(|document| copies.document(document)),
        };
        (session.place, session.address, values)
    });
    let _registration = fill_register::register(table.oid(), rows);
    connection.run_on(table, &COMPLETE, &arguments, |rows| {
        let written = |row| Some((rows.place(row, 1)?, rows.boolean(row, 2) == Some(true)));
        (0..rows.count).filter_map(written).collect()
    })
}

/// Whether there is a session at any of these places.
fn are_any_there(connection: &Connection, table: &UserTable, places: &[Place]) -> bool {
    if places.is_empty() {
        return false;
    }
    let places = array::write(Element::Tid, places.iter().map(|place| Some(place.datum())));
    connection.run_on(table, &COMPLETED, &[places], |rows| rows.count > 0)
}
