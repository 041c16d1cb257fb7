//! Recounts sessions if a commit could not append its counts. The worker starts such a recount by itself.
//!
//! The inventory does not record how many sessions of a count came from which table. So a recount must read all attached tables
//! with one snapshot. This takes long for large tables, so a separate process runs the recount in one transaction. The process
//! reads the tables directly from storage, without the executor, so no code of a table owner runs. It appends corrections as the
//! extension's owner. The transaction also deletes the requests for a recount that its snapshot contains. Other requests stay,
//! because their sessions are not counted yet.

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

/// Pause before a failed recount is repeated for the first time. The pause doubles with each further failure, because each failed
/// recount may have read all tables.
const AGAIN_BASE: Duration = Duration::from_secs(5);
const AGAIN_CAP: Duration = Duration::from_secs(300);
/// Maximum number of attempts of one process. An attempt ends early if a table was attached meanwhile, or if another session holds
/// a lock that the recount needs.
const ATTEMPTS: u32 = 100;

/// What a worker knows about the recount of its database.
#[derive(Default)]
pub struct Recounter {
    /// True if a recount is requested.
    is_wanted: bool,
    process: Option<Process>,
    /// Number of processes that were started for the current requests. Reset to 0 when no request is left.
    attempts: u32,
    /// Earliest time at which the next process may start.
    not_before: Timestamp,
}

impl Recounter {
    /// Records whether a recount is requested.
    pub fn wanted(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
        if !is_wanted {
            (self.attempts, self.not_before) = (0, Timestamp::UNSET);
        }
    }

    /// Returns the time when a process must be started, even if no event wakes the worker.
    pub fn next(&self) -> Timestamp {
        if self.is_wanted && self.process.is_none() { self.not_before } else { NEVER }
    }

    /// If a recount is requested and no process runs, starts a process. If a process has ended since the last call, returns true.
    /// The caller must then look for requests again.
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
            // The next attempt comes soon, because the failed start cost little, and because a slot may become free at any time.
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
    // If a recounter that an earlier worker started is still running, this recounter ends.
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
            // The recount takes its locks before it reads tables. So an attempt that fails because of a lock costs little and can
            // be repeated at once.
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
