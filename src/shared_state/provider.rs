//! A provider's health, and the last lookup that became a dead letter.

use cowrie_enrich_engine::breaker::Breaker;
use cowrie_enrich_engine::quota::Quota;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::shared_state::short_text::ShortText;

/// Providers that are queried over the network.
pub const PROVIDERS: usize = cowrie_enrich_engine::providers::ALL.len();

crate::zeroable! {
    /// A provider's health, and which processes query it.
    #[derive(Clone, Copy)]
    pub struct ProviderState {
        pub breaker: Breaker,
        /// State of the rate limit.
        pub rate: Timestamp,
        /// Requests in flight.
        pub in_use: u32,
        /// How many times in a row the provider asked for a pause.
        pub pauses: u32,
        /// Number of consecutive requests with a lookup that the provider rejected as invalid.
        pub refusals: u32,
        /// The database whose worker gets the next permit. Without this reservation, workers of other databases could
        /// take each free permit first.
        pub next_turn: u32,
        /// Time until which the permit is kept for that worker.
        pub turn_ends: Timestamp,
        /// Unset before the first.
        pub last_success: Timestamp,
        pub last_failure: Timestamp,
        pub last_error: ShortText,
        /// Requests of the current day that count against the quota.
        pub quota: Quota,
        pub stop: Stop,
        /// A notice that the provider sent with its last answer.
        pub notice: ShortText,
    }
}

crate::zeroable! {
    /// A provider refuses requests with the current credentials.
    #[derive(Clone, Copy)]
    pub struct Stop {
        /// Time after which another request is tried. Unset while the provider is not stopped.
        pub until: Timestamp,
        /// Fingerprint of the refused credentials. While they are unchanged, further requests are pointless.
        pub credentials: u64,
        pub reason: ShortText,
    }
}

crate::zeroable! {
    /// The last lookup that became a dead letter.
    #[derive(Clone, Copy)]
    pub struct DeadLetter {
        /// The provider's index.
        pub provider: u32,
        /// Unset before the first.
        pub at: Timestamp,
        pub reason: ShortText,
    }
}
