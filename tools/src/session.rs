//! Collects the events of a log into sessions.
//!
//! Cowrie writes the events of many sessions interleaved. A session is kept until it is closed, and then until its
//! batch is full. The reason is that some events (the terminal's log, a download that ends late) can follow the close.
//! Memory is bounded: beyond [`Limits::bytes`] all collected sessions are returned, even open ones. Later events of
//! such a session form a second part.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;

use crate::log::{Entry, Event};

/// One session, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub id: String,
    /// True if this part contains the connect event. Only then `start` and `address` come from the
    /// connection.
    pub connected: bool,
    pub start: Timestamp,
    pub end: Option<Timestamp>,
    pub sensor: String,
    pub address: String,
    pub client: Option<String>,
    pub terminal_size: Option<String>,
    /// All other events, in the log's order.
    pub events: Vec<(Timestamp, Event)>,
    /// Events that are still expected, while the lines of this session are read a second time.
    pub expected: VecDeque<(Timestamp, Event)>,
}

/// The effect of [`Session::add`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Added {
    /// Approximate number of bytes by which the session has grown.
    pub bytes: usize,
    /// True for a second connect event with another time or address.
    pub is_other_connect: bool,
}

impl Session {
    /// Returns a session that begins with this event, without the event itself.
    pub fn begin(entry: &Entry) -> Session {
        Session {
            id: entry.session.clone(),
            connected: false,
            start: entry.time,
            end: None,
            sensor: entry.sensor.clone(),
            address: entry.address.clone(),
            client: None,
            terminal_size: None,
            events: Vec::new(),
            expected: VecDeque::new(),
        }
    }

    /// Adds an event of this session.
    pub fn add(&mut self, entry: Entry) -> Added {
        let Entry { session: _, time, sensor, address, event } = entry;
        let mut added = Added::default();
        if self.address.is_empty() {
            self.address.clone_from(&address);
        }
        if self.sensor.is_empty() {
            self.sensor = sensor;
        }
        match event {
            Event::Connect if self.connected => {
                added.is_other_connect = self.start != time || self.address != address;
                // Cowrie writes this line once. So it is read from a copy of the log, and the lines after it too.
                if !added.is_other_connect {
                    self.expected = self.events.iter().cloned().collect();
                }
            }
            Event::Connect => {
                self.connected = true;
                self.start = time;
                self.address = address;
            }
            Event::Closed => self.end = Some(time),
            Event::ClientVersion(version) => self.client = Some(version),
            Event::TerminalSize(size) => self.terminal_size = Some(size),
            Event::Other => {}
            event => {
                let event = (time, event);
                if let Some(again) = self.expected.iter().position(|known| *known == event) {
                    self.expected.remove(again);
                } else {
                    added.bytes = OVERHEAD + text_length(&event.1);
                    self.events.push(event);
                }
            }
        }
        added
    }

    /// Returns the approximate memory that the session takes.
    pub fn bytes(&self) -> usize {
        let events: usize = self.events.iter().map(|(_, event)| OVERHEAD + text_length(event)).sum();
        OVERHEAD + self.id.len() + events
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Number of closed sessions per batch.
    pub batch: usize,
    /// Maximum size of the collected text in bytes.
    pub bytes: usize,
}

impl Default for Limits {
    /// 5000 sessions in a transaction make the cost of commits negligible. An interrupted load loses little.
    fn default() -> Self {
        Limits { batch: 5000, bytes: 64 << 20 }
    }
}

/// Approximate memory of a session or an event in bytes, without its texts.
const OVERHEAD: usize = 200;

#[derive(Debug)]
pub struct SessionAssembler {
    limits: Limits,
    open: HashMap<String, Session>,
    closed: usize,
    bytes: usize,
    /// Second connect events of a session with another time or address.
    pub repeated_connects: u64,
}

impl SessionAssembler {
    pub fn new(limits: Limits) -> Self {
        SessionAssembler { limits, open: HashMap::new(), closed: 0, bytes: 0, repeated_connects: 0 }
    }

    /// Adds an event. Returns a batch if one is complete.
    pub fn push(&mut self, entry: Entry) -> Option<Vec<Session>> {
        let session = self.open.entry(entry.session.clone()).or_insert_with_key(|id| {
            self.bytes += OVERHEAD + id.len();
            Session::begin(&entry)
        });
        let was_closed = session.end.is_some();
        let added = session.add(entry);
        self.bytes += added.bytes;
        self.repeated_connects += u64::from(added.is_other_connect);
        self.closed += usize::from(!was_closed && session.end.is_some());
        if self.bytes > self.limits.bytes {
            return Some(self.drain(|_| true));
        }
        (self.closed >= self.limits.batch).then(|| self.drain(|session| session.end.is_some()))
    }

    /// Returns the remaining sessions at the end of the log, including those that were not closed.
    pub fn finish(&mut self) -> Vec<Session> {
        self.drain(|_| true)
    }

    /// Orders sessions by start, then id, so that the same log gives the same order of rows.
    fn drain(&mut self, ready: impl Fn(&Session) -> bool) -> Vec<Session> {
        let mut sessions: Vec<Session> =
            self.open.extract_if(|_, session| ready(session)).map(|(_, session)| session).collect();
        sessions.sort_by(|a, b| (a.start, &a.id).cmp(&(b.start, &b.id)));
        self.closed = 0;
        self.bytes = self.open.values().map(Session::bytes).sum();
        sessions
    }
}

fn text_length(event: &Event) -> usize {
    match event {
        Event::Login { username, password, .. } => username.len() + password.len(),
        Event::Input { input, .. } => input.len(),
        Event::Download { url, .. } => url.len(),
        Event::ForwardedData { data, .. } => data.len(),
        Event::Terminal { ttylog: text, .. }
        | Event::Parameters { arch: text }
        | Event::Fingerprint { fingerprint: text, .. }
        | Event::Forward { host: text, .. }
        | Event::ClientVersion(text)
        | Event::TerminalSize(text) => text.len(),
        Event::Connect | Event::Closed | Event::Other => 0,
    }
}

/// Events for tests.
#[cfg(test)]
pub mod samples {
    use super::*;

    pub fn entry(id: &str, second: i64, event: Event) -> Entry {
        Entry {
            session: id.into(),
            time: Timestamp::from_second(second).unwrap(),
            sensor: "trap".into(),
            address: "192.0.2.1".into(),
            event,
        }
    }

    pub fn command(text: &str) -> Event {
        Event::Input { success: Some(true), realm: None, input: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{command, entry};
    use super::*;

    #[test]
    fn interleaved_sessions_come_out_whole_and_by_start() {
        let mut assembler = SessionAssembler::new(Limits { batch: 2, bytes: 1 << 20 });
        assert_eq!(assembler.push(entry("b", 10, Event::Connect)), None);
        assert_eq!(assembler.push(entry("a", 11, Event::Connect)), None);
        assert_eq!(assembler.push(entry("a", 12, command("ls"))), None);
        assert_eq!(assembler.push(entry("a", 13, Event::Closed)), None);
        assert_eq!(assembler.push(entry("a", 14, Event::Terminal { ttylog: "late".into(), size: 1 })), None);
        let batch = assembler.push(entry("b", 15, Event::Closed)).unwrap();
        assert_eq!(batch.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(batch[1].events.len(), 2);
        assert!(assembler.finish().is_empty());
    }

    #[test]
    fn a_session_without_a_connect_event_starts_at_its_first_event() {
        let mut assembler = SessionAssembler::new(Limits::default());
        assembler.push(entry("a", 20, Event::ClientVersion("SSH-2.0-Go".into())));
        assembler.push(entry("a", 21, Event::Closed));
        let batch = assembler.finish();
        assert!(!batch[0].connected);
        assert_eq!(batch[0].start.as_second(), 20);
        assert_eq!(batch[0].address, "192.0.2.1");
    }

    #[test]
    fn the_first_connect_of_an_id_counts() {
        let mut assembler = SessionAssembler::new(Limits::default());
        assembler.push(entry("a", 20, Event::Connect));
        assembler.push(entry("a", 20, Event::Connect));
        assert_eq!(assembler.repeated_connects, 0);
        assembler.push(entry("a", 30, Event::Connect));
        assert_eq!(assembler.repeated_connects, 1);
        assert_eq!(assembler.finish()[0].start.as_second(), 20);
    }

    #[test]
    fn lines_that_are_read_again_add_nothing() {
        let mut assembler = SessionAssembler::new(Limits::default());
        for _ in 0..2 {
            assembler.push(entry("a", 20, Event::Connect));
            assembler.push(entry("a", 21, command("ls")));
            assembler.push(entry("a", 21, command("ls")));
        }
        assembler.push(entry("a", 21, command("ls")));
        assembler.push(entry("a", 22, command("id")));
        assert_eq!(assembler.finish()[0].events.len(), 4);
    }

    #[test]
    fn memory_is_bounded_by_handing_out_what_is_open() {
        let mut assembler = SessionAssembler::new(Limits { batch: 1000, bytes: 10_000 });
        assembler.push(entry("a", 1, Event::Connect));
        let batch =
            (2..1000).find_map(|second| assembler.push(entry("a", second, command(&"x".repeat(100)))));
        assert!(batch.unwrap()[0].events.len() < 50);
        assembler.push(entry("a", 2000, Event::Closed));
        let rest = assembler.finish();
        assert!(!rest[0].connected);
        assert_eq!(rest[0].end.unwrap().as_second(), 2000);
    }
}
