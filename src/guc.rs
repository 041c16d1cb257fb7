//! The settings, read here alone and handed on as plain values.
//!
//! All can be changed by a reload; none is per session, because the worker must see what every backend sees.

use std::ffi::{CStr, CString};
use std::time::Duration;

use cowrie_enrich_engine::providers::cymru;
use cowrie_enrich_engine::rate::Rate;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

type Text = GucSetting<Option<CString>>;

/// How Team Cymru is asked; see [`cymru::Transport`].
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Transport {
    #[name = c"auto"]
    Auto,
    #[name = c"whois"]
    Whois,
    #[name = c"dns"]
    Dns,
}

static CITY_DATABASE: Text = Text::new(None);
static ASN_DATABASE: Text = Text::new(None);
static ENABLED_SOURCES: Text = Text::new(Some(c"maxmind,cymru,greynoise"));

static CYMRU_WHOIS_HOST: Text = Text::new(Some(c"whois.cymru.com"));
static CYMRU_WHOIS_PORT: GucSetting<i32> = GucSetting::<i32>::new(43);
static CYMRU_DNS_SERVER: Text = Text::new(None);
static CYMRU_TRANSPORT: GucSetting<Transport> = GucSetting::<Transport>::new(Transport::Auto);
static CYMRU_BATCH_SIZE: GucSetting<i32> = GucSetting::<i32>::new(500);
static CYMRU_MAX_CONNECTIONS: GucSetting<i32> = GucSetting::<i32>::new(2);
static CYMRU_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);
static CYMRU_RATE: GucSetting<i32> = GucSetting::<i32>::new(60);
static CYMRU_TTL: GucSetting<i32> = GucSetting::<i32>::new(90 * DAY);
static CYMRU_ABSENT_TTL: GucSetting<i32> = GucSetting::<i32>::new(7 * DAY);

static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(3);
static RETRY_BASE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
static WORKER_ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static WORKER_NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static WORKER_ROLE: Text = Text::new(None);
static DATABASES: Text = Text::new(None);

/// Seconds.
const DAY: i32 = 86_400;

/// Defines the settings; called once, when the library is loaded.
pub fn define() {
    define_files();
    define_cymru();
    define_worker();
    // A misspelt setting should be an error, not a placeholder that nobody reads.
    crate::pg::reserve_setting_prefix(c"cowrie_enrich");
}

/// A path, a host, a role or the choice of what leaves the machine: for superusers alone.
fn guarded(name: &'static CStr, short: &'static CStr, long: &'static CStr, setting: &'static Text) {
    GucRegistry::define_string_guc(name, short, long, setting, GucContext::Sighup, GucFlags::SUPERUSER_ONLY);
}

fn number(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<i32>,
    (least, most): (i32, i32),
    unit: GucFlags,
) {
    GucRegistry::define_int_guc(name, short, long, setting, least, most, GucContext::Sighup, unit);
}

fn define_files() {
    guarded(
        c"cowrie_enrich.city_database",
        c"Path of the mmdb file that knows places (City, Country or Enterprise layout).",
        c"The file is verified and copied into the data directory; the copy is what serves lookups.",
        &CITY_DATABASE,
    );
    guarded(
        c"cowrie_enrich.asn_database",
        c"Path of the mmdb file that knows networks (ASN or ISP layout).",
        c"The file is verified and copied into the data directory; the copy is what serves lookups.",
        &ASN_DATABASE,
    );
    guarded(
        c"cowrie_enrich.enabled_sources",
        c"Sources that may be used, separated by commas.",
        c"Of maxmind, cymru, greynoise, dshield and spur.",
        &ENABLED_SOURCES,
    );
}

fn define_cymru() {
    guarded(
        c"cowrie_enrich.cymru_whois_host",
        c"Host of Team Cymru's bulk whois service.",
        c"",
        &CYMRU_WHOIS_HOST,
    );
    number(
        c"cowrie_enrich.cymru_whois_port",
        c"Port of Team Cymru's bulk whois service.",
        c"",
        &CYMRU_WHOIS_PORT,
        (1, 65_535),
        GucFlags::SUPERUSER_ONLY,
    );
    guarded(
        c"cowrie_enrich.cymru_dns_server",
        c"DNS server, host:port, that Team Cymru's zones are asked through.",
        c"Empty: the system's first name server.",
        &CYMRU_DNS_SERVER,
    );
    GucRegistry::define_enum_guc(
        c"cowrie_enrich.cymru_transport",
        c"How Team Cymru is asked: whois, dns, or auto.",
        c"auto asks by whois, and by DNS while the whois service cannot be reached.",
        &CYMRU_TRANSPORT,
        GucContext::Sighup,
        GucFlags::default(),
    );
    number(
        c"cowrie_enrich.cymru_batch_size",
        c"Most addresses in one request to Team Cymru.",
        c"",
        &CYMRU_BATCH_SIZE,
        (1, cymru::MOST_ADDRESSES as i32),
        GucFlags::default(),
    );
    number(
        c"cowrie_enrich.cymru_max_connections",
        c"Most requests to Team Cymru at the same time, across all databases of the cluster.",
        c"",
        &CYMRU_MAX_CONNECTIONS,
        (1, 16),
        GucFlags::default(),
    );
    number(
        c"cowrie_enrich.cymru_timeout",
        c"Longest duration of one request to Team Cymru.",
        c"",
        &CYMRU_TIMEOUT,
        (100, 600_000),
        GucFlags::UNIT_MS,
    );
    number(
        c"cowrie_enrich.cymru_rate",
        c"Most requests (batches) to Team Cymru per minute, across all databases of the cluster.",
        c"0 sets no limit.",
        &CYMRU_RATE,
        (0, 60_000),
        GucFlags::default(),
    );
    number(
        c"cowrie_enrich.cymru_ttl",
        c"How long an answer of Team Cymru that names a network is fresh.",
        c"",
        &CYMRU_TTL,
        (60, i32::MAX),
        GucFlags::UNIT_S,
    );
    number(
        c"cowrie_enrich.cymru_absent_ttl",
        c"How long Team Cymru's answer that nobody announces an address is fresh.",
        c"",
        &CYMRU_ABSENT_TTL,
        (60, i32::MAX),
        GucFlags::UNIT_S,
    );
}

fn define_worker() {
    number(
        c"cowrie_enrich.max_attempts",
        c"How often a lookup may fail before it becomes a dead letter.",
        c"Failures of a provider that is down for everybody do not count.",
        &MAX_ATTEMPTS,
        (1, 100),
        GucFlags::default(),
    );
    number(
        c"cowrie_enrich.retry_base",
        c"Pause after the first failure of a lookup or a provider; it doubles with each further one.",
        c"",
        &RETRY_BASE,
        (1, 3_600_000),
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"cowrie_enrich.worker_enabled",
        c"Whether background workers look up what is queued and fold the statistics.",
        c"Needs cowrie_enrich in shared_preload_libraries.",
        &WORKER_ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    number(
        c"cowrie_enrich.worker_naptime",
        c"How long a worker sleeps at most; statistics are folded this often.",
        c"Queued lookups wake it at the commit that queued them.",
        &WORKER_NAPTIME,
        (10, 3_600_000),
        GucFlags::UNIT_MS,
    );
    guarded(
        c"cowrie_enrich.worker_role",
        c"Role that the workers write the inventories as.",
        c"Empty: the owner of the extension.",
        &WORKER_ROLE,
    );
    guarded(
        c"cowrie_enrich.databases",
        c"Databases that get a worker, separated by commas.",
        c"Empty: every database that has the extension.",
        &DATABASES,
    );
}

fn text(setting: &Text) -> Option<String> {
    setting.get().map(|value| value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty())
}

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(setting.get().unsigned_abs().into())
}

/// Path of the mmdb file for places.
pub fn city_database() -> Option<String> {
    text(&CITY_DATABASE)
}

/// Path of the mmdb file for networks.
pub fn asn_database() -> Option<String> {
    text(&ASN_DATABASE)
}

/// Whether a source is among `enabled_sources`.
pub fn is_enabled(source: &str) -> bool {
    text(&ENABLED_SOURCES).is_some_and(|list| list.split(',').any(|s| s.trim().eq_ignore_ascii_case(source)))
}

/// How Team Cymru is asked.
pub fn cymru() -> cymru::Settings {
    cymru::Settings {
        transport: match CYMRU_TRANSPORT.get() {
            Transport::Auto => cymru::Transport::Auto,
            Transport::Whois => cymru::Transport::Whois,
            Transport::Dns => cymru::Transport::Dns,
        },
        whois_host: text(&CYMRU_WHOIS_HOST).unwrap_or_default(),
        whois_port: u16::try_from(CYMRU_WHOIS_PORT.get()).unwrap_or(43),
        dns_server: text(&CYMRU_DNS_SERVER),
        timeout: milliseconds(&CYMRU_TIMEOUT),
    }
}

/// Most addresses in one request to Team Cymru.
pub fn cymru_batch_size() -> usize {
    CYMRU_BATCH_SIZE.get().unsigned_abs() as usize
}

/// What a provider is spared, across the cluster.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Requests at the same time.
    pub connections: u32,
    pub rate: Rate,
    /// Pause after a first failure.
    pub retry_base: Duration,
    /// Longest duration of a request, name resolution apart.
    pub longest: Duration,
}

pub fn cymru_limits() -> Limits {
    let connections = CYMRU_MAX_CONNECTIONS.get().unsigned_abs();
    Limits {
        connections,
        rate: Rate { per_minute: CYMRU_RATE.get().unsigned_abs(), burst: connections },
        retry_base: milliseconds(&RETRY_BASE),
        longest: cymru().longest_exchange(),
    }
}

/// For how many seconds answers of Team Cymru are fresh.
#[derive(Clone, Copy)]
pub struct Lifetimes {
    pub value: i32,
    pub absent: i32,
}

pub fn cymru_lifetimes() -> Lifetimes {
    Lifetimes { value: CYMRU_TTL.get(), absent: CYMRU_ABSENT_TTL.get() }
}

/// Failures after which a lookup is a dead letter.
pub fn max_attempts() -> i32 {
    MAX_ATTEMPTS.get()
}

/// Pause after a lookup's first failure.
pub fn retry_base() -> Duration {
    milliseconds(&RETRY_BASE)
}

pub fn worker_enabled() -> bool {
    WORKER_ENABLED.get()
}

/// Longest sleep of a worker.
pub fn worker_naptime() -> Duration {
    milliseconds(&WORKER_NAPTIME)
}

/// Role that the workers act as, if it is not the extension's owner.
pub fn worker_role() -> Option<String> {
    text(&WORKER_ROLE)
}

/// Whether a database may have a worker.
pub fn database_is_wanted(name: &str) -> bool {
    text(&DATABASES).is_none_or(|list| list.split(',').any(|wanted| wanted.trim() == name))
}
