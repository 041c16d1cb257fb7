//! `cowrie-load --follow`: reads the logs of a running honeypot and stores each session once.
//!
//! ```text
//! directory ─ logs ─ lines ─ open sessions ─ batches ─ transactions
//! ```
//!
//! A session is stored once, whenever the program is killed:
//!
//! 1. A batch is inserted, and its rows, in one transaction.
//! 2. Before the commit, the state file is written. It has the batch, the positions after it, and the open sessions.
//! 3. The transaction commits. The batch leaves the state file when that is written next.
//!
//! If the program is killed before 2, the next run reads the same lines again, and the transaction was aborted. If it is
//! killed after 2, the next run inserts the batch of the state file again. If the transaction was committed, the unique
//! key of the table stops every row, and the batch is done. Otherwise no row is stopped. A connection that is lost
//! during the commit is the same case.

mod check;
mod directory;
mod head;
mod logs;
pub mod metrics;
mod open;
mod reader;
mod report;
mod run;
mod state;
pub mod writer;

pub use open::OpenLimits;
pub use run::{Follower, Options, state_directory};
