//! Evaluates the session priority rules of one owner. Works on one table after another, and on some pages of the table in each
//! step.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::address::Address;

use super::{Step, Worker, transact};
use crate::pg::spi::Connection;
use crate::pg::subtransaction::Failure;
use crate::pg::{Oid, background};
use crate::provider::Provider;
use crate::store::session_priority::{self, Table};
use crate::telemetry;
use crate::worker::activity::StepKind;

const FAILED: &str = "could not evaluate the session priority of a table";
/// Shortest duration that a step should have.
const SHORT: Duration = Duration::from_millis(40);
/// Longest duration that a step should have.
const LONG: Duration = Duration::from_millis(150);
const FEWEST_PAGES: u32 = 64;
const MOST_PAGES: u32 = 8_192;

/// An evaluation in progress.
pub struct Evaluation {
    providers: Vec<Provider>,
    waiting: BTreeSet<Address>,
    /// The tables that remain. The first one is being evaluated.
    tables: VecDeque<Table>,
    /// The first page of the next step. `last` is the number of the first page after the end of the table. `last` is `None` until
    /// the size of the table is known.
    page: u32,
    last: Option<u32>,
    /// Number of pages that a step evaluates.
    pages: u32,
}

pub fn step(worker: &mut Worker) -> Step {
    let slot = worker.slot;
    let Some(evaluation) = &mut worker.evaluation else {
        background::report_activity(Some(c"reading addresses that wait for lookups"));
        let (next_table, page) =
            (slot.next_table.load(Ordering::Acquire), slot.next_page.load(Ordering::Acquire));
        let owner = worker.owner;
        let evaluation = transact(StepKind::Evaluate, |_, connection| {
            let providers = session_priority::providers_with_quota();
            let tables: VecDeque<Table> = session_priority::tables(connection, owner)
                .into_iter()
                .filter(|table| table.oid().to_u32() >= next_table)
                .collect();
            let is_resumed = tables.front().is_some_and(|table| table.oid().to_u32() == next_table);
            let waiting = session_priority::waiting(connection, &providers);
            let page = if is_resumed { page } else { 0 };
            Evaluation { providers, waiting, tables, page, last: None, pages: FEWEST_PAGES }
        });
        worker.evaluation = evaluation.ok();
        return if worker.evaluation.is_some() { Step::Worked } else { Step::Failed };
    };
    let Some(table) = evaluation.tables.front().filter(|_| !evaluation.waiting.is_empty()) else {
        worker.evaluation = None;
        slot.evaluates.store(false, Ordering::Release);
        worker.tell_worker();
        return Step::Worked;
    };
    let oid = table.oid();
    background::report_activity(Some(c"evaluating session priorities"));
    let stepped = transact(StepKind::Evaluate, |_, connection| {
        evaluation.evaluate(connection, worker.owner, slot.code_limit())
    });
    match &stepped {
        // Another transaction has locked a table of the extension. The evaluation of other pages would wait for the same lock, so
        // this step ends.
        Err(failed) if failed.was_lock => return Step::Failed,
        // A second attempt with these pages would probably fail again, so the next step continues with the following pages. Because
        // `has_gaps` says that pages were left out, the worker repeats the evaluation later.
        Err(_) => {
            slot.has_gaps.store(true, Ordering::Release);
            evaluation.page = evaluation.page.saturating_add(evaluation.pages);
        }
        Ok(true) => slot.has_gaps.store(true, Ordering::Release),
        Ok(false) => {}
    }
    if evaluation.last.is_none_or(|last| evaluation.page >= last) {
        evaluation.tables.pop_front();
        (evaluation.page, evaluation.last, evaluation.pages) = (0, None, FEWEST_PAGES);
        slot.next_table.store(oid.to_u32().saturating_add(1), Ordering::Release);
    } else {
        slot.next_table.store(oid.to_u32(), Ordering::Release);
    }
    slot.next_page.store(evaluation.page, Ordering::Release);
    if stepped.is_ok() { Step::Worked } else { Step::Failed }
}

impl Evaluation {
    /// Evaluates the next pages of the current table. If another transaction holds a lock that the evaluation needs, skips the rest
    /// of the table and returns true.
    fn evaluate(&mut self, connection: &Connection, owner: Oid, limit: Duration) -> bool {
        let Some(table) = self.tables.front() else { return false };
        if self.last.is_none() {
            match session_priority::pages(connection, table) {
                Ok(last) => self.last = Some(last),
                Err(failure) => {
                    telemetry::error(FAILED, &failure.message);
                    return failure.was_lock;
                }
            }
        }
        let Some(last) = self.last else { return false };
        let to = self.page.saturating_add(self.pages).min(last);
        let started = Instant::now();
        let pages = self.page..to;
        let failure =
            session_priority::rank(connection, (table, owner), pages, &self.waiting, &self.providers, limit)
                .err();
        if failure.as_ref().is_some_and(|failure| failure.was_lock) {
            self.page = last;
            return true;
        }
        self.went(failure, to, started.elapsed());
        false
    }

    /// Records the result and the duration of a step that evaluated the pages before the page `to`.
    fn went(&mut self, failure: Option<Failure>, to: u32, lasted: Duration) {
        match failure {
            None => self.page = to,
            // The next step tries fewer pages. In the end, only the page that causes the failure is left out.
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
            lasted if lasted < SHORT => (self.pages * 2).min(MOST_PAGES),
            lasted if lasted >= LONG => (self.pages / 2).max(1),
            _ => self.pages,
        };
    }
}
