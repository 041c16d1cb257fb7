//! Work that is postponed from the INSERT of a session to the end of the transaction.
//!
//! The triggers only record how often each address was seen. These records are kept in the memory of the backend. Just before
//! commit, missing inventory rows are created in key order, networks first. Then the counts are appended. So a transaction locks
//! shared rows in one fixed order and as late as possible. Existing rows are not changed at all.
//!
//! The records follow the subtransactions. Each subtransaction level that saw a session has one map. When the subtransaction is
//! released, its map is merged into the map of the parent. When it is rolled back, its map is dropped.

use std::cell::RefCell;
use std::collections::BTreeSet;

use cowrie_enrich_engine::address::Address;

use crate::pg::subtransaction::contained;
use crate::pg::timeouts;
use crate::pg::transaction::{Level, current_level};
use crate::provider::Providers;
use crate::session::attribution::Inventory;
use crate::session::commit::{self, CreationTime, LockWaitBudget};
use crate::session::pending_address::{
    IncompleteTable, OtherIncomplete, PendingAddress, PendingAddresses, Storage, count_rollback, merge,
    rollbacks,
};
use crate::store::ExtensionOids;
use crate::store::enrich::SessionCount;
use crate::store::session_delta;
use crate::telemetry::{self, Event, TriggerTimer};

#[derive(Default)]
struct Pending {
    oids: Option<ExtensionOids>,
    /// Innermost last; levels ascend.
    levels: Vec<(Level, PendingAddresses)>,
    /// True if `levels` may contain an address without an inventory row.
    may_be_missing: bool,
    /// True if all addresses must stay in memory. This is the case if the rows of the addresses must be created before PostgreSQL
    /// checks a foreign key.
    referenced: bool,
    /// For some addresses, further tables in which sessions have null snapshot columns. A rollback to a savepoint does not remove
    /// these entries, because an unnecessary completion of sessions costs little.
    other_incomplete: OtherIncomplete,
}

/// Maximum number of addresses in memory per subtransaction level. If a level has more addresses, its counts are appended at once,
/// and folding creates the rows. So a bulk load of millions of sessions needs limited memory. It also limits the duration of the
/// commit, which cannot be cancelled: creating this number of rows takes a few tenths of a second. Counts of sessions in shards stay
/// in memory, because the append needs a subtransaction.
const MOST_PENDING: usize = 10_000;

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::default();
}

/// Records sessions of an address. `count` is negative if sessions were removed. Also records the state of the inventory row of the
/// address, the table in which the sessions have null snapshot columns, and how the sessions of this table
/// are stored.
pub fn remember(
    oids: ExtensionOids,
    address: Address,
    count: SessionCount,
    (inventory, awaits): (Inventory, Providers),
    incomplete: IncompleteTable,
    storage: Storage,
) {
    let is_asked = !awaits.is_empty();
    let was_added = count.sessions > 0;
    let needs_row = was_added && storage == Storage::Table;
    let as_of = rollbacks();
    let new = PendingAddress { count, was_added, needs_row, inventory, awaits, is_asked, incomplete, as_of };
    let are_enough = PENDING.with_borrow_mut(|pending| {
        pending.oids = Some(oids);
        pending.may_be_missing |= new.needs_row && inventory != Inventory::Present;
        let level = current_level();
        if pending.levels.last().is_none_or(|(top, _)| *top != level) {
            pending.levels.push((level, PendingAddresses::default()));
        }
        let Some((_, addresses)) = pending.levels.last_mut() else { return false };
        let other_incomplete = &mut pending.other_incomplete;
        addresses
            .entry(address)
            .and_modify(|known| known.merge(address, new, other_incomplete))
            .or_insert(new);
        addresses.len() > MOST_PENDING && !pending.referenced && storage == Storage::Table
    });
    if are_enough {
        append_early(oids);
    }
}

/// Records that the transaction writes to a table that has a foreign key to ip_inventory.
pub fn addresses_are_referenced() {
    PENDING.with_borrow_mut(|pending| pending.referenced = true);
}

/// Appends the counts of the current subtransaction level before the commit. The append belongs to the same subtransaction, so a
/// rollback also removes it.
fn append_early(oids: ExtensionOids) {
    let budget = LockWaitBudget::begin();
    let lock_all = || {
        [c"session_delta", c"enrichment_request", c"incomplete_session"]
            .into_iter()
            .for_each(|table| budget.lock(oids, table));
    };
    if let Err(failure) = contained(lock_all) {
        // The counts stay in memory until the commit, even if there are more addresses than the limit.
        telemetry::error(
            "could not yet store the counts of new sessions; the extension will try again when the transaction commits",
            &failure.message,
        );
        PENDING.with_borrow_mut(|pending| pending.referenced = true);
        return;
    }
    let take =
        |pending: &mut Pending| pending.levels.last_mut().map(|(_, addresses)| std::mem::take(addresses));
    let Some(addresses) = PENDING.with_borrow_mut(take) else { return };
    commit::queue_awaited(oids, &addresses, &budget);
    commit::note_incomplete(oids, &addresses, &OtherIncomplete::default(), &budget);
    let counts = addresses
        .iter()
        .map(|(address, pending)| (*address, pending.count))
        .filter(|(_, count)| count.sessions != 0);
    if let Err(failure) = budget.append(oids, c"session_delta", || session_delta::append(oids, counts)) {
        telemetry::error(
            "could not yet store the counts of new sessions; the extension will try again when the transaction commits",
            &failure.message,
        );
        PENDING.with_borrow_mut(|pending| {
            pending.referenced = true;
            if let Some((_, level)) = pending.levels.last_mut() {
                *level = addresses;
            }
        });
    }
}

/// Creates the inventory rows of all addresses that the transaction has recorded, because PostgreSQL is about to check a foreign
/// key. The sessions of these addresses stay pending. An immediate foreign key is checked before the session is recorded. So this
/// function also creates the row of `referenced`, the address that the check needs.
pub fn create_now(oids: ExtensionOids, referenced: Option<Address>) {
    let is_known = |pending: &Pending, address: &Address| {
        pending.levels.iter().any(|(_, addresses)| addresses.contains_key(address))
    };
    let referenced = referenced.filter(|address| !PENDING.with_borrow(|pending| is_known(pending, address)));
    // The trigger fires for every row. Its first call creates the rows of all recorded addresses, so most later calls have nothing
    // to do.
    if !PENDING.with_borrow_mut(|pending| std::mem::take(&mut pending.may_be_missing)) && referenced.is_none()
    {
        return;
    }
    let wanted: BTreeSet<Address> = PENDING.with_borrow(|pending| {
        let known = pending.levels.iter().flat_map(|(_, addresses)| addresses);
        let missing = known.filter(|(_, pending)| pending.needs_row && !pending.is_present());
        missing.map(|(address, _)| *address).chain(referenced).collect()
    });
    if wanted.is_empty() {
        return;
    }
    let is_created = {
        let _suspended = timeouts::Suspended::begin();
        let uncounted = wanted.iter().map(|address| (*address, SessionCount::default()));
        commit::create(oids, uncounted, CreationTime::ForeignKeyCheck).is_ok()
    };
    if !is_created && !commit::create_bare(oids, &Vec::from_iter(wanted.iter().copied())) {
        return;
    }
    let as_of = rollbacks();
    PENDING.with_borrow_mut(|pending| {
        for (_, addresses) in &mut pending.levels {
            for address in &wanted {
                if let Some(known) = addresses.get_mut(address) {
                    (known.inventory, known.as_of) = (Inventory::Present, as_of);
                }
            }
        }
    });
}

/// Creates the missing inventory rows and appends the counts. Called before commit.
pub fn before_commit() {
    if let Some((oids, addresses, other_incomplete)) = take() {
        // `LockWaitBudget` limits the waits for locks. The client's timeouts are suspended, because the client sets them for its
        // own statements.
        let _suspended = timeouts::Suspended::begin();
        let trigger_call = TriggerTimer::begin(Event::Commit);
        commit::write(oids, addresses, &other_incomplete);
        trigger_call.end();
    }
}

fn take() -> Option<(ExtensionOids, PendingAddresses, OtherIncomplete)> {
    PENDING.with_borrow_mut(|pending| {
        let oids = pending.oids?;
        pending.may_be_missing = false;
        let mut other_incomplete = std::mem::take(&mut pending.other_incomplete);
        let mut levels = std::mem::take(&mut pending.levels).into_iter().map(|(_, addresses)| addresses);
        let mut all = levels.next()?;
        for level in levels {
            merge(&mut all, level, &mut other_incomplete);
        }
        (!all.is_empty()).then_some((oids, all, other_incomplete))
    })
}

/// Drops the records of the transaction that has ended.
pub fn transaction_ended() {
    PENDING.set(Pending::default());
}

/// Merges the records of a released subtransaction into the records of its parent.
pub fn released(level: Level, parent: Level) {
    PENDING.with_borrow_mut(|pending| {
        if pending.levels.last().is_none_or(|(top, _)| *top != level) {
            return;
        }
        let Some((_, addresses)) = pending.levels.pop() else { return };
        let other_incomplete = &mut pending.other_incomplete;
        match pending.levels.last_mut() {
            Some((top, into)) if *top == parent => merge(into, addresses, other_incomplete),
            _ => pending.levels.push((parent, addresses)),
        }
    });
}

/// Drops the records of a subtransaction that was rolled back.
pub fn rolled_back(level: Level) {
    count_rollback();
    PENDING.with_borrow_mut(|pending| {
        pending.may_be_missing = true;
        // A subtransaction has a higher level number than the transaction that contains it. The subtransactions inside `level` were
        // rolled back with it, so all levels from `level` upwards are dropped.
        while pending.levels.last().is_some_and(|(top, _)| *top >= level) {
            pending.levels.pop();
        }
    });
}
