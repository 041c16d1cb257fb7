//! Removes mentions of erased addresses from the documents of sessions.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};
use std::rc::Rc;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mention::Wanted;

use super::erase::{self, Erased, SETTINGS};
use super::erase_tables::SessionTable;
use super::{erase_documents, snapshot_fill};
use crate::pg::jsonb::Container;
use crate::pg::mvcc_snapshot::Latest;
use crate::pg::role::with_settings;
use crate::pg::row::{Row, TupleId};
use crate::pg::scan::ReadableTable;
use crate::pg::spi::Connection;
use crate::pg::user_table::{Lock, TableStatement, UserTable};
use crate::pg::value::{Array, Jsonb, Tid, array};
use crate::pg::varlena::OwnedVarlena;

/// Number of pages that one transaction reads.
const PAGES: u32 = 4_096;

/// Number of sessions after which a transaction stops writing.
const SESSIONS: usize = 1_000;

const WRITE: TableStatement<'static, (Array<Tid>, Array<Jsonb>), (Tid,)> =
    TableStatement::new("sessions_documents", include_str!("../../sql/queries/erase/sessions_documents.sql"));

/// Number of documents without mentions that are remembered.
const REMEMBERED: usize = 100_000;

/// Hashes of documents that mention none of the addresses. Many sessions have the same document. The seed of the hashes is random, so
/// a sensor cannot send documents with equal hashes.
#[derive(Default)]
pub struct CleanDocuments {
    hasher: RandomState,
    hashes: HashSet<u64>,
}

impl CleanDocuments {
    /// Returns the document without mentions. Returns `None` if it has no mention.
    fn without_mentions(&mut self, wanted: &Wanted, document: Container<'_>) -> Option<String> {
        let hash = self.hasher.hash_one(document.bytes());
        if self.hashes.contains(&hash) {
            return None;
        }
        let cleaned = wanted.removed_from(&document.json());
        if cleaned.is_none() {
            if self.hashes.len() >= REMEMBERED {
                self.hashes.clear();
            }
            self.hashes.insert(hash);
        }
        cleaned
    }
}

/// A session with its new document.
struct Session {
    tuple_id: TupleId,
    address: Option<Address>,
    document: Rc<OwnedVarlena>,
}

impl SessionTable {
    /// Returns the current number of pages. Sessions that are stored later have later documents, which are not read.
    pub fn pages(&self) -> u32 {
        ReadableTable::open(self.counted.table).map_or(0, |table| table.pages())
    }

    /// Removes mentions from the documents of sessions on these pages of the table. Leaves out sessions of the erased addresses
    /// themselves.
    pub fn clean_documents(
        &self,
        connection: &Connection,
        pages: Range<u32>,
        wanted: &Wanted,
        clean: &mut CleanDocuments,
    ) -> Erased {
        let nothing = Erased { found: 0, written: 0, undated: 0, next: None };
        let Some(table) = UserTable::lock(self.counted.table, Lock::Write) else { return nothing };
        // While this snapshot is held, PostgreSQL does not give the tuple id of a session that was read to another row.
        let latest = Latest::take();
        let Some((sessions, next)) = self.mentioning(&latest, pages, wanted, clean) else { return nothing };
        let written =
            if sessions.is_empty() { 0 } else { self.write_documents(connection, &table, &sessions) };
        Erased { found: sessions.len() as i64, written, undated: 0, next }
    }

    /// Returns the sessions whose documents mention an address, and the page at which the next batch begins.
    fn mentioning(
        &self,
        latest: &Latest,
        pages: Range<u32>,
        wanted: &Wanted,
        clean: &mut CleanDocuments,
    ) -> Option<(Vec<Session>, Option<u32>)> {
        let readable = ReadableTable::open(self.counted.table)?;
        let ip = readable.address_column(&self.counted.ip_column)?;
        let document = readable.column(c"enrichment").filter(|column| column.is::<Jsonb>())?;
        let last = readable.pages().min(pages.end);
        let end = last.min(pages.start.saturating_add(PAGES));
        let (mut sessions, mut page) = (Vec::new(), pages.start);
        let mut next = (end < last).then_some(end);
        readable.rows_of_pages(latest.view(), pages.start..end, |row: &Row| {
            let tuple_id = row.tuple_id();
            if tuple_id.page() != page && sessions.len() >= SESSIONS {
                next = Some(tuple_id.page());
                return ControlFlow::Break(());
            }
            page = tuple_id.page();
            let address = erase::address(row, ip);
            if !address.is_some_and(|address| wanted.contains(address))
                && let Some(document) = row.jsonb(document.number)
                && let Some(document) = clean.without_mentions(wanted, document)
            {
                sessions.push((tuple_id, address, document));
            }
            ControlFlow::Continue(())
        });
        let parsed = |(tuple_id, address, document): (_, _, String)| {
            Some(Session { tuple_id, address, document: erase_documents::parsed(&document)? })
        };
        Some((sessions.into_iter().filter_map(parsed).collect(), next))
    }

    fn write_documents(&self, connection: &Connection, table: &UserTable, sessions: &[Session]) -> i64 {
        self.require_writable(connection, table);
        let arguments = (
            array(sessions.iter().map(|session| session.tuple_id)),
            array(sessions.iter().map(|session| &*session.document)),
        );
        let rows =
            sessions.iter().map(|session| (session.tuple_id, session.address, Rc::clone(&session.document)));
        let _registration = snapshot_fill::register_documents(table.oid(), rows);
        with_settings(SETTINGS, || {
            table.as_owner(|| connection.run_on(table, &WRITE, arguments, |rows| rows.count() as i64))
        })
    }
}
