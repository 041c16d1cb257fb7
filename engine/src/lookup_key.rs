//! Kinds and texts of lookup keys, as the queue stores them.
//!
//! A lookup key is a prefix, and each prefix has one kind and one text. A single host has the text that PostgreSQL's
//! `host(inet)` returns, without a mask. Any other prefix has the text of its `cidr`. So the text identifies the prefix
//! without the kind.

use crate::address::Address;
use crate::prefix::Prefix;
use std::net::{IpAddr, Ipv4Addr};

/// Returns the stored kind of a lookup key: `host` or `prefix`.
pub fn kind(key: Prefix) -> &'static str {
    if is_host(key) { "host" } else { "prefix" }
}

/// Returns the stored text of a lookup key.
pub fn text(key: Prefix) -> String {
    let network = network_text(key.network());
    if is_host(key) { network } else { format!("{network}/{}", key.length()) }
}

/// Parses the text of a lookup key. Returns `None` if [`text`] would write it differently.
pub fn parse(stored: &str) -> Option<Prefix> {
    let key = if stored.contains('/') {
        Prefix::parse(stored)?
    } else {
        Prefix::host(Address::new(stored.parse().ok()?))
    };
    (text(key) == stored).then_some(key)
}

fn is_host(key: Prefix) -> bool {
    key == Prefix::host(key.network())
}

/// Writes an address as PostgreSQL does. Unlike Rust, PostgreSQL writes the last four bytes of an IPv4-compatible IPv6
/// address (RFC 4291 section 2.5.5.1) with dots: `::192.0.2.1`.
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

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).unwrap()
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
            assert_eq!((kind(key), text(key).as_str()), (expected_kind, expected_text));
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
            "15169",
            "AS15169",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
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
        fn a_text_names_the_key_it_was_written_for(address in any_address(), length in 0..=128_u8) {
            let key = Prefix::new(address, length).unwrap_or(Prefix::host(address));
            prop_assert_eq!(parse(&text(key)), Some(key));
        }
    }
}
