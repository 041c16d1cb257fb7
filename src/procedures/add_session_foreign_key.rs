//! Adds foreign keys to session tables without blocking writers for long. A key is first added as NOT VALID, which needs a strong
//! lock for only a short time. Then the key is validated under a lock that does not block writers.
//!
//! While this procedure waits for the strong lock, all writers of the table wait too. A long transaction could prolong this wait.
//! Therefore each lock request has a short timeout. After a timeout, the procedure pauses and requests the lock again.

use std::time::Duration;

use super::session_tables::{RejectedRows, require_own_attached, rows_estimated};
use super::{ATTACH_AGAIN, Options, Procedure, Run, run};
use crate::error;
use crate::pg::role::acting_as;
use crate::pg::scan::ReadableTable;
use crate::pg::sql_function::Call;
use crate::pg::{self, Oid, catalog, latch};
use crate::store::backfill_sessions::Table;
use crate::store::procedure_call::RejectedRow;
use crate::store::{self, ExtensionOids, session_foreign_key};

/// Entry point of `add_session_foreign_key()`.
pub fn add(call: &Call) {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    require_own_attached(ExtensionOids::of_caller(call), rel);
    let options = Options {
        procedure: Procedure::AddSessionForeignKey,
        relation: rel,
        progress: true,
        needs_commits: true,
    };
    run(call, &options, |run| {
        lock_and_add(run, rel, false);
        let orphans = finish(run, rel, None);
        if orphans == 0 {
            // If the table is partitioned, the keys of the partitions are valid now. This call adds the key of the partitioned
            // table itself.
            lock_and_add(run, rel, true);
        }
        vec![("orphans", orphans), ("validated", i64::from(orphans == 0))]
    });
}

const TRIES: u32 = 60;
const BETWEEN: Duration = Duration::from_millis(500);

fn lock_and_add(run: &mut Run, rel: Oid, whole: bool) {
    run.begin("locking", 0);
    for _ in 0..TRIES {
        match session_foreign_key::add(run.connection, rel, whole) {
            Ok(()) => return run.commit(),
            Err(failure) if failure.was_lock => {}
            Err(failure) => failure.raise(),
        }
        // The commit releases the locks that the failed attempt had taken.
        run.commit();
        latch::wait(BETWEEN, None);
    }
    error::table_is_busy(&catalog::table_name(rel), TRIES)
}

/// Orphans that are listed.
const MOST_LISTED: usize = 1_000;

/// Validates the foreign keys of a table and its partitions, except keys that are already valid. Returns the number of sessions
/// whose address is not in ip_inventory. `rows` is the number of sessions in the tables, if the caller knows it better than the
/// server.
pub fn finish(run: &mut Run, rel: Oid, rows: Option<i64>) -> i64 {
    let oids = run.oids;
    let open = acting_as(oids.owner, || session_foreign_key::not_valid(run.connection, rel));
    if open.is_empty() {
        return 0;
    }
    // The server itself checks all rows. Only if this check fails, the procedure searches for the rows that violate the foreign
    // key.
    run.begin("validating", open.len() as i64);
    let mut invalid = Vec::new();
    for table in open {
        run.batch(|connection| {
            if !session_foreign_key::validate(connection, table) {
                invalid.push(table);
            }
            1
        });
    }
    if invalid.is_empty() {
        return 0;
    }
    let mut tables: Vec<Table> =
        acting_as(oids.owner, || store::backfill_sessions::tables(run.connection, rel));
    tables.retain(|table| invalid.contains(&table.oid));
    if tables.iter().any(is_unreadable) {
        let connection = run.connection;
        let reason = acting_as(oids.owner, || store::backfill_sessions::not_intact_reason(connection, rel));
        pg::warning(
            &format!(
                "could not compare sessions of {} with ip_inventory, so the foreign key stays NOT VALID: {}",
                catalog::table_name(rel),
                reason.unwrap_or_default()
            ),
            ATTACH_AGAIN,
        );
        return 0;
    }
    let orphans = count_orphans(run, &tables, rows);
    pg::warning(
        &format!(
            "the addresses of {orphans} sessions are not in ip_inventory, so the foreign key stays NOT VALID"
        ),
        "The table rejected_row lists some of these sessions. Change the addresses of these sessions to single hosts, then call \
         backfill_sessions() or add_session_foreign_key() again.",
    );
    orphans
}

/// Returns true if the table has no usable address column.
fn is_unreadable(table: &Table) -> bool {
    ReadableTable::open(table.oid).is_some_and(|readable| readable.address_column(&table.ip_column).is_none())
}

fn count_orphans(run: &mut Run, tables: &[Table], rows: Option<i64>) -> i64 {
    let oids = run.oids;
    run.begin("orphans", rows.unwrap_or_else(|| rows_estimated(tables)));
    let mut rejected = RejectedRows::new(run.procedure(), MOST_LISTED);
    for table in tables {
        run.batch(|connection| {
            let sessions = session_foreign_key::orphans(oids, table, |row_key, address| {
                rejected.about([RejectedRow {
                    relation: table.shown(),
                    row_key,
                    reason: "the address of the session is not in ip_inventory".to_owned(),
                    content: Some(address),
                }]);
            });
            rejected.write(connection);
            sessions
        });
    }
    rejected.rows
}
