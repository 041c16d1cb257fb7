//! Sends many queries to one DNS server and collects the outcomes.
//!
//! ```text
//! waiting --send--> in flight --answer--> answered
//!                   in flight --no answer--> sent again, at most waits.len() transmissions --> unanswered
//!                   in flight --truncated--> repeated over TCP
//! ```
//!
//! A response counts only if it comes from the server's address to the port of this socket. The response must also have
//! the id and the question of a query that was sent. Ids are random (see `random`), and the kernel chooses the port. So
//! an attacker who cannot read the traffic must guess 30 bits within a second.

use super::super::LONGEST_TIMEOUT;
use super::message::{self, Response};
use crate::net::{Cancel, Datagrams, Failure, Read, Stream};
use crate::random;
use hickory_proto::rr::Name;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub(super) use super::message::Outcome;

/// Maximum length of a message, in bytes. A response with 32 records, one for each origin of a prefix, needs a third of
/// this length.
pub const LONGEST_MESSAGE: usize = 16 * 1024;

/// Times and limits of one batch.
pub(super) struct Timing {
    /// Times to wait for a response after each of the four transmissions of a query. If no response arrives within the
    /// last time, the query is unanswered.
    pub(super) waits: [Duration; 4],
    /// Maximum number of concurrent queries. With this number, 500 queries take some seconds, and a home router can
    /// still process them.
    pub(super) in_flight: usize,
    /// Time for one query over TCP.
    pub(super) tcp: Duration,
    /// Time for the whole batch.
    pub(super) whole: Duration,
}

impl Timing {
    /// The waits of one query take 11 s together. A batch gets at least 15 s, because otherwise no time could remain to
    /// repeat a lost datagram.
    pub(super) fn new(timeout: Duration) -> Self {
        let timeout = timeout.min(LONGEST_TIMEOUT);
        Self {
            waits: [1, 2, 4, 4].map(Duration::from_secs),
            in_flight: 16,
            tcp: Duration::from_secs(5),
            whole: timeout.max(Duration::from_secs(15)),
        }
    }
}

pub(super) struct Resolver<'a> {
    socket: Datagrams,
    server: SocketAddr,
    timing: &'a Timing,
    end: Instant,
    /// Ids and names of all queries sent.
    sent: HashMap<u16, Name>,
    pub(super) bytes: u64,
    pub(super) malformed: u64,
    pub(super) oversized: u64,
    /// The server sent at least one valid response, with any outcome.
    pub(super) spoke: bool,
}

/// A query that has no response yet.
struct PendingQuery {
    question: usize,
    id: u16,
    sendings: usize,
    due: Instant,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(server: SocketAddr, timing: &'a Timing, end: Instant) -> Result<Self, Failure> {
        Ok(Self {
            socket: Datagrams::connect(server)?,
            server,
            timing,
            end,
            sent: HashMap::new(),
            bytes: 0,
            malformed: 0,
            oversized: 0,
            spoke: false,
        })
    }

    /// Returns one outcome for each name. If the batch was abandoned, also returns an error that says why. The outcomes
    /// that arrived before the error are valid.
    pub(super) fn ask(&mut self, names: &[String], cancel: &Cancel) -> (Vec<Outcome>, Result<(), Failure>) {
        let mut outcomes = vec![Outcome::Unanswered; names.len()];
        let mut truncated = Vec::new();
        let ending = self
            .ask_by_datagrams(names, &mut outcomes, &mut truncated, cancel)
            .and_then(|()| self.ask_by_stream(&truncated, &mut outcomes, cancel));
        (outcomes, ending)
    }

    fn ask_by_datagrams(
        &mut self,
        names: &[String],
        outcomes: &mut [Outcome],
        truncated: &mut Vec<(usize, u16)>,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let mut waiting: VecDeque<usize> = (0..names.len()).collect();
        let mut pending: Vec<PendingQuery> = Vec::new();
        let mut buffer = vec![0; LONGEST_MESSAGE + 1];
        loop {
            while pending.len() < self.timing.in_flight
                && let Some(question) = waiting.pop_front()
            {
                pending.extend(self.start_query(question, &names[question])?);
            }
            let Some(due) = pending.iter().map(|query| query.due).min() else {
                return Ok(());
            };
            if Instant::now() >= self.end {
                return Err(if self.spoke { Failure::TooSlow } else { Failure::Silent });
            }
            let received = match self.socket.receive(&mut buffer, due.min(self.end), cancel) {
                // The server responded before, so the datagram counts as lost.
                Err(Failure::Connect(_)) if self.spoke => None,
                received => received?,
            };
            if let Some(response) = received.and_then(|count| self.read(&buffer[..count]))
                && let Some(at) = pending.iter().position(|query| query.id == response.id)
            {
                let query = pending.swap_remove(at);
                if response.truncated {
                    truncated.push((query.question, query.id));
                } else {
                    outcomes[query.question] = response.outcome;
                }
            }
            self.repeat(&mut pending)?;
        }
    }

    /// Sends the first query for a name. Returns `None` if the name is invalid. The callers of this module pass only
    /// valid names.
    fn start_query(&mut self, question: usize, name: &str) -> Result<Option<PendingQuery>, Failure> {
        let Some(name) = message::parse_name(name) else {
            return Ok(None);
        };
        let id = self.new_id();
        self.sent.insert(id, name);
        self.send(id)?;
        Ok(Some(PendingQuery { question, id, sendings: 1, due: Instant::now() + self.timing.waits[0] }))
    }

    /// If the wait of a query has ended, sends the query again. If the query was already sent often enough, abandons
    /// it.
    fn repeat(&mut self, pending: &mut Vec<PendingQuery>) -> Result<(), Failure> {
        let now = Instant::now();
        let mut given_up = false;
        for query in pending.iter_mut().filter(|query| query.due <= now) {
            match self.timing.waits.get(query.sendings) {
                Some(wait) => {
                    query.sendings += 1;
                    query.due = now + *wait;
                    self.send(query.id)?;
                }
                None => given_up = true,
            }
        }
        if given_up && !self.spoke {
            // The server has not responded to any query. So the other queries are abandoned, because they would only
            // send more datagrams.
            return Err(Failure::Silent);
        }
        pending.retain(|query| query.due > now);
        Ok(())
    }

    fn send(&self, id: u16) -> Result<(), Failure> {
        let Some(bytes) = self.sent.get(&id).and_then(|name| message::encode(id, name)) else {
            return Ok(());
        };
        match self.socket.send(&bytes) {
            Err(Failure::Connect(_)) if self.spoke => Ok(()),
            sent => sent,
        }
    }

    /// Counts the bytes of a message, and returns the message if it matches a query. A second response to the same
    /// query does not count as an anomaly, because queries are repeated.
    fn read(&mut self, bytes: &[u8]) -> Option<Response> {
        self.bytes += bytes.len() as u64;
        if bytes.len() > LONGEST_MESSAGE {
            self.oversized += 1;
            return None;
        }
        let response = message::decode(bytes)
            .filter(|response| self.sent.get(&response.id).is_some_and(|name| *name == response.name));
        match response {
            Some(_) => self.spoke = true,
            None => self.malformed += 1,
        }
        response
    }

    fn new_id(&self) -> u16 {
        loop {
            let id = random::bits() as u16;
            // A batch has at most 1000 queries, so at least one id is always free.
            if !self.sent.contains_key(&id) {
                return id;
            }
        }
    }

    /// Repeats each truncated query over its own TCP connection. If one connection fails, only the query of this
    /// connection fails.
    fn ask_by_stream(
        &mut self,
        truncated: &[(usize, u16)],
        outcomes: &mut [Outcome],
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        for (question, id) in truncated {
            if Instant::now() >= self.end {
                return Err(Failure::TooSlow);
            }
            let until = self.end.min(Instant::now() + self.timing.tcp);
            match self.ask_one_by_stream(*id, until, cancel) {
                Ok(outcome) => outcomes[*question] = outcome,
                Err(Failure::Cancelled) => return Err(Failure::Cancelled),
                Err(failure) => outcomes[*question] = Outcome::Failed(failure.to_string()),
            }
        }
        Ok(())
    }

    /// Sends one query over TCP. RFC 1035, section 4.2.2: over TCP, each message begins with two bytes that contain its
    /// length.
    fn ask_one_by_stream(&mut self, id: u16, until: Instant, cancel: &Cancel) -> Result<Outcome, Failure> {
        let Some(question) = self.sent.get(&id).and_then(|name| message::encode(id, name)) else {
            return Ok(Outcome::Unanswered);
        };
        let mut stream = Stream::connect(&[self.server], until, cancel)?;
        let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
        stream.send(&[&length.to_be_bytes()[..], &question[..]].concat(), until, cancel)?;
        let mut length = [0; 2];
        read_exactly(&mut stream, &mut length, until, cancel)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        read_exactly(&mut stream, &mut answer, until, cancel)?;
        match self.read(&answer) {
            Some(response) if response.id == id && !response.truncated => Ok(response.outcome),
            _ => Ok(Outcome::Unanswered),
        }
    }
}

fn read_exactly(
    stream: &mut Stream,
    into: &mut [u8],
    until: Instant,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let mut filled = 0;
    while filled < into.len() {
        match stream.read(&mut into[filled..], until, cancel)? {
            Read::Bytes(count) => filled += count,
            Read::End => return Err(Failure::Cut),
            Read::Late => return Err(Failure::Silent),
        }
    }
    Ok(())
}
