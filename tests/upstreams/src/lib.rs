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
//! | `hosts` | what GreyNoise, DShield and SPUR know of addresses: a table, or computed from the address |
//! | `http` | one of these three: how it is started, told how to behave, stopped and started again |
//! | `http/services` | what each of them answers about an address |
//! | `http/behaviour` | in which ways an HTTP service can answer |
//! | `http/connection`, `http/wire` | the conversation on one connection, and its bytes |
//! | `http/record` | what clients asked, and when |
//! | `collector` | OpenTelemetry's, by OTLP over HTTP: what it was sent, and how it answers |
//! | `prefix`, `json` | prefixes of addresses; values as JSON text |
//! | `listener` | accepts connections until told to stop |
//! | `program` | what the programs have in common: options, port file, end with another process |
//!
//! Nothing here uses code of the client under test: the formats are written down a second time, on purpose. The
//! programs `cymru-loopback` and `http-loopback` serve a table of routes and one of hosts to the demo.

#![forbid(unsafe_code)]

mod behaviour;
mod collector;
mod dns;
mod hosts;
mod http;
mod json;
mod listener;
mod prefix;
pub mod program;
mod record;
mod routes;
mod whois;

pub use behaviour::{Behaviour, CustomAnswer, FOREIGN_ASN, Fault};
pub use collector::{Collector, CollectorAnswer, Exported, Point, Sent, SpanSeen};
pub use dns::{CustomMessages, Dns, DnsBehaviour, DnsFault, DnsQuestion, Transport};
pub use hosts::{
    Host, Hosts, Reports, Tunnel, synthetic_classification, synthetic_dshield_asn, synthetic_dshield_attacks,
    synthetic_dshield_country, synthetic_ip_type, synthetic_noise,
};
pub use http::{CannedAnswer, CustomHttpAnswer, Http, HttpBehaviour, HttpFault, HttpRequest, Service};
pub use record::{Connection, Record};
pub use routes::{Route, Routes, synthetic_asn, synthetic_country, synthetic_name};
pub use whois::Whois;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A test that panicked while it looked at the record must not hide its message behind a second panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
