//! Stores a batch, and decides what to do if this fails.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::metrics::Metrics;
use super::open::OpenSessions;
use super::remembered::Fate;
use super::report::Reported;
use super::run::{Follower, NAPTIME};
use super::state::{Batch, Kind, StateDirectory};
use super::writer::{Inserted, Outcome, Prepared, is_caused_by_a_row, is_timeout};
use crate::load::{explained, without_values};
use crate::session::Session;

/// Maximum number of consecutive sessions that are set aside. If the database refuses more, these sessions are held until a later
/// session shows whether the cause is in the sessions or in the database.
pub(super) const MOST_REJECTED: usize = 10;

/// Maximum number of sessions that are held. If the database refuses more, all of them are set aside, so that an attacker cannot stop
/// the program.
const MOST_HELD: usize = 1000;

/// Pause between two saves of the state while many sessions are set aside.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// The file for late events of sessions that were stored long ago.
const LATE_FILE: &str = "late.json";
/// The file for sessions that the database refuses.
const REJECTED_FILE: &str = "rejected.json";

impl Follower {
    /// Stores the first batch, or a part of it.
    pub(super) fn store(&mut self) -> Result<Duration, String> {
        if let Some(Batch { kind: Kind::Aside(fate), sessions, .. }) = self.batches.front() {
            for session in sessions {
                set_aside(&self.state, *fate, session)?;
            }
            self.batches.pop_front();
            self.save()?;
            return Ok(Duration::ZERO);
        }
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
        let Follower {
            writer: Some(writer), batches, held, metrics, state, logs, open, late_problem, ..
        } = self
        else {
            return Ok(Stored::Later);
        };
        let Some(batch) = batches.front_mut() else { return Ok(Stored::Done) };
        let was_committing = batch.is_committing;
        let count = batch.sessions.len() as u64;
        let is_late = batch.kind == Kind::Late;
        let prepared: Prepared;
        if is_late {
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
            if !was_committing && batch.sessions.iter().any(|session| writer.is_unsafe(session)) {
                let sessions = batches.pop_front().map(|batch| batch.sessions).unwrap_or_default();
                let (parts, whole): (Vec<Session>, Vec<Session>) =
                    sessions.into_iter().partition(|session| writer.is_unsafe(session));
                if !whole.is_empty() {
                    batches.push_front(Batch::new(Kind::Sessions, whole));
                }
                let why = "whose start was not read";
                batches.extend(leave_late(parts, why, open, metrics, late_problem));
                return Ok(Stored::Done);
            }
            match writer.insert(&batch.sessions)? {
                Inserted::AllNew(inserted) => prepared = inserted,
                Inserted::NoneNew => {
                    // If `was_committing`, the commit of an earlier attempt succeeded, so this program stored the sessions.
                    let sessions = batches.pop_front().map(|batch| batch.sessions).unwrap_or_default();
                    if !was_committing {
                        batches.extend(leave_known(sessions, open, metrics, late_problem));
                    }
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
            .save(&logs.positions, open.sessions(), open.memory(), batches.iter().chain(held.iter()))
            .map_err(|error| Failure::File(format!("could not write the state file: {error}")))?;
        let (rows, truncated) = (prepared.rows, prepared.cut);
        prepared.commit()?;
        batches.pop_front();
        metrics.sessions += if is_late { 0 } else { count };
        metrics.rows += rows;
        metrics.truncated += truncated;
        metrics.last_commit = Some(Timestamp::now());
        // The database stores sessions, so the cause is in those that it refuses.
        self.rejections_left = MOST_REJECTED + self.held.len();
        while self.take_held() {}
        Ok(Stored::Done)
    }

    /// Takes the oldest session that is held, after a pause. Takes all of them, to be set aside, if they are too many.
    pub(super) fn try_held(&mut self) {
        if self.held.is_empty() || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        if self.is_holding_most() {
            self.rejections_left = self.held.len();
            while self.take_held() {}
        } else {
            self.take_held();
        }
    }

    pub(super) fn is_holding_most(&self) -> bool {
        self.held.len() >= MOST_HELD
    }

    /// Moves the oldest session that is held to the end of the batches.
    fn take_held(&mut self) -> bool {
        let Some(batch) = self.held.pop_front() else { return false };
        match self.batches.back_mut() {
            // One transaction can store them all if the database was repaired.
            Some(last)
                if last.kind == batch.kind
                    && !last.is_committing
                    && !batch.is_committing
                    && last.sessions.len() < MOST_HELD =>
            {
                last.sessions.extend(batch.sessions);
            }
            _ => self.batches.push_back(batch),
        }
        true
    }

    /// Holds the first batch, so that later sessions are tried.
    fn hold(&mut self, error: &postgres::Error) {
        let Some(batch) = self.batches.pop_front() else { return };
        self.held.push_back(batch);
        if self.batches.is_empty() || self.is_holding_most() {
            let problem = format!("could not store sessions, and will try again: {}", without_values(error));
            self.retry_at = Some(Instant::now() + self.try_later(problem));
        }
    }

    /// Decides what to do after an error: divide the batch, set its session aside, or try again later.
    fn recover(&mut self, error: &postgres::Error) -> Result<Duration, String> {
        let sessions = self.batches.front().map_or(0, |batch| batch.sessions.len());
        if sessions > 1 && (is_caused_by_a_row(error) || is_timeout(error)) {
            divide(&mut self.batches);
            return Ok(Duration::ZERO);
        }
        if is_caused_by_a_row(error) && self.rejections_left == 0 {
            self.hold(error);
            return Ok(Duration::ZERO);
        }
        if is_caused_by_a_row(error)
            && let Some(session) = self.batches.front().and_then(|batch| batch.sessions.first())
        {
            let file = set_aside(&self.state, Fate::Rejected, session)?;
            eprintln!(
                "cowrie-load: the database refuses the session {}, which was written to {}: {}",
                session.id,
                file.display(),
                explained(error)
            );
            self.rejections_left -= 1;
            self.metrics.rejected += 1;
            if self.batches.front().is_some_and(|batch| batch.kind == Kind::Sessions) {
                self.open.note(session, Fate::Rejected);
            }
            self.batches.pop_front();
            // A session that is written to the file twice is loaded once.
            if self.batches.is_empty() || self.saved_at.elapsed() >= SAVE_PAUSE {
                self.save()?;
            }
            return Ok(Duration::ZERO);
        }
        self.writer = None;
        // The server ended the connection, or the network did.
        self.is_away |= error.code().is_none_or(|code| code.code().starts_with("57P"));
        Ok(self.try_later(format!("could not store sessions, and will try again: {}", explained(error))))
    }
}

/// Counts sessions whose ids the table has already. Without a connect event these are late events of a session that was
/// stored long ago. This program cannot see which of their rows are stored, so it returns them as batches for a file.
fn leave_known(
    sessions: Vec<Session>,
    open: &mut OpenSessions,
    metrics: &mut Metrics,
    late_problem: &mut Reported,
) -> Vec<Batch> {
    let (known, late): (Vec<Session>, Vec<Session>) =
        sessions.into_iter().partition(|session| session.connected);
    metrics.known += known.len() as u64;
    known.iter().for_each(|session| open.note(session, Fate::Foreign));
    leave_late(late, "which was stored long ago", open, metrics, late_problem)
}

/// Returns late events as batches for a file.
fn leave_late(
    late: Vec<Session>,
    why: &str,
    open: &mut OpenSessions,
    metrics: &mut Metrics,
    late_problem: &mut Reported,
) -> Vec<Batch> {
    metrics.late += late.len() as u64;
    let to_file = |session: Session| {
        open.note(&session, Fate::Late);
        late_problem
            .report(format!("wrote late events of the session {}, {why}, to {LATE_FILE}", session.id));
        Batch::new(Kind::Aside(Fate::Late), vec![session])
    };
    late.into_iter().map(to_file).collect()
}

/// Writes a session to a file in the state directory.
fn set_aside(state: &StateDirectory, fate: Fate, session: &Session) -> Result<PathBuf, String> {
    let file = if fate == Fate::Late { LATE_FILE } else { REJECTED_FILE };
    state.set_aside(file, session).map_err(|error| format!("could not write {file}: {error}"))
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
        batches.push_front(Batch::new(first.kind, sessions));
    }
}
