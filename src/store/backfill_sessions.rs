//! What old sessions say of addresses and networks, written into the inventories.
//!
//! Sessions bring addresses, the times at which they were seen, and documents with what others paid for: answers of
//! MaxMind, Team Cymru and further sources. Of each source the newest answer counts, whichever session had it, so that the
//! result does not depend on the order of batches. Sessions are not counted here: that is the recount's.
//!
//! A batch of addresses is written by up to four transactions, each of which keeps the order of locks by itself: networks
//! that documents name; networks and addresses that the files know; quotes of MaxMind; quotes of other sources.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;

use cowrie_enrich_engine::address::Address;

use super::Home;
use super::addresses::{self, Inventory};
use super::enrich::{self, Locked, SessionCount};
use super::networks::{self, NetworkFacts, Networks};
use crate::document::enrichment;
use crate::document::legacy::{self, SOURCES};
use crate::mmdb::Databases;
use crate::pg::column::Column;
use crate::pg::jsonb;
use crate::pg::kept::Kept;
use crate::pg::relation::Row;
use crate::pg::scan;
use crate::pg::snapshot::Latest;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{self, Bigint, Boolean, Bytes, Jsonb, Text, Typed};
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

/// A table without partitions. The names of columns are as they are, that of the table as SQL wants it, all in the
/// server's encoding.
pub struct Table {
    pub oid: Oid,
    pub name: Vec<u8>,
    pub ip_column: CString,
    pub time_column: Option<CString>,
    pub key_column: Option<CString>,
    /// Whether it belongs to whom its partitioned table belongs.
    pub is_of_one_owner: bool,
}

impl Table {
    /// For messages.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// What finds a row again: its key where it has a simple one, else its place.
pub fn shown_key(row: &Row, key: Option<Column>) -> String {
    let key = key.and_then(|column| scan::shown(row, column));
    key.unwrap_or_else(|| row.place().text())
}

pub fn is_attached(connection: &Connection, rel: Oid) -> bool {
    ATTACHED.first(connection, (rel,), |(count,)| count > Some(0)) == Some(true)
}

/// Why a table, or the attached table that it is a partition of, is not as it was attached.
pub fn not_intact_reason(connection: &Connection, rel: Oid) -> Option<String> {
    NOT_INTACT.first(connection, (rel,), |(reason,)| reason).flatten()
}

/// The tables that an attached table's sessions are in.
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

/// Positions in [`SOURCES`].
pub const MAXMIND: usize = 0;
pub const CYMRU: usize = 1;

/// What a session's document quotes of a source.
pub struct Quote {
    /// When the source was asked, microseconds since 2000.
    pub at: Option<i64>,
    pub words: Kept,
    /// Where the address belongs, if it says so.
    pub asn: Option<i64>,
}

/// What sessions say of one address: when it was seen, and the newest quote of each source.
#[derive(Default)]
pub struct SessionEvidence {
    pub tally: SessionCount,
    pub quotes: [Option<Box<Quote>>; SOURCES.len()],
}

impl SessionEvidence {
    /// Whether a quote of that time is news.
    pub fn lacks(&self, source: usize, at: Option<i64>) -> bool {
        self.quotes[source].as_ref().is_none_or(|known| known.at < at)
    }

    fn has_other_than_maxmind(&self) -> bool {
        self.quotes.iter().enumerate().any(|(source, quote)| source != MAXMIND && quote.is_some())
    }
}

/// In the order of locks.
pub type Addresses = BTreeMap<Address, SessionEvidence>;

/// Networks that this call has seen to, by source: what is said of them again and again is looked at once.
#[derive(Default)]
pub struct HandledNetworks(HashSet<(NetworkSource, i64)>);

/// The origin of a network's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum NetworkSource {
    Files,
    /// A document that quotes the source at this position.
    Document(usize),
}

/// Networks that are remembered; there are some hundred thousand in the world.
const MOST_SETTLED: usize = 200_000;

impl HandledNetworks {
    fn is_new(&mut self, source: NetworkSource, asn: i64) -> bool {
        if self.0.len() >= MOST_SETTLED {
            self.0.clear();
        }
        self.0.insert((source, asn))
    }
}

/// Networks that sessions name, by source: also those that their addresses have left since, for the snapshots point there.
#[derive(Default)]
pub struct NamedNetworks {
    by_source: [Networks; 2],
}

impl NamedNetworks {
    /// What a session says of a network, and when it was, if it was there that it came from.
    pub fn add(&mut self, source: usize, named: &legacy::Named, time: Option<i64>) {
        let (Some(networks), Some(asn)) = (self.by_source.get_mut(source), named.asn) else { return };
        let known = networks.entry(asn).or_default();
        let lacking = |known: &Option<String>, said: Option<&str>| match known {
            None => said.map(str::to_owned),
            Some(_) => None,
        };
        let said = NetworkFacts {
            name: lacking(&known.name, named.name.as_deref()),
            country: lacking(&known.country, named.country.as_deref()),
            registry: lacking(&known.registry, named.registry),
            first_seen: time,
            last_seen: time,
        };
        known.merge(said);
    }

    /// Those that are to be written. Team Cymru's words come before MaxMind's.
    pub fn networks(&self, settled: &mut HandledNetworks) -> Networks {
        let mut networks = Networks::new();
        for source in [CYMRU, MAXMIND] {
            for (asn, said) in &self.by_source[source] {
                if settled.is_new(NetworkSource::Document(source), *asn) {
                    networks.entry(*asn).or_default().merge(said.clone());
                }
            }
        }
        networks
    }
}

/// Creates and refines networks, all as one source says; answers how many were created.
pub fn write_networks(connection: &Connection, networks: &Networks, source: &str) -> i64 {
    let created = networks::create(connection, networks, source);
    networks::refine(connection, networks, source);
    created
}

/// What was written.
#[derive(Default)]
pub struct InventoryChanges {
    pub networks_created: i64,
    /// In key order.
    pub created: Vec<Address>,
    pub renewed: Vec<Address>,
}

/// Creates those addresses that the inventory lacks and renews those that are due, from the files, with their networks.
/// Nobody is asked yet.
pub fn place(
    home: Home,
    connection: &Connection,
    databases: &Databases,
    (addresses, named): (&Addresses, &NamedNetworks),
    settled: &mut HandledNetworks,
) -> InventoryChanges {
    let latest = Latest::take();
    let seen = addresses.iter().map(|(address, evidence)| (*address, evidence.tally));
    let plan = enrich::plan(home, seen, databases, latest.view(), false, Providers::NONE);
    drop(latest);
    let mut networks = enrich::networks_of(&plan, databases);
    networks.retain(|asn, _| settled.is_new(NetworkSource::Files, *asn));
    let networks_created = write_networks(connection, &networks, "maxmind");
    let created = enrich::create_addresses(home, connection, databases, &plan.missing, Providers::NONE);
    enrich::update_addresses(home, connection, databases, &plan.due, Locked::Wait, Providers::NONE);
    // That they were seen is not news of the first session alone.
    named.by_source.iter().for_each(|networks| networks::append_times(connection, networks));
    InventoryChanges { networks_created, created, renewed: plan.due }
}

/// Which quotes a transaction writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum QuoteSelection {
    Maxmind,
    /// Whatever is there beside: their words never concern the same part of a document.
    Others,
}

impl QuoteSelection {
    pub fn any(self, addresses: &Addresses) -> bool {
        addresses.values().any(|evidence| self.is_in(evidence))
    }

    fn is_in(self, evidence: &SessionEvidence) -> bool {
        match self {
            QuoteSelection::Maxmind => evidence.quotes[MAXMIND].is_some(),
            QuoteSelection::Others => evidence.has_other_than_maxmind(),
        }
    }

    fn sources(self) -> std::ops::Range<usize> {
        match self {
            QuoteSelection::Maxmind => MAXMIND..MAXMIND + 1,
            QuoteSelection::Others => CYMRU..SOURCES.len(),
        }
    }

    /// Who may say where an address belongs.
    fn leader(self) -> usize {
        match self {
            QuoteSelection::Maxmind => MAXMIND,
            QuoteSelection::Others => CYMRU,
        }
    }
}

/// Addresses per statement, as for other writers.
const CHUNK: usize = 2_000;

/// Adds to the inventory what sessions quote and it does not know better.
pub fn write_quotes(
    home: Home,
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
            let mut inventory = Inventory::open(home, latest.view());
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

/// The sources whose quotes are news to a row.
fn news(row: &Row, evidence: &SessionEvidence, which: QuoteSelection) -> Vec<usize> {
    let Some(document) = addresses::document(row) else { return Vec::new() };
    // A bogon has no network, whatever somebody was once told.
    if enrichment::is_bogon(document) {
        return Vec::new();
    }
    let is_news = |source: &usize| {
        evidence.quotes[*source].as_ref().is_some_and(|quote| match *source {
            // This server's own files know better.
            MAXMIND => {
                let has_none = document.object(SOURCES[MAXMIND]).is_none();
                has_none
                    || (enrichment::is_placed_by_others(document)
                        && enrichment::is_news(document, SOURCES[MAXMIND], quote.at))
            }
            source => enrichment::is_news(document, SOURCES[source], quote.at),
        })
    };
    which.sources().filter(is_news).collect()
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
        .map(|(source, quote)| (SOURCES[*source], jsonb::of_kept(&quote.words), quote.at))
        .collect();
    let builds = (!databases.is_empty()).then(|| databases.builds());
    Some((asn, enrichment::kept_by_others(&parts, builds)))
}

/// Has those sources asked about new and renewed addresses that never had their say. What is past its lifetime is not
/// asked for here: most old addresses never come back.
pub fn ask(home: Home, placed: &InventoryChanges) {
    let online = Providers::enabled();
    if online.is_empty() {
        return;
    }
    let latest = Latest::take();
    let mut inventory = Inventory::open(home, latest.view());
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
    enrich::request(home, lookups);
}

/// What the inventory knows now of an address, for its sessions.
pub struct InventoryValues {
    pub asn: Option<i64>,
    pub country: Option<String>,
    pub ip_type: Option<String>,
    /// Without `_meta`.
    pub document: Kept,
}

/// What is known of these addresses; of bogons and unknown ones nothing.
pub fn known(home: Home, databases: &Databases, addresses: &[Address]) -> HashMap<Address, InventoryValues> {
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
            document: jsonb::keep_without(document, "_meta"),
        })
    };
    let mut all = HashMap::with_capacity(addresses.len());
    for chunk in addresses.chunks(CHUNK) {
        memory::scratch(|| {
            // Opened in here: the scan allocates as it goes, and frees that when it ends.
            let mut inventory = Inventory::open(home, latest.view());
            for address in chunk {
                if let Some(known) = inventory.probe(*address, read).flatten() {
                    all.insert(*address, known);
                }
            }
        });
    }
    all
}

/// Whether the inventory has an address.
pub fn has(inventory: &mut Inventory, address: Address) -> bool {
    inventory.probe(address, |_| ()).is_some()
}
