//! Sessions whose end was not read yet, or that are not stored yet.
//!
//! A role with `INSERT` alone cannot change a stored session. So a session is stored when it is complete:
//!
//! - A closed session waits two more seconds, because some events (the terminal's log) can follow the close.
//! - A session without an end is stored after it had no event for [`OpenLimits::idle`]. The honeypot was restarted.
//! - If the open sessions take more than [`OpenLimits::bytes`], the largest of them are stored as they are.
//!
//! Events of a session that was stored recently are late. Their rows are stored, but the row of the session stays as it
//! is. Waits are measured by the times in the log, so that a log of last year is read as if it were written now. When
//! all logs are read to their end, a wait can also end by the clock of this machine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::log::{Entry, Event};
use crate::session::Session;

/// Time for which a closed session waits for more events.
const LINGER: Duration = Duration::from_secs(2);

/// How long the id of a stored session is remembered if the session was closed, by the times in the log.
const CLOSED_REMEMBERED: Duration = Duration::from_secs(3600);
/// How long the id of a stored session is remembered if the session had no end, by the times in the log.
const UNCLOSED_REMEMBERED: Duration = Duration::from_secs(86_400);

/// Maximum number of remembered ids.
const MOST_REMEMBERED: usize = 10_000;

#[derive(Clone, Copy, Debug)]
pub struct OpenLimits {
    /// Number of complete sessions that one transaction stores.
    pub batch: usize,
    /// Maximum size of the open sessions' text in bytes.
    pub bytes: usize,
    /// Time after which a session without an event is taken as ended.
    pub idle: Duration,
}

impl Default for OpenLimits {
    /// Cowrie closes a session after five minutes without input.
    fn default() -> Self {
        OpenLimits { batch: 5000, bytes: 64 << 20, idle: Duration::from_secs(3600) }
    }
}

#[derive(Debug)]
struct Open {
    session: Session,
    /// Time of the newest event in the log.
    last_event: Timestamp,
    /// When this program read the newest event.
    read_at: Instant,
    /// True if the session itself is stored already.
    is_late: bool,
}

/// A session that was stored, and the time until which its id is remembered.
pub type Remembered = HashMap<String, Timestamp>;

/// Sessions that are ready to be stored.
#[derive(Debug, Default)]
pub struct Ready {
    pub sessions: Vec<Session>,
    /// Late events of sessions that are stored already.
    pub late: Vec<Session>,
}

pub struct OpenSessions {
    limits: OpenLimits,
    open: HashMap<String, Open>,
    remembered: Remembered,
    bytes: usize,
    /// Time of the line that was read last.
    log_time: Option<Timestamp>,
    /// Closed sessions that are not stored yet.
    closed: usize,
    /// Late events that would have changed the row of a stored session.
    pub lost_updates: u64,
}

impl OpenSessions {
    pub fn new(limits: OpenLimits, sessions: Vec<Session>, remembered: Remembered) -> OpenSessions {
        let mut open = OpenSessions {
            limits,
            open: HashMap::new(),
            remembered,
            bytes: 0,
            log_time: None,
            closed: 0,
            lost_updates: 0,
        };
        for session in sessions {
            open.bytes += session.bytes();
            open.closed += usize::from(session.end.is_some());
            let times = session.events.iter().map(|(time, _)| *time);
            let last_event = times.chain([session.start]).chain(session.end).max().unwrap_or(session.start);
            let is_late = open.remembered.contains_key(&session.id);
            let read_at = Instant::now();
            open.open.insert(session.id.clone(), Open { session, last_event, read_at, is_late });
        }
        open
    }

    pub fn add(&mut self, entry: Entry) {
        self.log_time = Some(entry.time);
        let open = self.open.entry(entry.session.clone()).or_insert_with_key(|id| {
            let session = Session::begin(&entry);
            self.bytes += session.bytes();
            let is_late = self.remembered.contains_key(id);
            Open { session, last_event: entry.time, read_at: Instant::now(), is_late }
        });
        open.last_event = open.last_event.max(entry.time);
        open.read_at = Instant::now();
        if open.is_late
            && matches!(
                entry.event,
                Event::Connect | Event::Closed | Event::ClientVersion(_) | Event::TerminalSize(_)
            )
        {
            self.lost_updates += 1;
        }
        let was_closed = open.session.end.is_some();
        self.bytes += open.session.add(entry).bytes;
        self.closed += usize::from(!was_closed && open.session.end.is_some());
    }

    /// Returns true if enough sessions are closed, or too much memory is in use.
    pub fn is_full(&self) -> bool {
        self.closed >= self.limits.batch || self.bytes > self.limits.bytes
    }

    /// Removes and returns the sessions that are ready. `is_caught_up` is true if all logs are read to their end.
    pub fn take(&mut self, is_caught_up: bool) -> Ready {
        let now = Instant::now();
        let passed = |open: &Open, limit: Duration| {
            let in_log = self.log_time.map(|log_time| log_time.duration_since(open.last_event));
            let limit_in_log = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
            in_log.is_some_and(|time| time >= limit_in_log)
                || is_caught_up && now.duration_since(open.read_at) >= limit
        };
        let is_ready = |open: &Open| match open.session.end {
            Some(_) => passed(open, LINGER),
            None => passed(open, if open.is_late { LINGER } else { self.limits.idle }),
        };
        let mut ids: Vec<String> =
            self.open.iter().filter(|(_, open)| is_ready(open)).map(|(id, _)| id.clone()).collect();
        if self.bytes > self.limits.bytes {
            ids = self.with_largest(ids);
        }
        let mut ready = Ready::default();
        for open in ids.iter().filter_map(|id| self.open.remove(id)) {
            match open.is_late {
                true => ready.late.push(open.session),
                false => ready.sessions.push(open.session),
            }
        }
        for sessions in [&mut ready.sessions, &mut ready.late] {
            sessions.sort_by(|a, b| (a.start, &a.id).cmp(&(b.start, &b.id)));
        }
        if !ids.is_empty() {
            self.remember(&ready.sessions);
            self.bytes = self.open.values().map(|open| open.session.bytes()).sum();
            self.closed = self.open.values().filter(|open| open.session.end.is_some()).count();
        }
        ready
    }

    /// Adds the ids of the largest open sessions to `ids`, until the other open sessions take at most half of
    /// the limit.
    fn with_largest(&self, mut ids: Vec<String>) -> Vec<String> {
        let mut sizes: Vec<(usize, &String)> =
            self.open.iter().map(|(id, open)| (open.session.bytes(), id)).collect();
        sizes.sort();
        let mut left: usize = sizes.iter().map(|(size, _)| size).sum();
        for (size, id) in sizes.iter().rev() {
            if left <= self.limits.bytes / 2 {
                break;
            }
            left -= size;
            if !ids.contains(id) {
                ids.push((*id).clone());
            }
        }
        ids
    }

    fn remember(&mut self, sessions: &[Session]) {
        let Some(log_time) = self.log_time else { return };
        self.remembered.retain(|_, until| *until >= log_time);
        for session in sessions {
            let time = if session.end.is_some() { CLOSED_REMEMBERED } else { UNCLOSED_REMEMBERED };
            let until = log_time.checked_add(time).unwrap_or(log_time);
            self.remembered.insert(session.id.clone(), until);
        }
        if self.remembered.len() > MOST_REMEMBERED {
            let mut times: Vec<Timestamp> = self.remembered.values().copied().collect();
            times.sort();
            let oldest_kept = times[times.len() - MOST_REMEMBERED];
            self.remembered.retain(|_, until| *until >= oldest_kept);
        }
    }

    /// Forgets sessions that another program has stored. That program also stores their late events.
    pub fn forget(&mut self, sessions: &[Session]) {
        for session in sessions {
            self.remembered.remove(&session.id);
            if let Some(open) = self.open.get_mut(&session.id) {
                open.is_late = false;
            }
        }
    }

    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.open.values().map(|open| &open.session)
    }

    pub fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    pub fn log_time(&self) -> Option<Timestamp> {
        self.log_time
    }

    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The time of the oldest close among the sessions that are not stored yet.
    pub fn oldest_end(&self) -> Option<Timestamp> {
        self.open.values().filter_map(|open| open.session.end).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, second: i64, event: Event) -> Entry {
        Entry {
            session: id.into(),
            time: Timestamp::from_second(second).unwrap(),
            sensor: "trap".into(),
            address: "192.0.2.1".into(),
            event,
        }
    }

    fn open(limits: OpenLimits) -> OpenSessions {
        OpenSessions::new(limits, Vec::new(), Remembered::new())
    }

    fn command(text: &str) -> Event {
        Event::Input { success: Some(true), realm: None, input: text.into() }
    }

    fn ids(sessions: &[Session]) -> Vec<&str> {
        sessions.iter().map(|session| session.id.as_str()).collect()
    }

    #[test]
    fn a_closed_session_waits_for_two_seconds_of_the_log() {
        let mut open = open(OpenLimits::default());
        open.add(entry("a", 10, Event::Connect));
        open.add(entry("a", 20, Event::Closed));
        open.add(entry("b", 21, Event::Connect));
        assert!(open.take(false).sessions.is_empty());
        open.add(entry("a", 21, Event::Terminal { ttylog: "late".into(), size: 1 }));
        open.add(entry("b", 23, command("ls")));
        let ready = open.take(false);
        assert_eq!(ids(&ready.sessions), ["a"]);
        assert_eq!(ready.sessions[0].events.len(), 1);
        assert_eq!(open.count(), 1);
    }

    #[test]
    fn an_open_session_is_ready_after_the_idle_time_of_the_log() {
        let mut open = open(OpenLimits { idle: Duration::from_secs(100), ..OpenLimits::default() });
        open.add(entry("a", 10, Event::Connect));
        open.add(entry("b", 109, Event::Connect));
        assert!(open.take(false).sessions.is_empty());
        open.add(entry("b", 110, command("ls")));
        let ready = open.take(false);
        assert_eq!(ids(&ready.sessions), ["a"]);
        assert_eq!(ready.sessions[0].end, None);
    }

    #[test]
    fn at_the_end_of_the_logs_the_clock_of_the_machine_counts() {
        let mut open = open(OpenLimits { idle: Duration::ZERO, ..OpenLimits::default() });
        open.add(entry("a", 10, Event::Connect));
        open.add(entry("b", 9, Event::Connect));
        assert_eq!(ids(&open.take(true).sessions), ["b", "a"]);
    }

    #[test]
    fn events_of_a_stored_session_are_late() {
        let mut open = open(OpenLimits::default());
        open.add(entry("a", 10, Event::Connect));
        open.add(entry("a", 11, Event::Closed));
        open.add(entry("b", 13, Event::Connect));
        assert_eq!(ids(&open.take(false).sessions), ["a"]);
        open.add(entry("a", 14, Event::Terminal { ttylog: "late".into(), size: 1 }));
        open.add(entry("a", 14, Event::Closed));
        assert_eq!(open.lost_updates, 1);
        // The state file keeps the late part and the remembered id.
        let kept = open.sessions().cloned().collect();
        let mut open = OpenSessions::new(OpenLimits::default(), kept, open.remembered().clone());
        open.add(entry("b", 17, command("ls")));
        let ready = open.take(false);
        assert_eq!((ids(&ready.sessions), ids(&ready.late)), (vec![], vec!["a"]));
        assert_eq!(ready.late[0].events.len(), 1);
        // After an hour the id is free again.
        open.add(entry("c", 3620, Event::Connect));
        open.add(entry("c", 3621, Event::Closed));
        open.add(entry("d", 3624, Event::Connect));
        assert_eq!(ids(&open.take(false).sessions), ["b", "c"]);
        assert!(!open.remembered().contains_key("a"));
    }

    #[test]
    fn the_largest_sessions_are_stored_when_memory_is_short() {
        let mut open = open(OpenLimits { bytes: 10_000, ..OpenLimits::default() });
        open.add(entry("small", 1, Event::Connect));
        open.add(entry("large", 1, Event::Connect));
        while !open.is_full() {
            open.add(entry("large", 1, command(&"x".repeat(100))));
        }
        assert_eq!(ids(&open.take(false).sessions), ["large"]);
        assert!(!open.is_full());
        open.add(entry("large", 2, command("ls")));
        open.add(entry("small", 5, command("ls")));
        assert_eq!(ids(&open.take(false).late), ["large"]);
    }

    #[test]
    fn a_full_batch_is_noticed() {
        let mut open = open(OpenLimits { batch: 2, ..OpenLimits::default() });
        for (id, second) in [("a", 1), ("b", 2)] {
            assert!(!open.is_full());
            open.add(entry(id, second, Event::Connect));
            open.add(entry(id, second, Event::Closed));
            open.add(entry(id, second, Event::Closed));
        }
        assert!(open.is_full());
        open.add(entry("c", 9, Event::Connect));
        assert_eq!(open.take(false).sessions.len(), 2);
        assert!(!open.is_full());
    }
}
