//! Gathers the events of a log into sessions.
//!
//! Cowrie writes the events of many sessions interleaved. A session is kept until it is closed, and a while longer,
//! because a few events (the terminal's log, a download that ends late) can follow the close. Memory is bounded:
//! beyond [`Limits::bytes`] everything gathered is handed out as it is, and what follows of a session comes out
//! as a second part of it.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::log::{Entry, Event};

/// One session, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub id: String,
    /// Whether its connect event is in this part: only then are start and address those of the connection.
    pub connected: bool,
    pub start: Timestamp,
    pub end: Option<Timestamp>,
    pub sensor: String,
    pub address: String,
    pub client: Option<String>,
    pub terminal_size: Option<String>,
    /// Everything else, in the log's order.
    pub events: Vec<(Timestamp, Event)>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions handed out together.
    pub batch: usize,
    /// Text kept, in bytes.
    pub bytes: usize,
}

impl Default for Limits {
    /// 5000 sessions a transaction: long enough that commits cost nothing, short enough that a stop loses little.
    fn default() -> Self {
        Limits { batch: 5000, bytes: 64 << 20 }
    }
}

/// Bytes that a session or an event costs beside its texts, roughly.
const OVERHEAD: usize = 200;

#[derive(Debug)]
pub struct SessionAssembler {
    limits: Limits,
    open: HashMap<String, Session>,
    closed: usize,
    bytes: usize,
    /// Connect events for a session that had one already, at another time or from another address.
    pub repeated_connects: u64,
}

impl SessionAssembler {
    pub fn new(limits: Limits) -> Self {
        SessionAssembler { limits, open: HashMap::new(), closed: 0, bytes: 0, repeated_connects: 0 }
    }

    /// Takes one event; hands out a batch when it is time for one.
    pub fn push(&mut self, entry: Entry) -> Option<Vec<Session>> {
        let Entry { session: id, time, sensor, address, event } = entry;
        let session = self.open.entry(id).or_insert_with_key(|id| {
            self.bytes += OVERHEAD + id.len();
            Session {
                id: id.clone(),
                connected: false,
                start: time,
                end: None,
                sensor: sensor.clone(),
                address: address.clone(),
                client: None,
                terminal_size: None,
                events: Vec::new(),
            }
        });
        if session.address.is_empty() {
            session.address.clone_from(&address);
        }
        if session.sensor.is_empty() {
            session.sensor = sensor;
        }
        match event {
            Event::Connect if session.connected => {
                self.repeated_connects += u64::from(session.start != time || session.address != address);
            }
            Event::Connect => {
                session.connected = true;
                session.start = time;
                session.address = address;
            }
            Event::Closed => {
                self.closed += usize::from(session.end.is_none());
                session.end = Some(time);
            }
            Event::ClientVersion(version) => session.client = Some(version),
            Event::TerminalSize(size) => session.terminal_size = Some(size),
            Event::Other => {}
            event => {
                self.bytes += OVERHEAD + text_length(&event);
                session.events.push((time, event));
            }
        }
        if self.bytes > self.limits.bytes {
            return Some(self.drain(|_| true));
        }
        (self.closed >= self.limits.batch).then(|| self.drain(|session| session.end.is_some()))
    }

    /// What is left at the end of the log: sessions that it does not see closed among them.
    pub fn finish(&mut self) -> Vec<Session> {
        self.drain(|_| true)
    }

    /// By start, then id: the same log gives the same order of rows.
    fn drain(&mut self, ready: impl Fn(&Session) -> bool) -> Vec<Session> {
        let mut sessions: Vec<Session> =
            self.open.extract_if(|_, session| ready(session)).map(|(_, session)| session).collect();
        sessions.sort_by(|a, b| (a.start, &a.id).cmp(&(b.start, &b.id)));
        self.closed = 0;
        self.bytes = self
            .open
            .values()
            .map(|session| {
                let events: usize =
                    session.events.iter().map(|(_, event)| OVERHEAD + text_length(event)).sum();
                OVERHEAD + session.id.len() + events
            })
            .sum();
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

    fn command(text: &str) -> Event {
        Event::Input { success: Some(true), realm: None, input: text.into() }
    }

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
