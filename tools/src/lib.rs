//! Library of the extension's companion programs. No part of it is linked into the extension.
//!
//! - [`networks`] reads lists of networks, [`mmdb`] writes them as MaxMind databases: `mmdb-build --city`, `--asn`.
//! - [`lists`] reads published lists of addresses and compiles them: `mmdb-build --types`.
//! - [`log`] reads Cowrie's JSON logs, [`session`] gathers events into sessions, [`load`] stores them in Cowrie's
//!   PostgreSQL schema: `cowrie-load`.
//! - [`follow`] stores the sessions of a running honeypot: `cowrie-load --follow`. [`session_lines`] writes sessions as
//!   lines of a log, [`grants`] knows the privileges that a role needs.
//! - [`html`] writes pages from hostile texts, [`report`] reads the data of a report and lays it out: `cowrie-report`.
//! - [`synthetic`] makes the log that the demo comes with: `demo-log`.

pub mod connection;
pub mod follow;
pub mod grants;
pub mod html;
pub mod lists;
pub mod load;
pub mod log;
mod log_lines;
pub mod mmdb;
pub mod networks;
pub mod publish;
pub mod report;
pub mod session;
pub mod session_lines;
pub mod synthetic;
