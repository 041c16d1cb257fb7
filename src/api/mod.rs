//! What SQL calls.

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

/// Raises a clear error where a write would fail with one that names an internal statement.
fn require_writable(function: &str) {
    require_writable_or(function, "Call it in a read-write transaction on the primary.");
}

/// The same for a function with another way. `hint`: what to do.
fn require_writable_or(function: &str, hint: &str) {
    if !transaction::may_write() {
        error::read_only(function, hint);
    }
}
