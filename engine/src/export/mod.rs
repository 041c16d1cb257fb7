//! Answers: how do measured numbers leave the server?
//!
//! The rule: what leaves is bytes that somebody else has finished; nothing here asks for a number of the server's, and
//! nothing here can hold the server up.
//!
//! | file | answers for |
//! |---|---|
//! | `scrape` | the HTTP server that scrapers connect to |
//! | `request` | requests of scrapers, and heads of responses |
//! | `status` | what the status files say |
//! | `files` | how files change for their readers at one moment |
//! | `settings` | where to: what may be set, and what is wrong with what may not |

pub mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
mod request;
pub mod scrape;
pub mod settings;
pub mod status;
