//! Keeps the worker's inboxes small while no worker reads them.
//!
//! A row of an inbox tells the worker to process something. Several equal rows have the same effect as one row. So while no
//! worker is attached, a row is not appended if an equal row already waits. Shared memory has a table with fingerprints of the
//! waiting rows. In this table, a newer fingerprint may replace an older one. A row whose fingerprint was replaced is appended
//! once more.
//!
//! A row is remembered when its transaction commits. A new epoch begins when a worker attaches, and when a statement deletes
//! from an inbox. At the beginning of an epoch, no rows are remembered.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;

use cowrie_enrich_engine::random;

use crate::pg::catalog;
use crate::pg::transaction::{self, Outcome};
use crate::shared_state;
use crate::worker::registry;

/// Maximum number of rows of one transaction that are remembered.
const MOST_REMEMBERED: usize = 10_000;

thread_local! {
    /// Fingerprints of the rows that this transaction has appended.
    static APPENDED: RefCell<HashSet<u64>> = RefCell::default();
}

/// Returns true if the caller must append the row.
///
/// Returns true while a worker is attached. This worker may already have taken an equal row, and may have read the tables
/// before the changes of this transaction become visible. Also returns true in a transaction that is being prepared, because
/// that transaction may commit much later.
pub fn needs(row: impl Hash) -> bool {
    // The epoch is read before the worker's slot. If a worker takes the slot between these two reads, the epoch that was read
    // is already outdated.
    let fingerprint = fingerprint(row);
    if registry::worker_slot_of(catalog::own_database()).is_some() || transaction::is_being_prepared() {
        return true;
    }
    let place = shared_state::block().waiting_row(fingerprint);
    if place.load(Ordering::Acquire) == fingerprint {
        return false;
    }
    APPENDED.with_borrow_mut(|appended| appended.len() >= MOST_REMEMBERED || appended.insert(fingerprint))
}

/// Begins a new epoch, in which no row counts as a duplicate yet, because rows are being removed from an inbox.
pub fn begin_epoch() {
    shared_state::block().inbox_epoch.fetch_add(1, Ordering::AcqRel);
}

fn fingerprint(row: impl Hash) -> u64 {
    let block = shared_state::block();
    let mut hasher = DefaultHasher::new();
    secret().hash(&mut hasher);
    block.inbox_epoch.load(Ordering::Acquire).hash(&mut hasher);
    catalog::own_database().to_u32().hash(&mut hasher);
    row.hash(&mut hasher);
    // The value 0 means that the place is empty.
    hasher.finish().max(1)
}

/// Returns a number that cannot be predicted. If it could be predicted, an attacker could find an address with the same
/// fingerprint as another address.
fn secret() -> u64 {
    let secret = &shared_state::block().inbox_secret;
    match secret.load(Ordering::Acquire) {
        0 => {
            let drawn = random::bits().max(1);
            secret
                .compare_exchange(0, drawn, Ordering::AcqRel, Ordering::Acquire)
                .map_or_else(|theirs| theirs, |_| drawn)
        }
        known => known,
    }
}

/// If the transaction committed, remembers the rows that it appended. Changes only atomic variables, so it cannot fail.
pub fn transaction_ended(outcome: Outcome) {
    APPENDED.with_borrow_mut(|appended| {
        if outcome == Outcome::Committed {
            for fingerprint in appended.iter() {
                shared_state::block().waiting_row(*fingerprint).store(*fingerprint, Ordering::Release);
            }
        }
        // A new set is created, because `clear` would not free the memory that a large transaction needed.
        if !appended.is_empty() {
            *appended = HashSet::new();
        }
    });
}

/// Forgets all rows that this transaction has appended. Some of these rows may have been appended by the subtransaction that
/// was rolled back.
pub fn rolled_back() {
    APPENDED.with_borrow_mut(HashSet::clear);
}
