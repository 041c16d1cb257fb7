//! The state of the extension that all processes share when the library is preloaded.
//!
//! | module | holds |
//! |---|---|
//! | `shared_block` | the block of shared memory, with its locking protocol |
//! | `worker_slot` | the slot of a worker, and of the process that recounts the sessions of its database |
//! | `worker_process` | takes a worker slot for this process |
//! | `report` | metrics of a database |
//! | `owner_slot` | processes that run code of table owners |
//! | `owner_process` | the owner slot of this process, if the process runs code of a table owner |
//! | `databases` | databases that wait for a worker, and databases in which no worker may start until a given time |
//! | `provider` | a provider's health |
//! | `procedure_call` | progress of a procedure |
//! | `short_text` | a short text |

mod databases;
pub mod owner_process;
mod owner_slot;
mod procedure_call;
mod provider;
mod report;
mod shared_block;
mod short_text;
pub mod worker_process;
mod worker_slot;

pub use databases::{DatabaseCooldown, WaitingDatabase};
pub use owner_slot::{OWNER_SLOTS, OwnerSlot};
pub use procedure_call::ProcedureCall;
pub use provider::{PROVIDERS, ProviderState};
pub use report::{QUEUE_SIZES, Report, STEP_KINDS, UNKNOWN, UNKNOWN_TIME};
pub use shared_block::{
    CELLS, EXPORTERS, PROCEDURES, PROVIDER_SLOTS, SLOTS, SPANS, WORKER_SLOTS, block, is_shared, locked,
    publish_waiting, request, waiting,
};
pub use worker_slot::WorkerSlot;
