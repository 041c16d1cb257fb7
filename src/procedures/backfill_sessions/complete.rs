//! Fills null columns in the snapshots of sessions. If the document of the session contains a value for the column, this value is
//! used, because the document dates from the attack. Otherwise, the current value in the inventory is used.

use std::collections::HashMap;
use std::ffi::CStr;
use std::ops::ControlFlow;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::ip_type;

use super::PageRange;
use super::gather::Layout;
use crate::document::{enrichment, legacy, types};
use crate::mmdb::{self, LoadPolicy};
use crate::pg::column::{Column, Length};
use crate::pg::jsonb::Container;
use crate::pg::mvcc_snapshot::View;
use crate::pg::row::{Row, TupleId};
use crate::pg::scan::ReadableTable;
use crate::pg::spi::Connection;
use crate::pg::subtransaction::contained;
use crate::pg::user_table::{Lock, UserTable};
use crate::pg::value::{Bigint, Jsonb, SqlType, Timestamptz};
use crate::pg::{self, Oid, catalog, memory, sql_function};
use crate::procedures::session_tables::RejectedRows;
use crate::store::ExtensionOids;
use crate::store::backfill_sessions::{self, InventoryValues, Table};
use crate::store::complete_sessions::{self, SnapshotValues};
use crate::store::completions::{self, AppendResult, Gaps, IncompleteSessionRow};
use crate::store::procedure_call::RejectedRow;
use crate::worker::registry;

/// The results for sessions.
#[derive(Default)]
pub struct CompletionCounts {
    pub sessions: i64,
    /// Number of sessions that were not filled because other transactions had locked them.
    pub held: i64,
    /// Number of sessions whose UPDATE failed, for example because of a constraint of the table.
    refused: usize,
    has_warned: bool,
    /// Tables for which the call has already shown the warning about row-level security.
    filtered: Vec<Oid>,
}

/// The snapshot columns of a table. Each column has a type that the extension can fill.
struct Snapshot {
    asn: Column,
    country: (Column, Length),
    ip_type: (Column, Length),
    document: Column,
}

impl Snapshot {
    /// Returns `None` if snapshot columns were dropped or changed. In this case, the user must attach the table again.
    fn of(readable: &ReadableTable, table: &Table) -> Option<Snapshot> {
        fn typed<T: SqlType>(readable: &ReadableTable, name: &CStr) -> Option<Column> {
            readable.column(name).filter(|column| column.is::<T>())
        }
        let text = |name| {
            let column = readable.column(name).filter(|column| column.is_text_like())?;
            Some((column, column.length(table.oid)))
        };
        typed::<Timestamptz>(readable, c"enrichment_at")?;
        Some(Snapshot {
            asn: typed::<Bigint>(readable, c"snapshot_asn")?,
            country: text(c"snapshot_country")?,
            ip_type: text(c"snapshot_ip_type")?,
            document: typed::<Jsonb>(readable, c"enrichment")?,
        })
    }
}

/// A session with null snapshot columns, and the values for these columns that the session's own document contains.
struct Session {
    tuple_id: TupleId,
    key: String,
    address: Address,
    asn: Gap<i64>,
    country: Gap<String>,
    ip_type: Gap<String>,
    lacks_document: bool,
}

/// A column of a snapshot.
enum Gap<T> {
    /// The column already has a value.
    None,
    /// The column is null. Contains the value from the session's own document, if the document has one.
    Of(Option<T>),
}

impl<T> Gap<T> {
    fn of(is_null: bool, own: impl FnOnce() -> Option<T>) -> Gap<T> {
        if is_null { Gap::Of(own()) } else { Gap::None }
    }

    fn is_open(&self) -> bool {
        matches!(self, Gap::Of(None))
    }

    fn is_some(&self) -> bool {
        matches!(self, Gap::Of(_))
    }

    fn own(&self) -> Option<&T> {
        if let Gap::Of(own) = self { own.as_ref() } else { None }
    }

    /// Returns the value for a null snapshot column: the value from the session's document, or otherwise `known`, the value from
    /// the inventory.
    fn filling<'a>(&'a self, known: Option<&'a T>) -> Option<&'a T> {
        if self.is_some() { self.own().or(known) } else { None }
    }
}

/// Sessions with null snapshot columns that were read from some pages of a table.
pub struct IncompleteSessions {
    sessions: Vec<Session>,
    lengths: [Length; 2],
    pub rows: i64,
    /// The first page that was not read.
    pub page: u32,
}

/// If a batch has this number of sessions with null snapshot columns, it reads no further page. The number is limited, because the
/// values for these sessions are held in memory.
const MOST_ADDRESSES: usize = 50_000;

/// Reads pages from the beginning of `stretch`, until the sessions are enough for a batch. Returns `None` if the table was dropped
/// or rewritten.
pub fn read(
    connection: &Connection,
    stretch: &PageRange,
    batch_size: usize,
    view: View<'_>,
) -> Option<IncompleteSessions> {
    let readable = stretch.open()?;
    let nothing = IncompleteSessions {
        sessions: Vec::new(),
        lengths: [Length::Any; 2],
        rows: 0,
        page: stretch.pages.end,
    };
    let (Some(layout), Some(columns)) =
        (Layout::of(&readable, stretch.table), Snapshot::of(&readable, stretch.table))
    else {
        let reason = backfill_sessions::not_intact_reason(connection, stretch.table.oid);
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        pg::warning(
            &format!(
                "snapshot columns of {} are not filled, because the table has changed since attach_session_table() was called{reason}",
                stretch.table.shown()
            ),
            "Call attach_session_table() again with all arguments of the earlier call. The call adds missing columns.",
        );
        return Some(nothing);
    };
    if !stretch.table.is_of_one_owner {
        pg::warning(
            &format!(
                "snapshot columns of partition {} are not filled, because the partition and the partitioned table have different owners",
                stretch.table.shown()
            ),
            "Use ALTER TABLE ... OWNER TO to give the partition the owner of the partitioned table.",
        );
        return Some(nothing);
    }
    if let Some(reason) = complete_sessions::blocked_reason(connection, stretch.table.oid) {
        let schema = sql_function::quoted_schema(catalog::extension()?.schema)?;
        let table = stretch.table.shown();
        pg::warning(
            &format!("snapshot columns of {table} are not filled: {reason}"),
            &format!(
                "Drop the trigger. Or, as the owner of the table, allow the trigger to fire: \
                 SELECT {schema}.set_session_table_options('{}', run_triggers => true, trust_input => NULL).",
                table.replace('\'', "''")
            ),
        );
        return Some(nothing);
    }
    let most = batch_size.min(10 * MOST_ADDRESSES);
    let (mut rows, mut page, mut is_cut) = (0, stretch.pages.start, false);
    let mut sessions = Vec::new();
    readable.rows_of_pages(view, stretch.pages.clone(), |row| {
        let is_enough = rows >= most || sessions.len() >= MOST_ADDRESSES;
        if row.tuple_id().page() != page && is_enough {
            (is_cut, page) = (true, row.tuple_id().page());
            return ControlFlow::Break(());
        }
        page = row.tuple_id().page();
        rows += 1;
        sessions.extend(session(row, &layout, &columns));
        ControlFlow::Continue(())
    });
    Some(IncompleteSessions {
        sessions,
        lengths: [columns.country.1, columns.ip_type.1],
        rows: rows as i64,
        page: if is_cut { page } else { stretch.pages.end },
    })
}

/// Returns the session in a row, if it has a null snapshot column that the extension may fill.
fn session(row: &Row, layout: &Layout, columns: &Snapshot) -> Option<Session> {
    let lacks = |column: Column| row.is_null(column.number);
    let is_null = [columns.asn, columns.country.0, columns.ip_type.0, columns.document].map(lacks);
    if !is_null.contains(&true) {
        return None;
    }
    let address = layout.address(row).ok().flatten()?;
    let own =
        || layout.document(row).and_then(|document| legacy::of_address(document, address).ok().flatten());
    let own: Option<Container<'_>> = if is_null[..3].contains(&true) { own() } else { None };
    let asn = || legacy::read(own).network().map(|(asn, _)| asn);
    let country = || own.and_then(enrichment::country);
    let ip_type = || {
        let types = own.map(types::ip_types).unwrap_or_default();
        ip_type::leading(types.iter().map(String::as_str)).map(str::to_owned)
    };
    Some(Session {
        tuple_id: row.tuple_id(),
        key: layout.key(row),
        address,
        asn: Gap::of(is_null[0], asn),
        country: Gap::of(is_null[1], country),
        ip_type: Gap::of(is_null[2], ip_type),
        lacks_document: is_null[3],
    })
}

/// Maximum number of sessions per statement. This number limits the memory for the documents of these sessions.
const CHUNK: usize = 2_000;

/// Fills the null snapshot columns of the sessions, as far as values for these columns exist.
pub fn write(
    oids: ExtensionOids,
    connection: &Connection,
    table: &Table,
    waiting: &IncompleteSessions,
    completed: &mut CompletionCounts,
    rejected: &mut RejectedRows,
) {
    let is_asked = |session: &&Session| {
        session.asn.is_open()
            || session.country.is_open()
            || session.ip_type.is_open()
            || session.lacks_document
    };
    let mut addresses: Vec<Address> =
        waiting.sessions.iter().filter(is_asked).map(|session| session.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let known =
        mmdb::with(LoadPolicy::None, |databases| backfill_sessions::known(oids, databases, &addresses));
    let mut fillings: Vec<(&Session, SnapshotValues)> = Vec::new();
    let mut left = Vec::new();
    let may_be_filled = completions::may_be_filled();
    for session in &waiting.sessions {
        let filling = filling(session, &known, waiting.lengths);
        let gaps = session.gaps_left(filling.as_ref()).and(may_be_filled);
        if gaps.any() {
            left.push((session.address, gaps));
        }
        fillings.extend(filling.map(|filling| (session, filling)));
    }
    if !fillings.is_empty() {
        // The transaction still holds the lock that it took when it read the table. So the table cannot have been rewritten or
        // emptied since then.
        let Some(locked) = UserTable::lock(table.oid, Lock::Write) else { return };
        let mut writer = Writer { connection, table, locked, completed, rejected, held: Vec::new() };
        for chunk in fillings.chunks(CHUNK) {
            writer.write(chunk);
        }
        // The worker will complete these sessions, either after other transactions release their locks, or when a later answer
        // arrives.
        left.extend(writer.held.drain(..).map(|address| (address, may_be_filled)));
    }
    left.sort_unstable();
    left.dedup();
    let left = left.into_iter().filter(|(address, _)| bogon::reason(*address).is_none());
    let left =
        left.map(|(address, gaps)| IncompleteSessionRow { address, table: table.oid, gaps, is_asked: false });
    if completions::append(oids, left, true) == AppendResult::Rows {
        registry::work_was_queued();
    }
}

impl Session {
    /// Returns which snapshot columns of a session are still null after they were filled with these values.
    fn gaps_left(&self, filling: Option<&SnapshotValues>) -> Gaps {
        let keeps =
            |is_gap: bool, is_filled: fn(&SnapshotValues) -> bool| is_gap && !filling.is_some_and(is_filled);
        Gaps {
            network: keeps(self.asn.is_some(), |filling| filling.asn.is_some()),
            country: keeps(self.country.is_some(), |filling| filling.country.is_some()),
            ip_type: keeps(self.ip_type.is_some(), |filling| filling.ip_type.is_some()),
        }
    }
}

/// Returns the values for the null snapshot columns of a session. If there are no such values, returns `None`. If a text does not
/// fit into its column, leaves out this text.
fn filling<'a>(
    session: &'a Session,
    known: &'a HashMap<Address, InventoryValues>,
    [country, ip_type]: [Length; 2],
) -> Option<SnapshotValues<'a>> {
    let known = known.get(&session.address);
    let fitting = |text: Option<&'a String>, length: Length| {
        text.map(String::as_str).filter(|text| length.takes(text.chars().count()))
    };
    let filling = SnapshotValues {
        tuple_id: session.tuple_id,
        address: session.address,
        asn: session.asn.filling(known.and_then(|known| known.asn.as_ref())).copied(),
        country: fitting(session.country.filling(known.and_then(|known| known.country.as_ref())), country),
        ip_type: fitting(session.ip_type.filling(known.and_then(|known| known.ip_type.as_ref())), ip_type),
        document: known.filter(|_| session.lacks_document).map(|known| &known.document),
    };
    let fills = filling.asn.is_some()
        || filling.country.is_some()
        || filling.ip_type.is_some()
        || filling.document.is_some();
    fills.then_some(filling)
}

/// Maximum number of sessions of which the UPDATE may fail. If more updates fail, the cause is probably the table and not a single
/// session, so no more sessions are filled.
const MOST_REFUSED: usize = 1_000;

struct Writer<'a> {
    connection: &'a Connection,
    table: &'a Table,
    locked: UserTable,
    completed: &'a mut CompletionCounts,
    rejected: &'a mut RejectedRows,
    /// Addresses with locked sessions.
    held: Vec<Address>,
}

impl Writer<'_> {
    /// Writes values into sessions. If the statement fails, the function splits the sessions into two halves and writes each half
    /// separately. It repeats this until a part contains only one session. So if one session violates a constraint of the table,
    /// the other sessions are still filled.
    fn write(&mut self, sessions: &[(&Session, SnapshotValues)]) {
        if self.completed.refused >= MOST_REFUSED {
            return;
        }
        let written = contained(|| {
            memory::scratch(|| {
                let fillings: Vec<SnapshotValues> = sessions.iter().map(|(_, filling)| *filling).collect();
                complete_sessions::fill(self.connection, &self.locked, &fillings)
            })
        });
        match (written, sessions) {
            (Ok(written), _) => {
                self.completed.sessions += written as i64;
                self.completed.held += (sessions.len() - written) as i64;
                if written < sessions.len() {
                    self.held.extend(sessions.iter().map(|(session, _)| session.address));
                    self.explain_policies();
                }
            }
            (Err(failure), _) if failure.was_lock => {
                self.held.extend(sessions.iter().map(|(session, _)| session.address));
                self.completed.held += sessions.len() as i64;
            }
            (Err(failure), [(session, _)]) => self.refuse(session, &failure.message),
            (Err(_), _) => {
                let (first, second) = sessions.split_at(sessions.len() / 2);
                self.write(first);
                self.write(second);
            }
        }
    }

    /// Warns if row-level security may hide sessions from the table's owner, because hidden sessions are counted as locked.
    fn explain_policies(&mut self) {
        let table = self.table.oid;
        if self.completed.filtered.contains(&table) || !catalog::is_filtered(table, self.locked.owner()) {
            return;
        }
        self.completed.filtered.push(table);
        pg::warning(
            &format!(
                "forced row-level security of {} can hide sessions from the table owner; the result column \"held\" \
                 counts the hidden sessions",
                self.table.shown()
            ),
            "Create a policy that lets the owner update all sessions, or run ALTER TABLE ... NO FORCE ROW LEVEL SECURITY. Then call backfill_sessions() again.",
        );
    }

    fn refuse(&mut self, session: &Session, why: &str) {
        self.completed.refused += 1;
        self.rejected.about([RejectedRow {
            relation: self.table.shown(),
            row_key: session.key.clone(),
            reason: format!("the snapshot columns could not be filled: {why}"),
            content: Some(session.address.to_string()),
        }]);
        if self.completed.refused >= MOST_REFUSED && !self.completed.has_warned {
            self.completed.has_warned = true;
            pg::warning(
                &format!(
                    "snapshot columns of {} are not filled any more, because too many updates failed",
                    self.table.shown()
                ),
                "The table rejected_row lists these sessions and the errors.",
            );
        }
    }
}
