//! Imports networks from the Python system's table `asn_inventory`.
//!
//! The column organization_country contains the country of the first address that the Python system saw in the network. So a
//! country from any other source takes precedence over it. If the row's document has a country from Team Cymru, the import uses
//! that country instead. If a value fits no column of this extension, the value is kept under the key `import` in the enrichment of
//! the network.

use std::collections::BTreeMap;

use cowrie_enrich_engine::legacy;

use super::{Batch, ImportCounts, RowReport, document, shortened};
use crate::document::enrichment::country_text;
use crate::document::legacy as documents;
use crate::pg::jsonb;
use crate::pg::value::{Jsonb, Typed};
use crate::store::import_inventory::source::{Row, WantedColumn, text, time, wanted};
use crate::store::import_inventory::{ImportedNetwork, write_networks};
use crate::store::networks;

pub const COLUMNS: &[WantedColumn] = wanted(&[
    text(&["organization_name"]),
    text(&["organization_country"]),
    text(&["rir_registry", "registry"]),
    text(&["asn_type"]),
    text(&["is_known_hosting"]),
    text(&["is_known_vpn"]),
    time(&["first_seen"]),
    time(&["last_seen"]),
    text(&["enrichment"]),
    time(&["enrichment_updated_at"]),
    time(&["created_at"]),
]);
const NAME: usize = 0;
const COUNTRY: usize = 1;
const REGISTRY: usize = 2;
const TYPE: usize = 3;
const HOSTING: usize = 4;
const VPN: usize = 5;
const FIRST_SEEN: usize = 6;
const LAST_SEEN: usize = 7;
const DOCUMENT: usize = 8;
const UPDATED: usize = 9;
const CREATED: usize = 10;

/// The source of imported values. All other sources take precedence over it: see `source_rank`.
const SOURCE: &str = "import";

pub fn take(batch: &Batch, report: &mut RowReport, counts: &mut ImportCounts) {
    // Rows with the same ASN are written in different rounds, one row per round.
    let mut rounds: Vec<BTreeMap<i64, ImportedNetwork>> = Vec::new();
    for (row, is_repeated) in batch.repeated() {
        let number = row.key.as_deref().map(String::from_utf8_lossy);
        let Some(asn) = number.as_deref().and_then(legacy::asn).map(i64::from) else {
            report.reject(row, COLUMNS, "asn_number is not an ASN");
            continue;
        };
        let round = rounds.iter().position(|round| !round.contains_key(&asn));
        if is_repeated || round != Some(0) && !rounds.is_empty() {
            report.merge(
                row.shown_key(),
                &format!("another row has the same network, AS{asn}; the rows were merged"),
                Some(row.shown(COLUMNS)),
            );
        } else {
            counts.networks += 1;
        }
        let (network, faults) = read(row, asn);
        report.faults(row, faults);
        match round {
            Some(round) => rounds[round].insert(asn, network),
            None => {
                rounds.push(BTreeMap::from([(asn, network)]));
                None
            }
        };
    }
    for round in rounds {
        let networks: Vec<ImportedNetwork> = round.into_values().collect();
        counts.written += write_networks(batch.connection, &networks);
    }
}

type Faults = Vec<(String, Option<String>)>;

fn read(row: &Row, asn: i64) -> (ImportedNetwork, Faults) {
    let (document, mut faults) = document::object_of(row.bytes(DOCUMENT));
    let cymru = documents::read(document.container()).cymru;
    let mut words = UnmappedValues::default();
    // `better` is a value from a source that takes precedence over the imported value.
    let mut field = |field: &Field, better: Option<(String, &'static str)>| {
        let source_data = row.text(field.column).filter(|source_data| !documents::is_unknown(source_data));
        let sense = source_data.as_deref().and_then(field.sense);
        let chosen = better.or(sense.clone().map(|own| (own, SOURCE)));
        if let Some(source_data) = source_data {
            let is_stored = sense.is_some() && sense.as_ref() == chosen.as_ref().map(|(value, _)| value);
            if !is_stored || (!field.is_code && sense.as_ref() != Some(&source_data)) {
                words.keep(field.name, &source_data);
            }
            if sense.is_none() {
                let reason =
                    format!("{} is \"{}\", not {}", field.name, shortened(&source_data), field.wanted);
                faults.push((reason, Some(source_data)));
            }
        }
        chosen
    };
    let from_cymru = |value: Option<String>| value.map(|value| (value, "cymru"));
    // A name from Team Cymru is used only if the row itself has no name.
    let name = field(&NAME_FIELD, None).or_else(|| from_cymru(cymru.name));
    let country = field(&COUNTRY_FIELD, from_cymru(cymru.country));
    let iana = || networks::iana_registry(asn).map(|registry| (registry.to_owned(), networks::IANA));
    let registry = field(&REGISTRY_FIELD, from_cymru(cymru.registry.map(str::to_owned)).or_else(iana));
    let asn_type = row.text(TYPE).and_then(|word| {
        let known = type_of(&word);
        if known.is_none_or(|known| known != word) && word != UNKNOWN {
            words.keep("asn_type", &word);
        }
        if known.is_none() && word != UNKNOWN {
            faults.push((format!("asn_type is \"{}\", not a type of network", shortened(&word)), Some(word)));
        }
        known
    });
    let network = ImportedNetwork {
        asn,
        name,
        country,
        registry,
        asn_type,
        is_hosting: is_true(row, HOSTING),
        is_vpn: is_true(row, VPN),
        first_seen: row.session_time(FIRST_SEEN),
        last_seen: row.session_time(LAST_SEEN),
        document: words.added_to(document),
        updated: row.time(UPDATED),
        created: row.time(CREATED),
    };
    (network, faults)
}

/// Imported values that do not fit into a column of this extension's table.
#[derive(Default)]
struct UnmappedValues(Vec<(&'static str, String)>);

impl UnmappedValues {
    fn keep(&mut self, column: &'static str, word: &str) {
        self.0.push((column, word.to_owned()));
    }

    fn added_to(&self, document: Typed<Jsonb>) -> Typed<Jsonb> {
        if self.0.is_empty() {
            return document;
        }
        let words = jsonb::object(|object| {
            object.object(SOURCE, |own| {
                for (column, word) in &self.0 {
                    own.text(column, word);
                }
            });
        });
        jsonb::concat(document, words)
    }
}

/// A column of the imported table that contains a value about the network. A country from Team Cymru takes precedence over an
/// imported country. A registry from Team Cymru or IANA takes precedence over an imported registry.
struct Field {
    column: usize,
    name: &'static str,
    sense: fn(&str) -> Option<String>,
    wanted: &'static str,
    /// True if the column contains a code. Two spellings of a code are the same value. For other columns, a shortened name and the
    /// full name are different values.
    is_code: bool,
}

const NAME_FIELD: Field =
    Field { column: NAME, name: "organization_name", sense: legacy::name, wanted: "a name", is_code: false };
const COUNTRY_FIELD: Field = Field {
    column: COUNTRY,
    name: "organization_country",
    sense: |text| legacy::country(text).map(country_text),
    wanted: "a country",
    is_code: true,
};
const REGISTRY_FIELD: Field = Field {
    column: REGISTRY,
    name: "rir_registry",
    sense: |text| legacy::registry(text).map(str::to_owned),
    wanted: "a registry",
    is_code: true,
};

const UNKNOWN: &str = "UNKNOWN";

/// Returns the type of network that a word stands for. Returns `None` for `UNKNOWN`, because the type is then determined from the
/// name of the network.
fn type_of(word: &str) -> Option<&'static str> {
    match word.to_ascii_uppercase().as_str() {
        "HOSTING" | "CLOUD" => Some("HOSTING"),
        "ISP" => Some("ISP"),
        "EDUCATION" => Some("EDUCATION"),
        "GOVERNMENT" => Some("GOVERNMENT"),
        _ => None,
    }
}

fn is_true(row: &Row, column: usize) -> bool {
    row.text(column).is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "true" | "t" | "1"))
}
