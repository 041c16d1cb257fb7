//! Builds networks from the documents of addresses. Reads the documents in the key order of the addresses. Writes the networks
//! in the general order of locks.
//!
//! A network is created with the best values of all sources. If an existing network lacks metadata, the metadata are filled
//! from all sources. An address without a network is assigned to a network. The documents may come from any system. If a part
//! of a document is invalid, this part is listed, and the rest of the document is used.

use std::collections::BTreeMap;
use std::ffi::CStr;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::networks::{self, Best, Filled, NetworkFacts, Networks, Origin};
use super::procedure_call::RejectedRow;
use crate::document::legacy::{self, LegacyDocument, LegacyNetwork};
use crate::pg::jsonb::{Container, Value};
use crate::pg::memory;
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Inet, Jsonb, Text, Timestamptz, array};

/// Largest number of addresses that one statement reads or writes. A transaction may have more.
const PAGE: i64 = 10_000;
/// Maximum number of characters of a faulty document that are stored. The user who repairs the document sees these characters.
const SHOWN: usize = 500;

/// An address, its network, its document, and the times when the address was first and last seen.
type Documents = (Inet, Bigint, Jsonb, Timestamptz, Timestamptz);

thread_local! {
    static DOCUMENTS: Statement<(Inet, Bigint), Documents> = const { Statement::new(
        "documents_page", include_str!("../../sql/queries/import/documents_page.sql")) };
    static LEFT: Statement<(Inet,), (Bigint,)> = const { Statement::new(
        "documents_left", include_str!("../../sql/queries/import/documents_left.sql")) };
    static PLACE: Statement<(Array<Inet>, Array<Bigint>, Array<Text>)> = const { Statement::new(
        "addresses_place", include_str!("../../sql/queries/inventory/addresses_place.sql")) };
    static IN_USE: Statement<(), (Bigint,)> = const { Statement::new(
        "networks_in_use", include_str!("../../sql/queries/inventory/networks_in_use.sql")) };
}

/// Forces custom plans, because the best plan for reading depends on the number of rows.
const READING: &[(&CStr, &CStr)] = &[(c"plan_cache_mode", c"force_custom_plan"), (c"jit", c"off")];
/// Forces generic plans, because rows are always written by their keys. With a generic plan, PostgreSQL plans the check of a
/// foreign key only once, although the check runs for each row.
const WRITING: &[(&CStr, &CStr)] = &[(c"plan_cache_mode", c"force_generic_plan"), (c"jit", c"off")];
/// Makes the statement visit rows in the order of their key, because it locks rows in this order. The plan looks up each given
/// row by its key. If most rows of a small table are given, the plan scans the index of the key instead. No other index matches
/// the statement's condition or order.
const IN_ORDER: &[(&CStr, &CStr)] = &[
    (c"enable_hashjoin", c"off"),
    (c"enable_mergejoin", c"off"),
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_indexscan", c"on"),
    (c"enable_nestloop", c"on"),
];

/// The networks that the documents of some addresses name.
#[derive(Default)]
pub struct DocumentBatch {
    networks: BTreeMap<i64, NetworkSources>,
    /// Addresses without a network. Each has the network that its document names, and the source that names this network.
    unplaced: Vec<(Address, i64, &'static str)>,
    pub scanned: i64,
    pub last: Option<Address>,
}

/// The problems in one page of documents.
#[derive(Default)]
pub struct PageRejections {
    pub faulty: Vec<RejectedRow>,
    /// Addresses whose document names no network or cannot be used. Each address is stored with the reason.
    pub skipped: Vec<(Address, String)>,
}

/// The values of a network, separately for each source.
#[derive(Default)]
struct NetworkSources {
    maxmind: NetworkFacts,
    cymru: NetworkFacts,
}

/// The best ranks of the values that were written for each network. There is one rank for the name, one for the country, and
/// one for the registry. A network occurs in many batches. A later batch writes the network only if the batch has a value of a
/// better rank.
#[derive(Default)]
pub struct WrittenRanks(BTreeMap<i64, [u8; 3]>);

/// The networks that were written, and the number of addresses that now have a network.
pub struct NetworkChanges {
    pub created: Vec<i64>,
    pub completed: Vec<i64>,
    pub placed: usize,
}

/// Returns the number of addresses that come after the address `after` in key order.
pub fn left(connection: &Connection, after: Option<Address>) -> i64 {
    let count = || LEFT.first(connection, (after,), |(count,)| count);
    with_settings(READING, count).flatten().unwrap_or_default()
}

/// Returns the number of networks that have addresses.
pub fn in_use(connection: &Connection) -> i64 {
    let count = || IN_USE.first(connection, (), |(count,)| count);
    with_settings(READING, count).flatten().unwrap_or_default()
}

impl DocumentBatch {
    /// Returns an empty batch. Its first read begins after the address `after`.
    pub fn behind(after: Option<Address>) -> DocumentBatch {
        DocumentBatch { last: after, ..DocumentBatch::default() }
    }

    /// Reads the documents of the next addresses. Reads at most `most` addresses, and at most `PAGE` addresses. Returns `None`
    /// if there are no more addresses.
    pub fn read_on(&mut self, connection: &Connection, most: i64) -> Option<PageRejections> {
        let read = || {
            DOCUMENTS.run(connection, (self.last, most.min(PAGE)), |rows| {
                let mut rejections = PageRejections::default();
                let mut documents = rows.iter();
                for _ in 0..rows.count() {
                    // Reading a row decompresses its document into memory, so this memory is freed after each row.
                    memory::scratch(|| {
                        let Some((Some(address), asn, document, first_seen, last_seen)) = documents.next()
                        else {
                            return;
                        };
                        self.add(&mut rejections, address, asn, document, (first_seen, last_seen));
                        self.last = Some(address);
                    });
                }
                self.scanned += rows.count() as i64;
                (rows.count() > 0).then_some(rejections)
            })
        };
        with_settings(READING, read)
    }

    fn add(
        &mut self,
        rejections: &mut PageRejections,
        address: Address,
        current_asn: Option<i64>,
        document: Option<Container<'_>>,
        (first_seen, last_seen): (Option<Timestamp>, Option<Timestamp>),
    ) {
        let mut reading = legacy::read(document);
        // A row that was loaded while foreign keys were disabled may contain any number as its ASN.
        let is_asn = |asn: &i64| (1..=i64::from(u32::MAX)).contains(asn);
        let misplaced = current_asn.filter(|asn| !is_asn(asn));
        if let Some(asn) = misplaced {
            reading.faults.push(format!("current_asn is {asn}, not an ASN"));
        }
        let current_asn = current_asn.filter(is_asn);
        let named = reading.network().filter(|_| misplaced.is_none());
        if let Some(asn) = current_asn.or(named.map(|(asn, _)| asn)) {
            let words = self.networks.entry(asn).or_default();
            words.maxmind.merge(NetworkFacts { first_seen, last_seen, ..NetworkFacts::default() });
            for (source, named) in reading.about(asn) {
                let words = if source == "maxmind" { &mut words.maxmind } else { &mut words.cymru };
                words.merge(source_data(named));
            }
            if let (None, Some((asn, source))) = (current_asn, named) {
                self.unplaced.push((address, asn, source));
            }
        }
        let is_useless = !reading.faults.is_empty() && is_silent(&reading);
        let is_unknown = current_asn.is_none() && named.is_none() && was_asked(document);
        if is_useless || misplaced.is_some() || is_unknown {
            let why = if reading.faults.is_empty() {
                "no source knows the network of the address".to_owned()
            } else {
                reading.faults.join("; ")
            };
            rejections.skipped.push((address, why));
        }
        if !reading.faults.is_empty() {
            rejections.faulty.push(RejectedRow {
                relation: "ip_inventory".to_owned(),
                row_key: address.to_string(),
                reason: reading.faults.join("; "),
                content: document.map(|document| document.json().chars().take(SHOWN).collect()),
            });
        }
    }

    /// Creates missing networks, completes existing ones, and assigns addresses to networks, in this order.
    pub fn write(self, connection: &Connection, written_ranks: &mut WrittenRanks) -> NetworkChanges {
        let (mut new, mut better) = (Networks::new(), BTreeMap::new());
        for (asn, words) in &self.networks {
            let best = words.best();
            if written_ranks.is_new(*asn) {
                new.insert(*asn, words.seen(&best));
            }
            if written_ranks.note(*asn, &best) {
                better.insert(*asn, best);
            }
        }
        with_settings(WRITING, || {
            let origin = |asn| self.origin(asn, &better);
            let created = memory::scratch(|| networks::create_with_origins(connection, &new, origin));
            created.iter().for_each(|asn| drop(better.remove(asn)));
            let completed = memory::scratch(|| networks::complete(connection, &better));
            for chunk in self.unplaced.chunks(PAGE as usize) {
                memory::scratch(|| place(connection, chunk));
            }
            NetworkChanges { created, completed, placed: self.unplaced.len() }
        })
    }

    /// Returns the source that a new network gets, and the source of each field of the network.
    fn origin(&self, asn: i64, better: &BTreeMap<i64, Best>) -> Origin<'static> {
        let network = self.networks.get(&asn).map_or("maxmind", NetworkSources::better);
        let of = |field: fn(&Best) -> &Filled| {
            better.get(&asn).and_then(|best| field(best).as_ref()).map_or(network, |(_, source)| source)
        };
        Origin {
            network,
            name: of(|best| &best.name),
            country: of(|best| &best.country),
            registry: of(|best| &best.registry),
        }
    }
}

impl WrittenRanks {
    fn is_new(&self, asn: i64) -> bool {
        !self.0.contains_key(&asn)
    }

    /// Stores the ranks of these values if they are better than the ranks of the values written before. Returns true if at
    /// least one rank was better.
    fn note(&mut self, asn: i64, best: &Best) -> bool {
        let rank = |field: &Filled, better| match field {
            None => 0,
            Some((_, source)) if *source == better => 2,
            Some(_) => 1,
        };
        let ranks = [(&best.name, "maxmind"), (&best.country, "cymru"), (&best.registry, "cymru")]
            .map(|(field, better)| rank(field, better));
        let known = self.0.entry(asn).or_default();
        let is_better = ranks.iter().zip(known.iter()).any(|(rank, known)| rank > known);
        for (known, rank) in known.iter_mut().zip(ranks) {
            *known = rank.max(*known);
        }
        is_better
    }
}

impl NetworkSources {
    /// Returns the source that a new network gets. This is `cymru` if Team Cymru has values and the mmdb files have no name for
    /// the network. Otherwise it is `maxmind`.
    fn better(&self) -> &'static str {
        if self.maxmind.name.is_some() || is_empty(&self.cymru) { "maxmind" } else { "cymru" }
    }

    /// Returns the best values of the network, and the times when the addresses of the network were first and last seen.
    fn seen(&self, best: &Best) -> NetworkFacts {
        let word = |field: &Filled| field.as_ref().map(|(value, _)| value.clone());
        NetworkFacts {
            name: word(&best.name),
            country: word(&best.country),
            registry: word(&best.registry),
            first_seen: self.maxmind.first_seen,
            last_seen: self.maxmind.last_seen,
            ..NetworkFacts::default()
        }
    }

    fn best(&self) -> Best {
        // For the name, the sources have another order of precedence. The SQL function `name_rank` defines this order.
        let of = |source_data: &NetworkFacts,
                  field: fn(&NetworkFacts) -> &Option<String>,
                  source|
         -> Filled { field(source_data).clone().map(|value| (value, source)) };
        let either = |field| of(&self.cymru, field, "cymru").or_else(|| of(&self.maxmind, field, "maxmind"));
        let name = of(&self.maxmind, |facts| &facts.name, "maxmind");
        Best {
            name: name.or_else(|| of(&self.cymru, |facts| &facts.name, "cymru")),
            country: either(|facts| &facts.country),
            registry: either(|facts| &facts.registry),
        }
    }
}

fn source_data(named: &LegacyNetwork) -> NetworkFacts {
    NetworkFacts {
        name: named.name.clone(),
        country: named.country.clone(),
        registry: named.registry.map(str::to_owned),
        ..NetworkFacts::default()
    }
}

fn is_empty(source_data: &NetworkFacts) -> bool {
    source_data.name.is_none() && source_data.country.is_none() && source_data.registry.is_none()
}

fn is_silent(reading: &LegacyDocument) -> bool {
    reading.maxmind == LegacyNetwork::default() && reading.cymru == LegacyNetwork::default()
}

/// Returns true if MaxMind or Team Cymru has answered about the address. The answer that no network is known counts, too.
fn was_asked(document: Option<Container<'_>>) -> bool {
    let Some(document) = document else { return false };
    let meta = document.object("_meta");
    let has = |part: Container<'_>, source| !matches!(part.get(source), None | Some(Value::Null));
    ["maxmind", "cymru"]
        .into_iter()
        .any(|source| has(document, source) || meta.is_some_and(|meta| has(meta, source)))
}

fn place(connection: &Connection, unplaced: &[(Address, i64, &'static str)]) {
    let arguments = (
        array(unplaced.iter().map(|(address, ..)| address)),
        array(unplaced.iter().map(|(_, asn, _)| asn)),
        array(unplaced.iter().map(|(.., source)| *source)),
    );
    with_settings(IN_ORDER, || PLACE.execute(connection, arguments));
}
