//! Answers: how does OpenTelemetry read it?
//!
//! By OTLP over HTTP: requests of protobuf, in the messages that the project itself publishes (`opentelemetry-proto`).
//! Source: <https://opentelemetry.io/docs/specs/otlp/>; names of attributes: its semantic conventions.
//!
//! The rule: whoever measures knows nothing of this; here are values in, bytes out, and what a collector says to them.
//!
//! | file | answers for |
//! |---|---|
//! | `metrics` | families as a request |
//! | `span` | what took how long, as it passes between processes |
//! | `traces` | spans as a request |
//! | `export` | one request and what came of it |

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

/// What all metrics and spans of a server are of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resource {
    /// The same as long as the cluster lives.
    pub instance: String,
}

/// A request, and how many data points or spans are in it.
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
