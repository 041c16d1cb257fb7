//! Background workers. Each database that has the extension has one worker. The launcher starts the workers.
//!
//! | module | contents |
//! |---|---|
//! | `launcher` | starts a worker in each database that needs one |
//! | `database_order` | the order in which databases get their workers |
//! | `main_loop` | the rounds of a worker in its database |
//! | `steps` | the short transactions of a worker |
//! | `step_schedule` | when a step is due, also after a failure |
//! | `batch` | the states of a batch of jobs, from the claim to the stored answers |
//! | `provider_queue` | the batches of one provider, and when each step of a batch runs |
//! | `exchanges` | the network threads |
//! | `completed` | the outcomes in a completed batch |
//! | `apply` | the transaction that stores outcomes in the inventories |
//! | `trace` | the spans of a batch |
//! | `activity` | the kinds of steps of a worker, and its activity as the views show it |
//! | `registry` | the worker slots, and how workers are woken |
//! | `owner_supervisor` | supervises the processes that run code of table owners |
//! | `recounter` | recounts sessions if a commit could not append its counts |
//! | `session_priority` | when session priorities are evaluated |
//! | `shards` | registers sessions in shards that a Citus cluster has moved to this node |

pub mod activity;
mod apply;
mod apply_networks;
mod batch;
mod completed;
mod database_order;
mod exchanges;
mod launcher;
mod main_loop;
mod owner_supervisor;
mod provider_queue;
mod recounter;
pub mod registry;
mod session_priority;
mod shards;
pub mod step_schedule;
mod steps;
mod trace;

pub use launcher::register;

use crate::pg::background::{self, Needs, Process, Program};

const PROGRAM: Program =
    Program { symbol: "cowrie_enrich_worker_main", kind: "cowrie_enrich worker", needs: Needs::Writing };

crate::background_process!(cowrie_enrich_worker_main, main_loop::run);

/// Starts the process of the worker that uses this slot.
fn start(database: &str, worker_slot: usize) -> Option<Process> {
    background::start(PROGRAM, &format!("cowrie_enrich worker for {database}"), worker_slot as i32)
}
