//! Processes sessions that were stored before their session table was attached.
//!
//! Two passes read the pages of the table in order. The first pass writes the data about addresses into the inventories. The second
//! pass fills null columns in the snapshots of the sessions. The values come from the document of the session or from the
//! inventories. The inventories are complete when the second pass begins, so the order of the sessions does not matter. If a call
//! is killed, the next call continues at the page where the killed call stopped. At the end, all sessions are recounted. If there
//! is a foreign key, it is validated.
//!
//! The table is read directly from storage, without the executor, so code that is attached to the table never runs with the
//! extension's rights. Writes to the table run with the rights of the table's owner. Triggers process the rows and row versions
//! that are written during the call.

mod complete;
mod gather;

use std::ops::Range;

use super::add_session_foreign_key;
use super::session_tables::{RejectedRows, require_own_attached, rows_estimated};
use super::{Options, Procedure, Run, refresh_session_counts, run};
use crate::error;
use crate::mmdb::{self, LoadPolicy};
use crate::pg::jsonb::{self, Value};
use crate::pg::role::acting_as;
use crate::pg::scan::ReadableTable;
use crate::pg::sql_function::Call;
use crate::pg::value::{Jsonb, Typed};
use crate::pg::{self, Oid, mvcc_snapshot};
use crate::store::ExtensionOids;
use crate::store::backfill_sessions::{
    self, Addresses, HandledNetworks, InventoryChanges, QuoteSelection, Table,
};
use crate::store::completions;
use crate::store::fold;
use complete::CompletionCounts;
use gather::PageContents;

const BATCH_SIZES: (i64, i64) = (1, 1_000_000);
/// The counts are folded each time this number of addresses was written. Counts that are folded together are held in memory.
const FOLDED_TOGETHER: usize = 50_000;

/// Entry point of `backfill_sessions()`.
pub fn backfill(call: &Call) {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    let Some(batch_size) = call.integer(1) else { error::null_argument("batch_size") };
    let Some(progress) = call.boolean(2) else { error::null_argument("progress") };
    let batch_size = i64::from(batch_size);
    if !(BATCH_SIZES.0..=BATCH_SIZES.1).contains(&batch_size) {
        error::out_of_range("batch_size", batch_size, BATCH_SIZES);
    }
    require_own_attached(ExtensionOids::of_caller(call), rel);
    let options =
        Options { procedure: Procedure::BackfillSessions, relation: rel, progress, needs_commits: true };
    run(call, &options, |run| Backfill::new(run, rel, batch_size as usize).all());
}

/// A pass over the table. Checkpoints contain the name of the pass.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pass {
    Addresses,
    Sessions,
}

impl Pass {
    const fn name(self) -> &'static str {
        match self {
            Pass::Addresses => "addresses",
            Pass::Sessions => "sessions",
        }
    }
}

/// The position at which a call stopped that was killed. An example in the stored form:
///
/// ```json
/// {"pass": "sessions", "table": 16412, "file": 16412, "page": 4711}
/// ```
#[derive(Clone, Copy)]
struct Checkpoint {
    pass: Pass,
    table: u32,
    file: u32,
    page: u32,
}

impl Checkpoint {
    fn of(run: &Run) -> Option<Checkpoint> {
        let document = jsonb::container(run.resume_at()?);
        let number = |key| match document.get(key)? {
            Value::Number(number) => number.text().parse().ok(),
            _ => None,
        };
        let pass = [Pass::Addresses, Pass::Sessions]
            .into_iter()
            .find(|pass| document.text("pass") == Some(pass.name()))?;
        Some(Checkpoint { pass, table: number("table")?, file: number("file")?, page: number("page")? })
    }

    /// Returns true if a call can continue at this checkpoint. If the checkpoint is in the second pass, the table must still have
    /// the same file. Otherwise the table was emptied or rewritten, and the first pass must read it again.
    fn stands(&self, tables: &[Table]) -> bool {
        let is_file = |table: &Table| {
            ReadableTable::open(table.oid).is_some_and(|readable| readable.file() == self.file)
        };
        self.pass == Pass::Addresses
            || tables.iter().any(|table| table.oid.to_u32() == self.table && is_file(table))
    }

    fn document(self) -> Typed<Jsonb> {
        jsonb::object(|object| {
            object.text("pass", self.pass.name());
            for (key, number) in [("table", self.table), ("file", self.file), ("page", self.page)] {
                object.number(key, i64::from(number));
            }
        })
    }
}

/// The pages of a table that the pass has not read yet, and the number of the table's file.
struct PageRange<'a> {
    table: &'a Table,
    file: u32,
    pages: Range<u32>,
}

impl PageRange<'_> {
    /// Opens the table. Returns `None` if the table was dropped or rewritten, because the page numbers are then invalid.
    fn open(&self) -> Option<ReadableTable> {
        ReadableTable::open(self.table.oid).filter(|readable| readable.file() == self.file)
    }

    fn checkpoint(&self, pass: Pass, page: u32) -> Checkpoint {
        Checkpoint { pass, table: self.table.oid.to_u32(), file: self.file, page }
    }
}

/// Maximum number of rows that one call lists in `rejected_row`. A longer list would not help the user.
const MOST_LISTED: usize = 10_000;

struct Backfill<'a, 'r> {
    run: &'a mut Run<'r>,
    rel: Oid,
    batch_size: usize,
    tables: Vec<Table>,
    /// Expected number of sessions in `tables`.
    rows: i64,
    handled_networks: HandledNetworks,
    rejected: RejectedRows,
    scanned: i64,
    addresses_created: i64,
    networks_created: i64,
    /// Number of written addresses whose counts have not been folded yet.
    unfolded: usize,
    completed: CompletionCounts,
}

impl<'a, 'r> Backfill<'a, 'r> {
    fn new(run: &'a mut Run<'r>, rel: Oid, batch_size: usize) -> Self {
        let tables = acting_as(run.oids.owner, || backfill_sessions::tables(run.connection, rel));
        let rejected = RejectedRows::new(run.procedure(), MOST_LISTED);
        Backfill {
            run,
            rel,
            batch_size,
            rows: rows_estimated(&tables),
            tables,
            handled_networks: HandledNetworks::default(),
            rejected,
            scanned: 0,
            addresses_created: 0,
            networks_created: 0,
            unfolded: 0,
            completed: CompletionCounts::default(),
        }
    }

    fn all(mut self) -> Vec<(&'static str, i64)> {
        let checkpoint = Checkpoint::of(self.run).filter(|checkpoint| checkpoint.stands(&self.tables));
        if checkpoint.is_none_or(|checkpoint| checkpoint.pass == Pass::Addresses) {
            self.pass(Pass::Addresses, checkpoint);
        }
        self.pass(Pass::Sessions, checkpoint.filter(|checkpoint| checkpoint.pass == Pass::Sessions));
        if self.completed.held > 0 {
            // Other transactions had locked some sessions. An UPDATE in such a transaction may have moved a session to another
            // page. So the second pass reads all pages again.
            self.completed.held = 0;
            self.pass(Pass::Sessions, None);
        }
        let tables = &self.tables;
        let of_these = |oid| tables.iter().any(|table| table.oid == oid);
        let counted = refresh_session_counts::recount(self.run, self.rows, of_these);
        let orphans = add_session_foreign_key::finish(self.run, self.rel, Some(self.rows));
        self.run.batch(|connection| {
            completions::retry(connection, tables.iter().map(|table| table.oid));
            0
        });
        if self.rejected.rows > 0 {
            pg::warning(
                &format!(
                    "skipped {} sessions or parts of sessions, because of invalid data or failed updates",
                    self.rejected.rows
                ),
                "The table rejected_row lists the sessions and the reasons.",
            );
        }
        vec![
            ("scanned", self.scanned),
            ("sessions", counted.sessions),
            ("addresses_created", self.addresses_created),
            ("networks_created", self.networks_created),
            ("sessions_completed", self.completed.sessions),
            ("held", self.completed.held),
            ("malformed", self.rejected.rows),
            ("orphans", orphans),
        ]
    }

    /// Reads the pages of all tables. If there is a checkpoint, begins at the checkpoint.
    fn pass(&mut self, pass: Pass, checkpoint: Option<Checkpoint>) {
        let tables = std::mem::take(&mut self.tables);
        let stretches: Vec<(PageRange, i64)> =
            tables.iter().filter_map(|table| stretch(table, checkpoint)).collect();
        self.run.begin(pass.name(), stretches.iter().map(|(_, rows)| rows).sum());
        for (stretch, _) in stretches {
            self.table(pass, stretch);
        }
        self.tables = tables;
    }

    fn table(&mut self, pass: Pass, mut stretch: PageRange) {
        while !stretch.pages.is_empty() {
            let read_to = match pass {
                Pass::Addresses => self.addresses(&stretch),
                Pass::Sessions => self.sessions(&stretch),
            };
            match read_to {
                Some(page) => stretch.pages.start = page,
                // If the table was rewritten during the pass, its pages are read again from the beginning.
                None => match self::stretch(stretch.table, None) {
                    Some((again, _)) if again.file != stretch.file => stretch = again,
                    _ => return,
                },
            }
        }
    }

    /// Processes one batch of the first pass. Returns the page with which the next batch begins.
    fn addresses(&mut self, stretch: &PageRange) -> Option<u32> {
        let oids = self.run.oids;
        let gathered = gather::read(oids, stretch, self.batch_size, &mut self.rejected)?;
        let PageContents { addresses, named, rows, page } = gathered;
        self.scanned += rows;
        let checkpoint = stretch.checkpoint(Pass::Addresses, page);

        let networks = named.networks(&mut self.handled_networks);
        if !networks.is_empty() {
            let created = &mut self.networks_created;
            self.run.batch(|connection| {
                *created += backfill_sessions::write_networks(connection, &networks, "document");
                0
            });
        }
        let mut placed = InventoryChanges::default();
        let quotes_follow =
            [QuoteSelection::Maxmind, QuoteSelection::Other].map(|which| which.any(&addresses));
        let (handled_networks, rejected) = (&mut self.handled_networks, &mut self.rejected);
        self.run.batch_resumable(|connection| {
            rejected.write(connection);
            mmdb::with(LoadPolicy::Import, |databases| {
                placed = backfill_sessions::place(
                    oids,
                    connection,
                    databases,
                    (&addresses, &named),
                    handled_networks,
                );
                if quotes_follow.contains(&true) {
                    return (0, None);
                }
                backfill_sessions::ask(oids, &placed);
                (rows, Some(checkpoint.document()))
            })
        });
        self.addresses_created += placed.created.len() as i64;
        self.networks_created += placed.networks_created;
        self.quotes(&addresses, quotes_follow, &placed, (rows, checkpoint));
        self.unfolded += placed.created.len() + placed.renewed.len();
        if self.unfolded >= FOLDED_TOGETHER {
            fold::run(oids, true);
            self.unfolded = 0;
        }
        Some(page)
    }

    /// Writes the sources' answers that are contained in the documents of the sessions. The answers of each [`QuoteSelection`] are
    /// written in a separate transaction. The last transaction completes the batch.
    fn quotes(
        &mut self,
        addresses: &Addresses,
        [of_maxmind, of_others]: [bool; 2],
        placed: &InventoryChanges,
        (rows, checkpoint): (i64, Checkpoint),
    ) {
        let oids = self.run.oids;
        let mut write = |which: QuoteSelection, is_last: bool| {
            self.run.batch_resumable(|connection| {
                mmdb::with(LoadPolicy::None, |databases| {
                    backfill_sessions::write_quotes(oids, connection, databases, addresses, which);
                    if !is_last {
                        return (0, None);
                    }
                    backfill_sessions::ask(oids, placed);
                    (rows, Some(checkpoint.document()))
                })
            });
        };
        if of_maxmind {
            write(QuoteSelection::Maxmind, !of_others);
        }
        if of_others {
            write(QuoteSelection::Other, true);
        }
    }

    /// Processes one batch of the second pass. Returns the page with which the next batch begins.
    fn sessions(&mut self, stretch: &PageRange) -> Option<u32> {
        let mut read_to = None;
        let (oids, batch_size) = (self.run.oids, self.batch_size);
        let (completed, rejected) = (&mut self.completed, &mut self.rejected);
        self.run.batch_resumable(|connection| {
            // The snapshot is held until the rows that it sees are written. While it is held, the server cannot give the tuple ids
            // of these rows to other rows.
            let latest = mvcc_snapshot::Latest::take();
            let Some(waiting) = complete::read(connection, stretch, batch_size, latest.view()) else {
                return (0, None);
            };
            complete::write(oids, connection, stretch.table, &waiting, completed, rejected);
            rejected.write(connection);
            read_to = Some(waiting.page);
            (waiting.rows, Some(stretch.checkpoint(Pass::Sessions, waiting.page).document()))
        });
        read_to
    }
}

/// Returns the pages of a table that must be read, and the estimated number of rows in these pages.
fn stretch<'t>(table: &'t Table, checkpoint: Option<Checkpoint>) -> Option<(PageRange<'t>, i64)> {
    let readable = ReadableTable::open(table.oid)?;
    let (file, pages) = (readable.file(), readable.pages());
    let from = match checkpoint {
        // Tables are read in the order of their OIDs. So a table with a lower OID than the table of the checkpoint is already read.
        Some(checkpoint) if checkpoint.table > table.oid.to_u32() => return None,
        Some(checkpoint) if checkpoint.table == table.oid.to_u32() && checkpoint.file == file => {
            checkpoint.page
        }
        _ => 0,
    };
    let left = pages.saturating_sub(from);
    let rows = readable.rows_estimated() as f64 * f64::from(left) / f64::from(pages.max(1));
    Some((PageRange { table, file, pages: from..pages }, rows as i64))
}
