//! Providers of facts about addresses.
//!
//! A provider is one file in this folder and one entry of [`ALL`]. The file declares the settings and the limits, and turns lookups
//! into a [`Reply`]. The file offers nothing else to callers. Settings are passed as data.
//!
//! | file | holds |
//! |---|---|
//! | `setting` | settings as data: the server's side defines them and passes the values |
//! | `reply` | results of an exchange: answers, failures, and demands of the provider |
//! | `http` | one address per request: GreyNoise, DShield and SPUR |
//! | `cymru`, `greynoise`, `dshield`, `spur` | the providers |

pub mod cymru;
pub mod dshield;
pub mod greynoise;
pub(crate) mod http;
mod reply;
pub mod setting;
pub mod spur;

pub use crate::net::Failure;
pub use reply::{Anomalies, Answer, Demand, Finding, JsonObject, NetworkInfo, Reply};
pub use setting::{Setting, Settings};

use crate::address::Address;
use crate::net::{Cancel, Task};
use crate::prefix::Prefix;
use crate::rate::Rate;
use std::fmt;
use std::time::Duration;

/// All providers. New providers are appended at the end, because shared memory is laid out by the index in this list.
/// Status views use this order.
pub const ALL: &[&dyn Provider] = &[&cymru::TeamCymru, &greynoise::GreyNoise, &dshield::Dshield, &spur::Spur];

/// Returns the settings of all providers. A setting that several providers share appears once.
pub fn settings() -> Vec<&'static Setting> {
    let mut all: Vec<&'static Setting> = Vec::new();
    for setting in ALL.iter().flat_map(|provider| provider.settings()) {
        if all.iter().all(|known| known.name != setting.name) {
            all.push(setting);
        }
    }
    all
}

/// A service that has facts about addresses and is queried over the network.
pub trait Provider: Sync {
    /// Key in documents, tables and settings: lower case, at most 20 letters.
    fn name(&self) -> &'static str;

    /// Name in texts for users.
    fn title(&self) -> &'static str;

    fn settings(&self) -> &'static [&'static Setting];

    fn limits(&self, settings: &Settings) -> Limits;

    fn lifetimes(&self, settings: &Settings) -> Lifetimes;

    /// Returns why the settings do not allow requests: a sentence that names the setting. Reads no file and sends
    /// nothing.
    fn blocked_reason(&self, _settings: &Settings) -> Option<String> {
        None
    }

    /// Returns a number that changes when the settings or the contents of a key file change. The provider may then
    /// accept requests that it refused before. May read a small file. The number does not reveal the secret.
    fn credentials(&self, _settings: &Settings) -> u64 {
        0
    }

    /// Returns whether the provider can have facts about this address.
    fn takes(&self, _address: Address) -> bool {
        true
    }

    /// Returns true if known research scanners are not looked up at the provider, because the provider has no further facts
    /// about them.
    fn leaves_out_benign_scanners(&self) -> bool {
        false
    }

    /// Returns the key to look up for an address: the address, or a block whose addresses share one answer.
    fn lookup_key(&self, address: Address) -> Prefix {
        Prefix::host(address)
    }

    /// Returns whether `lookup_key` is a block.
    fn shares_answers(&self) -> bool {
        false
    }

    fn purpose(&self) -> Purpose {
        Purpose::Facts
    }

    /// Runs one exchange about at most `limits().batch` distinct addresses, on its own thread. The parser accepts all
    /// bytes: each response is an answer, a failure or an anomaly, never a panic.
    fn fetch(&self, addresses: &[Address], settings: &Settings, cancel: &Cancel) -> Reply;

    /// Returns whether the provider answers lookups of networks by their AS number.
    fn knows_networks(&self) -> bool {
        false
    }

    /// Returns whether the settings allow lookups of networks. Only called if `knows_networks` returns true.
    fn looks_up_networks(&self, _settings: &Settings) -> bool {
        false
    }

    /// Like `fetch`, for distinct networks. Only called if `knows_networks` returns true.
    fn fetch_networks(&self, _asns: &[u32], _settings: &Settings, _cancel: &Cancel) -> Reply {
        Reply::unsent(Failure::Io("the provider does not look up networks".to_owned()))
    }
}

/// The use of a provider's answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Looks up addresses without a network. Sessions wait for the answer.
    Network,
    /// Looks up all addresses. Sessions wait for the address's type.
    IpType,
    /// Looks up all addresses. No session waits.
    Facts,
}

/// Limits on requests to a provider, for all processes together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Maximum number of addresses, or of networks, in one exchange.
    pub batch: usize,
    /// Maximum number of concurrent exchanges.
    pub parallel: u32,
    /// Rate of starting exchanges.
    pub rate: Rate,
    /// Maximum number of exchanges started in one day (UTC). 0 means no limit.
    pub daily_quota: u32,
    /// Longest duration of an exchange, without the time that the system needs to resolve names.
    pub longest: Duration,
}

/// Lifetimes of answers in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetimes {
    pub value: i32,
    pub absent: i32,
}

/// One exchange, as a task of the pool.
pub struct Exchange {
    pub provider: &'static dyn Provider,
    pub settings: Settings,
    pub lookups: Lookups,
}

/// The lookups of one exchange. They are all of one kind, because the forms of their answers differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookups {
    Addresses(Vec<Address>),
    /// AS numbers.
    Networks(Vec<u32>),
}

impl Task for Exchange {
    type Done = Reply;

    fn run(self, cancel: &Cancel) -> Reply {
        if cancel.is_set() {
            return Reply::unsent(Failure::Cancelled);
        }
        match &self.lookups {
            Lookups::Addresses(addresses) => self.provider.fetch(addresses, &self.settings, cancel),
            Lookups::Networks(asns) => self.provider.fetch_networks(asns, &self.settings, cancel),
        }
    }

    fn lost(panic: String) -> Reply {
        Reply::failed(Failure::Io(format!("the exchange panicked: {panic}")))
    }
}

/// The registry that allocated a network: one of the five regional internet registries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Registry {
    Arin,
    Ripe,
    Apnic,
    Lacnic,
    Afrinic,
}

impl Registry {
    /// Returns the stored name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arin => "ARIN",
            Self::Ripe => "RIPE",
            Self::Apnic => "APNIC",
            Self::Lacnic => "LACNIC",
            Self::Afrinic => "AFRINIC",
        }
    }

    /// Parses a provider's spelling, in any case. Returns `None` for "other" and blanks.
    pub fn parse(text: &str) -> Option<Self> {
        const SPELLINGS: [(&str, Registry); 7] = [
            ("arin", Registry::Arin),
            ("ripe", Registry::Ripe),
            ("ripencc", Registry::Ripe),
            ("ripe-ncc", Registry::Ripe),
            ("apnic", Registry::Apnic),
            ("lacnic", Registry::Lacnic),
            ("afrinic", Registry::Afrinic),
        ];
        let text = text.trim_ascii();
        SPELLINGS
            .iter()
            .find(|(spelling, _)| text.eq_ignore_ascii_case(spelling))
            .map(|(_, registry)| *registry)
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_known_by_every_spelling() {
        for (text, name) in [
            ("arin", "ARIN"),
            (" ARIN ", "ARIN"),
            ("ripencc", "RIPE"),
            ("RIPE", "RIPE"),
            ("ripe-ncc", "RIPE"),
            ("apnic", "APNIC"),
            ("Lacnic", "LACNIC"),
            ("afrinic", "AFRINIC"),
        ] {
            assert_eq!(Registry::parse(text).map(Registry::name), Some(name), "{text}");
        }
        for text in ["", "other", "NA", "arin2", "iana"] {
            assert_eq!(Registry::parse(text), None, "{text}");
        }
    }
}
