//! What prepared transactions have counted, in `counter_delta`: rows that come into being when the transaction commits, and
//! that the worker adds to the counters in shared memory.

use super::Home;
use crate::pg::Oid;
use crate::pg::relation::{self, Table};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Bigint, Text};
use crate::telemetry::{self, Counted};

/// The places of counters are those of this version of the library.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// Rows that one transaction takes.
const MOST_TAKEN: i64 = 10_000;

thread_local! {
    static TAKE: Statement<(Text, Bigint), (Bigint, Bigint)> = const { Statement::new(
        "counter_deltas_take", include_str!("../../sql/queries/fold/counter_deltas_take.sql")) };
}

/// Pages of the table above which nothing is appended, because no worker takes its rows: 1 MB.
const MOST_PAGES: u32 = 128;

/// Appends what this transaction has counted. Below the executor, because a session's commit does it.
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
