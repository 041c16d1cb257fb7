//! Team Cymru: the networks that announce addresses, and facts about networks.
//!
//! All facts about the protocol come from Team Cymru's page "IP to ASN mapping",
//! <https://www.team-cymru.com/ip-asn-mapping>, and from captured responses.
//!
//! If a response has no row about an address, the answers have no entry for this address. If a row says that no network
//! announces the address, the answer is `RouteAnswer::Absent`. A failure of an exchange only explains why some
//! addresses have no entry.
//!
//! | file | holds |
//! |---|---|
//! | `route` | the network of an address, its fields, and the choice between several rows |
//! | `network` | the facts about a network that was looked up by its AS number |
//! | `whois` | the bulk protocol on TCP 43: request, parser, exchange |
//! | `dns` | the same lookups over DNS, for hosts where port 43 is blocked |
//! | `provider` | Team Cymru as a provider: settings, limits, conversion of answers |

pub mod dns;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
mod network;
mod provider;
mod route;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod tests;
pub mod whois;

pub use crate::net::Failure;
pub use crate::providers::{Anomalies, Registry};
pub use network::{Network, NetworkAnswer, without_country};
pub use provider::{TeamCymru, settings};
pub use route::Route;

use crate::address::Address;
use crate::net::{Cancel, Task};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Maximum number of addresses or networks in a batch. Team Cymru publishes no limit. The client programs of Team Cymru
/// send 500 at a time.
pub const MOST_ADDRESSES: usize = 500;

/// Maximum time of an exchange. A longer exchange would delay other lookups for too long.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteAnswer {
    Route(Route),
    /// No network announces the address. This answer is stored, and its lifetime is limited.
    Absent,
    /// The provider did not accept the lookup. Contains its message.
    Refused(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Whois, or DNS if no whois connection can be established.
    Auto,
    Whois,
    Dns,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CymruSettings {
    pub transport: Transport,
    /// A host name or an address.
    pub whois_host: String,
    pub whois_port: u16,
    /// The DNS server: `host:port`, `[v6]:port`, or a host without a port. The default port is 53. `None` means the
    /// first DNS server in the system's configuration.
    pub dns_server: Option<String>,
    /// Maximum time of a whole whois exchange. It is limited to `LONGEST_TIMEOUT`. A DNS exchange gets at least 15 s.
    pub timeout: Duration,
}

impl CymruSettings {
    /// Returns the maximum time of an exchange. The time in which the system resolves host names is not included.
    pub fn longest_exchange(&self) -> Duration {
        let whois = whois::longest(self.timeout);
        let dns = dns::longest(self.timeout);
        match self.transport {
            Transport::Whois => whois,
            Transport::Dns => dns,
            Transport::Auto => whois.max(whois::longest_to_connect(self.timeout) + dns),
        }
    }
}

/// One exchange about addresses, as a task of the pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteRequest {
    pub settings: CymruSettings,
    /// Distinct addresses, at most `MOST_ADDRESSES`. Further addresses are ignored.
    pub addresses: Vec<Address>,
}

/// One exchange about networks. A request contains either addresses or networks, and never both, because the two kinds
/// of answers have different forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkRequest {
    pub settings: CymruSettings,
    /// Distinct AS numbers, at most `MOST_ADDRESSES`. Further numbers are ignored.
    pub asns: Vec<u32>,
}

pub type RouteReply = CymruReply<Address, RouteAnswer>;
pub type NetworkReply = CymruReply<u32, NetworkAnswer>;

/// The result of an exchange. `K` is the type of the lookup keys: an address, or an AS number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CymruReply<K, A> {
    /// Contains answers only for keys of the request. If a key has no entry, the provider gave no answer for this key,
    /// and the key is looked up again later.
    pub answers: BTreeMap<K, A>,
    /// If the exchange failed, the reason why some keys have no answer. `None` if all keys have an answer. Also `None`
    /// if the response was complete but had no row for some keys.
    pub failure: Option<Failure>,
    pub anomalies: Anomalies,
    /// Either `Whois` or `Dns`.
    pub used: Transport,
    /// Bytes received.
    pub bytes: u64,
    /// Time until the connection was established, or until the address of the DNS server was known. `None` if neither
    /// happened.
    pub connected: Option<Duration>,
    /// True if the provider sent at least one byte over whois, or at least one DNS message that matches a query.
    pub spoke: bool,
}

impl<K, A> CymruReply<K, A> {
    /// Creates a reply without any response.
    fn new(used: Transport, failure: Option<Failure>) -> Self {
        Self {
            answers: BTreeMap::new(),
            failure,
            anomalies: Anomalies::default(),
            used,
            bytes: 0,
            connected: None,
            spoke: false,
        }
    }
}

impl Task for RouteRequest {
    type Done = RouteReply;

    fn run(self, cancel: &Cancel) -> RouteReply {
        let Self { settings, addresses } = self;
        let whois = |asked: &[Address]| whois::exchange(&settings, asked, cancel);
        let dns = |asked: &[Address]| dns::exchange(&settings, asked, cancel);
        exchange(settings.transport, &addresses, whois, dns)
    }

    fn lost(panic: String) -> RouteReply {
        RouteReply::new(Transport::Whois, Some(Failure::Io(format!("the exchange panicked: {panic}"))))
    }
}

impl NetworkRequest {
    pub fn run(self, cancel: &Cancel) -> NetworkReply {
        let Self { settings, asns } = self;
        let whois = |asked: &[u32]| whois::exchange_networks(&settings, asked, cancel);
        let dns = |asked: &[u32]| dns::exchange_networks(&settings, asked, cancel);
        exchange(settings.transport, &asns, whois, dns)
    }
}

/// Runs an exchange by the transport of the settings.
fn exchange<K, A>(
    transport: Transport,
    keys: &[K],
    whois: impl FnOnce(&[K]) -> CymruReply<K, A>,
    dns: impl FnOnce(&[K]) -> CymruReply<K, A>,
) -> CymruReply<K, A> {
    let asked = &keys[..keys.len().min(MOST_ADDRESSES)];
    if asked.is_empty() {
        return CymruReply::new(Transport::Whois, None);
    }
    match transport {
        Transport::Whois => whois(asked),
        Transport::Dns => dns(asked),
        Transport::Auto => {
            let begun = Instant::now();
            let whois = whois(asked);
            match &whois.failure {
                Some(failure) if failure.is_unreachable() => {
                    let tried = begun.elapsed();
                    let mut dns = dns(asked);
                    dns.connected = dns.connected.map(|took| tried + took);
                    instead(failure, dns)
                }
                _ => whois,
            }
        }
    }
}

/// Returns the reply of the DNS exchange that replaced a failed whois exchange. If the DNS server was unreachable or silent too,
/// the failure of the reply contains the reasons of both exchanges, and counts as unreachable.
fn instead<K, A>(whois: &Failure, mut dns: CymruReply<K, A>) -> CymruReply<K, A> {
    if let Some(failure) = &dns.failure
        && (failure.is_unreachable() || *failure == Failure::Silent)
    {
        let (whois, failure) = (whois.to_string(), failure.to_string());
        dns.failure = Some(Failure::Connect(format!("whois: {whois:.90}; DNS: {failure:.90}")));
    }
    dns
}
