//! A list: a name, a type, and the content of one or more files.
//!
//! A list is given as `NAME:TYPE:FILE` or `NAME:TYPE/PROVIDER:FILE`. A name that is given again adds a file to the list,
//! because publishers have separate files for IPv4 and IPv6.

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use cowrie_enrich_engine::mmdb::types::{is_list_name, is_type};

use super::asns::{Announced, distinct};
use super::{Content, Counts, Details, Entry};

/// One `--list` argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub kind: String,
    /// Provider of the networks for which the file names no provider.
    pub provider: Option<String>,
    pub file: PathBuf,
}

/// Longest provider in an argument, in characters.
const LONGEST_PROVIDER: usize = 60;

impl Source {
    /// Parses an argument. `is_kind` checks the type.
    pub fn parse(argument: &str, is_kind: impl Fn(&str) -> bool) -> Result<Self, String> {
        let mut parts = argument.splitn(3, ':');
        let (Some(name), Some(kind), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("invalid list \"{argument}\"; must be NAME:TYPE:FILE"));
        };
        let (kind, provider) = match kind.split_once('/') {
            Some((kind, provider)) => (kind, Some(provider.to_owned())),
            None => (kind, None),
        };
        if !is_list_name(name) {
            return Err(format!(
                "invalid name \"{name}\" of a list; must be at most 63 letters, digits, dots, hyphens or underscores"
            ));
        }
        if !is_kind(kind) {
            return Err(format!("invalid type \"{kind}\" of list {name}"));
        }
        let is_provider = |text: &String| {
            (1..=LONGEST_PROVIDER).contains(&text.chars().count()) && !text.contains(char::is_control)
        };
        if provider.as_ref().is_some_and(|provider| !is_provider(provider)) {
            return Err(format!(
                "invalid provider of list {name}; must have 1 to {LONGEST_PROVIDER} characters"
            ));
        }
        if file.is_empty() {
            return Err(format!("list {name} has no file"));
        }
        Ok(Self { name: name.to_owned(), kind: kind.to_owned(), provider, file: file.into() })
    }

    /// Parses a list of addresses. Its type is a word in capitals.
    pub fn of_addresses(argument: &str) -> Result<Self, String> {
        Self::parse(argument, is_type).map_err(|error| {
            if error.starts_with("invalid type") {
                format!(
                    "{error}; must be capitals, digits and underscores, such as VPN or MY_LIST, at most 31"
                )
            } else {
                error
            }
        })
    }
}

/// A list with its networks.
#[derive(Debug)]
pub struct List {
    pub name: String,
    pub kind: String,
    /// The oldest of the files' times, in seconds since 1970.
    pub published: u64,
    pub notice: Option<String>,
    /// Sorted, without duplicates.
    pub entries: Vec<Entry>,
    pub counts: Counts,
    /// Number of ASNs of the list.
    pub asns: usize,
    /// Number of ASNs of the list that announce no prefix.
    pub silent_asns: usize,
}

impl List {
    /// Starts a list without content. `source` is its first file.
    pub fn new(source: &Source) -> Self {
        Self {
            name: source.name.clone(),
            kind: source.kind.clone(),
            published: u64::MAX,
            notice: None,
            entries: Vec::new(),
            counts: Counts::default(),
            asns: 0,
            silent_asns: 0,
        }
    }

    /// Adds the content of a file. `modified` is the time of the file's last change, in seconds since 1970. ASNs become
    /// the prefixes that `announced` has for them.
    pub fn add(
        &mut self,
        content: Content,
        provider: Option<&str>,
        modified: u64,
        announced: Option<&Announced>,
    ) -> Result<(), String> {
        self.published =
            self.published.min(content.made_at.map_or(modified, |made_at| made_at.min(modified)));
        self.notice = self.notice.take().or(content.notice);
        self.counts.host_bits += content.counts.host_bits;
        self.counts.bogons += content.counts.bogons;
        self.counts.repeated += content.counts.repeated;
        self.entries.extend(content.entries.into_iter().map(|entry| with_provider(entry, provider)));
        if !content.asns.is_empty() {
            let announced = announced.ok_or(
                "this is a list of ASNs; --asn-database must name an mmdb file that has their prefixes",
            )?;
            for (asn, label) in distinct(&content.asns) {
                let label = label.map_or_else(|| format!("AS{asn}"), str::to_owned);
                let details = Rc::new(Details {
                    provider: Some(provider.map_or(label, str::to_owned)),
                    ..Details::default()
                });
                let prefixes = announced.of(asn);
                self.asns += 1;
                self.silent_asns += usize::from(prefixes.is_empty());
                self.entries.extend(
                    prefixes.iter().map(|prefix| Entry { prefix: *prefix, details: Rc::clone(&details) }),
                );
            }
        }
        if self.entries.is_empty() {
            return Err("none of the ASNs has a prefix in the ASN database".into());
        }
        self.entries.sort();
        self.entries.dedup();
        Ok(())
    }

    /// Returns the number of different networks.
    pub fn networks(&self) -> u64 {
        let mut networks = 0;
        let mut last = None;
        for entry in &self.entries {
            networks += u64::from(last != Some(entry.prefix));
            last = Some(entry.prefix);
        }
        networks
    }

    /// Returns an error if the list has less than half of the networks that it had before.
    pub fn check_size(&self, before: Option<u64>) -> Result<(), String> {
        match before {
            Some(before) if self.networks() < before.div_ceil(2) => Err(format!(
                "list {} shrank from {before} to {} networks; --force accepts the new list",
                self.name,
                self.networks()
            )),
            _ => Ok(()),
        }
    }
}

fn with_provider(entry: Entry, provider: Option<&str>) -> Entry {
    match provider {
        Some(provider) if entry.details.provider.is_none() => {
            let details = Details { provider: Some(provider.to_owned()), ..(*entry.details).clone() };
            Entry { prefix: entry.prefix, details: Rc::new(details) }
        }
        _ => entry,
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {} networks", self.name, self.kind, self.networks())?;
        for (count, what) in [
            (self.counts.host_bits, "with host bits, which were cleared"),
            (self.counts.bogons, "private or reserved, left out"),
            (self.counts.repeated, "repeated by the file, left out"),
            (self.asns as u64, "ASNs"),
            (self.silent_asns as u64, "ASNs without a prefix"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_has_a_name_a_type_and_a_file() {
        let parsed = Source::of_addresses("cf:DATACENTER/Cloudflare:/tmp/a:b").unwrap();
        assert_eq!((parsed.name.as_str(), parsed.kind.as_str()), ("cf", "DATACENTER"));
        assert_eq!(parsed.provider.as_deref(), Some("Cloudflare"));
        assert_eq!(parsed.file, PathBuf::from("/tmp/a:b"));
        for (argument, expected) in [
            ("tor", "must be NAME:TYPE:FILE"),
            ("tor:TOR", "must be NAME:TYPE:FILE"),
            ("to r:TOR:f", "invalid name \"to r\""),
            ("tor:tor:f", "invalid type \"tor\" of list tor; must be capitals"),
            ("tor:TOR:", "list tor has no file"),
            ("tor:TOR/:f", "invalid provider of list tor"),
        ] {
            let error = Source::of_addresses(argument).unwrap_err();
            assert!(error.contains(expected), "{argument}: {error}");
        }
    }
}
