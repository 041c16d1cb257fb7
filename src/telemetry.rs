//! Counters that tell the truth, and messages that do not flood the log.
//!
//! A counter of work moves when the transaction that did the work commits. Errors are counted at once: the
//! transaction that met one is often rolled back, and the error happened all the same.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::pg::transaction::Outcome;
use crate::pg::{self, clock, shared};

/// Slot of a counter in the shared block. Append only: the block is laid out by these numbers.
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
    NetworksCreated,
    NetworksUpdated,
    NetworkMicros,
}

impl Counter {
    /// Values that a provider found; `enrich_stats` has a column for each of these.
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

const COUNTERS: usize = Counter::NetworkMicros as usize + 1;
const _: () = assert!(COUNTERS <= shared::SLOTS);

thread_local! {
    static PENDING: Cell<[i64; COUNTERS]> = const { Cell::new([0; COUNTERS]) };
    /// When each headline was last logged by this backend, in microseconds, and how often it was swallowed since.
    static LOGGED: RefCell<HashMap<Message, (i64, u64)>> = RefCell::default();
}

/// Adds to a counter; it moves when the transaction commits, `Errors` at once.
pub fn add(counter: Counter, amount: i64) {
    if matches!(counter, Counter::Errors) {
        publish(counter as usize, amount);
        return;
    }
    let mut pending = PENDING.get();
    pending[counter as usize] += amount;
    PENDING.set(pending);
}

/// Counts an error that was no caller's fault, and logs it once per burst.
pub fn error(headline: &'static str, detail: &str) {
    add(Counter::Errors, 1);
    log_once_per_burst(headline, detail);
}

/// The same where several may be the cause, each with bursts of its own.
pub fn error_about(subject: &'static str, headline: &'static str, detail: &str) {
    add(Counter::Errors, 1);
    log_burst((headline, subject), &format!("{subject}: {detail}"));
}

/// The transaction ended: what it counted becomes visible, or never happened. A prepared transaction counts now: nobody
/// here learns when it commits.
pub fn transaction_ended(outcome: Outcome) {
    let pending = PENDING.replace([0; COUNTERS]);
    if outcome != Outcome::Aborted {
        for (slot, amount) in pending.into_iter().enumerate().filter(|(_, amount)| *amount != 0) {
            publish(slot, amount);
        }
    }
}

fn publish(slot: usize, amount: i64) {
    shared::block().counters[slot].fetch_add(amount, Ordering::Relaxed);
}

/// The committed value of a counter.
pub fn read(counter: Counter) -> i64 {
    shared::block().counters[counter as usize].load(Ordering::Relaxed)
}

/// Sets all counters to zero.
pub fn reset() {
    for counter in &shared::block().counters {
        counter.store(0, Ordering::Relaxed);
    }
}

/// A headline, and what it is about where that is said.
type Message = (&'static str, &'static str);

/// A burst of one message is a minute of it.
const BURST_MICROS: i64 = 60_000_000;

/// Writes to the server's log, at most once a minute per headline and backend.
pub fn log_once_per_burst(headline: &'static str, detail: &str) {
    log_burst((headline, ""), detail);
}

fn log_burst(message: Message, detail: &str) {
    let (headline, _) = message;
    let now = clock::now();
    let swallowed = LOGGED.with_borrow_mut(|logged| match logged.get_mut(&message) {
        Some((last, swallowed)) if now.saturating_sub(*last) < BURST_MICROS => {
            *swallowed += 1;
            None
        }
        Some(entry) => Some(std::mem::replace(entry, (now, 0)).1),
        None => {
            logged.insert(message, (now, 0));
            Some(0)
        }
    });
    match swallowed {
        None => {}
        Some(0) => pg::log(&format!("cowrie_enrich: {headline}: {detail}")),
        Some(n) => {
            pg::log(&format!("cowrie_enrich: {headline}: {detail} ({n} more since the last message)"));
        }
    }
}
