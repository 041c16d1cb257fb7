//! Parses the URLs of providers, and decides whether a key may be sent to a URL.
//!
//! A key is sent only over TLS. There is one exception: if the host of the URL is this machine, TLS is not required.

use crate::address::Address;
use std::net::{Ipv4Addr, Ipv6Addr};
use ureq::http::Uri;

/// Maximum length of a URL in bytes. `Uri` allows 64 KiB.
const LONGEST: usize = 2048;

/// The URL to which an address is appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// The URL without a slash at its end.
    base: String,
    /// Host with port, for failure texts.
    pub(super) host: String,
    encrypted: bool,
    pub(super) loopback: bool,
}

impl Target {
    /// Parses `http[s]://host[:port][/path]`. The error text follows the setting's name.
    pub(crate) fn parse(url: &str) -> Result<Self, &'static str> {
        const MALFORMED: &str = "is not an http or https URL";
        if url.len() > LONGEST {
            return Err("is too long");
        }
        let uri: Uri = url.parse().map_err(|_| MALFORMED)?;
        let encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(MALFORMED),
        };
        let authority = uri.authority().ok_or(MALFORMED)?;
        if authority.as_str().contains('@') {
            return Err("contains a user name");
        }
        if url.contains(['?', '#']) {
            return Err("contains a query or a fragment");
        }
        // `Uri` accepts any text as the port, and ureq replaces an invalid port by the default port of the scheme. So
        // this function checks the port.
        let port = authority.as_str().strip_prefix(authority.host()).ok_or(MALFORMED)?;
        if authority.host().is_empty() || !(port.is_empty() || authority.port_u16().is_some_and(|n| n != 0)) {
            return Err(MALFORMED);
        }
        Ok(Self {
            base: url.trim_end_matches('/').to_owned(),
            host: authority.as_str().to_ascii_lowercase(),
            encrypted,
            loopback: is_loopback(authority.host()),
        })
    }

    pub(super) fn may_see_keys(&self) -> bool {
        self.encrypted || self.loopback
    }

    /// Returns the URL with a path appended.
    pub(crate) fn below(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Returns the URL for the lookup of an address. An address contains only digits, letters, dots and colons, so no
    /// character must be escaped.
    pub(super) fn about(&self, address: Address, suffix: &str) -> String {
        format!("{}/{address}{suffix}", self.base)
    }
}

fn is_loopback(host: &str) -> bool {
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
        || v6.is_some_and(|host| host.parse().is_ok_and(|ip: Ipv6Addr| ip.is_loopback()))
}
