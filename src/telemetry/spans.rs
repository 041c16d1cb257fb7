//! Spans: what took how long, for whoever collects them.
//!
//! They are made while somebody does, which the exporter says in shared memory; else nothing is but one look at that. A
//! network's span is of work, and so is kept in this backend's memory until the transaction commits, as counters are; of
//! networks a share is taken. What happens on the network is handed over at once. Where there is no room it is dropped and
//! counted; nobody waits.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use cowrie_enrich_engine::otlp::{self, NetworkSpan, Span, SpanDetails, Text, new_id, new_trace};
use cowrie_enrich_engine::random;

use super::{Operation, cells, pending, publish_cell};
use crate::pg::catalog;
use crate::pg::clock;
use crate::pg::shared;

/// Spans that a transaction keeps, in this backend's memory: 16 kB.
pub const MOST_KEPT: usize = 64;

/// Where spans belong that are made meanwhile: a trace, and the span that they are part of.
pub type Whole = (u128, u64);

thread_local! {
    static WITHIN: Cell<Option<Whole>> = const { Cell::new(None) };
}

/// Whether anybody collects spans.
pub fn are_collected() -> bool {
    shared::block().spans_collected.load(Ordering::Relaxed)
}

/// Somebody collects spans from now on, of networks this share (0 to 1); or nobody does.
pub fn collect(share: Option<f64>) {
    let block = shared::block();
    // As large as it gets is always, and more than nothing.
    let threshold = (share.unwrap_or(0.0).clamp(0.0, 1.0) * 2_f64.powi(64)) as u64;
    block.networks_sampled.store(threshold, Ordering::Relaxed);
    block.spans_collected.store(share.is_some(), Ordering::Relaxed);
}

/// What is made within `work` is part of this.
pub fn within<T>(whole: Option<Whole>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Whole>);
    impl Drop for Restore {
        fn drop(&mut self) {
            WITHIN.set(self.0);
        }
    }
    let _restore = Restore(WITHIN.replace(whole));
    work()
}

/// Number, country, registry and name of a network that a statement wrote.
pub type NetworkRow = (Option<i64>, Option<String>, Option<String>, Option<String>);

/// Makes spans of the networks that a statement writes.
pub struct NetworkSpans {
    /// Nanoseconds since 1970; none where nobody collects.
    began: Option<u64>,
    together: usize,
}

impl NetworkSpans {
    /// Begins before the statement. `together`: networks that it is about.
    pub fn begin(together: usize) -> NetworkSpans {
        NetworkSpans { began: are_collected().then(clock::unix_nanoseconds), together }
    }

    /// Makes spans of a share of the networks that the statement wrote. They are handed over when the transaction commits.
    pub fn record<'a>(
        &self,
        operation: Operation,
        networks: impl Iterator<Item = NetworkRow>,
        source: impl Fn(i64) -> &'a str,
    ) {
        let Some(began) = self.began else { return };
        let threshold = shared::block().networks_sampled.load(Ordering::Relaxed);
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

/// Hands a span over; where there is no room for it, counts that.
pub fn hand_over(span: &Span) {
    let ring = &shared::block().spans;
    if !ring.push(&span.words()) {
        dropped(1);
    } else if ring.len() == shared::SPANS / 2 {
        // It comes by itself, but perhaps not soon enough.
        shared::block().exporter.set_latch();
    }
}

/// So many spans were made and could not be kept.
pub fn dropped(spans: i64) {
    if spans > 0 {
        publish_cell(cells::items(otlp::Signal::Traces, cells::DeliveryOutcome::Dropped), spans);
    }
}

/// The oldest span that was handed over.
pub fn take() -> Option<Span> {
    // Words that are no span are of a newer library's, which a restart would not leave behind.
    std::iter::from_fn(|| shared::block().spans.pop()).find_map(|words| Span::of(&words))
}
