//! The main loop: scan, read, collect, store.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use postgres::Config;

use super::check::{Refusal, checked};
use super::logs::Logs;
use super::metrics::Metrics;
use super::open::{OpenLimits, OpenSessions};
use super::report::Reported;
use super::state::{Batch, StateDirectory};
use super::writer::{Inserted, Outcome, Prepared, Writer, is_caused_by_a_row, is_timeout};
use crate::connection;
use crate::load::explained;
use crate::log::{self, Rejected};
use crate::session::Session;

/// Pause between two looks at the directory.
const NAPTIME: Duration = Duration::from_millis(500);

/// Interval at which the state is saved if no session was stored.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which the metrics are written.
const METRICS_INTERVAL: Duration = Duration::from_secs(5);

/// Longest time for which a ready session waits for more sessions while old logs are read.
const STORE_INTERVAL: Duration = Duration::from_secs(5);

/// First pause after an attempt to store has failed. The pause grows with each further failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause after an attempt to store has failed.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Maximum number of consecutive sessions that are set aside. If the database refuses more, the cause is not
/// in the sessions.
const MOST_REJECTED: u32 = 10;

pub struct Options {
    pub directory: PathBuf,
    /// Directory for the state file.
    pub state: PathBuf,
    pub metrics: Option<PathBuf>,
    pub database: Config,
    pub limits: OpenLimits,
    /// Events before this time are skipped.
    pub from: Option<Timestamp>,
}

pub struct Follower {
    database: Config,
    metrics_file: Option<PathBuf>,
    from: Option<Timestamp>,
    state: StateDirectory,
    logs: Logs,
    open: OpenSessions,
    batches: VecDeque<Batch>,
    writer: Option<Writer>,
    has_connected: bool,
    backoff: Option<Duration>,
    rejected_in_a_row: u32,
    is_caught_up: bool,
    saved_at: Instant,
    stored_at: Instant,
    measured_at: Option<Instant>,
    pub metrics: Metrics,
    database_problem: Reported,
    read_problem: Reported,
    line_problem: Reported,
    metrics_problem: Reported,
}

impl Follower {
    /// Locks and loads the state.
    pub fn open(options: Options) -> Result<Follower, String> {
        let place = options.state.join("state.json");
        let state = StateDirectory::open(&options.state)
            .map_err(|error| format!("could not use {}: {error}", options.state.display()))?;
        let loaded = state.load().map_err(|error| {
            format!(
                "could not read {}: {error}; without this file all logs are read again from their beginning",
                place.display()
            )
        })?;
        if let Err(error) = std::fs::read_dir(&options.directory) {
            return Err(format!("could not read {}: {error}", options.directory.display()));
        }
        let mut database = options.database;
        // A server that has vanished is noticed within a minute.
        database.connect_timeout(Duration::from_secs(10));
        database.keepalives_idle(Duration::from_secs(30));
        database.tcp_user_timeout(Duration::from_secs(60));
        let mut logs = Logs::new(options.directory, loaded.positions);
        logs.scan();
        Ok(Follower {
            database,
            metrics_file: options.metrics,
            from: options.from,
            state,
            logs,
            open: OpenSessions::new(options.limits, loaded.open, loaded.stored),
            batches: loaded.batches,
            writer: None,
            has_connected: false,
            backoff: None,
            rejected_in_a_row: 0,
            is_caught_up: false,
            saved_at: Instant::now(),
            stored_at: Instant::now(),
            measured_at: None,
            metrics: Metrics::default(),
            database_problem: Reported::default(),
            read_problem: Reported::default(),
            line_problem: Reported::default(),
            metrics_problem: Reported::default(),
        })
    }

    /// Runs until an error occurs that no retry can remove.
    pub fn run(&mut self) -> Result<std::convert::Infallible, String> {
        loop {
            let pause = self.step()?;
            self.measure();
            std::thread::sleep(pause);
        }
    }

    /// Stores a waiting batch, or reads a piece of a log. Returns the time to wait before the next step.
    pub fn step(&mut self) -> Result<Duration, String> {
        if !self.has_connected {
            // Problems with the database are reported at the start, and not with the first session.
            if let Some(pause) = self.connect()? {
                return Ok(pause);
            }
        }
        if !self.batches.is_empty() {
            return self.store();
        }
        let has_read = self.read();
        self.is_caught_up = !has_read;
        if self.is_caught_up || self.open.is_full() || self.stored_at.elapsed() >= STORE_INTERVAL {
            self.collect();
        }
        if self.batches.is_empty() && self.saved_at.elapsed() >= SAVE_INTERVAL {
            self.save()?;
        }
        let is_idle = self.is_caught_up && self.batches.is_empty();
        Ok(if is_idle { NAPTIME } else { Duration::ZERO })
    }

    /// Reads a piece of a log. Returns false if no log has unread lines.
    fn read(&mut self) -> bool {
        self.logs.scan();
        let Follower { logs, open, metrics, line_problem, from, .. } = self;
        let has_read = logs.read(&mut |path, line| {
            if line.iter().all(u8::is_ascii_whitespace) {
                return;
            }
            metrics.lines += 1;
            match log::parse(line) {
                Ok(entry) if from.is_some_and(|from| entry.time < from) => {}
                Ok(entry) => open.add(entry),
                Err(Rejected::NoSession) => {}
                Err(Rejected::Malformed) => {
                    metrics.malformed += 1;
                    line_problem.report(format!("skipped a malformed line of {}", path.display()));
                }
            }
        });
        for error in logs.take_errors() {
            self.read_problem.report(format!("could not read {error}"));
        }
        has_read
    }

    /// Makes batches of the sessions that are ready.
    fn collect(&mut self) {
        self.stored_at = Instant::now();
        let ready = self.open.take(self.is_caught_up);
        for (sessions, is_late) in [(ready.sessions, false), (ready.late, true)] {
            // Late events without a row, such as a second close.
            let sessions: Vec<Session> =
                sessions.into_iter().filter(|session| !is_late || !session.events.is_empty()).collect();
            if !sessions.is_empty() {
                self.batches.push_back(Batch { sessions, is_late, is_committing: false, transaction: None });
            }
        }
    }

    /// Stores the first batch, or a part of it.
    fn store(&mut self) -> Result<Duration, String> {
        if self.writer.is_none()
            && let Some(pause) = self.connect()?
        {
            return Ok(pause);
        }
        match self.try_to_store() {
            Ok(Stored::Done) => {
                self.backoff = None;
                self.metrics.is_connected = true;
                self.save()?;
                Ok(Duration::ZERO)
            }
            Ok(Stored::Later) => Ok(NAPTIME),
            Err(Failure::File(error)) => Err(error),
            Err(Failure::Database(error)) => self.recover(&error),
        }
    }

    fn try_to_store(&mut self) -> Result<Stored, Failure> {
        let Follower { writer: Some(writer), batches, metrics, state, logs, open, .. } = self else {
            return Ok(Stored::Later);
        };
        let Some(batch) = batches.front_mut() else { return Ok(Stored::Done) };
        let was_committing = batch.is_committing;
        let count = batch.sessions.len() as u64;
        let prepared: Prepared;
        if batch.is_late {
            if let (true, Some(transaction)) = (was_committing, batch.transaction) {
                match writer.outcome(transaction)? {
                    Outcome::Committed => {
                        batches.pop_front();
                        return Ok(Stored::Done);
                    }
                    Outcome::InProgress => return Ok(Stored::Later),
                    Outcome::Aborted => {}
                }
            }
            let (inserted, transaction) = writer.insert_late(&batch.sessions)?;
            batch.transaction = Some(transaction);
            prepared = inserted;
        } else {
            match writer.insert(&batch.sessions)? {
                Inserted::AllNew(inserted) => prepared = inserted,
                Inserted::NoneNew => {
                    // If `was_committing`, the commit of an earlier attempt succeeded, so this program stored the sessions.
                    if !was_committing {
                        metrics.known += count;
                        open.forget(&batch.sessions);
                    }
                    batches.pop_front();
                    return Ok(Stored::Done);
                }
                Inserted::Mixed => {
                    divide(batches);
                    return Ok(Stored::Done);
                }
            }
        }
        batch.is_committing = true;
        state
            .save(&logs.positions, open.sessions(), open.remembered(), batches)
            .map_err(|error| Failure::File(format!("could not write the state file: {error}")))?;
        let (rows, truncated) = (prepared.rows, prepared.cut);
        prepared.commit()?;
        let is_late = batches.pop_front().is_some_and(|batch| batch.is_late);
        metrics.sessions += if is_late { 0 } else { count };
        metrics.rows += rows;
        metrics.truncated += truncated;
        metrics.last_commit = Some(Timestamp::now());
        self.rejected_in_a_row = 0;
        Ok(Stored::Done)
    }

    /// Decides what to do after an error: divide the batch, set its session aside, or try again later.
    fn recover(&mut self, error: &postgres::Error) -> Result<Duration, String> {
        let sessions = self.batches.front().map_or(0, |batch| batch.sessions.len());
        if sessions > 1 && (is_caused_by_a_row(error) || is_timeout(error)) {
            divide(&mut self.batches);
            return Ok(Duration::ZERO);
        }
        if is_caused_by_a_row(error)
            && self.rejected_in_a_row < MOST_REJECTED
            && let Some(session) = self.batches.front().and_then(|batch| batch.sessions.first())
        {
            let file = self
                .state
                .set_aside(session)
                .map_err(|error| format!("could not write rejected.json: {error}"))?;
            eprintln!(
                "cowrie-load: the database refuses the session {}, which was written to {}: {}",
                session.id,
                file.display(),
                explained(error)
            );
            self.rejected_in_a_row += 1;
            self.metrics.rejected += 1;
            self.batches.pop_front();
            self.save()?;
            return Ok(Duration::ZERO);
        }
        self.writer = None;
        Ok(self.try_later(format!("could not store sessions, and will try again: {}", explained(error))))
    }

    /// Connects. Returns the time to wait if this failed. Missing tables and privileges are errors at the first
    /// connection. Later they are a reason to wait, because an administrator may be changing the database.
    fn connect(&mut self) -> Result<Option<Duration>, String> {
        let problem = match connection::open(&self.database) {
            Err(error) => format!("could not connect, and will try again: {}", explained(&error)),
            Ok(client) => match checked(client) {
                Ok(writer) => {
                    if !std::mem::replace(&mut self.has_connected, true) {
                        let waiting = self.open.count();
                        eprintln!("cowrie-load: connected; {waiting} sessions of the last run are open");
                    } else if self.backoff.is_some() {
                        eprintln!("cowrie-load: connected again");
                        self.database_problem = Reported::default();
                    }
                    self.writer = Some(writer);
                    self.metrics.is_connected = true;
                    return Ok(None);
                }
                Err(Refusal::Unusable(problem)) if !self.has_connected => return Err(problem),
                Err(Refusal::Unusable(problem) | Refusal::Failed(problem)) => problem,
            },
        };
        Ok(Some(self.try_later(problem)))
    }

    fn try_later(&mut self, problem: String) -> Duration {
        self.metrics.is_connected = false;
        self.metrics.database_errors += 1;
        self.database_problem.report(problem);
        let pause = self.backoff.map_or(FIRST_BACKOFF, |last| (last * 2).min(LONGEST_BACKOFF));
        self.backoff = Some(pause);
        // The metrics show the failure before the pause.
        self.measured_at = None;
        pause
    }

    fn save(&mut self) -> Result<(), String> {
        self.saved_at = Instant::now();
        self.state
            .save(&self.logs.positions, self.open.sessions(), self.open.remembered(), &self.batches)
            .map_err(|error| format!("could not write the state file: {error}"))
    }

    /// Updates the metrics that are not counters, and writes all metrics to the file.
    fn measure(&mut self) {
        if self.measured_at.is_some_and(|at| at.elapsed() < METRICS_INTERVAL) {
            return;
        }
        self.measured_at = Some(Instant::now());
        if !self.batches.is_empty() {
            self.logs.scan();
        }
        self.metrics.open_sessions = self.open.count() as u64;
        self.metrics.lost_updates = self.open.lost_updates;
        self.metrics.unread_bytes = self.logs.unread_bytes();
        self.metrics.read_errors = self.logs.error_count;
        let age = |time: Timestamp| Timestamp::now().duration_since(time).max(SignedDuration::ZERO);
        self.metrics.lag_seconds = self.oldest_waiting().map_or(0.0, |time| age(time).as_secs_f64());
        if let Some(path) = &self.metrics_file
            && let Err(error) = self.metrics.write(path)
        {
            self.metrics_problem.report(format!("could not write {}: {error}", path.display()));
        }
    }

    /// Time of the oldest event that waits to be read or stored. Open sessions do not count.
    fn oldest_waiting(&self) -> Option<Timestamp> {
        let waiting = self.batches.iter().flat_map(|batch| &batch.sessions).filter_map(|session| session.end);
        let unread = self.logs.first_unread().map(|first| {
            // Logs are read in the order of time, so the part of this log before the last event is read.
            self.open.log_time().map_or(first, |log_time| log_time.max(first))
        });
        waiting.chain(self.open.oldest_end()).chain(unread).min()
    }
}

/// The result of an attempt to store a batch.
enum Stored {
    Done,
    Later,
}

enum Failure {
    Database(postgres::Error),
    File(String),
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        Failure::Database(error)
    }
}

/// Replaces the first batch by its halves. The halves are stored independently.
fn divide(batches: &mut VecDeque<Batch>) {
    let Some(mut first) = batches.pop_front() else { return };
    let rest = first.sessions.split_off(first.sessions.len() / 2);
    for sessions in [rest, first.sessions].into_iter().filter(|sessions| !sessions.is_empty()) {
        batches.push_front(Batch {
            sessions,
            is_late: first.is_late,
            is_committing: false,
            transaction: None,
        });
    }
}
