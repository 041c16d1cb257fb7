//! The network threads of a worker. Each thread runs one exchange with a provider, that is, one request and its reply.

use std::io;
use std::os::fd::BorrowedFd;

use cowrie_enrich_engine::net::{Finished, Pool};
use cowrie_enrich_engine::providers::{Exchange, Reply};

use crate::pg::background;

/// The number of an exchange. It is unique among the exchanges of a worker.
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

    /// Returns the exchanges that have ended since the previous call of this function.
    pub fn finished(&mut self) -> Vec<Finished<Reply>> {
        self.pool.finished()
    }

    /// Returns true if no exchange is running.
    pub fn is_empty(&self) -> bool {
        self.pool.running() == 0
    }

    /// Returns a file descriptor that becomes readable when an exchange has ended.
    pub fn ready(&self) -> BorrowedFd<'_> {
        self.pool.ready()
    }

    pub fn cancel(&mut self) {
        self.pool.cancel();
    }
}
