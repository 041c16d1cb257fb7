//! Counts of prepared transactions, in `counter_delta`. The rows become visible when the transaction commits.
//! The worker adds them to the counters in shared memory.

use super::Home;
use crate::pg::Oid;
use crate::pg::relation::{self, Table};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Bigint, Text};
use crate::telemetry::{self, Counted};

/// The indexes of counters depend on the version of the library.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// Largest number of rows that one transaction takes.
const MOST_TAKEN: i64 = 10_000;

thread_local! {
    static TAKE: Statement<(Text, Bigint), (Bigint, Bigint)> = const { Statement::new(
        "counter_deltas_take", include_str!("../../sql/queries/fold/counter_deltas_take.sql")) };
}

/// Pages of the table above which nothing is appended, because no worker takes its rows: 1 MB.
const MOST_PAGES: u32 = 128;

/// Appends the counts of this transaction. Works below the executor, because a session's commit calls this.
pub fn append(home: Home, counted: &[Counted]) {
    let table = Table::open_for_appending(home.schema, c"counter_delta");
    if table.pages() > MOST_PAGES {
        return;
    }
    let rows = counted.iter().map(|Counted { place, amount }| (LIBRARY, *place, *amount));
    table.append::<(Text, Bigint, Bigint)>(rows);
}

pub fn table(home: Home) -> Oid {
    relation::find(home.schema, c"counter_delta")
}

/// Takes rows, and counts them when this transaction commits.
pub fn take(home: Home, connection: &Connection) {
    if !relation::may_have_rows(table(home)) {
        return;
    }
    TAKE.run(connection, (LIBRARY, MOST_TAKEN), |rows| {
        for (place, amount) in rows.iter() {
            if let (Some(place), Some(amount)) = (place, amount) {
                telemetry::count(Counted { place, amount });
            }
        }
    });
}
