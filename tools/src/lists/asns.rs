//! Lists of ASNs, and the prefixes of ASNs from an mmdb file.
//!
//! ```text
//! AS45090 # Tencent                       ; X4BNet
//! asn,name,class,cc                       ; bgp.tools, as-metadata: CSV, with or without a header
//! AS1,"Level 3 Parent, LLC",Unknown,US
//! ```

use std::collections::{BTreeMap, HashMap};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mmdb::Database;
use cowrie_enrich_engine::prefix::Prefix;
use maxminddb::{Reader, WithinOptions};

use super::csv_rows::rows;
use super::sink::{Sink, asn_number, detail};
use super::{Asn, Content, Error, Format, shown};

pub(super) fn read_lines(text: &str) -> Result<Content, Error> {
    let mut sink = Sink::new();
    for (number, line) in (1..).zip(text.lines()) {
        let (content, comment) =
            line.find(['#', ';']).map_or((line, ""), |at| (&line[..at], &line[at + 1..]));
        let content = content.trim();
        if !content.is_empty() {
            sink.asn(content, detail(comment)).map_err(|problem| Error::at(number, problem))?;
        }
    }
    Ok(sink.finish(Format::AsnLines))
}

pub(super) fn read_csv(text: &str) -> Result<Content, Error> {
    let mut sink = Sink::new();
    let mut label_column = 1;
    for (index, row) in rows(text).enumerate() {
        let (line, record) = row?;
        let asn = record.get(0).unwrap_or_default();
        if index == 0 && asn.eq_ignore_ascii_case("asn") {
            let known = ["name", "description", "asname", "as_name", "organization"];
            let column = record.iter().position(|name| known.contains(&name.to_ascii_lowercase().as_str()));
            label_column = column.unwrap_or(label_column);
            continue;
        }
        if asn_number(asn).is_none() {
            return Err(Error::at(line, format_args!("not an ASN: \"{}\"", shown(asn))));
        }
        let label = record.get(label_column).and_then(detail);
        sink.asn(asn, label).map_err(|problem| Error::at(line, problem))?;
    }
    Ok(sink.finish(Format::AsnCsv))
}

/// The prefixes of each ASN in an mmdb file.
pub struct Announced(HashMap<u32, Vec<Prefix>>);

impl Announced {
    /// Reads an mmdb file with ASNs, in any layout that the extension reads. Keeps the `wanted` ASNs.
    pub fn read(bytes: &[u8], wanted: &[u32]) -> Result<Self, String> {
        let database = Database::open(bytes).map_err(|error| error.to_string())?;
        database.verify().map_err(|error| error.to_string())?;
        let reader = Reader::from_source(bytes).map_err(|error| error.to_string())?;
        // Wide networks of the IPv4 space also have aliases in IPv6. The default leaves out these aliases.
        let networks = reader.networks(WithinOptions::default()).map_err(|error| error.to_string())?;
        let mut prefixes: HashMap<u32, Vec<Prefix>> = wanted.iter().map(|asn| (*asn, Vec::new())).collect();
        for network in networks {
            let network = network.and_then(|found| found.network()).map_err(|error| error.to_string())?;
            let first = Address::new(network.ip());
            let Some(asn) = database.asn(first).map_err(|error| error.to_string())? else { continue };
            if let Some(known) = prefixes.get_mut(&asn) {
                known.extend(Prefix::new(first, network.prefix()));
            }
        }
        Ok(Self(prefixes))
    }

    pub fn of(&self, asn: u32) -> &[Prefix] {
        self.0.get(&asn).map_or(&[], Vec::as_slice)
    }
}

/// Returns the ASNs in ascending order, each with its first label.
pub(super) fn distinct(asns: &[Asn]) -> BTreeMap<u32, Option<&str>> {
    let mut distinct = BTreeMap::new();
    for asn in asns {
        let label = distinct.entry(asn.number).or_insert(None);
        *label = label.or(asn.label.as_deref());
    }
    distinct
}
