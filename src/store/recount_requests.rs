//! Stores requests for a recount in the table `recount_request`. If a commit cannot append the counts of its sessions, it
//! appends such a request.

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

/// What a transaction could not append for the worker.
#[derive(Clone, Copy)]
pub struct RecountRequest {
    /// Number of sessions that are known to be missing in the counts.
    pub sessions: i64,
    /// True if the transaction could not append rows about sessions with null snapshot columns.
    pub has_gaps: bool,
}

/// Appends a recount request. Does not use the executor, because this function runs during the commit of a session.
pub fn append(oids: ExtensionOids, missing: RecountRequest) {
    let table = Table::open_for_appending(oids.schema, c"recount_request");
    let row = (clock::now(), missing.sessions, missing.has_gaps);
    table.append::<(Timestamptz, Bigint, Boolean)>(std::iter::once(row));
}

/// Returns true if there may be a recount request. Does not wait for a lock.
pub fn may_exist(oids: ExtensionOids) -> bool {
    relation::may_have_rows(relation::find(oids.schema, c"recount_request"))
}

/// Returns the time at which the oldest recount request was appended.
pub fn oldest(connection: &Connection) -> Option<Timestamp> {
    OLDEST.first(connection, (), |(oldest,)| oldest).flatten()
}

/// Returns true if a recount request says that rows about sessions with null snapshot columns could not be appended.
pub fn have_gaps(connection: &Connection) -> bool {
    HAVE_GAPS.first(connection, (), |(have_gaps,)| have_gaps).flatten() == Some(true)
}

/// Deletes the recount requests that the transaction sees. They are no longer needed, because the recount in this transaction
/// has counted all sessions that the transaction sees.
pub fn done(connection: &Connection) {
    DONE.execute(connection, ());
}
