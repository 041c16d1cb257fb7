//! Reads single rows of `ip_inventory` without the executor, and deletes addresses.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;

use super::ExtensionOids;
use crate::document::{enrichment, types};
use crate::mmdb::Databases;
use crate::pg::jsonb::Container;
use crate::pg::mvcc_snapshot::View;
use crate::pg::prober::{Key, Prober};
use crate::pg::role::in_restricted_operation_as;
use crate::pg::row::Row;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Inet, array};
use crate::provider::Providers;

/// Positions of columns of ip_inventory. Upgrades may append columns, but may not move a column. A server test compares these
/// positions with the catalog.
const CURRENT_ASN: i16 = 2;
const ENRICHMENT: i16 = 7;
const GEO_COUNTRY: i16 = 12;
const IS_BOGON: i16 = 15;

thread_local! {
    static DELETE: Statement<(Array<Inet>,), (Bigint,)> = const { Statement::new(
        "addresses_delete", include_str!("../../sql/queries/inventory/addresses_delete.sql")) };
}

/// The values of an address in `ip_inventory` that are copied into the snapshot of a session.
pub struct AddressFacts {
    pub asn: Option<i64>,
    pub country: Option<[u8; 2]>,
    /// Type of the address, from the answers of providers.
    pub ip_type: Option<String>,
    /// True if the stored values come from older mmdb files than the files that are now loaded.
    pub is_due: bool,
}

/// The table `ip_inventory`, open for searches by address. All searches use one snapshot.
pub struct Inventory(Option<Prober>);

impl Inventory {
    pub fn open(oids: ExtensionOids, view: View<'_>) -> Inventory {
        Inventory(Prober::open(oids.inventory, oids.inventory_key, view))
    }

    /// Searches the row of an address and passes the row to `read`. Returns `None` if there is no row.
    pub fn probe<T>(&mut self, address: Address, read: impl FnOnce(&Row) -> T) -> Option<T> {
        self.0.as_mut()?.probe(Key::Address(address), read)
    }
}

/// Looks up one address.
pub fn probe<T>(
    oids: ExtensionOids,
    address: Address,
    view: View<'_>,
    read: impl FnOnce(&Row) -> T,
) -> Option<T> {
    Inventory::open(oids, view).probe(address, read)
}

/// Returns the document of a row.
pub fn document(row: &Row) -> Option<Container<'_>> {
    row.jsonb(ENRICHMENT)
}

/// Reads the columns that a snapshot needs.
pub fn read_known(row: &Row, databases: &Databases) -> AddressFacts {
    let document = row.jsonb(ENRICHMENT);
    AddressFacts {
        asn: row.bigint(CURRENT_ASN),
        country: row.text(GEO_COUNTRY).and_then(|text| <[u8; 2]>::try_from(text).ok()).filter(|c| c != b"XX"),
        ip_type: document.and_then(types::leading_type),
        is_due: is_document_due(row, document, databases),
    }
}

/// Returns true if the row comes from older mmdb files than the loaded files. Such a row must be renewed.
pub fn is_due(row: &Row, databases: &Databases) -> bool {
    is_document_due(row, row.jsonb(ENRICHMENT), databases)
}

/// Returns true if the document comes from older mmdb files than the loaded files. Returns false for a bogon, because mmdb
/// files have no data about bogons.
fn is_document_due(row: &Row, document: Option<Container<'_>>, databases: &Databases) -> bool {
    let is_bogon = row.boolean(IS_BOGON) == Some(true);
    !is_bogon && databases.is_due(document.and_then(enrichment::builds))
}

/// Returns those of `providers` that should be asked about the address of the row. The stored answer of such a provider is
/// missing or has expired.
pub fn due_providers(row: &Row, providers: Providers) -> Providers {
    let is_bogon = row.boolean(IS_BOGON) == Some(true);
    let asn = row.bigint(CURRENT_ASN);
    match document(row) {
        Some(document) if !is_bogon => enrichment::due(document, asn, providers),
        _ => Providers::NONE,
    }
}

/// Returns those of `providers` that have never answered about the address of the row.
pub fn unasked_providers(row: &Row, providers: Providers) -> Providers {
    let is_bogon = row.boolean(IS_BOGON) == Some(true);
    let has_network = row.bigint(CURRENT_ASN).is_some();
    match document(row) {
        Some(document) if !is_bogon => Providers::of(providers.iter().filter(|provider| {
            let for_network = provider.purpose() == Purpose::Network;
            !(for_network && has_network) && enrichment::is_open(document, provider.name(), for_network)
        })),
        _ => Providers::NONE,
    }
}

/// Deletes addresses. Returns the number of deleted addresses.
///
/// Deleting an address makes the server check the foreign keys of session tables. The server runs these checks as the owners of
/// the session tables, so code of these owners may run. Therefore the deletion is a security-restricted operation. The server
/// allows no deferred checks in such an operation. So constraints are immediate for the rest of the transaction.
pub fn delete(oids: ExtensionOids, addresses: &[Address]) -> i64 {
    Connection::with(oids.schema, |connection| {
        connection.run_utility(b"SET CONSTRAINTS ALL IMMEDIATE");
        in_restricted_operation_as(oids.owner, || {
            DELETE.first(connection, (array(addresses),), |(deleted,)| deleted)
        })
    })
    .flatten()
    .unwrap_or_default()
}
