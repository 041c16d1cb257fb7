//! Finds the rows that can be written without waiting. These are rows that no other transaction has locked or is creating.

use std::collections::BTreeSet;
use std::thread::LocalKey;

use cowrie_enrich_engine::address::Address;

use super::ExtensionOids;
use crate::pg::prober::{InsertionProber, Key, KeyType, Prober};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Inet, array};
use crate::pg::{memory, mvcc_snapshot};

/// Number of addresses that one statement processes.
const CHUNK: usize = 5_000;

/// A statement that locks networks in the order of their ASNs, and returns the locked networks.
type NetworkLock = Statement<(Array<Bigint>,), (Bigint,)>;

thread_local! {
    static LOCK_ADDRESSES: Statement<(Array<Inet>,), (Inet,)> = const { Statement::new(
        "addresses_lock_free", include_str!("../../sql/queries/inventory/addresses_lock_free.sql")) };
    static LOCK_NETWORKS: NetworkLock = const { Statement::new(
        "networks_lock_free", include_str!("../../sql/queries/inventory/networks_lock_free.sql")) };
    static SHARE_NETWORKS: NetworkLock = const { Statement::new(
        "networks_share_free", include_str!("../../sql/queries/inventory/networks_share_free.sql")) };
}

/// Returns those of the `missing` addresses that another transaction is creating. The caller has found that none of these
/// addresses has a visible row.
pub fn addresses_being_created<'a>(
    oids: ExtensionOids,
    missing: impl Iterator<Item = &'a Address>,
) -> BTreeSet<Address> {
    let prober = InsertionProber::open(oids.inventory, oids.inventory_key, KeyType::Inet);
    let Some(mut others) = prober else { return BTreeSet::new() };
    missing.filter(|address| others.is_being_inserted(Key::Address(**address))).copied().collect()
}

/// Returns those of these networks that another transaction is creating.
pub fn networks_being_created<'a>(
    oids: ExtensionOids,
    networks: impl Iterator<Item = &'a i64>,
) -> BTreeSet<i64> {
    let (table, index) = oids.networks();
    let latest = mvcc_snapshot::Latest::take();
    let there = Prober::open_by(table, index, KeyType::Bigint, latest.view());
    let others = InsertionProber::open(table, index, KeyType::Bigint);
    let Some((mut there, mut others)) = there.zip(others) else { return BTreeSet::new() };
    let mut is_being_created =
        |asn: i64| !there.holds(Key::Number(asn)) && others.is_being_inserted(Key::Number(asn));
    networks.copied().filter(|asn| is_being_created(*asn)).collect()
}

/// Returns those of these networks that exist now. A network is also returned if the snapshot of the transaction does not see
/// its row.
pub fn existing_networks<'a>(oids: ExtensionOids, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    let (table, index) = oids.networks();
    let latest = mvcc_snapshot::Latest::take();
    let Some(mut there) = Prober::open_by(table, index, KeyType::Bigint, latest.view()) else {
        return BTreeSet::new();
    };
    networks.copied().filter(|asn| there.holds(Key::Number(*asn))).collect()
}

/// Locks the rows of addresses. The addresses are in key order. Skips addresses that another transaction has locked. Returns
/// the locked addresses.
pub fn lock_addresses<'a>(
    connection: &Connection,
    addresses: impl Iterator<Item = &'a Address>,
) -> BTreeSet<Address> {
    let addresses: Vec<&Address> = addresses.collect();
    let mut locked = BTreeSet::new();
    for chunk in addresses.chunks(CHUNK) {
        memory::scratch(|| {
            LOCK_ADDRESSES.run(connection, (array(chunk.iter().copied()),), |rows| {
                locked.extend(rows.iter().filter_map(|(address,)| address));
            });
        });
    }
    locked
}

/// Locks the rows of existing networks. The caller passes the networks in ascending order. Skips networks that another
/// transaction has locked. Returns the locked networks.
pub fn lock_networks<'a>(connection: &Connection, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    lock(connection, &LOCK_NETWORKS, networks)
}

/// Locks the keys of existing networks with FOR KEY SHARE, as the check of a foreign key does. The caller passes the networks
/// in ascending order. Skips networks that cannot be locked at once. Returns the locked networks.
pub fn share_networks<'a>(connection: &Connection, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    lock(connection, &SHARE_NETWORKS, networks)
}

fn lock<'a>(
    connection: &Connection,
    statement: &'static LocalKey<NetworkLock>,
    networks: impl Iterator<Item = &'a i64>,
) -> BTreeSet<i64> {
    let mut networks = networks.peekable();
    if networks.peek().is_none() {
        return BTreeSet::new();
    }
    statement
        .run(connection, (array(networks),), |rows| rows.iter().filter_map(|(network,)| network).collect())
}
