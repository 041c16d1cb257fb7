//! Kinds and texts of lookup keys, as the queue stores them.
//!
//! A lookup key is a prefix or a network. Each lookup key is stored as a kind and a text. Each key has exactly one text:
//!
//! - The text of a single host is the result of PostgreSQL's `host(inet)`, which has no mask.
//! - The text of any other prefix is the text of its `cidr` value.
//! - The text of a network is its AS number in decimal digits, without `AS`.
//!
//! So the text identifies the key without the kind.

use crate::address::Address;
use crate::prefix::Prefix;
use std::net::{IpAddr, Ipv4Addr};

/// The subject of one lookup at a provider.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LookupKey {
    /// A single address, or a block whose addresses share one answer.
    Prefix(Prefix),
    /// A network, by its AS number: 1 to 4294967295.
    Network(u32),
}

impl LookupKey {
    /// Returns the stored kind: `host`, `prefix` or `asn`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Prefix(prefix) if is_host(prefix) => "host",
            Self::Prefix(_) => "prefix",
            Self::Network(_) => "asn",
        }
    }

    /// Returns the stored text.
    pub fn text(self) -> String {
        match self {
            Self::Prefix(prefix) => {
                let network = network_text(prefix.network());
                if is_host(prefix) { network } else { format!("{network}/{}", prefix.length()) }
            }
            Self::Network(asn) => asn.to_string(),
        }
    }

    /// Parses a stored text. Returns `None` if the text differs from the text that [`LookupKey::text`] returns for the parsed key.
    pub fn parse(stored: &str) -> Option<Self> {
        let key = if stored.contains('/') {
            Self::Prefix(Prefix::parse(stored)?)
        } else if stored.bytes().all(|byte| byte.is_ascii_digit()) {
            Self::Network(stored.parse().ok().filter(|asn| *asn > 0)?)
        } else {
            Self::Prefix(Prefix::host(Address::new(stored.parse().ok()?)))
        };
        (key.text() == stored).then_some(key)
    }

    pub fn prefix(self) -> Option<Prefix> {
        match self {
            Self::Prefix(prefix) => Some(prefix),
            Self::Network(_) => None,
        }
    }

    /// Returns the AS number of a network.
    pub fn network(self) -> Option<u32> {
        match self {
            Self::Prefix(_) => None,
            Self::Network(asn) => Some(asn),
        }
    }
}

impl From<Prefix> for LookupKey {
    fn from(prefix: Prefix) -> Self {
        Self::Prefix(prefix)
    }
}

fn is_host(prefix: Prefix) -> bool {
    prefix == Prefix::host(prefix.network())
}

/// Writes an address in the form in which PostgreSQL writes it. This form differs from Rust's form for IPv4-compatible IPv6
/// addresses (RFC 4291 section 2.5.5.1). PostgreSQL writes the last four bytes of such an address with dots: `::192.0.2.1`.
fn network_text(address: Address) -> String {
    match address.ip() {
        IpAddr::V6(ip) if matches!(ip.segments(), [0, 0, 0, 0, 0, 0, 1..=u16::MAX, _]) => {
            let [.., a, b, c, d] = ip.octets();
            format!("::{}", Ipv4Addr::new(a, b, c, d))
        }
        ip => ip.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> LookupKey {
        LookupKey::Prefix(Prefix::parse(text).unwrap())
    }

    #[test]
    fn a_host_has_no_mask_and_a_prefix_has_one() {
        for (key, expected_kind, expected_text) in [
            ("203.0.113.7/32", "host", "203.0.113.7"),
            ("203.0.113.7/24", "prefix", "203.0.113.0/24"),
            ("2001:DB8:0:0::7/128", "host", "2001:db8::7"),
            ("2001:db8:1:2::7/48", "prefix", "2001:db8:1::/48"),
            ("::ffff:203.0.113.7/128", "host", "203.0.113.7"),
            ("::/0", "prefix", "::/0"),
            ("::1/128", "host", "::1"),
            ("::192.0.2.1/128", "host", "::192.0.2.1"),
            ("::192.0.2.1/112", "prefix", "::192.0.0.0/112"),
        ] {
            let key = prefix(key);
            assert_eq!((key.kind(), key.text().as_str()), (expected_kind, expected_text));
            assert_eq!(key.network(), None);
        }
    }

    #[test]
    fn a_network_is_its_number() {
        for asn in [1, 15169, u32::MAX] {
            let key = LookupKey::Network(asn);
            assert_eq!((key.kind(), key.text()), ("asn", asn.to_string()));
            assert_eq!((LookupKey::parse(&key.text()), key.network()), (Some(key), Some(asn)));
        }
    }

    #[test]
    fn a_text_that_is_written_otherwise_is_refused() {
        for text in [
            "",
            "203.0.113.7/32",
            "203.0.113.7/24",
            "203.0.113.0/024",
            " 203.0.113.7",
            "2001:DB8::7",
            "2001:db8:0::7",
            "2001:db8::7/128",
            "::ffff:203.0.113.7",
            "::c000:201",
            "AS15169",
            "0",
            "015169",
            "+15169",
            "15169 ",
            "4294967296",
            "1.10",
        ] {
            assert_eq!(LookupKey::parse(text), None, "{text:?}");
        }
    }

    fn any_address() -> impl Strategy<Value = Address> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Address::new(Ipv4Addr::from_bits(bits).into())),
            any::<u128>().prop_map(|bits| Address::new(std::net::Ipv6Addr::from_bits(bits).into())),
            any::<u32>().prop_map(|bits| Address::new(std::net::Ipv6Addr::from_bits(bits.into()).into())),
        ]
    }

    proptest! {
        #[test]
        fn a_text_names_the_key_it_was_written_for(address in any_address(), length in 0..=128_u8, asn in 1..=u32::MAX) {
            let prefix = Prefix::new(address, length).unwrap_or(Prefix::host(address));
            for key in [LookupKey::Prefix(prefix), LookupKey::Network(asn)] {
                prop_assert_eq!(LookupKey::parse(&key.text()), Some(key));
            }
        }
    }
}
