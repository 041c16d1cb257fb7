//! Background workers: one per database that has the extension, and the launcher that sees to them.
//!
//! | module | answers |
//! |---|---|
//! | `launcher` | which databases need a worker, and is it there |
//! | `roster` | who works where, and how they are told that there is something to do |
//! | `database` | what a worker does in its database, round by round |
//! | `flight` | an exchange with a provider, and what its reply says of the provider |
//! | `landing` | what came back, from the reply to the inventories |
//! | `ranking` | when it is found out which sessions matter |

mod database;
mod flight;
mod landing;
mod launcher;
mod ranking;
pub mod roster;

pub use flight::judge;
pub use launcher::register;

use crate::pg::background::{self, Process, Program};

const PROGRAM: Program =
    Program { symbol: "cowrie_enrich_worker_main", kind: "cowrie_enrich worker", writes: true };

crate::background_process!(cowrie_enrich_worker_main, database::run);

/// Starts the worker that sits in this seat.
fn start(database: &str, seat: usize) -> Option<Process> {
    background::start(PROGRAM, &format!("cowrie_enrich worker for {database}"), seat as i32)
}
