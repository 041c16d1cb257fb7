//! Results of an exchange with a provider.
//!
//! An [`Answer`] distinguishes three results of a lookup: the provider has facts, it has none, or it refused the
//! lookup. If an address has no entry in [`Reply::answers`], its lookup got no answer. `Reply::failure` can explain
//! why. Demands of the provider on its clients are separate from the answers.

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
    /// The provider says that it has no facts about the address. Contains its response, or `None` if no part of the
    /// response is stored. The caller stores this result, too. It has a limited lifetime.
    Absent(Option<JsonObject>),
    /// The provider did not accept the lookup. Contains its message.
    Refused(String),
}

/// Facts about an address, a block or a network.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Finding {
    /// The caller stores these data in the document of the address or network, under the provider's name. The caller
    /// adds the time of receipt.
    pub source_data: JsonObject,
    pub network: Option<NetworkInfo>,
    /// The prefix for which the answer is valid, if it is smaller than the lookup's block.
    pub prefix: Option<Prefix>,
}

/// Facts about a network. The lookup was for the AS number, or for an address that the network announces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkInfo {
    /// The AS number. `None` in the answer to a lookup by AS number, because the caller knows the number.
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
    /// Send no requests until the settings change, because the key is wrong or lacks permission (401, 403). Contains
    /// the reason as a sentence.
    Stop(String),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reply {
    /// Answers for requested addresses only. An address without an entry got no answer and is looked up again later.
    pub answers: BTreeMap<Address, Answer>,
    /// Answers of an exchange about networks, by AS number. Only networks that were requested have an entry.
    pub networks: BTreeMap<u32, Answer>,
    /// The reason why addresses have no answer. Set if the exchange failed.
    pub failure: Option<Failure>,
    /// Determines whether a failure or a refusal uses up an attempt of the lookups in this exchange. If true, it always
    /// does. If false, the provider may be the cause, so it does only if the provider answers other lookups.
    pub blames_lookup: bool,
    pub demand: Option<Demand>,
    pub anomalies: Anomalies,
    /// Additional information of the provider for operators: one line, such as a balance.
    pub notice: Option<String>,
    /// The result of `Provider::credentials` for the key that this exchange used. The configured key may have been replaced since.
    /// `None` if the provider needs no credentials.
    pub credentials: Option<u64>,
    /// Time until the connection was established or the server was known. `None` if neither happened.
    pub connected: Option<Duration>,
    /// True if no request was sent, so no quota is used. If the lookup of the provider's host name failed, or the
    /// connection failed, the value is false.
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
