//! Answers: what does Team Cymru's bulk whois say about a batch?
//!
//! One connection, one request, one answer; the server closes after the last row. Address rows of several origins may
//! come apart from each other, so the answer is read to its end, under deadlines.

mod parser;
#[cfg(test)]
mod tests;

pub use parser::{LONGEST_LINE, Parsed, Parser};

use super::{CymruSettings, Failure, LONGEST_TIMEOUT, RouteReply, Transport};
use crate::address::Address;
use crate::net::{Cancel, Read, Stream, resolve};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Longest time to connect: a SYN is repeated after 1, 3 and 7 s, and what then does not answer will not.
const CONNECT: Duration = Duration::from_secs(10);

/// Shortest gap between two bytes that is allowed, however short the whole time is.
const GAP: Duration = Duration::from_secs(1);

/// Bytes of an answer: a row has about 100, an address of many origins has several rows.
const MOST_BYTES: u64 = 64 * 1024;
const MOST_BYTES_PER_ADDRESS: u64 = 4 * 1024;

/// The times and sizes of one exchange.
struct Limits {
    connect: Duration,
    gap: Duration,
    /// From the start of the exchange. The first byte may take as long.
    whole: Duration,
    bytes: u64,
}

impl Limits {
    fn new(timeout: Duration, addresses: usize) -> Self {
        let timeout = timeout.min(LONGEST_TIMEOUT);
        Self {
            connect: timeout.min(CONNECT),
            gap: (timeout / 3).max(GAP),
            whole: timeout,
            bytes: MOST_BYTES + MOST_BYTES_PER_ADDRESS * addresses as u64,
        }
    }
}

pub(super) fn longest(timeout: Duration) -> Duration {
    Limits::new(timeout, 0).whole
}

pub(super) fn longest_to_connect(timeout: Duration) -> Duration {
    Limits::new(timeout, 0).connect
}

/// The first address stands on line 3, which is what the server's error lines count by.
pub fn request(addresses: &[Address]) -> String {
    let mut text = String::from("begin\nverbose\n");
    for address in addresses {
        let _ = writeln!(text, "{address}");
    }
    text.push_str("end\n");
    text
}

pub(super) fn exchange(settings: &CymruSettings, addresses: &[Address], cancel: &Cancel) -> RouteReply {
    let limits = Limits::new(settings.timeout, addresses.len());
    run(&settings.whois_host, settings.whois_port, addresses, &limits, cancel)
}

fn run(host: &str, port: u16, addresses: &[Address], limits: &Limits, cancel: &Cancel) -> RouteReply {
    let start = Instant::now();
    let mut parser = Parser::new(addresses);
    let mut bytes = 0;
    let mut connected = None;
    let ending = resolve(host, port, cancel)
        .and_then(|peers| Stream::connect(&peers, start + limits.connect, cancel))
        .and_then(|mut stream| {
            connected = Some(start.elapsed());
            talk(&mut stream, addresses, start, limits, &mut parser, &mut bytes, cancel)
        });

    let Parsed { answers, anomalies, incomplete } = parser.finish();
    let complete = addresses.iter().all(|address| answers.contains_key(address));
    let failure = match ending {
        _ if complete => None,
        Err(failure) => Some(failure),
        Ok(()) if incomplete || answers.is_empty() => Some(Failure::Cut),
        Ok(()) => None,
    };
    RouteReply { answers, failure, anomalies, used: Transport::Whois, bytes, connected, spoke: bytes > 0 }
}

/// `Ok`: the server ended the connection.
fn talk(
    stream: &mut Stream,
    addresses: &[Address],
    start: Instant,
    limits: &Limits,
    parser: &mut Parser,
    bytes: &mut u64,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let end = start + limits.whole;
    if !stream.send(request(addresses).as_bytes(), end, cancel)? {
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
                parser.feed(&buffer[..count]);
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
