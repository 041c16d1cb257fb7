//! Rows about sessions that a later answer may complete. Commits append such rows to the inbox `incomplete_session`. The worker
//! moves them to `session_completion`, where processes lease them.

use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::ExtensionOids;
use crate::pg::prober::{Key, Prober};
use crate::pg::relation::{self, Table};
use crate::pg::row::Row;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{self, Array, Bigint, Boolean, Float, Inet, Regclass, Text, Timestamptz, array};
use crate::pg::{Oid, mvcc_snapshot};
use crate::provider::Providers;

/// Maximum number of rows that one transaction moves from the inbox `incomplete_session` to `session_completion`.
pub const MOST_MOVED: i64 = 10_000;
/// Maximum number of addresses that a process leases and visits together.
pub const MOST_LEASED: i64 = 500;
/// Maximum size of the inbox in pages (32 MB) while no worker moves its rows. If the inbox is larger, commits append nothing.
const MAX_PAGES_WITHOUT_WORKER: u32 = 4_096;

thread_local! {
    static CREATE: Statement<(Bigint,), (Bigint,)> = const { Statement::new(
        "completions_create", include_str!("../../sql/queries/sessions/completions_create.sql")) };
    static FORGET: Statement<()> = const { Statement::new(
        "completions_forget", include_str!("../../sql/queries/sessions/completions_forget.sql")) };
    static RENEW: Statement<(Array<Inet>,)> = const { Statement::new(
        "completions_renew", include_str!("../../sql/queries/sessions/completions_renew.sql")) };
    static OWNERS: Statement<(value::Oid,), (value::Oid, Boolean, Boolean, Timestamptz)> = const {
        Statement::new("completions_owners", concat!(
            include_str!("../../sql/queries/sessions/completions_pending.sql"),
            include_str!("../../sql/queries/sessions/completions_owners.sql"),
        ))
    };
    static ROLE: Statement<(value::Oid, value::Oid), (Text, Boolean, Boolean, Boolean)> = const {
        Statement::new("owner_role", include_str!("../../sql/queries/sessions/owner_role.sql"))
    };
    static SUSPEND: Statement<(Text, Text)> = const { Statement::new(
        "owner_suspend", include_str!("../../sql/queries/sessions/owner_suspend.sql")) };
    static LEASE: Statement<(value::Oid, Bigint, Float, Bigint), (value::Oid, Inet, Bigint)> = const {
        Statement::new("completions_lease", concat!(
            include_str!("../../sql/queries/sessions/completions_pending.sql"),
            include_str!("../../sql/queries/sessions/completions_lease.sql"),
        ))
    };
    static END_LEASES: Statement<(value::Oid, Array<Inet>, Array<Text>, Bigint, Float, Text, Bigint)> = const {
        Statement::new("completions_end_leases", include_str!("../../sql/queries/sessions/completions_end_leases.sql"))
    };
    static RETRY: Statement<(Array<value::Oid>,)> = const { Statement::new(
        "completions_retry", include_str!("../../sql/queries/sessions/completions_retry.sql")) };
    static RELEASE: Statement<(Array<Bigint>, Boolean, Float)> = const { Statement::new(
        "completions_release", include_str!("../../sql/queries/sessions/completions_release.sql")) };
    static SIZES: Statement<(), (Bigint, Bigint, Bigint)> = const { Statement::new(
        "completions_sizes", include_str!("../../sql/queries/sessions/completions_sizes.sql")) };
}

/// The parts of a snapshot: network, country and type of the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Gaps {
    pub network: bool,
    pub country: bool,
    pub ip_type: bool,
}

impl Gaps {
    pub fn any(self) -> bool {
        self.network || self.country || self.ip_type
    }

    /// Returns the parts that are in `self` and in `other`.
    pub fn and(self, other: Gaps) -> Gaps {
        Gaps {
            network: self.network && other.network,
            country: self.country && other.country,
            ip_type: self.ip_type && other.ip_type,
        }
    }

    /// Returns the parts that are in `self` or in `other`.
    pub fn or(self, other: Gaps) -> Gaps {
        Gaps {
            network: self.network || other.network,
            country: self.country || other.country,
            ip_type: self.ip_type || other.ip_type,
        }
    }
}

/// Returns the parts of a snapshot that an enabled provider may fill.
pub fn may_be_filled() -> Gaps {
    let enabled = Providers::enabled();
    let has = |is_asked: fn(Purpose) -> bool| enabled.iter().any(|provider| is_asked(provider.purpose()));
    Gaps {
        network: !enabled.is_empty(),
        // A provider with `Purpose::Network`, such as Team Cymru, looks up an address only if the network of this address is
        // unknown. So if only the country is unknown, this provider does not fill it.
        country: has(|purpose| purpose != Purpose::Network),
        ip_type: has(|purpose| purpose == Purpose::IpType),
    }
}

/// A row that is appended to the inbox.
#[derive(Clone, Copy)]
pub struct IncompleteSessionRow {
    pub address: Address,
    pub table: Oid,
    pub gaps: Gaps,
    /// True if an answer about the address may arrive soon. Then this row is always appended, so that it becomes visible together
    /// with the session. If false, this row is appended only if the same address and table have no pending row yet.
    pub is_asked: bool,
}

/// The result of [`append`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AppendResult {
    /// At least one row was appended.
    Rows,
    /// Nothing was appended, because all these rows are already pending.
    Nothing,
    /// Nothing was appended, because the inbox is full. This happens if no worker moves its rows.
    NoRoom,
}

/// Appends rows to the inbox `incomplete_session`. The rows are about sessions with null snapshot columns. Does not use the
/// executor, because this function runs during the commit of a session.
pub fn append(
    oids: ExtensionOids,
    sessions: impl Iterator<Item = IncompleteSessionRow>,
    has_worker: bool,
) -> AppendResult {
    let inbox = relation::find(oids.schema, c"incomplete_session");
    let Some(table) = Table::open_if_there_for_appending(inbox) else { return AppendResult::NoRoom };
    if !has_worker && table.pages() >= MAX_PAGES_WITHOUT_WORKER {
        return AppendResult::NoRoom;
    }
    let rows = relation::find(oids.schema, c"session_completion");
    let key = relation::find(oids.schema, c"session_completion_pkey");
    let latest = mvcc_snapshot::Latest::take();
    // The lock is taken only if it is free, because a commit must not wait for it. If the lock is not taken, a row may be
    // appended although an equal row is pending. The worker merges such rows later.
    let is_free = [rows, key].into_iter().all(relation::lock_for_reading_if_free);
    let mut known = if is_free { Prober::open(rows, key, latest.view()) } else { None };
    let mut is_pending = |it: &IncompleteSessionRow| {
        let Some(known) = &mut known else { return false };
        let is_of_table = |row: &Row| row.regclass(REL) == Some(it.table);
        !known.tuple_ids(Key::Address(it.address), 1, is_of_table).is_empty()
    };
    let wanted: Vec<IncompleteSessionRow> = sessions.filter(|it| it.is_asked || !is_pending(it)).collect();
    if wanted.is_empty() {
        return AppendResult::Nothing;
    }
    table.append::<(Regclass, Inet, Boolean, Boolean, Boolean)>(
        wanted
            .into_iter()
            .map(|it| (it.table, it.address, it.gaps.network, it.gaps.country, it.gaps.ip_type)),
    );
    AppendResult::Rows
}

/// Position of the column `rel` in `session_completion`. This position is fixed, because upgrades may only append columns.
const REL: i16 = 2;

/// Moves rows out of the inbox into `session_completion`. Returns the number of rows that were moved out.
pub fn create(connection: &Connection) -> i64 {
    CREATE.first(connection, (MOST_MOVED,), |(moved,)| moved).flatten().unwrap_or_default()
}

/// Marks the rows of these addresses as due, because the inventory now has an answer about the addresses.
pub fn renew(connection: &Connection, addresses: &[Address]) {
    if !addresses.is_empty() {
        RENEW.execute(connection, (array(addresses),));
    }
}

/// Deletes the rows that belong to dropped tables. If the address of a row is not in the inventory, also marks this row as due,
/// because no answer will arrive for the address.
pub fn forget(connection: &Connection) {
    FORGET.execute(connection, ());
}

/// A role that owns session tables with pending rows.
pub struct Owner {
    pub role: u32,
    /// True if the role is a superuser, or owns the extension.
    pub comes_first: bool,
    pub is_due: bool,
    /// The time at which the next row of this role becomes due.
    pub next: Option<Timestamp>,
}

/// Returns the owners whose tables have pending rows, if these tables may be completed.
pub fn owners(oids: ExtensionOids, connection: &Connection) -> Vec<Owner> {
    if super::has_rows(oids.schema, c"session_completion") == Some(false) {
        return Vec::new();
    }
    OWNERS.run(connection, (oids.owner,), |rows| {
        rows.iter()
            .filter_map(|(role, comes_first, is_due, next)| {
                Some(Owner { role: role?.to_u32(), comes_first: comes_first?, is_due: is_due?, next })
            })
            .collect()
    })
}

/// The role as which an owner process connects and runs code.
pub struct Role {
    pub name: String,
    pub may_connect: bool,
    pub is_suspended: bool,
}

pub fn role(oids: ExtensionOids, connection: &Connection, role: u32) -> Option<Role> {
    let read = |(name, _, may_connect, is_suspended): (Option<String>, _, Option<bool>, Option<bool>)| {
        Some(Role {
            name: name?,
            may_connect: may_connect == Some(true),
            is_suspended: is_suspended == Some(true),
        })
    };
    ROLE.first(connection, (Oid::from(role), oids.owner), read).flatten()
}

/// Suspends an owner. The suspension lasts until resume_owner() is called.
pub fn suspend(connection: &Connection, owner: &str, reason: &str) {
    SUSPEND.execute(connection, (owner, reason));
}

/// The rows of one table that a process has leased.
pub struct SessionLease {
    pub table: Oid,
    /// The addresses, in key order.
    pub addresses: Vec<Address>,
    /// The largest number of attempts among the leased rows.
    pub attempts: i64,
}

/// Leases due rows of one table that belongs to this owner. The lease lasts for the duration `lasts`.
pub fn lease(connection: &Connection, owner: Oid, holder: i64, lasts: Duration) -> Option<SessionLease> {
    LEASE.run(connection, (owner, MOST_LEASED, lasts.as_secs_f64(), holder), |rows| {
        let (table, ..) = rows.first()?;
        let mut addresses: Vec<Address> = rows.iter().filter_map(|(_, address, _)| address).collect();
        addresses.sort_unstable();
        let attempts = rows.iter().filter_map(|(.., attempts)| attempts).max().unwrap_or_default();
        Some(SessionLease { table: table?, addresses, attempts })
    })
}

/// Each slow visit halves the number of sessions that the next visit writes. A visit starts with at most 2,000 sessions. So
/// after 11 slow visits in a row, the next visit writes only one session.
pub const SMALLEST_AFTER: i64 = 11;

/// The outcome of a visit to the sessions of a row. [`end_visit`] stores the outcome when it ends the lease of the row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The row waits for an answer of a provider.
    Waits,
    More,
    /// More sessions are left, and the next visit can write more sessions than this visit.
    Faster,
    /// The visit failed, so the row becomes due again after a backoff.
    Later,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Waits => "waits",
            Outcome::More => "more",
            Outcome::Faster => "faster",
            Outcome::Later => "later",
        }
    }
}

/// Ends the leases of the rows of a visit. `longest` is the longest backoff. `error` is stored in the rows with the outcome
/// `Later`. This error says why the sessions could not be completed.
pub fn end_visit(
    connection: &Connection,
    table: Oid,
    outcomes: &[(Address, Outcome)],
    holder: i64,
    longest: Duration,
    error: &str,
) {
    let addresses = array(outcomes.iter().map(|(address, _)| address));
    let names = array(outcomes.iter().map(|(_, outcome)| outcome.name()));
    END_LEASES
        .execute(connection, (table, addresses, names, holder, longest.as_secs_f64(), error, SMALLEST_AFTER));
}

/// Marks the delayed rows of these tables as due, because the cause of their failure may no longer exist.
pub fn retry(connection: &Connection, tables: impl Iterator<Item = Oid>) {
    RETRY.execute(connection, (array(tables),));
}

/// Ends the leases that a process held when it ended. `longest` is the longest backoff before the rows become due again.
pub fn release(connection: &Connection, holder: i64, longest: Duration) {
    end_leases(connection, &[holder], false, longest);
}

/// Ends the leases of all processes that are not in `holders`. The processes in `holders` are still running.
pub fn release_others(connection: &Connection, holders: &[i64], longest: Duration) {
    end_leases(connection, holders, true, longest);
}

fn end_leases(connection: &Connection, holders: &[i64], are_kept: bool, longest: Duration) {
    RELEASE.execute(connection, (array(holders), are_kept, longest.as_secs_f64()));
}

/// The numbers of rows in `session_completion`.
#[derive(Clone, Copy, Default)]
pub struct Sizes {
    pub pending: i64,
    /// The age of the oldest pending row.
    pub oldest_age: Option<Duration>,
    pub suspended: i64,
}

pub fn sizes(connection: &Connection) -> Sizes {
    let sizes = SIZES.first(connection, (), |(pending, oldest_age, suspended)| Sizes {
        pending: pending.unwrap_or_default(),
        oldest_age: oldest_age.map(|micros| Duration::from_micros(micros.max(0).unsigned_abs())),
        suspended: suspended.unwrap_or_default(),
    });
    sizes.unwrap_or_default()
}
