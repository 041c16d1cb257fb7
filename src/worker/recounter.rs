//! Recounts sessions after a commit could not append its counts. The worker starts this recount by itself.
//!
//! A recount reads all attached tables at one moment, because the inventory does not record from which table a count
//! came. That takes long for large tables, so a separate process does it, in one transaction. It reads below the
//! executor, where no code of a table owner runs, and appends corrections as the extension's owner. The same
//! transaction deletes the requests that it has seen. A request that it has not seen belongs to sessions that it has
//! not counted.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;
use cowrie_enrich_engine::{backoff, random};

use super::step_schedule::{NEVER, retry_pause};
use super::steps::Steps;
use crate::pg::background::{self, Needs, Process, ProcessState, Program};
use crate::pg::{Oid, clock, transaction};
use crate::shared_state::worker_process;
use crate::store::{self, refresh_session_counts};
use crate::telemetry;

const PROGRAM: Program =
    Program { symbol: "cowrie_enrich_recount_main", kind: "cowrie_enrich recount", needs: Needs::Writing };

crate::background_process!(cowrie_enrich_recount_main, run);

/// Pause before the first repetition of a failed recount. The pause doubles with each further failure, because a failed recount may
/// have read all tables.
const AGAIN_BASE: Duration = Duration::from_secs(5);
const AGAIN_CAP: Duration = Duration::from_secs(300);
/// Maximum number of attempts of one process. An attempt ends if tables are being attached, or if another
/// session holds a lock that it needs.
const ATTEMPTS: u32 = 100;

/// The recount of a worker's database, as the worker sees it.
#[derive(Default)]
pub struct Recounter {
    /// True if there is a request.
    is_wanted: bool,
    process: Option<Process>,
    /// Number of consecutive processes that ended without completing a request.
    attempts: u32,
    /// Earliest time of the next start.
    not_before: Timestamp,
}

impl Recounter {
    /// Notes whether there is a request.
    pub fn wanted(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
        if !is_wanted {
            (self.attempts, self.not_before) = (0, Timestamp::UNSET);
        }
    }

    /// Returns when there is something to do without a wake-up.
    pub fn next(&self) -> Timestamp {
        if self.is_wanted && self.process.is_none() { self.not_before } else { NEVER }
    }

    /// Starts a process if one is requested and none runs. Returns true if a process has ended since the last call. The caller must
    /// then check the requests again.
    pub fn step(&mut self, steps: &Steps) -> bool {
        let has_ended = self.process.as_ref().is_some_and(|process| process.state() == ProcessState::Gone);
        if has_ended && let Some(process) = self.process.take() {
            process.forget();
            return true;
        }
        let now = clock::now();
        if self.next() > now {
            return false;
        }
        self.process = background::start(
            PROGRAM,
            "cowrie_enrich recount",
            worker_process::number_of(steps.worker_slot) as i32,
        );
        let pause = if self.process.is_some() {
            self.attempts = self.attempts.saturating_add(1);
            backoff::delay(self.attempts, AGAIN_BASE, AGAIN_CAP, random::unit())
        } else {
            // The failed attempt cost little, because it read no session. So the next attempt comes soon: a slot may become
            // free at any time.
            telemetry::error(
                "could not start a recount of the sessions",
                "no background worker slot is free; raise max_worker_processes",
            );
            retry_pause()
        };
        self.not_before = now + pause;
        false
    }
}

fn run(worker_slot: i32) {
    background::accept_signals();
    let worker_slot = worker_process::worker_slot(worker_slot);
    let database = worker_slot.database.load(Ordering::Acquire);
    // The process of an earlier worker may still run.
    if database == 0 || !worker_slot.recounter.take(database) {
        return;
    }
    background::connect(Some(Oid::from(database)), PROGRAM);
    background::report_activity(Some(c"recounting the sessions of all session tables"));
    let mut tables = Vec::new();
    for _ in 0..ATTEMPTS {
        let counted = transaction::run_without_snapshot(|| {
            store::run_for_worker(|oids, connection| {
                refresh_session_counts::addresses(oids, connection, &tables)
            })
        });
        match counted {
            Ok(Some(Err(others))) => tables = others,
            Ok(Some(Ok(found))) => {
                let detail = format!(
                    "counted {} sessions of {} addresses, corrected the counts of {} addresses",
                    found.sessions, found.addresses, found.corrected
                );
                telemetry::log_once_per_burst("recounted the sessions of all session tables", &detail);
                for (table, not_intact) in found.not_intact.iter().filter(|(_, table)| table.is_left_out) {
                    let detail = format!("{table}: {}", not_intact.reason);
                    telemetry::error(
                        "a recount could not count the sessions of a table and will be repeated",
                        &detail,
                    );
                }
                break;
            }
            // Locks are taken before anything is read.
            Err(failure) if failure.was_lock => {
                telemetry::log_once_per_burst("a recount of the sessions waits for a lock", &failure.message);
            }
            Err(failure) => {
                telemetry::error("a recount of the sessions failed and will be retried", &failure.message);
                break;
            }
            Ok(None) => break,
        }
    }
    worker_slot.wake();
    background::exit()
}
