//! The network threads of a worker. A thread makes one exchange with a provider.

use std::io;
use std::os::fd::BorrowedFd;

use cowrie_enrich_engine::net::{Finished, Pool};
use cowrie_enrich_engine::providers::{Exchange, Reply};

use crate::pg::background;

/// The number of an exchange, unique in a worker.
pub type Ticket = u64;

pub struct Exchanges {
    pool: Pool<Exchange>,
    last: Ticket,
}

impl Exchanges {
    pub fn new() -> io::Result<Exchanges> {
        Ok(Exchanges { pool: Pool::new()?, last: 0 })
    }

    /// Starts a thread for the exchange. Returns an error if the system cannot start one.
    pub fn start(&mut self, exchange: Exchange) -> io::Result<Ticket> {
        self.last += 1;
        let ticket = self.last;
        background::without_signals(|| self.pool.start(ticket, exchange))?;
        Ok(ticket)
    }

    /// Returns the exchanges that have ended since the last call.
    pub fn finished(&mut self) -> Vec<Finished<Reply>> {
        self.pool.finished()
    }

    /// Returns whether no exchange is running.
    pub fn is_empty(&self) -> bool {
        self.pool.running() == 0
    }

    /// Returns a descriptor that is readable when an exchange has ended.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.pool.ready()
    }

    pub fn cancel(&mut self) {
        self.pool.cancel();
    }
}
