//! The settings of the extension. Only this file reads the settings. Its functions return them as plain values.
//!
//! Every setting can be changed with a reload of the configuration. No setting can be changed in a session, because the worker and
//! all backends must see the same values.

use std::ffi::{CStr, CString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use cowrie_enrich_engine::export::settings::{self as export, Refusal};
use cowrie_enrich_engine::file_list;
use cowrie_enrich_engine::ip_type::MaxAges;
use cowrie_enrich_engine::network_kind::NetworkKind;
use cowrie_enrich_engine::providers::{self, Settings};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg;
use crate::pg::settings::{self, Check, DefinedSetting};

type Text = GucSetting<Option<CString>>;

/// The name of the mmdb files in `enabled_sources`.
pub const FILES: &str = "maxmind";

static CITY_DATABASE: Text = Text::new(None);
static ASN_DATABASE: Text = Text::new(None);
static IP_TYPE_DATABASES: Text = Text::new(None);
static IP_TYPE_MAX_AGE: Text = Text::new(Some(c"7 days, TOR: 1 day"));
/// Seconds; 0: no limit.
static MMDB_MAX_AGE: GucSetting<i32> = GucSetting::<i32>::new(0);
static ENABLED_SOURCES: Text = Text::new(Some(c"maxmind,cymru"));

/// The settings that the providers declare.
static PROVIDERS: OnceLock<Vec<DefinedSetting>> = OnceLock::new();

static MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(3);
static RETRY_BASE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
/// With these three percentages, a lifetime of 90 days becomes 9, 30 and 180 days.
static TTL_VPN_PERCENT: GucSetting<i32> = GucSetting::<i32>::new(10);
static TTL_HOSTING_PERCENT: GucSetting<i32> = GucSetting::<i32>::new(33);
static TTL_ISP_PERCENT: GucSetting<i32> = GucSetting::<i32>::new(200);
static WORKER_ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static WORKER_NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static WORKER_ROLE: Text = Text::new(None);
static DATABASES: Text = Text::new(None);
static METRICS: GucSetting<bool> = GucSetting::<bool>::new(true);
static METRICS_LISTEN: Text = Text::new(None);
static STATUS_FILE: Text = Text::new(None);
static OTLP_ENDPOINT: Text = Text::new(None);
static OTLP_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static OTLP_SAMPLE_RATIO: GucSetting<f64> = GucSetting::<f64>::new(0.1);

/// Defines the settings; called once, when the library is loaded.
pub fn define() {
    define_files();
    define_providers();
    define_worker();
    define_metrics();
    define_exporter();
    // A misspelt name of a setting should cause an error. Without this call, the server would accept the name as a placeholder that
    // no code reads.
    crate::pg::reserve_setting_prefix(c"cowrie_enrich");
}

/// Defines a setting whose value only superusers may see. The value is a path, a host, a role, or the choice of the data that
/// leaves the server.
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

struct Sources;
impl Check for Sources {
    fn check(list: &str) -> Result<(), Refusal> {
        let known = || std::iter::once(FILES).chain(providers::ALL.iter().map(|provider| provider.name()));
        if list.split(',').all(|name| known().any(|known| name.trim().eq_ignore_ascii_case(known))) {
            return Ok(());
        }
        Err(Refusal {
            reason: "The list contains a name that is not the name of a source.",
            hint: "Use 'maxmind' and the names that the function providers() returns, separated by commas.",
        })
    }
}

struct Files;
impl Check for Files {
    fn check(list: &str) -> Result<(), Refusal> {
        file_list::parse(list).map(|_| ())
    }
}

/// Bytes of the longest name of a database (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;

struct DatabaseNames;
impl Check for DatabaseNames {
    fn check(list: &str) -> Result<(), Refusal> {
        if list.contains('"') {
            return Err(Refusal {
                reason: "The list contains a quotation mark.",
                hint: "Separate database names by single commas, without quotation marks.",
            });
        }
        if list.split(',').any(|name| name.trim() == "*") {
            return Err(Refusal {
                reason: "The value contains *, which is not the name of a database.",
                hint: "Leave the setting empty to use all databases that have the extension.",
            });
        }
        if list.split(',').map(str::trim).all(|name| (1..=LONGEST_NAME).contains(&name.len())) {
            return Ok(());
        }
        Err(Refusal {
            reason: "The list contains an empty name, or a name of more than 63 bytes.",
            hint: "Separate database names by single commas, without quotation marks.",
        })
    }
}

/// Maximum number of files in `ip_type_databases`.
const MOST_TYPE_FILES: usize = 32;

struct TypeFiles;
impl Check for TypeFiles {
    fn check(list: &str) -> Result<(), Refusal> {
        const HINT: &str = "Separate the paths by single commas, for example '/var/lib/lists/types.mmdb,/var/lib/GeoIP/GeoIP2-Anonymous-IP.mmdb'.";
        let refused = |reason| Err(Refusal { reason, hint: HINT });
        let paths = file_list::parse(list)?;
        if paths.len() > MOST_TYPE_FILES {
            return refused("The list contains more than 32 paths.");
        }
        if (1..paths.len()).any(|n| paths[..n].contains(&paths[n])) {
            return refused("The list contains a path twice.");
        }
        Ok(())
    }
}

struct MaxAge;
impl Check for MaxAge {
    fn check(text: &str) -> Result<(), Refusal> {
        MaxAges::parse(text).map(|_| ())
    }
}

fn define_files() {
    settings::define_checked::<Files>(
        c"cowrie_enrich.city_database",
        c"Paths, separated by commas, of mmdb files that map addresses to locations.",
        c"Lookups search the files in the order of the list. The extension verifies each file and copies it into the data directory. Lookups read only these copies.",
        &CITY_DATABASE,
    );
    settings::define_checked::<Files>(
        c"cowrie_enrich.asn_database",
        c"Paths, separated by commas, of mmdb files that map addresses to networks.",
        c"Lookups search the files in the order of the list. The extension verifies each file and copies it into the data directory. Lookups read only these copies.",
        &ASN_DATABASE,
    );
    number(
        c"cowrie_enrich.mmdb_max_age",
        c"Maximum age of an mmdb file of city_database or asn_database. The extension does not use an older file.",
        c"The age counts from the build of the file. The extension removes its copy of an older file, but never the \
        file that the setting names. With 0, the extension uses files of any age.",
        &MMDB_MAX_AGE,
        (0, 3650 * 24 * 3600),
        GucFlags::UNIT_S,
    );
    settings::define_checked::<TypeFiles>(
        c"cowrie_enrich.ip_type_databases",
        c"Paths, separated by commas, of mmdb files with types of addresses, such as VPN or TOR.",
        c"Accepts MaxMind's Anonymous-IP and Anonymous-Plus files, IPinfo's privacy files, and files that mmdb-build compiled \
        from lists. The extension verifies each file and copies it into the data directory. Lookups read only these copies.",
        &IP_TYPE_DATABASES,
    );
    settings::define_checked_for_all::<MaxAge>(
        c"cowrie_enrich.ip_type_max_age",
        c"Maximum age of a list in the files of ip_type_databases.",
        c"The extension ignores a list that was published longer ago. For example, with '7 days, TOR: 1 day' it ignores a list \
        of type TOR after one day, and all other lists after 7 days. Units are minutes, hours, days and weeks.",
        &IP_TYPE_MAX_AGE,
    );
    settings::define_checked::<Sources>(
        c"cowrie_enrich.enabled_sources",
        c"List, separated by commas, of the sources from which the extension gets data about addresses.",
        c"Valid names of sources are 'maxmind' (the mmdb files) and the names that the function providers() returns.",
        &ENABLED_SOURCES,
    );
}

/// Defines the settings that the providers declare in their files.
fn define_providers() {
    // Setting the value cannot fail here, because the library is loaded only once in a process. So the value is not set yet.
    let _ = PROVIDERS.set(providers::settings().into_iter().map(settings::define).collect());
}

fn define_worker() {
    number(
        c"cowrie_enrich.max_attempts",
        c"Number of failures after which the worker stops repeating a lookup.",
        c"After this number of failures, a lookup becomes a dead letter. The worker repeats a dead letter only after a call of \
        retry_dead_letters(). Failures do not count while the provider fails for all lookups.",
        &MAX_ATTEMPTS,
        (1, 100),
        GucFlags::default(),
    );
    number(
        c"cowrie_enrich.retry_base",
        c"Pause before the worker repeats a lookup that failed, or sends requests again to a provider that failed.",
        c"The value is the pause after the first failure. Each further failure in a row doubles the pause.",
        &RETRY_BASE,
        (1, 3_600_000),
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"cowrie_enrich.worker_enabled",
        c"Enables the background workers.",
        c"Workers send queued lookups to providers, and add the counts of new honeypot sessions to ip_inventory and \
        asn_inventory. Workers run only if shared_preload_libraries contains cowrie_enrich.",
        &WORKER_ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    number(
        c"cowrie_enrich.worker_naptime",
        c"Longest time that a worker sleeps before it looks for work again.",
        c"At least this often, the worker adds the counts of new honeypot sessions to ip_inventory and asn_inventory. \
        A commit that queues lookups wakes the worker at once.",
        &WORKER_NAPTIME,
        (10, 3_600_000),
        GucFlags::UNIT_MS,
    );
    for (name, short, setting) in [
        (
            c"cowrie_enrich.ttl_vpn_percent",
            c"Lifetime of a Team Cymru answer that names a network with VPN services, in percent of cymru_ttl.",
            &TTL_VPN_PERCENT,
        ),
        (
            c"cowrie_enrich.ttl_hosting_percent",
            c"Lifetime of a Team Cymru answer that names a network of a cloud or hosting provider, in percent of cymru_ttl.",
            &TTL_HOSTING_PERCENT,
        ),
        (
            c"cowrie_enrich.ttl_isp_percent",
            c"Lifetime of a Team Cymru answer that names a network of an internet service provider, in percent of cymru_ttl.",
            &TTL_ISP_PERCENT,
        ),
    ] {
        number(name, short, c"The lifetime is cymru_ttl if no such percentage applies: if the network is of another kind, or if the answer is about a network itself.", setting, (1, 1000), GucFlags::default());
    }
    guarded(
        c"cowrie_enrich.worker_role",
        c"Role whose rights the workers use to write to ip_inventory and asn_inventory.",
        c"If the setting is empty, the workers use the rights of the extension's owner.",
        &WORKER_ROLE,
    );
    settings::define_checked::<DatabaseNames>(
        c"cowrie_enrich.databases",
        c"Names, separated by commas, of the databases that get a worker.",
        c"If the setting is empty, every database that has the extension gets a worker.",
        &DATABASES,
    );
}

fn define_metrics() {
    GucRegistry::define_bool_guc(
        c"cowrie_enrich.metrics",
        c"Enables metrics: counts and durations of the extension's work.",
        c"If the setting is off, only errors and the requests to providers are counted.",
        &METRICS,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

struct Listen;
impl Check for Listen {
    fn check(text: &str) -> Result<(), Refusal> {
        export::listen(text).map(|_| ())
    }
}

struct StatusFile;
impl Check for StatusFile {
    fn check(text: &str) -> Result<(), Refusal> {
        export::status_file(text, &pg::data_directory()).map(|_| ())
    }
}

struct Endpoint;
impl Check for Endpoint {
    fn check(text: &str) -> Result<(), Refusal> {
        export::endpoint(text)
    }
}

/// Defines the settings of the exporter. The exporter runs if one of these settings names a destination and the library is
/// preloaded.
fn define_exporter() {
    settings::define_checked::<Listen>(
        c"cowrie_enrich.metrics_listen",
        c"Loopback address and port where the exporter serves /metrics to Prometheus.",
        c"If the setting is empty, metrics are not served. Every program that can connect to the address can read all metrics.",
        &METRICS_LISTEN,
    );
    settings::define_checked::<StatusFile>(
        c"cowrie_enrich.status_file",
        c"Absolute path of the JSON file to which the exporter writes the status of all work of the extension.",
        c"The exporter also writes one status file for each kind of work into the same directory. The operating system user \
        that runs PostgreSQL must be able to write there. If the setting is empty, no status files are written.",
        &STATUS_FILE,
    );
    settings::define_checked::<Endpoint>(
        c"cowrie_enrich.otlp_endpoint",
        c"URL of the OpenTelemetry collector that receives metrics and spans (OTLP over HTTP).",
        c"If the setting is empty, the exporter sends no metrics and no spans.",
        &OTLP_ENDPOINT,
    );
    number(
        c"cowrie_enrich.otlp_interval",
        c"Interval at which the exporter sends metrics to the OpenTelemetry collector.",
        c"",
        &OTLP_INTERVAL,
        (100, 3_600_000),
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_float_guc(
        c"cowrie_enrich.otlp_sample_ratio",
        c"Fraction of created or updated rows of asn_inventory for which a span is sent to the OpenTelemetry collector.",
        c"If the value is 0, no spans of these rows are sent. Spans of requests to providers are always sent.",
        &OTLP_SAMPLE_RATIO,
        0.0,
        1.0,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

fn text(setting: &Text) -> Option<String> {
    pg::text::setting(setting.get())
}

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(setting.get().unsigned_abs().into())
}

/// Returns the paths of the mmdb files for locations.
pub fn city_database() -> Vec<String> {
    files(&CITY_DATABASE)
}

/// Returns the paths of the mmdb files for networks.
pub fn asn_database() -> Vec<String> {
    files(&ASN_DATABASE)
}

/// Returns the paths in a setting that contains a list. The list is valid, because it was checked when the setting was set.
fn files(setting: &Text) -> Vec<String> {
    text(setting).and_then(|list| file_list::parse(&list).ok()).unwrap_or_default()
}

/// Returns the paths of the files with types of addresses.
pub fn ip_type_databases() -> Vec<String> {
    files(&IP_TYPE_DATABASES)
}

/// Returns the maximum ages of lists.
pub fn ip_type_max_ages() -> MaxAges {
    text(&IP_TYPE_MAX_AGE).and_then(|ages| MaxAges::parse(&ages).ok()).unwrap_or_default()
}

/// Returns the maximum age of files of locations and networks.
pub fn mmdb_max_age() -> Option<Duration> {
    let seconds = MMDB_MAX_AGE.get().unsigned_abs();
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// Returns the names in `enabled_sources`.
pub fn enabled_sources() -> String {
    ENABLED_SOURCES.get().map(|list| list.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns true if a source is in the list.
pub fn names(enabled_sources: &str, source: &str) -> bool {
    enabled_sources.split(',').any(|name| name.trim().eq_ignore_ascii_case(source))
}

/// Returns the settings of a provider.
pub fn provider(declared: &dyn providers::Provider) -> Settings {
    let defined = PROVIDERS.get().map(Vec::as_slice).unwrap_or_default();
    let values = declared.settings().iter().filter_map(|setting| {
        let own = defined.iter().find(|defined| defined.declared.name == setting.name)?;
        Some((setting.name, own.value()))
    });
    Settings::new(values.collect())
}

/// Returns the maximum number of failures of a lookup. After this number, the lookup becomes a dead letter.
pub fn max_attempts() -> i32 {
    MAX_ATTEMPTS.get()
}

/// Returns the percentage for a kind of network. If an answer is about an address in a network of this kind, the lifetime of the
/// answer is scaled by this percentage.
pub fn ttl_percent(kind: NetworkKind) -> i32 {
    match kind {
        NetworkKind::Vpn => TTL_VPN_PERCENT.get(),
        NetworkKind::Hosting => TTL_HOSTING_PERCENT.get(),
        NetworkKind::Isp => TTL_ISP_PERCENT.get(),
    }
}

/// Returns the pause after a lookup's first failure.
pub fn retry_base() -> Duration {
    milliseconds(&RETRY_BASE)
}

pub fn worker_enabled() -> bool {
    WORKER_ENABLED.get()
}

/// Returns the longest sleep of a worker.
pub fn worker_naptime() -> Duration {
    milliseconds(&WORKER_NAPTIME)
}

/// Returns true if work is counted and timed.
pub fn metrics() -> bool {
    METRICS.get()
}

/// Returns the address and port for scrapes.
pub fn metrics_listen() -> Option<SocketAddr> {
    text(&METRICS_LISTEN).and_then(|address| export::listen(&address).ok())
}

/// Returns the path of the aggregate status file.
pub fn status_file() -> Option<PathBuf> {
    text(&STATUS_FILE).map(PathBuf::from)
}

/// Returns the URL of the collector.
pub fn otlp_endpoint() -> Option<String> {
    text(&OTLP_ENDPOINT)
}

/// Returns the interval at which metrics are sent to the collector.
pub fn otlp_interval() -> Duration {
    milliseconds(&OTLP_INTERVAL)
}

/// Returns the share of networks for which spans are sent.
pub fn otlp_sample_ratio() -> f64 {
    OTLP_SAMPLE_RATIO.get()
}

/// Returns the role that the workers use. Returns `None` if the workers use the owner of the extension.
pub fn worker_role() -> Option<String> {
    text(&WORKER_ROLE)
}

/// Returns true if a database may have a worker.
pub fn database_is_wanted(name: &str) -> bool {
    text(&DATABASES).is_none_or(|list| list.split(',').any(|wanted| wanted.trim() == name))
}
