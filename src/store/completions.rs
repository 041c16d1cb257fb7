//! Rows of sessions that an answer may complete: the inbox that commits append to, and the rows that processes lease.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;
use pgrx::pg_sys;

use super::Home;
use crate::pg::array::{self, Element};
use crate::pg::relation::{self, Prober, Table};
use crate::pg::spi::{Connection, Statement};
use crate::pg::{inet, snapshot, text};
use crate::provider::Providers;

/// Rows that one transaction moves out of the inbox.
pub const MOST_TAKEN_IN: i64 = 10_000;
/// Addresses that are visited together.
pub const MOST_LEASED: i64 = 500;
/// Pages of the inbox up to which commits append to it while no worker moves its rows: 32 MB.
const MOST_PAGES_UNATTENDED: u32 = 4_096;

const ADDRESSES: pg_sys::Oid = pg_sys::INETARRAYOID;

thread_local! {
    static TAKE_IN: Statement = const { Statement::new(
        "completions_take_in", include_str!("../../sql/queries/sessions/completions_take_in.sql"), &[pg_sys::INT8OID]) };
    static RENEW: Statement = const { Statement::new(
        "completions_renew", include_str!("../../sql/queries/sessions/completions_renew.sql"), &[ADDRESSES]) };
    static OWNERS: Statement = const { Statement::new(
        "completions_owners",
        concat!(
            include_str!("../../sql/queries/sessions/completions_pending.sql"),
            include_str!("../../sql/queries/sessions/completions_owners.sql"),
        ),
        &[pg_sys::OIDOID]) };
    static ROLE: Statement = const { Statement::new(
        "owner_role", include_str!("../../sql/queries/sessions/owner_role.sql"), &[pg_sys::OIDOID, pg_sys::OIDOID]) };
    static SUSPEND: Statement = const { Statement::new(
        "owner_suspend", include_str!("../../sql/queries/sessions/owner_suspend.sql"), &[pg_sys::TEXTOID, pg_sys::TEXTOID]) };
    static LEASE: Statement = const { Statement::new(
        "completions_lease",
        concat!(
            include_str!("../../sql/queries/sessions/completions_pending.sql"),
            include_str!("../../sql/queries/sessions/completions_lease.sql"),
        ),
        &[pg_sys::OIDOID, pg_sys::INT8OID, pg_sys::FLOAT8OID, pg_sys::INT8OID]) };
    static SETTLE: Statement = const { Statement::new(
        "completions_settle", include_str!("../../sql/queries/sessions/completions_settle.sql"),
        &[pg_sys::OIDOID, ADDRESSES, pg_sys::TEXTARRAYOID, pg_sys::INT8OID, pg_sys::FLOAT8OID, pg_sys::TEXTOID]) };
    static RETRY: Statement = const { Statement::new(
        "completions_retry", include_str!("../../sql/queries/sessions/completions_retry.sql"), &[pg_sys::INT8ARRAYOID]) };
    static RELEASE: Statement = const { Statement::new(
        "completions_release", include_str!("../../sql/queries/sessions/completions_release.sql"),
        &[pg_sys::INT8ARRAYOID, pg_sys::BOOLOID, pg_sys::FLOAT8OID]) };
    static SIZES: Statement = const { Statement::new(
        "completions_sizes", include_str!("../../sql/queries/sessions/completions_sizes.sql"), &[]) };
}

/// The parts of a snapshot that an enabled provider may fill.
#[derive(Clone, Copy)]
pub struct MayBeFilled {
    /// The network and the country.
    pub network: bool,
    pub ip_type: bool,
}

pub fn may_be_filled() -> MayBeFilled {
    let enabled = Providers::enabled();
    let ip_type = enabled.iter().any(|provider| provider.purpose() == Purpose::IpType);
    MayBeFilled { network: !enabled.is_empty(), ip_type }
}

/// Appends sessions with gaps to the inbox, below the executor, because a session's commit does it. With `is_asked` an
/// answer may be under way, so the row must become visible together with the session. Otherwise one pending row of the
/// address and table is enough. Returns whether it appended a row.
pub fn append(
    home: Home,
    sessions: impl Iterator<Item = (Address, pg_sys::Oid, bool)>,
    is_attended: bool,
) -> bool {
    let inbox = relation::find(home.schema, c"incomplete_session");
    let Some(table) = Table::open(inbox, pg_sys::RowExclusiveLock) else { return false };
    if !is_attended && table.pages() >= MOST_PAGES_UNATTENDED {
        return false;
    }
    let rows = relation::find(home.schema, c"session_completion");
    let key = relation::find(home.schema, c"session_completion_pkey");
    let latest = snapshot::Latest::take();
    // A commit does not wait for it: rows that are appended twice are merged later.
    let is_free = [rows, key].into_iter().all(relation::lock_for_reading_if_free);
    let mut known = if is_free { Prober::open(rows, key, latest.raw()) } else { None };
    let mut is_pending = |address, session_table: pg_sys::Oid| {
        let Some(known) = &mut known else { return false };
        let is_of_table = |row: &relation::Row| {
            row.column(REL).is_some_and(|rel| rel.value() == session_table.to_u32() as usize)
        };
        !known.places(inet::write(address), 1, is_of_table).is_empty()
    };
    let mut any = false;
    let wanted: Vec<(Address, pg_sys::Oid)> = sessions
        .filter(|(address, session_table, is_asked)| *is_asked || !is_pending(*address, *session_table))
        .map(|(address, session_table, _)| (address, session_table))
        .collect();
    table.append(
        [pg_sys::REGCLASSOID, pg_sys::INETOID],
        wanted.into_iter().map(|(address, session_table)| {
            any = true;
            [Some(pg_sys::Datum::from(session_table)), Some(inet::write(address))]
        }),
    );
    any
}

/// Position of `rel` in session_completion; upgrades may only append columns.
const REL: i16 = 2;

/// Moves rows out of the inbox; returns how many.
pub fn take_in(connection: &Connection) -> i64 {
    let most = [Some(pg_sys::Datum::from(MOST_TAKEN_IN))];
    TAKE_IN.with(|statement| connection.run(statement, &most, |rows| rows.bigint(0, 1).unwrap_or_default()))
}

/// Makes the rows of these addresses due, because the inventory has an answer.
pub fn renew(connection: &Connection, addresses: &[Address]) {
    if !addresses.is_empty() {
        RENEW.with(|statement| connection.run(statement, &[Some(array::inets(addresses))], |_| ()));
    }
}

/// An owner of tables with rows that are pending.
pub struct Owner {
    pub role: u32,
    /// A superuser, or the owner of the extension.
    pub comes_first: bool,
    pub is_due: bool,
    /// When the next row falls due, microseconds since 2000.
    pub next: Option<i64>,
}

/// Owners with pending rows that may be completed.
pub fn owners(home: Home, connection: &Connection) -> Vec<Owner> {
    if super::has_rows(home, c"session_completion") == Some(false) {
        return Vec::new();
    }
    OWNERS.with(|statement| {
        connection.run(statement, &[Some(pg_sys::Datum::from(home.owner))], |rows| {
            let owner = |row| {
                Some(Owner {
                    role: u32::try_from(rows.bigint(row, 1)?).ok()?,
                    comes_first: rows.boolean(row, 2)?,
                    is_due: rows.boolean(row, 3)?,
                    next: rows.bigint(row, 4),
                })
            };
            (0..rows.count).filter_map(owner).collect()
        })
    })
}

/// A role whose code is to run.
pub struct Role {
    pub name: String,
    pub may_connect: bool,
    pub is_suspended: bool,
}

pub fn role(home: Home, connection: &Connection, role: u32) -> Option<Role> {
    let arguments =
        [Some(pg_sys::Datum::from(pg_sys::Oid::from(role))), Some(pg_sys::Datum::from(home.owner))];
    ROLE.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            Some(Role {
                name: rows.text(0, 1)?,
                may_connect: rows.boolean(0, 3) == Some(true),
                is_suspended: rows.boolean(0, 4) == Some(true),
            })
        })
    })
}

/// Suspends an owner until resume_owner() is called.
pub fn suspend(connection: &Connection, owner: &str, reason: &str) {
    let arguments = [Some(text::write(owner)), Some(text::write(reason))];
    SUSPEND.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// Leased rows of one table.
pub struct Leased {
    pub table: pg_sys::Oid,
    /// In key order.
    pub addresses: Vec<Address>,
    /// The most that one of them has had.
    pub attempts: i64,
}

/// Leases due rows of one table of an owner.
pub fn lease(connection: &Connection, owner: pg_sys::Oid, holder: i64, seconds: f64) -> Option<Leased> {
    let arguments = [
        Some(pg_sys::Datum::from(owner)),
        Some(pg_sys::Datum::from(MOST_LEASED)),
        pgrx::IntoDatum::into_datum(seconds),
        Some(pg_sys::Datum::from(holder)),
    ];
    LEASE.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let table = u32::try_from(rows.bigint(0, 1)?).ok().map(pg_sys::Oid::from)?;
            let mut addresses: Vec<Address> =
                (0..rows.count).filter_map(|row| rows.address(row, 2)).collect();
            addresses.sort_unstable();
            let attempts = (0..rows.count).filter_map(|row| rows.bigint(row, 3)).max().unwrap_or_default();
            Some(Leased { table, addresses, attempts })
        })
    })
}

/// The end of a lease.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// For an answer.
    Waits,
    More,
    /// After a backoff.
    Later,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Waits => "waits",
            Outcome::More => "more",
            Outcome::Later => "later",
        }
    }
}

/// Ends the lease of rows. `longest`: the longest backoff in seconds. `error`: why rows are to be completed later.
pub fn settle(
    connection: &Connection,
    table: pg_sys::Oid,
    outcomes: &[(Address, Outcome)],
    holder: i64,
    longest: f64,
    error: &str,
) {
    let addresses: Vec<Address> = outcomes.iter().map(|(address, _)| *address).collect();
    let names = outcomes.iter().map(|(_, outcome)| Some(text::write(outcome.name())));
    let arguments = [
        Some(pg_sys::Datum::from(table)),
        Some(array::inets(&addresses)),
        Some(array::write(Element::Text, names)),
        Some(pg_sys::Datum::from(holder)),
        pgrx::IntoDatum::into_datum(longest),
        Some(text::write(error)),
    ];
    SETTLE.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// Makes delayed rows of these tables due, because what kept them from being completed may be gone.
pub fn retry(connection: &Connection, tables: impl Iterator<Item = pg_sys::Oid>) {
    let tables = array::bigints(tables.map(|table| i64::from(table.to_u32())));
    RETRY.with(|statement| connection.run(statement, &[Some(tables)], |_| ()));
}

/// Ends the leases of a process that has ended. `longest`: the longest backoff in seconds.
pub fn release(connection: &Connection, holder: i64, longest: f64) {
    end_leases(connection, &[holder], false, longest);
}

/// Ends the leases of all processes but `holders`, which are running.
pub fn release_others(connection: &Connection, holders: &[i64], longest: f64) {
    end_leases(connection, holders, true, longest);
}

fn end_leases(connection: &Connection, holders: &[i64], are_kept: bool, longest: f64) {
    let arguments = [
        Some(array::bigints(holders)),
        Some(pg_sys::Datum::from(are_kept)),
        pgrx::IntoDatum::into_datum(longest),
    ];
    RELEASE.with(|statement| connection.run(statement, &arguments, |_| ()));
}

/// How many rows there are.
#[derive(Clone, Copy, Default)]
pub struct Sizes {
    pub pending: i64,
    /// Age of the oldest that is pending, microseconds.
    pub oldest_age: Option<i64>,
    pub suspended: i64,
}

pub fn sizes(connection: &Connection) -> Sizes {
    SIZES.with(|statement| {
        connection.run(statement, &[], |rows| Sizes {
            pending: rows.bigint(0, 1).unwrap_or_default(),
            oldest_age: rows.bigint(0, 2),
            suspended: rows.bigint(0, 3).unwrap_or_default(),
        })
    })
}
