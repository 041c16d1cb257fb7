//! Answers: what came of asking a provider?
//!
//! The rule: absent, failed and refused are different things. An address without an answer was not answered; a failure
//! only ever explains why; and what the provider asks of its clients stands apart from both.

use crate::address::Address;
use crate::net::Failure;
use crate::prefix::Prefix;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a provider says of an address, as JSON.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Found(Finding),
    /// The provider knows for certain that it knows nothing, and has said so in these words; none: it said nothing that
    /// is kept. True for a while, and worth remembering.
    Absent(Option<JsonObject>),
    /// The provider could not make sense of the lookup; its words.
    Refused(String),
}

/// What is known of an address, or of a block.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Finding {
    /// Kept in the address's document under the provider's name. When it came is added by whoever keeps it.
    pub said: JsonObject,
    pub network: Option<NetworkInfo>,
    /// What the answer holds for, where that is less than the block that was asked about.
    pub prefix: Option<Prefix>,
}

/// What an answer says of the network that announces the address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkInfo {
    pub asn: u32,
    pub name: Option<String>,
    /// Where the network is registered, two capitals.
    pub country: Option<String>,
    pub registry: Option<super::Registry>,
}

/// What came and was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Anomalies {
    /// Rows about addresses that were not asked.
    pub foreign: u64,
    /// Rows and messages that make no sense.
    pub malformed: u64,
    /// Rows and messages that are too long.
    pub oversized: u64,
}

/// What a provider asks of its clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Demand {
    /// Not to be asked for so long (429, Retry-After).
    Rest(Duration),
    /// Not to be asked any more as things are: the key is wrong, or does not allow it (401, 403). Why, in a sentence.
    Stop(String),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reply {
    /// Of asked addresses only. An asked address that is missing got no answer: ask again later.
    pub answers: BTreeMap<Address, Answer>,
    /// Why addresses are missing, when it was the exchange's fault.
    pub failure: Option<Failure>,
    /// Whether a failure or a refusal is held against the lookups of this exchange in any case. Not where the provider
    /// may be the cause: then it depends on whether others are answered.
    pub blames_lookup: bool,
    pub demand: Option<Demand>,
    pub anomalies: Anomalies,
    /// What the provider said beside the answer that an operator may want to know: one line, such as a balance.
    pub notice: Option<String>,
    /// What `Provider::credentials` gives for what this exchange was made with: a key may have been replaced since.
    /// `None`: nothing depends on it.
    pub credentials: Option<u64>,
    /// How long it took until there was a connection, or a server to ask; `None`: there was none.
    pub connected: Option<Duration>,
    /// Nothing was sent, and nothing tried: no quota is spent. A name that was looked up, or a connection that did not
    /// come about, has been tried.
    pub unsent: bool,
}

impl Reply {
    /// Nothing came.
    pub fn failed(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }

    /// Nothing was asked.
    pub fn unsent(failure: Failure) -> Self {
        Self { unsent: true, ..Self::failed(failure) }
    }
}
