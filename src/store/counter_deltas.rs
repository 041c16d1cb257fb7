//! Stores the counts of prepared transactions in the table `counter_delta`. The rows become visible when the prepared
//! transaction commits. The worker then adds the counts to the counters in shared memory.

use std::time::Duration;

use super::ExtensionOids;
use crate::pg::relation::{self, Table};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::subtransaction::contained;
use crate::pg::value::{Bigint, Text};
use crate::pg::{Oid, catalog};
use crate::telemetry::{self, CounterDelta};
use crate::worker::registry;

/// The version of the library. A stored count refers to a counter by its index, and the indexes can differ between versions.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// Maximum number of rows that one transaction takes from the table.
const MOST_TAKEN: i64 = 10_000;

thread_local! {
    static TAKE: Statement<(Text, Bigint), (Bigint, Bigint)> = const { Statement::new(
        "counter_deltas_take", include_str!("../../sql/queries/fold/counter_deltas_take.sql")) };
}

/// Maximum size of the table in pages (1 MB). A larger table shows that no worker takes its rows, so nothing is appended to it.
const MOST_PAGES: u32 = 128;

/// The longest time that PREPARE TRANSACTION waits for the lock of the table.
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// Stores the counts of the transaction that is being prepared. The same transaction appends the counts as rows to
/// `counter_delta`. Does nothing if the database has no worker, because no process would read these rows.
pub fn store_of_prepared() {
    let counted = telemetry::take_counted();
    if counted.is_empty() || !registry::has_worker() {
        return;
    }
    let stored = contained(|| {
        let Some(extension) = catalog::extension() else { return };
        let oids = ExtensionOids::of_extension(&extension);
        relation::lock_for_appending(table(oids), LOCK_WAIT);
        append(oids, &counted);
        registry::work_was_queued();
    });
    if let Err(failure) = stored {
        telemetry::error("could not store the metrics of a prepared transaction", &failure.message);
    }
}

/// Appends the counts of this transaction. Does not use the executor, because this function runs while the transaction is being
/// prepared.
fn append(oids: ExtensionOids, counted: &[CounterDelta]) {
    let table = Table::open_for_appending(oids.schema, c"counter_delta");
    if table.pages() > MOST_PAGES {
        return;
    }
    let rows = counted.iter().map(|CounterDelta { index, amount }| (LIBRARY, *index, *amount));
    table.append::<(Text, Bigint, Bigint)>(rows);
}

pub fn table(oids: ExtensionOids) -> Oid {
    relation::find(oids.schema, c"counter_delta")
}

/// Takes rows out of the table. Adds their counts to the counters in shared memory when this transaction commits.
pub fn take(oids: ExtensionOids, connection: &Connection) {
    if !relation::may_have_rows(table(oids)) {
        return;
    }
    TAKE.run(connection, (LIBRARY, MOST_TAKEN), |rows| {
        for (index, amount) in rows.iter() {
            if let (Some(index), Some(amount)) = (index, amount) {
                telemetry::count(CounterDelta { index, amount });
            }
        }
    });
}
