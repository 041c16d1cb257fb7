//! Runs the extension's steps at the end of transactions and subtransactions. This file defines the order of the steps and gives
//! the reasons for this order.
//!
//! Only the steps before the commit may run SQL. The steps after the commit change memory only and cannot fail. An ERROR at that
//! time would restart the whole cluster.

use crate::document::answer_cache;
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
    // `pending` runs first, because it counts sessions and queues lookups. The steps after it store these counts and lookups.
    pending::before_commit();
    if transaction::is_being_prepared() {
        counter_deltas::store_of_prepared();
        // This step runs last, because each of the steps above may request that a worker is woken.
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
    answer_cache::transaction_ended();
    telemetry::transaction_ended(outcome);
    inbox_duplicates::transaction_ended(outcome);
    // This step runs last, because it wakes other processes. Those processes must see the results of the steps above.
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
