//! Owner processes. Each process connects as the owner of tables, and runs only code of this owner. If an owner process is killed,
//! the other processes continue to work.
//!
//! The worker of a database starts a process for an owner in two cases: rows of session_completion are due for a table of this
//! owner, or the rules of this owner must be evaluated (see `worker::owner_supervisor`). The process connects as the owner and
//! works in short transactions. One transaction leases rows and reads the inventory. This transaction ends before any code of the
//! owner runs. So if code of the owner does not end, this code holds locks only on tables of the owner.
//!
//! | module | does |
//! |---|---|
//! | `completion` | fills the null snapshot columns of sessions for which rows of `session_completion` are leased |
//! | `evaluation` | evaluates the session priority rules of the owner |

mod completion;
mod evaluation;

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::pg::background::{self, Needs, Process, Program};
use crate::pg::spi::Connection;
use crate::pg::{Oid, clock, transaction};
use crate::shared_state::{self, OWNER_SLOTS, OwnerSlot, WorkerSlot, owner_process};
use crate::store::{self, ExtensionOids};
use crate::telemetry;
use crate::worker::activity::StepKind;
use crate::worker::step_schedule::retry_pause;
use completion::UnsettledLease;
use evaluation::Evaluation;

const PROGRAM: Program = Program {
    symbol: "cowrie_enrich_owner_main",
    kind: "cowrie_enrich owner process",
    needs: Needs::Writing,
};

crate::background_process!(cowrie_enrich_owner_main, run);

/// The time that a process gets while other owners wait.
const SHARE: Duration = Duration::from_secs(1);
/// How long a process waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(2);
/// How often an idle process checks whether its worker still runs.
const IDLE_STEP: Duration = Duration::from_millis(500);

/// Starts a process for the owner. The process uses one of the owner slots of the worker. Returns `None` if the server has no free
/// slot for a background process.
pub fn start(owner: &str, worker_slot: usize, slot: usize) -> Option<Process> {
    background::start(
        PROGRAM,
        &format!("cowrie_enrich process of {owner}"),
        (worker_slot * OWNER_SLOTS + slot) as i32,
    )
}

/// Result of a step.
enum Step {
    Worked,
    NothingToDo,
    Failed,
}

/// The connected process.
struct Worker {
    slot: &'static OwnerSlot,
    worker_slot: &'static WorkerSlot,
    owner: Oid,
    holder: i64,
    evaluation: Option<Evaluation>,
    /// A visit that was rolled back. Its rows are still leased.
    unended: Option<UnsettledLease>,
}

fn run(argument: i32) {
    background::accept_signals();
    let argument = usize::try_from(argument).unwrap_or_default();
    let worker_slot =
        &shared_state::block().worker_slots[argument / OWNER_SLOTS % shared_state::WORKER_SLOTS];
    let slot = &worker_slot.owner_slots[argument % OWNER_SLOTS];
    if !owner_process::take(slot, worker_slot) {
        return;
    }
    let owner = Oid::from(slot.owner.load(Ordering::Acquire));
    let database = Oid::from(slot.database.load(Ordering::Acquire));
    if slot.connects_as_superuser.load(Ordering::Relaxed) {
        background::connect_and_become(database, owner, PROGRAM);
    } else {
        background::connect_as(database, owner, PROGRAM);
    }
    slot.is_connected.store(true, Ordering::Release);
    let holder = clock::now().micros();
    slot.holder.store(holder, Ordering::Release);
    let mut worker = Worker { slot, worker_slot, owner, holder, evaluation: None, unended: None };
    worker.work();
    // If rows are still leased, the supervisor ends their leases.
    slot.has_finished.store(worker.unended.is_none(), Ordering::Release);
    background::exit()
}

impl Worker {
    fn work(&mut self) {
        let began = clock::now();
        let mut idle_since = None;
        loop {
            background::reload_settings();
            let share = if self.slot.is_trial.load(Ordering::Relaxed) { Duration::ZERO } else { SHARE };
            let has_worked = self.slot.batches.load(Ordering::Relaxed) > 0;
            let is_over =
                self.slot.others_wait.load(Ordering::Relaxed) && has_worked && clock::now() - began > share;
            let has_supervisor =
                self.worker_slot.pid.load(Ordering::Acquire) == self.slot.supervisor.load(Ordering::Relaxed);
            if is_over || !has_supervisor || self.slot.shutdown_requested.load(Ordering::Acquire) {
                return;
            }
            self.is_idle(false);
            let completed = completion::step(self);
            let evaluated = self.evaluate();
            background::report_statistics();
            match (completed, evaluated) {
                (Step::Failed, _) | (_, Step::Failed) => {
                    self.slot.batches.fetch_add(1, Ordering::Relaxed);
                    self.slot.errors.fetch_add(1, Ordering::Relaxed);
                    background::sleep(retry_pause(), None);
                }
                (Step::NothingToDo, Step::NothingToDo) => {
                    let since = *idle_since.get_or_insert_with(clock::now);
                    if self.slot.others_wait.load(Ordering::Relaxed) || clock::now() - since > IDLE {
                        return;
                    }
                    self.is_idle(true);
                    background::report_activity(None);
                    background::sleep(IDLE_STEP, None);
                }
                _ => {
                    idle_since = None;
                    self.slot.batches.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn is_idle(&self, is_idle: bool) {
        if self.slot.is_idle.swap(is_idle, Ordering::AcqRel) != is_idle {
            self.slot.since.store(clock::now(), Ordering::Relaxed);
        }
    }

    /// Makes the worker check the slot.
    fn tell_worker(&self) {
        self.worker_slot.set_latch();
    }

    /// Runs one step of the evaluation, if the worker requested one.
    fn evaluate(&mut self) -> Step {
        if !self.slot.evaluates.load(Ordering::Acquire) {
            self.evaluation = None;
            return Step::NothingToDo;
        }
        evaluation::step(self)
    }
}

/// Reason why a transaction has no result.
struct TransactionFailure {
    /// True if another transaction held a lock for too long. In this case, the next attempt may succeed.
    was_lock: bool,
}

/// Runs one transaction as the owner of the extension, or as `worker_role` if this setting is set. If the transaction fails, logs
/// and counts the failure.
fn transact<T>(
    kind: StepKind,
    work: impl FnOnce(ExtensionOids, &Connection) -> T,
) -> Result<T, TransactionFailure> {
    match transaction::run(|| store::run_for_worker(work)) {
        Ok(result) => result.ok_or(TransactionFailure { was_lock: false }),
        Err(failure) => {
            let headline = "a step of an owner process failed and will be retried";
            match owner_process::own_worker_slot() {
                Some(worker_slot) => kind.failed(&worker_slot.report, headline, &failure.message),
                None => telemetry::error(headline, &failure.message),
            }
            Err(TransactionFailure { was_lock: failure.was_lock })
        }
    }
}
