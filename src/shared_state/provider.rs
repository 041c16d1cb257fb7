//! A provider's health, and the last lookup that became a dead letter.

use cowrie_enrich_engine::breaker::Breaker;
use cowrie_enrich_engine::quota::Quota;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::shared_state::short_text::ShortText;

/// Providers that are queried over the network.
pub const PROVIDERS: usize = cowrie_enrich_engine::providers::ALL.len();

crate::zeroable! {
    /// The health of a provider, and the limits on requests to the provider.
    #[derive(Clone, Copy)]
    pub struct ProviderState {
        pub breaker: Breaker,
        /// State of the rate limit.
        pub rate: Timestamp,
        /// Number of requests in flight.
        pub in_use: u32,
        /// How many times in succession the provider has asked for a pause.
        pub pauses: u32,
        /// Number of requests in succession in which the provider rejected a lookup as invalid.
        pub refusals: u32,
        /// The database whose worker gets the next permit. Without this reservation, workers of other databases could
        /// take each free permit first.
        pub next_turn: u32,
        /// Time until which the next permit is reserved for the worker of the database `next_turn`.
        pub turn_ends: Timestamp,
        /// Time of the last success. Unset before the first success.
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
    /// State of a provider that refuses all requests with the present credentials.
    #[derive(Clone, Copy)]
    pub struct Stop {
        /// Time after which the worker sends a request again. Unset if the provider does not refuse the
        /// credentials.
        pub until: Timestamp,
        /// Fingerprint of the refused credentials. While the credentials are unchanged, the provider would
        /// refuse every request.
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
        /// Time when the lookup became a dead letter. Unset before the first dead letter.
        pub at: Timestamp,
        pub reason: ShortText,
    }
}
