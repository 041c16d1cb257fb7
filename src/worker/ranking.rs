//! When the rules of which sessions matter are evaluated: before a daily quota is spent on what came in since, and now
//! and then, because a session's commands and downloads come after it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use cowrie_enrich_engine::address::Address;

use crate::pg::clock;
use crate::pg::spi::Connection;
use crate::pg::subtransaction::Failure;
use crate::provider::{Provider, Providers};
use crate::store::priorities::{self, Table};
use crate::telemetry;

/// How often the rules are evaluated while lookups wait, in microseconds.
const AGAIN_AFTER: i64 = 600_000_000;
/// After a step that could not be made.
const PAUSE: i64 = 60_000_000;
/// How long a quota waits for an evaluation to end, in microseconds.
const HOLDS_FOR: i64 = 5_000_000;
/// At most one part in so many of a worker's time.
const SHARE: i64 = 10;
/// For some pages of one table.
const TIME: Duration = Duration::from_millis(600);
const FAILED: &str = "a rule of which sessions matter could not be evaluated";
/// A step should last about so long, in microseconds.
const SHORT: i64 = 40_000;
const LONG: i64 = 150_000;
const MOST_PAGES: u32 = 8_192;

pub struct Ranking {
    /// Lookups came in since the last evaluation began.
    is_wanted: bool,
    /// Not before, and again in any case; microseconds since 2000.
    not_before: i64,
    again_at: i64,
    sweep: Option<Sweep>,
}

/// One evaluation of all rules, under way.
struct Sweep {
    providers: Vec<Provider>,
    waiting: BTreeSet<Address>,
    tables: VecDeque<Work>,
    began: i64,
}

/// What is left of a table.
struct Work {
    table: Table,
    /// The next page, and behind the last one, once that is known.
    page: u32,
    last: Option<u32>,
    /// Pages a step.
    pages: u32,
}

impl Ranking {
    pub fn new() -> Ranking {
        Ranking { is_wanted: true, not_before: 0, again_at: i64::MAX, sweep: None }
    }

    /// Lookups of these providers came in.
    pub fn came_in(&mut self, providers: impl IntoIterator<Item = Provider>) {
        self.is_wanted |= providers.into_iter().any(has_quota);
    }

    /// Rules were set or removed.
    pub fn changed(&mut self) {
        (self.is_wanted, self.not_before) = (true, 0);
    }

    /// Whether a provider's quota is to be spent only after something has been evaluated, which is soon.
    pub fn holds(&self, provider: Provider) -> bool {
        let is_long = self.sweep.as_ref().is_some_and(|sweep| clock::now() - sweep.began > HOLDS_FOR);
        has_quota(provider) && self.is_due() && !is_long
    }

    /// Whether there is something to do now.
    pub fn is_due(&self) -> bool {
        self.next() <= clock::now()
    }

    /// When it has something to do without being told, microseconds since 2000.
    pub fn next(&self) -> i64 {
        match self.sweep {
            Some(_) => 0,
            None if self.is_wanted => self.not_before,
            None => self.again_at,
        }
    }

    /// Without what was under way, which could not be done; later again.
    pub fn given_up(self) -> Ranking {
        let now = clock::now();
        Ranking { sweep: None, not_before: now + PAUSE, again_at: now + AGAIN_AFTER, ..self }
    }

    /// One step, inside a transaction.
    pub fn step(&mut self, connection: &Connection) {
        let Some(sweep) = &mut self.sweep else {
            self.begin(connection);
            return;
        };
        let Some(mut work) = sweep.tables.pop_front() else {
            self.end();
            return;
        };
        let Some(last) = work.find_last(connection) else { return };
        let to = work.page.saturating_add(work.pages).min(last);
        let started = clock::now();
        let pages = work.page..to;
        let ranked = priorities::rank(connection, &work.table, pages, &sweep.waiting, &sweep.providers, TIME);
        work.went(ranked.err(), to, clock::now() - started);
        // In turns: one slow rule does not keep the others from being evaluated.
        if work.page < last {
            sweep.tables.push_back(work);
        }
    }

    fn begin(&mut self, connection: &Connection) {
        let providers: Vec<Provider> = Providers::enabled().iter().filter(|p| has_quota(*p)).collect();
        let began = clock::now();
        (self.is_wanted, self.again_at) =
            (false, if providers.is_empty() { i64::MAX } else { began + AGAIN_AFTER });
        let tables = if providers.is_empty() { Vec::new() } else { priorities::tables(connection) };
        let waiting =
            if tables.is_empty() { BTreeSet::new() } else { priorities::waiting(connection, &providers) };
        if !waiting.is_empty() {
            let tables = tables.into_iter().map(Work::on).collect();
            self.sweep = Some(Sweep { providers, waiting, tables, began });
        }
    }

    fn end(&mut self) {
        if let Some(sweep) = self.sweep.take() {
            let now = clock::now();
            self.not_before = now + SHARE * (now - sweep.began);
            // What the sessions do from now on is found out then.
            self.again_at = self.not_before.max(now + AGAIN_AFTER);
        }
    }
}

impl Work {
    fn on(table: Table) -> Work {
        Work { table, page: 0, last: None, pages: 64 }
    }

    /// Up to which page there is something; `None`: nobody can say now.
    fn find_last(&mut self, connection: &Connection) -> Option<u32> {
        if self.last.is_none() {
            self.last = priorities::pages(connection, &self.table)
                .map_err(|failure| telemetry::error(FAILED, &failure.message))
                .ok();
        }
        self.last
    }

    /// A step over the pages up to `to` took so many microseconds.
    fn went(&mut self, failure: Option<Failure>, to: u32, lasted: i64) {
        match failure {
            None => self.page = to,
            // Which page it is: the others are evaluated all the same.
            Some(_) if self.pages > 1 => {
                self.pages = (self.pages / 2).max(1);
                return;
            }
            Some(failure) => {
                telemetry::error(FAILED, &failure.message);
                self.page = to;
            }
        }
        self.pages = match lasted {
            ..SHORT => (self.pages * 2).min(MOST_PAGES),
            LONG.. => (self.pages / 2).max(1),
            _ => self.pages,
        };
    }
}

fn has_quota(provider: Provider) -> bool {
    provider.limits().daily_quota > 0
}
