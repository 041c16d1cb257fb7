//! Answers: how much may come over a connection for one exchange?
//!
//! The rule: every byte counts, also those that no body is made of. The limit of a body sees neither blocks of gzip that
//! unpack to nothing, nor trailers, nor interim answers: without end, they would be read as fast as they come until
//! the deadline.

use std::cell::Cell;
use std::time::Instant;
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Bytes, as they come out of TLS. The longest body, once more for whatever is around it.
const LONGEST: usize = 2 * super::exchange::LONGEST_BODY as usize;

thread_local! {
    /// When the connection came about that this thread's request goes through; none where an older one serves.
    pub(super) static CONNECTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// To be the last of a chain.
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
    /// Bytes since something was sent.
    received: usize,
}

impl<T: Transport> Transport for Bounded<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        // A request: what comes from here on answers it. Nothing is sent once an answer is being read.
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
