//! Prefixes of addresses, and which addresses are public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    network: IpAddr,
    length: u32,
}

impl Prefix {
    /// Parses a prefix such as `8.8.8.0/24`. Host bits are refused.
    pub fn parse(text: &str) -> Option<Prefix> {
        let (network, length) = text.split_once('/')?;
        let prefix = Prefix { network: network.parse().ok()?, length: length.parse().ok()? };
        (prefix.length <= width(prefix.network) && masked(prefix.network, prefix.length) == prefix.network)
            .then_some(prefix)
    }

    /// Returns the prefix that holds nothing but this address.
    pub fn only(address: IpAddr) -> Prefix {
        Prefix { network: address, length: width(address) }
    }

    pub fn length(self) -> u32 {
        self.length
    }

    pub fn network(self) -> IpAddr {
        self.network
    }

    pub fn holds(self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4() && masked(address, self.length) == self.network
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Returns the first address of the prefix of this length that holds `address`.
pub fn masked(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// Returns true for a public address. Less exact than the registries, but a test can notice that a private address was
/// sent to a provider and got an answer.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_documentation()
                || a == 0
                || a >= 224
                || (a == 100 && b & 0xc0 == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && b & 0xfe == 18))
        }
        IpAddr::V6(v6) => v6.segments()[0] & 0xe000 == 0x2000 && v6.segments()[..2] != [0x2001, 0xdb8],
    }
}
