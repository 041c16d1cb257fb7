//! The spans of a batch. They show the exchange with the provider and the storing of the answers.
//!
//! ```text
//! enrich.batch   |--------------------------------------|
//!   connect      |---|
//!   query            |-------------|
//!   apply                                 |-------------|
//! ```
//!
//! An exchange reports when it started, how long it took, and how long it took to connect. The worker collects replies and applies
//! them together. If a lock delays the transaction that applies them, one `apply` span includes all attempts.

use std::time::Duration;

use cowrie_enrich_engine::otlp::{self, Span, SpanDetails, Text, new_id, new_trace};
use cowrie_enrich_engine::providers::Reply;

use crate::pg::{catalog, clock};
use crate::provider::Provider;
use crate::telemetry::spans::{self, SpanContext};

/// The data for the spans of a batch. It exists as soon as the reply to the request has arrived.
pub struct BatchTrace {
    trace: u128,
    id: u64,
    apply: u64,
    began: u64,
    exchange: Exchange,
    what: otlp::BatchSpan,
    /// Time when the first attempt to store the batch began. Unset before the first attempt.
    applied_from: Option<u64>,
}

struct Exchange {
    took: Duration,
    /// Time that it took to connect to the provider. Unset if the connection failed.
    connected: Option<Duration>,
    /// Nothing was sent.
    is_unsent: bool,
    failure: String,
}

impl BatchTrace {
    /// Returns a trace, or `None` if spans are not collected. `began` is in nanoseconds since 1970.
    pub fn of(
        provider: Provider,
        began: u64,
        (lookups, outcome): (usize, &str),
        reply: &Reply,
        took: Duration,
    ) -> Option<BatchTrace> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        spans::are_collected().then(|| BatchTrace {
            trace: new_trace(),
            id: new_id(),
            apply: new_id(),
            began,
            exchange: Exchange {
                took,
                connected: reply.connected,
                is_unsent: reply.unsent,
                failure: reply.failure.as_ref().map(ToString::to_string).unwrap_or_default(),
            },
            what: otlp::BatchSpan {
                provider: u8::try_from(provider.index()).unwrap_or(u8::MAX),
                lookups: count(lookups),
                answers: count(reply.answers.len()),
                outcome: Text::new(outcome),
            },
            applied_from: None,
        })
    }

    /// Begins the span `apply` and returns its context.
    pub fn begin_apply(&mut self) -> SpanContext {
        self.applied_from.get_or_insert_with(clock::unix_nanoseconds);
        (self.trace, self.apply)
    }

    /// Ends the spans. If the batch could not be stored, `error` gives the reason. If the batch was stored, `error` is `None`.
    pub fn end(self, error: Option<&str>) {
        let now = clock::unix_nanoseconds();
        let after = |time: Duration| self.began + u64::try_from(time.as_nanos()).unwrap_or_default();
        let failure = self.exchange.failure.as_str();
        let span = |id, details, (began, ended), error: &str| Span {
            trace: self.trace,
            id,
            parent: if id == self.id { 0 } else { self.id },
            began,
            ended,
            database: catalog::own_database().to_u32(),
            details,
            error: Text::new(error),
        };
        let child = |details, times, error: &str| spans::hand_over(&span(new_id(), details, times, error));
        let of_all = if failure.is_empty() { error.unwrap_or_default() } else { failure };
        spans::hand_over(&span(self.id, SpanDetails::Batch(self.what), (self.began, now), of_all));
        let ended = after(self.exchange.took);
        match self.exchange.connected {
            _ if self.exchange.is_unsent => {}
            Some(connected) => {
                let connected = after(connected.min(self.exchange.took));
                child(SpanDetails::Connect, (self.began, connected), "");
                child(SpanDetails::Query, (connected, ended), failure);
            }
            None => child(SpanDetails::Connect, (self.began, ended), failure),
        }
        if let Some(from) = self.applied_from {
            spans::hand_over(&span(self.apply, SpanDetails::Apply, (from, now), error.unwrap_or_default()));
        }
    }
}
