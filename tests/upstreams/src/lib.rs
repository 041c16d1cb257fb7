//! Stand-ins for the services that the extension sends requests to. They listen on loopback, misbehave by script, and
//! record the requests that they receive. Assertions are made on the record.
//!
//! | module | content |
//! |---|---|
//! | `routes` | which address belongs to which network: a table, or networks computed from the address |
//! | `behaviour` | the ways in which Team Cymru's whois can answer, and the bytes of each answer |
//! | `network_rows` | rows about networks, and their faults |
//! | `whois` | the bulk whois server: one thread a connection, can be stopped and started again |
//! | `record` | the requests of clients of the whois server, with their times |
//! | `dns` | the same routes as TXT records, by UDP and TCP |
//! | `hosts` | the data of GreyNoise, DShield and SPUR about addresses: a table, or computed from the address |
//! | `http` | one of these three: starts, stops and starts it again, and sets its behaviour |
//! | `http/services` | the answer of each of them about an address |
//! | `http/behaviour` | the ways in which an HTTP service can answer |
//! | `http/connection`, `http/wire` | the requests and answers on one connection, and their bytes |
//! | `http/record` | the requests of clients, with their times |
//! | `collector` | an OpenTelemetry collector, by OTLP over HTTP: the requests to it, and its answers |
//! | `prefix`, `json` | prefixes of addresses; values as JSON text |
//! | `listener` | accepts connections until it is closed |
//! | `program` | the common parts of the programs: options, port file, end with another process |
//!
//! Nothing here uses code of the client under test: the formats are implemented a second time, on purpose. The programs
//! `cymru-loopback` and `http-loopback` serve a table of routes and one of hosts to the demo.

#![forbid(unsafe_code)]

mod behaviour;
mod collector;
mod dns;
mod hosts;
mod http;
mod json;
mod listener;
mod network_rows;
mod prefix;
pub mod program;
mod record;
mod routes;
mod whois;

pub use behaviour::{Behaviour, CustomAnswer, FOREIGN_ASN, Fault};
pub use collector::{Collector, CollectorAnswer, ExportBody, Point, ReceivedExport, ReceivedSpan};
pub use dns::{CustomMessages, Dns, DnsBehaviour, DnsFault, DnsQuestion, Transport};
pub use hosts::{
    Host, Hosts, Reports, Tunnel, synthetic_classification, synthetic_dshield_asn, synthetic_dshield_attacks,
    synthetic_dshield_country, synthetic_ip_type, synthetic_noise,
};
pub use http::{CannedAnswer, CustomHttpAnswer, Http, HttpBehaviour, HttpFault, HttpRequest, Service};
pub use network_rows::{FOREIGN_COUNTRY, FOREIGN_NAME, NetworkFault};
pub use record::{Connection, Record};
pub use routes::{Route, Routes, synthetic_asn, synthetic_country, synthetic_name};
pub use whois::Whois;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A test that panicked while it held the record must not hide its message behind a second panic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
