//! Answers: whom does a URL name, and may a key be sent there?
//!
//! The rule: a key goes over TLS, or does not leave this host.

use crate::address::Address;
use std::net::{Ipv4Addr, Ipv6Addr};
use ureq::http::Uri;

/// Bytes of a URL. `Uri` stops at 64 KiB.
const LONGEST: usize = 2048;

/// The URL that an address is appended to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// Without a slash at its end.
    base: String,
    /// With its port, for failures.
    pub(super) host: String,
    encrypted: bool,
    pub(super) loopback: bool,
}

impl Target {
    /// `http[s]://host[:port][/path]`. `Err`: what is wrong with it, to follow its setting's name.
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
            return Err("has a user name in it");
        }
        if url.contains(['?', '#']) {
            return Err("has more behind its path");
        }
        // `Uri` takes any port for good, and ureq the scheme's own for one that is none.
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

    /// The URL with a path behind it.
    pub(crate) fn below(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Addresses are written with digits, letters, dots and colons: nothing that a path would have to escape.
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
