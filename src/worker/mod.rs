//! Background workers: one per database that has the extension, and the launcher that sees to them.
//!
//! | module | answers |
//! |---|---|
//! | `launcher` | which databases need a worker, and is it there |
//! | `seniority` | which databases get theirs first |
//! | `database` | what a worker does in its database, round by round |
//! | `steps` | the short transactions that this is made of |
//! | `due` | when a step is made, and when again after a failure |
//! | `lane` | one provider's jobs, from the claim to the answer |
//! | `air` | the exchanges that are under way |
//! | `flight` | an exchange with a provider, and what its reply says of the provider |
//! | `landing` | what came back, from the reply to the inventories |
//! | `trace` | a batch as spans |
//! | `owners` | supervises the processes that run code of table owners |
//! | `ranking` | when it is found out which sessions matter |

mod air;
mod database;
mod due;
mod flight;
mod landing;
mod lane;
mod launcher;
mod owners;
mod ranking;
mod seniority;
mod steps;
mod trace;

pub use flight::judge;
pub use launcher::register;

use crate::pg::background::{self, Needs, Process, Program};

const PROGRAM: Program =
    Program { symbol: "cowrie_enrich_worker_main", kind: "cowrie_enrich worker", needs: Needs::Writing };

crate::background_process!(cowrie_enrich_worker_main, database::run);

/// Starts the worker that sits in this seat.
fn start(database: &str, seat: usize) -> Option<Process> {
    background::start(PROGRAM, &format!("cowrie_enrich worker for {database}"), seat as i32)
}
