//! Applies changes of the list `known_networks` to existing networks.
//!
//! If a row of `known_networks` is edited, a trigger appends the networks of this edit to `network_reclassification`. A step
//! reads some of these pending networks. It writes the type and the flags from the list into the rows of these networks, and
//! then deletes the pending rows.
//!
//! Another transaction may still write a network with values from the list before the edit. The reason is that the other
//! transaction has an older snapshot, or has not committed yet. So a pending row stays until three conditions are true: all
//! snapshots see the edit, no transaction is creating the network, and the network could be locked. Until then, each pass
//! reclassifies the network again. A step does not wait for other transactions.

use std::collections::BTreeSet;

use super::{BOUNDED, ExtensionOids, skip_locked};
use crate::pg::relation::{self, Table};
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Text, Xid, array};
use crate::telemetry::spans::NetworkSpans;
use crate::telemetry::{self, Operation, Source, Update, Work};

/// Maximum number of networks that one transaction processes.
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
    /// Number of pending networks that the step read. Networks without a row are included.
    pub pending: usize,
    /// The networks whose type or flags changed.
    pub changed: Vec<i64>,
    /// Number of networks that another transaction is creating or has locked.
    pub blocked: usize,
    /// The network after which the next step of this pass begins. `None` if the pass has ended.
    pub last: Option<i64>,
}

/// Returns the number of pending networks.
pub fn pending(connection: &Connection) -> i64 {
    PENDING_COUNT.first(connection, (), |(count,)| count).flatten().unwrap_or_default()
}

/// Reclassifies the next pending networks in the current transaction. Begins after the ASN `after`. A pass begins with 0.
pub fn step(oids: ExtensionOids, connection: &Connection, after: i64) -> Batch {
    with_settings(BOUNDED, || reclassify(oids, connection, after))
}

fn reclassify(oids: ExtensionOids, connection: &Connection, after: i64) -> Batch {
    let pending = read_pending(connection, after);
    let last = pending.last().copied().filter(|_| pending.len() as i64 >= BATCH);
    if pending.is_empty() {
        return Batch { pending: 0, changed: Vec::new(), blocked: 0, last };
    }
    // The order of these checks matters. Another transaction may use an older version of the list. In that case, one of the
    // checks finds this transaction, or the transaction keeps the horizon at an older value.
    let table = relation::find(oids.schema, c"network_reclassification");
    let horizon = Table::open_for_reading(table).map(|table| table.oldest_visible_to_all());
    let mut blocked = skip_locked::networks_being_created(oids, pending.iter());
    let locked = skip_locked::lock_networks(connection, pending.iter());
    blocked.extend(skip_locked::existing_networks(oids, pending.iter()).difference(&locked));
    // The pending rows are deleted before the list is read. If an edit commits after this deletion, its trigger appends a new
    // pending row.
    if let Some(horizon) = horizon {
        DELETE_APPLIED.execute(connection, (array(pending.difference(&blocked)), horizon));
    }
    Batch { pending: pending.len(), changed: write(connection, &locked), blocked: blocked.len(), last }
}

fn read_pending(connection: &Connection, after: i64) -> BTreeSet<i64> {
    PENDING.run(connection, (after, BATCH), |rows| rows.iter().filter_map(|(network,)| network).collect())
}

/// Writes the type and the flags of networks whose rows are locked. Returns the changed networks.
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
