//! Sessions whose end was not read yet, or that are not stored yet.
//!
//! A role with `INSERT` alone cannot change a stored session. So a session is stored when it is complete:
//!
//! - A closed session waits two more seconds, because some events (the terminal's log) can follow the close.
//! - A session without an end is stored after it had no event for [`OpenLimits::idle`]. The honeypot was restarted.
//! - If the open sessions take more than [`OpenLimits::bytes`], the largest of them are stored as they are.
//!
//! An earlier log may still be copied into the directory while a later log is read already. A session that began in the earlier log
//! then waits until the copy is complete, unless it also ended there. Otherwise it could be stored without its end, because the times
//! in the later log are hours after its last event that was read. A session whose connect event was not read waits too.
//!
//! Events of a session that was stored recently are late. Their rows are stored, but the row of the session stays as it
//! is. Waits are measured by the times in the log, see [`LogClock`], so that a log of last year is read as if it were
//! written now. When all logs are read to their end, a wait can also end by the clock of this machine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::log_clock::LogClock;
use super::remembered::{Fate, Remembered, is_read_again, remember};
use crate::log::{Entry, Event};
use crate::session::Session;

/// Time for which a closed session waits for more events.
const LINGER: Duration = Duration::from_secs(2);

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
}

/// Sessions that are ready to be stored.
#[derive(Debug, Default)]
pub struct Ready {
    pub sessions: Vec<Session>,
    /// Late events of sessions that are stored already.
    pub late: Vec<Session>,
    /// Later events of sessions that are in a file, because the database refuses them or they were stored long ago.
    pub aside: Vec<(Fate, Session)>,
    /// Number of stored sessions whose events were read again.
    pub repeated: u64,
}

pub struct OpenSessions {
    limits: OpenLimits,
    open: HashMap<String, Open>,
    remembered: Remembered,
    bytes: usize,
    pub clock: LogClock,
    /// Closed sessions that are not stored yet.
    closed: usize,
    /// Late events that would have changed the row of a stored session.
    pub lost_updates: u64,
}

impl OpenSessions {
    pub fn new(
        limits: OpenLimits,
        sessions: Vec<Session>,
        remembered: Remembered,
        log_time: Option<Timestamp>,
    ) -> OpenSessions {
        let mut open = OpenSessions {
            limits,
            open: HashMap::new(),
            remembered,
            bytes: 0,
            clock: LogClock::new(log_time),
            closed: 0,
            lost_updates: 0,
        };
        let now = Timestamp::now();
        for session in sessions {
            open.bytes += session.bytes();
            open.closed += usize::from(session.end.is_some());
            let times = session.events.iter().map(|(time, _)| *time);
            // A time in the future would keep the session open.
            let last_event =
                times.chain([session.start]).chain(session.end).filter(|time| *time <= now).max();
            let last_event = last_event.unwrap_or(session.start.min(now));
            open.open.insert(session.id.clone(), Open { session, last_event, read_at: Instant::now() });
        }
        open
    }

    pub fn add(&mut self, entry: Entry) {
        let now = Timestamp::now();
        let usable = self.clock.observe(entry.time, now);
        // A wrong time must neither end this session nor keep it open.
        let time = usable.max(self.clock.time()).unwrap_or(now);
        let open = self.open.entry(entry.session.clone()).or_insert_with(|| {
            let session = Session::begin(&entry);
            self.bytes += session.bytes();
            Open { session, last_event: time, read_at: Instant::now() }
        });
        open.last_event = open.last_event.max(time);
        open.read_at = Instant::now();
        if let Some(past) = self.remembered.get(&entry.session)
            && past.fate == Fate::Stored
            && matches!(
                entry.event,
                Event::Connect | Event::Closed | Event::ClientVersion(_) | Event::TerminalSize(_)
            )
            && !is_read_again(past, &open.session)
            && !(matches!(entry.event, Event::Connect) && entry.time.as_microsecond() == past.start)
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

    /// Removes and returns the sessions that are ready. `is_caught_up` is true if all logs are read to their end. `unfinished` has the
    /// ends of earlier logs that are not finished.
    pub fn take(&mut self, is_caught_up: bool, unfinished: &[Timestamp]) -> Ready {
        let now = Instant::now();
        let passed = |open: &Open, limit: Duration| {
            let in_log = self.clock.time().map(|log_time| log_time.duration_since(open.last_event));
            let limit_in_log = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX);
            in_log.is_some_and(|time| time >= limit_in_log)
                || is_caught_up && now.duration_since(open.read_at) >= limit
        };
        let is_ready = |id: &str, open: &Open| match open.session.end {
            _ if self.remembered.contains_key(id) => passed(open, LINGER),
            _ if may_go_on(&open.session, unfinished) => false,
            None => passed(open, self.limits.idle),
            Some(_) => passed(open, LINGER),
        };
        let mut ids: Vec<String> =
            self.open.iter().filter(|(id, open)| is_ready(id, open)).map(|(id, _)| id.clone()).collect();
        if self.bytes > self.limits.bytes {
            ids = self.with_largest(ids);
        }
        let mut ready = Ready::default();
        for id in &ids {
            if let Some(open) = self.open.remove(id) {
                self.sort_out(open.session, &mut ready);
            }
        }
        for sessions in [&mut ready.sessions, &mut ready.late] {
            sessions.sort_by(|a, b| (a.start, &a.id).cmp(&(b.start, &b.id)));
        }
        if !ids.is_empty() {
            let log_time = self.clock.time().unwrap_or_else(Timestamp::now);
            let OpenSessions { remembered, open, .. } = self;
            remember(remembered, &ready.sessions, log_time, |id| open.contains_key(id));
            self.bytes = self.open.values().map(|open| open.session.bytes()).sum();
            self.closed = self.open.values().filter(|open| open.session.end.is_some()).count();
        }
        ready
    }

    fn sort_out(&self, session: Session, ready: &mut Ready) {
        let Some(past) = self.remembered.get(&session.id) else {
            ready.sessions.push(session);
            return;
        };
        if is_read_again(past, &session) {
            ready.repeated += 1;
            return;
        }
        match past.fate {
            Fate::Stored => ready.late.push(session),
            Fate::Rejected | Fate::Late => ready.aside.push((past.fate, session)),
            Fate::Foreign => {}
        }
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

    /// Notes what happened to a session that this program did not store.
    pub fn note(&mut self, session: &Session, fate: Fate) {
        if let Some(past) = self.remembered.get_mut(&session.id) {
            past.fate = fate;
        }
    }

    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.open.values().map(|open| &open.session)
    }

    /// Returns the time of the logs, and the sessions that are no longer open.
    pub fn memory(&self) -> (Option<Timestamp>, &Remembered) {
        (self.clock.time(), &self.remembered)
    }

    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The time of the oldest close among the sessions that are not stored yet.
    pub fn oldest_end(&self) -> Option<Timestamp> {
        self.open.values().filter_map(|open| open.session.end).min()
    }
}

/// Returns true if a log that ends at one of these times can have more events of a session.
fn may_go_on(session: &Session, unfinished: &[Timestamp]) -> bool {
    let spans = |log_end: &Timestamp| {
        session.start < *log_end && session.end.is_none_or(|session_end| session_end >= *log_end)
    };
    !unfinished.is_empty() && !session.connected || unfinished.iter().any(spans)
}
