//! The parts of cowrie_enrich that do not need PostgreSQL.
//!
//! This crate must not depend on pgrx or contain SQL. Because of this rule, the parsers can be tested and fuzzed without a server.
//! Also, the threads that send requests over the network cannot call PostgreSQL by mistake.

#![forbid(unsafe_code)]

pub mod address;
pub mod address_line;
pub mod as_registry;
pub mod backoff;
pub mod bogon;
pub mod breaker;
pub mod classify;
pub mod country;
pub mod distinct;
pub mod export;
pub mod file_list;
#[cfg(any(test, fuzzing))]
pub mod invariants;
pub mod ip_type;
pub mod jsonb_text;
pub mod legacy;
pub mod lookup_key;
pub mod mention;
pub mod metrics;
pub mod mmdb;
pub mod net;
pub mod network_kind;
pub mod otlp;
pub mod panics;
pub mod prefix;
pub mod providers;
pub mod quota;
pub mod random;
pub mod rate;
pub mod regular_file;
pub mod ring;
pub mod session_time;
pub mod timestamp;
pub mod version;
