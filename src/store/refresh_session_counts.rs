//! Recounts all stored sessions and corrects the stored counts.
//!
//! Clients can store sessions during a recount. A REPEATABLE READ transaction counts the sessions of each address in one
//! snapshot. It compares this number with the sum of the stored count and the pending counts. If the numbers differ, it appends
//! the difference to the pending counts. Other transactions that insert or delete sessions meanwhile append their own counts. A
//! fold only moves pending counts to stored counts. So the difference stays correct during a long recount.
//!
//! Two recounts from the same snapshot would make the same correction twice. Therefore only one recount runs at a time.
//! TRUNCATE does not respect snapshots. Therefore the tables are locked for reading before the snapshot is taken.
//!
//! If the address column of an attached table is missing, the table's sessions cannot be read. These sessions may have any
//! address. So no count is reduced until the table is attached again.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::ops::ControlFlow;
use std::time::Duration;

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::session_time;
use foldhash::fast::RandomState;

use super::completions::{self, AppendResult, IncompleteSessionRow};
use super::enrich::SessionCount;
use super::{BOUNDED, ExtensionOids, recount_requests};
use crate::pg::exclusion::{Wait, exclude_others};
use crate::pg::mvcc_snapshot::{self, TransactionSnapshot, View};
use crate::pg::relation::{self, Table};
use crate::pg::role::with_settings;
use crate::pg::scan::{self, AddressValue, ReadableTable};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::transaction::{self, Isolation};
use crate::pg::value::{self, Bigint, Boolean, Bytes, Inet, Text, Timestamptz};
use crate::pg::{Oid, clock};
use crate::worker::registry;

thread_local! {
    static TABLES: Statement<(), (value::Oid, Bytes, Bytes, Text, Text, Boolean)> = const { Statement::new(
        "recount_tables", include_str!("../../sql/queries/procedures/recount_tables.sql")) };
    static CREATE: Statement<()> = const { Statement::new(
        "recount_create", include_str!("../../sql/queries/procedures/recount_create.sql")) };
    static CREATED: Statement<(), (value::Oid,)> = const { Statement::new(
        "recount_created", include_str!("../../sql/queries/procedures/recount_created.sql")) };
    static ADDRESSES: Statement<(Boolean,), (Bigint, Bigint)> = const { Statement::new(
        "recount_addresses", include_str!("../../sql/queries/procedures/recount_addresses.sql")) };
    static NETWORKS: Statement<(), (Bigint,)> = const { Statement::new(
        "recount_networks", include_str!("../../sql/queries/procedures/recount_networks.sql")) };
}

/// Maximum number of addresses whose sums are held in memory (about 8 MB). If this number is reached, the sums are moved to a
/// table.
const SUMMED: usize = 50_000;

/// The longest time that a recount waits for the lock of `session_delta` before it begins.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A session table without partitions or a partition, and its columns.
#[derive(Clone, PartialEq, Eq)]
pub struct CountedTable {
    pub(super) table: Oid,
    pub(super) ip_column: CString,
    pub(super) time_column: Option<CString>,
    /// The name of the attached table. Messages contain this name.
    attached: String,
    pub(super) not_intact_reason: Option<String>,
    /// False if some sessions of the attached table have addresses that cannot be read.
    is_readable: bool,
}

/// The result of a recount.
#[derive(Default)]
pub struct RecountResult {
    pub sessions: i64,
    pub addresses: i64,
    pub corrected: i64,
    /// Number of sessions with an invalid address.
    pub malformed: i64,
    /// Attached tables that have changed since they were attached. The key is the table's name.
    pub not_intact: BTreeMap<String, DamagedTable>,
}

impl RecountResult {
    /// Returns true if some sessions could not be read. Then the recount lowers no counts.
    fn is_partial(&self) -> bool {
        self.not_intact.values().any(|table| table.is_left_out)
    }
}

/// An attached table that has changed since it was attached.
pub struct DamagedTable {
    pub reason: String,
    /// True if the sessions of this table could not be read.
    pub is_left_out: bool,
}

/// Returns the tables whose sessions are counted.
pub fn tables(connection: &Connection) -> Vec<CountedTable> {
    let column = |name: Option<Vec<u8>>| CString::new(name?).ok();
    TABLES.run(connection, (), |rows| {
        let counted =
            rows.iter().filter_map(|(table, ip, time, attached, not_intact_reason, is_readable)| {
                Some(CountedTable {
                    table: table?,
                    ip_column: column(ip)?,
                    time_column: column(time),
                    attached: attached?,
                    not_intact_reason,
                    is_readable: is_readable?,
                })
            });
        counted.collect()
    })
}

/// Returns the estimated number of sessions in these tables. Leaves out a table if `was_read` returns true for it, because the
/// caller has just read the sessions of that table.
pub fn sessions_estimated(tables: &[CountedTable], was_read: impl Fn(Oid) -> bool) -> i64 {
    let others = tables.iter().filter(|counted| !was_read(counted.table));
    others.filter_map(|counted| Some(ReadableTable::open(counted.table)?.rows_estimated())).sum()
}

/// Counts the sessions of all tables and appends the corrections. Before this call, the transaction must not have taken a
/// snapshot. After this call, the caller ends the transaction. `locked` contains the tables that the caller found. If other
/// tables exist now, returns the current tables as the error.
pub fn addresses(
    oids: ExtensionOids,
    connection: &Connection,
    locked: &[CountedTable],
) -> Result<RecountResult, Vec<CountedTable>> {
    transaction::isolate(Isolation::RepeatableRead);
    alone(oids);
    // `session_delta` is locked before the tables are read, because reading the tables takes long. The corrections are later
    // appended to `session_delta`.
    relation::lock_for_appending(relation::find(oids.schema, c"session_delta"), LONGEST_WAIT);
    locked.iter().for_each(|counted| relation::lock_for_reading(counted.table));
    // Takes the snapshot of the transaction, and also makes it the active snapshot. A background process has no portal that
    // would provide an active snapshot.
    mvcc_snapshot::with_fresh(|| corrections(oids, connection, locked))
}

fn corrections(
    oids: ExtensionOids,
    connection: &Connection,
    locked: &[CountedTable],
) -> Result<RecountResult, Vec<CountedTable>> {
    let moment = TransactionSnapshot::take();
    let tables = tables(connection);
    if tables.iter().any(|counted| !locked.contains(counted)) {
        return Err(tables);
    }
    CREATE.execute(connection, ());
    let sums = CREATED.first(connection, (), |(table,)| table).flatten();
    let mut sums = AddressSums::new(Table::open_if_there_for_appending(sums.unwrap_or(Oid::INVALID)));
    let mut found = RecountResult::default();
    let mut gaps = recount_requests::have_gaps(connection).then(|| Gaps::new(oids));
    for counted in &tables {
        count(counted, moment.view(), &mut found, &mut sums, gaps.as_mut());
    }
    sums.put_away();
    drop(sums);
    if let Some(gaps) = &mut gaps {
        gaps.append();
    }
    with_settings(BOUNDED, || {
        ADDRESSES.first(connection, (found.is_partial(),), |(addresses, corrected)| {
            found.addresses = addresses.unwrap_or_default();
            found.corrected = corrected.unwrap_or_default();
        });
    });
    // If the sessions of a table cannot be read, the recount requests are kept. Such a recount lowers no counts, so some counts
    // may still be too high.
    if !found.is_partial() {
        recount_requests::done(connection);
    }
    Ok(found)
}

/// Appends the corrections of the counts of networks. Returns the number of corrected networks.
pub fn networks(oids: ExtensionOids, connection: &Connection) -> i64 {
    alone(oids);
    with_settings(BOUNDED, || {
        NETWORKS.first(connection, (), |(corrected,)| corrected).flatten().unwrap_or_default()
    })
}

/// Prevents other recounts until the corrections are committed.
fn alone(oids: ExtensionOids) {
    exclude_others(oids.inventory, Wait::Yes);
}

fn count(
    counted: &CountedTable,
    moment: View<'_>,
    found: &mut RecountResult,
    sums: &mut AddressSums,
    mut gaps: Option<&mut Gaps>,
) {
    let mut is_not_intact = |is_left_out: bool| {
        let reason = counted.not_intact_reason.as_deref().unwrap_or("the address column cannot be read");
        let new = || DamagedTable { reason: reason.to_owned(), is_left_out: false };
        let entry = found.not_intact.entry(counted.attached.clone()).or_insert_with(new);
        entry.is_left_out |= is_left_out;
    };
    if !counted.is_readable {
        return is_not_intact(true);
    }
    let Some(table) = ReadableTable::open(counted.table) else { return };
    let ip = table.address_column(&counted.ip_column);
    if ip.is_none() || counted.not_intact_reason.is_some() {
        is_not_intact(ip.is_none());
    }
    let Some(ip) = ip else { return };
    let time = counted.time_column.as_deref().and_then(|name| table.column(name));
    let enriched_at = table.column(c"enrichment_at").filter(|column| column.is::<Timestamptz>());
    let now = clock::now();
    let fillable = fillable(&table);
    table.rows(moment, |row| {
        let address = match scan::value(row, ip) {
            Some(AddressValue::Inet(inet)) => Some(inet.address),
            Some(AddressValue::Text(text)) => address::parse_bytes(text).unwrap_or_else(|_| {
                found.malformed += 1;
                None
            }),
            None => None,
        };
        if let Some(address) = address {
            let enriched_at = enriched_at.and_then(|column| row.timestamptz(column.number));
            let time = time.and_then(|column| scan::time(row, column));
            let time = time.and_then(|time| session_time::believed(time, enriched_at, now));
            found.sessions += 1;
            if let Some(gaps) = &mut gaps {
                let [network, country, ip_type] =
                    fillable.map(|column| column.is_some_and(|column| row.is_null(column)));
                gaps.note(address, counted.table, completions::Gaps { network, country, ip_type });
            }
            sums.add(address, SessionCount { sessions: 1, first_seen: time, last_seen: time });
        }
        ControlFlow::Continue(())
    });
}

/// Returns the positions of the columns for network, country and type. Leaves out a column if no enabled provider can fill it.
fn fillable(table: &ReadableTable) -> [Option<i16>; 3] {
    let may_be_filled = completions::may_be_filled();
    [
        (c"snapshot_asn", may_be_filled.network),
        (c"snapshot_country", may_be_filled.country),
        (c"snapshot_ip_type", may_be_filled.ip_type),
    ]
    .map(|(name, is_wanted)| if is_wanted { Some(table.column(name)?.number) } else { None })
}

/// Sessions with gaps that an enabled provider may fill, grouped by address and table. Rows about these sessions are appended
/// to `incomplete_session` again.
struct Gaps {
    oids: ExtensionOids,
    noted: HashMap<(Address, Oid), completions::Gaps, RandomState>,
}

impl Gaps {
    fn new(oids: ExtensionOids) -> Gaps {
        Gaps { oids, noted: HashMap::default() }
    }

    fn note(&mut self, address: Address, table: Oid, gaps: completions::Gaps) {
        if !gaps.any() || bogon::reason(address).is_some() {
            return;
        }
        let noted = self.noted.entry((address, table)).or_default();
        *noted = noted.or(gaps);
        if self.noted.len() >= SUMMED {
            self.append();
        }
    }

    fn append(&mut self) {
        let sessions = self.noted.drain().map(|((address, table), gaps)| IncompleteSessionRow {
            address,
            table,
            gaps,
            is_asked: true,
        });
        if completions::append(self.oids, sessions, true) == AppendResult::Rows {
            registry::work_was_queued();
        }
    }
}

/// The sums of the sessions of each address. Some sums are in memory, and the other sums are in a table.
struct AddressSums {
    table: Option<Table>,
    in_memory: HashMap<Address, SessionCount, RandomState>,
}

impl AddressSums {
    fn new(table: Option<Table>) -> AddressSums {
        AddressSums { table, in_memory: HashMap::default() }
    }

    fn add(&mut self, address: Address, session_count: SessionCount) {
        if self.in_memory.len() >= SUMMED && !self.in_memory.contains_key(&address) {
            self.put_away();
        }
        self.in_memory.entry(address).or_default().add(session_count);
    }

    fn put_away(&mut self) {
        let Some(table) = &self.table else { return };
        let sums = self.in_memory.drain();
        table.append::<(Inet, Bigint, Timestamptz, Timestamptz)>(sums.map(|(address, session_count)| {
            (address, session_count.sessions, session_count.first_seen, session_count.last_seen)
        }));
    }
}
