//! Reads the sessions in some pages of a table, and collects the data about addresses that these sessions contain.

use std::collections::HashMap;
use std::ops::ControlFlow;

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::session_time;
use cowrie_enrich_engine::timestamp::Timestamp;
use foldhash::fast::RandomState;

use super::PageRange;
use crate::document::enrichment;
use crate::document::legacy::{self, SOURCES};
use crate::pg::clock;
use crate::pg::column::Column;
use crate::pg::jsonb::Container;
use crate::pg::mvcc_snapshot::Latest;
use crate::pg::row::Row;
use crate::pg::scan::{self, AddressValue, ReadableTable};
use crate::pg::text::from_server;
use crate::pg::value::{Jsonb, Timestamptz};
use crate::procedures::session_tables::RejectedRows;
use crate::store::backfill_sessions::{
    Addresses, CYMRU, MAXMIND, NamedNetworks, Quote, SessionEvidence, Table, shown_key,
};
use crate::store::procedure_call::RejectedRow;
use crate::store::{ExtensionOids, session_options};

/// Maximum number of addresses that one transaction writes. If another transaction inserts the first session from one of these
/// addresses, its INSERT may have to wait until this transaction ends.
const MOST_ADDRESSES: usize = 5_000;
/// A batch may read this number of sessions for each address that it may write. The number is larger than one, because most
/// sessions contain no new data.
const ROWS_FOR_EACH: usize = 10;
/// Maximum total size in bytes of the documents that a batch keeps in memory.
const MOST_BYTES: usize = 32 << 20;

/// The columns of a session table that are read.
pub struct Layout {
    pub ip: Column,
    pub time: Option<Column>,
    pub document: Option<Column>,
    pub document_at: Option<Column>,
    pub key: Option<Column>,
    /// When the reading began.
    now: Timestamp,
}

impl Layout {
    pub fn of(readable: &ReadableTable, table: &Table) -> Option<Layout> {
        let named = |name: &Option<_>| name.as_deref().and_then(|name| readable.column(name));
        Some(Layout {
            ip: readable.address_column(&table.ip_column)?,
            time: named(&table.time_column),
            document: readable.column(c"enrichment").filter(|column| column.is::<Jsonb>()),
            document_at: readable.column(c"enrichment_at").filter(|column| column.is::<Timestamptz>()),
            key: named(&table.key_column),
            now: clock::now(),
        })
    }

    /// Returns the address in a row. If the value is not a valid address, returns the text of this value as the error.
    pub fn address(&self, row: &Row) -> Result<Option<Address>, String> {
        match scan::value(row, self.ip) {
            None => Ok(None),
            Some(AddressValue::Inet(inet)) => Ok(Some(inet.address)),
            Some(AddressValue::Text(text)) => {
                address::parse_bytes(text).map_err(|_| from_server(text).into_owned())
            }
        }
    }

    /// Returns the time of the session in a row, if this time is plausible.
    pub fn time(&self, row: &Row) -> Option<Timestamp> {
        let time = scan::time(row, self.time?)?;
        session_time::believed(time, self.enriched_at(row), self.now)
    }

    fn enriched_at(&self, row: &Row) -> Option<Timestamp> {
        row.timestamptz(self.document_at?.number)
    }

    pub fn document<'a>(&self, row: &'a Row) -> Option<Container<'a>> {
        self.document.and_then(|column| row.jsonb(column.number))
    }

    /// Returns the time of the document in a row, if this time is known.
    fn documented_at(&self, row: &Row) -> Option<Timestamp> {
        self.enriched_at(row).filter(|at| at.is_finite()).or_else(|| self.time(row))
    }

    /// Returns a text with which a user can find the row.
    pub fn key(&self, row: &Row) -> String {
        shown_key(row, self.key)
    }
}

/// The data that was collected from some pages.
pub struct PageContents {
    pub addresses: Addresses,
    pub named: NamedNetworks,
    pub rows: i64,
    /// The page after them.
    pub page: u32,
}

/// Reads pages from the beginning of `stretch`, until the data is enough for a batch. Returns `None` if the table was dropped or
/// rewritten.
pub fn read(
    oids: ExtensionOids,
    stretch: &PageRange,
    batch_size: usize,
    rejected: &mut RejectedRows,
) -> Option<PageContents> {
    let readable = stretch.open()?;
    let mut collector = Collector {
        layout: Layout::of(&readable, stretch.table)?,
        relation: stretch.table.shown(),
        is_input_trusted: session_options::is_input_trusted(oids, stretch.table.oid),
        addresses: HashMap::default(),
        named: NamedNetworks::default(),
        bytes: 0,
    };
    let most = batch_size.min(MOST_ADDRESSES);
    let (mut rows, mut page) = (0, stretch.pages.start);
    let mut is_cut = false;
    let latest = Latest::take();
    readable.rows_of_pages(latest.view(), stretch.pages.clone(), |row| {
        let is_enough = collector.addresses.len() >= most
            || rows >= most.saturating_mul(ROWS_FOR_EACH)
            || collector.bytes >= MOST_BYTES;
        if row.tuple_id().page() != page && is_enough {
            (is_cut, page) = (true, row.tuple_id().page());
            return ControlFlow::Break(());
        }
        page = row.tuple_id().page();
        rows += 1;
        collector.row(row, rejected);
        ControlFlow::Continue(())
    });
    Some(PageContents {
        addresses: collector.addresses.into_iter().collect(),
        named: collector.named,
        rows: rows as i64,
        page: if is_cut { page } else { stretch.pages.end },
    })
}

struct Collector {
    layout: Layout,
    relation: String,
    /// True if the answers in the documents of the sessions are also written into the inventories. If false, an answer only fills
    /// the snapshot columns of the session that contains it.
    is_input_trusted: bool,
    addresses: HashMap<Address, SessionEvidence, RandomState>,
    named: NamedNetworks,
    bytes: usize,
}

impl Collector {
    fn row(&mut self, row: &Row, rejected: &mut RejectedRows) {
        let address = match self.layout.address(row) {
            Ok(Some(address)) => address,
            Ok(None) => return,
            Err(text) => {
                rejected.about([self.rejected(
                    row,
                    "the value of the address column is not an address".to_owned(),
                    Some(text),
                )]);
                return;
            }
        };
        let time = self.layout.time(row);
        let evidence = self.addresses.entry(address).or_default();
        evidence.session_count.first_seen =
            [evidence.session_count.first_seen, time].into_iter().flatten().min();
        evidence.session_count.last_seen =
            [evidence.session_count.last_seen, time].into_iter().flatten().max();
        let Some(document) = self.layout.document(row) else { return };
        let faults = match legacy::of_address(document, address) {
            Ok(None) => return,
            Ok(Some(own)) => self.document(row, address, own),
            Err(fault) => vec![fault],
        };
        if !faults.is_empty() {
            let content = || (document.size() <= legacy::LARGEST_PART).then(|| document.json());
            rejected.about(faults.into_iter().map(|fault| self.rejected(row, fault, content())));
        }
    }

    /// If the document of a session is trusted, keeps the sources' answers that the document contains. Returns the faults of the
    /// document.
    fn document(&mut self, row: &Row, address: Address, own: Container<'_>) -> Vec<String> {
        let mut reading = legacy::read(Some(own));
        let parts = legacy::parts(own, &mut reading.faults);
        // A bogon belongs to no network, even if an old document names a network.
        if !self.is_input_trusted || bogon::reason(address).is_some() {
            return reading.faults;
        }
        // Two sources may name different networks. The snapshot of the session has the network that the first source names.
        let leading = reading.network().map(|(asn, _)| asn);
        let time_in = |asn: Option<i64>| if asn == leading { self.layout.time(row) } else { None };
        self.named.add(MAXMIND, &reading.maxmind, time_in(reading.maxmind.asn));
        self.named.add(CYMRU, &reading.cymru, time_in(reading.cymru.asn));
        let Some(evidence) = self.addresses.get_mut(&address) else { return reading.faults };
        for (source, part) in parts.into_iter().enumerate() {
            let Some(part) = part else { continue };
            let at = enrichment::dated(part).or_else(|| self.layout.documented_at(row));
            let asn = match source {
                MAXMIND => reading.maxmind.asn,
                CYMRU => reading.cymru.asn,
                _ => None,
            };
            // Every valid answer of Team Cymru names a network. If the stored part names no network, it is not used as an answer.
            if !evidence.lacks(source, at) || (source == CYMRU && asn.is_none()) {
                continue;
            }
            self.bytes += part.size();
            let words = legacy::keep_sensible(part, SOURCES[source], &reading.faulty);
            evidence.quotes[source] = Some(Box::new(Quote { at, words, asn }));
        }
        reading.faults
    }

    fn rejected(&self, row: &Row, reason: String, content: Option<String>) -> RejectedRow {
        RejectedRow { relation: self.relation.clone(), row_key: self.layout.key(row), reason, content }
    }
}
