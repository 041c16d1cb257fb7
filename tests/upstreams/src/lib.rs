//! Stand-ins for the services that the extension asks: they listen on loopback, misbehave by script, and record
//! what they saw. Assertions are made on the record.
//!
//! | module | answers |
//! |---|---|
//! | `routes` | which address belongs to which network: a table, or networks computed from the address |
//! | `behaviour` | in which ways Team Cymru's whois can answer, and what the bytes then are |
//! | `whois` | the bulk whois server: one thread a connection, stopped and started again at will |
//! | `record` | what clients of the whois server said, and when |
//! | `dns` | the same routes as TXT records, by UDP and TCP |
//! | `listener` | accepts connections until told to stop |
//!
//! Nothing here uses code of the client under test: the formats are written down a second time, on purpose. The
//! program `cymru-loopback` serves a table of routes to the demo.

#![forbid(unsafe_code)]

mod behaviour;
mod dns;
mod listener;
mod record;
mod routes;
mod whois;

pub use behaviour::{Behaviour, CustomAnswer, FOREIGN_ASN, Fault};
pub use dns::{CustomMessages, Dns, DnsBehaviour, DnsFault, DnsQuestion, Transport};
pub use record::{Connection, Record};
pub use routes::{Route, Routes, synthetic_asn, synthetic_country, synthetic_name};
pub use whois::Whois;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A test that panicked while it looked at the record must not hide its message behind a second panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
