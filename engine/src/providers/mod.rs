//! Answers: whom can be asked about an address, and in which words?
//!
//! The rule: a provider is one file below here and one entry of [`ALL`]. It says what can be set, how much it may be
//! asked, and turns lookups into a [`Reply`]; whoever drives it knows nothing else of it. Settings come in as data.
//!
//! | file | answers for |
//! |---|---|
//! | `setting` | what can be set, as data: the server's side defines it and hands the values in |
//! | `reply` | what came of asking: answers, failures, and what the provider asks of its clients |
//! | `http` | one address a request, as GreyNoise, DShield and SPUR are asked |
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

/// Every provider. Append only: what is shared between processes is laid out by the places in here, and status views
/// show them in this order.
pub const ALL: &[&dyn Provider] = &[&cymru::TeamCymru, &greynoise::GreyNoise, &dshield::Dshield, &spur::Spur];

/// What can be set for all of them; what several share stands here once.
pub fn settings() -> Vec<&'static Setting> {
    let mut all: Vec<&'static Setting> = Vec::new();
    for setting in ALL.iter().flat_map(|provider| provider.settings()) {
        if all.iter().all(|known| known.name != setting.name) {
            all.push(setting);
        }
    }
    all
}

/// Somebody who knows something about addresses and is asked over the network.
pub trait Provider: Sync {
    /// Its key in documents, tables and settings: lower case, at most 20 letters.
    fn name(&self) -> &'static str;

    /// As people call it.
    fn title(&self) -> &'static str;

    fn settings(&self) -> &'static [&'static Setting];

    fn limits(&self, settings: &Settings) -> Limits;

    fn lifetimes(&self, settings: &Settings) -> Lifetimes;

    /// Why it cannot be asked as things are set: a sentence that names the setting. Reads no file, asks nobody.
    fn blocked_reason(&self, _settings: &Settings) -> Option<String> {
        None
    }

    /// Something that changes when what the provider was refused for may have been mended: settings, content of a key
    /// file. May read a small file. Not the secret, nor anything that it could be found from.
    fn credentials(&self, _settings: &Settings) -> u64 {
        0
    }

    /// Whether it can say anything about such an address at all.
    fn takes(&self, _address: Address) -> bool {
        true
    }

    /// Returns what is looked up on behalf of an address: the address, or a block whose addresses share one answer.
    fn lookup_key(&self, address: Address) -> Prefix {
        Prefix::host(address)
    }

    /// Whether `lookup_key` is a block.
    fn shares_answers(&self) -> bool {
        false
    }

    fn purpose(&self) -> Purpose {
        Purpose::Facts
    }

    /// One exchange about at most `limits().batch` distinct addresses, on a thread of its own. What it finds it owes to
    /// a parser that is total: whatever comes is an answer, a failure or an anomaly, never a panic.
    fn fetch(&self, addresses: &[Address], settings: &Settings, cancel: &Cancel) -> Reply;
}

/// What a provider's answers are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Asked about addresses without a network; sessions wait for it.
    Network,
    /// Asked about all; sessions wait for the address's type.
    IpType,
    /// Asked about all; nothing waits.
    Facts,
}

/// How much a provider may be asked, by all processes together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Addresses in one exchange.
    pub batch: usize,
    /// Exchanges at the same time.
    pub parallel: u32,
    /// Exchanges begun.
    pub rate: Rate,
    /// Exchanges begun in one day (UTC); 0: no limit.
    pub daily_quota: u32,
    /// Longest duration of an exchange, the system's own time for resolving names apart.
    pub longest: Duration,
}

/// For how many seconds answers are fresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetimes {
    pub value: i32,
    pub absent: i32,
}

/// One exchange, for the pool.
pub struct Exchange {
    pub provider: &'static dyn Provider,
    pub settings: Settings,
    pub addresses: Vec<Address>,
}

impl Task for Exchange {
    type Done = Reply;

    fn run(self, cancel: &Cancel) -> Reply {
        if cancel.is_set() {
            return Reply::unsent(Failure::Cancelled);
        }
        self.provider.fetch(&self.addresses, &self.settings, cancel)
    }

    fn lost(panic: String) -> Reply {
        Reply::failed(Failure::Io(format!("the exchange panicked: {panic}")))
    }
}

/// Who handed out a network: one of the five regional internet registries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Registry {
    Arin,
    Ripe,
    Apnic,
    Lacnic,
    Afrinic,
}

impl Registry {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arin => "ARIN",
            Self::Ripe => "RIPE",
            Self::Apnic => "APNIC",
            Self::Lacnic => "LACNIC",
            Self::Afrinic => "AFRINIC",
        }
    }

    /// As providers write it, in any case; "other" and blank are none.
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
