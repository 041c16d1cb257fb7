//! Providers of facts about addresses.
//!
//! Each provider has its own file or folder in this folder, and one entry in [`ALL`]. The file declares the settings
//! and the limits of the provider, performs lookups, and returns a [`Reply`]. The worker uses all providers through the
//! trait [`Provider`], and passes the values of the settings as data.
//!
//! | file | holds |
//! |---|---|
//! | `setting` | settings as data: the extension defines them in PostgreSQL and passes the values |
//! | `reply` | results of an exchange: answers, failures, and demands of the provider on its clients |
//! | `http` | code that GreyNoise, DShield and SPUR share, with one address per request |
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

/// All providers. Status views use this order. A new provider must be added at the end, because the layout of shared
/// memory depends on the index of a provider in this list.
pub const ALL: &[&dyn Provider] = &[&cymru::TeamCymru, &greynoise::GreyNoise, &dshield::Dshield, &spur::Spur];

/// Returns the settings of all providers. If several providers share a setting, the result contains the setting once.
pub fn settings() -> Vec<&'static Setting> {
    let mut all: Vec<&'static Setting> = Vec::new();
    for setting in ALL.iter().flat_map(|provider| provider.settings()) {
        if all.iter().all(|known| known.name != setting.name) {
            all.push(setting);
        }
    }
    all
}

/// A service that has facts about addresses. The client sends lookups to the service over the network.
pub trait Provider: Sync {
    /// Name of the provider in documents, tables and settings. It is in lower case and has at most 20 letters.
    fn name(&self) -> &'static str;

    /// Name in texts for users.
    fn title(&self) -> &'static str;

    fn settings(&self) -> &'static [&'static Setting];

    fn limits(&self, settings: &Settings) -> Limits;

    fn lifetimes(&self, settings: &Settings) -> Lifetimes;

    /// If the settings do not allow requests, returns the reason: a sentence that names the setting. This function
    /// reads no file and sends nothing.
    fn blocked_reason(&self, _settings: &Settings) -> Option<String> {
        None
    }

    /// Returns a number that changes if the settings or the contents of a key file change. After a change, the provider
    /// may accept requests that it refused before. This function may read a small file. The number does not reveal the
    /// key.
    fn credentials(&self, _settings: &Settings) -> u64 {
        0
    }

    /// Returns whether the provider can have facts about this address.
    fn takes(&self, _address: Address) -> bool {
        true
    }

    /// Returns true if addresses of known research scanners are not looked up, because the provider has no further
    /// facts about these addresses.
    fn leaves_out_benign_scanners(&self) -> bool {
        false
    }

    /// Returns the prefix to look up for an address. It is the address itself, or a block whose addresses have the same
    /// answer.
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

    /// Runs one exchange about at most `limits().batch` distinct addresses. Each exchange has its own thread. The
    /// parser accepts any bytes: a response gives an answer, a failure or an anomaly, and never a panic.
    fn fetch(&self, addresses: &[Address], settings: &Settings, cancel: &Cancel) -> Reply;

    /// Returns true if the provider can look up networks by their AS numbers.
    fn knows_networks(&self) -> bool {
        false
    }

    /// Returns true if the settings allow lookups of networks. This function is called only if `knows_networks` returns
    /// true.
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
    /// Maximum number of exchanges that are started in one day (UTC). 0 means that there is no limit.
    pub daily_quota: u32,
    /// Maximum time of an exchange. The time in which the system resolves host names is not included.
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

/// The lookups of one exchange. All of them are of one kind, because answers about addresses and answers about networks
/// have different forms.
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

/// The registry that allocated the AS number of a network. There are five regional internet registries.
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

    /// Parses the name of a registry as a provider writes it, in upper or lower case. Returns `None` if the text is
    /// "other" or blank, or names no registry.
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
