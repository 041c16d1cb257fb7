//! Completes the snapshots of sessions that were stored before all data about their address was known. A column is changed only
//! if it is null.
//!
//! The session tables belong to other roles. Each table is written with the rights of its owner, in a restricted operation. The
//! code runs in an owner process and for a limited time. The owner's triggers and constraints fire as for any UPDATE of the
//! owner. Deferred triggers and constraints fire when the statement ends. If a trigger of a table runs code of a third role,
//! the table is not written until the owner allows this code. So the code on a table has no more rights than in an UPDATE by
//! the table's owner.
//!
//! Locked rows are skipped. If this transaction waited for the row of another session's transaction, the two transactions could
//! wait for each other. The caller learns that rows were skipped, and visits the address again.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::address::Address;

use super::ExtensionOids;
use super::completions::{self, Gaps};
use super::snapshot_fill::{self, Copies, Values};
use crate::document::{enrichment, types};
use crate::pg::column::Length;
use crate::pg::jsonb::Container;
use crate::pg::prober::{Key, Prober};
use crate::pg::role::{acting_as, with_settings};
use crate::pg::row::{Row, TupleId};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::subtransaction::Failure;
use crate::pg::user_table::{Lock, TableStatement, UserTable};
use crate::pg::value::{self, Array, Bigint, Boolean, Inet, Jsonb, Regclass, Text, Tid, array};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{Oid, catalog, jsonb, mvcc_snapshot, relation};
use crate::shared_state::owner_process::contained_within;
use crate::telemetry;

thread_local! {
    static CURRENT: Statement<(Array<Inet>,), (Inet, Bigint, Jsonb)> = const { Statement::new(
        "addresses_standing", include_str!("../../sql/queries/inventory/addresses_standing.sql")) };
    static INDEXES: Statement<(value::Oid,), (value::Oid,)> = const { Statement::new(
        "sessions_index", include_str!("../../sql/queries/sessions/sessions_index.sql")) };
    static INDEXED: Statement<(value::Oid,), (Boolean,)> = const { Statement::new(
        "sessions_indexed", include_str!("../../sql/queries/sessions/sessions_indexed.sql")) };
    static BLOCKED: Statement<(Regclass,), (Text,)> = const { Statement::new(
        "session_table_blocked", include_str!("../../sql/queries/sessions/session_table_blocked.sql")) };
}

/// Largest number of sessions of a table that one visit writes. If a visit takes too long, the next visit writes fewer
/// sessions.
pub const MOST_SESSIONS: usize = 2_000;

/// The current values of an address in the inventory. They are kept after the transaction that read them has ended, so no lock
/// on the inventory is held while code of an owner runs. `document` is written into sessions that have no document yet.
pub struct CurrentAttribution {
    address: Address,
    asn: Option<i64>,
    country: Option<String>,
    ip_type: Option<String>,
    document: Option<OwnedVarlena>,
}

/// A table without partitions, and one index of this table. The index contains the sessions with null snapshot columns. The table's
/// name is quoted for SQL and is in the server's encoding.
struct Table {
    oid: Oid,
    index: Oid,
    name: Vec<u8>,
}

/// The result of a visit. One visit processes the sessions of one address in one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VisitResult {
    /// No session of the address has a gap.
    Complete,
    /// Some sessions have gaps, but no known value fills them.
    Waits,
    /// The address has more sessions with gaps than one transaction completes.
    More,
    /// Some sessions were not completed, for example because other transactions have locked them.
    Locked,
}

/// The reason why sessions were not completed.
pub enum VisitError {
    /// The owner's code exceeded the time limit.
    TooSlow,
    /// The table was locked, or the server lacked a resource such as memory.
    Busy(Failure),
    /// The statement failed, for example because of a constraint, or because a column has another type.
    Failed(Failure),
}

/// Reads the current values of these addresses from the inventory.
pub fn known(connection: &Connection, wanted: &[Address]) -> Vec<CurrentAttribution> {
    let mut known: Vec<CurrentAttribution> = CURRENT.run(connection, (array(wanted),), |rows| {
        let read = |(address, asn, document): (Option<Address>, _, Option<Container<'_>>)| {
            let (address, document) = address.zip(document)?;
            let country = enrichment::country(document);
            let ip_type = types::leading_type(document);
            let document = Some(jsonb::owned_without(document, "_meta"));
            Some(CurrentAttribution { address, asn, country, ip_type, document })
        };
        rows.iter().filter_map(read).collect()
    });
    let unknown: Vec<Address> = wanted
        .iter()
        .copied()
        .filter(|address| known.binary_search_by_key(address, |known| known.address).is_err())
        .collect();
    let nothing =
        |address| CurrentAttribution { address, asn: None, country: None, ip_type: None, document: None };
    known.extend(unknown.into_iter().map(nothing));
    known
}

/// Returns the addresses greater than `after` whose sessions in a table have gaps that an enabled provider may fill. Reads about
/// `most` sessions, directly from storage, so no code of the table owner runs. If there are more sessions, also returns the address
/// from which the next call continues. Returns `None` if another transaction has locked the table.
pub fn gaps_after(
    connection: &Connection,
    table: Oid,
    after: Address,
    most: usize,
) -> Option<(Vec<(Address, Gaps)>, Option<Address>)> {
    let (mut all, mut last) = (Vec::new(), None);
    if !relation::lock_for_reading_if_free(table) {
        return None;
    }
    let Some((table, _)) = found(connection, table) else { return Some((all, last)) };
    if !relation::lock_for_reading_if_free(table.index) {
        return None;
    }
    let latest = mvcc_snapshot::Latest::take();
    let Some(mut sessions) = Prober::open(table.oid, table.index, latest.view()) else {
        return Some((all, last));
    };
    let (columns, may_be_filled) = (Columns::of(&table, &sessions), completions::may_be_filled());
    let (mut read, mut current) = (0, after);
    sessions.rows_after(after, |address, row| {
        // The next call can only continue after the last session of an address.
        if read >= most && address != current {
            last = Some(current);
            return ControlFlow::Break(());
        }
        (read, current) = (read + 1, address);
        let gaps = columns.gaps(row).and(may_be_filled);
        match all.last_mut() {
            Some((last, known)) if *last == address => *known = gaps.or(*known),
            _ if gaps.any() => all.push((address, gaps)),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    Some((all, last))
}

/// Completes sessions of these addresses in a table. Runs with the rights of the role that owned the table when the process was
/// started. May be called only in an owner process.
pub fn visit(
    connection: &Connection,
    (table, owner): (Oid, Oid),
    known: &[CurrentAttribution],
    (most, limit): (usize, Duration),
    waits_for_types: bool,
) -> Result<Vec<(Address, VisitResult)>, VisitError> {
    let started = Instant::now();
    contained_within(limit, || {
        let is_there = catalog::owner_of_table(table) == Some(owner);
        let table = if is_there { found(connection, table) } else { None };
        match table {
            Some((table, has_types)) => {
                if !has_types && known.iter().any(|known| known.ip_type.is_some()) {
                    telemetry::log_once_per_burst(
                        "snapshot_ip_type can stay null in sessions of a table; call attach_session_table() again, then backfill_sessions()",
                        &String::from_utf8_lossy(&table.name),
                    );
                }
                let found = complete_table(connection, &table, known, most, waits_for_types);
                // If `has_types` is false, the index does not contain the sessions that lack only the type. So if the index has no
                // more sessions, some sessions may still wait for a type. The result must then be `Waits` instead of `Complete`.
                let is_known = has_types || !waits_for_types;
                let sure = |result| if result == VisitResult::Complete && !is_known { VisitResult::Waits } else { result };
                found.into_iter().map(|(address, result)| (address, sure(result))).collect()
            }
            // The table was dropped, has another owner, or has no usable index. A later visit checks the table again.
            None => all(known, VisitResult::Locked),
        }
    })
    .map_err(|failure| {
        if started.elapsed() >= limit {
            VisitError::TooSlow
        } else if failure.was_lock || failure.was_resource() {
            VisitError::Busy(failure)
        } else {
            VisitError::Failed(failure)
        }
    })
}

/// Returns a table and the index of its sessions with null snapshot columns. The second value is true if this index contains
/// sessions that lack only the type of the address.
fn found(connection: &Connection, table: Oid) -> Option<(Table, bool)> {
    let indexes: Vec<Oid> =
        INDEXES.run(connection, (table,), |rows| rows.iter().filter_map(|(index,)| index).collect());
    let approved = indexes.into_iter().filter_map(|index| Some((index, indexed(connection, index)?)));
    let (index, has_types) = approved.max_by_key(|(_, has_types)| *has_types)?;
    Some((Table { oid: table, index, name: catalog::quoted_table_name(table) }, has_types))
}

/// Returns true if an index contains sessions that lack only the type of the address. Returns `None` if the index is not one of the
/// indexes that the extension creates for sessions with null snapshot columns.
fn indexed(connection: &Connection, index: Oid) -> Option<bool> {
    INDEXED.first(connection, (index,), |(has_types,)| has_types).flatten()
}

fn all(known: &[CurrentAttribution], result: VisitResult) -> Vec<(Address, VisitResult)> {
    known.iter().map(|known| (known.address, result)).collect()
}

fn complete_table(
    connection: &Connection,
    table: &Table,
    known: &[CurrentAttribution],
    most: usize,
    waits_for_types: bool,
) -> Vec<(Address, VisitResult)> {
    let Some((columns, waiting)) = waiting(table, known, most) else {
        return all(known, VisitResult::Complete);
    };
    let is_cut = waiting.len() >= most;
    let mut any_completed = false;
    if !waiting.is_empty() {
        let fillings: Vec<SnapshotValues> = waiting
            .iter()
            .map(|(known, tuple_id)| SnapshotValues {
                tuple_id: *tuple_id,
                address: known.address,
                asn: known.asn,
                country: columns.country(known),
                ip_type: columns.ip_type(known),
                document: known.document.as_ref(),
            })
            .collect();
        let Some(locked) = UserTable::lock(table.oid, Lock::Write) else {
            return all(known, VisitResult::Complete);
        };
        if blocks_completion(connection, table.oid) {
            return all(known, VisitResult::Locked);
        }
        any_completed = as_owner(&locked, || {
            let written = update(connection, &locked, &fillings);
            let completed: Vec<TupleId> = written
                .into_iter()
                .filter_map(|(tuple_id, lacks_nothing)| lacks_nothing.then_some(tuple_id))
                .collect();
            is_cut && are_any_there(connection, &locked, &completed)
        });
    }
    let found = gaps(table, known, waits_for_types);
    if found.iter().any(|(_, result)| *result == VisitResult::Locked) {
        let owner = catalog::owner_of_table(table.oid);
        if owner.is_some_and(|owner| catalog::is_filtered(table.oid, owner)) {
            telemetry::log_once_per_burst(
                "forced row-level security can hide sessions from the table owner, so the snapshot columns of these sessions are not filled",
                &String::from_utf8_lossy(&table.name),
            );
        }
        // Another visit is useful only if this visit completed sessions. Otherwise the next visit would try the same sessions,
        // and complete none of them.
        if is_cut && any_completed {
            let more = |result| if result == VisitResult::Locked { VisitResult::More } else { result };
            return found.into_iter().map(|(address, result)| (address, more(result))).collect();
        }
    }
    found
}

/// Checks for each address whether its sessions still have gaps.
fn gaps(table: &Table, known: &[CurrentAttribution], waits_for_types: bool) -> Vec<(Address, VisitResult)> {
    let latest = mvcc_snapshot::Latest::take();
    let Some(mut sessions) = Prober::open(table.oid, table.index, latest.view()) else {
        return all(known, VisitResult::Complete);
    };
    let columns = Columns::of(table, &sessions);
    let result = |known: &CurrentAttribution| {
        let key = Key::Address(known.address);
        let is_lacking = |row: &Row| columns.are_lacking(row, known);
        if !sessions.tuple_ids(key, 1, is_lacking).is_empty() {
            return (known.address, VisitResult::Locked);
        }
        let has_gap = |row: &Row| columns.have_gap(row, waits_for_types);
        let has_any = !sessions.tuple_ids(key, 1, has_gap).is_empty();
        (known.address, if has_any { VisitResult::Waits } else { VisitResult::Complete })
    };
    known.iter().map(result).collect()
}

/// The values that are written into the null snapshot columns of one session.
#[derive(Clone, Copy)]
pub struct SnapshotValues<'a> {
    pub tuple_id: TupleId,
    pub address: Address,
    pub asn: Option<i64>,
    pub country: Option<&'a str>,
    pub ip_type: Option<&'a str>,
    pub document: Option<&'a OwnedVarlena>,
}

/// Fills null snapshot columns of these sessions in a table, with the rights of the table's owner. Returns the number of
/// sessions that it filled. Skips rows that another transaction has locked. If the table has a [`blocked_reason`], fills
/// nothing. An ERROR in the owner's code reaches the caller.
pub fn fill(connection: &Connection, table: &UserTable, sessions: &[SnapshotValues<'_>]) -> usize {
    as_owner(table, || update(connection, table, sessions).len())
}

/// Returns the reason why the sessions of a table or partition are not completed. Such a reason is a trigger that would run
/// code of a third role.
pub fn blocked_reason(connection: &Connection, table: Oid) -> Option<String> {
    // At this time, the process may act as the owner of a session table. The view is read as the owner of the extension,
    // because the view belongs to this role.
    let oids = ExtensionOids::of_extension(&catalog::extension()?);
    acting_as(oids.owner, || BLOCKED.first(connection, (table,), |(reason,)| reason).flatten())
}

/// Returns true if a trigger prevents the completion of a table's sessions. In this case, also logs the reason.
fn blocks_completion(connection: &Connection, table: Oid) -> bool {
    let Some(reason) = blocked_reason(connection, table) else { return false };
    telemetry::log_once_per_burst("the snapshot columns of a session table are not filled", &reason);
    true
}

/// The snapshot columns of a table. If the length of a value does not fit its column, the value is not written.
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

    fn country<'a>(&self, known: &'a CurrentAttribution) -> Option<&'a str> {
        fitting(self.country, known.country.as_deref())
    }

    fn ip_type<'a>(&self, known: &'a CurrentAttribution) -> Option<&'a str> {
        fitting(self.ip_type, known.ip_type.as_deref())
    }

    /// Returns which snapshot columns of a row are null.
    fn gaps(&self, row: &Row) -> Gaps {
        let lacks = |number: i16| row.is_null(number);
        Gaps {
            network: self.asn.is_some_and(lacks),
            country: self.country.is_some_and(|(number, _)| lacks(number)),
            ip_type: self.ip_type.is_some_and(|(number, _)| lacks(number)),
        }
    }

    /// Returns true if a row has a null snapshot column that a later answer may fill.
    fn have_gap(&self, row: &Row, waits_for_types: bool) -> bool {
        let gaps = self.gaps(row);
        gaps.network || gaps.country || (waits_for_types && gaps.ip_type)
    }

    /// Returns true if the row of a session lacks a value that is known now.
    fn are_lacking(&self, row: &Row, known: &CurrentAttribution) -> bool {
        let lacks = |number: i16| row.is_null(number);
        (known.asn.is_some() && self.asn.is_some_and(lacks))
            || (self.country(known).is_some() && self.country.is_some_and(|(number, _)| lacks(number)))
            || (self.ip_type(known).is_some() && self.ip_type.is_some_and(|(number, _)| lacks(number)))
    }
}

fn fitting(column: Option<(i16, Length)>, text: Option<&str>) -> Option<&str> {
    let (_, length) = column?;
    text.filter(|text| length.takes(text.chars().count()))
}

/// Returns sessions of these addresses that lack a value that is now known. Returns at most `most` sessions. Reads the table
/// by the extension's own index. No query is planned or executed, because even the planning of a query on a user's table can run
/// code of the user. Returns `None` if the table was dropped.
fn waiting<'a>(
    table: &Table,
    known: &'a [CurrentAttribution],
    most: usize,
) -> Option<(Columns, Vec<(&'a CurrentAttribution, TupleId)>)> {
    let latest = mvcc_snapshot::Latest::take();
    let mut sessions = Prober::open(table.oid, table.index, latest.view())?;
    let columns = Columns::of(table, &sessions);
    let mut waiting = Vec::new();
    for known in known {
        let left = most - waiting.len();
        let is_lacking = |row: &Row| columns.are_lacking(row, known);
        let tuple_ids = sessions.tuple_ids(Key::Address(known.address), left, is_lacking);
        waiting.extend(tuple_ids.into_iter().map(|tuple_id| (known, tuple_id)));
    }
    Some((columns, waiting))
}

const SETTINGS: &[(&std::ffi::CStr, &std::ffi::CStr)] = &[
    // The statement finds the rows by their tuple ids. A scan of the whole table could take long.
    (c"enable_seqscan", c"off"),
    (c"jit", c"off"),
];

/// Runs `work` as the owner of a table.
fn as_owner<T>(table: &UserTable, work: impl FnOnce() -> T) -> T {
    with_settings(SETTINGS, || table.as_owner(work))
}

type Complete = (Array<Tid>, Array<Bigint>, Array<Text>, Array<Text>, Array<Jsonb>);

const COMPLETE: TableStatement<'static, Complete, (Tid, Boolean)> = TableStatement::new(
    "sessions_complete",
    include_str!("../../sql/queries/sessions/sessions_complete.sql"),
);

const COMPLETED: TableStatement<'static, (Array<Tid>,), (Boolean,)> = TableStatement::new(
    "sessions_completed",
    include_str!("../../sql/queries/sessions/sessions_completed.sql"),
);

/// Writes the sessions of a table. Returns the tuple id of each written session. Also returns for each session whether it now
/// has all known values.
fn update(
    connection: &Connection,
    table: &UserTable,
    sessions: &[SnapshotValues<'_>],
) -> Vec<(TupleId, bool)> {
    // The table is locked, so no trigger is created between this check and the statement.
    if blocks_completion(connection, table.oid()) {
        return Vec::new();
    }
    let arguments = (
        array(sessions.iter().map(|session| session.tuple_id)),
        array(sessions.iter().map(|session| session.asn)),
        array(sessions.iter().map(|session| session.country)),
        array(sessions.iter().map(|session| session.ip_type)),
        array(sessions.iter().map(|session| session.document)),
    );
    let mut copies = Copies::default();
    let rows = sessions.iter().map(|session| {
        let values = Values {
            asn: session.asn,
            country: session.country.map(|text| copies.text(text)),
            ip_type: session.ip_type.map(|text| copies.text(text)),
            document: session.document.map(|document| copies.document(document)),
        };
        (session.tuple_id, session.address, values)
    });
    let _registration = snapshot_fill::register(table.oid(), rows);
    connection.run_on(table, &COMPLETE, arguments, |rows| {
        rows.iter()
            .filter_map(|(tuple_id, is_complete)| Some((tuple_id?, is_complete == Some(true))))
            .collect()
    })
}

/// Returns true if at least one of these tuple ids still refers to a session.
fn are_any_there(connection: &Connection, table: &UserTable, tuple_ids: &[TupleId]) -> bool {
    if tuple_ids.is_empty() {
        return false;
    }
    connection.run_on(table, &COMPLETED, (array(tuple_ids),), |rows| rows.count() > 0)
}
