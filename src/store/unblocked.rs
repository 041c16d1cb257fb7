//! Rows that can be written without waiting for another transaction: not locked by one, and not being created by one.

use std::collections::BTreeSet;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::Home;
use crate::pg::array;
use crate::pg::relation::{InsertionProber, Key, KeyType, Prober};
use crate::pg::spi::{Connection, Statement};
use crate::pg::{memory, snapshot};

/// Addresses per statement.
const CHUNK: usize = 5_000;

thread_local! {
    static LOCK_ADDRESSES: Statement = const { Statement::new(
        "addresses_lock_free", include_str!("../../sql/queries/inventory/addresses_lock_free.sql"), &[pg_sys::INETARRAYOID]) };
    static LOCK_NETWORKS: Statement = const { Statement::new(
        "networks_lock_free", include_str!("../../sql/queries/inventory/networks_lock_free.sql"), &[pg_sys::INT8ARRAYOID]) };
    static SHARE_NETWORKS: Statement = const { Statement::new(
        "networks_share_free", include_str!("../../sql/queries/inventory/networks_share_free.sql"), &[pg_sys::INT8ARRAYOID]) };
}

/// Returns those of some addresses without a visible row that another transaction is creating.
pub fn addresses_being_created<'a>(
    home: Home,
    missing: impl Iterator<Item = &'a Address>,
) -> BTreeSet<Address> {
    let prober = InsertionProber::open(home.inventory, home.inventory_key, KeyType::Inet);
    let Some(mut others) = prober else { return BTreeSet::new() };
    missing.filter(|address| others.is_being_inserted(Key::Address(**address))).copied().collect()
}

/// Returns those of some networks that another transaction is creating.
pub fn networks_being_created<'a>(home: Home, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    let (table, index) = home.networks();
    let latest = snapshot::Latest::take();
    let there = Prober::open_by(table, index, KeyType::Bigint, latest.raw());
    let others = InsertionProber::open(table, index, KeyType::Bigint);
    let Some((mut there, mut others)) = there.zip(others) else { return BTreeSet::new() };
    let mut is_being_created =
        |asn: i64| !there.holds(Key::Number(asn)) && others.is_being_inserted(Key::Number(asn));
    networks.copied().filter(|asn| is_being_created(*asn)).collect()
}

/// Returns those of some networks that exist at this moment, even if the snapshot of the transaction does not see them.
pub fn existing_networks<'a>(home: Home, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    let (table, index) = home.networks();
    let latest = snapshot::Latest::take();
    let Some(mut there) = Prober::open_by(table, index, KeyType::Bigint, latest.raw()) else {
        return BTreeSet::new();
    };
    networks.copied().filter(|asn| there.holds(Key::Number(*asn))).collect()
}

/// Locks addresses, given in key order, unless another transaction has locked them. Returns those that are locked now.
pub fn lock_addresses<'a>(
    connection: &Connection,
    addresses: impl Iterator<Item = &'a Address>,
) -> BTreeSet<Address> {
    let addresses: Vec<&Address> = addresses.collect();
    let mut locked = BTreeSet::new();
    for chunk in addresses.chunks(CHUNK) {
        memory::scratch(|| {
            let chunk = array::inets(chunk.iter().copied());
            LOCK_ADDRESSES.with(|statement| {
                connection.run(statement, &[Some(chunk)], |rows| {
                    locked.extend((0..rows.count).filter_map(|row| rows.address(row, 1)));
                });
            });
        });
    }
    locked
}

/// Locks existing networks, given in order, unless another transaction has locked them. Returns those that are locked
/// now.
pub fn lock_networks<'a>(connection: &Connection, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    LOCK_NETWORKS.with(|statement| numbered(connection, statement, networks))
}

/// Shares the keys of existing networks, given in order, as a foreign key does. Returns those for which that took no
/// waiting.
pub fn share_networks<'a>(connection: &Connection, networks: impl Iterator<Item = &'a i64>) -> BTreeSet<i64> {
    SHARE_NETWORKS.with(|statement| numbered(connection, statement, networks))
}

fn numbered<'a>(
    connection: &Connection,
    statement: &Statement,
    networks: impl Iterator<Item = &'a i64>,
) -> BTreeSet<i64> {
    let numbers: Vec<i64> = networks.copied().collect();
    if numbers.is_empty() {
        return BTreeSet::new();
    }
    let numbers = array::bigints(numbers);
    connection.run(statement, &[Some(numbers)], |rows| {
        (0..rows.count).filter_map(|row| rows.bigint(row, 1)).collect()
    })
}
