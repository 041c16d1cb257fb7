//! Limits the bytes received over a connection for one exchange.
//!
//! The limit counts all bytes of a response, and not only the body. The limit of the body does not cover three kinds of
//! data: blocks of gzip that unpack to nothing, trailers, and interim responses. If a server sent such data without
//! end, the client would read at full speed until the deadline.

use std::cell::Cell;
use std::time::Instant;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Maximum length of an unpacked body, in bytes. The largest known answers have a few dozen KiB.
pub(super) const LONGEST_BODY: u64 = 1024 * 1024;
/// Limit on the received bytes after TLS decryption. It is the maximum length of the body, plus the same number of
/// bytes for all other parts of the response.
const LONGEST: usize = 2 * LONGEST_BODY as usize;

thread_local! {
    /// Time when this thread established the connection for its last request. `None` if the request uses a connection
    /// that already existed.
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
        // This call sends a request. So all bytes that are received from now on belong to the response. Nothing is sent
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
