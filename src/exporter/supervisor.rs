//! Runs in the launcher. Starts the exporter when a setting requires it. Restarts the exporter after a pause if the exporter
//! failed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;
use cowrie_enrich_engine::{backoff, random};

use super::{PROGRAM, is_wanted, otlp};
use crate::pg::background::{self, Process, ProcessState};
use crate::pg::clock;
use crate::shared_state;
use crate::telemetry;
use crate::worker::registry::ExitReason;

/// Pause before a crashed exporter is started again, doubling.
const RESTART_BASE: Duration = Duration::from_secs(1);
const RESTART_CAP: Duration = Duration::from_secs(60);
/// If the server had no free process slot for the exporter, the launcher tries again after this pause.
const START_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// If an exporter ran this long, earlier crashes no longer count, because their cause has probably ended.
const LIVED: Duration = Duration::from_secs(300);

/// How long the launcher sleeps if it has nothing to do for the exporter. If the settings are reloaded or the exporter ends, the
/// launcher wakes up earlier.
const NEVER: Duration = Duration::from_secs(3600);

/// Starts and restarts the exporter.
#[derive(Default)]
pub struct Supervisor {
    process: Option<Process>,
    crashes: u32,
    started_at: Timestamp,
    /// Earliest time of the next start.
    backoff_until: Timestamp,
}

impl Supervisor {
    /// Starts the exporter if a setting requires it and it is not running. Returns the time until the next check. If no setting
    /// requires the exporter any more, the exporter ends by itself.
    pub fn supervise(&mut self) -> Duration {
        self.collect_ended();
        let worker_slot = &shared_state::block().exporter;
        // An exporter that an earlier launcher started counts as well.
        if self.process.is_some() || worker_slot.is_taken() {
            return NEVER;
        }
        if !is_wanted() {
            // An exporter that ends normally stops the collection of spans. If the exporter was killed, it could not do so, and the
            // launcher does it here.
            otlp::abandon_spans();
            return NEVER;
        }
        let now = clock::now();
        if now >= self.backoff_until {
            worker_slot.ending.store(ExitReason::Crashed as u32, Ordering::Release);
            worker_slot.started_at.store(now, Ordering::Relaxed);
            worker_slot.since.store(now, Ordering::Relaxed);
            self.started_at = now;
            self.process = background::start(PROGRAM, PROGRAM.kind, 0);
            if self.process.is_some() {
                return NEVER;
            }
            telemetry::log_once_per_burst(
                "could not start the exporter",
                "no background worker slot is free; raise max_worker_processes",
            );
            self.backoff_until = now + START_AGAIN_AFTER;
        }
        self.backoff_until - now
    }

    fn collect_ended(&mut self) {
        let Some(process) = self.process.take_if(|process| process.state() == ProcessState::Gone) else {
            return;
        };
        process.forget();
        let now = clock::now();
        if ExitReason::of(&shared_state::block().exporter) == ExitReason::Left {
            (self.crashes, self.backoff_until) = (0, Timestamp::UNSET);
            return;
        }
        self.crashes = if now - self.started_at > LIVED { 1 } else { self.crashes.saturating_add(1) };
        let pause = backoff::delay(self.crashes, RESTART_BASE, RESTART_CAP, random::unit());
        self.backoff_until = now + pause;
    }
}
