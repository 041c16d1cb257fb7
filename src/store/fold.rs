//! Folds pending counts into the inventories: adds the counts to the inventories and deletes their rows.
//!
//! A pass reads the pending counts once, in batches. Each batch is one transaction. It reads counts and creates missing rows
//! with their counts. Then it locks the other addresses and the networks, takes the counts of the locked addresses, and adds
//! these counts. If the process is killed, the batch is rolled back. Almost every batch has counts for most of the networks.
//! Therefore only some batches add the counts of networks. Until then, the counts of networks stay pending.
//!
//! A fold does not wait for other transactions. If another transaction is creating or has locked an address, the counts of this
//! address are left to the next pass. The same applies to a new address whose network another transaction is creating or has
//! locked. After the fold has checked for such transactions, another transaction may still begin to create one of the rows. In this
//! case the INSERT of the fold waits for that row. [`WAITS`] limits this wait.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::time::Duration;

use cowrie_enrich_engine::address::Address;

use super::enrich::SessionCount;
use super::fold_missing::create_missing;
use super::{BOUNDED, ExtensionOids, skip_locked};
use crate::pg::exclusion::{Wait, exclude_others};
use crate::pg::relation;
use crate::pg::role::{acting_as, with_settings};
use crate::pg::row::TupleId;
use crate::pg::scan::ReadableTable;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::subtransaction::contained;
use crate::pg::transaction::{self, Isolation};
use crate::pg::value::{Array, Bigint, Boolean, Inet, Tid, Timestamptz, array};
use crate::pg::{self, Oid, check_for_interrupts, memory, mvcc_snapshot, settings};
use crate::telemetry::{self, Operation, Source, Update, Work};

/// Maximum number of pending counts that one transaction folds. Folding this number takes much less than a second.
pub const BATCH: usize = 20_000;
/// Number of addresses that one statement processes. This number limits the memory of the statement.
const CHUNK: usize = 5_000;

/// Only every N-th batch also updates the counts of networks, where N is this number. The number is small, because the sums of
/// the networks are held in memory. The last batch of a pass always updates the networks.
const BATCHES_FOR_NETWORKS: u32 = 5;

/// The longest time that a procedure's fold waits for the lock of a table, or for a batch of another fold.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const AT_MOST: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"30s")];

/// Columns of `session_delta`.
const ADDRESS: i16 = 1;
const SESSIONS: i16 = 2;

/// The columns are: address, number of sessions, first seen, last seen, number of pending counts.
type Sums = (Inet, Bigint, Timestamptz, Timestamptz, Bigint);

thread_local! {
    static PENDING: Statement<(), (Bigint,)> = const { Statement::new(
        "fold_pending", include_str!("../../sql/queries/fold/fold_pending.sql")) };
    static TAKE: Statement<(Array<Tid>,), Sums> = const { Statement::new(
        "fold_take", include_str!("../../sql/queries/fold/fold_take.sql")) };
    static LOCK_NETWORKS: Statement<(Array<Inet>,), (Bigint, Boolean)> = const { Statement::new(
        "fold_lock_networks", include_str!("../../sql/queries/fold/fold_lock_networks.sql")) };
    static ADDRESSES: Statement<(Array<Inet>, Array<Bigint>, Array<Timestamptz>, Array<Timestamptz>)> = const {
        Statement::new("fold_addresses", include_str!("../../sql/queries/fold/fold_addresses.sql"))
    };
    static NETWORKS: Statement<(Array<Bigint>,), (Bigint, Boolean)> = const { Statement::new(
        "fold_networks", include_str!("../../sql/queries/fold/fold_networks.sql")) };
}

/// The progress of a pass over the pending counts. Under load, new counts always arrive. So counts that are appended after the
/// pass has begun may be left to the next pass.
#[derive(Clone, Copy, Default)]
pub struct FoldPass {
    /// The first page of `session_delta` that the pass has not yet read.
    page: u32,
    /// Number of pages of `session_delta` at the start of the pass. `None` if the pass has not begun.
    pages: Option<u32>,
    /// Number of batches since the last batch that updated the counts of networks.
    without_networks: u32,
    is_over: bool,
    /// Number of rows of `session_delta` that this pass folded.
    pub folded: i64,
    /// Number of rows of `session_delta` that this pass did not fold, because other transactions had locked their addresses.
    pub left: i64,
    /// Number of networks whose pending counts were not folded, because other transactions had locked the networks.
    pub networks_left: i64,
    /// True if the pass found pending counts.
    pub found_some: bool,
    /// True if the pass ended early, because a lock was not released in time.
    gave_up: bool,
}

impl FoldPass {
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Sends a NOTICE to the client if counts were left. The NOTICE contains the number of these counts and the reason.
    pub fn report(&self) {
        if self.gave_up {
            pg::notice(
                "could not add all pending counts to the inventories, because another transaction holds a lock on a table of the extension",
            );
        } else if self.left > 0 || self.networks_left > 0 {
            pg::notice(&format!(
                "skipped pending counts of {} addresses and {} networks, because other transactions have locked the \
                 inventory rows",
                self.left, self.networks_left
            ));
        }
    }
}

/// Folds all pending counts except those that other transactions block. If `may_commit` is true, commits after each batch. The
/// last batch is committed too, because the caller must not keep the locks of the batch.
pub fn run(oids: ExtensionOids, may_commit: bool) -> FoldPass {
    let mut pass = FoldPass::default();
    if may_commit {
        Connection::with_commits(oids.schema, |connection| {
            while !pass.is_over {
                acting_as(oids.owner, || step(oids, connection, &mut pass));
                connection.commit();
                transaction::isolate(Isolation::ReadCommitted);
                check_for_interrupts();
            }
        });
    } else {
        Connection::with(oids.schema, |connection| {
            acting_as(oids.owner, || {
                while !pass.is_over {
                    step(oids, connection, &mut pass);
                }
            });
        });
    }
    pass
}

/// Runs one batch of a pass, unless another process is folding. Returns true if the batch ran.
pub fn batch_if_free(oids: ExtensionOids, connection: &Connection, pass: &mut FoldPass) -> bool {
    let is_free = exclude_others(deltas(oids), Wait::No);
    if is_free {
        fold_batch(oids, connection, pass);
    }
    is_free
}

/// Runs one batch of a pass. If another process runs a batch, first waits for the end of that batch. The pass ends if a lock of
/// a table or of another fold is not free within [`LONGEST_WAIT`]. If the caller's own `lock_timeout` is shorter than
/// [`LONGEST_WAIT`] and the wait exceeds it, raises an ERROR. Returns the number of pending counts that the batch folded.
pub fn step(oids: ExtensionOids, connection: &Connection, pass: &mut FoldPass) -> i64 {
    let folded = pass.folded;
    let mut after = *pass;
    let mut batch = || {
        exclude_others(deltas(oids), Wait::Yes);
        fold_batch(oids, connection, &mut after);
    };
    let ended = match settings::lock_timeout() {
        Some(own) if own < LONGEST_WAIT => {
            batch();
            Ok(())
        }
        _ => contained(|| with_settings(AT_MOST, batch)),
    };
    match ended {
        Ok(()) => *pass = after,
        Err(failure) if failure.was_lock => (pass.is_over, pass.gave_up) = (true, true),
        Err(failure) => failure.raise(),
    }
    pass.folded - folded
}

/// Returns the number of pending counts.
pub fn pending(connection: &Connection) -> i64 {
    PENDING.first(connection, (), |(count,)| count).flatten().unwrap_or_default()
}

fn deltas(oids: ExtensionOids) -> Oid {
    relation::find(oids.schema, c"session_delta")
}

fn fold_batch(oids: ExtensionOids, connection: &Connection, pass: &mut FoldPass) {
    with_settings(BOUNDED, || fold_some(oids, connection, pass));
}

fn fold_some(oids: ExtensionOids, connection: &Connection, pass: &mut FoldPass) {
    let batch = Batch::read(oids, pass);
    let is_networks_turn = pass.is_over || pass.without_networks + 1 >= BATCHES_FOR_NETWORKS;
    pass.without_networks = if is_networks_turn { 0 } else { pass.without_networks + 1 };
    let has_networks = is_networks_turn && super::has_rows(oids.schema, c"network_delta") == Some(true);
    pass.found_some |= !batch.counts.is_empty() || has_networks;
    if batch.counts.is_empty() && !has_networks {
        return;
    }
    let created = create_missing(oids, connection, &batch);
    let others = batch
        .counts
        .keys()
        .filter(|address| !created.done.contains(address) && !created.lost.contains(address));
    let locked = skip_locked::lock_addresses(connection, others);
    let networks = is_networks_turn.then(|| lock_networks(connection, &locked, pass));
    let (sums, taken) = take(connection, &batch, &locked);
    let sums: Vec<(&Address, &SessionCount)> = sums.iter().collect();
    for chunk in sums.chunks(CHUNK) {
        memory::scratch(|| add_to_addresses(connection, chunk));
    }
    if let Some(networks) = networks {
        add_to_networks(connection, networks);
    }
    let is_done = |address: &Address| locked.contains(address) || created.done.contains(address);
    let left =
        batch.counts.iter().filter(|(address, _)| !is_done(address)).map(|(_, count)| count.tuple_ids.len());
    pass.left += left.sum::<usize>() as i64;
    pass.folded += created.taken + taken;
}

/// The pending counts that one transaction folds.
pub struct Batch {
    pub counts: BTreeMap<Address, PendingCount>,
    /// The snapshot with which the counts were read. The batch holds this snapshot until the rows of the counts are deleted.
    /// While the snapshot is held, PostgreSQL does not give the tuple ids of these rows to other rows.
    _seen_with: mvcc_snapshot::Latest,
}

/// The pending counts of one address in a batch.
#[derive(Default)]
pub struct PendingCount {
    pub sessions: i64,
    pub tuple_ids: Vec<TupleId>,
}

impl Batch {
    /// Reads the next pages of a pass, until there are enough counts for one transaction.
    fn read(oids: ExtensionOids, pass: &mut FoldPass) -> Batch {
        let seen_with = mvcc_snapshot::Latest::take();
        let mut counts: BTreeMap<Address, PendingCount> = BTreeMap::new();
        let Some(readable) = ReadableTable::open(deltas(oids)) else {
            pass.is_over = true;
            return Batch { counts, _seen_with: seen_with };
        };
        let end = *pass.pages.get_or_insert_with(|| readable.pages());
        let (mut rows, mut page) = (0, pass.page);
        let mut is_cut = false;
        readable.rows_of_pages(seen_with.view(), pass.page..end, |row| {
            let tuple_id = row.tuple_id();
            if rows >= BATCH && tuple_id.page() != page {
                (is_cut, page) = (true, tuple_id.page());
                return ControlFlow::Break(());
            }
            page = tuple_id.page();
            rows += 1;
            if let Some(address) = row.address(ADDRESS) {
                let count = counts.entry(address).or_default();
                count.sessions += row.bigint(SESSIONS).unwrap_or_default();
                count.tuple_ids.push(tuple_id);
            }
            ControlFlow::Continue(())
        });
        (pass.is_over, pass.page) = (!is_cut, page);
        Batch { counts, _seen_with: seen_with }
    }
}

/// Locks two kinds of networks in order: the networks of these addresses, and the networks with pending counts. Skips networks
/// that another transaction has locked. Returns the locked networks.
fn lock_networks(connection: &Connection, addresses: &BTreeSet<Address>, pass: &mut FoldPass) -> Vec<i64> {
    LOCK_NETWORKS.run(connection, (array(addresses),), |rows| {
        let locked: Vec<i64> = rows
            .iter()
            .filter(|(_, is_locked)| *is_locked == Some(true))
            .filter_map(|(network, _)| network)
            .collect();
        pass.networks_left = (rows.count() - locked.len()) as i64;
        locked
    })
}

/// Deletes the rows of the counts of the locked addresses. Returns the sum for each address, and the number of deleted rows.
pub fn take(
    connection: &Connection,
    batch: &Batch,
    locked: &BTreeSet<Address>,
) -> (BTreeMap<Address, SessionCount>, i64) {
    let counts = batch.counts.iter().filter(|(address, _)| locked.contains(address));
    let tuple_ids = counts.flat_map(|(_, count)| &count.tuple_ids);
    TAKE.run(connection, (array(tuple_ids),), |rows| {
        let (mut sums, mut taken) = (BTreeMap::new(), 0);
        for (address, sessions, first_seen, last_seen, counts) in rows.iter() {
            taken += counts.unwrap_or_default();
            let session_count =
                SessionCount { sessions: sessions.unwrap_or_default(), first_seen, last_seen };
            sums.extend(address.map(|address| (address, session_count)));
        }
        (sums, taken)
    })
}

fn add_to_networks(connection: &Connection, locked: Vec<i64>) {
    let work = Work::begin();
    let (networks, moved): (usize, Vec<i64>) = NETWORKS.run(connection, (array(locked),), |rows| {
        let moved = rows.iter().filter(|(_, moved)| *moved == Some(true)).filter_map(|(asn, _)| asn);
        (rows.count(), moved.collect())
    });
    telemetry::networks_updated(Source::Sessions, Update::Timestamps, &moved);
    work.end(Operation::Update, networks, moved.len());
}

/// Adds sums to the counts of addresses. The rows of these addresses are locked.
fn add_to_addresses(connection: &Connection, sums: &[(&Address, &SessionCount)]) {
    let session_counts = || sums.iter().map(|(_, session_count)| session_count);
    let arguments = (
        array(sums.iter().map(|(address, _)| *address)),
        array(session_counts().map(|session_count| session_count.sessions)),
        array(session_counts().map(|session_count| session_count.first_seen)),
        array(session_counts().map(|session_count| session_count.last_seen)),
    );
    ADDRESSES.execute(connection, arguments);
}
