//! The ids of sessions that are no longer open. They show what to do with events that come later.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::session::Session;

/// How long the id of a session is remembered if the session was closed, by the times in the log.
const CLOSED_REMEMBERED: Duration = Duration::from_secs(3600);
/// How long the id of a session is remembered if the session had no end, by the times in the log.
const UNCLOSED_REMEMBERED: Duration = Duration::from_secs(86_400);

/// Maximum number of remembered ids.
const MOST_REMEMBERED: usize = 10_000;

/// What happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// This program stored it, or is storing it.
    Stored,
    /// The database refuses it. It is in `rejected.json`.
    Rejected,
    /// Another program has stored it, and also stores its later events.
    Foreign,
    /// It was stored a long time ago. Later events are in `late.json`.
    Late,
}

impl Fate {
    pub const ALL: [Fate; 4] = [Fate::Stored, Fate::Rejected, Fate::Foreign, Fate::Late];

    /// The name in the state file.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Stored => "stored",
            Fate::Rejected => "rejected",
            Fate::Foreign => "foreign",
            Fate::Late => "late",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    pub fate: Fate,
    /// Start of the session in microseconds since 1970.
    pub start: i64,
    /// The id is remembered until this time of the logs, in seconds since 1970.
    pub until: i64,
}

/// Sessions that are no longer open, by id.
pub type Remembered = HashMap<String, Past>;

/// Returns true if these are events of this session that were read again: the connect event is the same.
pub fn is_read_again(past: &Past, session: &Session) -> bool {
    session.connected && session.start.as_microsecond() == past.start
}

/// Remembers sessions. Forgets ids that are too old, except those of open sessions.
pub fn remember(
    remembered: &mut Remembered,
    sessions: &[Session],
    log_time: Timestamp,
    is_open: impl Fn(&str) -> bool,
) {
    let now = log_time.as_second();
    remembered.retain(|id, past| past.until >= now || is_open(id));
    for session in sessions {
        let time = if session.end.is_some() { CLOSED_REMEMBERED } else { UNCLOSED_REMEMBERED };
        let until = now.saturating_add_unsigned(time.as_secs());
        let past = Past { fate: Fate::Stored, start: session.start.as_microsecond(), until };
        remembered.insert(session.id.clone(), past);
    }
    if remembered.len() > MOST_REMEMBERED {
        let mut times: Vec<i64> = remembered.values().map(|past| past.until).collect();
        times.sort_unstable();
        let oldest_kept = times[times.len() - MOST_REMEMBERED];
        remembered.retain(|_, past| past.until >= oldest_kept);
    }
}
