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
    if !transaction::may_write() {
        error::read_only(function);
    }
}
