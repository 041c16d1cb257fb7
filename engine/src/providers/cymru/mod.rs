//! Answers: which network announces these addresses, as Team Cymru sees it?
//!
//! Source of all protocol facts: Team Cymru's page "IP to ASN mapping", <https://www.team-cymru.com/ip-asn-mapping>,
//! and captured answers.
//!
//! The rule: what is not known stays unknown. An address without a row is in no map; "no network announces it" is an
//! answer (`RouteAnswer::Absent`); and a failure only ever explains why addresses lack one.
//!
//! | file | answers for |
//! |---|---|
//! | `route` | one network, its fields, and which of several wins |
//! | `whois` | the bulk protocol on TCP 43: request, parser, exchange |
//! | `dns` | the same questions as DNS names, for where port 43 is closed |
//! | `provider` | Team Cymru as one provider among others: settings, limits, what its answers mean |

pub mod dns;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
mod provider;
mod route;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod tests;
pub mod whois;

pub use crate::net::Failure;
pub use crate::providers::{Anomalies, Registry};
pub use provider::{TeamCymru, settings};
pub use route::Route;

use crate::address::Address;
use crate::net::{Cancel, Task};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Addresses in a batch. Team Cymru publishes no limit; its clients ask 500 at a time.
pub const MOST_ADDRESSES: usize = 500;

/// An exchange that lasts longer holds up more than it can bring.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteAnswer {
    Route(Route),
    /// No network announces the address. True for a while, and worth remembering.
    Absent,
    /// The provider could not make sense of the lookup; its words.
    Refused(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Whois, and DNS when no connection to it comes about.
    Auto,
    Whois,
    Dns,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CymruSettings {
    pub transport: Transport,
    /// A name or an address.
    pub whois_host: String,
    pub whois_port: u16,
    /// `host:port`, `[v6]:port`, or a host alone (port 53); `None`: the system's first nameserver.
    pub dns_server: Option<String>,
    /// For a whole whois exchange, at most `LONGEST_TIMEOUT`. DNS gets 15 s at least.
    pub timeout: Duration,
}

impl CymruSettings {
    /// No exchange lasts longer, the system's own time for resolving names not counted.
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

/// One exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteRequest {
    pub settings: CymruSettings,
    /// Distinct, at most `MOST_ADDRESSES`; further ones are not asked.
    pub addresses: Vec<Address>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteReply {
    /// Of asked addresses only. An asked address that is missing got no answer: ask again later.
    pub answers: BTreeMap<Address, RouteAnswer>,
    /// Why addresses are missing, when it was the exchange's fault. Never set when all are answered; not set either
    /// when the provider ended an orderly answer without a row for some.
    pub failure: Option<Failure>,
    pub anomalies: Anomalies,
    /// `Whois` or `Dns`.
    pub used: Transport,
    /// Received.
    pub bytes: u64,
    /// How long it took until there was a connection, or a DNS server to ask; `None`: there was none.
    pub connected: Option<Duration>,
    /// The provider sent something: any byte, or any DNS message that belongs to a question.
    pub spoke: bool,
}

impl RouteReply {
    /// Nothing came.
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
        let asked = &self.addresses[..self.addresses.len().min(MOST_ADDRESSES)];
        if asked.is_empty() {
            return RouteReply::new(Transport::Whois, None);
        }
        match self.settings.transport {
            Transport::Whois => whois::exchange(&self.settings, asked, cancel),
            Transport::Dns => dns::exchange(&self.settings, asked, cancel),
            Transport::Auto => {
                let begun = Instant::now();
                let whois = whois::exchange(&self.settings, asked, cancel);
                match &whois.failure {
                    Some(failure) if failure.is_unreachable() => {
                        let tried = begun.elapsed();
                        let mut dns = dns::exchange(&self.settings, asked, cancel);
                        dns.connected = dns.connected.map(|took| tried + took);
                        instead(failure, dns)
                    }
                    _ => whois,
                }
            }
        }
    }

    fn lost(panic: String) -> RouteReply {
        RouteReply::new(Transport::Whois, Some(Failure::Io(format!("the exchange panicked: {panic}"))))
    }
}

/// The reply by DNS; if that was not to be had either, the failure says both reasons, and stays one of those that say
/// that the provider is out of reach.
fn instead(whois: &Failure, mut dns: RouteReply) -> RouteReply {
    if let Some(failure) = &dns.failure
        && (failure.is_unreachable() || *failure == Failure::Silent)
    {
        let (whois, failure) = (whois.to_string(), failure.to_string());
        dns.failure = Some(Failure::Connect(format!("whois: {whois:.90}; DNS: {failure:.90}")));
    }
    dns
}
