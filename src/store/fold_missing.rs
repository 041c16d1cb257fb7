//! Creates the rows of addresses that have pending counts but no row, for [`fold`](super::fold).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;

use cowrie_enrich_engine::address::Address;

use super::enrich::{self, LockPolicy, Plan, SessionCount};
use super::fold::{Batch, take};
use super::{ExtensionOids, networks, session_delta, skip_locked};
use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::mvcc_snapshot;
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::subtransaction::contained;
use crate::pg::value::{Array, Inet, array};
use crate::provider::Providers;

/// The longest time that a fold waits for a row that another transaction has just begun to create.
const WAITS: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"300ms")];
/// Number of attempts of a batch to create the missing rows.
const ATTEMPTS: u32 = 3;

thread_local! {
    static DROP: Statement<(Array<Inet>,), (Inet,)> = const { Statement::new(
        "fold_drop", include_str!("../../sql/queries/fold/fold_drop.sql")) };
}

/// The addresses of a batch that had no row.
#[derive(Default)]
pub struct Created {
    /// Addresses that the batch created with their counts, and addresses whose counts were dropped.
    pub done: BTreeSet<Address>,
    /// Addresses that another transaction created first. Their counts are pending again.
    pub lost: BTreeSet<Address>,
    /// Number of rows of `session_delta` whose counts are in the rows of the created addresses.
    pub taken: i64,
}

/// Creates rows for addresses that have pending counts but no row. The new rows contain these counts. A row is missing because the
/// transaction of the sessions had too many addresses, because of an error, or because the sessions were replicated from another
/// node.
///
/// Also looks up, in the mmdb files, the addresses whose rows were created without networks. Leaves addresses that another
/// transaction blocks.
///
/// If the counts of an address without a row sum up to 0 or less, the address gets no row and its counts are dropped, because no
/// session of the address is left to count.
pub fn create_missing(oids: ExtensionOids, connection: &Connection, batch: &Batch) -> Created {
    mmdb::with(LoadPolicy::None, |databases| {
        let mut dropped = None;
        let mut created = Created::default();
        for _ in 0..ATTEMPTS {
            let mut plan = missing_and_due(oids, batch, databases);
            dropped.get_or_insert_with(|| drop_uncounted(connection, batch, &mut plan.missing));
            plan.missing
                .retain(|address, _| batch.counts.get(address).is_some_and(|count| count.sessions > 0));
            if plan.missing.is_empty() && plan.due.is_empty() {
                break;
            }
            let outcome =
                contained(|| with_settings(WAITS, || create(oids, connection, databases, batch, plan)));
            match outcome {
                Ok(addresses) => {
                    created = addresses;
                    break;
                }
                // After the check, another transaction has begun to create one of these rows. The next attempt finds that row.
                Err(failure) if failure.was_lock => {}
                Err(failure) => failure.raise(),
            }
        }
        created.done.extend(dropped.unwrap_or_default());
        created
    })
}

/// Returns a plan with two kinds of addresses. The first kind has no row, and no other transaction is creating the row. The
/// second kind has a row that comes from older mmdb files than the loaded files.
fn missing_and_due(oids: ExtensionOids, batch: &Batch, databases: &Databases) -> Plan {
    let latest = mvcc_snapshot::Latest::take();
    let uncounted = batch.counts.keys().map(|address| (*address, SessionCount::default()));
    let mut plan = enrich::plan(oids, uncounted, databases, latest.view(), false, Providers::NONE);
    drop(latest);
    let blocked = skip_locked::addresses_being_created(oids, plan.missing.keys());
    plan.missing.retain(|address, _| !blocked.contains(address));
    plan
}

/// If an address has no row in `ip_inventory`, and the sum of its pending counts is 0 or negative, deletes these counts. Removes
/// such an address from `missing`, and returns it.
fn drop_uncounted(
    connection: &Connection,
    batch: &Batch,
    missing: &mut BTreeMap<Address, SessionCount>,
) -> BTreeSet<Address> {
    let came_to_nothing = |address: &&Address| batch.counts.get(*address).is_some_and(|c| c.sessions <= 0);
    let candidates: Vec<Address> = missing.keys().filter(came_to_nothing).copied().collect();
    if candidates.is_empty() {
        return BTreeSet::new();
    }
    let dropped: BTreeSet<Address> = DROP.run(connection, (array(&candidates),), |rows| {
        rows.iter().filter_map(|(address,)| address).collect()
    });
    missing.retain(|address, _| !dropped.contains(address));
    dropped
}

/// Creates and renews addresses and their networks. Leaves out an address if another transaction is creating its network or has
/// locked this network. A new row contains the counts of its address. So the fold does not have to update this row.
fn create(
    oids: ExtensionOids,
    connection: &Connection,
    databases: &Databases,
    batch: &Batch,
    mut plan: Plan,
) -> Created {
    let mut named = enrich::networks_of(&plan, databases);
    let mut blocked = skip_locked::networks_being_created(oids, named.keys());
    named.retain(|asn, _| !blocked.contains(asn));
    networks::create(connection, &named, "maxmind");
    let shared = skip_locked::share_networks(connection, named.keys());
    blocked.extend(named.keys().filter(|asn| !shared.contains(asn)));
    if !blocked.is_empty() {
        let is_free = |address: Address| {
            let one = Plan { due: vec![address], ..Plan::default() };
            !enrich::networks_of(&one, databases).keys().any(|asn| blocked.contains(asn))
        };
        plan.missing.retain(|address, _| is_free(*address));
        plan.due.retain(|address| is_free(*address));
    }
    let (sums, taken) = take(connection, batch, &plan.missing.into_keys().collect());
    let created = enrich::create_addresses(oids, connection, databases, &sums, Providers::enabled());
    let done = BTreeSet::from_iter(created);
    let lost: BTreeMap<Address, SessionCount> =
        sums.into_iter().filter(|(address, _)| !done.contains(address)).collect();
    session_delta::append(oids, lost.iter().map(|(address, count)| (*address, *count)));
    enrich::update_addresses(oids, connection, databases, &plan.due, LockPolicy::Skip, Providers::NONE);
    let lost_counts = lost.keys().filter_map(|address| batch.counts.get(address));
    let taken = taken - lost_counts.map(|count| count.tuple_ids.len() as i64).sum::<i64>();
    Created { done, lost: lost.into_keys().collect(), taken }
}
