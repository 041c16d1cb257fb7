//! The sessions that a transaction recorded for each address.

use std::cell::Cell;
use std::collections::HashMap;

use cowrie_enrich_engine::address::Address;
use foldhash::fast::RandomState;

use crate::pg::Oid;
use crate::provider::Providers;
use crate::session::attribution::Inventory;
use crate::store::completions::Gaps;
use crate::store::enrich::SessionCount;

thread_local! {
    /// Number of subtransactions that were rolled back in this backend.
    static ROLLBACKS: Cell<u64> = const { Cell::new(0) };
}

/// Returns the number of subtransactions that were rolled back in this backend. A caller compares two results: after a rollback, a
/// row that the transaction had read may no longer exist.
pub fn rollbacks() -> u64 {
    ROLLBACKS.get()
}

pub fn count_rollback() {
    ROLLBACKS.set(ROLLBACKS.get() + 1);
}

/// The first table in which sessions of an address have null snapshot columns, and which columns are null.
pub type IncompleteTable = Option<(Oid, Gaps)>;

/// Additional tables in which sessions of an address have null snapshot columns, and which columns are null.
pub type OtherIncomplete = HashMap<(Address, Oid), Gaps>;

/// How the extension stores the sessions of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// The transaction creates the inventory rows of new addresses.
    Table,
    /// The table is a shard of a Citus table. The transaction reads and creates no inventory rows, and begins no subtransaction
    /// before the commit. The fold creates the rows later; docs/architecture/citus.md has the reasons.
    Shard,
}

/// The sessions of one address, and what the transaction knows about the address.
#[derive(Clone, Copy)]
pub struct PendingAddress {
    pub count: SessionCount,
    /// True if the transaction added at least one session. In this case, the address must be in the inventory, even if the sum of
    /// added and removed sessions is zero.
    pub was_added: bool,
    /// True if the commit must create the row of the address in the inventory, if there is none.
    pub needs_row: bool,
    pub inventory: Inventory,
    /// The providers whose answers may complete the stored snapshots of these sessions.
    pub awaits: Providers,
    /// True if `awaits` contained a provider at the time before the row of the address was created and its lookups were queued.
    pub is_asked: bool,
    pub incomplete: IncompleteTable,
    /// The result of [`rollbacks`] at the time when `inventory` was set.
    pub as_of: u64,
}

pub type PendingAddresses = HashMap<Address, PendingAddress, RandomState>;

impl PendingAddress {
    /// Merges a later record of the same address into this one.
    pub fn merge(&mut self, address: Address, later: PendingAddress, other_incomplete: &mut OtherIncomplete) {
        self.is_asked |= later.is_asked;
        match (self.incomplete, later.incomplete) {
            (Some((table, gaps)), Some((other, more))) if table == other => {
                self.incomplete = Some((table, gaps.or(more)));
            }
            (Some(_), Some((other, more))) => {
                let known = other_incomplete.entry((address, other)).or_default();
                *known = known.or(more);
            }
            (known, later) => self.incomplete = known.or(later),
        }
        self.count.add(later.count);
        self.was_added |= later.was_added;
        self.needs_row |= later.needs_row;
        self.awaits = self.awaits.with(later.awaits);
        if later.inventory == Inventory::Present {
            (self.inventory, self.as_of) = (later.inventory, later.as_of);
        }
    }

    pub fn is_present(&self) -> bool {
        self.inventory == Inventory::Present && self.as_of == rollbacks()
    }
}

/// Merges the later records into the known records. The smaller map is always merged into the larger one. Otherwise, deeply nested
/// savepoints would copy all records from level to level.
pub fn merge(
    known: &mut PendingAddresses,
    mut later: PendingAddresses,
    other_incomplete: &mut OtherIncomplete,
) {
    if later.len() <= known.len() {
        for (address, pending) in later {
            known
                .entry(address)
                .and_modify(|known| known.merge(address, pending, other_incomplete))
                .or_insert(pending);
        }
        return;
    }
    for (address, mut pending) in known.drain() {
        if let Some(later) = later.get(&address) {
            pending.merge(address, *later, other_incomplete);
        }
        later.insert(address, pending);
    }
    *known = later;
}
