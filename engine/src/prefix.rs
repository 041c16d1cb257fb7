//! Prefixes: blocks of addresses in canonical form.
//!
//! One block always has the same `Prefix`. The bits after the prefix length are zero. A block of IPv4-mapped IPv6 addresses is
//! converted to its IPv4 block. `Address` converts a single address in the same way.

use crate::address::Address;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// A block of addresses. `Ord` is the order of PostgreSQL's btree for `cidr` values: first IPv4, then IPv6. Blocks of one family
/// are ordered by their network address. If two blocks have the same network address, the shorter prefix length comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix(IpNet);

/// Prefix length, in bits, of the block that one lookup covers. Networks do not accept IPv4 routes that are more specific than a
/// /24, or IPv6 routes that are more specific than a /48. So all addresses of such a block have the same origin.
const BLOCK_V4: u8 = 24;
const BLOCK_V6: u8 = 48;

/// Bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED: u8 = 96;

impl Prefix {
    /// Returns the block with a prefix of `length` bits that contains the address. Returns `None` if `length` is too long for the
    /// address family.
    pub fn new(address: Address, length: u8) -> Option<Self> {
        IpNet::new(address.ip(), length).ok().map(|net| Self(net.trunc()))
    }

    /// Returns the block that a lookup of this address covers: a /24 for IPv4, a /48 for IPv6. Routes that are more specific do not
    /// spread over the whole internet. So one answer is valid for the whole block.
    pub fn block_of(address: Address) -> Self {
        let length = if address.ip().is_ipv4() { BLOCK_V4 } else { BLOCK_V6 };
        Self::new(address, length).unwrap_or(Self::host(address))
    }

    /// Returns the block that contains only this address.
    pub fn host(address: Address) -> Self {
        Self(address.ip().into())
    }

    pub fn network(self) -> Address {
        self.0.addr().into()
    }

    /// Returns the prefix length: the number of first bits that all addresses of the block share. It is 0 to 32 for IPv4, and 0 to
    /// 128 for IPv6.
    pub fn length(self) -> u8 {
        self.0.prefix_len()
    }

    pub fn contains(self, address: Address) -> bool {
        self.0.contains(&address.ip())
    }

    /// Parses a text such as `192.0.2.0/24` or `2001:db8::/32`. Ignores surrounding blanks, and sets the bits after the prefix
    /// length to zero.
    pub fn parse(text: &str) -> Option<Self> {
        let (ip, length) = text.trim_ascii().split_once('/')?;
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| digits)?;
        let ip: IpAddr = ip.parse().ok()?;
        let address = Address::new(ip);
        // If the prefix length of an IPv4-mapped address is less than 96, the text is refused. Otherwise `::ffff:192.0.2.0/24`
        // would become 192.0.2.0/24, although the two prefixes contain different addresses.
        let is_mapped = ip.is_ipv6() && address.ip().is_ipv4();
        Self::new(address, if is_mapped { length.checked_sub(MAPPED)? } else { length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn host(text: &str) -> Address {
        Address::new(text.parse().unwrap())
    }

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).unwrap()
    }

    #[test]
    fn host_bits_are_dropped() {
        assert_eq!(prefix("192.0.2.77/24").to_string(), "192.0.2.0/24");
        assert_eq!(prefix("2001:db8:1:2::3/48").to_string(), "2001:db8:1::/48");
        assert_eq!(prefix("192.0.2.77/0").to_string(), "0.0.0.0/0");
        assert_eq!(prefix("192.0.2.77/32").to_string(), "192.0.2.77/32");
        assert_eq!(prefix("ffff::1/128").to_string(), "ffff::1/128");
        assert_eq!(prefix("ffff::1/0").to_string(), "::/0");
    }

    #[test]
    fn block_is_the_smallest_that_is_routed() {
        assert_eq!(Prefix::block_of(host("192.0.2.77")).to_string(), "192.0.2.0/24");
        assert_eq!(Prefix::block_of(host("2001:db8:1:2::3")).to_string(), "2001:db8:1::/48");
        assert_eq!(Prefix::block_of(host("::ffff:192.0.2.77")).to_string(), "192.0.2.0/24");
    }

    #[test]
    fn mapped_block_is_its_ipv4_block() {
        assert_eq!(prefix("::ffff:192.0.2.0/120"), prefix("192.0.2.0/24"));
        assert_eq!(prefix("::ffff:0:0/96"), prefix("0.0.0.0/0"));
        assert_eq!(Prefix::parse("::ffff:192.0.2.0/24"), None);
        assert_eq!(Prefix::parse("::ffff:192.0.2.0/95"), None);
    }

    #[test]
    fn other_family_is_not_inside() {
        assert!(!prefix("::/0").contains(host("192.0.2.1")));
        assert!(!prefix("0.0.0.0/0").contains(host("::1")));
        assert!(prefix("0.0.0.0/0").contains(host("::ffff:192.0.2.1")));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "/",
            "192.0.2.0",
            "192.0.2.0/",
            "192.0.2.0/33",
            "192.0.2.0/+8",
            "192.0.2.0/-1",
            "192.0.2.0/256",
            "192.0.2.0/24/24",
            "2001:db8::/129",
            "2001:db8::%eth0/64",
            "/24",
            "NA",
            "192.0.2.0/24\0",
        ] {
            assert_eq!(Prefix::parse(text), None, "{text:?}");
        }
        assert_eq!(Prefix::new(host("192.0.2.0"), 33), None);
        assert_eq!(Prefix::new(host("::1"), 129), None);
    }

    #[test]
    fn order_is_that_of_the_btree() {
        let sorted =
            ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.1.0/24", "10.128.0.0/9", "::/0", "::1/128"];
        assert!(sorted.map(prefix).is_sorted());
    }

    fn any_address() -> impl Strategy<Value = Address> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Address::new(Ipv4Addr::from_bits(bits).into())),
            any::<u128>().prop_map(|bits| Address::new(Ipv6Addr::from_bits(bits).into())),
        ]
    }

    /// Returns the bits of an address, left-aligned, and their number.
    fn bits(address: Address) -> (u128, u8) {
        match address.ip() {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        }
    }

    proptest! {
        #[test]
        fn block_contains_addresses_that_share_its_bits(a in any_address(), noise in any::<u128>(), length in 0..=128_u8) {
            let (of_a, width) = bits(a);
            let length = length % (width + 1);
            let block = Prefix::new(a, length).unwrap();
            prop_assert!(block.contains(a));
            prop_assert!(block.contains(block.network()));
            prop_assert_eq!(block.length(), length);

            let of_b = of_a ^ (noise & (u128::MAX << (128 - u32::from(width))));
            let b: IpAddr = match a.ip() {
                IpAddr::V4(_) => Ipv4Addr::from_bits((of_b >> 96) as u32).into(),
                IpAddr::V6(_) => Ipv6Addr::from_bits(of_b).into(),
            };
            let b = Address::new(b);
            if b.ip().is_ipv4() == a.ip().is_ipv4() {
                let shared = (of_a ^ of_b).leading_zeros() >= length.into();
                prop_assert_eq!(block.contains(b), shared);
                prop_assert_eq!(Prefix::new(b, length) == Some(block), shared);
            }
        }

        #[test]
        fn text_form_reads_back(address in any_address(), length in 0..=128_u8) {
            if let Some(block) = Prefix::new(address, length) {
                prop_assert_eq!(Prefix::parse(&block.to_string()), Some(block));
            }
        }

        #[test]
        fn invariants_hold_for_any_block(address in any_address(), length in 0..=130_u8) {
            crate::invariants::ip_text(format!("{address}/{length}").as_bytes());
        }
    }
}
