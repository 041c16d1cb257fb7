//! Writes data from old sessions into the inventories.
//!
//! A session has an address, a time, and a document with answers of MaxMind, Team Cymru and other sources. For each address and
//! source, the newest answer in all sessions is used. Therefore the result does not depend on the order of batches. This file
//! does not count the sessions. A recount counts them.
//!
//! Up to four transactions write a batch of addresses. Each of these transactions takes its locks in the general order of
//! locks. The first transaction writes the networks that documents name. The second writes networks and addresses from the mmdb
//! files. The third writes MaxMind's answers from the documents of sessions. The fourth writes the answers of the other
//! sources.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::ExtensionOids;
use super::addresses::{self, Inventory};
use super::enrich::{self, LockPolicy, SessionCount};
use super::networks::{self, NetworkFacts, Networks};
use crate::document::enrichment;
use crate::document::legacy::{self, SOURCES};
use crate::mmdb::Databases;
use crate::pg::column::Column;
use crate::pg::jsonb;
use crate::pg::mvcc_snapshot::Latest;
use crate::pg::row::Row;
use crate::pg::scan;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{self, Bigint, Boolean, Bytes, Jsonb, Text, Typed};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{Oid, memory};
use crate::provider::Providers;

type TableColumns = (value::Oid, Bytes, Bytes, Bytes, Bytes, Boolean);

thread_local! {
    static TABLES: Statement<(value::Oid,), TableColumns> = const { Statement::new(
        "backfill_tables", include_str!("../../sql/queries/procedures/backfill_tables.sql")) };
    static ATTACHED: Statement<(value::Oid,), (Bigint,)> = const { Statement::new(
        "backfill_attached", include_str!("../../sql/queries/procedures/backfill_attached.sql")) };
    static NOT_INTACT: Statement<(value::Oid,), (Text,)> = const { Statement::new(
        "table_not_intact", include_str!("../../sql/queries/sessions/table_not_intact.sql")) };
}

/// A table without partitions. Column names are unquoted. The table name is quoted for SQL. All names are in the server's encoding.
pub struct Table {
    pub oid: Oid,
    pub name: Vec<u8>,
    pub ip_column: CString,
    pub time_column: Option<CString>,
    pub key_column: Option<CString>,
    /// True if this partition and its partitioned table have the same owner.
    pub is_of_one_owner: bool,
}

impl Table {
    /// Returns the name for messages.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// Returns a text that identifies a row. If the table has a simple key, this is the key's value. Otherwise it is the tuple id.
pub fn shown_key(row: &Row, key: Option<Column>) -> String {
    let key = key.and_then(|column| scan::shown(row, column));
    key.unwrap_or_else(|| row.tuple_id().text())
}

pub fn is_attached(connection: &Connection, rel: Oid) -> bool {
    ATTACHED.first(connection, (rel,), |(count,)| count > Some(0)) == Some(true)
}

/// Returns a text that says how a table has changed since it was attached. If the table is a partition, the text also includes
/// changes of the attached table. Returns `None` if nothing has changed.
pub fn not_intact_reason(connection: &Connection, rel: Oid) -> Option<String> {
    NOT_INTACT.first(connection, (rel,), |(reason,)| reason).flatten()
}

/// Returns the tables that store the sessions of an attached table.
pub fn tables(connection: &Connection, rel: Oid) -> Vec<Table> {
    let column = |name: Option<Vec<u8>>| CString::new(name?).ok();
    TABLES.run(connection, (rel,), |rows| {
        let tables = rows.iter().filter_map(|(oid, name, ip, time, key, is_of_one_owner)| {
            Some(Table {
                oid: oid?,
                name: name?,
                ip_column: column(ip)?,
                time_column: column(time),
                key_column: column(key),
                is_of_one_owner: is_of_one_owner?,
            })
        });
        tables.collect()
    })
}

/// The positions of these sources in [`SOURCES`].
pub const MAXMIND: usize = 0;
pub const CYMRU: usize = 1;

/// A source's answer in a session's document.
pub struct Quote {
    /// The time when the source was asked.
    pub at: Option<Timestamp>,
    pub words: OwnedVarlena,
    /// The network of the address, if the answer has one.
    pub asn: Option<i64>,
}

/// The data about one address in its sessions: the times when the address was seen, and the newest answer of each source.
#[derive(Default)]
pub struct SessionEvidence {
    pub session_count: SessionCount,
    pub quotes: [Option<Box<Quote>>; SOURCES.len()],
}

impl SessionEvidence {
    /// Returns true if no answer of this source is known, or if `at` is later than the time of the known answer.
    pub fn lacks(&self, source: usize, at: Option<Timestamp>) -> bool {
        self.quotes[source].as_ref().is_none_or(|known| known.at < at)
    }

    fn has_other_than_maxmind(&self) -> bool {
        self.quotes.iter().enumerate().any(|(source, quote)| source != MAXMIND && quote.is_some())
    }
}

/// Maps each address to the data in the sessions of this address. The addresses are in key order, because rows are locked in
/// this order.
pub type Addresses = BTreeMap<Address, SessionEvidence>;

/// Networks that this procedure call has already written, each with the source of its values. The procedure call writes each
/// network once for each source, even if many sessions name the network.
#[derive(Default)]
pub struct HandledNetworks(HashSet<(NetworkSource, i64)>);

/// The source of the values of a network.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum NetworkSource {
    Files,
    /// The values come from the document of a session. The number is the position of their source in [`SOURCES`].
    Document(usize),
}

/// Number of networks to remember. About a hundred thousand networks exist.
const MOST_HANDLED: usize = 200_000;

impl HandledNetworks {
    fn is_new(&mut self, source: NetworkSource, asn: i64) -> bool {
        if self.0.len() >= MOST_HANDLED {
            self.0.clear();
        }
        self.0.insert((source, asn))
    }
}

/// Networks that the documents of sessions name, grouped by source. The old network of an address is included, because stored
/// snapshots refer to it.
#[derive(Default)]
pub struct NamedNetworks {
    by_source: [Networks; 2],
}

impl NamedNetworks {
    /// Adds a network that a session's document names. If the address of the session was in this network, `time` is the time of
    /// the session.
    pub fn add(&mut self, source: usize, named: &legacy::LegacyNetwork, time: Option<Timestamp>) {
        let (Some(networks), Some(asn)) = (self.by_source.get_mut(source), named.asn) else { return };
        let known = networks.entry(asn).or_default();
        let lacking = |known: &Option<String>, source_data: Option<&str>| match known {
            None => source_data.map(str::to_owned),
            Some(_) => None,
        };
        let source_data = NetworkFacts {
            name: lacking(&known.name, named.name.as_deref()),
            country: lacking(&known.country, named.country.as_deref()),
            registry: lacking(&known.registry, named.registry),
            first_seen: time,
            last_seen: time,
            ..NetworkFacts::default()
        };
        known.merge(source_data);
    }

    /// Returns the networks that must be written. If Team Cymru and MaxMind both have a value, Team Cymru's value is used.
    pub fn networks(&self, handled: &mut HandledNetworks) -> Networks {
        let mut networks = Networks::new();
        for source in [CYMRU, MAXMIND] {
            for (asn, source_data) in &self.by_source[source] {
                if handled.is_new(NetworkSource::Document(source), *asn) {
                    networks.entry(*asn).or_default().merge(source_data.clone());
                }
            }
        }
        networks
    }
}

/// Creates networks that are missing, and refines existing networks with the values of one source. Returns the number of
/// created networks.
pub fn write_networks(connection: &Connection, networks: &Networks, source: &str) -> i64 {
    let created = networks::create(connection, networks, source);
    networks::refine(connection, networks, source);
    created
}

/// The changes that were made to the inventory.
#[derive(Default)]
pub struct InventoryChanges {
    pub networks_created: i64,
    /// Created addresses, in key order.
    pub created: Vec<Address>,
    pub renewed: Vec<Address>,
}

/// Creates the addresses that are missing in the inventory. Renews the addresses whose values come from older mmdb files. Also
/// writes the networks of these addresses. All values come from the mmdb files. No provider is asked.
pub fn place(
    oids: ExtensionOids,
    connection: &Connection,
    databases: &Databases,
    (addresses, named): (&Addresses, &NamedNetworks),
    handled: &mut HandledNetworks,
) -> InventoryChanges {
    let latest = Latest::take();
    let seen = addresses.iter().map(|(address, evidence)| (*address, evidence.session_count));
    let plan = enrich::plan(oids, seen, databases, latest.view(), false, Providers::NONE);
    drop(latest);
    let mut networks = enrich::networks_of(&plan, databases);
    networks.retain(|asn, _| handled.is_new(NetworkSource::Files, *asn));
    let networks_created = write_networks(connection, &networks, "maxmind");
    let created = enrich::create_addresses(oids, connection, databases, &plan.missing, Providers::NONE);
    enrich::update_addresses(oids, connection, databases, &plan.due, LockPolicy::Wait, Providers::NONE);
    // All networks are passed, including networks that already exist. A session in this batch may be earlier or later than all
    // known sessions of its network.
    named.by_source.iter().for_each(|networks| networks::append_times(connection, networks));
    InventoryChanges { networks_created, created, renewed: plan.due }
}

/// Selects the answers that a transaction writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum QuoteSelection {
    Maxmind,
    /// The answers of all other sources. No two of these sources write the same part of a document.
    Other,
}

impl QuoteSelection {
    pub fn any(self, addresses: &Addresses) -> bool {
        addresses.values().any(|evidence| self.is_in(evidence))
    }

    fn is_in(self, evidence: &SessionEvidence) -> bool {
        match self {
            QuoteSelection::Maxmind => evidence.quotes[MAXMIND].is_some(),
            QuoteSelection::Other => evidence.has_other_than_maxmind(),
        }
    }

    fn sources(self) -> std::ops::Range<usize> {
        match self {
            QuoteSelection::Maxmind => MAXMIND..MAXMIND + 1,
            QuoteSelection::Other => CYMRU..SOURCES.len(),
        }
    }

    /// Returns the source that determines the network of an address.
    fn leader(self) -> usize {
        match self {
            QuoteSelection::Maxmind => MAXMIND,
            QuoteSelection::Other => CYMRU,
        }
    }
}

/// Number of addresses that one statement processes. Other code that writes addresses uses the same number.
const CHUNK: usize = 2_000;

/// Writes answers from the documents of sessions into the inventory. If the inventory has a better answer, keeps this answer.
pub fn write_quotes(
    oids: ExtensionOids,
    connection: &Connection,
    databases: &Databases,
    addresses: &Addresses,
    which: QuoteSelection,
) {
    let quoted: Vec<(&Address, &SessionEvidence)> =
        addresses.iter().filter(|(_, evidence)| which.is_in(evidence)).collect();
    for chunk in quoted.chunks(CHUNK) {
        memory::scratch(|| {
            let latest = Latest::take();
            let mut inventory = Inventory::open(oids, latest.view());
            let answers: Vec<(Address, Option<i64>, Typed<Jsonb>)> = chunk
                .iter()
                .filter_map(|(address, evidence)| {
                    let news = inventory.probe(**address, |row| news(row, evidence, which))?;
                    let (asn, document) = answer(evidence, &news, which, databases)?;
                    Some((**address, asn, document))
                })
                .collect();
            drop(inventory);
            drop(latest);
            enrich::write_answers(connection, SOURCES[which.leader()], &answers);
        });
    }
}

/// Compares the answers in documents of sessions with a row of the inventory. Returns the sources whose answer in a session is
/// better than the answer in the row.
fn news(row: &Row, evidence: &SessionEvidence, which: QuoteSelection) -> Vec<usize> {
    let Some(document) = addresses::document(row) else { return Vec::new() };
    // A bogon has no network, even if an old document names one.
    if enrichment::is_bogon(document) {
        return Vec::new();
    }
    let was_announced = |source: &usize| {
        evidence.quotes[*source].as_ref().is_some_and(|quote| match *source {
            // If the inventory has an answer from this server's own mmdb files, that answer is usually better than an answer in
            // a session.
            MAXMIND => {
                let has_none = document.object(SOURCES[MAXMIND]).is_none();
                has_none
                    || (enrichment::is_placed_by_others(document)
                        && enrichment::was_announced(document, SOURCES[MAXMIND], quote.at))
            }
            source => enrichment::was_announced(document, SOURCES[source], quote.at),
        })
    };
    which.sources().filter(was_announced).collect()
}

fn answer(
    evidence: &SessionEvidence,
    news: &[usize],
    which: QuoteSelection,
    databases: &Databases,
) -> Option<(Option<i64>, Typed<Jsonb>)> {
    let quotes: Vec<(usize, &Quote)> =
        news.iter().filter_map(|source| Some((*source, evidence.quotes[*source].as_deref()?))).collect();
    if quotes.is_empty() {
        return None;
    }
    let leading = quotes.iter().find(|(source, _)| *source == which.leader());
    let asn = leading.and_then(|(_, quote)| quote.asn);
    let parts: Vec<_> = quotes
        .iter()
        .map(|(source, quote)| (SOURCES[*source], jsonb::container(&quote.words), quote.at))
        .collect();
    let builds = (!databases.is_empty()).then(|| databases.builds());
    Some((asn, enrichment::kept_by_others(&parts, builds)))
}

/// Queues lookups for new and renewed addresses at the providers that have never answered about them. Expired answers are not
/// renewed, because most old addresses never return.
pub fn ask(oids: ExtensionOids, placed: &InventoryChanges) {
    let online = Providers::enabled();
    if online.is_empty() {
        return;
    }
    let latest = Latest::take();
    let mut inventory = Inventory::open(oids, latest.view());
    let mut lookups = Vec::new();
    for chunk in [&placed.created, &placed.renewed].into_iter().flat_map(|addresses| addresses.chunks(CHUNK))
    {
        memory::scratch(|| {
            for address in chunk {
                let unasked = inventory
                    .probe(*address, |row| addresses::unasked_providers(row, online))
                    .unwrap_or(Providers::NONE);
                lookups.extend(enrich::able(*address, unasked));
            }
        });
    }
    drop(inventory);
    drop(latest);
    enrich::request(oids, lookups);
}

/// The current values of an address in the inventory. They are written into the sessions of this address.
pub struct InventoryValues {
    pub asn: Option<i64>,
    pub country: Option<String>,
    pub ip_type: Option<String>,
    /// The document without its key `_meta`.
    pub document: OwnedVarlena,
}

/// Returns the current values of these addresses in the inventory. The result does not contain bogons and unknown addresses.
pub fn known(
    oids: ExtensionOids,
    databases: &Databases,
    addresses: &[Address],
) -> HashMap<Address, InventoryValues> {
    let latest = Latest::take();
    let read = |row: &Row| {
        let document = addresses::document(row).filter(|document| !enrichment::is_bogon(*document))?;
        let known = addresses::read_known(row, databases);
        if known.asn.is_none() && known.country.is_none() && known.ip_type.is_none() {
            return None;
        }
        Some(InventoryValues {
            asn: known.asn,
            country: known.country.map(enrichment::country_text),
            ip_type: known.ip_type,
            document: jsonb::owned_without(document, "_meta"),
        })
    };
    let mut all = HashMap::with_capacity(addresses.len());
    for chunk in addresses.chunks(CHUNK) {
        memory::scratch(|| {
            // The inventory is opened again for each chunk, because an index scan frees its memory only when the scan ends.
            let mut inventory = Inventory::open(oids, latest.view());
            for address in chunk {
                if let Some(known) = inventory.probe(*address, read).flatten() {
                    all.insert(*address, known);
                }
            }
        });
    }
    all
}

/// Returns true if the inventory has the address.
pub fn has(inventory: &mut Inventory, address: Address) -> bool {
    inventory.probe(address, |_| ()).is_some()
}
