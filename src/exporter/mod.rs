//! The exporter: one process per cluster that exports metrics and spans while a setting names a destination.
//!
//! Only the main thread of the exporter calls PostgreSQL. The main thread copies the numbers and encodes them. Other threads, which
//! are part of the engine, send the bytes. These threads notify the main thread when they have finished or need more bytes. So a
//! slow scraper, a collector that does not respond or a full disk delays no other process. It only increases a counter and writes a
//! line to the log.
//!
//! The exporter connects to no database and writes to none. So it also runs on a standby.
//!
//! | module | contents |
//! |---|---|
//! | `supervisor` | runs in the launcher; starts and restarts the exporter |
//! | `scrape` | the endpoint for Prometheus |
//! | `status` | the status files |
//! | `otlp` | metrics and spans for an OpenTelemetry collector |

mod otlp;
mod scrape;
pub mod status;
mod supervisor;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::metrics::Family;
use cowrie_enrich_engine::net::Notifier;

pub use supervisor::Supervisor;

use crate::guc;
use crate::pg::background::{self, Needs, Program};
use crate::pg::transaction;
use crate::shared_state::{self, worker_process};
use crate::telemetry::metric_values;
use crate::worker::registry::ExitReason;

const PROGRAM: Program =
    Program { symbol: "cowrie_enrich_exporter_main", kind: "cowrie_enrich exporter", needs: Needs::Reading };

crate::background_process!(cowrie_enrich_exporter_main, run);

/// How long the exporter sleeps if it has nothing to do. If the settings are reloaded, the exporter wakes up earlier.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Returns whether a setting names a destination.
fn is_wanted() -> bool {
    guc::metrics_listen().is_some() || guc::status_file().is_some() || guc::otlp_endpoint().is_some()
}

fn run(_argument: i32) {
    background::accept_signals();
    background::connect(None, PROGRAM);
    let own = &shared_state::block().exporter;
    if !worker_process::take(own) {
        // An earlier launcher's exporter still runs.
        return;
    }
    let notifier = Notifier::new()
        .unwrap_or_else(|error| pgrx::error!("the exporter could not create a socket pair: {error}"));
    let mut scrape = scrape::Scrape::new(&notifier);
    let mut status = status::StatusFile::new(&notifier);
    let mut otlp = otlp::Otlp::new(&notifier);
    loop {
        background::reload_settings();
        if !is_wanted() {
            break;
        }
        // The notifications are read and removed before the calls of `tick` check for finished work. So if a notification arrives
        // during these checks, it ends the next sleep.
        notifier.drain();
        let now = Instant::now();
        let due = [scrape.tick(now), status.tick(now), otlp.tick(now)].into_iter().flatten().min();
        let pause = due.map_or(LONGEST_SLEEP, |due| due.saturating_duration_since(Instant::now()));
        background::report_activity(None);
        background::sleep(pause.min(LONGEST_SLEEP), Some(notifier.fd()));
    }
    own.ending.store(ExitReason::Left as u32, Ordering::Release);
}

/// Returns the current metrics, or the reason why they cannot be read.
fn snapshot() -> Result<Vec<Family>, String> {
    in_transaction(|| metric_values::families(None))
}

fn in_transaction<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    transaction::run(work).map_err(|failure| failure.message)
}
