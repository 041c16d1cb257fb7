//! A simulated connection without a socket. It delivers the bytes that the caller has chosen. Fuzz targets use it to
//! test millions of responses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

/// The first connector of a chain.
#[derive(Clone, Debug)]
pub(super) struct CannedConnector {
    bytes: Arc<[u8]>,
    taken: Arc<AtomicUsize>,
}

impl CannedConnector {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), taken: Arc::default() }
    }

    /// Returns the number of bytes read.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Connector<()> for CannedConnector {
    type Out = CannedConnection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<CannedConnection>, Error> {
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(CannedConnection { memory: self.clone(), buffers: LazyBuffers::new(input, output) }))
    }
}

#[derive(Debug)]
pub(super) struct CannedConnection {
    memory: CannedConnector,
    buffers: LazyBuffers,
}

impl Transport for CannedConnection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let at = self.memory.taken();
        let rest = &self.memory.bytes[at..];
        let into = self.buffers.input_append_buf();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.buffers.input_appended(count);
        self.memory.taken.store(at + count, Ordering::Relaxed);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }
}

/// Returns one fixed address for every name, without a lookup.
#[derive(Debug)]
pub(super) struct FixedResolver;

impl Resolver for FixedResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from(([192, 0, 2, 80], 80)));
        Ok(addresses)
    }
}
