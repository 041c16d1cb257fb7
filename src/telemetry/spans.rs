//! Creates spans and passes them to the exporter.
//!
//! Spans are created only if a collector is configured. In this case the exporter sets a flag in shared memory. If the flag is not
//! set, the only cost is one read of the flag. Only a sample of the networks gets spans. The span of a network stays in the memory
//! of this backend until the transaction commits, like the counts. The span of a request is passed to the exporter at once. If the
//! buffer is full, the new span is dropped and counted, because no process may wait for space.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use cowrie_enrich_engine::otlp::{self, NetworkSpan, Span, SpanDetails, Text, new_id, new_trace};
use cowrie_enrich_engine::random;

use super::{Operation, cells, pending, publish_cell};
use crate::pg::catalog;
use crate::pg::clock;
use crate::shared_state;

/// Maximum number of spans that a transaction keeps in the memory of this backend. These spans use at most 16 kB.
pub const MOST_KEPT: usize = 64;

/// The trace and the parent of new spans.
pub type SpanContext = (u128, u64);

thread_local! {
    static WITHIN: Cell<Option<SpanContext>> = const { Cell::new(None) };
}

/// Returns true if a collector is configured.
pub fn are_collected() -> bool {
    shared_state::block().spans_collected.load(Ordering::Relaxed)
}

/// Starts or stops the collection of spans. `share`, from 0 to 1, is the share of the networks that get spans. If `share` is
/// `None`, the collection stops.
pub fn collect(share: Option<f64>) {
    let block = shared_state::block();
    // A share of 1 selects all networks, because the cast then returns the largest integer. A share of 0 selects no network.
    let threshold = (share.unwrap_or(0.0).clamp(0.0, 1.0) * 2_f64.powi(64)) as u64;
    block.networks_sampled.store(threshold, Ordering::Relaxed);
    block.spans_collected.store(share.is_some(), Ordering::Relaxed);
}

/// Runs `work`. The spans that it creates are part of `context`.
pub fn within<T>(context: Option<SpanContext>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<SpanContext>);
    impl Drop for Restore {
        fn drop(&mut self) {
            WITHIN.set(self.0);
        }
    }
    let _restore = Restore(WITHIN.replace(context));
    work()
}

/// A network that a statement wrote: its ASN, country, registry and name.
pub type NetworkRow = (Option<i64>, Option<String>, Option<String>, Option<String>);

/// Makes spans of the networks that a statement writes.
pub struct NetworkSpans {
    /// Nanoseconds since 1970; `None` if spans are not collected.
    began: Option<u64>,
    together: usize,
}

impl NetworkSpans {
    /// Records the start time. The caller calls this function before it runs the statement. `together` is the number of networks
    /// that the statement processes.
    pub fn begin(together: usize) -> NetworkSpans {
        NetworkSpans { began: are_collected().then(clock::unix_nanoseconds), together }
    }

    /// Creates spans for a sample of the networks that the statement wrote. When the transaction commits, these spans are passed to
    /// the exporter.
    pub fn record<'a>(
        &self,
        operation: Operation,
        networks: impl Iterator<Item = NetworkRow>,
        source: impl Fn(i64) -> &'a str,
    ) {
        let Some(began) = self.began else { return };
        let threshold = shared_state::block().networks_sampled.load(Ordering::Relaxed);
        if threshold == 0 {
            return;
        }
        let mut ended = None;
        for network in networks.filter(|_| random::bits() < threshold) {
            let source = network.0.map(&source).unwrap_or_default();
            let ended = *ended.get_or_insert_with(clock::unix_nanoseconds);
            pending(|counts| counts.keep_span(|| self.span(operation, network, source, (began, ended))));
        }
    }

    fn span(
        &self,
        operation: Operation,
        (number, country, registry, name): NetworkRow,
        source: &str,
        (began, ended): (u64, u64),
    ) -> Span {
        let (trace, parent) = WITHIN.get().unwrap_or_else(|| (new_trace(), 0));
        let network = NetworkSpan {
            number: number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default(),
            operation: match operation {
                Operation::Create => otlp::Operation::Create,
                Operation::Update => otlp::Operation::Update,
            },
            name: Text::new(&name.unwrap_or_default()),
            country: country.unwrap_or_default().as_bytes().try_into().unwrap_or_default(),
            registry: Text::new(&registry.unwrap_or_default()),
            source: Text::new(source),
            together: u32::try_from(self.together).unwrap_or(u32::MAX),
        };
        Span {
            trace,
            id: new_id(),
            parent,
            began,
            ended,
            database: catalog::own_database().to_u32(),
            details: SpanDetails::Network(network),
            error: Text::EMPTY,
        }
    }
}

/// Passes a span to the exporter. If the buffer is full, the span is dropped and counted.
pub fn hand_over(span: &Span) {
    let ring = &shared_state::block().spans;
    if !ring.push(&span.words()) {
        dropped(1);
    } else if ring.len() == shared_state::SPANS / 2 {
        // The exporter also runs periodically, but perhaps too late.
        shared_state::block().exporter.set_latch();
    }
}

/// Counts spans that were created and could not be kept.
pub fn dropped(spans: i64) {
    if spans > 0 {
        publish_cell(cells::items(otlp::Signal::Traces, cells::DeliveryOutcome::Dropped), spans);
    }
}

/// Removes and returns the oldest span in the buffer.
pub fn take() -> Option<Span> {
    // The words of a span can be invalid only if a newer version of the library wrote them. Such words do not remain after a
    // restart of the server.
    std::iter::from_fn(|| shared_state::block().spans.pop()).find_map(|words| Span::of(&words))
}
