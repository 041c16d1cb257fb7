//! Looks up a batch over Team Cymru's bulk whois.
//!
//! Each connection carries one request and one response. The server closes the connection after the last row. If an
//! address has several origins, rows about other addresses may come between its rows. So the client reads the response
//! to its end. Deadlines limit the time for this.
//!
//! | file | holds |
//! |---|---|
//! | `lines` | the lines of a response |
//! | `parser` | responses about addresses |
//! | `networks` | responses about networks |

mod lines;
mod networks;
mod parser;
#[cfg(test)]
mod tests;

pub use lines::LONGEST_LINE;
pub use networks::{NetworkParser, ParsedNetworks};
pub use parser::{Parsed, Parser};

use super::{CymruReply, CymruSettings, Failure, LONGEST_TIMEOUT, NetworkReply, RouteReply, Transport};
use crate::address::Address;
use crate::net::{Cancel, Read, Stream, resolve};
use std::fmt::{Display, Write};
use std::time::{Duration, Instant};

/// Maximum time to connect. The kernel repeats a SYN after 1, 3 and 7 s, so after 10 s a connection is unlikely.
const CONNECT: Duration = Duration::from_secs(10);

/// The client allows at least this time between two received bytes, even if the timeout is short.
const GAP: Duration = Duration::from_secs(1);

/// Maximum length of a response, in bytes: `MOST_BYTES`, and `MOST_BYTES_PER_QUESTION` for each key. A row has about
/// 100 bytes, and an address with many origins has several rows.
const MOST_BYTES: u64 = 64 * 1024;
const MOST_BYTES_PER_QUESTION: u64 = 4 * 1024;

/// Times and sizes of one exchange.
struct Limits {
    connect: Duration,
    gap: Duration,
    /// Maximum time of the whole exchange. The server may use all of this time before it sends the first byte.
    whole: Duration,
    bytes: u64,
}

impl Limits {
    fn new(timeout: Duration, questions: usize) -> Self {
        let timeout = timeout.min(LONGEST_TIMEOUT);
        Self {
            connect: timeout.min(CONNECT),
            gap: (timeout / 3).max(GAP),
            whole: timeout,
            bytes: MOST_BYTES + MOST_BYTES_PER_QUESTION * questions as u64,
        }
    }
}

pub(super) fn longest(timeout: Duration) -> Duration {
    Limits::new(timeout, 0).whole
}

pub(super) fn longest_to_connect(timeout: Duration) -> Duration {
    Limits::new(timeout, 0).connect
}

/// Returns the text of a request. The first key is on line 3. An error line of the server refers to a key by this line
/// number.
pub fn request<Q: Display>(questions: impl IntoIterator<Item = Q>) -> String {
    let mut text = String::from("begin\nverbose\n");
    for question in questions {
        let _ = writeln!(text, "{question}");
    }
    text.push_str("end\n");
    text
}

pub(super) fn exchange(settings: &CymruSettings, addresses: &[Address], cancel: &Cancel) -> RouteReply {
    let limits = Limits::new(settings.timeout, addresses.len());
    run(&settings.whois_host, settings.whois_port, addresses, &limits, cancel)
}

/// Looks up networks by their AS numbers. The request contains no address, because rows about addresses have another
/// form.
pub(super) fn exchange_networks(settings: &CymruSettings, asns: &[u32], cancel: &Cancel) -> NetworkReply {
    let limits = Limits::new(settings.timeout, asns.len());
    let request = request(asns.iter().map(|asn| format!("AS{asn}")));
    let mut parser = NetworkParser::new(asns);
    let feed = |bytes: &[u8]| parser.feed(bytes);
    let talked = talk(&settings.whois_host, settings.whois_port, &request, &limits, feed, cancel);
    let ParsedNetworks { answers, anomalies, incomplete } = parser.finish();
    let complete = asns.iter().all(|asn| answers.contains_key(asn));
    talked.reply(answers.is_empty() || incomplete, complete, |failure| CymruReply {
        answers,
        anomalies,
        ..CymruReply::new(Transport::Whois, failure)
    })
}

fn run(host: &str, port: u16, addresses: &[Address], limits: &Limits, cancel: &Cancel) -> RouteReply {
    let mut parser = Parser::new(addresses);
    let talked = talk(host, port, &request(addresses), limits, |bytes| parser.feed(bytes), cancel);
    let Parsed { answers, anomalies, incomplete } = parser.finish();
    let complete = addresses.iter().all(|address| answers.contains_key(address));
    talked.reply(answers.is_empty() || incomplete, complete, |failure| CymruReply {
        answers,
        anomalies,
        ..CymruReply::new(Transport::Whois, failure)
    })
}

/// The course of an exchange.
struct Talked {
    /// `Ok` if the server ended the connection.
    ending: Result<(), Failure>,
    bytes: u64,
    connected: Option<Duration>,
}

impl Talked {
    /// Builds the reply. `cut` is true if the response ended in the middle of a line or had no answer. `complete` is
    /// true if all keys have an answer.
    fn reply<K, A>(
        self,
        cut: bool,
        complete: bool,
        reply: impl FnOnce(Option<Failure>) -> CymruReply<K, A>,
    ) -> CymruReply<K, A> {
        let failure = match self.ending {
            _ if complete => None,
            Err(failure) => Some(failure),
            Ok(()) if cut => Some(Failure::Cut),
            Ok(()) => None,
        };
        let Self { bytes, connected, .. } = self;
        CymruReply { bytes, connected, spoke: bytes > 0, ..reply(failure) }
    }
}

/// Sends a request and passes the response to `feed`.
fn talk(
    host: &str,
    port: u16,
    request: &str,
    limits: &Limits,
    mut feed: impl FnMut(&[u8]),
    cancel: &Cancel,
) -> Talked {
    let start = Instant::now();
    let (mut bytes, mut connected) = (0, None);
    let ending = resolve(host, port, cancel)
        .and_then(|peers| Stream::connect(&peers, start + limits.connect, cancel))
        .and_then(|mut stream| {
            connected = Some(start.elapsed());
            receive(&mut stream, request, start, limits, &mut feed, &mut bytes, cancel)
        });
    Talked { ending, bytes, connected }
}

/// Returns `Ok` if the server ended the connection.
fn receive(
    stream: &mut Stream,
    request: &str,
    start: Instant,
    limits: &Limits,
    feed: &mut impl FnMut(&[u8]),
    bytes: &mut u64,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let end = start + limits.whole;
    if !stream.send(request.as_bytes(), end, cancel)? {
        return Err(Failure::Silent);
    }
    let mut buffer = vec![0; 16 * 1024];
    let mut until = end;
    loop {
        match stream.read(&mut buffer, until, cancel)? {
            Read::End => return Ok(()),
            Read::Late if *bytes == 0 => return Err(Failure::Silent),
            Read::Late if until < end => return Err(Failure::Stalled),
            Read::Late => return Err(Failure::TooSlow),
            Read::Bytes(count) => {
                *bytes += count as u64;
                feed(&buffer[..count]);
                if *bytes > limits.bytes {
                    return Err(Failure::TooLarge);
                }
                let now = Instant::now();
                if now >= end {
                    return Err(Failure::TooSlow);
                }
                until = end.min(now + limits.gap);
            }
        }
    }
}
