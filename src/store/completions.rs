//! Sessions that an answer may complete: the inbox that commits append to, and the rows that processes lease.

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

/// Largest number of inbox rows that one transaction moves.
pub const MOST_MOVED: i64 = 10_000;
/// Addresses that are visited together.
pub const MOST_LEASED: i64 = 500;
/// Largest number of inbox pages to which commits append while no worker moves its rows: 32 MB.
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

/// Parts of a snapshot.
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
        // A provider with `Purpose::Network`, such as Team Cymru, looks up an address only if its network is unknown. So this
        // provider fills no country of an address whose network is known.
        country: has(|purpose| purpose != Purpose::Network),
        ip_type: has(|purpose| purpose == Purpose::IpType),
    }
}

/// A row for the inbox.
#[derive(Clone, Copy)]
pub struct IncompleteSessionRow {
    pub address: Address,
    pub table: Oid,
    pub gaps: Gaps,
    /// True if an answer may arrive soon. Then the row must become visible together with the session. If false, no row is appended
    /// for an address and table that already have a pending row.
    pub is_asked: bool,
}

/// The result of appending sessions with gaps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AppendResult {
    Rows,
    /// Their rows are pending already.
    Nothing,
    /// The inbox is full, because no worker moves its rows.
    NoRoom,
}

/// Appends sessions with gaps to the inbox. Works below the executor, because a session's commit calls this.
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
    // The lock is taken only if it is free, because a commit must not wait for it. Without the lock, a row may be appended twice.
    // The worker merges such rows later.
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

/// Position of `rel` in session_completion; upgrades may only append columns.
const REL: i16 = 2;

/// Moves rows out of the inbox into `session_completion`. Returns the number of inbox rows.
pub fn create(connection: &Connection) -> i64 {
    CREATE.first(connection, (MOST_MOVED,), |(moved,)| moved).flatten().unwrap_or_default()
}

/// Makes the rows of these addresses due, because the inventory has an answer.
pub fn renew(connection: &Connection, addresses: &[Address]) {
    if !addresses.is_empty() {
        RENEW.execute(connection, (array(addresses),));
    }
}

/// Deletes rows of dropped tables. Also makes rows due whose address is not in the inventory, because no
/// answer will make them due.
pub fn forget(connection: &Connection) {
    FORGET.execute(connection, ());
}

/// An owner of tables with pending rows.
pub struct Owner {
    pub role: u32,
    /// A superuser, or the owner of the extension.
    pub comes_first: bool,
    pub is_due: bool,
    /// When the next row falls due.
    pub next: Option<Timestamp>,
}

/// Owners with pending rows that may be completed.
pub fn owners(oids: ExtensionOids, connection: &Connection) -> Vec<Owner> {
    if super::has_rows(oids, c"session_completion") == Some(false) {
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

/// A role whose code a process will run.
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

/// Suspends an owner until resume_owner() is called.
pub fn suspend(connection: &Connection, owner: &str, reason: &str) {
    SUSPEND.execute(connection, (owner, reason));
}

/// Leased rows of one table.
pub struct SessionLease {
    pub table: Oid,
    /// The addresses, in key order.
    pub addresses: Vec<Address>,
    /// The largest number of attempts among the leased rows.
    pub attempts: i64,
}

/// Leases due rows of one table of an owner, for the duration `lasts`.
pub fn lease(connection: &Connection, owner: Oid, holder: i64, lasts: Duration) -> Option<SessionLease> {
    LEASE.run(connection, (owner, MOST_LEASED, lasts.as_secs_f64(), holder), |rows| {
        let (table, ..) = rows.first()?;
        let mut addresses: Vec<Address> = rows.iter().filter_map(|(_, address, _)| address).collect();
        addresses.sort_unstable();
        let attempts = rows.iter().filter_map(|(.., attempts)| attempts).max().unwrap_or_default();
        Some(SessionLease { table: table?, addresses, attempts })
    })
}

/// After this number of slow visits in a row, a visit tries only one session. Each slow visit halves the batch. A batch has at most
/// 2,000 sessions, so one session is left after 11 halvings.
pub const SMALLEST_AFTER: i64 = 11;

/// The outcome of a visit. [`end_visit`] stores it when it ends the lease.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The row waits for an answer.
    Waits,
    More,
    /// More sessions are left, and the next visit can write a larger batch.
    Faster,
    /// The row is due again after a backoff.
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

/// Ends the lease of rows. `longest` is the longest backoff. `error` is the reason why rows are
/// completed later.
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

/// Makes delayed rows of these tables due, because the cause of their failure may be gone.
pub fn retry(connection: &Connection, tables: impl Iterator<Item = Oid>) {
    RETRY.execute(connection, (array(tables),));
}

/// Ends the leases of a process that has ended. `longest` is the longest backoff.
pub fn release(connection: &Connection, holder: i64, longest: Duration) {
    end_leases(connection, &[holder], false, longest);
}

/// Ends the leases of all processes except the processes in `holders`, because those are running.
pub fn release_others(connection: &Connection, holders: &[i64], longest: Duration) {
    end_leases(connection, holders, true, longest);
}

fn end_leases(connection: &Connection, holders: &[i64], are_kept: bool, longest: Duration) {
    RELEASE.execute(connection, (array(holders), are_kept, longest.as_secs_f64()));
}

/// The numbers of rows.
#[derive(Clone, Copy, Default)]
pub struct Sizes {
    pub pending: i64,
    /// Age of the oldest that is pending.
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
