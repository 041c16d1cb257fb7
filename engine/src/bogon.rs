//! Bogons: addresses that cannot belong to a host on the public internet.
//!
//! A bogon is never looked up at a provider. The table contains all rows of two IANA registries, including the changes of RFC 9780
//! (2025): <https://www.iana.org/assignments/iana-ipv4-special-registry> and
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>. The table also contains multicast addresses, which are not in
//! these registries, and the deprecated site-local block. If a registry marks a block with "globally reachable: true", its
//! addresses are not bogons. If a registry marks a block with "N/A" (Teredo, 6to4), its addresses are bogons. Such an address
//! belongs to a tunnel and does not show who uses the tunnel.
//!
//! The first row that contains the address decides. So an exception stands before the block that contains the exception. The table
//! does not have the blocks inside 2000::/3 that IANA has not allocated yet. IANA will allocate them over time, but the table in an
//! installed version does not change.

use crate::address::Address;
use crate::prefix::Prefix;
use std::net::{IpAddr, Ipv4Addr};

/// Returns the reason why the address is a bogon, or `None` if it is not a bogon. The reason is stored, and users group by it, so
/// its text must not change.
pub fn reason(address: Address) -> Option<&'static str> {
    match address.ip() {
        IpAddr::V4(ip) => v4_reason(ip),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            let row = V6.iter().find(|row| bits & row.mask == row.network)?;
            match row.verdict {
                Verdict::Bogon(reason) => Some(reason),
                Verdict::Global => None,
                // RFC 6052 section 3.1: an IPv6 address with the well-known prefix must not contain an IPv4 address that is not
                // global. So if a packet comes from such an address, the address is forged.
                Verdict::AsItsLast32Bits => v4_reason(Ipv4Addr::from_bits(bits as u32))
                    .map(|_| "NAT64 of a non-global IPv4 address (RFC 6052)"),
            }
        }
    }
}

/// Returns true if all addresses of the block are bogons. The addresses may be in different rows of the table.
pub fn covers(block: Prefix) -> bool {
    let (bits, length) = (block.network().ip(), u32::from(block.length()));
    match bits {
        IpAddr::V4(ip) => all_bogons(&V4, u128::from(ip.to_bits()), length, 32),
        IpAddr::V6(ip) => all_bogons(&V6, ip.to_bits(), length, 128),
    }
}

/// Returns true if all addresses of the block are bogons. The first row that overlaps the block is used. If this row contains the
/// whole block, the row decides. Otherwise the block is divided into halves, and all addresses of both halves must be bogons.
/// `width` is the number of bits of an address.
fn all_bogons<Bits: Into<u128> + Copy>(rows: &[Row<Bits>], network: u128, length: u32, width: u32) -> bool {
    let mask_of = |length: u32| u128::MAX.checked_shl(width - length).unwrap_or(0);
    let overlaps = |row: &&Row<Bits>| {
        let common = row.mask.into() & mask_of(length);
        (row.network.into() ^ network) & common == 0
    };
    match rows.iter().find(overlaps) {
        None => false,
        Some(row) if row.mask.into().count_ones() <= length => match row.verdict {
            Verdict::Bogon(_) => true,
            Verdict::Global => false,
            Verdict::AsItsLast32Bits => all_bogons(&V4, network & u128::from(u32::MAX), length - 96, 32),
        },
        // The recursion ends, because a block with a single address is never larger than a row.
        Some(_) => {
            let upper = network | 1 << (width - length - 1);
            all_bogons(rows, network, length + 1, width) && all_bogons(rows, upper, length + 1, width)
        }
    }
}

/// Returns true if at least one address of the prefix is a bogon. This is so if the prefix is inside a block of bogons, or contains
/// such a block.
pub fn occur_in(prefix: Prefix) -> bool {
    let length = u32::from(prefix.length());
    let is_inside = match prefix.network().ip() {
        IpAddr::V4(ip) => contains_row(&V4, ip.to_bits(), u32::MAX.checked_shl(32 - length).unwrap_or(0)),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            if let Some(length) = length.checked_sub(96)
                && V6
                    .iter()
                    .any(|row| matches!(row.verdict, AsItsLast32Bits) && bits & row.mask == row.network)
            {
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                contains_row(&V4, bits as u32, mask)
            } else {
                contains_row(&V6, bits, u128::MAX.checked_shl(128 - length).unwrap_or(0))
            }
        }
    };
    is_inside || reason(prefix.network()).is_some()
}

/// Returns true if a block of bogons is inside the block.
fn contains_row<Bits>(rows: &[Row<Bits>], network: Bits, mask: Bits) -> bool
where
    Bits: Copy + Ord + std::ops::BitAnd<Output = Bits>,
{
    rows.iter().any(|row| !matches!(row.verdict, Global) && row.mask >= mask && row.network & mask == network)
}

fn v4_reason(ip: Ipv4Addr) -> Option<&'static str> {
    let bits = ip.to_bits();
    match V4.iter().find(|row| bits & row.mask == row.network)?.verdict {
        Verdict::Bogon(reason) => Some(reason),
        Verdict::Global | Verdict::AsItsLast32Bits => None,
    }
}

#[derive(Clone, Copy)]
enum Verdict {
    Bogon(&'static str),
    Global,
    AsItsLast32Bits,
}
use Verdict::{AsItsLast32Bits, Bogon, Global};

struct Row<Bits> {
    network: Bits,
    mask: Bits,
    verdict: Verdict,
}

const fn v4(octets: [u8; 4], length: u32, verdict: Verdict) -> Row<u32> {
    Row { network: u32::from_be_bytes(octets), mask: u32::MAX << (32 - length), verdict }
}

/// Builds a row for an IPv6 block. `groups` are the 16-bit groups of the address before the `::`. All other bits of the address are
/// zero.
const fn v6(groups: &[u16], length: u32, verdict: Verdict) -> Row<u128> {
    let mut network = 0;
    let mut group = 0;
    while group < groups.len() {
        network |= (groups[group] as u128) << (112 - 16 * group);
        group += 1;
    }
    Row { network, mask: if length == 0 { 0 } else { u128::MAX << (128 - length) }, verdict }
}

#[rustfmt::skip]
static V4: [Row<u32>; 24] = [
    v4([0, 0, 0, 0], 8, Bogon("this network (RFC 791)")),
    v4([10, 0, 0, 0], 8, Bogon("private-use (RFC 1918)")),
    v4([100, 64, 0, 0], 10, Bogon("shared address space (RFC 6598)")),
    v4([127, 0, 0, 0], 8, Bogon("loopback (RFC 1122)")),
    v4([169, 254, 0, 0], 16, Bogon("link-local (RFC 3927)")),
    v4([172, 16, 0, 0], 12, Bogon("private-use (RFC 1918)")),
    v4([192, 0, 0, 9], 32, Global),   // Port Control Protocol anycast, RFC 7723
    v4([192, 0, 0, 10], 32, Global),  // TURN anycast, RFC 8155
    v4([192, 0, 0, 0], 29, Bogon("IPv4 service continuity (RFC 7335)")),
    v4([192, 0, 0, 8], 32, Bogon("IPv4 dummy address (RFC 7600)")),
    v4([192, 0, 0, 170], 31, Bogon("NAT64/DNS64 discovery (RFC 7050)")),
    v4([192, 0, 0, 0], 24, Bogon("IETF protocol assignments (RFC 6890)")),
    v4([192, 0, 2, 0], 24, Bogon("documentation (RFC 5737)")),
    v4([192, 31, 196, 0], 24, Global),  // AS112-v4, RFC 7535
    v4([192, 52, 193, 0], 24, Global),  // AMT, RFC 7450
    v4([192, 88, 99, 0], 24, Bogon("deprecated 6to4 relay anycast (RFC 7526)")),
    v4([192, 168, 0, 0], 16, Bogon("private-use (RFC 1918)")),
    v4([192, 175, 48, 0], 24, Global),  // direct delegation AS112 service, RFC 7534
    v4([198, 18, 0, 0], 15, Bogon("benchmarking (RFC 2544)")),
    v4([198, 51, 100, 0], 24, Bogon("documentation (RFC 5737)")),
    v4([203, 0, 113, 0], 24, Bogon("documentation (RFC 5737)")),
    v4([224, 0, 0, 0], 4, Bogon("multicast (RFC 5771)")),
    v4([255, 255, 255, 255], 32, Bogon("limited broadcast (RFC 919)")),
    v4([240, 0, 0, 0], 4, Bogon("reserved (RFC 1112)")),
];

#[rustfmt::skip]
static V6: [Row<u128>; 32] = [
    v6(&[0, 0, 0, 0, 0, 0, 0, 0], 128, Bogon("unspecified (RFC 4291)")),
    v6(&[0, 0, 0, 0, 0, 0, 0, 1], 128, Bogon("loopback (RFC 4291)")),
    v6(&[], 96, Bogon("deprecated IPv4-compatible (RFC 4291)")),
    // ::ffff:0:0/96 has no row, because `Address` converts it to IPv4.
    v6(&[0x64, 0xff9b], 96, AsItsLast32Bits),  // NAT64 well-known prefix, RFC 6052
    v6(&[0x64, 0xff9b, 1], 48, Bogon("local-use NAT64 (RFC 8215)")),
    v6(&[0x100], 64, Bogon("discard-only (RFC 6666)")),
    v6(&[0x100, 0, 0, 1], 64, Bogon("dummy prefix (RFC 9780)")),
    v6(&[0x2001], 32, Bogon("Teredo (RFC 4380)")),
    v6(&[0x2001, 1, 0, 0, 0, 0, 0, 1], 128, Global),  // Port Control Protocol anycast, RFC 7723
    v6(&[0x2001, 1, 0, 0, 0, 0, 0, 2], 128, Global),  // TURN anycast, RFC 8155
    v6(&[0x2001, 1, 0, 0, 0, 0, 0, 3], 128, Global),  // DNS-SD registration anycast, RFC 9665
    v6(&[0x2001, 2], 48, Bogon("benchmarking (RFC 5180)")),
    v6(&[0x2001, 3], 32, Global),         // AMT, RFC 7450
    v6(&[0x2001, 4, 0x112], 48, Global),  // AS112-v6, RFC 7535
    v6(&[0x2001, 0x10], 28, Bogon("deprecated ORCHID (RFC 4843)")),
    v6(&[0x2001, 0x20], 28, Global),  // ORCHIDv2, RFC 7343
    v6(&[0x2001, 0x30], 28, Global),  // drone remote identification, RFC 9374
    v6(&[0x2001], 23, Bogon("IETF protocol assignments (RFC 2928)")),
    v6(&[0x2001, 0xdb8], 32, Bogon("documentation (RFC 3849)")),
    v6(&[0x2002], 16, Bogon("6to4 (RFC 3056)")),
    v6(&[0x2620, 0x4f, 0x8000], 48, Global),  // direct delegation AS112 service, RFC 7534
    v6(&[0x3fff], 20, Bogon("documentation (RFC 9637)")),
    v6(&[0x5f00], 16, Bogon("segment routing SIDs (RFC 9602)")),
    v6(&[0x2000], 3, Global),  // global unicast, RFC 4291 section 2.4 and the IANA address space registry
    v6(&[0xfc00], 7, Bogon("unique local (RFC 4193)")),
    v6(&[0xfe80], 10, Bogon("link-local (RFC 4291)")),
    v6(&[0xfec0], 10, Bogon("deprecated site-local (RFC 3879)")),
    v6(&[0xff00], 8, Bogon("multicast (RFC 4291)")),
    v6(&[], 8, Bogon("reserved by IETF (RFC 4291)")),
    v6(&[0x100], 8, Bogon("reserved by IETF (RFC 4291)")),
    v6(&[0x200], 7, Bogon("deprecated NSAP-mapped (RFC 4048)")),
    v6(&[], 0, Bogon("not global unicast (RFC 4291)")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    fn of(text: &str) -> Option<&'static str> {
        reason(address::parse(text).unwrap().unwrap())
    }

    #[test]
    fn a_prefix_contains_bogons_if_it_is_in_a_block_or_around_one() {
        let contains = |text: &str| occur_in(Prefix::parse(text).unwrap());
        for text in [
            "10.1.0.0/16",
            "10.0.0.1/32",
            "100.0.0.0/8",
            "192.0.0.0/16",
            "192.88.0.0/16",
            "203.0.112.0/23",
            "0.0.0.0/0",
            "255.255.255.255/32",
            "2001:db8::/32",
            "2001::/16",
            "2001:db8:1::/48",
            "64:ff9b::/96",
            "64:ff9b::a00:0/120",
            "::/0",
            "fc00::1/128",
        ] {
            assert!(contains(text), "{text}");
        }
        for text in [
            "8.0.0.0/8",
            "100.0.0.0/10",
            "203.0.114.0/23",
            "192.0.0.9/32",
            "192.31.196.0/24",
            "2001:4860::/32",
            "64:ff9b::808:0/112",
            "2400::/12",
            "2001:20::/28",
        ] {
            assert!(!contains(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_of_one_address_contains_a_bogon_if_the_address_is_one(bits in any::<u32>(), low in any::<u128>()) {
            let v4 = Address::new(Ipv4Addr::from_bits(bits).into());
            prop_assert_eq!(occur_in(Prefix::host(v4)), reason(v4).is_some());
            let v6 = Address::new(Ipv6Addr::from_bits(low).into());
            prop_assert_eq!(occur_in(Prefix::host(v6)), reason(v6).is_some());
        }
    }

    /// The same entries of the registries, copied by hand from the registries' pages a second time: prefix and "globally
    /// reachable". In this list the longest matching prefix decides, but in the table above the first matching row decides. So a
    /// test with this list finds a row that is at the wrong place in the table.
    const REGISTRY: &str = "
        0.0.0.0/8 no
        10.0.0.0/8 no
        100.64.0.0/10 no
        127.0.0.0/8 no
        169.254.0.0/16 no
        172.16.0.0/12 no
        192.0.0.0/24 no
        192.0.0.0/29 no
        192.0.0.8/32 no
        192.0.0.9/32 yes
        192.0.0.10/32 yes
        192.0.0.170/32 no
        192.0.0.171/32 no
        192.0.2.0/24 no
        192.31.196.0/24 yes
        192.52.193.0/24 yes
        192.88.99.0/24 no
        192.168.0.0/16 no
        192.175.48.0/24 yes
        198.18.0.0/15 no
        198.51.100.0/24 no
        203.0.113.0/24 no
        224.0.0.0/4 no
        240.0.0.0/4 no
        255.255.255.255/32 no
        ::/0 no
        2000::/3 yes
        ::1/128 no
        ::/128 no
        64:ff9b::/96 yes
        64:ff9b:1::/48 no
        100::/64 no
        100:0:0:1::/64 no
        2001::/23 no
        2001::/32 no
        2001:1::1/128 yes
        2001:1::2/128 yes
        2001:1::3/128 yes
        2001:2::/48 no
        2001:3::/32 yes
        2001:4:112::/48 yes
        2001:10::/28 no
        2001:20::/28 yes
        2001:30::/28 yes
        2001:db8::/32 no
        2002::/16 no
        2620:4f:8000::/48 yes
        3fff::/20 no
        5f00::/16 no
        fc00::/7 no
        fe80::/10 no
        fec0::/10 no
        ff00::/8 no";

    fn registry() -> impl Iterator<Item = (IpAddr, u32, bool)> {
        REGISTRY
            .split_whitespace()
            .collect::<Vec<_>>()
            .chunks(2)
            .map(|row| {
                let (network, length) = row[0].split_once('/').unwrap();
                (network.parse().unwrap(), length.parse().unwrap(), row[1] == "no")
            })
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn shared_bits(a: IpAddr, b: IpAddr) -> Option<u32> {
        match (a, b) {
            (IpAddr::V4(a), IpAddr::V4(b)) => Some((a.to_bits() ^ b.to_bits()).leading_zeros()),
            (IpAddr::V6(a), IpAddr::V6(b)) => Some((a.to_bits() ^ b.to_bits()).leading_zeros()),
            _ => None,
        }
    }

    fn naive(ip: IpAddr) -> bool {
        let longest = registry()
            .filter(|(network, length, _)| shared_bits(*network, ip).is_some_and(|bits| bits >= *length))
            .max_by_key(|(_, length, _)| *length);
        match (longest, ip) {
            (Some((network, 96, _)), IpAddr::V6(ip)) if network.to_string() == "64:ff9b::" => {
                naive(IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() as u32)))
            }
            (Some((_, _, bogon)), _) => bogon,
            (None, _) => false,
        }
    }

    fn agrees(ip: IpAddr) -> Result<(), TestCaseError> {
        let address = Address::new(ip);
        prop_assert_eq!(reason(address).is_some(), naive(address.ip()), "{}", address);
        Ok(())
    }

    #[test]
    fn both_edges_of_every_registry_row_agree_with_the_longest_match() {
        for (network, length, _) in registry() {
            match network {
                IpAddr::V4(ip) => {
                    let (first, size) = (ip.to_bits(), u32::MAX.checked_shr(length).unwrap_or(0));
                    for bits in [first.wrapping_sub(1), first, first | size, (first | size).wrapping_add(1)] {
                        agrees(IpAddr::V4(Ipv4Addr::from_bits(bits))).unwrap();
                    }
                }
                IpAddr::V6(ip) => {
                    let (first, size) = (ip.to_bits(), u128::MAX.checked_shr(length).unwrap_or(0));
                    for bits in [first.wrapping_sub(1), first, first | size, (first | size).wrapping_add(1)] {
                        agrees(IpAddr::V6(Ipv6Addr::from_bits(bits))).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn the_reason_is_that_of_the_narrowest_block() {
        for (text, expected) in [
            ("0.1.2.3", "this network (RFC 791)"),
            ("10.1.2.3", "private-use (RFC 1918)"),
            ("172.31.255.255", "private-use (RFC 1918)"),
            ("192.168.0.1", "private-use (RFC 1918)"),
            ("::ffff:192.168.0.1", "private-use (RFC 1918)"),
            ("100.127.255.255", "shared address space (RFC 6598)"),
            ("127.0.0.1", "loopback (RFC 1122)"),
            ("169.254.169.254", "link-local (RFC 3927)"),
            ("192.0.0.7", "IPv4 service continuity (RFC 7335)"),
            ("192.0.0.8", "IPv4 dummy address (RFC 7600)"),
            ("192.0.0.11", "IETF protocol assignments (RFC 6890)"),
            ("192.0.0.171", "NAT64/DNS64 discovery (RFC 7050)"),
            ("203.0.113.255", "documentation (RFC 5737)"),
            ("198.19.255.255", "benchmarking (RFC 2544)"),
            ("239.1.1.1", "multicast (RFC 5771)"),
            ("240.0.0.1", "reserved (RFC 1112)"),
            ("255.255.255.254", "reserved (RFC 1112)"),
            ("255.255.255.255", "limited broadcast (RFC 919)"),
            ("::", "unspecified (RFC 4291)"),
            ("::1", "loopback (RFC 4291)"),
            ("::8.8.8.8", "deprecated IPv4-compatible (RFC 4291)"),
            ("64:ff9b::10.0.0.1", "NAT64 of a non-global IPv4 address (RFC 6052)"),
            ("64:ff9b:1::8.8.8.8", "local-use NAT64 (RFC 8215)"),
            ("100::1", "discard-only (RFC 6666)"),
            ("100:0:0:1::1", "dummy prefix (RFC 9780)"),
            ("2001::1", "Teredo (RFC 4380)"),
            ("2001:2::1", "benchmarking (RFC 5180)"),
            ("2001:1::4", "IETF protocol assignments (RFC 2928)"),
            ("2001:db8::1", "documentation (RFC 3849)"),
            ("2002:808:808::1", "6to4 (RFC 3056)"),
            ("3fff:fff::1", "documentation (RFC 9637)"),
            ("5f00::1", "segment routing SIDs (RFC 9602)"),
            ("fd12::1", "unique local (RFC 4193)"),
            ("fe80::1%eth0", "link-local (RFC 4291)"),
            ("fec0::1", "deprecated site-local (RFC 3879)"),
            ("feff::1", "deprecated site-local (RFC 3879)"),
            ("febf::1", "link-local (RFC 4291)"),
            ("fc00::1", "unique local (RFC 4193)"),
            ("ff02::1", "multicast (RFC 4291)"),
            ("4000::1", "not global unicast (RFC 4291)"),
        ] {
            assert_eq!(of(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn global_addresses_are_no_bogons() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.0.9",
            "192.0.0.10",
            "192.0.1.0",
            "192.31.196.1",
            "223.255.255.255",
            "2001:1::1",
            "2001:4:112::1",
            "2001:200::1",
            "2606:4700:4700::1111",
            "2a01:4f8::1",
            "3ffe::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    /// Compares the result for a block with the results for the single addresses of the block. The test uses blocks at the first
    /// and last address of each row.
    #[test]
    fn a_block_is_covered_if_each_of_its_addresses_is_a_bogon() {
        let check = |network: IpAddr, length: u8, last_bits: u32| {
            let block = Prefix::new(network.into(), length).unwrap();
            let each = (0..1_u128 << last_bits).all(|host| {
                let ip = match block.network().ip() {
                    IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() | host as u32)),
                    IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() | host)),
                };
                reason(ip.into()).is_some()
            });
            assert_eq!(covers(block), each, "{block}");
        };
        for row in &V4 {
            for border in [row.network, row.network.wrapping_sub(1), row.network | !row.mask] {
                (0..=8).for_each(|bits| check(Ipv4Addr::from_bits(border).into(), 32 - bits as u8, bits));
            }
        }
        for row in &V6 {
            for border in [row.network, row.network.wrapping_sub(1), row.network | !row.mask] {
                let ip = IpAddr::from(Ipv6Addr::from_bits(border));
                // An IPv4-mapped address becomes an IPv4 address.
                if ip.to_canonical().is_ipv6() {
                    (0..=8).for_each(|bits| check(ip, 128 - bits as u8, bits));
                }
            }
        }
    }

    #[test]
    fn wide_blocks_are_covered_by_several_rows_together() {
        for (block, covered) in [
            ("224.0.0.0/3", true),
            ("10.0.0.0/8", true),
            ("10.0.0.0/7", false),
            ("0.0.0.0/0", false),
            // Contains 192.0.0.9, which is global.
            ("192.0.0.0/24", false),
            ("192.0.0.128/25", true),
            ("fc00::/6", true),
            ("2001:db8::/32", true),
            ("2000::/3", false),
            ("::/0", false),
            ("64:ff9b::a00:0/104", true),
            ("64:ff9b::/96", false),
        ] {
            assert_eq!(covers(Prefix::parse(block).unwrap()), covered, "{block}");
        }
    }

    proptest! {
        #[test]
        fn any_ipv4_agrees_with_the_longest_match(bits in any::<u32>()) {
            agrees(IpAddr::V4(Ipv4Addr::from_bits(bits)))?;
        }

        #[test]
        fn any_ipv6_agrees_with_the_longest_match(bits in any::<u128>()) {
            agrees(IpAddr::V6(Ipv6Addr::from_bits(bits)))?;
        }

        /// Tests addresses near a row of the table. Each tested address has the first bits of the row's network and random last
        /// bits.
        #[test]
        fn any_address_near_a_row_agrees_with_the_longest_match(
            row in 0..53_usize, cut in 0..=128_u32, noise in any::<u128>(),
        ) {
            let (network, _, _) = registry().nth(row % registry().count()).unwrap();
            match network {
                IpAddr::V4(ip) => {
                    let keep = u32::MAX.checked_shr(cut / 4).unwrap_or(0);
                    agrees(IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() ^ (noise as u32 & keep))))?;
                }
                IpAddr::V6(ip) => {
                    let keep = u128::MAX.checked_shr(cut).unwrap_or(0);
                    agrees(IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() ^ (noise & keep))))?;
                }
            }
        }
    }
}
