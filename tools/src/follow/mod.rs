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
//!
//! `identify` finds out which log a file is, `log_clock` has the time by which sessions end, and `remembered` knows what to
//! do with events of sessions that are no longer open.

mod check;
mod directory;
mod fingerprint;
mod identify;
mod log_clock;
mod logs;
#[cfg(test)]
mod logs_tests;
pub mod metrics;
mod open;
#[cfg(test)]
mod open_tests;
mod position;
mod reader;
mod remembered;
mod report;
#[cfg(test)]
mod rotation_tests;
mod run;
mod state;
mod store;
pub mod writer;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

pub use open::OpenLimits;
pub use run::{Follower, Options};
pub use state::state_directory;

/// Returns the logs in a directory by the time of their first events, and the files that cannot be read with the reasons. A
/// copy of a log is left out.
pub fn logs_of(directory: &Path) -> io::Result<(Vec<PathBuf>, Vec<String>)> {
    let (found, mut failed, unreadable) = loop {
        let (listed, failed) = directory::list(directory, |_| false)?;
        // Looks again if a log was renamed meanwhile.
        if let Some((found, unreadable)) =
            identify::Identifier::default().identify(listed, &mut HashMap::new())
        {
            break (found, failed, unreadable);
        }
    };
    failed.extend(unreadable);
    let failed = failed.into_iter().map(|(path, error)| format!("{}: {error}", path.display())).collect();
    Ok((found.into_iter().map(|log| log.path).collect(), failed))
}
