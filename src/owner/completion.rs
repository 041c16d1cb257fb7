//! Fills the null snapshot columns in the sessions of one table. First leases rows of `session_completion`, then updates the
//! sessions as the owner of the table, and then ends the leases.

use std::time::{Duration, Instant};

use cowrie_enrich_engine::address::Address;

use super::{Step, Worker, transact};
use crate::guc;
use crate::pg::{Oid, background, catalog};
use crate::store::complete_sessions::{self, MOST_SESSIONS, VisitError, VisitResult};
use crate::store::completions::{self, Outcome, SMALLEST_AFTER, SessionLease};
use crate::telemetry;
use crate::worker::activity::StepKind;

/// Duration of a lease. If a step takes too long, the step is abandoned before its lease ends.
const LEASE: Duration = Duration::from_secs(60);
/// The longest pause before the worker tries again to complete sessions, after code of the table owner took too long.
const LONGEST_AFTER_CODE: Duration = Duration::from_secs(300);
/// The longest pause before the worker tries again to complete the sessions of a table, after an UPDATE of the table failed.
const LONGEST_AFTER_ERROR: Duration = Duration::from_secs(3_600);
/// The longest pause after a slow visit of several sessions.
const LONGEST_AFTER_SLOW_VISIT: Duration = Duration::from_secs(1);
/// A visit (one attempt to fill the null snapshot columns of some sessions) counts as fast if its duration is less than the time
/// limit divided by this number. After a fast visit, the next visit has twice as many sessions, and should still take at most half
/// of the limit.
const FAST: u32 = 4;
/// Reasons why sessions still have null snapshot columns. Users read these texts in `completion_status`.
const TOO_SLOW: &str = "code of the table owner, such as a trigger, took too long and was cancelled";
const UNCHANGED: &str =
    "other transactions had locked the sessions, or code of the table owner left the sessions unchanged";
const FAILED: &str =
    "the transaction that fills the null snapshot columns failed; see the server log for the error";

/// A visit (an attempt to complete sessions) whose transaction was rolled back, so its rows of `session_completion` are still
/// leased. A separate step ends the leases of these rows.
pub struct UnsettledLease {
    table: Oid,
    addresses: Vec<Address>,
}

/// Returns the longest backoff after a row was found locked: half a naptime. No process is woken when a lock is released, so the
/// supervisor looks for due rows once per naptime. With this backoff, the sessions are visited again within two naptimes.
fn after_lock() -> Duration {
    guc::worker_naptime() / 2
}

/// Returns the pause before the visit is tried again with fewer sessions. The pause grows with each attempt. If the machine is
/// busy, even a visit with fewer sessions may be slow.
fn after_slow_visit(attempts: i64) -> Duration {
    after_lock().saturating_mul(1 << attempts.clamp(0, 20)).min(LONGEST_AFTER_SLOW_VISIT)
}

/// Returns the pause after a visit that took too long, although the visit had only one session. Each further attempt doubles the
/// pause.
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
    // Each slow visit halves the number of sessions in the next visit, and each fast visit doubles it. Without doubling, a short
    // time of high load would make all later visits small.
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
    // A statement on a table of the extension failed, so the whole transaction was rolled back. The rows of `session_completion`
    // are still leased.
    worker.unended = Some(UnsettledLease { table: leased.table, addresses: leased.addresses });
    end_leases(worker)
}

/// Ends the leases of a visit that failed. If this step fails too, the process repeats it until it succeeds.
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

/// Logs why the sessions of a table could not be completed. Returns the longest backoff and the reason.
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
