//! Looks up a batch over Team Cymru's bulk whois.
//!
//! One connection carries one request and one response. The server closes it after the last row. Rows of an address
//! with several origins may be separated by other rows. So the response is read to its end, with deadlines.

mod parser;
#[cfg(test)]
mod tests;

pub use parser::{LONGEST_LINE, Parsed, Parser};

use super::{CymruSettings, Failure, LONGEST_TIMEOUT, RouteReply, Transport};
use crate::address::Address;
use crate::net::{Cancel, Read, Stream, resolve};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Maximum time to connect. A SYN is repeated after 1, 3 and 7 s, so a later response is unlikely.
const CONNECT: Duration = Duration::from_secs(10);

/// Minimum for the allowed gap between two bytes, even if the timeout is short.
const GAP: Duration = Duration::from_secs(1);

/// Maximum length of a response in bytes. A row has about 100, and an address with many origins has several rows.
const MOST_BYTES: u64 = 64 * 1024;
const MOST_BYTES_PER_ADDRESS: u64 = 4 * 1024;

/// Times and sizes of one exchange.
struct Limits {
    connect: Duration,
    gap: Duration,
    /// Time from the start of the exchange. The first byte may take the whole time.
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

/// Returns the request. The first address is on line 3. The server's error lines use these line numbers.
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

/// Returns `Ok` if the server ended the connection.
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
