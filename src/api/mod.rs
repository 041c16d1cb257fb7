//! The functions that SQL calls.

mod administration;
mod analysis;
mod cymru;
mod enrich;
mod inventory_columns;
mod lookup;
mod metrics;
mod procedures;
mod queue;
mod sessions;
mod worker;

use crate::error;
use crate::pg::transaction;

/// Raises an error in a read-only transaction. Otherwise the write would fail with an error that names an
/// internal statement.
fn require_writable(function: &str) {
    require_writable_or(function, "Call it in a read-write transaction on the primary.");
}

/// Like [`require_writable`], for a function with an alternative. `hint` describes it.
fn require_writable_or(function: &str, hint: &str) {
    if !transaction::may_write() {
        error::read_only(function, hint);
    }
}
