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
use super::report::{Reported, Summary, Totals};
use super::state::{Batch, Kind, StateDirectory};
use super::store::MOST_REJECTED;
use super::writer::Writer;
use crate::connection;
use crate::load::explained;
use crate::log::{self, Rejected};
use crate::session::Session;

/// Pause between two looks at the directory.
pub(super) const NAPTIME: Duration = Duration::from_millis(500);

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
    pub(super) state: StateDirectory,
    pub(super) logs: Logs,
    pub(super) open: OpenSessions,
    pub(super) batches: VecDeque<Batch>,
    /// Sessions that the database refuses, until a later session shows whether it stores other sessions.
    pub(super) held: VecDeque<Batch>,
    pub(super) retry_at: Option<Instant>,
    pub(super) writer: Option<Writer>,
    has_connected: bool,
    pub(super) backoff: Option<Duration>,
    /// Number of sessions that may be set aside before the database must have stored another session.
    pub(super) rejections_left: usize,
    /// True if the connection is lost.
    pub(super) is_away: bool,
    is_caught_up: bool,
    pub(super) saved_at: Instant,
    stored_at: Instant,
    measured_at: Option<Instant>,
    pub metrics: Metrics,
    database_problem: Reported,
    read_problem: Reported,
    line_problem: Reported,
    time_problem: Reported,
    pub(super) late_problem: Reported,
    metrics_problem: Reported,
    summary: Summary,
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
        logs.scan(Instant::now());
        Ok(Follower {
            database,
            metrics_file: options.metrics,
            from: options.from,
            state,
            logs,
            open: OpenSessions::new(options.limits, loaded.open, loaded.past, loaded.time),
            batches: loaded.batches,
            held: VecDeque::new(),
            retry_at: None,
            writer: None,
            has_connected: false,
            backoff: None,
            rejections_left: MOST_REJECTED,
            is_away: false,
            is_caught_up: false,
            saved_at: Instant::now(),
            stored_at: Instant::now(),
            measured_at: None,
            metrics: Metrics::default(),
            database_problem: Reported::default(),
            read_problem: Reported::default(),
            line_problem: Reported::default(),
            time_problem: Reported::default(),
            late_problem: Reported::default(),
            metrics_problem: Reported::default(),
            summary: Summary::new(Instant::now()),
        })
    }

    /// Runs until an error occurs that no retry can remove.
    pub fn run(&mut self) -> Result<std::convert::Infallible, String> {
        loop {
            let pause = self.step()?;
            self.measure();
            self.summarize();
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
        if self.batches.is_empty() || self.is_holding_most() {
            self.try_held();
        }
        if self.is_holding_most() {
            return Ok(NAPTIME);
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
        let now = Instant::now();
        self.logs.scan(now);
        let Follower { logs, open, metrics, line_problem, time_problem, from, .. } = self;
        let has_read = logs.read(now, &mut |path, line| {
            let parsed = log::parse(line);
            metrics.lines += u64::from(parsed != Err(Rejected::Blank));
            match parsed {
                Ok(entry) if from.is_some_and(|from| entry.time < from) => {}
                Ok(entry) => {
                    let before = open.clock.future;
                    open.add(entry);
                    if open.clock.future > before {
                        time_problem.report(format!(
                            "{} has lines with a time after the clock of this machine",
                            path.display()
                        ));
                    }
                }
                Err(Rejected::NoSession | Rejected::Blank) => {}
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
        let unfinished = self.logs.unfinished_ends(self.stored_at, Timestamp::now());
        let ready = self.open.take(self.is_caught_up, &unfinished);
        self.metrics.known += ready.repeated;
        // Late events without a row, such as a second close.
        let late: Vec<Session> =
            ready.late.into_iter().filter(|session| !session.events.is_empty()).collect();
        for (sessions, kind) in [(ready.sessions, Kind::Sessions), (late, Kind::Late)] {
            if !sessions.is_empty() {
                self.batches.push_back(Batch::new(kind, sessions));
            }
        }
        for (fate, session) in ready.aside {
            self.batches.push_back(Batch::new(Kind::Aside(fate), vec![session]));
        }
    }

    /// Connects. Returns the time to wait if this failed. Missing tables and privileges are errors at the first
    /// connection. Later they are a reason to wait, because an administrator may be changing the database.
    pub(super) fn connect(&mut self) -> Result<Option<Duration>, String> {
        let problem = match connection::open(&self.database) {
            Err(error) => format!("could not connect, and will try again: {}", explained(&error)),
            Ok(client) => match checked(client) {
                Ok(writer) => {
                    if !std::mem::replace(&mut self.has_connected, true) {
                        let waiting = self.open.count();
                        eprintln!("cowrie-load: connected; {waiting} sessions of the last run are open");
                    } else if self.is_away {
                        eprintln!("cowrie-load: connected again");
                        self.database_problem = Reported::default();
                    }
                    self.is_away = false;
                    self.writer = Some(writer);
                    self.metrics.is_connected = true;
                    return Ok(None);
                }
                Err(Refusal::Unusable(problem)) if !self.has_connected => return Err(problem),
                Err(Refusal::Unusable(problem) | Refusal::Failed(problem)) => problem,
            },
        };
        self.is_away = true;
        Ok(Some(self.try_later(problem)))
    }

    pub(super) fn try_later(&mut self, problem: String) -> Duration {
        self.metrics.is_connected = false;
        self.metrics.database_errors += 1;
        self.database_problem.report(problem);
        let pause = self.backoff.map_or(FIRST_BACKOFF, |last| (last * 2).min(LONGEST_BACKOFF));
        self.backoff = Some(pause);
        // The metrics show the failure before the pause.
        self.measured_at = None;
        pause
    }

    pub(super) fn save(&mut self) -> Result<(), String> {
        self.saved_at = Instant::now();
        self.state
            .save(
                &self.logs.positions,
                self.open.sessions(),
                self.open.memory(),
                self.batches.iter().chain(&self.held),
            )
            .map_err(|error| format!("could not write the state file: {error}"))
    }

    /// Updates the metrics that are not counters, and writes all metrics to the file.
    fn measure(&mut self) {
        if self.measured_at.is_some_and(|at| at.elapsed() < METRICS_INTERVAL) {
            return;
        }
        let now = Instant::now();
        self.measured_at = Some(now);
        if !self.batches.is_empty() {
            self.logs.scan(now);
        }
        self.metrics.open_sessions = self.open.count() as u64;
        self.metrics.lost_updates = self.open.lost_updates;
        self.metrics.future = self.open.clock.future;
        self.metrics.unread_bytes = self.logs.unread_bytes(now);
        self.metrics.read_errors = self.logs.error_count;
        let age = |time: Timestamp| Timestamp::now().duration_since(time).max(SignedDuration::ZERO);
        self.metrics.lag_seconds = self.oldest_waiting(now).map_or(0.0, |time| age(time).as_secs_f64());
        if let Some(path) = &self.metrics_file
            && let Err(error) = self.metrics.write(path)
        {
            self.metrics_problem.report(format!("could not write {}: {error}", path.display()));
        }
    }

    /// Logs what was stored.
    fn summarize(&mut self) {
        let Follower { logs, open, batches, metrics, is_caught_up, summary, .. } = self;
        let now = Instant::now();
        let totals = || Totals {
            stored: metrics.sessions,
            open: open.count(),
            logs: logs.current().count(),
            newest: logs.current().last().map(|position| (position.name.clone(), position.read.bytes)),
            unread: logs.unread_bytes(now),
        };
        if let Some(message) =
            summary.message(now, *is_caught_up && batches.is_empty(), metrics.sessions, totals)
        {
            eprintln!("cowrie-load: {message}");
        }
    }

    /// Time of the oldest event that waits to be read or stored. Open sessions do not count.
    fn oldest_waiting(&self, now: Instant) -> Option<Timestamp> {
        let waiting = self
            .batches
            .iter()
            .chain(&self.held)
            .flat_map(|batch| &batch.sessions)
            .filter_map(|session| session.end);
        let unread = self.logs.first_unread(now).map(|first| {
            // Logs are read in the order of time, so the part of this log before the last event is read.
            self.open.clock.time().map_or(first, |log_time| log_time.max(first))
        });
        waiting.chain(self.open.oldest_end()).chain(unread).min()
    }
}
