//! TCP connections with deadlines.
//!
//! Every function except `resolve` returns at its deadline at the latest. After a cancellation, every function returns
//! within `SLICE`, with two exceptions: `resolve`, and an attempt to connect that has begun.

use super::{Cancel, Failure, slice};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Instant;

/// Returns the addresses of a host. `host` is a name or the text of an address. Blocks until the system's resolver
/// returns.
pub(crate) fn resolve(host: &str, port: u16, cancel: &Cancel) -> Result<Vec<SocketAddr>, Failure> {
    if cancel.is_set() {
        return Err(Failure::Cancelled);
    }
    let found = (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    if cancel.is_set() {
        return Err(Failure::Cancelled);
    }
    match found {
        Ok(peers) if peers.is_empty() => {
            Err(Failure::Resolve(format!("could not resolve {host:.100}: no address")))
        }
        Ok(peers) => Ok(peers),
        Err(error) => Err(Failure::Resolve(format!("could not resolve {host:.100}: {error}"))),
    }
}

pub(crate) struct Stream(TcpStream);

pub(crate) enum Read {
    Bytes(usize),
    End,
    /// No byte arrived until the deadline.
    Late,
}

impl Stream {
    /// Tries the addresses one after another. The remaining time is divided equally among the remaining addresses. So
    /// if one address drops packets (usually because of a broken IPv6 route), time remains for the next address.
    pub(crate) fn connect(peers: &[SocketAddr], until: Instant, cancel: &Cancel) -> Result<Self, Failure> {
        let mut failure = Failure::ConnectTimeout;
        for (tried, peer) in peers.iter().enumerate() {
            if cancel.is_set() {
                return Err(Failure::Cancelled);
            }
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(peers.len() - tried).unwrap_or(u32::MAX);
            if share.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(peer, share) {
                // The attempt to connect may have taken seconds. If the exchange was cancelled in this time, the
                // connection is not needed.
                Ok(_) if cancel.is_set() => return Err(Failure::Cancelled),
                Ok(stream) => return Ok(Self(stream)),
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => failure = Failure::Connect(format!("could not connect to {peer}: {error}")),
            }
        }
        Err(failure)
    }

    /// Sends bytes. Returns `Ok(false)` if the deadline passed before all bytes were sent.
    pub(crate) fn send(
        &mut self,
        mut bytes: &[u8],
        until: Instant,
        cancel: &Cancel,
    ) -> Result<bool, Failure> {
        while !bytes.is_empty() {
            if cancel.is_set() {
                return Err(Failure::Cancelled);
            }
            let Some(slice) = slice(until) else {
                return Ok(false);
            };
            self.0.set_write_timeout(Some(slice)).map_err(|error| io("send", &error))?;
            match self.0.write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if is_passing(error.kind()) => {}
                Err(error) => return Err(io("send", &error)),
            }
        }
        Ok(true)
    }

    pub(crate) fn read(&mut self, into: &mut [u8], until: Instant, cancel: &Cancel) -> Result<Read, Failure> {
        loop {
            if cancel.is_set() {
                return Err(Failure::Cancelled);
            }
            let Some(slice) = slice(until) else {
                return Ok(Read::Late);
            };
            self.0.set_read_timeout(Some(slice)).map_err(|error| io("read", &error))?;
            match self.0.read(into) {
                Ok(0) => return Ok(Read::End),
                Ok(count) => return Ok(Read::Bytes(count)),
                Err(error) if is_passing(error.kind()) => {}
                Err(error) => return Err(io("read", &error)),
            }
        }
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn io(what: &str, error: &std::io::Error) -> Failure {
    Failure::Io(format!("could not {what}: {error}"))
}
