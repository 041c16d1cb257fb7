//! Results of an exchange with a provider.
//!
//! An [`Answer`] is one of three results of a lookup: the provider has facts, the provider has no facts, or the
//! provider refused the lookup. If an address has no entry in [`Reply::answers`], the provider gave no answer for it.
//! In this case, `Reply::failure` may contain the reason. A [`Demand`], for example to send no requests for some time,
//! is not an answer.

use crate::address::Address;
use crate::net::Failure;
use crate::prefix::Prefix;
use std::collections::BTreeMap;
use std::time::Duration;

/// A provider's facts about an address, as JSON.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Found(Finding),
    /// The provider says that it has no facts about the address. Contains the response, or `None` if no part of the
    /// response is stored. The caller stores this result for a limited lifetime.
    Absent(Option<JsonObject>),
    /// The provider did not accept the lookup. Contains its message.
    Refused(String),
}

/// Facts about an address, a block or a network.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Finding {
    /// The caller stores this JSON object in the document of the address or network, under the provider's name. The
    /// caller also adds the time when the answer was received.
    pub source_data: JsonObject,
    pub network: Option<NetworkInfo>,
    /// The prefix for which the answer is valid. `None` if the answer is valid for the whole block of the lookup.
    pub prefix: Option<Prefix>,
}

/// Facts about a network. The lookup was for the AS number of the network, or for an address that the network
/// announces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkInfo {
    /// The AS number. `None` if the lookup was for an AS number, because the caller then knows the number.
    pub asn: Option<u32>,
    /// Name of the organisation.
    pub name: Option<String>,
    /// Country of registration, two capitals.
    pub country: Option<String>,
    pub registry: Option<super::Registry>,
    /// Name of the network as received.
    pub as_name: Option<String>,
    /// Date when the registry allocated the number, `YYYY-MM-DD`.
    pub allocated: Option<String>,
}

/// Counts of received data that was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Anomalies {
    /// Number of rows about addresses or networks that were not requested.
    pub foreign: u64,
    /// Number of invalid rows and messages.
    pub malformed: u64,
    /// Number of rows and messages that are too long.
    pub oversized: u64,
}

/// A demand of a provider on its clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Demand {
    /// Send no requests for this time (429, Retry-After).
    Pause(Duration),
    /// The client must send no requests until the settings or the key file change, because the key is wrong or lacks
    /// permission (401, 403). Contains the reason as a sentence.
    Stop(String),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reply {
    /// Contains answers only for requested addresses. If an address has no entry, the provider gave no answer for it,
    /// and the address is looked up again later.
    pub answers: BTreeMap<Address, Answer>,
    /// Answers of an exchange about networks. The AS number of the network is the key of an entry. Only requested
    /// networks have an entry.
    pub networks: BTreeMap<u32, Answer>,
    /// If the exchange failed, the reason why addresses or networks have no answer. Otherwise `None`.
    pub failure: Option<Failure>,
    /// Determines whether a failure or a refusal uses up one attempt of each lookup in this exchange. If true, it uses
    /// up an attempt in every case. If false, the provider may be the cause. Then an attempt is used up only if the
    /// provider answers other lookups.
    pub blames_lookup: bool,
    pub demand: Option<Demand>,
    pub anomalies: Anomalies,
    /// Additional information that the provider gives to operators, in one line. An example is the balance of the
    /// account.
    pub notice: Option<String>,
    /// The result of `Provider::credentials` for the key that this exchange used. The key file may have been changed
    /// since then. `None` if the provider needs no credentials.
    pub credentials: Option<u64>,
    /// Time until the connection was established, or until the address of the server was known. `None` if neither
    /// happened.
    pub connected: Option<Duration>,
    /// True if the exchange sent no request, so it used no quota. If the exchange tried to resolve the host name or to
    /// connect, the value is false, even if this step failed.
    pub unsent: bool,
}

impl Reply {
    /// Returns all answers, about addresses and about networks.
    pub fn all_answers(&self) -> impl Iterator<Item = &Answer> {
        self.answers.values().chain(self.networks.values())
    }

    /// Creates a reply without any response.
    pub fn failed(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }

    /// Creates a reply of an exchange that sent no request.
    pub fn unsent(failure: Failure) -> Self {
        Self { unsent: true, ..Self::failed(failure) }
    }
}
