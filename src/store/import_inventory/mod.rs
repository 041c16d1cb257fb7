//! Imports the inventory of another system. The tables of that system are read with the rights of their owners. The inventory
//! of this extension is written as the extension's owner.
//!
//! A repeated import changes nothing. If both inventories have a value, the value of this extension is kept. The imported value
//! is used only if it is newer or has a better source.

pub mod sessions;
pub mod source;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::document::enrichment::LAYOUT_VERSION;
use crate::pg::jsonb::Container;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Arguments, Array, Bigint, Boolean, Inet, Jsonb, Text, Timestamptz, Typed, array};
use crate::telemetry::{self, Source, Update};

type Texts = Array<Text>;
type Times = Array<Timestamptz>;
#[rustfmt::skip]
type NetworkParameters = (
    Array<Bigint>, Texts, Texts, Texts, Texts, Texts, Texts, Texts, Array<Boolean>, Array<Boolean>, Times, Times,
    Array<Jsonb>, Times, Times,
);
#[rustfmt::skip]
type AddressParameters = (
    Array<Inet>, Array<Bigint>, Times, Times, Times, Array<Jsonb>, Array<Jsonb>, Times, Times, Text,
);
#[rustfmt::skip]
type MergeParameters = (
    Array<Inet>, Array<Bigint>, Times, Times, Times, Array<Jsonb>, Array<Jsonb>, Times, Times, Text, Array<Boolean>,
    Array<Jsonb>, Array<Jsonb>,
);

type Observations = (Array<Inet>, Array<Bigint>, Times, Texts, Array<Bigint>);
type Existing = (Inet, Bigint, Timestamptz, Jsonb, Timestamptz);

thread_local! {
    static CREATE_NETWORKS: Statement<NetworkParameters, (Bigint, Text, Text)> = const { Statement::new(
        "import_networks_create", include_str!("../../../sql/queries/import/import_networks_create.sql")) };
    static FILL_NETWORKS: Statement<NetworkParameters, (Bigint,)> = const { Statement::new(
        "import_networks_fill", include_str!("../../../sql/queries/import/import_networks_fill.sql")) };
    static CREATE_ADDRESSES: Statement<AddressParameters, (Inet,)> = const { Statement::new(
        "import_addresses_create", include_str!("../../../sql/queries/import/import_addresses_create.sql")) };
    static EXISTING: Statement<(Array<Inet>,), Existing> = const { Statement::new(
        "import_addresses_existing", include_str!("../../../sql/queries/import/import_addresses_existing.sql")) };
    static MERGE_ADDRESSES: Statement<MergeParameters> = const { Statement::new(
        "import_addresses_merge", include_str!("../../../sql/queries/import/import_addresses_merge.sql")) };
    static HISTORY: Statement<Observations, (Bigint, Bigint, Text)> = const { Statement::new(
        "import_history", include_str!("../../../sql/queries/import/import_history.sql")) };
}

/// A value of a network's metadata, and the source of this value.
pub type Sourced = Option<(String, &'static str)>;

/// A network of the imported inventory.
pub struct ImportedNetwork {
    pub asn: i64,
    pub name: Sourced,
    pub country: Sourced,
    pub registry: Sourced,
    pub asn_type: Option<&'static str>,
    pub is_hosting: bool,
    pub is_vpn: bool,
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    /// A jsonb object.
    pub document: Typed<Jsonb>,
    pub updated: Option<Timestamp>,
    pub created: Option<Timestamp>,
}

/// Writes networks. The networks are in order, and each occurs once. Returns the number of changed rows.
pub fn write_networks(connection: &Connection, networks: &[ImportedNetwork]) -> i64 {
    if networks.is_empty() {
        return 0;
    }
    let created = CREATE_NETWORKS.run(connection, network_arguments(networks), |rows| {
        for (asn, country, registry) in rows.iter() {
            let asn = asn.unwrap_or_default();
            telemetry::network_created(Source::Import, asn, country.as_deref(), registry.as_deref());
        }
        rows.count()
    });
    let filled: Vec<i64> = FILL_NETWORKS
        .run(connection, network_arguments(networks), |rows| rows.iter().filter_map(|(asn,)| asn).collect());
    telemetry::networks_updated(Source::Import, Update::Metadata, &filled);
    (created + filled.len()) as i64
}

fn network_arguments(networks: &[ImportedNetwork]) -> impl Arguments<NetworkParameters> {
    let values = |field: fn(&ImportedNetwork) -> &Sourced| {
        array(networks.iter().map(move |network| field(network).as_ref().map(|(value, _)| value)))
    };
    let sources = |field: fn(&ImportedNetwork) -> &Sourced| {
        array(networks.iter().map(move |network| field(network).as_ref().map(|(_, source)| *source)))
    };
    let times = |field: fn(&ImportedNetwork) -> Option<Timestamp>| array(networks.iter().map(field));
    (
        array(networks.iter().map(|network| network.asn)),
        values(|network| &network.name),
        values(|network| &network.country),
        values(|network| &network.registry),
        sources(|network| &network.name),
        sources(|network| &network.country),
        sources(|network| &network.registry),
        array(networks.iter().map(|network| network.asn_type)),
        array(networks.iter().map(|network| network.is_hosting)),
        array(networks.iter().map(|network| network.is_vpn)),
        times(|network| network.first_seen),
        times(|network| network.last_seen),
        array(networks.iter().map(|network| network.document)),
        times(|network| network.updated),
        times(|network| network.created),
    )
}

/// An address of the imported inventory.
pub struct ImportedAddress {
    pub address: Address,
    pub asn: Option<i64>,
    pub verified: Option<Timestamp>,
    pub first_seen: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    /// A jsonb object.
    pub document: Typed<Jsonb>,
    /// The states of the sources. They are added to the key `_meta` of the document.
    pub states: Typed<Jsonb>,
    pub updated: Option<Timestamp>,
    pub created: Option<Timestamp>,
}

/// The row of an address in the inventory of this extension. The value is valid only inside the closure that receives it.
pub struct StoredAddress<'a> {
    pub address: Address,
    pub asn: Option<i64>,
    pub verified: Option<Timestamp>,
    pub document: Option<Container<'a>>,
    pub updated: Option<Timestamp>,
}

/// How the imported row of an address is merged into the stored row.
pub struct Decision {
    pub moves: bool,
    /// A jsonb object. Each of its keys is a key of the stored document whose stored value is kept.
    pub stands: Typed<Jsonb>,
    /// A jsonb object. Each of its keys is a source whose stored state in `_meta` is kept.
    pub states_stand: Typed<Jsonb>,
}

/// Creates the addresses that are missing. The caller passes the addresses in order, and each only once. The networks of these
/// addresses must exist. Returns the created addresses.
pub fn create_addresses(connection: &Connection, known: &[&ImportedAddress]) -> Vec<Address> {
    let times =
        |field: fn(&ImportedAddress) -> Option<Timestamp>| array(known.iter().map(move |known| field(known)));
    let arguments = (
        array(known.iter().map(|known| known.address)),
        array(known.iter().map(|known| known.asn)),
        times(|known| known.verified),
        times(|known| known.first_seen),
        times(|known| known.last_seen),
        array(known.iter().map(|known| known.document)),
        array(known.iter().map(|known| known.states)),
        times(|known| known.updated),
        times(|known| known.created),
        LAYOUT_VERSION,
    );
    CREATE_ADDRESSES.run(connection, arguments, |rows| rows.iter().filter_map(|(address,)| address).collect())
}

/// Locks the existing rows of these addresses in order. Passes these rows to `read`.
pub fn existing<T>(
    connection: &Connection,
    addresses: impl Iterator<Item = Address>,
    read: impl FnOnce(Vec<StoredAddress<'_>>) -> T,
) -> T {
    EXISTING.run(connection, (array(addresses),), |rows| {
        let ours = rows.iter().filter_map(|(address, asn, verified, document, updated)| {
            Some(StoredAddress { address: address?, asn, verified, document, updated })
        });
        read(ours.collect())
    })
}

/// Merges imported values into addresses whose rows are locked. Returns the number of changed rows.
pub fn merge_addresses(connection: &Connection, known: &[(&ImportedAddress, Decision)]) -> i64 {
    if known.is_empty() {
        return 0;
    }
    let times = |field: fn(&ImportedAddress) -> Option<Timestamp>| {
        array(known.iter().map(move |(known, _)| field(known)))
    };
    let arguments = (
        array(known.iter().map(|(known, _)| known.address)),
        array(known.iter().map(|(known, _)| known.asn)),
        times(|known| known.verified),
        times(|known| known.first_seen),
        times(|known| known.last_seen),
        array(known.iter().map(|(known, _)| known.document)),
        array(known.iter().map(|(known, _)| known.states)),
        times(|known| known.updated),
        times(|known| known.created),
        LAYOUT_VERSION,
        array(known.iter().map(|(_, decision)| decision.moves)),
        array(known.iter().map(|(_, decision)| decision.stands)),
        array(known.iter().map(|(_, decision)| decision.states_stand)),
    );
    MERGE_ADDRESSES.run(connection, arguments, |rows| rows.count()) as i64
}

/// An observation: an address was in a network at a given time.
pub struct Observation {
    pub address: Address,
    pub asn: i64,
    pub at: Timestamp,
    pub source: String,
}

/// Writes observations. Returns the number of new observations. Also returns the observations that already exist with another
/// source.
pub fn write_history(connection: &Connection, observations: &[Observation]) -> (i64, Vec<(usize, String)>) {
    if observations.is_empty() {
        return (0, Vec::new());
    }
    let arguments = (
        array(observations.iter().map(|seen| seen.address)),
        array(observations.iter().map(|seen| seen.asn)),
        array(observations.iter().map(|seen| seen.at)),
        array(observations.iter().map(|seen| &seen.source)),
        array((0..).take(observations.len())),
    );
    HISTORY.run(connection, arguments, |rows| {
        let written = rows.first().and_then(|(written, ..)| written);
        let others =
            rows.iter().filter_map(|(_, number, source)| Some((usize::try_from(number?).ok()?, source?)));
        (written.unwrap_or_default(), others.collect())
    })
}
