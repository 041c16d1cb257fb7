//! Finds mentions of addresses in a text, in any form in which programs and people write an address.
//!
//! An erasure uses this code. A mention that is missed stays in the database, but a text that is deleted for no reason is only one
//! lost text. So if a text has two readings, such as `2001:db8::7:22` (an address, or an address and a port), both are read.
//!
//! | form | example |
//! |---|---|
//! | dotted decimal, also octal and hexadecimal numbers | `203.0.113.7`, `203.000.113.007`, `0xcb.0.0x71.7` |
//! | in a host name, also in reverse order | `203-0-113-7.example.net`, `7.113.0.203.in-addr.arpa` |
//! | IPv6, also uncompressed, with a zone, port or prefix length | `[2001:DB8::7]:22`, `fe80::7%eth0`, `2001-db8--7.example.net` |
//! | IPv4 inside IPv6 | `::ffff:203.0.113.7`, `64:ff9b::cb00:7107` |
//! | made harmless in a report | `203[.]0[.]113[.]7`, `203 dot 0 dot 113 dot 7` |
//! | escaped for a URL, JSON, HTML or C | `2001%3Adb8%3A%3A7`, `2001\u003adb8::7`, `203&#46;0.113.7` |
//! | the bytes | `\xcb007107`, `cb:00:71:07`, `\xcb\x00q\x07`, inside longer hexadecimal text |
//! | one number | `3405803783`, `-889163513` |
//!
//! A run of decimal digits is hexadecimal only after `0x` or `\x`, or before a port. Otherwise it is usually a time or a counter.
//!
//! A network is not an address: `203.0.113.0/24` does not mention 203.0.113.0.

mod document;
mod hexadecimal;
mod ipv6;
mod numbers;
mod readings;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::Address;

/// The addresses that are searched in texts.
pub struct Wanted(HashSet<IpAddr>);

impl Wanted {
    pub fn new(addresses: impl IntoIterator<Item = Address>) -> Wanted {
        Wanted(addresses.into_iter().map(Address::ip).collect())
    }

    /// Returns true if the address is one of the addresses.
    pub fn contains(&self, address: Address) -> bool {
        self.0.contains(&address.ip())
    }

    /// Returns true if the text mentions one of the addresses.
    pub fn is_mentioned_in(&self, text: &str) -> bool {
        !self.0.is_empty() && readings::any(text, |reading| self.is_read_in(reading))
    }

    /// Searches one reading of a text. The reading is in lower case.
    fn is_read_in(&self, text: &[u8]) -> bool {
        numbers::mention(self, text) || ipv6::mention(self, text) || hexadecimal::mention(self, text)
    }

    fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.contains(&ip)
            || matches!(ip, IpAddr::V6(ip) if embedded(ip).is_some_and(|ip| self.0.contains(&ip.into())))
    }

    fn has_v4(&self, octets: [u8; 4]) -> bool {
        self.has(Ipv4Addr::from(octets).into())
    }

    fn has_v6(&self, octets: [u8; 16]) -> bool {
        self.has(Ipv6Addr::from(octets).into())
    }

    /// Returns true if these bytes are the bytes of one of the addresses.
    fn has_bytes(&self, bytes: &[u8]) -> bool {
        match bytes.len() {
            4 => bytes.try_into().is_ok_and(|octets| self.has_v4(octets)),
            16 => bytes.try_into().is_ok_and(|octets| self.has_v6(octets)),
            _ => false,
        }
    }
}

/// Returns the IPv4 address that an IPv6 address stands for: IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765), NAT64 (RFC
/// 6052) and 6to4 (RFC 3056). IPv4-mapped addresses are already converted.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = ip.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0 | 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(of(high, low)),
        (0x2002, b, c, ..) => Some(of(b, c)),
        _ => None,
    }
}

/// Returns true if the text after an address makes it a network: a prefix length follows, and all bits after the prefix are zero.
fn is_network(ip: IpAddr, after: &[u8]) -> bool {
    let Some(rest) = after.strip_prefix(b"/") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse::<u32>().ok());
    match (ip, length) {
        (IpAddr::V4(ip), Some(length @ ..32)) => ip.to_bits() & (u32::MAX >> length) == 0,
        (IpAddr::V6(ip), Some(length @ ..128)) => ip.to_bits() & (u128::MAX >> length) == 0,
        _ => false,
    }
}
