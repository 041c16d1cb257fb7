//! Datagrams to one UDP peer.
//!
//! The socket is connected to one peer, so the kernel drops datagrams from other senders. If the peer reports "port
//! unreachable" by ICMP, a call on the socket returns an error.

use super::{Cancel, Failure, slice};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

pub(crate) struct Datagrams {
    socket: UdpSocket,
    peer: SocketAddr,
}

impl Datagrams {
    /// Connects from a port that the kernel chooses.
    pub(crate) fn connect(peer: SocketAddr) -> Result<Self, Failure> {
        let local: SocketAddr = match peer {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).and_then(|socket| socket.connect(peer).map(|()| socket));
        let socket = socket.map_err(|error| unreachable(peer, &error))?;
        Ok(Self { socket, peer })
    }

    /// Sends a datagram. If the peer is unreachable, returns an error. If the datagram cannot be sent for a temporary
    /// reason, returns `Ok`, because the caller treats the datagram as lost.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Failure> {
        match self.socket.send(bytes) {
            Ok(_) => Ok(()),
            Err(error) if is_unreachable(error.kind()) => Err(unreachable(self.peer, &error)),
            Err(error) if is_passing(error.kind()) => Ok(()),
            Err(error) => Err(Failure::Io(format!("could not send to {}: {error}", self.peer))),
        }
    }

    /// Receives one datagram. If the datagram is longer than the buffer, the bytes that do not fit are lost. Waits
    /// until the deadline, but not longer than `SLICE`. If no datagram arrives in this time, returns `None`.
    pub(crate) fn receive(
        &self,
        into: &mut [u8],
        until: Instant,
        cancel: &Cancel,
    ) -> Result<Option<usize>, Failure> {
        if cancel.is_set() {
            return Err(Failure::Cancelled);
        }
        let Some(slice) = slice(until) else {
            return Ok(None);
        };
        let received = self.socket.set_read_timeout(Some(slice)).and_then(|()| self.socket.recv(into));
        match received {
            Ok(count) => Ok(Some(count)),
            Err(error) if is_unreachable(error.kind()) => Err(unreachable(self.peer, &error)),
            Err(error) if is_passing(error.kind()) => Ok(None),
            Err(error) => Err(Failure::Io(format!("could not read from {}: {error}", self.peer))),
        }
    }
}

fn is_unreachable(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn unreachable(peer: SocketAddr, error: &io::Error) -> Failure {
    Failure::Connect(format!("could not reach {peer}: {error}"))
}
