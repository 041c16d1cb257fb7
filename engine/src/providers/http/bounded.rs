//! Limits the bytes received over a connection for one exchange.
//!
//! The limit counts all bytes, also bytes outside the body. The limit of the body does not cover three kinds of data:
//! blocks of gzip that unpack to nothing, trailers, and interim responses. Without the limit on all bytes, an endless
//! stream of such data would be read at full speed until the deadline.

use std::cell::Cell;
use std::time::Instant;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Maximum length of an unpacked body in bytes. The largest known answers have some dozens of KiB.
pub(super) const LONGEST_BODY: u64 = 1024 * 1024;
/// Limit in bytes after TLS decryption: the longest body, and the same amount for all other parts.
const LONGEST: usize = 2 * LONGEST_BODY as usize;

thread_local! {
    /// Time at which the connection of this thread's request was established. `None` if the request uses an older
    /// connection.
    pub(super) static CONNECTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The last connector of a chain.
#[derive(Debug)]
pub(super) struct BoundedConnector;

impl<In: Transport> Connector<In> for BoundedConnector {
    type Out = Bounded<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Bounded<In>>, Error> {
        CONNECTED.set(chained.is_some().then(Instant::now));
        Ok(chained.map(|inner| Bounded { inner, received: 0 }))
    }
}

#[derive(Debug)]
pub(super) struct Bounded<T> {
    inner: T,
    /// Bytes received since the last transmission.
    received: usize,
}

impl<T: Transport> Transport for Bounded<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        // A request is being sent, so all bytes that are received from now on are the response to it. Nothing is sent
        // while a response is read.
        self.received = 0;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        if self.received > LONGEST {
            return Err(Error::BodyExceedsLimit(LONGEST as u64));
        }
        let before = self.inner.buffers().input().len();
        let progress = self.inner.await_input(timeout)?;
        let after = self.inner.buffers().input().len();
        self.received = self.received.saturating_add(after.saturating_sub(before));
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
