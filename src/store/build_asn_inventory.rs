//! Networks that the documents of addresses name: read in key order, then written down in the order of locks.
//!
//! A network is created with the best word on it, its metadata are filled from all, and addresses without a network are
//! placed. Documents may be anybody's: what makes no sense is listed, and the rest is used.

use std::collections::BTreeMap;
use std::ffi::CStr;

use cowrie_enrich_engine::address::Address;

use super::calls::Rejected;
use super::networks::{self, Best, Filled, NetworkFacts, Networks, Origin};
use crate::document::legacy::{self, Named, Reading};
use crate::pg::jsonb::{Container, Value};
use crate::pg::memory;
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Inet, Jsonb, Text, Timestamptz, array};

/// Addresses read, or placed, by one statement, whatever a transaction comprises.
const PAGE: i64 = 10_000;
/// Characters of a document that are shown to whoever repairs it.
const SHOWN: usize = 500;

/// An address, its network, its document, and when it was first and last seen.
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

/// How many rows are asked for decides how they are read.
const READING: &[(&CStr, &CStr)] = &[(c"plan_cache_mode", c"force_custom_plan"), (c"jit", c"off")];
/// Rows are written by their keys, however many they are; and the plan of a foreign key's check, which is run for each, is
/// made once.
const WRITING: &[(&CStr, &CStr)] = &[(c"plan_cache_mode", c"force_generic_plan"), (c"jit", c"off")];
/// Rows are come to, and hence locked, in the order of their key: one by one as they are given, or, where they are most of a
/// table of a few, by a walk along the key's index. No other index knows a condition or an order of the statement's.
const IN_ORDER: &[(&CStr, &CStr)] = &[
    (c"enable_hashjoin", c"off"),
    (c"enable_mergejoin", c"off"),
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_indexscan", c"on"),
    (c"enable_nestloop", c"on"),
];

/// What the documents of some addresses say.
#[derive(Default)]
pub struct DocumentBatch {
    networks: BTreeMap<i64, NetworkSources>,
    /// Addresses without a network, each with the one that its document names, and who says so.
    unplaced: Vec<(Address, i64, &'static str)>,
    pub scanned: i64,
    pub last: Option<Address>,
}

/// What one page of them is noted for.
#[derive(Default)]
pub struct PageRejections {
    pub faulty: Vec<Rejected>,
    /// Addresses that gave no network, or whose document is of no use, and why.
    pub skipped: Vec<(Address, String)>,
}

/// What each source says of a network.
#[derive(Default)]
struct NetworkSources {
    maxmind: NetworkFacts,
    cymru: NetworkFacts,
}

/// How good a word on a network's name, country and registry has been written down so far. A network is in many batches,
/// and few of them know better.
#[derive(Default)]
pub struct WrittenRanks(BTreeMap<i64, [u8; 3]>);

/// Which networks were written, and how many addresses placed.
pub struct NetworkChanges {
    pub created: Vec<i64>,
    pub completed: Vec<i64>,
    pub placed: usize,
}

/// Addresses from behind `after` on.
pub fn left(connection: &Connection, after: Option<Address>) -> i64 {
    let count = || LEFT.first(connection, (after,), |(count,)| count);
    with_settings(READING, count).flatten().unwrap_or_default()
}

/// Networks that addresses are in.
pub fn in_use(connection: &Connection) -> i64 {
    let count = || IN_USE.first(connection, (), |(count,)| count);
    with_settings(READING, count).flatten().unwrap_or_default()
}

impl DocumentBatch {
    /// Nothing yet, from behind `after` on.
    pub fn behind(after: Option<Address>) -> DocumentBatch {
        DocumentBatch { last: after, ..DocumentBatch::default() }
    }

    /// Reads the documents of the next addresses, `most` at most and no more than one statement should; `None` when there
    /// are none.
    pub fn read_on(&mut self, connection: &Connection, most: i64) -> Option<PageRejections> {
        let read = || {
            DOCUMENTS.run(connection, (self.last, most.min(PAGE)), |rows| {
                let mut rejections = PageRejections::default();
                let mut documents = rows.iter();
                for _ in 0..rows.count() {
                    // Reading a row detoasts its document: one at a time.
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
        (first_seen, last_seen): (Option<i64>, Option<i64>),
    ) {
        let mut reading = legacy::read(document);
        // Rows that were loaded while foreign keys were off may hold anything.
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
                words.merge(said(named));
            }
            if let (None, Some((asn, source))) = (current_asn, named) {
                self.unplaced.push((address, asn, source));
            }
        }
        let is_useless = !reading.faults.is_empty() && is_silent(&reading);
        let is_unknown = current_asn.is_none() && named.is_none() && was_asked(document);
        if is_useless || misplaced.is_some() || is_unknown {
            let why = if reading.faults.is_empty() {
                "no source names its network".to_owned()
            } else {
                reading.faults.join("; ")
            };
            rejections.skipped.push((address, why));
        }
        if !reading.faults.is_empty() {
            rejections.faulty.push(Rejected {
                relation: "ip_inventory".to_owned(),
                row_key: address.to_string(),
                reason: reading.faults.join("; "),
                content: document.map(|document| document.json().chars().take(SHOWN).collect()),
            });
        }
    }

    /// Networks that are missing, networks that lack something, addresses without a network: in this order.
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
            let created = memory::scratch(|| networks::create_known(connection, &new, origin));
            created.iter().for_each(|asn| drop(better.remove(asn)));
            let completed = memory::scratch(|| networks::complete(connection, &better));
            for chunk in self.unplaced.chunks(PAGE as usize) {
                memory::scratch(|| place(connection, chunk));
            }
            NetworkChanges { created, completed, placed: self.unplaced.len() }
        })
    }

    /// Who a new network is known from, and who each of its fields.
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

    /// Whether there is a better word in this for any of the network's fields.
    fn note(&mut self, asn: i64, best: &Best) -> bool {
        let rank = |field: &Filled| match field {
            None => 0,
            Some((_, "cymru")) => 2,
            Some(_) => 1,
        };
        let ranks = [&best.name, &best.country, &best.registry].map(rank);
        let known = self.0.entry(asn).or_default();
        let is_better = ranks.iter().zip(known.iter()).any(|(rank, known)| rank > known);
        for (known, rank) in known.iter_mut().zip(ranks) {
            *known = rank.max(*known);
        }
        is_better
    }
}

impl NetworkSources {
    /// The source that a network is created with: the one that knows its name, Team Cymru first.
    fn better(&self) -> &'static str {
        let of_maxmind = self.cymru.name.is_none() && self.maxmind.name.is_some();
        if of_maxmind || is_empty(&self.cymru) { "maxmind" } else { "cymru" }
    }

    /// The best words, and when the network's addresses were seen.
    fn seen(&self, best: &Best) -> NetworkFacts {
        let word = |field: &Filled| field.as_ref().map(|(value, _)| value.clone());
        NetworkFacts {
            name: word(&best.name),
            country: word(&best.country),
            registry: word(&best.registry),
            first_seen: self.maxmind.first_seen,
            last_seen: self.maxmind.last_seen,
        }
    }

    fn best(&self) -> Best {
        let of = |field: fn(&NetworkFacts) -> &Option<String>| -> Filled {
            let of = |said, source| field(said).clone().map(|value| (value, source));
            of(&self.cymru, "cymru").or_else(|| of(&self.maxmind, "maxmind"))
        };
        Best {
            name: of(|said| &said.name),
            country: of(|said| &said.country),
            registry: of(|said| &said.registry),
        }
    }
}

fn said(named: &Named) -> NetworkFacts {
    NetworkFacts {
        name: named.name.clone(),
        country: named.country.clone(),
        registry: named.registry.map(str::to_owned),
        ..NetworkFacts::default()
    }
}

fn is_empty(said: &NetworkFacts) -> bool {
    said.name.is_none() && said.country.is_none() && said.registry.is_none()
}

fn is_silent(reading: &Reading) -> bool {
    reading.maxmind == Named::default() && reading.cymru == Named::default()
}

/// Whether a source that knows networks has answered for an address, be it that it knows nothing.
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
