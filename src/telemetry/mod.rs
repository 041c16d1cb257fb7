//! Counters of committed work, and rate-limited log messages.
//!
//! The counters of work change when the transaction that did the work commits. Until then, the counts are in the memory of this
//! backend, separately for each level of subtransactions. When a subtransaction is released, its counts are added to the counts of
//! the parent level. When a subtransaction is rolled back, its counts are dropped. Errors are counted at once, because an error has
//! happened even if the transaction is rolled back. Requests to providers and collectors are also counted at once. The counters in
//! shared memory are atomics, so adding to them needs no lock.
//!
//! | module | contents |
//! |---|---|
//! | `cells` | the cells in shared memory for metrics with labels and for histograms |
//! | `timing` | measures how long work on networks and the trigger take |
//! | `networks_seen` | the number of distinct networks that were created or updated |
//! | `spans` | spans for the OpenTelemetry collector |
//! | `metric_values` | the current values of the metrics that the engine declares |
//! | `export_counts` | counts of successful and failed exports |
//! | `log` | messages for the server's log |

pub mod cells;
mod export_counts;
mod log;
pub mod metric_values;
pub mod networks_seen;
pub mod spans;
mod timing;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use cells::{Cell, DeliveryOutcome, ResponseKind};
use cowrie_enrich_engine::otlp::{Signal, Span};
use cowrie_enrich_engine::timestamp::Timestamp;
use networks_seen::PendingNetworks;

use crate::guc;
use crate::pg::clock;
use crate::pg::transaction::{Level, Outcome, current_level};
use crate::shared_state;

pub use cells::{Distribution, Event, Operation, Source, Update};
pub use export_counts::{Exporter, exported};
pub use log::{error, error_about, error_is_logged, log_once_per_burst};
pub use timing::{TriggerTimer, Work};

/// The position of a counter in the shared block. New counters must be added at the end, because the numbers define the layout of
/// the block.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Counter {
    TotalIps = 0,
    CacheHits,
    MaxmindHits,
    CymruHits,
    GreynoiseHits,
    DshieldHits,
    SpurHits,
    Errors,
    WithoutAddress,
    /// Number of sessions that a commit could not count. After such a failure, a recount is needed.
    CountsLost,
}

impl Counter {
    /// Returns the counter of the values that a provider found. The function `enrich_stats()` returns a column for each of these
    /// counters.
    pub fn hits_of(provider: &str) -> Option<Counter> {
        match provider {
            "cymru" => Some(Counter::CymruHits),
            "greynoise" => Some(Counter::GreynoiseHits),
            "dshield" => Some(Counter::DshieldHits),
            "spur" => Some(Counter::SpurHits),
            _ => None,
        }
    }
}

const COUNTERS: usize = Counter::CountsLost as usize + 1;
const _: () = assert!(COUNTERS <= shared_state::SLOTS);

/// The counts of one level of subtransactions.
#[derive(Default)]
struct PendingCounts {
    counters: [i64; COUNTERS],
    /// Usually empty. A session of a known address adds an entry to this map only if the duration of the trigger call is measured.
    cells: BTreeMap<Cell, i64>,
    networks: PendingNetworks,
    /// Empty if spans are not collected. `spans_dropped` is the number of spans for which `spans` had no space.
    spans: Vec<Span>,
    spans_dropped: i64,
}

impl PendingCounts {
    fn keep_span(&mut self, span: impl FnOnce() -> Span) {
        if self.spans.len() < spans::MOST_KEPT {
            self.spans.push(span());
        } else {
            self.spans_dropped += 1;
        }
    }

    fn merge(&mut self, other: PendingCounts) {
        for (into, from) in self.counters.iter_mut().zip(other.counters) {
            *into += from;
        }
        for (cell, amount) in other.cells {
            *self.cells.entry(cell).or_default() += amount;
        }
        self.networks.merge(other.networks);
        let room = spans::MOST_KEPT.saturating_sub(self.spans.len());
        self.spans_dropped += other.spans_dropped + other.spans.len().saturating_sub(room) as i64;
        self.spans.extend(other.spans.into_iter().take(room));
    }
}

thread_local! {
    /// The innermost level is last; levels ascend.
    static PENDING: RefCell<Vec<(Level, PendingCounts)>> = const { RefCell::new(Vec::new()) };
}

/// Passes the counts of the current level to `count`.
fn pending(count: impl FnOnce(&mut PendingCounts)) {
    let level = current_level();
    PENDING.with_borrow_mut(|levels| {
        if levels.last().is_none_or(|(top, _)| *top != level) {
            levels.push((level, PendingCounts::default()));
        }
        if let Some((_, counts)) = levels.last_mut() {
            count(counts);
        }
    });
}

/// Adds to a counter. The new value is visible when the transaction commits. Only the counter `Errors` changes at once.
pub fn add(counter: Counter, amount: i64) {
    if matches!(counter, Counter::Errors) {
        publish(counter as usize, amount);
    } else if guc::metrics() {
        pending(|counts| counts.counters[counter as usize] += amount);
    }
}

/// Counts a created network when the transaction commits.
pub fn network_created(source: Source, asn: i64, country: Option<&str>, registry: Option<&str>) {
    if guc::metrics() {
        let cell = cells::created(source, country, registry);
        pending(|counts| {
            *counts.cells.entry(cell).or_default() += 1;
            counts.networks.add(asn);
        });
    }
}

/// Counts updated networks when the transaction commits.
pub fn networks_updated(source: Source, update: Update, networks: &[i64]) {
    if guc::metrics() && !networks.is_empty() {
        let cell = cells::updated(source, update);
        pending(|counts| {
            *counts.cells.entry(cell).or_default() += networks.len() as i64;
            networks.iter().for_each(|asn| counts.networks.add(*asn));
        });
    }
}

/// Records `times` observations of a value in a histogram. The value is in nanoseconds or a whole number. The histogram changes
/// when the transaction commits.
fn observe(what: Distribution, value: i64, times: i64) {
    pending(|counts| {
        *counts.cells.entry(what.bucket(value)).or_default() += times;
        *counts.cells.entry(what.sum()).or_default() += value.saturating_mul(times);
    });
}

/// Records one observation of a value in a histogram. The value is in nanoseconds or a whole number. The histogram in shared memory
/// changes at once.
pub fn happened(what: Distribution, value: i64) {
    publish_cell(what.bucket(value), 1);
    publish_cell(what.sum(), value);
}

/// An amount, and the index of the counter to which the amount is added. The first indexes belong to the `Counter`s, and the next
/// indexes belong to the cells. The last indexes belong to observations of networks. For an observation, the amount is 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CounterDelta {
    pub index: i64,
    pub amount: i64,
}

/// Removes and returns the counts of this transaction, because a prepared transaction stores its counts in a table.
pub fn take_counted() -> Vec<CounterDelta> {
    PENDING.with_borrow_mut(|levels| {
        let mut all = BTreeMap::<i64, i64>::new();
        for (_, counts) in levels {
            let counters = std::mem::take(&mut counts.counters).into_iter().enumerate();
            let counters = counters.map(|(slot, amount)| (slot as i64, amount));
            let cells = std::mem::take(&mut counts.cells).into_iter();
            let cells = cells.map(|(cell, amount)| (FIRST_CELL + cell.index() as i64, amount));
            let networks = std::mem::take(&mut counts.networks);
            let observations = networks.observations().map(networks_seen::number);
            let observations = observations.map(|number| (FIRST_OBSERVATION + number, 1));
            counters
                .chain(cells)
                .chain(observations)
                .for_each(|(index, amount)| *all.entry(index).or_default() += amount);
        }
        all.into_iter()
            .filter(|(_, amount)| *amount != 0)
            .map(|(index, amount)| CounterDelta { index, amount })
            .collect()
    })
}

/// Adds a count that another transaction stored in a table. The count is published when the current transaction commits.
pub fn count(CounterDelta { index, amount }: CounterDelta) {
    if let Some(number) = index.checked_sub(FIRST_OBSERVATION).filter(|number| *number >= 0) {
        let observation = networks_seen::numbered(number);
        pending(|counts| observation.into_iter().for_each(|seen| counts.networks.observe(seen)));
    } else if let Some(cell) = index.checked_sub(FIRST_CELL).and_then(Cell::numbered) {
        pending(|counts| *counts.cells.entry(cell).or_default() += amount);
    } else if let Some(slot) = usize::try_from(index).ok().filter(|slot| *slot < COUNTERS) {
        pending(|counts| counts.counters[slot] += amount);
    }
}

/// Index of the first cell, after the counters.
const FIRST_CELL: i64 = shared_state::SLOTS as i64;
/// Index of the first observation of a network, after the cells.
const FIRST_OBSERVATION: i64 = FIRST_CELL + shared_state::CELLS as i64;

/// If the transaction committed, publishes the counts and passes the spans to the exporter. If the transaction was rolled back,
/// drops both. If the transaction was prepared, only passes the spans to the exporter, because [`take_counted`] has already removed
/// the counts.
pub fn transaction_ended(outcome: Outcome) {
    PENDING.with_borrow_mut(|levels| {
        for (_, counts) in levels.drain(..) {
            if outcome == Outcome::Aborted {
                continue;
            }
            if outcome == Outcome::Committed {
                for (slot, amount) in
                    counts.counters.into_iter().enumerate().filter(|(_, amount)| *amount != 0)
                {
                    publish(slot, amount);
                }
                for (cell, amount) in counts.cells {
                    publish_cell(cell, amount);
                }
                counts.networks.publish();
            }
            counts.spans.iter().for_each(spans::hand_over);
            spans::dropped(counts.spans_dropped);
        }
    });
}

/// Adds the counts of a released subtransaction to the counts of its parent.
pub fn released(level: Level, parent: Level) {
    PENDING.with_borrow_mut(|levels| {
        let Some((_, counts)) = levels.pop_if(|(top, _)| *top == level) else { return };
        match levels.last_mut() {
            Some((top, into)) if *top == parent => into.merge(counts),
            _ => levels.push((parent, counts)),
        }
    });
}

/// Drops the counts of a subtransaction that was rolled back, and of all subtransactions inside it. A subtransaction has a higher
/// level than the subtransactions around it.
pub fn rolled_back(level: Level) {
    PENDING.with_borrow_mut(|levels| while levels.pop_if(|(top, _)| *top >= level).is_some() {});
}

fn publish(slot: usize, amount: i64) {
    shared_state::block().counters[slot].fetch_add(amount, Ordering::Relaxed);
}

fn publish_cell(cell: Cell, amount: i64) {
    shared_state::block().cells[cell.index()].fetch_add(amount, Ordering::Relaxed);
}

/// Counts the response of a collector to a request, and the outcomes of the data points or spans in this request. The counters
/// change at once, not at a commit.
pub fn answered(signal: Signal, answer: ResponseKind, deliveries: &[(DeliveryOutcome, u64)]) {
    publish_cell(cells::requests(signal, answer), 1);
    for (delivery, items) in deliveries {
        publish_cell(cells::items(signal, *delivery), i64::try_from(*items).unwrap_or(i64::MAX));
    }
}

/// Returns the committed value of a counter.
pub fn read(counter: Counter) -> i64 {
    shared_state::block().counters[counter as usize].load(Ordering::Relaxed)
}

/// Sets all counters and histograms to zero.
pub fn reset() {
    let block = shared_state::block();
    let of_providers = block.provider_counters.iter().flatten();
    let of_exporters = block.exports.iter().flatten();
    let of_workers = block.worker_slots.iter().flat_map(|worker_slot| {
        let report = &worker_slot.report;
        [&report.batches, &report.errors, &report.slept].into_iter().chain(&report.step_errors)
    });
    for number in
        block.counters.iter().chain(&block.cells).chain(of_providers).chain(of_exporters).chain(of_workers)
    {
        number.store(0, Ordering::Relaxed);
    }
    networks_seen::reset();
    block.counted_since.store(clock::now(), Ordering::Relaxed);
}

/// Returns the time at which the counters were last set to zero. This is the start of the server or the last reset.
pub fn counted_since() -> Timestamp {
    shared_state::block().counted_since.load(Ordering::Relaxed)
}
