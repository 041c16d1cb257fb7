//! Reads files of vendors with types of addresses. The records of such a file have one key for each type.
//!
//! The records in the files of each product:
//! ```text
//! MaxMind Anonymous-IP      {"is_anonymous": true, "is_anonymous_vpn": true}       ; false keys are left out
//! MaxMind Anonymous-Plus    the same, with "provider_name": "..."
//! IPinfo privacy            {"hosting": false, "proxy": false, "relay": false, "tor": false, "vpn": true, "service": "..."}
//! IPinfo privacy, older     the same keys, with the texts "true" and ""
//! IPinfo Core, Plus         {"is_hosting": true, "is_vpn": false, ...}, with other keys
//! residential proxies       each address with a record is such a proxy; keys "provider_name" (MaxMind) or "service" (IPinfo)
//! ```
//!
//! If an address has no record, it has no type, because the vendor says nothing about the address. Many records in MaxMind's files
//! are empty. An empty record also means that the address has no type. The key `tor` in IPinfo's files is true for all relays of
//! the Tor network, not only for exits.

use super::compiled::{WORK, known};
use super::{Entry, ListSet, TypeList};
use crate::mmdb::format::{Fault, Plan, Section, Token};
use crate::mmdb::layout::sample;
use crate::mmdb::{Facts, clean_name};

/// No flag has a longer key.
const LONGEST_KEY: usize = 32;

/// Keys of a vendor's records.
pub(super) struct Family {
    /// Each pair has a key that may be in the records, and the type of an address for which this key is true. Each pair is treated
    /// as one list. The index of the pair is the index of the list.
    keys: &'static [(&'static [u8], &'static str)],
    /// A key of lower priority. Its type is used only if no other key of the record states a type. `None` if the layout has no such
    /// key.
    fallback: Option<&'static [u8]>,
    /// If this is set, every record with at least one key has this type, and `keys` is empty. If this is `None`, the keys of a
    /// record state its types.
    every_record: Option<&'static str>,
    provider: &'static [u8],
    service: &'static [u8],
}

static MAXMIND: Family = Family {
    keys: &[
        (b"is_anonymous_vpn", "VPN"),
        (b"is_tor_exit_node", "TOR"),
        (b"is_public_proxy", "PROXY"),
        (b"is_residential_proxy", "RESIDENTIAL_PROXY"),
        (b"is_hosting_provider", "DATACENTER"),
        // MaxMind sets this key whenever it sets any of the other keys. So this key is the `fallback`.
        (b"is_anonymous", "ANONYMOUS"),
    ],
    fallback: Some(b"is_anonymous"),
    every_record: None,
    provider: b"provider_name",
    service: b"",
};

static IPINFO_PRIVACY: Family = Family {
    keys: &[
        (b"vpn", "VPN"),
        (b"tor", "TOR"),
        (b"proxy", "PROXY"),
        (b"relay", "RELAY"),
        (b"hosting", "DATACENTER"),
    ],
    fallback: None,
    every_record: None,
    provider: b"",
    service: b"service",
};

static IPINFO_PLUS: Family = Family {
    keys: &[
        (b"is_vpn", "VPN"),
        (b"is_tor", "TOR"),
        (b"is_proxy", "PROXY"),
        (b"is_relay", "RELAY"),
        (b"is_hosting", "DATACENTER"),
        (b"is_mobile", "MOBILE"),
    ],
    fallback: None,
    every_record: None,
    provider: b"",
    service: b"service",
};

static RESIDENTIAL_PROXIES: Family = Family {
    keys: &[],
    fallback: None,
    every_record: Some("RESIDENTIAL_PROXY"),
    provider: b"provider_name",
    service: b"service",
};

impl Family {
    /// Finds the layout of a file. Recognises a file of MaxMind by its type name, because few of its records have a key. Recognises
    /// other files by the keys in a sample of the records.
    pub fn detect(bytes: &[u8], plan: &Plan, database_type: &str) -> Option<&'static Self> {
        if database_type.contains("Residential-Proxy") {
            return Some(&RESIDENTIAL_PROXIES);
        }
        if ["Anonymous-IP", "Anonymous-Plus", "IP-Risk"].iter().any(|name| database_type.contains(name)) {
            return Some(&MAXMIND);
        }
        let mut seen = Vec::new();
        let data = plan.data(bytes);
        for record in sample(bytes, plan) {
            // An error is ignored here, because `verify` will report the damaged record.
            let _ = pairs(data, record, |key, value| {
                let is_of_residential = key == b"percent_days_seen";
                let is_new = key.len() <= LONGEST_KEY && seen.len() < 64 && !seen.contains(&key);
                if is_new && (is_of_residential || is_flag(value)) {
                    seen.push(key);
                }
            });
        }
        let count = |family: &Family, of: usize| {
            family.keys[..of].iter().filter(|(key, _)| seen.contains(key)).count()
        };
        if seen.contains(&b"percent_days_seen".as_slice()) {
            Some(&RESIDENTIAL_PROXIES)
        } else if count(&MAXMIND, 5) >= 1 {
            Some(&MAXMIND)
        } else if count(&IPINFO_PLUS, 6) >= 1 {
            Some(&IPINFO_PLUS)
        } else if count(&IPINFO_PRIVACY, 5) >= 2 {
            // The sample must contain at least two of these keys, because a single key of this name may have another meaning in
            // other files.
            Some(&IPINFO_PRIVACY)
        } else {
            None
        }
    }

    pub fn lists(&self, facts: &Facts) -> Vec<TypeList> {
        let name = match clean_name(&facts.database_type) {
            name if name.trim().is_empty() => "unnamed".to_owned(),
            name => name.into_owned(),
        };
        self.keys
            .iter()
            .map(|(_, kind)| *kind)
            .chain(self.every_record)
            .map(|kind| TypeList {
                name: name.clone(),
                kind: kind.to_owned(),
                published: facts.build_epoch,
                entries: None,
                notice: None,
            })
            .collect()
    }

    #[inline]
    pub fn matches(&self, data: Section<'_>, record: usize) -> Result<ListSet, Fault> {
        let mut found = ListSet::EMPTY;
        let mut fallback = ListSet::EMPTY;
        pairs(data, record, |key, value| {
            if self.every_record.is_some() {
                found.insert(0);
            } else if is_true(value)
                && let Some(list) = self.keys.iter().position(|(known, _)| *known == key)
            {
                let set = if self.fallback == Some(key) { &mut fallback } else { &mut found };
                set.insert(list);
            }
        })?;
        Ok(if found.is_empty() { fallback } else { found })
    }

    pub fn entries<'a>(
        &self,
        data: Section<'a>,
        record: usize,
        visit: &mut dyn FnMut(Entry<'a>),
    ) -> Result<(), Fault> {
        let (mut provider, mut service) = (None, None);
        pairs(data, record, |key, value| {
            if let Token::Text(text) = value {
                if key == self.provider {
                    provider = known(text);
                } else if key == self.service {
                    service = known(text);
                }
            }
        })?;
        for list in self.matches(data, record)?.iter() {
            // The names in the record are names of the anonymizing service. They are not names of the hosting company, so they are
            // left out for the types DATACENTER, TOR and MOBILE.
            let kind = self.keys.get(list).map(|(_, kind)| *kind);
            let named = !matches!(kind, Some("DATACENTER" | "TOR" | "MOBILE"));
            visit(Entry {
                list,
                provider: provider.filter(|_| named),
                region: None,
                service: service.filter(|_| named),
            });
        }
        Ok(())
    }
}

fn is_true(value: Token<'_>) -> bool {
    matches!(value, Token::Bool(true) | Token::Text(b"true"))
}

fn is_flag(value: Token<'_>) -> bool {
    matches!(value, Token::Bool(_) | Token::Text(b"true" | b"false" | b""))
}

/// Calls `visit` with each key of the record and its value.
#[inline]
fn pairs<'a>(
    data: Section<'a>,
    record: usize,
    mut visit: impl FnMut(&'a [u8], Token<'a>),
) -> Result<(), Fault> {
    let (Token::Map(pairs), mut at) = data.next_resolved(&mut { record })? else {
        return Ok(());
    };
    let mut work = WORK;
    for _ in 0..pairs {
        let (key, _) = data.next_resolved(&mut at)?;
        let mut value_at = at;
        let (value, _) = data.next_resolved(&mut value_at)?;
        data.skip(&mut at, &mut work)?;
        if let Token::Text(key) = key {
            visit(key, value);
        }
    }
    Ok(())
}
