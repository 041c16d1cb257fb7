//! Stores a batch, and decides what to do if this fails.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::metrics::Metrics;
use super::open::OpenSessions;
use super::remembered::Fate;
use super::report::Reported;
use super::run::{Follower, NAPTIME};
use super::state::{Batch, Kind, StateDirectory};
use super::writer::{Inserted, Outcome, Prepared, is_caused_by_a_row, is_timeout};
use crate::load::explained;
use crate::session::Session;

/// Maximum number of consecutive sessions that are set aside. If the database refuses more, the cause is not
/// in the sessions.
const MOST_REJECTED: u32 = 10;

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
        let Follower { writer: Some(writer), batches, metrics, state, logs, open, late_problem, .. } = self
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
            .save(&logs.positions, open.sessions(), open.memory(), batches)
            .map_err(|error| Failure::File(format!("could not write the state file: {error}")))?;
        let (rows, truncated) = (prepared.rows, prepared.cut);
        prepared.commit()?;
        batches.pop_front();
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
            let file = set_aside(&self.state, Fate::Rejected, session)?;
            eprintln!(
                "cowrie-load: the database refuses the session {}, which was written to {}: {}",
                session.id,
                file.display(),
                explained(error)
            );
            self.rejected_in_a_row += 1;
            self.metrics.rejected += 1;
            if self.batches.front().is_some_and(|batch| batch.kind == Kind::Sessions) {
                self.open.note(session, Fate::Rejected);
            }
            self.batches.pop_front();
            self.save()?;
            return Ok(Duration::ZERO);
        }
        self.writer = None;
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
    metrics.late += late.len() as u64;
    known.iter().for_each(|session| open.note(session, Fate::Foreign));
    let to_file = |session: Session| {
        open.note(&session, Fate::Late);
        late_problem.report(format!(
            "wrote late events of the session {}, which was stored long ago, to {LATE_FILE}",
            session.id
        ));
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
