//! Requests in flight, of all providers.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use cowrie_enrich_engine::net::{Finished, Pool};
use cowrie_enrich_engine::providers::Exchange;

use super::apply::CompletedBatch;
use super::request::ProviderRequest;
use crate::pg::background;
use crate::provider::Provider;
use crate::telemetry;

pub struct InFlight {
    pool: Pool<Exchange>,
    /// By ticket.
    requests: BTreeMap<u64, ProviderRequest>,
    tickets: u64,
    /// Batches that came back and were not fetched yet.
    landed: Vec<CompletedBatch>,
}

impl InFlight {
    pub fn new() -> std::io::Result<InFlight> {
        Ok(InFlight { pool: Pool::new()?, requests: BTreeMap::new(), tickets: 0, landed: Vec::new() })
    }

    /// Starts a thread for the exchange. Returns the request if no thread could be started.
    pub fn start(&mut self, mut request: ProviderRequest) -> Option<ProviderRequest> {
        self.tickets += 1;
        let (ticket, task) = (self.tickets, request.task());
        match background::without_signals(|| self.pool.start(ticket, task)) {
            Ok(()) => {
                self.requests.insert(ticket, request);
                None
            }
            Err(error) => {
                telemetry::error("a network thread could not be started", &error.to_string());
                Some(request)
            }
        }
    }

    /// Collects completed batches. Their permits become free for the next request, perhaps of another
    /// database.
    pub fn collect(&mut self) {
        for Finished { ticket, done, took } in self.pool.finished() {
            if let Some(request) = self.requests.remove(&ticket) {
                let limits = request.provider.limits();
                self.landed.push(request.landed(done, took, &limits));
            }
        }
    }

    /// Returns the batches that came back since the last call.
    pub fn landed(&mut self) -> Vec<CompletedBatch> {
        self.collect();
        std::mem::take(&mut self.landed)
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn has_any_of(&self, provider: Provider) -> bool {
        self.requests.values().any(|request| request.provider == provider)
    }

    /// Returns a descriptor that is readable when an exchange has ended.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.pool.ready()
    }

    pub fn cancel(&mut self) {
        self.pool.cancel();
    }
}
