//! The settings, read here alone.

use std::ffi::{CStr, CString};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

static CITY_DATABASE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static ASN_DATABASE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static ENABLED_SOURCES: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"maxmind,cymru,greynoise"));

/// Defines the settings; called once, when the library is loaded.
pub fn define() {
    // A path or the choice of what leaves the machine is for superusers alone, and not per session: the worker must
    // see the same values as every backend.
    let flags = GucFlags::SUPERUSER_ONLY;
    let path = |name: &'static CStr, short: &'static CStr, long: &'static CStr, setting| {
        GucRegistry::define_string_guc(name, short, long, setting, GucContext::Sighup, flags);
    };
    path(
        c"cowrie_enrich.city_database",
        c"Path of the mmdb file that knows places (City, Country or Enterprise layout).",
        c"The file is verified and copied into the data directory; the copy is what serves lookups.",
        &CITY_DATABASE,
    );
    path(
        c"cowrie_enrich.asn_database",
        c"Path of the mmdb file that knows networks (ASN or ISP layout).",
        c"The file is verified and copied into the data directory; the copy is what serves lookups.",
        &ASN_DATABASE,
    );
    path(
        c"cowrie_enrich.enabled_sources",
        c"Sources that may be used, separated by commas.",
        c"Of maxmind, cymru, greynoise, dshield and spur.",
        &ENABLED_SOURCES,
    );
    // A misspelt setting should be an error, not a placeholder that nobody reads.
    crate::pg::reserve_setting_prefix(c"cowrie_enrich");
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    setting.get().map(|value| value.to_string_lossy().trim().to_owned()).filter(|value| !value.is_empty())
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
