//! Code that is shared by the procedures that erase addresses.

use std::ops::Range;

use cowrie_enrich_engine::mention::Wanted;

use super::Run;
use crate::error;
use crate::pg::spi::Connection;
use crate::store::erase::{Erased, Method, Which};
use crate::store::erase_documents::{self, Cleaned};
use crate::store::erase_session_documents::CleanDocuments;
use crate::store::erase_tables::SessionTable;
use crate::store::unfinished_erasures::{self, ErasureKey};

/// The erasure fails if this number of consecutive attempts found sessions, but could erase none of them.
const ATTEMPTS: u32 = 3;

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
/// because nothing shows how old they are.
pub fn sessions(run: &mut Run, tables: &[SessionTable], which: Which, method: Method) -> (i64, i64) {
    run.begin("sessions", 0);
    let mut undated = 0;
    let erased = pages(run, tables, |table, connection, pages| {
        let erased = table.erase(connection, pages.start, which, method);
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
    let sessions = pages(run, tables, |table, connection, pages| {
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
    mut change: impl FnMut(&SessionTable, &Connection, Range<u32>) -> Erased,
) -> i64 {
    let mut total = 0;
    for table in tables {
        let end = table.pages();
        let (mut page, mut failures) = (Some(0), 0);
        while let Some(from) = page {
            let mut erased = None;
            run.batch(|connection| {
                let result = change(table, connection, from..end);
                let written = result.written;
                erased = Some(result);
                written
            });
            let Some(erased) = erased else { break };
            total += erased.written;
            failures = if erased.written == 0 { failures + 1 } else { 0 };
            if erased.written == erased.found {
                (page, failures) = (erased.next, 0);
            } else if failures == ATTEMPTS {
                // The last `ATTEMPTS` attempts found sessions, but could erase none of them.
                error::could_not_erase(&table.name());
            }
        }
    }
    total
}
