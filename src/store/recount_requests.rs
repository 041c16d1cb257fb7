//! Requests for a recount, in `recount_request`. A commit appends a request if it could not append the counts of its sessions.

use cowrie_enrich_engine::timestamp::Timestamp;

use super::ExtensionOids;
use crate::pg::clock;
use crate::pg::relation::{self, Table};
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Bigint, Boolean, Timestamptz};

thread_local! {
    static OLDEST: Statement<(), (Timestamptz,)> = const { Statement::new(
        "recount_requests_oldest", include_str!("../../sql/queries/procedures/recount_requests_oldest.sql")) };
    static HAVE_GAPS: Statement<(), (Boolean,)> = const { Statement::new(
        "recount_requests_gaps", include_str!("../../sql/queries/procedures/recount_requests_gaps.sql")) };
    static DONE: Statement<()> = const { Statement::new(
        "recount_requests_done", include_str!("../../sql/queries/procedures/recount_requests_done.sql")) };
}

/// The data that a transaction could not append for the worker.
#[derive(Clone, Copy)]
pub struct RecountRequest {
    /// Number of sessions that were not counted, if it is known.
    pub sessions: i64,
    /// True if sessions with gaps in their snapshots were not appended.
    pub has_gaps: bool,
}

/// Appends a request. Works below the executor, because a session's commit calls this.
pub fn append(oids: ExtensionOids, missing: RecountRequest) {
    let table = Table::open_for_appending(oids.schema, c"recount_request");
    let row = (clock::now(), missing.sessions, missing.has_gaps);
    table.append::<(Timestamptz, Bigint, Boolean)>(std::iter::once(row));
}

/// Returns whether there may be a request. Waits for no lock.
pub fn may_exist(oids: ExtensionOids) -> bool {
    relation::may_have_rows(relation::find(oids.schema, c"recount_request"))
}

/// Returns the time of the oldest request.
pub fn oldest(connection: &Connection) -> Option<Timestamp> {
    OLDEST.first(connection, (), |(oldest,)| oldest).flatten()
}

/// Returns true if a request says that sessions with gaps were not appended.
pub fn have_gaps(connection: &Connection) -> bool {
    HAVE_GAPS.first(connection, (), |(have_gaps,)| have_gaps).flatten() == Some(true)
}

/// Deletes the requests that the transaction sees. The recount in this transaction has counted all sessions that the transaction
/// sees.
pub fn done(connection: &Connection) {
    DONE.execute(connection, ());
}
