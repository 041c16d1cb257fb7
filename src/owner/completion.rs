//! Completes the sessions of one table: leases rows, writes the sessions as the owner of the table, and ends
//! the leases.

use std::time::{Duration, Instant};

use cowrie_enrich_engine::address::Address;

use super::{Step, Worker, transact};
use crate::guc;
use crate::pg::{Oid, background, catalog};
use crate::store::complete_sessions::{self, MOST_SESSIONS, VisitError, VisitResult};
use crate::store::completions::{self, Outcome, SMALLEST_AFTER, SessionLease};
use crate::telemetry;
use crate::worker::activity::StepKind;

/// Duration of a lease. A step that does not end is abandoned before its lease expires.
const LEASE: Duration = Duration::from_secs(60);
/// The longest backoff of sessions after code of the table owner took too long.
const LONGEST_AFTER_CODE: Duration = Duration::from_secs(300);
/// The longest backoff of a table's sessions after an UPDATE of the table failed.
const LONGEST_AFTER_ERROR: Duration = Duration::from_secs(3_600);
/// The longest pause after a slow visit of several sessions.
const LONGEST_AFTER_SLOW_VISIT: Duration = Duration::from_secs(1);
/// A visit is fast if it takes less than the time limit divided by this number. Twice as many sessions then
/// take at most half of the limit.
const FAST: u32 = 4;
/// Reasons why sessions were not completed. Users read these texts in `completion_status`.
const TOO_SLOW: &str = "code of the table owner, such as a trigger, took too long and was cancelled";
const UNCHANGED: &str =
    "other transactions had locked the sessions, or code of the table owner left the sessions unchanged";
const FAILED: &str =
    "the transaction that fills the null snapshot columns failed; see the server log for the error";

/// A visit that was rolled back. Its rows are still leased. A separate step ends these leases.
pub struct UnsettledLease {
    table: Oid,
    addresses: Vec<Address>,
}

/// Returns the longest backoff after a lock. The release of a lock wakes no process, so the supervisor looks
/// for due rows once per naptime. With a backoff of half a naptime, the sessions are visited within two
/// naptimes.
fn after_lock() -> Duration {
    guc::worker_naptime() / 2
}

/// Returns the pause before a smaller batch is tried. The pause must grow with each attempt, because the
/// machine may be busy.
fn after_slow_visit(attempts: i64) -> Duration {
    after_lock().saturating_mul(1 << attempts.clamp(0, 20)).min(LONGEST_AFTER_SLOW_VISIT)
}

/// Returns the pause after a visit that took too long, although it tried only one session. The pause doubles with each
/// further attempt.
fn after_slow_session(attempts: i64) -> Duration {
    Duration::from_secs(1 << (attempts - SMALLEST_AFTER).clamp(1, 20)).min(LONGEST_AFTER_CODE)
}

pub fn step(worker: &mut Worker) -> Step {
    if worker.unended.is_some() {
        return end_leases(worker);
    }
    background::report_activity(Some(c"choosing sessions whose snapshot columns can be filled"));
    let leased = transact(StepKind::Lease, |_, connection| {
        let leased = completions::lease(connection, worker.owner, worker.holder, LEASE)?;
        let known = complete_sessions::known(connection, &leased.addresses);
        Some((leased, known))
    });
    let (leased, known) = match leased {
        Err(_) => return Step::Failed,
        Ok(None) => return Step::NothingToDo,
        Ok(Some(leased)) => leased,
    };
    background::report_activity(Some(c"filling snapshot columns"));
    // The batch is halved after each slow visit, and doubled after a fast one. Otherwise a short time of high load would
    // slow down all later visits.
    let most = (MOST_SESSIONS >> leased.attempts.clamp(0, SMALLEST_AFTER)).max(1);
    let may_be_filled = completions::may_be_filled();
    let limit = worker.slot.code_limit();
    let visited = transact(StepKind::Complete, |_, connection| {
        let started = Instant::now();
        let visited = complete_sessions::visit(
            connection,
            (leased.table, worker.owner),
            &known,
            (most, limit),
            may_be_filled.ip_type,
        );
        let (outcomes, (longest, error)) = match visited {
            Ok(findings) => {
                let is_fast = started.elapsed() < limit / FAST;
                let outcomes = findings.into_iter().map(|found| outcome(found, is_fast)).collect();
                (outcomes, (after_lock(), UNCHANGED.to_owned()))
            }
            Err(error) => (later(&leased.addresses), report(&leased, error, most)),
        };
        completions::end_visit(connection, leased.table, &outcomes, worker.holder, longest, &error);
    });
    if visited.is_ok() {
        return Step::Worked;
    }
    // The whole transaction failed, because a statement on a table of the extension failed. The rows are
    // still leased.
    worker.unended = Some(UnsettledLease { table: leased.table, addresses: leased.addresses });
    end_leases(worker)
}

/// Ends the leases of a failed visit. The process repeats this step until it succeeds.
fn end_leases(worker: &mut Worker) -> Step {
    let Some(unended) = &worker.unended else { return Step::NothingToDo };
    let ended = transact(StepKind::EndLeases, |_, connection| {
        let outcomes = later(&unended.addresses);
        completions::end_visit(connection, unended.table, &outcomes, worker.holder, after_lock(), FAILED);
    });
    if ended.is_err() {
        return Step::Failed;
    }
    worker.unended = None;
    Step::Worked
}

fn outcome((address, result): (Address, VisitResult), is_fast: bool) -> (Address, Outcome) {
    let outcome = match result {
        VisitResult::Complete => Outcome::Done,
        VisitResult::Waits => Outcome::Waits,
        VisitResult::More if is_fast => Outcome::Faster,
        VisitResult::More => Outcome::More,
        VisitResult::Locked => Outcome::Later,
    };
    (address, outcome)
}

fn later(addresses: &[Address]) -> Vec<(Address, Outcome)> {
    addresses.iter().map(|address| (*address, Outcome::Later)).collect()
}

/// Logs why a table was not completed. Returns the longest backoff and the reason.
fn report(leased: &SessionLease, error: VisitError, most: usize) -> (Duration, String) {
    let table = String::from_utf8_lossy(&catalog::quoted_table_name(leased.table)).into_owned();
    let (message, longest) = match error {
        // A smaller batch may be fast enough.
        VisitError::TooSlow if most > 1 => return (after_slow_visit(leased.attempts), TOO_SLOW.to_owned()),
        VisitError::TooSlow => (TOO_SLOW.to_owned(), after_slow_session(leased.attempts)),
        VisitError::Busy(failure) if failure.was_lock => return (after_lock(), failure.message),
        VisitError::Busy(failure) => (failure.message, LONGEST_AFTER_CODE),
        VisitError::Failed(failure) => (failure.message, LONGEST_AFTER_ERROR),
    };
    telemetry::error(
        "could not fill the snapshot columns of a session table",
        &format!("{table}: {message}"),
    );
    (longest, message)
}
