//! Settings that all HTTP providers share.
//!
//! This file contains the parts of settings that several providers share. The file of each provider contains the names
//! and the defaults of its settings.

use crate::providers::setting::{Kind, Unit};
use crate::providers::{Lifetimes, Limits, Setting, Settings};
use crate::rate::Rate;
use std::ffi::CStr;
use std::time::Duration;

/// The setting that names the proxy of all HTTP providers. Each HTTP provider lists this setting among its settings.
pub static HTTP_PROXY: Setting = Setting {
    name: c"cowrie_enrich.http_proxy",
    short: c"URL of the proxy for requests to GreyNoise, DShield and SPUR.",
    long: c"Write http://host:port or https://host:port. The proxy must support the HTTP method CONNECT. \
        If the setting is empty, no proxy is used. Requests to a loopback address never use the proxy. Environment variables such as https_proxy are ignored.",
    kind: Kind::Text { default: None },
    guarded: true,
};

/// Seconds per day.
const DAY: i32 = 24 * 60 * 60;

pub(in crate::providers) struct Common {
    pub(in crate::providers) url: &'static Setting,
    pub(in crate::providers) rate: &'static Setting,
    pub(in crate::providers) max_parallel: &'static Setting,
    pub(in crate::providers) daily_quota: &'static Setting,
    pub(in crate::providers) timeout: &'static Setting,
    pub(in crate::providers) ttl: &'static Setting,
    pub(in crate::providers) absent_ttl: &'static Setting,
}

impl Common {
    pub(in crate::providers) fn limits(&self, settings: &Settings) -> Limits {
        Limits {
            batch: 1,
            parallel: count(settings, self.max_parallel).max(1),
            rate: Rate::per_second(count(settings, self.rate)),
            daily_quota: count(settings, self.daily_quota),
            longest: self.timeout(settings),
        }
    }

    pub(in crate::providers) fn lifetimes(&self, settings: &Settings) -> Lifetimes {
        Lifetimes { value: settings.number(self.ttl), absent: settings.number(self.absent_ttl) }
    }

    pub(super) fn timeout(&self, settings: &Settings) -> Duration {
        Duration::from_millis(count(settings, self.timeout).max(1).into())
    }
}

fn count(settings: &Settings, setting: &'static Setting) -> u32 {
    u32::try_from(settings.number(setting)).unwrap_or(0)
}

pub(in crate::providers) const fn url(
    name: &'static CStr,
    short: &'static CStr,
    default: &'static CStr,
) -> Setting {
    let long = c"The value is an http or https URL. The worker appends a slash and the address to look up. \
        The worker sends an API key or token only over https or to a loopback address.";
    Setting { name, short, long, kind: Kind::Text { default: Some(default) }, guarded: true }
}

pub(in crate::providers) const fn key_file(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
) -> Setting {
    Setting { name, short, long, kind: Kind::Text { default: None }, guarded: true }
}

/// Declares a limit of requests per second.
pub(in crate::providers) const fn rate(name: &'static CStr, short: &'static CStr, default: i32) -> Setting {
    let long = c"The limit applies to all databases of the cluster together. The worker sends \
        requests at equal intervals. A value of 0 means no limit.";
    number(name, short, long, Kind::Number { default, least: 0, most: 1_000, unit: Unit::None })
}

pub(in crate::providers) const fn max_parallel(
    name: &'static CStr,
    short: &'static CStr,
    default: i32,
) -> Setting {
    let long = c"The limit applies to all databases of the cluster together.";
    number(name, short, long, Kind::Number { default, least: 1, most: 32, unit: Unit::None })
}

/// Declares a limit of requests per day.
pub(in crate::providers) const fn daily_quota(
    name: &'static CStr,
    short: &'static CStr,
    default: i32,
) -> Setting {
    let long =
        c"The limit applies to all databases of the cluster together. Failed requests count too. A day begins at midnight UTC. \
        A value of 0 means no limit.";
    number(name, short, long, Kind::Number { default, least: 0, most: 10_000_000, unit: Unit::None })
}

pub(in crate::providers) const fn timeout(name: &'static CStr, short: &'static CStr) -> Setting {
    let long =
        c"The duration is from the start of the resolution of the host name to the last byte of the answer.";
    let kind = Kind::Number { default: 20_000, least: 100, most: 600_000, unit: Unit::Milliseconds };
    number(name, short, long, kind)
}

pub(in crate::providers) const fn ttl(name: &'static CStr, short: &'static CStr) -> Setting {
    lifetime(name, short, c"A different setting, with absent_ttl in the name, applies to answers without data about the address.", 7 * DAY)
}

pub(in crate::providers) const fn absent_ttl(name: &'static CStr, short: &'static CStr) -> Setting {
    let long = c"The setting does not apply to failed requests, because a failed request returns no answer.";
    lifetime(name, short, long, 2 * DAY)
}

const fn lifetime(name: &'static CStr, short: &'static CStr, long: &'static CStr, default: i32) -> Setting {
    number(name, short, long, Kind::Number { default, least: 60, most: i32::MAX, unit: Unit::Seconds })
}

const fn number(name: &'static CStr, short: &'static CStr, long: &'static CStr, kind: Kind) -> Setting {
    Setting { name, short, long, kind, guarded: false }
}
