//! The providers: the index of each provider in shared memory, and the current settings of each provider.

pub mod counters;
pub mod health;
pub mod limiter;
pub mod quota;
pub mod reply;

use std::cell::RefCell;
use std::ops::Deref;
use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::network_kind::{self, NetworkKind};
use cowrie_enrich_engine::providers::{self, Lifetimes, Purpose, Settings};
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::guc;
use crate::mmdb::{self, LoadPolicy};
use crate::pg::clock;

/// A source to which lookups are sent over the network. The number is the index of the source in [`providers::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Provider(usize);

/// The limits for requests to a provider, and the pause after a failure.
#[derive(Clone, Copy)]
pub struct Limits {
    own: providers::Limits,
    /// Pause after a first failure.
    pub retry_base: Duration,
}

impl Deref for Limits {
    type Target = providers::Limits;
    fn deref(&self) -> &providers::Limits {
        &self.own
    }
}

/// Values that are computed from the settings. These values change only if the settings are reloaded. Every transaction reads them.
#[derive(Default)]
struct Configuration {
    as_of: Timestamp,
    enabled: Providers,
    /// Configurations of the providers, by the provider's index.
    each: Vec<ProviderConfiguration>,
}

struct ProviderConfiguration {
    settings: Settings,
    limits: Limits,
    lifetimes: Lifetimes,
    blocked_reason: Option<String>,
    looks_up_networks: bool,
}

thread_local! {
    static CONFIGURATION: RefCell<Configuration> = RefCell::default();
}

impl Configuration {
    fn read<T>(read: impl FnOnce(&Configuration) -> T) -> T {
        let now = clock::settings_loaded_at();
        CONFIGURATION.with_borrow_mut(|known| {
            if known.each.is_empty() || known.as_of != now {
                *known = Configuration::of(now);
            }
            read(known)
        })
    }

    fn of(as_of: Timestamp) -> Configuration {
        let enabled = guc::enabled_sources();
        let is_enabled = |provider: &Provider| guc::names(&enabled, provider.name());
        Configuration {
            as_of,
            enabled: Providers::of(Provider::all().filter(is_enabled)),
            each: Provider::all().map(ProviderConfiguration::of).collect(),
        }
    }
}

impl ProviderConfiguration {
    fn of(provider: Provider) -> ProviderConfiguration {
        let declared = provider.declared();
        let settings = guc::provider(declared);
        ProviderConfiguration {
            limits: Limits { own: declared.limits(&settings), retry_base: guc::retry_base() },
            lifetimes: declared.lifetimes(&settings),
            blocked_reason: declared.blocked_reason(&settings),
            looks_up_networks: declared.knows_networks() && declared.looks_up_networks(&settings),
            settings,
        }
    }
}

impl Provider {
    pub fn all() -> impl DoubleEndedIterator<Item = Provider> {
        (0..providers::ALL.len()).map(Provider)
    }

    pub fn named(name: &str) -> Option<Provider> {
        Provider::all().find(|provider| provider.name() == name)
    }

    /// Returns Team Cymru, which has separate SQL functions.
    pub fn cymru() -> Provider {
        Provider(0)
    }

    pub fn declared(self) -> &'static dyn providers::Provider {
        providers::ALL[self.0]
    }

    /// Returns the index of its state in shared memory.
    pub fn index(self) -> usize {
        self.0
    }

    pub fn name(self) -> &'static str {
        self.declared().name()
    }

    pub fn title(self) -> &'static str {
        self.declared().title()
    }

    pub fn purpose(self) -> Purpose {
        self.declared().purpose()
    }

    pub fn settings(self) -> Settings {
        Configuration::read(|configuration| configuration.each[self.0].settings.clone())
    }

    pub fn limits(self) -> Limits {
        Configuration::read(|configuration| configuration.each[self.0].limits)
    }

    pub fn lifetimes(self) -> Lifetimes {
        Configuration::read(|configuration| configuration.each[self.0].lifetimes)
    }

    /// Returns the lifetimes of answers about an address. `kind` is the kind of the address's network. `kind` changes the lifetime
    /// only if the provider's answers name the network.
    pub fn lifetimes_in(self, kind: Option<NetworkKind>) -> Lifetimes {
        let Lifetimes { value, absent } = self.lifetimes();
        match self.purpose() {
            Purpose::Network => Lifetimes { value: lifetime_in(value, kind), absent },
            Purpose::IpType | Purpose::Facts => Lifetimes { value, absent },
        }
    }

    /// Returns why the current settings prevent requests to it.
    pub fn blocked_reason(self) -> Option<String> {
        Configuration::read(|configuration| configuration.each[self.0].blocked_reason.clone())
    }

    /// Returns true if the provider can look up networks by AS number, and the settings allow such lookups.
    pub fn looks_up_networks(self) -> bool {
        Configuration::read(|configuration| configuration.each[self.0].looks_up_networks)
    }

    /// Returns a fingerprint of the credentials. If a user replaces a refused key, the fingerprint changes. The function reads a
    /// small file.
    pub fn credentials(self) -> u64 {
        self.declared().credentials(&self.settings())
    }

    /// Returns whether it is in cowrie_enrich.enabled_sources.
    pub fn is_enabled(self) -> bool {
        !Providers::enabled().and(Providers::of([self])).is_empty()
    }

    /// Returns true if the provider may have data about an address, and may be asked about it. Bogons are never sent to a provider.
    pub fn takes(self, address: Address) -> bool {
        bogon::reason(address).is_none() && self.declared().takes(address) && !self.leaves_out(address)
    }

    /// Returns true if the provider must not be asked about the address, because a list names the address as a known research
    /// scanner.
    pub fn leaves_out(self, address: Address) -> bool {
        self.declared().leaves_out_benign_scanners()
            && mmdb::with(LoadPolicy::None, |files| files.types().is_benign_scanner(address))
    }
}

/// A set of providers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Providers(u32);

impl Providers {
    pub const NONE: Providers = Providers(0);

    pub fn of(some: impl IntoIterator<Item = Provider>) -> Providers {
        Providers(some.into_iter().fold(0, |set, provider| set | 1 << provider.0))
    }

    /// Returns the providers in cowrie_enrich.enabled_sources.
    pub fn enabled() -> Providers {
        Configuration::read(|configuration| configuration.enabled)
    }

    /// Returns the first provider in the set that can look up networks by AS number, if the settings allow such lookups.
    pub fn for_networks(self) -> Option<Provider> {
        self.iter().find(|provider| provider.looks_up_networks())
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub fn with(self, others: Providers) -> Providers {
        Providers(self.0 | others.0)
    }

    #[must_use]
    pub fn and(self, others: Providers) -> Providers {
        Providers(self.0 & others.0)
    }

    #[must_use]
    pub fn without(self, others: Providers) -> Providers {
        Providers(self.0 & !others.0)
    }

    pub fn iter(self) -> impl Iterator<Item = Provider> {
        Provider::all().filter(move |provider| self.0 & 1 << provider.0 != 0)
    }
}

const _: () = assert!(providers::ALL.len() <= 32 && !providers::ALL.is_empty());

/// Returns the lifetime, in seconds, of an answer that names a network of the kind `kind`. `seconds` is the lifetime before it is
/// scaled.
pub fn lifetime_in(seconds: i32, kind: Option<NetworkKind>) -> i32 {
    kind.map_or(seconds, |kind| network_kind::scaled(seconds, guc::ttl_percent(kind)))
}
