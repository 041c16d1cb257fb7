//! Applies edits of `known_networks` to existing networks.
//!
//! A trigger appends the networks of an edit to `network_reclassification`. A step reads some of these
//! pending networks, gives them the type and the flags in the list, and deletes the pending rows.
//!
//! Another transaction may still write a network by the list before the edit, because its snapshot is older
//! or because it has not committed yet. So a pending row stays until three conditions hold: all snapshots see
//! the edit, no transaction is creating the network, and the network could be locked. Until then each pass
//! reclassifies the network again. A step waits for no other transaction.

use std::collections::BTreeSet;

use super::{BOUNDED, ExtensionOids, skip_locked};
use crate::pg::relation::{self, Table};
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Text, Xid, array};
use crate::telemetry::spans::NetworkSpans;
use crate::telemetry::{self, Operation, Source, Update, Work};

/// Networks per transaction.
const BATCH: i64 = 1_000;

thread_local! {
    static PENDING: Statement<(Bigint, Bigint), (Bigint,)> = const { Statement::new(
        "networks_pending", include_str!("../../sql/queries/inventory/networks_pending.sql")) };
    static PENDING_COUNT: Statement<(), (Bigint,)> = const { Statement::new(
        "networks_pending_count", include_str!("../../sql/queries/inventory/networks_pending_count.sql")) };
    static DELETE_APPLIED: Statement<(Array<Bigint>, Xid)> = const { Statement::new(
        "networks_delete_applied", include_str!("../../sql/queries/inventory/networks_delete_applied.sql")) };
    static RECLASSIFY: Statement<(Array<Bigint>,), (Bigint, Text, Text, Text)> = const { Statement::new(
        "networks_reclassify", include_str!("../../sql/queries/inventory/networks_reclassify.sql")) };
}

/// The result of one step.
pub struct Batch {
    /// Networks that were pending, including those without a row.
    pub pending: usize,
    /// Networks whose type or flags changed.
    pub changed: Vec<i64>,
    /// Networks that another transaction is creating or has locked.
    pub blocked: usize,
    /// The network after which the next step of this pass continues; `None` at the end of the pass.
    pub last: Option<i64>,
}

/// Returns how many networks are pending.
pub fn pending(connection: &Connection) -> i64 {
    PENDING_COUNT.first(connection, (), |(count,)| count).flatten().unwrap_or_default()
}

/// Reclassifies the next pending networks after ASN `after`, in the current transaction. A pass begins after
/// 0.
pub fn step(oids: ExtensionOids, connection: &Connection, after: i64) -> Batch {
    with_settings(BOUNDED, || reclassify(oids, connection, after))
}

fn reclassify(oids: ExtensionOids, connection: &Connection, after: i64) -> Batch {
    let pending = read_pending(connection, after);
    let last = pending.last().copied().filter(|_| pending.len() as i64 >= BATCH);
    if pending.is_empty() {
        return Batch { pending: 0, changed: Vec::new(), blocked: 0, last };
    }
    // The order of these checks matters. A transaction may use an older list. Then one of the checks finds this transaction, or the
    // transaction holds back the horizon.
    let table = relation::find(oids.schema, c"network_reclassification");
    let horizon = Table::open_for_reading(table).map(|table| table.oldest_visible_to_all());
    let mut blocked = skip_locked::networks_being_created(oids, pending.iter());
    let locked = skip_locked::lock_networks(connection, pending.iter());
    blocked.extend(skip_locked::existing_networks(oids, pending.iter()).difference(&locked));
    // The pending rows are deleted before the list is read. So an edit that commits later appends a new pending row.
    if let Some(horizon) = horizon {
        DELETE_APPLIED.execute(connection, (array(pending.difference(&blocked)), horizon));
    }
    Batch { pending: pending.len(), changed: write(connection, &locked), blocked: blocked.len(), last }
}

fn read_pending(connection: &Connection, after: i64) -> BTreeSet<i64> {
    PENDING.run(connection, (after, BATCH), |rows| rows.iter().filter_map(|(network,)| network).collect())
}

/// Writes the type and the flags of locked networks. Returns the networks that changed.
fn write(connection: &Connection, locked: &BTreeSet<i64>) -> Vec<i64> {
    if locked.is_empty() {
        return Vec::new();
    }
    let (work, spans) = (Work::begin(), NetworkSpans::begin(locked.len()));
    let changed: Vec<i64> = RECLASSIFY.run(connection, (array(locked),), |rows| {
        spans.record(Operation::Update, rows.iter(), |_| Source::Manual.name());
        rows.iter().filter_map(|(network, ..)| network).collect()
    });
    telemetry::networks_updated(Source::Manual, Update::Metadata, &changed);
    work.end(Operation::Update, locked.len(), changed.len());
    changed
}
