//! Completing the sessions of one table: lease rows, write the sessions as the owner, settle the rows.

use cowrie_enrich_engine::address::Address;

use super::{Step, Worker, transact};
use crate::pg::{background, catalog};
use crate::store::complete_sessions::{self, Finding, Known, MOST_SESSIONS, Problem};
use crate::store::completions::{self, Leased, Outcome};
use crate::telemetry;

/// Longer than a step may take until it is abandoned.
const LEASE_SECONDS: f64 = 60.0;
/// The longest backoff in seconds, of locked sessions and of a table whose UPDATE fails.
const LONGEST_WAIT: f64 = 300.0;
const LONGEST_AFTER_ERROR: f64 = 3_600.0;
const TOO_SLOW: &str = "code on the table took too long and was cancelled";
/// Why a visit without an error left gaps. Users read this and the other errors in `completion_status`.
const UNCHANGED: &str = "the sessions were locked, or code on the table left them unchanged";

pub fn step(worker: &Worker) -> Step {
    background::report_activity(Some(c"leasing pending completions"));
    let leased = transact(|_, connection| {
        let leased = completions::lease(connection, worker.owner, worker.holder, LEASE_SECONDS)?;
        let known = complete_sessions::known(connection, &leased.addresses);
        Some((leased, known))
    });
    let (leased, known) = match leased {
        None => return Step::Failed,
        Some(None) => return Step::NothingToDo,
        Some(Some(leased)) => leased,
    };
    background::report_activity(Some(c"completing sessions"));
    // Fewer after each visit that took too long.
    let most = (MOST_SESSIONS >> leased.attempts.clamp(0, 11)).max(1);
    let may_be_filled = completions::may_be_filled();
    let limit = worker.slot.code_limit();
    let visited = transact(|_, connection| {
        let visited = complete_sessions::visit(
            connection,
            (leased.table, worker.owner),
            &known,
            (most, limit),
            may_be_filled.ip_type,
        );
        let (outcomes, (longest, error)) = match visited {
            Ok(findings) => {
                (findings.into_iter().map(outcome).collect(), (LONGEST_WAIT, UNCHANGED.to_owned()))
            }
            Err(problem) => (later(&known), report(&leased, problem, most)),
        };
        completions::settle(connection, leased.table, &outcomes, worker.holder, longest, &error);
    });
    if visited.is_some() {
        return Step::Worked;
    }
    // The transaction failed as a whole, and the rows are leased still.
    let settled = transact(|_, connection| {
        let error = "the transaction failed; the server log has the error";
        completions::settle(
            connection,
            leased.table,
            &later(&known),
            worker.holder,
            LONGEST_AFTER_ERROR,
            error,
        );
    });
    if settled.is_some() { Step::Worked } else { Step::Failed }
}

fn outcome((address, finding): (Address, Finding)) -> (Address, Outcome) {
    let outcome = match finding {
        Finding::Complete => Outcome::Done,
        Finding::Waits => Outcome::Waits,
        Finding::More => Outcome::More,
        Finding::Held => Outcome::Later,
    };
    (address, outcome)
}

fn later(known: &[Known]) -> Vec<(Address, Outcome)> {
    known.iter().map(|known| (known.address(), Outcome::Later)).collect()
}

/// Logs why a table was not completed; returns the longest backoff and the reason.
fn report(leased: &Leased, problem: Problem, most: usize) -> (f64, String) {
    let table = String::from_utf8_lossy(&catalog::quoted_table_name(leased.table)).into_owned();
    let (message, longest) = match problem {
        // A smaller batch may be fast enough.
        Problem::TooSlow if most > 1 => return (1.0, TOO_SLOW.to_owned()),
        Problem::TooSlow => (TOO_SLOW.to_owned(), LONGEST_WAIT),
        Problem::Busy(failure) if failure.was_lock => return (LONGEST_WAIT, failure.message),
        Problem::Busy(failure) => (failure.message, LONGEST_WAIT),
        Problem::Failed(failure) => (failure.message, LONGEST_AFTER_ERROR),
    };
    telemetry::error("sessions of a table could not be completed", &format!("{table}: {message}"));
    (longest, message)
}
