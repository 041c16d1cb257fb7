//! The rules that hold for the networks of all formats.
//!
//! - Bits after the prefix length are cleared. Publishers do write them, and PostgreSQL's `inet` allows them.
//! - An IPv4-mapped IPv6 network becomes its IPv4 network, because the server stores addresses in this form.
//! - Private and reserved networks are left out. Block lists contain them, but they say nothing about an attacker.
//! - A network that covers a large part of the internet is an error: one such line would give all addresses a type.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::as_registry;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::mmdb::clean_name;
use cowrie_enrich_engine::prefix::Prefix;
use mmdb_writer::ipnet::{Ipv4Subnets, Ipv6Subnets};

use super::{Asn, Content, Counts, Details, Entry, Error, Format, shown};

/// The shortest prefixes that a list may contain. The largest holders have a /8 of IPv4. Registries have at most a /12
/// of IPv6.
const SHORTEST_V4: u8 = 6;
const SHORTEST_V6: u8 = 12;

/// Maximum length of a provider, a region and a service, in characters.
const LONGEST_DETAIL: usize = 100;

/// Collects the entries of a file.
pub(super) struct Sink {
    entries: Vec<Entry>,
    asns: Vec<Asn>,
    pub counts: Counts,
    pub made_at: Option<u64>,
    pub notice: Option<String>,
    pub remarks: Vec<String>,
    /// Entries share equal details.
    details: HashMap<Details, Rc<Details>>,
}

impl Sink {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            asns: Vec::new(),
            counts: Counts::default(),
            made_at: None,
            notice: None,
            remarks: Vec::new(),
            details: HashMap::new(),
        }
    }

    /// Adds an address or a prefix.
    pub fn network(&mut self, text: &str, details: Details) -> Result<(), String> {
        let (ip, prefix) = parse(text)?;
        if prefix.network() != Address::new(ip) {
            self.counts.host_bits += 1;
        }
        self.prefix(prefix, text, details)
    }

    /// Adds the addresses from `first` to `last`.
    pub fn range(&mut self, text: &str, first: &str, last: &str, details: Details) -> Result<(), String> {
        let address = |text: &str| -> Result<IpAddr, String> {
            text.trim().parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| not_a_network(text))
        };
        let follows = || format!("range does not go from a lower to a higher address: \"{}\"", shown(text));
        let blocks: Vec<(IpAddr, u8)> = match (address(first)?, address(last)?) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                Ipv4Subnets::new(first, last, 0).map(|net| (net.addr().into(), net.prefix_len())).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                Ipv6Subnets::new(first, last, 0).map(|net| (net.addr().into(), net.prefix_len())).collect()
            }
            _ => return Err(follows()),
        };
        for (ip, length) in blocks {
            let prefix = Prefix::new(ip.into(), length).ok_or_else(|| not_a_network(text))?;
            self.prefix(prefix, text, details.clone())?;
        }
        Ok(())
    }

    fn prefix(&mut self, prefix: Prefix, text: &str, details: Details) -> Result<(), String> {
        if bogon::covers(prefix) {
            self.counts.bogons += 1;
            return Ok(());
        }
        let shortest = if prefix.network().ip().is_ipv4() { SHORTEST_V4 } else { SHORTEST_V6 };
        if prefix.length() < shortest {
            return Err(format!(
                "network covers too much of the internet: \"{}\"; prefixes shorter than /{shortest} are refused",
                shown(text)
            ));
        }
        let details = match self.details.get(&details) {
            Some(known) => Rc::clone(known),
            None => {
                let shared = Rc::new(details.clone());
                self.details.insert(details, Rc::clone(&shared));
                shared
            }
        };
        self.entries.push(Entry { prefix, details });
        Ok(())
    }

    /// Adds an ASN, with or without `AS` before the number.
    pub fn asn(&mut self, text: &str, label: Option<String>) -> Result<(), String> {
        let number = asn_number(text).ok_or_else(|| format!("not an ASN: \"{}\"", shown(text)))?;
        match u32::try_from(number) {
            Ok(number) if !as_registry::is_bogon(number) => self.asns.push(Asn { number, label }),
            Ok(_) => self.counts.bogons += 1,
            Err(_) => return Err(format!("ASN is greater than 4294967295: \"{}\"", shown(text))),
        }
        Ok(())
    }

    pub fn finish(self, format: Format) -> Content {
        Content {
            format,
            entries: self.entries,
            asns: self.asns,
            made_at: self.made_at,
            notice: self.notice,
            remarks: self.remarks,
            counts: self.counts,
        }
    }
}

/// Parses `AS15169`, `as15169` or `15169`. Returns `None` for other texts.
pub(super) fn asn_number(text: &str) -> Option<u64> {
    let digits = match text.as_bytes() {
        [b'A' | b'a', b'S' | b's', ..] => &text[2..],
        _ => text,
    };
    let is_number = (1..=12).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

/// Returns whether the text is an address or a prefix.
pub(super) fn is_network(text: &str) -> bool {
    parse(text).is_ok()
}

/// Returns whether the text is a prefix with bits set after the prefix length.
pub(super) fn has_host_bits(text: &str) -> bool {
    parse(text).is_ok_and(|(ip, prefix)| prefix.network() != Address::new(ip))
}

fn parse(text: &str) -> Result<(IpAddr, Prefix), String> {
    let text = text.trim();
    let host = text.split_once('/').map_or(text, |(host, _)| host);
    let ip: IpAddr = host.parse().map_err(|_| not_a_network(text))?;
    let prefix = match text.contains('/') {
        false => Prefix::host(ip.into()),
        true => Prefix::parse(text).ok_or_else(|| not_a_network(text))?,
    };
    Ok((ip, prefix))
}

fn not_a_network(text: &str) -> String {
    format!("not an address, a prefix or a range: \"{}\"", shown(text))
}

/// Returns a text that fits the details of an entry, or `None` if nothing is left of it.
pub(super) fn detail(text: &str) -> Option<String> {
    let text: String = clean_name(text.trim()).chars().take(LONGEST_DETAIL).collect();
    (!text.is_empty()).then_some(text)
}

/// Returns the first line that contains the text, for documents without positions.
pub(super) fn line_of(document: &str, text: &str) -> Option<u64> {
    let at = document.find(text)?;
    Some(document[..at].bytes().filter(|byte| *byte == b'\n').count() as u64 + 1)
}

/// Returns the last line that contains the network, in any format.
pub(super) fn line_of_network(text: &str, network: Prefix) -> Option<u64> {
    let is_part = |letter: char| letter.is_ascii_hexdigit() || ":./".contains(letter);
    let contains = |line: &str| {
        let words = line.split(|letter| !is_part(letter));
        words.into_iter().any(|word| parse(word).is_ok_and(|(_, prefix)| prefix == network))
    };
    let at = text.lines().enumerate().filter(|(_, line)| contains(line)).map(|(index, _)| index).last()?;
    Some(at as u64 + 1)
}

/// Returns an error at the first line of the document that contains the quoted text.
pub(super) fn in_document(document: &str, text: &str, problem: String) -> Error {
    Error { line: line_of(document, &format!("\"{text}\"")), problem }
}
