//! Host addresses in canonical form: parsing, order and text.
//!
//! One host always has the same `Address`. An IPv4-mapped IPv6 address is converted to its IPv4 address. Without this conversion, a
//! sensor that listens on `::` and a sensor that listens on `0.0.0.0` would count the same attacker as two addresses. All code that
//! compares, sorts or stores addresses uses the type `Address`.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// One host address in canonical form.
///
/// `Ord` is the order of PostgreSQL's btree for `inet` values of hosts: IPv4 addresses come before IPv6 addresses, and addresses of
/// one family are ordered by their bytes. All code writes rows in this order. If two writers used different orders, they could
/// deadlock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address(IpAddr);

impl Address {
    pub fn new(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }

    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self::new(ip)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Maximum length of the text of an address, in bytes, without surrounding blanks. The longest IPv6 text has 45 bytes. The
/// remaining bytes are for a zone name. Cowrie's own column has space for 61 bytes.
pub const LONGEST_TEXT: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressError {
    /// The text is too long, so it was not parsed. `length` is its length in bytes without the surrounding blanks.
    TooLong {
        length: usize,
    },
    NotAnAddress,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length } => {
                write!(f, "address of {length} bytes is longer than {LONGEST_TEXT} bytes")
            }
            Self::NotAnAddress => f.write_str("text is not an IPv4 or IPv6 address"),
        }
    }
}

impl Error for AddressError {}

/// Parses an address in the forms that honeypots write. Returns `None` for a text that is empty or consists of blanks.
///
/// The grammar of the text:
/// ```text
/// text  = *blank [ ipv4 [ "/32" ] / ipv6 [ "/128" / "%" zone ] ] *blank
/// zone  = 1*VCHAR                 ; dropped, because it is the name of an interface of the sensor, not a part of the address
/// ipv4  = four decimal numbers without leading zeros
/// ipv6  = RFC 4291 section 2.2, all three forms
/// ```
///
/// Examples from real logs: `203.0.113.7`; `::ffff:203.0.113.7`, which Twisted reports on a dual-stack socket; `fe80::1%eth0` (RFC
/// 4007 section 11). The surrounding blanks come from columns of type `char(n)`, whose values are padded.
pub fn parse(text: &str) -> Result<Option<Address>, AddressError> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > LONGEST_TEXT {
        return Err(AddressError::TooLong { length: text.len() });
    }
    let ip = match text.split_once('%') {
        None => parse_host(text),
        Some((host, zone)) if is_zone(zone) => host.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        Some(_) => None,
    };
    ip.map(|ip| Some(Address::new(ip))).ok_or(AddressError::NotAnAddress)
}

/// Parses an address in these bytes, like [`parse`]. Returns an error if the bytes are not UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> Result<Option<Address>, AddressError> {
    std::str::from_utf8(bytes).map_err(|_| AddressError::NotAnAddress).and_then(parse)
}

/// Parses a host. A prefix length after the host is accepted only if it is /32 for IPv4 or /128 for IPv6. Such texts exist because
/// PostgreSQL casts an `inet` value of a host to a text like `203.0.113.7/32`.
fn parse_host(text: &str) -> Option<IpAddr> {
    let (host, length) = text.split_once('/').map_or((text, None), |(host, length)| (host, Some(length)));
    let ip: IpAddr = host.parse().ok()?;
    let whole = if ip.is_ipv4() { "32" } else { "128" };
    length.is_none_or(|length| length == whole).then_some(ip)
}

fn is_zone(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn host(text: &str) -> Address {
        Address::new(text.parse().unwrap())
    }

    #[test]
    fn plain_addresses_are_read() {
        assert_eq!(parse("203.0.113.7"), Ok(Some(host("203.0.113.7"))));
        assert_eq!(parse("2001:DB8::1"), Ok(Some(host("2001:db8::1"))));
    }

    #[test]
    fn a_prefix_length_is_read_when_it_is_the_whole_address() {
        assert_eq!(parse("203.0.113.7/32"), Ok(Some(host("203.0.113.7"))));
        assert_eq!(parse("2001:db8::1/128"), Ok(Some(host("2001:db8::1"))));
        for network in
            ["203.0.113.7/31", "203.0.113.7/", "203.0.113.7/128", "2001:db8::1/32", "203.0.113.7/32/32"]
        {
            assert_eq!(parse(network), Err(AddressError::NotAnAddress), "{network}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_no_address() {
        assert_eq!(parse_bytes(b" 203.0.113.7 "), Ok(Some(host("203.0.113.7"))));
        assert_eq!(parse_bytes(b"203.0.113.\xff"), Err(AddressError::NotAnAddress));
    }

    #[test]
    fn mapped_ipv6_is_ipv4() {
        assert_eq!(parse("::ffff:8.8.8.8"), Ok(Some(host("8.8.8.8"))));
        assert_eq!(parse("::ffff:808:808").unwrap().unwrap().to_string(), "8.8.8.8");
        // An IPv4-compatible address (deprecated) is not an IPv4-mapped one.
        assert_eq!(parse("::8.8.8.8").unwrap().unwrap().to_string(), "::808:808");
    }

    #[test]
    fn padding_is_ignored() {
        assert_eq!(parse("  203.0.113.7\t \r\n"), Ok(Some(host("203.0.113.7"))));
        let padded = format!("{:<1000}", "203.0.113.7");
        assert_eq!(parse(&padded), Ok(Some(host("203.0.113.7"))));
    }

    #[test]
    fn nothing_is_no_address_and_no_error() {
        for text in ["", " ", "\t\n", &" ".repeat(10_000)] {
            assert_eq!(parse(text), Ok(None));
        }
    }

    #[test]
    fn zone_is_dropped() {
        assert_eq!(parse("fe80::1%eth0"), Ok(Some(host("fe80::1"))));
        assert_eq!(parse("fe80::1%3"), Ok(Some(host("fe80::1"))));
        assert_eq!(parse("::ffff:1.2.3.4%lo"), Ok(Some(host("1.2.3.4"))));
    }

    #[test]
    fn what_is_not_one_host_is_refused() {
        for text in [
            "not an ip",
            "1.2.3.4; drop table",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.256",
            "01.2.3.4",
            "10.0.0.0/8",
            "1.2.3.4%eth0",
            "1.2.3.4:22",
            "[::1]",
            "fe80::1%",
            "fe80::1%eth0; drop table",
            "%eth0",
            "1:2:3:4:5:6:7:8:9",
            "::1::",
            "1.2.3.4\0",
            "１.2.3.4",
            "0x7f.1",
            "2130706433",
        ] {
            assert_eq!(parse(text), Err(AddressError::NotAnAddress), "{text:?}");
        }
    }

    #[test]
    fn long_text_is_refused_by_its_length() {
        let longest = format!("fe80::1%{}", "z".repeat(LONGEST_TEXT - 8));
        assert_eq!(parse(&longest), Ok(Some(host("fe80::1"))));
        assert_eq!(parse(&format!("{longest}z")), Err(AddressError::TooLong { length: 129 }));
        assert_eq!(parse(&"1".repeat(10_000)), Err(AddressError::TooLong { length: 10_000 }));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(
            AddressError::TooLong { length: 500 }.to_string(),
            "address of 500 bytes is longer than 128 bytes"
        );
        assert_eq!(AddressError::NotAnAddress.to_string(), "text is not an IPv4 or IPv6 address");
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
            any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped())),
            any::<u32>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits.into()))),
        ]
    }

    /// Computes the sort key of PostgreSQL's order in a second way, for the test: the byte of the family, then the bytes of the
    /// address.
    fn btree_key(address: Address) -> Vec<u8> {
        match address.ip() {
            IpAddr::V4(ip) => [vec![2], ip.octets().to_vec()].concat(),
            IpAddr::V6(ip) => [vec![3], ip.octets().to_vec()].concat(),
        }
    }

    proptest! {
        #[test]
        fn text_form_reads_back(ip in any_ip()) {
            let address = Address::new(ip);
            prop_assert_eq!(parse(&address.to_string()), Ok(Some(address)));
            prop_assert_eq!(parse(&format!(" {ip} ")), Ok(Some(address)));
        }

        #[test]
        fn canonical_form_is_stable_and_never_mapped(ip in any_ip()) {
            let address = Address::new(ip);
            prop_assert_eq!(Address::new(address.ip()), address);
            if let IpAddr::V6(ip) = address.ip() {
                prop_assert_eq!(ip.to_ipv4_mapped(), None);
            }
        }

        #[test]
        fn order_is_that_of_the_btree(a in any_ip(), b in any_ip()) {
            let (a, b) = (Address::new(a), Address::new(b));
            prop_assert_eq!(a.cmp(&b), btree_key(a).cmp(&btree_key(b)));
        }

        #[test]
        fn invariants_hold_for_any_text(text in ".{0,200}|[0-9a-f:./% ]{1,45}") {
            crate::invariants::ip_text(text.as_bytes());
        }
    }
}
