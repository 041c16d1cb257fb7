//! Exchanges that are under way, whosever they are.

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
    /// What came back and nobody has asked for yet.
    landed: Vec<CompletedBatch>,
}

impl InFlight {
    pub fn new() -> std::io::Result<InFlight> {
        Ok(InFlight { pool: Pool::new()?, requests: BTreeMap::new(), tickets: 0, landed: Vec::new() })
    }

    /// Has a thread make the exchange; gives the request back where there is none to be had.
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

    /// Takes what came back, which makes room for the next request, perhaps of another database's.
    pub fn collect(&mut self) {
        for Finished { ticket, done, took } in self.pool.finished() {
            if let Some(request) = self.requests.remove(&ticket) {
                let limits = request.provider.limits();
                self.landed.push(request.landed(done, took, &limits));
            }
        }
    }

    /// What came back since this was last asked.
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

    /// Readable when something has come back.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.pool.ready()
    }

    pub fn cancel(&mut self) {
        self.pool.cancel();
    }
}
