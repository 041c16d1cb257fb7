//! Counts the exports of each exporter. The counters change at once, because an export does not belong to a transaction.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::shared_state::{self, EXPORTERS};

/// An exporter. The numbers define the layout of the shared block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Exporter {
    Scrape = 0,
    StatusFile,
    Otlp,
}

const DONE: usize = 0;
const FAILED: usize = 1;

impl Exporter {
    pub const ALL: [Exporter; EXPORTERS] = [Exporter::Scrape, Exporter::StatusFile, Exporter::Otlp];

    pub fn name(self) -> &'static str {
        match self {
            Exporter::Scrape => "scrape",
            Exporter::StatusFile => "status_file",
            Exporter::Otlp => "otlp",
        }
    }

    /// Returns the number of exports that succeeded.
    pub fn done(self) -> i64 {
        self.counter(DONE).load(Ordering::Relaxed)
    }

    /// Returns the number of exports that failed.
    pub fn failed(self) -> i64 {
        self.counter(FAILED).load(Ordering::Relaxed)
    }

    fn counter(self, which: usize) -> &'static AtomicI64 {
        &shared_state::block().exports[self as usize][which]
    }
}

/// Counts one export as successful or failed. If many exports fail in succession, logs the reason only once.
pub fn exported(by: Exporter, outcome: Result<(), &str>) {
    match outcome {
        Ok(()) => by.counter(DONE).fetch_add(1, Ordering::Relaxed),
        Err(reason) => {
            let headline = match by {
                Exporter::Scrape => "could not serve metrics",
                Exporter::StatusFile => "could not write the status file",
                Exporter::Otlp => "could not send metrics or spans by OTLP",
            };
            super::log_once_per_burst(headline, reason);
            by.counter(FAILED).fetch_add(1, Ordering::Relaxed)
        }
    };
}
