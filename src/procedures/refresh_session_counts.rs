//! Recounts the sessions of all tables.

use super::{ATTACH_AGAIN, Options, Procedure, Run, run};
use crate::pg::role::acting_as;
use crate::pg::sql_function::Call;
use crate::pg::{self, Oid};
use crate::store::refresh_session_counts::DamagedTable;
use crate::store::{fold, refresh_session_counts};

/// The result of a recount.
pub struct RecountReport {
    pub sessions: i64,
    pub addresses: i64,
    pub addresses_corrected: i64,
    pub networks_corrected: i64,
    pub malformed: i64,
}

/// Entry point of `refresh_session_counts()`.
pub fn refresh(call: &Call) {
    let options = Options {
        procedure: Procedure::RefreshSessionCounts,
        relation: Oid::INVALID,
        progress: true,
        needs_commits: true,
    };
    run(call, &options, |run| {
        let found = recount(run, 0, |_| false);
        vec![
            ("sessions", found.sessions),
            ("addresses", found.addresses),
            ("addresses_corrected", found.addresses_corrected),
            ("networks_corrected", found.networks_corrected),
            ("malformed", found.malformed),
        ]
    });
}

/// Runs all phases of a recount. Other procedures can also call this function. If the caller has just read the sessions of some
/// tables, `sessions_read` is the number of these sessions, and `was_read` returns true for these tables.
pub fn recount(run: &mut Run, sessions_read: i64, was_read: impl Fn(Oid) -> bool) -> RecountReport {
    fold(run);
    let found = addresses(run, sessions_read, was_read);
    fold(run);
    run.begin("networks", 0);
    let mut networks_corrected = 0;
    let oids = run.oids;
    run.batch(|connection| {
        networks_corrected = refresh_session_counts::networks(oids, connection);
        networks_corrected
    });
    fold(run);
    RecountReport {
        sessions: found.sessions,
        addresses: found.addresses,
        addresses_corrected: found.corrected,
        networks_corrected,
        malformed: found.malformed,
    }
}

fn addresses(
    run: &mut Run,
    sessions_read: i64,
    was_read: impl Fn(Oid) -> bool,
) -> refresh_session_counts::RecountResult {
    let oids = run.oids;
    let mut tables = acting_as(oids.owner, || refresh_session_counts::tables(run.connection));
    // The server has no good estimate for tables that were just written. So for these tables, the caller supplies the number of
    // sessions.
    run.begin("counting", sessions_read + refresh_session_counts::sessions_estimated(&tables, was_read));
    loop {
        let mut found = None;
        run.batch(|connection| match refresh_session_counts::addresses(oids, connection, &tables) {
            Ok(all) => {
                let sessions = all.sessions;
                found = Some(all);
                sessions
            }
            // Another session has attached a table or partition in the meantime, so the recount starts again with the new list of
            // tables.
            Err(others) => {
                tables = others;
                0
            }
        });
        if let Some(found) = found {
            found.not_intact.iter().for_each(|(table, not_intact)| warn(run.procedure(), table, not_intact));
            return found;
        }
    }
}

fn warn(procedure: &str, table: &str, not_intact: &DamagedTable) {
    let reason = &not_intact.reason;
    if not_intact.is_left_out {
        pg::warning(
            &format!("{procedure}: could not count the sessions of {table}: {reason}"),
            &format!("No count was lowered, because not all sessions were counted. {ATTACH_AGAIN}"),
        );
    } else {
        pg::warning(&format!("{procedure}: {table} is not intact: {reason}"), ATTACH_AGAIN);
    }
}

/// Folds all pending counts.
pub(super) fn fold(run: &mut Run) {
    let oids = run.oids;
    let pending = acting_as(oids.owner, || fold::pending(run.connection));
    run.begin("folding", pending);
    let mut pass = fold::FoldPass::default();
    while !pass.is_over() {
        run.batch(|connection| fold::step(oids, connection, &mut pass));
    }
}
