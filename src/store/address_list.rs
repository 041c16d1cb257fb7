//! Reads the rows of the inventories for a list of addresses.
//!
//! The statements run with the rights of the caller. One statement reads the rows of all addresses. A separate statement for
//! each address would take longer than all other work on the list.

use std::collections::HashMap;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::timestamp::Timestamp;
use foldhash::fast::RandomState;

use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Inet, Text, Timestamptz, array};

/// The columns of a row are, in this order: the address, its ASN, country and types, whether the address is a scanner, its
/// number of sessions, `first_seen`, `last_seen`, and the builds of the mmdb files from which its values come.
type AddressRow = (Inet, Bigint, Text, Array<Text>, Boolean, Bigint, Timestamptz, Timestamptz, Text);
/// The ASN, the network's name, type and registry.
type NetworkRow = (Bigint, Text, Text, Text);

thread_local! {
    static ADDRESSES: Statement<(Array<Inet>,), AddressRow> = const { Statement::new(
        "list_addresses", include_str!("../../sql/queries/analysis/list_addresses.sql")).reading_keys() };
    static NETWORKS: Statement<(Array<Bigint>,), NetworkRow> = const { Statement::new(
        "list_networks", include_str!("../../sql/queries/analysis/list_networks.sql")).reading_keys() };
}

/// A row of `ip_inventory`.
pub struct KnownAddress {
    pub asn: Option<i64>,
    /// `None` if the country is unknown.
    pub country: Option<[u8; 2]>,
    pub types: Vec<String>,
    pub is_scanner: Option<bool>,
    pub sessions: i64,
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    pub builds: Option<String>,
}

/// A row of `asn_inventory`.
pub struct KnownNetwork {
    pub organization: Option<String>,
    pub kind: Option<String>,
    pub registry: Option<String>,
}

pub type KnownAddresses = HashMap<Address, KnownAddress, RandomState>;
pub type KnownNetworks = HashMap<i64, KnownNetwork, RandomState>;

/// Returns the code of a known country.
fn country_code(text: String) -> Option<[u8; 2]> {
    <[u8; 2]>::try_from(text.as_bytes()).ok().filter(|country| country != b"XX")
}

/// Returns the rows of `ip_inventory` for these addresses.
pub fn addresses(connection: &Connection, addresses: impl Iterator<Item = Address>) -> KnownAddresses {
    ADDRESSES.run(connection, (array(addresses),), |rows| {
        rows.iter()
            .filter_map(
                |(address, asn, country, types, is_scanner, sessions, first_seen, last_seen, builds)| {
                    let known = KnownAddress {
                        asn,
                        country: country.and_then(country_code),
                        types: types.unwrap_or_default().into_iter().flatten().collect(),
                        is_scanner,
                        sessions: sessions.unwrap_or_default(),
                        first_seen,
                        last_seen,
                        builds,
                    };
                    Some((address?, known))
                },
            )
            .collect()
    })
}

/// Returns the rows of `asn_inventory` for these ASNs.
pub fn networks(connection: &Connection, asns: impl Iterator<Item = i64>) -> KnownNetworks {
    NETWORKS.run(connection, (array(asns),), |rows| {
        rows.iter()
            .filter_map(|(asn, organization, kind, registry)| {
                Some((asn?, KnownNetwork { organization, kind, registry }))
            })
            .collect()
    })
}
