//! Taking over what another system stored: its tables are read as their owners, ours are written as the extension's.
//!
//! Nothing is written twice: whoever imports the same again changes nothing. What both know stands as we have it, unless
//! theirs is newer, or from a better source.

pub mod sessions;
pub mod source;

use cowrie_enrich_engine::address::Address;
use pgrx::pg_sys;

use crate::document::enrichment::LAYOUT_VERSION;
use crate::pg::array::{self, Element};
use crate::pg::jsonb::Container;
use crate::pg::spi::{Connection, Statement};
use crate::pg::{inet, text};
use crate::telemetry::{self, Source, Update};

const NETWORK_TYPES: [pg_sys::Oid; 15] = [
    pg_sys::INT8ARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::TEXTARRAYOID,
    pg_sys::BOOLARRAYOID,
    pg_sys::BOOLARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::JSONBARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
];

const ADDRESS_TYPES: [pg_sys::Oid; 13] = [
    pg_sys::INETARRAYOID,
    pg_sys::INT8ARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::JSONBARRAYOID,
    pg_sys::JSONBARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::TIMESTAMPTZARRAYOID,
    pg_sys::TEXTOID,
    pg_sys::BOOLARRAYOID,
    pg_sys::JSONBARRAYOID,
    pg_sys::JSONBARRAYOID,
];

thread_local! {
    static CREATE_NETWORKS: Statement = const { Statement::new(
        "import_networks_create", include_str!("../../../sql/queries/import/import_networks_create.sql"), &NETWORK_TYPES) };
    static FILL_NETWORKS: Statement = const { Statement::new(
        "import_networks_fill", include_str!("../../../sql/queries/import/import_networks_fill.sql"), &NETWORK_TYPES) };
    static CREATE_ADDRESSES: Statement = const { Statement::new(
        "import_addresses_create", include_str!("../../../sql/queries/import/import_addresses_create.sql"),
        ADDRESS_TYPES.split_at(10).0) };
    static STANDING: Statement = const { Statement::new(
        "import_addresses_standing", include_str!("../../../sql/queries/import/import_addresses_standing.sql"),
        &[pg_sys::INETARRAYOID]) };
    static MERGE_ADDRESSES: Statement = const { Statement::new(
        "import_addresses_merge", include_str!("../../../sql/queries/import/import_addresses_merge.sql"), &ADDRESS_TYPES) };
    static HISTORY: Statement = const { Statement::new(
        "import_history", include_str!("../../../sql/queries/import/import_history.sql"),
        &[pg_sys::INETARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::TIMESTAMPTZARRAYOID, pg_sys::TEXTARRAYOID,
          pg_sys::INT8ARRAYOID]) };
}

/// A value of a network's metadata, and the source that says so.
pub type Sourced = Option<(String, &'static str)>;

/// What another inventory says of a network.
pub struct Network {
    pub asn: i64,
    pub name: Sourced,
    pub country: Sourced,
    pub registry: Sourced,
    pub asn_type: Option<&'static str>,
    pub is_hosting: bool,
    pub is_vpn: bool,
    pub first_seen: Option<i64>,
    pub last_seen: Option<i64>,
    /// A jsonb object.
    pub document: pg_sys::Datum,
    pub updated: Option<i64>,
    pub created: Option<i64>,
}

/// Writes networks, given in order and each once; answers how many rows changed.
pub fn write_networks(connection: &Connection, networks: &[Network]) -> i64 {
    if networks.is_empty() {
        return 0;
    }
    let arguments = network_arguments(networks);
    let created = CREATE_NETWORKS.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            for row in 0..rows.count {
                let (country, registry) = (rows.text(row, 2), rows.text(row, 3));
                telemetry::network_created(Source::Import, country.as_deref(), registry.as_deref());
            }
            rows.count
        })
    });
    let filled = FILL_NETWORKS.with(|statement| connection.run(statement, &arguments, |rows| rows.count));
    telemetry::networks_updated(Source::Import, Update::Metadata, filled);
    (created + filled) as i64
}

fn network_arguments(networks: &[Network]) -> Vec<Option<pg_sys::Datum>> {
    let of = |element, field: &dyn Fn(&Network) -> Option<pg_sys::Datum>| {
        Some(array::write(element, networks.iter().map(field)))
    };
    let value = |sourced: &Sourced| sourced.as_ref().map(|(value, _)| text::write(value));
    let source = |sourced: &Sourced| sourced.as_ref().map(|(_, source)| text::write(source));
    vec![
        of(Element::Bigint, &|network| Some(network.asn.into())),
        of(Element::Text, &|network| value(&network.name)),
        of(Element::Text, &|network| value(&network.country)),
        of(Element::Text, &|network| value(&network.registry)),
        of(Element::Text, &|network| source(&network.name)),
        of(Element::Text, &|network| source(&network.country)),
        of(Element::Text, &|network| source(&network.registry)),
        of(Element::Text, &|network| network.asn_type.map(text::write)),
        of(Element::Boolean, &|network| Some(network.is_hosting.into())),
        of(Element::Boolean, &|network| Some(network.is_vpn.into())),
        of(Element::Timestamptz, &|network| network.first_seen.map(pg_sys::Datum::from)),
        of(Element::Timestamptz, &|network| network.last_seen.map(pg_sys::Datum::from)),
        of(Element::Jsonb, &|network| Some(network.document)),
        of(Element::Timestamptz, &|network| network.updated.map(pg_sys::Datum::from)),
        of(Element::Timestamptz, &|network| network.created.map(pg_sys::Datum::from)),
    ]
}

/// What another inventory says of an address.
pub struct Known {
    pub address: Address,
    pub asn: Option<i64>,
    pub verified: Option<i64>,
    pub first_seen: Option<i64>,
    pub last_seen: Option<i64>,
    /// A jsonb object.
    pub document: pg_sys::Datum,
    /// What belongs into its `_meta`.
    pub states: pg_sys::Datum,
    pub updated: Option<i64>,
    pub created: Option<i64>,
}

/// What we know of an address, valid inside the closure that it is handed to.
pub struct Ours<'a> {
    pub address: Address,
    pub asn: Option<i64>,
    pub verified: Option<i64>,
    pub document: Option<Container<'a>>,
    pub updated: Option<i64>,
}

/// What becomes of what both know.
pub struct Decision {
    pub moves: bool,
    /// jsonb objects whose keys stand as we have them: of the document, and of its `_meta`.
    pub stands: pg_sys::Datum,
    pub states_stand: pg_sys::Datum,
}

/// Creates those addresses that we have not, given in order and each once; answers which. Their networks must be there.
pub fn create_addresses(connection: &Connection, known: &[&Known]) -> Vec<Address> {
    let arguments = address_arguments(known);
    CREATE_ADDRESSES.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            (0..rows.count).filter_map(|row| rows.address(row, 1)).collect()
        })
    })
}

/// Hands over what we know of addresses, in order; their rows are locked.
pub fn standing<T>(
    connection: &Connection,
    addresses: impl Iterator<Item = Address>,
    read: impl FnOnce(Vec<Ours<'_>>) -> T,
) -> T {
    let addresses = array::inets(addresses);
    STANDING.with(|statement| {
        connection.run(statement, &[Some(addresses)], |rows| {
            let ours = |row| {
                Some(Ours {
                    address: rows.address(row, 1)?,
                    asn: rows.bigint(row, 2),
                    verified: rows.bigint(row, 3),
                    document: rows.jsonb(row, 4),
                    updated: rows.bigint(row, 5),
                })
            };
            read((0..rows.count).filter_map(ours).collect())
        })
    })
}

/// Merges what is known elsewhere into addresses of ours, whose rows are locked; answers how many changed.
pub fn merge_addresses(connection: &Connection, known: &[(&Known, Decision)]) -> i64 {
    if known.is_empty() {
        return 0;
    }
    let of = |element, field: &dyn Fn(&Decision) -> pg_sys::Datum| {
        Some(array::write(element, known.iter().map(|(_, decision)| Some(field(decision)))))
    };
    let mut arguments = address_arguments(&known.iter().map(|(known, _)| *known).collect::<Vec<_>>());
    arguments.extend([
        of(Element::Boolean, &|decision| decision.moves.into()),
        of(Element::Jsonb, &|decision| decision.stands),
        of(Element::Jsonb, &|decision| decision.states_stand),
    ]);
    MERGE_ADDRESSES.with(|statement| connection.run(statement, &arguments, |rows| rows.count)) as i64
}

fn address_arguments(known: &[&Known]) -> Vec<Option<pg_sys::Datum>> {
    let of = |element, field: &dyn Fn(&Known) -> Option<pg_sys::Datum>| {
        Some(array::write(element, known.iter().map(|known| field(known))))
    };
    let time = |field: fn(&Known) -> Option<i64>| {
        of(Element::Timestamptz, &move |known| field(known).map(pg_sys::Datum::from))
    };
    vec![
        of(Element::Inet, &|known| Some(inet::write(known.address))),
        of(Element::Bigint, &|known| known.asn.map(pg_sys::Datum::from)),
        time(|known| known.verified),
        time(|known| known.first_seen),
        time(|known| known.last_seen),
        of(Element::Jsonb, &|known| Some(known.document)),
        of(Element::Jsonb, &|known| Some(known.states)),
        time(|known| known.updated),
        time(|known| known.created),
        Some(text::write(LAYOUT_VERSION)),
    ]
}

/// That an address was in a network.
pub struct Observation {
    pub address: Address,
    pub asn: i64,
    pub at: i64,
    pub source: String,
}

/// Writes observations; answers how many were new, and which are there already from another source.
pub fn write_history(connection: &Connection, observations: &[Observation]) -> (i64, Vec<(usize, String)>) {
    if observations.is_empty() {
        return (0, Vec::new());
    }
    let of = |element, field: &dyn Fn(&Observation) -> pg_sys::Datum| {
        Some(array::write(element, observations.iter().map(|seen| Some(field(seen)))))
    };
    let numbers = array::write(Element::Bigint, (0..observations.len()).map(|n| Some((n as i64).into())));
    let arguments = [
        of(Element::Inet, &|seen| inet::write(seen.address)),
        of(Element::Bigint, &|seen| seen.asn.into()),
        of(Element::Timestamptz, &|seen| seen.at.into()),
        of(Element::Text, &|seen| text::write(&seen.source)),
        Some(numbers),
    ];
    HISTORY.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let other = |row| Some((usize::try_from(rows.bigint(row, 2)?).ok()?, rows.text(row, 3)?));
            (rows.bigint(0, 1).unwrap_or_default(), (0..rows.count).filter_map(other).collect())
        })
    })
}
