//! Erases addresses from sessions, and from all tables of the extension.
//!
//! Most sessions are erased in separate transactions. The commits of these transactions append negative counts, as for any deleted
//! session. The last transaction erases the address itself, although new sessions of the address may arrive at any time. It locks
//! the row of the address, so folds skip the pending counts of this address. Then it takes a snapshot. It erases the sessions and
//! pending counts that the snapshot sees, and the row of the address. If a session is stored later, the snapshot does not see its
//! pending count, so this count is kept. Therefore the counts stay exact.
//!
//! Sessions are found by a scan of the table, not by a query. They are erased with the rights of the table's owner.

use std::collections::HashSet;
use std::ffi::CStr;
use std::ops::ControlFlow;

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::mention::Wanted;
use cowrie_enrich_engine::session_time;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::erase_tables::SessionTable;
use super::snapshot_fill::{self, Erasure};
use super::{ExtensionOids, addresses, complete_sessions};
use crate::error;
use crate::pg::column::{Column, Generated};
use crate::pg::mvcc_snapshot::Latest;
use crate::pg::role::with_settings;
use crate::pg::row::{Row, TupleId};
use crate::pg::scan::{self, AddressValue, ReadableTable};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::sql_function::Interval;
use crate::pg::subtransaction::{Failure, contained};
use crate::pg::user_table::{Lock, TableStatement, UserTable};
use crate::pg::value::{Array, Bigint, Boolean, Float, Inet, Integer, Tid, Timestamptz, array};
use crate::pg::{catalog, clock, relation};

/// Number of sessions after which a transaction stops erasing.
const SESSIONS: usize = 5_000;

/// Position of the column with the address in `session_delta`.
const DELTA_ADDRESS: i16 = 1;

/// Maximum number of addresses that one transaction erases.
pub const ADDRESSES: usize = 1_000;

thread_local! {
    static JOBS: Statement<(Array<Inet>,)> = const { Statement::new(
        "erase_jobs", include_str!("../../sql/queries/erase/erase_jobs.sql")) };
    static CREATE: Statement<(Array<Inet>,)> = const { Statement::new(
        "erase_create", include_str!("../../sql/queries/erase/erase_create.sql")) };
    static LOCK: Statement<(Array<Inet>,), (Bigint,)> = const { Statement::new(
        "erase_lock", include_str!("../../sql/queries/erase/erase_lock.sql")) };
    static DELTAS: Statement<(Array<Tid>,)> = const { Statement::new(
        "erase_deltas", include_str!("../../sql/queries/erase/erase_deltas.sql")) };
    static WITHOUT_SESSIONS: Statement<(Array<Inet>,), (Inet,)> = const { Statement::new(
        "erase_without_sessions", include_str!("../../sql/queries/erase/erase_without_sessions.sql")) };
    static LAST_SEEN_BEFORE: Statement<(Array<Inet>, Timestamptz), (Inet,)> = const { Statement::new(
        "erase_last_seen_before", include_str!("../../sql/queries/erase/erase_last_seen_before.sql")) };
    static REST: Statement<(Array<Inet>,)> = const { Statement::new(
        "erase_rest", include_str!("../../sql/queries/erase/erase_rest.sql")) };
    static MOMENT_BEFORE: Statement<(Integer, Integer, Float), (Timestamptz,)> = const { Statement::new(
        "moment_before", include_str!("../../sql/queries/erase/moment_before.sql")) };
    static EXPIRED: Statement<(Timestamptz, Inet, Bigint, Boolean), (Inet,)> = const { Statement::new(
        "expired_addresses", include_str!("../../sql/queries/erase/expired_addresses.sql")) };
}

const ANONYMISE: TableStatement<'static, (Array<Tid>,), (Tid,)> =
    TableStatement::new("sessions_anonymise", include_str!("../../sql/queries/erase/sessions_anonymise.sql"));

const DELETE: TableStatement<'static, (Array<Tid>,), (Tid,)> =
    TableStatement::new("sessions_delete", include_str!("../../sql/queries/erase/sessions_delete.sql"));

/// What an erasure does with a session of an erased address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The session is kept, but its address and its snapshot are removed.
    Anonymise,
    Delete,
}

/// How an erasure treats sessions that another transaction has locked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LockedRows {
    Wait,
    Skip,
}

/// Selects the sessions that are erased.
#[derive(Clone, Copy)]
pub enum Which {
    Of(Address),
    Before(Timestamp),
}

/// The result of erasing the sessions on some pages of a table.
pub struct Erased {
    /// Number of sessions on these pages that must be erased.
    pub found: i64,
    /// Number of sessions that were erased.
    pub written: i64,
    /// Number of sessions on these pages that are kept, because nothing shows how old they are.
    pub undated: i64,
    /// The page at which the next call continues. `None` if the whole table was read.
    pub next: Option<u32>,
}

/// The sessions on some pages of a table.
struct SessionsRead {
    /// The sessions that are erased.
    wanted: Vec<TupleId>,
    /// Sessions without any time that may have to be erased, with their addresses.
    undated: Vec<(TupleId, Option<Address>)>,
    /// The page at which the next batch begins.
    next: Option<u32>,
}

/// The decision whether a session is erased.
enum Decision {
    Erased,
    Kept,
    /// The session has no time. The address is `None` if it is not valid.
    Undated(Option<Address>),
}

impl SessionTable {
    pub fn name(&self) -> String {
        catalog::table_name(self.counted.table)
    }

    /// Erases sessions, beginning at the page `page`. After the batch has enough sessions, stops at the end of the current
    /// page.
    pub fn erase(
        &self,
        connection: &Connection,
        page: u32,
        which: Which,
        method: Method,
        locked: LockedRows,
    ) -> Erased {
        let nothing = Erased { found: 0, written: 0, undated: 0, next: None };
        let Some(table) = UserTable::lock(self.counted.table, Lock::Write) else { return nothing };
        // While this snapshot is held, PostgreSQL does not give the tuple id of a session that was read to another row.
        let latest = Latest::take();
        let Some(read) = self.read(&latest, page, which, method) else { return nothing };
        let SessionsRead { wanted: mut tuple_ids, undated, next } = read;
        let mut kept = undated.len() as i64;
        if let Which::Before(moment) = which {
            let old = last_seen_before(connection, undated, moment);
            kept -= old.len() as i64;
            tuple_ids.extend(old);
        }
        let written = if tuple_ids.is_empty() {
            0
        } else {
            self.write(connection, &table, &tuple_ids, method, None, locked)
        };
        Erased { found: tuple_ids.len() as i64, written, undated: kept, next }
    }

    /// Erases all sessions of an address that a snapshot sees. The trigger appends no negative counts for these sessions.
    /// Returns the number of erased sessions. Raises an error if another transaction has locked one of these sessions. A wait
    /// could cause a deadlock, because this transaction already holds other locks.
    fn erase_uncounted(
        &self,
        connection: &Connection,
        latest: &Latest,
        address: Address,
        method: Method,
    ) -> i64 {
        let Some(table) = UserTable::lock(self.counted.table, Lock::Write) else { return 0 };
        let (mut page, mut total) = (Some(0), 0);
        while let Some(from) = page {
            let Some(read) = self.read(latest, from, Which::Of(address), method) else { break };
            let SessionsRead { wanted: tuple_ids, next, .. } = read;
            page = next;
            if !tuple_ids.is_empty() {
                let written =
                    self.write(connection, &table, &tuple_ids, method, Some(address), LockedRows::Skip);
                if written != tuple_ids.len() as i64 {
                    error::could_not_erase(&self.name());
                }
                total += written;
            }
        }
        total
    }

    /// Returns the sessions that are erased, from a page on. A session with a text that is not an address, such as `203.0.113.7:22`,
    /// belongs to each address that the text mentions.
    fn read(&self, latest: &Latest, from: u32, which: Which, method: Method) -> Option<SessionsRead> {
        let readable = ReadableTable::open(self.counted.table)?;
        let ip = readable.address_column(&self.counted.ip_column)?;
        let time = self.counted.time_column.as_deref().and_then(|name| readable.column(name));
        let enriched_at = readable.column(c"enrichment_at").filter(|column| column.is::<Timestamptz>());
        let now = clock::now();
        let has_address = |row: &Row, wanted: Address| match scan::value(row, ip) {
            None => false,
            Some(value) => match (address_of(&value), value) {
                (None, AddressValue::Text(text)) => {
                    Wanted::new([wanted]).is_mentioned_in(&String::from_utf8_lossy(text))
                }
                (address, _) => address == Some(wanted),
            },
        };
        let is_empty = |row: &Row| match scan::value(row, ip) {
            None => true,
            Some(AddressValue::Text(text)) => text.trim_ascii().is_empty(),
            Some(AddressValue::Inet(_)) => false,
        };
        let erased_if = |is_erased| if is_erased { Decision::Erased } else { Decision::Kept };
        let decide = |row: &Row| {
            match which {
                Which::Of(wanted) => erased_if(has_address(row, wanted)),
                // There is nothing to remove.
                Which::Before(_) if method == Method::Anonymise && is_empty(row) => Decision::Kept,
                Which::Before(moment) => {
                    let own = time.and_then(|column| scan::time(row, column));
                    let stored = enriched_at.and_then(|column| row.timestamptz(column.number));
                    // A time that cannot be true says nothing about the age of the session, unless no other time is known and
                    // the time is in the past.
                    let believed = own.and_then(|time| session_time::believed(time, stored, now));
                    let stored = stored.filter(|time| (session_time::EARLIEST..=now).contains(time));
                    match believed.or(stored).or(own.filter(|time| *time < moment)) {
                        Some(time) => erased_if(time < moment),
                        None => Decision::Undated(scan::value(row, ip).and_then(|value| address_of(&value))),
                    }
                }
            }
        };
        let mut read = SessionsRead { wanted: Vec::new(), undated: Vec::new(), next: None };
        let mut page = from;
        readable.rows_of_pages(latest.view(), from..readable.pages(), |row| {
            let tuple_id = row.tuple_id();
            if tuple_id.page() != page && read.wanted.len() + read.undated.len() >= SESSIONS {
                read.next = Some(tuple_id.page());
                return ControlFlow::Break(());
            }
            page = tuple_id.page();
            match decide(row) {
                Decision::Erased => read.wanted.push(tuple_id),
                Decision::Undated(address) => read.undated.push((tuple_id, address)),
                Decision::Kept => {}
            }
            ControlFlow::Continue(())
        });
        Some(read)
    }

    fn write(
        &self,
        connection: &Connection,
        table: &UserTable,
        tuple_ids: &[TupleId],
        method: Method,
        uncounted: Option<Address>,
        locked: LockedRows,
    ) -> i64 {
        let name = self.name();
        let ip = self.require_writable(connection, table);
        let none = match catalog::accepts_null(table.oid(), ip.number) {
            Some(false) if ip.is_text_like() => "''",
            Some(false) if method == Method::Anonymise => error::no_value_for_no_address(&name),
            _ => "NULL",
        };
        let quoted = catalog::quoted_name(&self.counted.ip_column);
        let wait: &[u8] = if locked == LockedRows::Skip { b"SKIP LOCKED" } else { b"" };
        let parts: [(&'static str, &[u8]); 3] =
            [("@ip@", &quoted), ("@none@", none.as_bytes()), ("@wait@", wait)];
        let statement = match method {
            Method::Anonymise => ANONYMISE.with_parts(&parts),
            Method::Delete => DELETE.with_parts(&parts),
        };
        let _registration = snapshot_fill::register_erasure(table.oid(), Erasure { uncounted });
        with_settings(SETTINGS, || {
            table.as_owner(|| {
                connection.run_on(table, &statement, (array(tuple_ids),), |rows| rows.count() as i64)
            })
        })
    }
}

impl SessionTable {
    /// Raises an error if the owner's rights must not be used now to change sessions. Returns the column with the addresses.
    pub(super) fn require_writable(&self, connection: &Connection, table: &UserTable) -> Column {
        let name = self.name();
        if table.owner() != self.owner {
            error::not_owner_of_sessions(&name);
        }
        let Some((ip, Generated::Never)) = table.column(&self.counted.ip_column) else {
            error::not_intact(&name)
        };
        if let Some(reason) = complete_sessions::blocked_reason(connection, table.oid()) {
            error::erasure_blocked(&name, &reason);
        }
        ip
    }
}

/// With these settings, PostgreSQL fetches the rows by tuple id and does not scan the whole table.
pub(super) const SETTINGS: &[(&CStr, &CStr)] = &[(c"enable_seqscan", c"off"), (c"jit", c"off")];

pub(super) fn address(row: &Row, column: Column) -> Option<Address> {
    address_of(&scan::value(row, column)?)
}

fn address_of(value: &AddressValue<'_>) -> Option<Address> {
    match value {
        AddressValue::Inet(inet) => Some(inet.address),
        AddressValue::Text(text) => address::parse_bytes(text).ok().flatten(),
    }
}

/// Returns those sessions without a time whose address was last seen before a time.
fn last_seen_before(
    connection: &Connection,
    undated: Vec<(TupleId, Option<Address>)>,
    moment: Timestamp,
) -> Vec<TupleId> {
    let addresses: HashSet<Address> = undated.iter().filter_map(|(_, address)| *address).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let old: HashSet<Address> =
        LAST_SEEN_BEFORE.run(connection, (array(addresses.iter().copied()), moment), |rows| {
            rows.iter().filter_map(|(address,)| address).collect()
        });
    let is_old = |address: Option<Address>| address.is_some_and(|address| old.contains(&address));
    undated.into_iter().filter(|(_, address)| is_old(*address)).map(|(tuple_id, _)| tuple_id).collect()
}

/// Locks the rows that an erasure of addresses changes. The order of locks is: jobs, addresses. If an address has no
/// row, creates the row.
pub fn lock(connection: &Connection, addresses: &[Address]) {
    JOBS.execute(connection, (array(addresses),));
    CREATE.execute(connection, (array(addresses),));
    LOCK.execute(connection, (array(addresses),));
}

/// Erases those locked addresses that have no sessions. Returns the number of erased addresses.
pub fn erase_unused(oids: ExtensionOids, connection: &Connection, locked: &[Address]) -> i64 {
    let unused: Vec<Address> = WITHOUT_SESSIONS
        .run(connection, (array(locked),), |rows| rows.iter().filter_map(|(address,)| address).collect());
    erase_rest(oids, connection, &unused)
}

/// Erases an address and its remaining sessions. Returns the number of these sessions. Fails if another transaction has locked
/// one of these sessions.
pub fn erase_address(
    oids: ExtensionOids,
    connection: &Connection,
    tables: &[SessionTable],
    address: Address,
    method: Method,
) -> Result<i64, Failure> {
    contained(|| {
        lock(connection, &[address]);
        let latest = Latest::take();
        let of_table = |table: &SessionTable| table.erase_uncounted(connection, &latest, address, method);
        let sessions = tables.iter().map(of_table).sum();
        let pending = pending_counts(oids, &latest, address);
        DELTAS.execute(connection, (array(&pending),));
        erase_rest(oids, connection, &[address]);
        sessions
    })
}

fn erase_rest(oids: ExtensionOids, connection: &Connection, erased: &[Address]) -> i64 {
    if erased.is_empty() {
        return 0;
    }
    REST.execute(connection, (array(erased),));
    addresses::delete(oids, erased)
}

/// Returns the tuple ids of those pending counts of an address that a snapshot sees.
fn pending_counts(oids: ExtensionOids, latest: &Latest, address: Address) -> Vec<TupleId> {
    let deltas = ReadableTable::open(relation::find(oids.schema, c"session_delta"));
    let mut found = Vec::new();
    if let Some(deltas) = deltas {
        deltas.rows(latest.view(), |row| {
            if row.address(DELTA_ADDRESS) == Some(address) {
                found.push(row.tuple_id());
            }
            ControlFlow::Continue(())
        });
    }
    found
}

/// Returns the current time minus `age`. Returns `None` if `age` is not positive, or is longer than a thousand years.
pub fn moment_before(connection: &Connection, age: Interval) -> Option<Timestamp> {
    const YEARS: i32 = 1_000;
    let Interval { months, days, microseconds } = age;
    let is_short = months.unsigned_abs() <= 12 * YEARS as u32
        && days.unsigned_abs() <= 366 * YEARS as u32
        && microseconds.unsigned_abs() <= 366 * YEARS as u64 * 86_400_000_000;
    let seconds = microseconds as f64 / 1e6;
    is_short.then(|| MOMENT_BEFORE.first(connection, (months, days, seconds), |(moment,)| moment))?.flatten()
}

/// Returns addresses that had no session since the time `moment`. Returns them in key order, and begins after the address `after`.
/// If `of_table` is true, the caller acts for one session table. In this case, returns only addresses that are in `ip_inventory`
/// and have no row in `blocklist_exception`.
pub fn expired(
    connection: &Connection,
    moment: Timestamp,
    after: Option<Address>,
    of_table: bool,
) -> Vec<Address> {
    EXPIRED.run(connection, (moment, after, ADDRESSES as i64, of_table), |rows| {
        rows.iter().filter_map(|(address,)| address).collect()
    })
}
