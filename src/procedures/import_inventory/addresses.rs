//! Imports addresses from the Python system's table `ip_inventory`.
//!
//! Except for `_meta`, the documents of the Python system have the same format as the documents of this extension. The import
//! stores in `_meta` when each source answered. So the extension does not query sources again without need, and it knows how old
//! each answer is. `_meta.import` names the row from which an address was imported. If several rows have the same address in
//! different spellings, they become one row of this extension. For each source, the newest answer is kept.
//!
//! The column `session_count` of the imported table is not imported, because it counts enrichments and not sessions.

use std::collections::{BTreeMap, BTreeSet};

use cowrie_enrich_engine::address::{self, Address, AddressError};
use cowrie_enrich_engine::timestamp::Timestamp;
use cowrie_enrich_engine::{bogon, legacy};

use super::{Batch, ImportCounts, RowReport, document, shortened};
use crate::document::enrichment;
use crate::document::legacy as documents;
use crate::pg::clock;
use crate::pg::jsonb::{self, Container, Value};
use crate::pg::value::{Jsonb, Typed};
use crate::store::import_inventory::source::{Row, WantedColumn, text, time, wanted};
use crate::store::import_inventory::{
    Decision, ImportedAddress, StoredAddress, create_addresses, existing, merge_addresses,
};
use crate::store::networks::{self, NetworkFacts, Networks};

pub const COLUMNS: &[WantedColumn] = wanted(&[
    text(&["current_asn"]),
    time(&["asn_last_verified"]),
    time(&["first_seen"]),
    time(&["last_seen"]),
    text(&["enrichment"]),
    time(&["enrichment_updated_at"]),
    text(&["enrichment_version"]),
    time(&["created_at"]),
]);
const ASN: usize = 0;
const VERIFIED: usize = 1;
const FIRST_SEEN: usize = 2;
const LAST_SEEN: usize = 3;
const DOCUMENT: usize = 4;
const UPDATED: usize = 5;
const VERSION: usize = 6;
const CREATED: usize = 7;

/// The sources in a document that are also sources of this extension.
const SOURCES: [&str; 5] = ["maxmind", "cymru", "greynoise", "dshield", "spur"];
/// The key in the `_meta` of an address whose value names the imported row.
const IMPORT: &str = "import";

/// A valid row.
struct ImportedRow<'a> {
    row: &'a Row,
    /// The text of the address in the imported row.
    spelling: String,
    /// True if the previous row has the same text in its address column.
    is_repeated: bool,
    known: ImportedAddress,
    /// The sources that the document of the row contains, each with the time of its answer.
    source_data: BTreeMap<String, Option<Timestamp>>,
}

pub fn take(batch: &Batch, report: &mut RowReport, counts: &mut ImportCounts) {
    // Rows with the same address are written in different rounds, one row per round.
    let mut rounds: Vec<BTreeMap<Address, ImportedRow>> = Vec::new();
    let mut networks = Networks::new();
    let mut sources: BTreeMap<i64, &'static str> = BTreeMap::new();
    for (row, is_repeated) in batch.repeated() {
        let address = match address::parse_bytes(row.key.as_deref().unwrap_or_default()) {
            Ok(Some(address)) => address,
            Ok(None) => {
                report.reject(row, COLUMNS, "ip_address is empty");
                continue;
            }
            Err(AddressError::TooLong { .. } | AddressError::NotAnAddress) => {
                report.reject(row, COLUMNS, "ip_address is not the address of a single host");
                continue;
            }
        };
        let (imported, faults) = read(row, address, is_repeated, &mut networks, &mut sources);
        report.faults(row, faults);
        match rounds.iter_mut().find(|round| !round.contains_key(&address)) {
            Some(round) => {
                round.insert(address, imported);
            }
            None => rounds.push(BTreeMap::from([(address, imported)])),
        }
    }
    // Networks are written before addresses, because locks must be taken in this order. Only the first round locks addresses: it
    // contains every address of the batch, so later rounds lock no additional rows.
    let source = |asn| sources.get(&asn).copied().unwrap_or(IMPORT);
    networks::create_from_sources(batch.connection, &networks, source);
    for round in &rounds {
        write(batch, round, report, counts);
    }
}

type Faults = Vec<(String, Option<String>)>;

fn read<'a>(
    row: &'a Row,
    address: Address,
    is_repeated: bool,
    networks: &mut Networks,
    sources: &mut BTreeMap<i64, &'static str>,
) -> (ImportedRow<'a>, Faults) {
    let (mut document, mut faults) = document::object_of(row.bytes(DOCUMENT));
    let asn = row.text(ASN).and_then(|text| {
        let asn = legacy::asn(&text).map(i64::from);
        if asn.is_none() {
            faults.push((format!("current_asn is \"{}\", not an ASN", shortened(&text)), Some(text)));
        }
        asn
    });
    let reading = documents::read(document.container());
    faults.extend(reading.faults.iter().map(|fault| (fault.clone(), None)));
    if let Some(asn) = asn {
        let network = networks.entry(asn).or_default();
        for (source, named) in reading.about(asn) {
            let (name, country) = (named.name.clone(), named.country.clone());
            let registry = named.registry.map(str::to_owned);
            let has_values = name.is_some() || country.is_some() || registry.is_some();
            // All values of a network come from one source, so that the source of the network is known.
            if has_values && *sources.entry(asn).or_insert(source) == source {
                network.merge(NetworkFacts { name, country, registry, ..NetworkFacts::default() });
            }
        }
    }
    if let Some(reason) = bogon::reason(address)
        && document.container().is_none_or(|document| document.get("validation").is_none())
    {
        let validation = jsonb::object(|object| {
            object.object("validation", |validation| {
                validation.boolean("is_bogon", true);
                validation.text("reason", reason);
            });
        });
        document = jsonb::concat(document, validation);
    }
    let updated = row.time(UPDATED);
    let container = document.container();
    let said_at = |container: Container<'_>, key: &str| (key.to_owned(), said_at(container, key).or(updated));
    let source_data: BTreeMap<String, Option<Timestamp>> = container
        .into_iter()
        .flat_map(|container| container.keys().into_iter().map(move |key| said_at(container, key)))
        .filter(|(key, _)| key != META)
        .collect();
    let spelling = row.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    let (states, more) = states(container, &source_data, &spelling, row.text(VERSION));
    faults.extend(more);
    let known = ImportedAddress {
        address,
        asn,
        verified: row.time(VERIFIED).or(updated),
        first_seen: row.session_time(FIRST_SEEN),
        last_seen: row.session_time(LAST_SEEN),
        document,
        states,
        updated,
        created: row.time(CREATED),
    };
    (ImportedRow { row, spelling, is_repeated, known, source_data }, faults)
}

const META: &str = "_meta";

fn said_at(document: Container<'_>, key: &str) -> Option<Timestamp> {
    document.object(key).and_then(|own| own.text("cached_at")).and_then(Timestamp::parse)
}

/// Returns the `_meta` for the sources in a row, and the faults of these sources. If a source has no valid answer in the row,
/// `_meta` has no entry for it, so the source may be queried again.
fn states(
    document: Option<Container<'_>>,
    source_data: &BTreeMap<String, Option<Timestamp>>,
    spelling: &str,
    version: Option<String>,
) -> (Typed<Jsonb>, Faults) {
    let mut faults = Faults::new();
    let states = jsonb::object(|states| {
        for source in SOURCES {
            match document.and_then(|document| document.get(source)) {
                Some(Value::Nested(own)) if own.is_object() => {
                    let Some(at) =
                        source_data.get(source).copied().flatten().filter(|_| !own.keys().is_empty())
                    else {
                        continue;
                    };
                    states.object(source, |state| {
                        state.text("state", "value");
                        state.text("asked_at", &clock::iso8601(at));
                    });
                }
                None | Some(Value::Null) => {}
                // Faults of `maxmind` and `cymru` were already listed when the document was read.
                Some(_) if source == "maxmind" || source == "cymru" => {}
                Some(_) => faults
                    .push((format!("key \"{source}\" in column \"enrichment\" is not a JSON object"), None)),
            }
        }
        states.object(IMPORT, |import| {
            import.text("row", spelling);
            if let Some(version) = &version {
                import.text("version", version);
            }
        });
    });
    (states, faults)
}

fn write(
    batch: &Batch,
    round: &BTreeMap<Address, ImportedRow>,
    report: &mut RowReport,
    counts: &mut ImportCounts,
) {
    let all: Vec<&ImportedAddress> = round.values().map(|imported| &imported.known).collect();
    let created: BTreeSet<Address> = create_addresses(batch.connection, &all).into_iter().collect();
    let number = created.len() as i64;
    counts.addresses += number;
    counts.written += number;
    let others = round.keys().copied().filter(|address| !created.contains(address));
    let decided = existing(batch.connection, others, |stored| {
        let decided = stored.into_iter().filter_map(|stored| {
            let imported = round.get(&stored.address)?;
            Some((&imported.known, decide(imported, &stored, report, counts)))
        });
        decided.collect::<Vec<_>>()
    });
    counts.written += merge_addresses(batch.connection, &decided);
}

/// Decides how an imported address is merged into the stored address. A stored value is replaced only if the imported value is
/// newer.
fn decide(
    imported: &ImportedRow,
    stored: &StoredAddress,
    report: &mut RowReport,
    counts: &mut ImportCounts,
) -> Decision {
    let meta = stored.document.and_then(|document| document.object(META));
    let stands: BTreeSet<&str> = imported
        .source_data
        .iter()
        .filter(|(key, at)| stands(stored, key, **at))
        .map(|(key, _)| key.as_str())
        .collect();
    let is_our_row = keeps_our_row(imported, meta, report, counts);
    let own_states = imported.known.document.container().and_then(|document| document.object(META));
    let own_states = own_states.map(Container::keys).unwrap_or_default();
    let is_there = |key: &str| meta.is_some_and(|meta| meta.get(key).is_some());
    let states: BTreeSet<&str> = SOURCES
        .into_iter()
        .filter(|source| stands.contains(source))
        .chain(is_our_row.then_some(IMPORT))
        .chain(own_states.into_iter().filter(|key| !SOURCES.contains(key) && *key != IMPORT && is_there(key)))
        .collect();
    let named = |keys: &BTreeSet<&str>| {
        jsonb::object(|object| {
            for key in keys {
                object.boolean(key, true);
            }
        })
    };
    let their_asn_is_newer = stored.asn.is_none() || imported.known.verified > stored.verified;
    Decision {
        moves: imported.known.asn.is_some() && imported.known.asn != stored.asn && their_asn_is_newer,
        stands: named(&stands),
        states_stand: named(&states),
    }
}

fn stands(stored: &StoredAddress, key: &str, their_time: Option<Timestamp>) -> bool {
    let Some(document) = stored.document else { return false };
    match enrichment::last_answer(document, key) {
        enrichment::LastAnswer::None => false,
        // If an answer has no time of its own, the time of its row is used.
        enrichment::LastAnswer::Since(our_time) => our_time.or(stored.updated) >= their_time,
    }
}

/// Returns true if the stored `_meta.import` is kept. If two rows have the same address, `_meta.import` names the row that spells
/// the address in the same way as this extension. If neither row does this, `_meta.import` names the first row in key order. Lists
/// the other row as merged.
fn keeps_our_row(
    imported: &ImportedRow,
    meta: Option<Container<'_>>,
    report: &mut RowReport,
    counts: &mut ImportCounts,
) -> bool {
    let Some(first) = meta.and_then(|meta| meta.object(IMPORT)).and_then(|import| import.text("row")) else {
        counts.addresses += 1;
        return false;
    };
    if first == imported.spelling && !imported.is_repeated {
        counts.addresses += 1;
        return true;
    }
    let address = imported.known.address;
    let reason = format!("another row has the same address, {address}; the rows were merged");
    let is_ours = |spelling: &str| {
        let host = spelling.strip_suffix(if address.ip().is_ipv4() { "/32" } else { "/128" });
        host.unwrap_or(spelling) == address.to_string()
    };
    if is_ours(&imported.spelling) && !is_ours(first) {
        // The row that `first` names was already counted as an address when it was read.
        report.merge(first.to_owned(), &reason, None);
        return false;
    }
    report.merge(imported.row.shown_key(), &reason, Some(imported.row.shown(COLUMNS)));
    true
}
