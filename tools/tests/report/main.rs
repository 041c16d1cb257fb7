//! `cowrie-report` on a real server: its figures, hostile texts, missing rights, faults, and the page in a
//! browser.
//!
//! The tests need the private PostgreSQL with the installed extension. `make test` provides both, and sets
//! COWRIE_ENRICH_PG_CONFIG. Without this variable the tests only report that they were skipped.

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod counted;
mod counting;
mod faults;
mod figures;
mod hostile;
mod page;
mod passwords;
mod place;
mod rights;
mod unit;
