//! Code that is shared by the procedures that erase addresses.

use std::ffi::CStr;
use std::ops::Range;

use cowrie_enrich_engine::mention::Wanted;

use super::Run;
use crate::error;
use crate::pg;
use crate::pg::role::with_settings;
use crate::pg::spi::Connection;
use crate::pg::subtransaction::{Failure, contained};
use crate::store::erase::{Erased, LockedRows, Method, Which};
use crate::store::erase_documents::{self, Cleaned};
use crate::store::erase_session_documents::CleanDocuments;
use crate::store::erase_tables::SessionTable;
use crate::store::unfinished_erasures::{self, ErasureKey};

/// The erasure fails if this number of consecutive attempts found sessions, but could erase none of them.
const ATTEMPTS: u32 = 3;

/// The longest time that an expiry waits for a row that another transaction has locked.
pub const SHORT_WAIT: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"1s")];

/// The tables and addresses that an expiry could not erase. The expiry continues with the others, and fails at its end.
#[derive(Default)]
pub struct Problems {
    first: Option<Failure>,
    others: i64,
}

impl Problems {
    pub fn add(&mut self, failure: Failure) {
        match self.first {
            None => self.first = Some(failure),
            Some(_) => self.others += 1,
        }
    }

    /// Raises the first problem. Does nothing if there was no problem.
    pub fn raise(self) {
        let Some(first) = self.first else { return };
        if self.others > 0 {
            pg::warning(
                &format!("could not expire {} further addresses or parts of session tables", self.others),
                "The error has the first reason. Solve this problem, then repeat the call.",
            );
        }
        first.raise();
    }
}

/// Stores in a transaction of its own that an erasure has begun. So the erasure is known if this call fails.
pub fn begin(run: &mut Run, key: ErasureKey) {
    run.batch(|connection| {
        unfinished_erasures::begin(connection, key);
        0
    });
}

/// Stores that an erasure has ended without an error.
pub fn finish(run: &mut Run, key: ErasureKey) {
    run.batch(|connection| {
        unfinished_erasures::finish(connection, key);
        0
    });
}

/// Erases sessions of some tables, in batches. Returns the number of erased sessions, and the number of sessions that were kept
/// because nothing shows how old they are. If `problems` is given, a table that fails and sessions that are locked do not prevent the
/// erasure of other sessions.
pub fn sessions(
    run: &mut Run,
    tables: &[SessionTable],
    which: Which,
    method: Method,
    problems: Option<&mut Problems>,
) -> (i64, i64) {
    run.begin("sessions", 0);
    let mut undated = 0;
    let erased = pages(run, tables, problems, |table, connection, pages, locked| {
        let erased = table.erase(connection, pages.start, which, method, locked);
        // Otherwise these pages are read again.
        if erased.written == erased.found {
            undated += erased.undated;
        }
        erased
    });
    (erased, undated)
}

/// Removes mentions of the addresses from documents about other addresses, networks and blocks, and from sessions of other
/// addresses. Returns the number of changed documents.
pub fn documents(run: &mut Run, tables: &[SessionTable], wanted: &Wanted) -> i64 {
    run.begin("documents", 0);
    let networks = batches(run, |connection, after| erase_documents::of_networks(connection, wanted, after));
    let addresses =
        batches(run, |connection, after| erase_documents::of_addresses(connection, wanted, after));
    let blocks = batches(run, |connection, after| erase_documents::of_blocks(connection, wanted, after));
    let mut clean = CleanDocuments::default();
    let sessions = pages(run, tables, None, |table, connection, pages, _| {
        table.clean_documents(connection, pages, wanted, &mut clean)
    });
    networks + addresses + blocks + sessions
}

/// Reads the documents of one table of the extension, in batches.
fn batches<K: Clone>(run: &mut Run, mut clean: impl FnMut(&Connection, Option<K>) -> Cleaned<K>) -> i64 {
    let (mut total, mut after, mut is_over) = (0, None, false);
    while !is_over {
        run.batch(|connection| {
            let cleaned = clean(connection, after.clone());
            total += cleaned.documents;
            (after, is_over) = (cleaned.last.clone(), cleaned.last.is_none());
            cleaned.documents
        });
    }
    total
}

/// Changes sessions of some tables, in batches. `change` changes the sessions on some pages of a table. Returns the number of changed
/// sessions.
fn pages(
    run: &mut Run,
    tables: &[SessionTable],
    mut problems: Option<&mut Problems>,
    mut change: impl FnMut(&SessionTable, &Connection, Range<u32>, LockedRows) -> Erased,
) -> i64 {
    let mut total = 0;
    for table in tables {
        let end = table.pages();
        let (mut page, mut failures) = (Some(0), 0);
        // The page after the pages that are being read.
        let mut next = None;
        while let Some(from) = page {
            let mut outcome = None;
            let may_continue = problems.is_some();
            run.batch(|connection| {
                let result = if !may_continue {
                    Ok(change(table, connection, from..end, LockedRows::Wait))
                } else if failures + 1 < ATTEMPTS {
                    contained(|| change(table, connection, from..end, LockedRows::Skip))
                } else {
                    // The earlier attempts have erased all sessions that are not locked.
                    contained(|| {
                        with_settings(SHORT_WAIT, || change(table, connection, from..end, LockedRows::Wait))
                    })
                };
                let written = result.as_ref().map_or(0, |erased| erased.written);
                outcome = Some(result);
                written
            });
            match (outcome, problems.as_deref_mut()) {
                (Some(Ok(erased)), problems) => {
                    total += erased.written;
                    next = erased.next;
                    failures = if erased.written == 0 { failures + 1 } else { 0 };
                    if erased.written == erased.found {
                        (page, failures) = (erased.next, 0);
                    } else if failures == ATTEMPTS {
                        // The last `ATTEMPTS` attempts found sessions, but could erase none of them.
                        let Some(problems) = problems else { error::could_not_erase(&table.name()) };
                        if let Err(failure) = contained::<()>(|| error::could_not_erase(&table.name())) {
                            problems.add(failure);
                        }
                        (page, failures) = (erased.next, 0);
                    }
                }
                (Some(Err(failure)), Some(problems)) => {
                    // Only the last attempt waits for locks. The attempts before it have set `next`.
                    let was_locked = failure.was_lock && failures + 1 == ATTEMPTS;
                    problems.add(failure);
                    (page, failures) = (next.filter(|_| was_locked), 0);
                }
                _ => break,
            }
        }
    }
    total
}
