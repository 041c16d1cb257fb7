//! The requests of clients of the whois server, with their times.
//!
//! Clocks: if the server ends a connection, the end is recorded before the client can see it. So the count of
//! concurrent connections is exact. If a client leaves, the server's thread notices that when it is scheduled, perhaps
//! after the same client's next connection was accepted. Such an end counts as [`NOTICED_WITHIN`] earlier.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Maximum delay until a loaded machine notices that a client has left.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct Connection {
    pub opened: Instant,
    /// When the line `end` was read.
    pub ended: Option<Instant>,
    /// When the first byte of the answer was written. A client that had left may not have read it.
    pub answered: Option<Instant>,
    /// When the whole answer was written, to a client that had not left.
    pub completed: Option<Instant>,
    /// When the server saw the client's end of file or reset. A client that only stops sending looks the same.
    pub left: Option<Instant>,
    /// When the server closed the connection, or stopped serving after the client had left.
    pub closed: Option<Instant>,
    /// The received lines without their line ends. Invalid UTF-8 is replaced.
    pub lines: Vec<String>,
    /// The lines that are addresses, in their order.
    pub questions: Vec<IpAddr>,
    /// The AS numbers of the lines such as `AS15169`, in their order.
    pub networks: Vec<u64>,
    pub begin: bool,
    pub verbose: bool,
    pub end: bool,
    /// Bytes given to the kernel. The client may not have read all of them.
    pub sent: u64,
}

impl Connection {
    pub(crate) fn new() -> Connection {
        Connection {
            opened: Instant::now(),
            ended: None,
            answered: None,
            completed: None,
            left: None,
            closed: None,
            lines: Vec::new(),
            questions: Vec::new(),
            networks: Vec::new(),
            begin: false,
            verbose: false,
            end: false,
            sent: 0,
        }
    }

    pub(crate) fn received(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let line = line.strip_suffix('\r').unwrap_or(&line);
        match line.trim() {
            "begin" => self.begin = true,
            "verbose" => self.verbose = true,
            "end" => {
                self.end = true;
                self.ended.get_or_insert_with(Instant::now);
            }
            other if !self.end => {
                self.questions.extend(other.parse::<IpAddr>().ok());
                self.networks.extend(parse_network(other));
            }
            _ => {}
        }
        self.lines.push(line.to_owned());
    }

    /// Returns the number of the first line, from 1, that asks about this address.
    pub(crate) fn line_of_address(&self, address: IpAddr) -> usize {
        self.line_of(|line| line.parse() == Ok(address))
    }

    /// Returns the number of the first line, from 1, that asks about this network.
    pub(crate) fn line_of_network(&self, asn: u64) -> usize {
        self.line_of(|line| parse_network(line) == Some(asn))
    }

    fn line_of(&self, asks: impl Fn(&str) -> bool) -> usize {
        self.lines.iter().position(|line| asks(line.trim())).map_or(0, |before| before + 1)
    }

    pub fn is_open(&self) -> bool {
        self.left.is_none() && self.closed.is_none()
    }

    /// Returns the time until which this connection counts as open. `None` if the connection has not ended.
    fn over(&self) -> Option<Instant> {
        match (self.closed, self.left) {
            (Some(closed), Some(left)) if closed <= left => Some(closed),
            (_, Some(left)) => Some(left - NOTICED_WITHIN),
            (closed, None) => closed,
        }
    }
}

/// Five hundred lines would hide the message of the test that prints this.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = |moment: Option<Instant>| moment.map(|moment| moment - self.opened);
        f.debug_struct("Connection")
            .field("lines", &self.lines.len())
            .field("questions", &self.questions.len())
            .field("networks", &self.networks.len())
            .field("first", &self.lines.iter().take(4).collect::<Vec<_>>())
            .field("ended", &after(self.ended))
            .field("answered", &after(self.answered))
            .field("completed", &after(self.completed))
            .field("left", &after(self.left))
            .field("closed", &after(self.closed))
            .field("sent", &self.sent)
            .finish()
    }
}

/// The connections in the order in which they were accepted.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub connections: Vec<Connection>,
}

impl Record {
    pub fn questions(&self) -> impl Iterator<Item = IpAddr> {
        self.connections.iter().flat_map(|connection| connection.questions.iter().copied())
    }

    /// Returns the AS numbers that were requested, on any connection.
    pub fn networks(&self) -> impl Iterator<Item = u64> {
        self.connections.iter().flat_map(|connection| connection.networks.iter().copied())
    }

    /// Returns the AS numbers that were requested again after the server had written the whole answer for them.
    pub fn networks_answered_twice(&self) -> Vec<u64> {
        let complete = self.connections.iter().filter(|connection| connection.completed.is_some());
        twice(complete.flat_map(|connection| connection.networks.iter().copied()))
    }

    pub fn questions_total(&self) -> usize {
        self.questions().count()
    }

    pub fn distinct_questions(&self) -> usize {
        self.questions().collect::<HashSet<_>>().len()
    }

    pub fn largest_batch(&self) -> usize {
        self.connections.iter().map(|connection| connection.questions.len()).max().unwrap_or(0)
    }

    /// Returns the addresses that were requested more than once, on any connection, in order.
    pub fn asked_twice(&self) -> Vec<IpAddr> {
        twice(self.questions())
    }

    /// Returns the addresses that were requested again after the server had written the whole answer for them. A client
    /// that was killed in between may request the addresses of one batch again.
    pub fn answered_twice(&self) -> Vec<IpAddr> {
        let complete = self.connections.iter().filter(|connection| connection.completed.is_some());
        twice(complete.flat_map(|connection| connection.questions.iter().copied()))
    }

    pub fn open_now(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_open()).count()
    }

    /// Returns the largest number of connections that were open at one time.
    pub fn most_at_once(&self) -> usize {
        most_open(
            self.connections.iter().map(|connection| {
                (connection.opened, connection.over().map(|over| over.max(connection.opened)))
            }),
        )
    }
}

/// Returns the largest number of spans that were open at one time. A span without an end stays open.
pub(crate) fn most_open(spans: impl Iterator<Item = (Instant, Option<Instant>)>) -> usize {
    let mut changes: Vec<(Instant, i64)> = Vec::new();
    for (opened, over) in spans {
        changes.push((opened, 1));
        changes.extend(over.map(|over| (over, -1)));
    }
    // The sort puts ends before beginnings of the same time, because -1 is less than 1.
    changes.sort_unstable();
    let mut open = 0;
    changes.iter().fold(0, |most, (_, change)| {
        open += change;
        most.max(open)
    }) as usize
}

/// Parses a line that asks about a network: `AS15169`, in any case.
fn parse_network(line: &str) -> Option<u64> {
    let (prefix, digits) = line.split_at_checked(2)?;
    digits.parse().ok().filter(|_| prefix.eq_ignore_ascii_case("as"))
}

fn twice<Q: Copy + Ord + Hash>(questions: impl Iterator<Item = Q>) -> Vec<Q> {
    let mut times: HashMap<Q, usize> = HashMap::new();
    for question in questions {
        *times.entry(question).or_default() += 1;
    }
    let mut repeated: Vec<Q> =
        times.into_iter().filter(|(_, times)| *times > 1).map(|(question, _)| question).collect();
    repeated.sort_unstable();
    repeated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_follows_another_is_not_open_beside_it() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let connection = |opened: u64, closed: Option<u64>, left: Option<u64>| Connection {
            opened: at(opened),
            closed: closed.map(at),
            left: left.map(at),
            ..Connection::new()
        };
        let most = |connections: Vec<Connection>| Record { connections }.most_at_once();
        assert_eq!(most(vec![]), 0);
        assert_eq!(most(vec![connection(0, Some(5), None), connection(5, None, None)]), 1);
        assert_eq!(most(vec![connection(0, Some(6), None), connection(5, None, None)]), 2);
        assert_eq!(most(vec![connection(0, Some(1020), Some(1010)), connection(1000, None, None)]), 1);
        assert_eq!(most(vec![connection(0, Some(1020), Some(1010)), connection(500, None, None)]), 2);
        assert_eq!(most(vec![connection(0, Some(1000), Some(1010)), connection(990, None, None)]), 2);
    }
}
