//! What prepared transactions have counted, in `counter_delta`: rows that come into being when the transaction commits, and
//! that the worker adds to the counters in shared memory.

use pgrx::pg_sys;

use super::Home;
use crate::pg::relation::{self, Table};
use crate::pg::spi::{Connection, Statement};
use crate::pg::text;
use crate::telemetry::{self, Counted};

/// The places of counters are those of this version of the library.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// Rows that one transaction takes.
const MOST_TAKEN: i64 = 10_000;

thread_local! {
    static TAKE: Statement = const { Statement::new(
        "counter_deltas_take", include_str!("../../sql/queries/fold/counter_deltas_take.sql"),
        &[pg_sys::TEXTOID, pg_sys::INT8OID]) };
}

/// Pages of the table above which nothing is appended, because no worker takes its rows: 1 MB.
const MOST_PAGES: u32 = 128;

/// Appends what this transaction has counted. Below the executor, because a session's commit does it.
pub fn append(home: Home, counted: &[Counted]) {
    let table = Table::open_for_appending(home.schema, c"counter_delta");
    if table.pages() > MOST_PAGES {
        return;
    }
    table.append(
        [pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID],
        counted.iter().map(|Counted { place, amount }| {
            [
                Some(text::write(LIBRARY)),
                Some(pg_sys::Datum::from(*place)),
                Some(pg_sys::Datum::from(*amount)),
            ]
        }),
    );
}

pub fn table(home: Home) -> pg_sys::Oid {
    relation::find(home.schema, c"counter_delta")
}

/// Takes rows, and counts them when this transaction commits.
pub fn take(home: Home, connection: &Connection) {
    if !relation::may_have_rows(table(home)) {
        return;
    }
    let arguments = [Some(text::write(LIBRARY)), Some(pg_sys::Datum::from(MOST_TAKEN))];
    TAKE.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            for row in 0..rows.count {
                if let (Some(place), Some(amount)) = (rows.bigint(row, 1), rows.bigint(row, 2)) {
                    telemetry::count(Counted { place, amount });
                }
            }
        });
    });
}
