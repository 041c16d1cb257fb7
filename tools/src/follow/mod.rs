//! `cowrie-load --follow`: reads the logs of a running honeypot and stores each session once.
//!
//! ```text
//! directory ─ logs ─ lines ─ open sessions ─ batches ─ transactions
//! ```
//!
//! Each session is stored once, even if the program is killed at any time:
//!
//! 1. A batch of sessions is inserted in one transaction, together with its rows in other tables.
//! 2. Before the commit, the state file is written. It has the batch, the positions after it, and the open sessions.
//! 3. The transaction commits. The next version of the state file does not contain the batch.
//!
//! If the program is killed before 2, the transaction is aborted, and the next run reads the same lines again. If it is
//! killed after 2, the next run inserts the batch of the state file again. If the transaction was committed, the unique
//! key of the table stops every row, and the batch is done. Otherwise no row is stopped. A connection that is lost
//! during the commit is handled in the same way.

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

pub use directory::Scanner;
pub use open::OpenLimits;
pub use run::{Follower, Options};
pub use state::state_directory;
