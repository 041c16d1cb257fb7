//! Rows of `ip_inventory`, one at a time.

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use super::Home;
use crate::enrichment;
use crate::offline::Databases;
use crate::pg::inet;
use crate::pg::jsonb::Container;
use crate::pg::relation::{Prober, Row};

/// Columns of ip_inventory by position; upgrades may only append. A server test compares them with the catalog.
const CURRENT_ASN: i16 = 2;
const ENRICHMENT: i16 = 7;
const GEO_COUNTRY: i16 = 12;
const IS_BOGON: i16 = 15;

/// What the inventory knows of an address, as far as its snapshot needs it.
pub struct Known {
    pub asn: Option<i64>,
    pub country: Option<[u8; 2]>,
    pub ip_type: Option<String>,
    /// Whether the mmdb files in service are newer than its answer.
    pub is_due: bool,
}

/// The inventory, open for looking up addresses under one snapshot.
pub struct Inventory(Option<Prober>);

impl Inventory {
    pub fn open(home: Home, snapshot: pg_sys::Snapshot) -> Inventory {
        Inventory(Prober::open(home.inventory, home.inventory_key, snapshot))
    }

    /// Hands the address's row to `read`, or answers `None` when there is none.
    pub fn probe<T>(&mut self, address: Address, read: impl FnOnce(&Row) -> T) -> Option<T> {
        self.0.as_mut()?.probe(inet::write(address), read)
    }
}

/// One look-up.
pub fn probe<T>(
    home: Home,
    address: Address,
    snapshot: pg_sys::Snapshot,
    read: impl FnOnce(&Row) -> T,
) -> Option<T> {
    Inventory::open(home, snapshot).probe(address, read)
}

/// The document of a row.
pub fn document(row: &Row) -> Option<Container<'_>> {
    row.jsonb(ENRICHMENT)
}

/// Reads what a snapshot needs.
pub fn read_known(row: &Row, databases: &Databases) -> Known {
    let document = row.jsonb(ENRICHMENT);
    Known {
        asn: row.column(CURRENT_ASN).map(|datum| datum.value() as i64),
        country: row.text(GEO_COUNTRY).and_then(|text| <[u8; 2]>::try_from(text).ok()).filter(|c| c != b"XX"),
        ip_type: document.and_then(|d| enrichment::leading_type(&enrichment::ip_types(d)).map(str::to_owned)),
        is_due: is_document_due(row, document, databases),
    }
}

/// Whether a row's answer is due again.
pub fn is_due(row: &Row, databases: &Databases) -> bool {
    is_document_due(row, row.jsonb(ENRICHMENT), databases)
}

/// No newer file says more of a bogon.
fn is_document_due(row: &Row, document: Option<Container<'_>>, databases: &Databases) -> bool {
    let is_bogon = row.column(IS_BOGON).is_some_and(|datum| datum.value() != 0);
    !is_bogon && databases.is_due(document.and_then(enrichment::builds))
}
