//! The steps at the end of transactions and subtransactions, their order, and the reasons for this order.
//!
//! A step before commit may run SQL. The later steps change memory only and cannot fail, because an ERROR after the
//! commit has begun restarts the whole cluster.

use crate::pg::subtransaction::contained;
use crate::pg::transaction::{self, Callbacks, Level, Outcome};
use crate::session::{attribution, pending};
use crate::store::inbox_duplicates;
use crate::store::{counter_deltas, snapshot_fill};
use crate::telemetry;
use crate::worker::registry;

/// Registers the steps; called when the library is loaded.
pub fn register() {
    transaction::register(Callbacks { before_commit, ended, released, rolled_back });
}

fn before_commit() {
    // `pending` is the first step, because it counts sessions and queues lookups. The next steps store the counts and lookups.
    pending::before_commit();
    if transaction::is_being_prepared() {
        counter_deltas::store_of_prepared();
        // This step is the last one, because all of the steps above may request wake-ups.
        if let Err(failure) = contained(registry::transaction_is_prepared) {
            telemetry::error(
                "could not notify the worker of a prepared transaction; the worker will process the transaction later",
                &failure.message,
            );
        }
    }
}

fn ended(outcome: Outcome) {
    pending::transaction_ended();
    snapshot_fill::clear();
    attribution::transaction_ended(outcome);
    telemetry::transaction_ended(outcome);
    inbox_duplicates::transaction_ended(outcome);
    // Called last, because it wakes other processes. The steps above have published their results by then.
    registry::transaction_ended(outcome);
}

/// The steps are independent of each other.
fn released(level: Level, parent: Level) {
    telemetry::released(level, parent);
    pending::released(level, parent);
}

/// The steps are independent of each other.
fn rolled_back(level: Level) {
    attribution::forget();
    inbox_duplicates::rolled_back();
    telemetry::rolled_back(level);
    pending::rolled_back(level);
}
