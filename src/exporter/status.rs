//! Writes the status files while `status_file` is set. Also provides the same content for `status_json()`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::export::files::FileWrites;
use cowrie_enrich_engine::export::status::{self, Call, Failure, Phase, State};
use cowrie_enrich_engine::metrics::Family;
use cowrie_enrich_engine::net::{Notifier, Pool};
use serde_json::{Map, Value};

use super::in_transaction;
use crate::guc;
use crate::pg::{self, background, catalog, clock};
use crate::procedures::Procedure;
use crate::procedures::progress;
use crate::provider::counters;
use crate::shared_state::ProcedureCall;
use crate::telemetry::metric_values;
use crate::telemetry::{Exporter, exported};

/// How often the exporter checks for changes. The program that monitors the files reads them at the same interval.
const LOOKS_EVERY: Duration = Duration::from_secs(5);
/// After this time, the files are written even if nothing has changed. Readers see by the new value of `last_updated` that the
/// exporter is running.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// A disk that takes longer counts as not responding.
const WRITES_WITHIN: Duration = Duration::from_secs(30);

/// Returns the state of each phase. The state comes from the current metrics. The caller must be inside a transaction, because the
/// function looks up names of databases.
fn phases(families: &[Family]) -> Vec<Phase> {
    let last_failure = counters::last_dead_letter().map(|(provider, reason, at)| Failure {
        provider: provider.name(),
        reason,
        at,
    });
    let mut phases = vec![status::enrichment(families, last_failure.as_ref())];
    phases.extend(calls().iter().map(status::call));
    phases
}

/// Returns the procedure calls that are running, and the most recent calls that have ended.
fn calls() -> Vec<Call> {
    let call = |(index, call, is_running): (usize, ProcedureCall, bool)| {
        Some(Call {
            procedure: Procedure::ALL.get(index)?.name(),
            // A database that was dropped is left out.
            database: catalog::database_name(call.database.into())?,
            state: match (call.is_complete, is_running) {
                (true, _) => State::Complete,
                (false, true) => State::Running,
                (false, false) => State::Stopped,
            },
            step: call.phase.text().unwrap_or_default(),
            batches: call.batches,
            done: call.done,
            total: call.total,
            began: call.began,
            step_began: call.phase_began,
            updated: call.updated,
        })
    };
    progress::all().into_iter().filter_map(call).collect()
}

/// Returns the aggregate. Called inside a transaction.
pub fn document(families: &[Family]) -> Map<String, Value> {
    status::aggregate(&phases(families), clock::now())
}

pub struct StatusFile {
    notifier: Arc<Notifier>,
    /// Writes the files to the configured directory.
    pool: Pool<FileWrites>,
    path: Option<PathBuf>,
    /// The start time of the write that is running now, and true if the delay of this write has been reported.
    under_way: Option<(Instant, bool)>,
    looks_at: Option<Instant>,
    /// The last written phases, and when they were written.
    written: Option<(Vec<Phase>, Instant)>,
}

impl StatusFile {
    pub fn new(notifier: &Arc<Notifier>) -> StatusFile {
        StatusFile {
            notifier: Arc::clone(notifier),
            pool: Pool::with_notifier(Arc::clone(notifier)),
            path: None,
            under_way: None,
            looks_at: None,
            written: None,
        }
    }

    /// Handles a finished write, and writes changes.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let path = guc::status_file();
        if path != self.path {
            // Replaces the whole state, because a thread may still wait for the disk of the old path if this disk does not respond.
            *self = StatusFile { path, ..StatusFile::new(&self.notifier) };
        }
        let path = self.path.clone()?;
        self.collect(now);
        if self.under_way.is_none() && self.looks_at.is_none_or(|at| at <= now) {
            self.looks_at = Some(now + LOOKS_EVERY);
            match in_transaction(|| phases(&metric_values::families(None))) {
                Ok(phases) => self.write_if_changed(path, phases, now),
                Err(reason) => exported(Exporter::StatusFile, Err(&reason)),
            }
        }
        match self.under_way {
            Some((began, is_late)) => (!is_late).then_some(began + WRITES_WITHIN),
            None => self.looks_at,
        }
    }

    fn collect(&mut self, now: Instant) {
        for finished in self.pool.finished() {
            self.under_way = None;
            if finished.done.is_err() {
                self.written = None;
            }
            exported(Exporter::StatusFile, finished.done.as_ref().copied().map_err(String::as_str));
        }
        if let Some((began, is_late @ false)) = &mut self.under_way
            && now.saturating_duration_since(*began) >= WRITES_WITHIN
        {
            *is_late = true;
            let reason =
                format!("writing the status file has taken more than {} seconds", WRITES_WITHIN.as_secs());
            exported(Exporter::StatusFile, Err(&reason));
        }
    }

    fn write_if_changed(&mut self, path: PathBuf, phases: Vec<Phase>, now: Instant) {
        let is_current = |(written, at): &(Vec<Phase>, Instant)| {
            *written == phases && now.saturating_duration_since(*at) < HEARTBEAT
        };
        if self.written.as_ref().is_some_and(is_current) {
            return;
        }
        let writing = match writing(path, &phases) {
            Ok(writing) => writing,
            Err(reason) => return exported(Exporter::StatusFile, Err(&reason)),
        };
        match background::without_signals(|| self.pool.start(0, writing)) {
            Ok(()) => (self.under_way, self.written) = (Some((now, false)), Some((phases, now))),
            Err(error) => exported(Exporter::StatusFile, Err(&error.to_string())),
        }
    }
}

/// Returns the files to write: one file for each phase, followed by the aggregate file. The aggregate file has the names of the
/// other files.
fn writing(path: PathBuf, phases: &[Phase]) -> Result<FileWrites, String> {
    let now = clock::now();
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("the path in cowrie_enrich.status_file does not end with the name of a file".to_owned());
    };
    let bytes = |document: Map<String, Value>| {
        serde_json::to_vec(&Value::Object(document)).map_err(|error| error.to_string())
    };
    let mut files = Vec::new();
    for phase in phases {
        files.push((phase.file(), bytes(phase.document(now))?));
    }
    files.push((name.to_string_lossy().into_owned(), bytes(status::aggregate(phases, now))?));
    Ok(FileWrites { directory: directory.to_owned(), files, forbidden: pg::data_directory() })
}
