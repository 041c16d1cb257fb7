//! Folding: pending counts into the inventories.
//!
//! A batch is one transaction: take deltas, create what is missing, lock the networks, add to the addresses, add to
//! the networks. Killed anywhere, the batch never happened. Of several batches in a row most leave the networks alone: what
//! addresses mean for them is pending until one does not, and each batch is about most of the networks.

use std::cell::Cell;
use std::collections::BTreeMap;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::enrich::{self, Plan, Tally};
use super::networks::{self, Networks};
use super::{BOUNDED, Home};
use crate::offline::{self, Patience};
use crate::pg::array::{self, Element};
use crate::pg::exclusion::{Wait, exclude_others};
use crate::pg::relation;
use crate::pg::role::{acting_as, with_settings};
use crate::pg::spi::{Connection, Statement};
use crate::pg::transaction::{self, Isolation};
use crate::pg::{check_for_interrupts, inet, memory, snapshot};
use crate::provider::Providers;
use crate::telemetry::{self, Operation, Source, Update, Work};

/// Delta rows per transaction: well below a second of work.
pub const BATCH: i64 = 20_000;
/// Addresses per statement: what it takes in memory is bounded, and statements in key order lock in key order.
const CHUNK: usize = 5_000;

/// Batches in a row of which one adds to the networks, where no smaller one ends them: what it adds at once is in memory.
const BATCHES_FOR_NETWORKS: u32 = 5;

thread_local! {
    static WITHOUT_NETWORKS: Cell<u32> = const { Cell::new(0) };
}

thread_local! {
    static PENDING: Statement = const { Statement::new(
        "fold_pending", include_str!("../../sql/queries/fold_pending.sql"), &[]) };
    static TAKE: Statement = const { Statement::new(
        "fold_take", include_str!("../../sql/queries/fold_take.sql"), &[pg_sys::INT8OID]) };
    static LOCK_NETWORKS: Statement = const { Statement::new(
        "fold_lock_networks", include_str!("../../sql/queries/fold_lock_networks.sql"),
        &[pg_sys::INETARRAYOID, pg_sys::INT8ARRAYOID]) };
    static ADDRESSES: Statement = const { Statement::new(
        "fold_addresses", include_str!("../../sql/queries/fold_addresses.sql"),
        &[pg_sys::INETARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::TIMESTAMPTZARRAYOID, pg_sys::TIMESTAMPTZARRAYOID]) };
    static NETWORKS: Statement = const { Statement::new(
        "fold_networks", include_str!("../../sql/queries/fold_networks.sql"), &[pg_sys::INT8ARRAYOID]) };
}

/// Folds all pending counts. `may_commit`: commit after each batch, the last one too: what it locked must not be locked
/// still when the caller goes on.
pub fn run(home: Home, may_commit: bool) {
    if may_commit {
        Connection::with_commits(home.schema, |connection| {
            let mut is_over = false;
            while !is_over {
                is_over = !acting_as(home.owner, || batch(home, connection));
                connection.commit();
                transaction::isolate(Isolation::ReadCommitted);
                check_for_interrupts();
            }
        });
    } else {
        Connection::with(home.schema, |connection| {
            acting_as(home.owner, || while batch(home, connection) {});
        });
    }
}

/// One batch unless somebody else is folding; answers whether there may be more for the caller.
pub fn batch_if_free(home: Home, connection: &Connection) -> bool {
    alone(home, Wait::No) && fold_batch(home, connection) >= BATCH
}

/// One batch; answers whether there may be more.
fn batch(home: Home, connection: &Connection) -> bool {
    step(home, connection) >= BATCH
}

/// One batch; answers how many sums of sessions it added. After fewer than [`BATCH`] nothing is left.
pub fn step(home: Home, connection: &Connection) -> i64 {
    if alone(home, Wait::Yes) { fold_batch(home, connection) } else { 0 }
}

/// Sums of sessions that wait.
pub fn pending(connection: &Connection) -> i64 {
    PENDING.with(|statement| connection.run(statement, &[], |rows| rows.bigint(0, 1))).unwrap_or_default()
}

/// One fold at a time per database.
fn alone(home: Home, wait: Wait) -> bool {
    exclude_others(relation::find(home.schema, c"session_delta"), wait)
}

/// A smaller batch than [`BATCH`] was all there was. What arrived since is for the next call: under load there is always
/// more.
fn fold_batch(home: Home, connection: &Connection) -> i64 {
    with_settings(BOUNDED, || fold_some(home, connection))
}

fn fold_some(home: Home, connection: &Connection) -> i64 {
    let (deltas, taken) = take(connection);
    let addresses: Vec<Address> = deltas.keys().copied().collect();
    offline::with(Patience::None, |databases| {
        // Addresses that a trigger could not create (an error, another node) are created here, not yet counted.
        let latest = snapshot::Latest::take();
        let uncounted = addresses.iter().map(|address| (*address, Tally::default()));
        let mut plan = enrich::plan(home, uncounted, databases, latest.raw(), false, Providers::NONE);
        drop(latest);
        // What is fresh is no hit: whoever brought the address asked about it, and that was counted.
        plan.due.clear();
        plan.missing.retain(|address, _| deltas.get(address).is_some_and(|tally| tally.sessions > 0));
        add(home, connection, databases, &plan, &deltas, is_networks_turn(taken));
    });
    taken
}

/// Whether a batch that took so many sums is to add to the networks too.
fn is_networks_turn(taken: i64) -> bool {
    let without = WITHOUT_NETWORKS.get() + 1;
    let is_turn = taken < BATCH || without >= BATCHES_FOR_NETWORKS;
    WITHOUT_NETWORKS.set(if is_turn { 0 } else { without });
    is_turn
}

/// Sums by address, and the number of delta rows that they stand for.
fn take(connection: &Connection) -> (BTreeMap<Address, Tally>, i64) {
    TAKE.with(|statement| {
        connection.run(statement, &[Some(pg_sys::Datum::from(BATCH))], |rows| {
            let taken = (0..rows.count).filter_map(|row| rows.bigint(row, 5)).sum();
            let tallies = (0..rows.count)
                .filter_map(|row| {
                    let tally = Tally {
                        sessions: rows.bigint(row, 2).unwrap_or_default(),
                        first_seen: rows.bigint(row, 3),
                        last_seen: rows.bigint(row, 4),
                    };
                    rows.address(row, 1).map(|address| (address, tally))
                })
                .collect();
            (tallies, taken)
        })
    })
}

fn add(
    home: Home,
    connection: &Connection,
    databases: &offline::Databases,
    plan: &Plan,
    deltas: &BTreeMap<Address, Tally>,
    with_networks: bool,
) {
    let given = enrich::networks_of(plan, databases);
    networks::create(connection, &given, "maxmind");
    let locked = with_networks.then(|| lock_networks(connection, deltas, &given));
    enrich::create_addresses(home, connection, databases, &plan.missing, Providers::enabled());
    let deltas: Vec<(&Address, &Tally)> = deltas.iter().collect();
    for chunk in deltas.chunks(CHUNK) {
        memory::scratch(|| add_to_addresses(connection, chunk));
    }
    if let Some(locked) = locked {
        add_to_networks(connection, locked);
    }
}

/// In order, before any address is locked. Answers which.
fn lock_networks(connection: &Connection, deltas: &BTreeMap<Address, Tally>, given: &Networks) -> Vec<i64> {
    let addresses = array::write(Element::Inet, deltas.keys().map(|address| Some(inet::write(*address))));
    let new_networks = array::write(Element::Bigint, given.keys().map(|asn| Some(pg_sys::Datum::from(*asn))));
    LOCK_NETWORKS.with(|statement| {
        connection.run(statement, &[Some(addresses), Some(new_networks)], |rows| {
            (0..rows.count).filter_map(|row| rows.bigint(row, 1)).collect()
        })
    })
}

fn add_to_networks(connection: &Connection, locked: Vec<i64>) {
    let locked = array::write(Element::Bigint, locked.into_iter().map(|asn| Some(pg_sys::Datum::from(asn))));
    let work = Work::begin();
    let (networks, moved) = NETWORKS.with(|statement| {
        connection.run(statement, &[Some(locked)], |rows| {
            let count = |column| rows.bigint(0, column).and_then(|count| usize::try_from(count).ok());
            (count(1).unwrap_or_default(), count(2).unwrap_or_default())
        })
    });
    telemetry::networks_updated(Source::Sessions, Update::Timestamps, moved);
    work.end(Operation::Update, networks, moved);
}

/// In key order.
fn add_to_addresses(connection: &Connection, deltas: &[(&Address, &Tally)]) {
    let column = |field: fn(&Tally) -> Option<i64>, element| {
        Some(array::write(element, deltas.iter().map(|(_, tally)| field(tally).map(pg_sys::Datum::from))))
    };
    let arguments = [
        Some(array::write(Element::Inet, deltas.iter().map(|(address, _)| Some(inet::write(**address))))),
        column(|tally| Some(tally.sessions), Element::Bigint),
        column(|tally| tally.first_seen, Element::Timestamptz),
        column(|tally| tally.last_seen, Element::Timestamptz),
    ];
    enrich::lock_addresses(connection, arguments[0]);
    ADDRESSES.with(|statement| connection.run(statement, &arguments, |_| ()));
}
