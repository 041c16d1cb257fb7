//! Background workers: one per database that has the extension, and the launcher that sees to them.
//!
//! | module | answers |
//! |---|---|
//! | `launcher` | which databases need a worker, and is it there |
//! | `seniority` | which databases get theirs first |
//! | `main_loop` | what a worker does in its database, round by round |
//! | `steps` | the short transactions that this is made of |
//! | `due` | when a step is made, and when again after a failure |
//! | `provider_queue` | one provider's jobs, from the claim to the answer |
//! | `in_flight` | the exchanges that are under way |
//! | `request` | an exchange with a provider, and what its reply says of the provider |
//! | `apply` | what came back, from the reply to the inventories |
//! | `trace` | a batch as spans |
//! | `registry` | which worker has which slot, and how it is woken |
//! | `owners` | supervises the processes that run code of table owners |
//! | `recounter` | the recount after a commit could not append its counts |
//! | `session_priority` | when it is found out which sessions matter |

mod apply;
pub mod due;
mod in_flight;
mod launcher;
mod main_loop;
mod owners;
mod provider_queue;
mod recounter;
pub mod registry;
mod request;
mod seniority;
mod session_priority;
mod steps;
mod trace;

pub use launcher::register;
pub use request::judge;

use crate::pg::background::{self, Needs, Process, Program};

const PROGRAM: Program =
    Program { symbol: "cowrie_enrich_worker_main", kind: "cowrie_enrich worker", needs: Needs::Writing };

crate::background_process!(cowrie_enrich_worker_main, main_loop::run);

/// Starts the worker of this slot.
fn start(database: &str, worker_slot: usize) -> Option<Process> {
    background::start(PROGRAM, &format!("cowrie_enrich worker for {database}"), worker_slot as i32)
}
