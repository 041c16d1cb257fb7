//! Exports metrics and spans to OpenTelemetry.
//!
//! The protocol is OTLP over HTTP. The crate `opentelemetry-proto` of the OpenTelemetry project defines the protobuf
//! messages. Source: <https://opentelemetry.io/docs/specs/otlp/>. The names of attributes come from OpenTelemetry's
//! semantic conventions.
//!
//! The code that measures does not use this module. This module receives measured values, sends them to a collector,
//! and returns the collector's response.
//!
//! | file | holds |
//! |---|---|
//! | `metrics` | metric families as a request |
//! | `span` | spans, as they pass between processes |
//! | `traces` | spans as a request |
//! | `export` | one request and its outcome |

mod export;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
mod metrics;
mod span;
mod traces;

pub use export::{Export, Outcome, Signal, check};
pub use metrics::metrics;
pub use span::{BatchSpan, NetworkSpan, Operation, Span, SpanDetails, Text, WORDS, new_id, new_trace};
pub use traces::traces;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1;

/// The OpenTelemetry resource to which all metrics and spans of a server belong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// Identifies the cluster and never changes.
    pub instance: String,
}

/// An encoded request, and the number of data points or spans that it contains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    pub body: Vec<u8>,
    pub items: u64,
}

const SERVICE: &str = "cowrie_enrich";
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Resource {
    fn encoded(&self) -> v1::Resource {
        v1::Resource {
            attributes: vec![
                text("service.name", SERVICE),
                text("service.version", VERSION),
                text("service.instance.id", &self.instance),
                text("db.system.name", "postgresql"),
            ],
            ..v1::Resource::default()
        }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SERVICE.to_owned(),
        version: VERSION.to_owned(),
        ..InstrumentationScope::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
