//! Exports metrics from the server.
//!
//! This module sends bytes that the caller has prepared. It reads no value from the PostgreSQL server and never blocks
//! the PostgreSQL server.
//!
//! | file | holds |
//! |---|---|
//! | `scrape` | the HTTP server that scrapers connect to |
//! | `request` | requests of scrapers, and heads of responses |
//! | `status` | contents of the status files |
//! | `files` | atomic replacement of files |
//! | `settings` | checks of the settings for destinations |

pub mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
mod request;
pub mod scrape;
pub mod settings;
pub mod status;
