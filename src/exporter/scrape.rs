//! Serves metrics to Prometheus while `metrics_listen` is set.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::export::scrape::{Event, Server};
use cowrie_enrich_engine::metrics::prometheus;
use cowrie_enrich_engine::net::Notifier;

use super::snapshot;
use crate::guc;
use crate::pg::background;
use crate::telemetry::{Exporter, exported};

/// Pause before the next attempt to listen after a failure.
const LISTENS_AGAIN_AFTER: Duration = Duration::from_secs(1);

pub struct Scrape {
    notifier: Arc<Notifier>,
    server: Option<Server>,
    /// Earliest time of the next attempt to listen.
    backoff_until: Option<Instant>,
}

impl Scrape {
    pub fn new(notifier: &Arc<Notifier>) -> Scrape {
        Scrape { notifier: Arc::clone(notifier), server: None, backoff_until: None }
    }

    /// Listens on the configured address and serves requests.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let wanted = guc::metrics_listen();
        if self.server.as_ref().is_some_and(|server| Some(server.address()) != wanted) {
            (self.server, self.backoff_until) = (None, None);
        }
        if let (Some(address), None) = (wanted, &self.server) {
            self.listen(address, now);
        }
        self.serve(now);
        wanted.and(self.backoff_until)
    }

    fn listen(&mut self, address: SocketAddr, now: Instant) {
        if self.backoff_until.is_some_and(|until| now < until) {
            return;
        }
        match background::without_signals(|| Server::start(address, Arc::clone(&self.notifier))) {
            Ok(server) => (self.server, self.backoff_until) = (Some(server), None),
            Err(error) => {
                exported(Exporter::Scrape, Err(&format!("could not listen on {address}: {error}")));
                self.backoff_until = Some(now + LISTENS_AGAIN_AFTER);
            }
        }
    }

    fn serve(&mut self, now: Instant) {
        let Some(server) = &self.server else { return };
        let mut newest = None;
        for event in server.take_events() {
            match event {
                Event::Requested(ticket) => newest = newest.max(Some(ticket)),
                Event::Served => exported(Exporter::Scrape, Ok(())),
                Event::Failed(reason) => exported(Exporter::Scrape, Err(&reason)),
            }
        }
        if let Some(ticket) = newest {
            let text = text().inspect_err(|reason| exported(Exporter::Scrape, Err(reason)));
            server.answer(ticket, text.ok());
        }
        if !server.is_alive() {
            (self.server, self.backoff_until) = (None, Some(now + LISTENS_AGAIN_AFTER));
        }
    }
}

fn text() -> Result<Vec<u8>, String> {
    let families = snapshot()?;
    prometheus::text(&families).map(String::into_bytes).map_err(|failure| failure.to_string())
}
