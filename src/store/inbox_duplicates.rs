//! Keeps the worker's inboxes small while no worker reads them.
//!
//! A row of an inbox tells the worker to process something. Several equal rows have the same effect as one. So while no worker is
//! attached, a row that already waits is not appended again. Shared memory keeps fingerprints of the waiting rows in a table, where
//! a newer fingerprint may replace an older one. A row whose fingerprint was replaced is appended once more.
//!
//! A row is remembered when its transaction commits. A new epoch begins with no remembered rows. It begins
//! when a worker attaches, and when a statement deletes from an inbox.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;

use cowrie_enrich_engine::random;

use crate::pg::catalog;
use crate::pg::transaction::{self, Outcome};
use crate::shared_state;
use crate::worker::registry;

/// Rows of one transaction that are remembered.
const MOST_REMEMBERED: usize = 10_000;

thread_local! {
    /// Fingerprints of the rows that this transaction has appended.
    static APPENDED: RefCell<HashSet<u64>> = RefCell::default();
}

/// Returns whether the caller must append a row.
///
/// Returns true while a worker is attached. The worker may have taken an equal row, and may have read the tables before this
/// transaction's changes become visible. Returns true in a transaction that is being prepared, too, because that transaction may
/// commit later.
pub fn needs(row: impl Hash) -> bool {
    // The epoch is read before the worker's slot. If a worker takes the slot in between, this epoch is
    // already outdated.
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

/// Begins a new epoch, because rows are removed from an inbox.
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
    // 0 stands for an empty place.
    hasher.finish().max(1)
}

/// Returns an unpredictable number. Otherwise an attacker could find an address with the same fingerprint as another address.
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

/// Remembers the appended rows if the transaction committed. Sets atomics only; cannot fail.
pub fn transaction_ended(outcome: Outcome) {
    APPENDED.with_borrow_mut(|appended| {
        if outcome == Outcome::Committed {
            for fingerprint in appended.iter() {
                shared_state::block().waiting_row(*fingerprint).store(*fingerprint, Ordering::Release);
            }
        }
        // A new set is created, because `clear` would keep the memory of a large transaction.
        if !appended.is_empty() {
            *appended = HashSet::new();
        }
    });
}

/// Forgets all appended rows. The subtransaction that was rolled back may have appended some of these rows.
pub fn rolled_back() {
    APPENDED.with_borrow_mut(HashSet::clear);
}
