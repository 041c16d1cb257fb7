//! Parses one line of a list of addresses. People and tools write such lists in several forms.
//!
//! The grammar of a line:
//! ```text
//! line    = *blank [ quote ] [ entry ] [ quote ] [ "," ] *blank [ comment ]
//! entry   = address / ipv4 ":" port / "[" ipv6 "]" [ ":" port ]
//! comment = ( "#" / ";" ) *CHAR
//! quote   = %x22 / "'"
//! ```
//!
//! [`crate::address::parse`] defines the form of `address`. `[.]` stands for `.`, and `[:]` stands for `:`. Reports about attacks
//! write addresses in this way, because then no program turns the addresses into links. A byte order mark before the line is
//! ignored.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use crate::address::{self, Address, AddressError};

/// The reason why a line has no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineError {
    TooLong {
        length: usize,
    },
    /// The line is a prefix, which has many addresses.
    Prefix,
    /// A decimal number in the IPv4 address begins with a zero. The address is refused, because some programs read such a number as
    /// octal.
    LeadingZero,
    Port,
    /// The line contains further text after the address.
    FurtherText,
    NotAnAddress,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong { length } => return AddressError::TooLong { length: *length }.fmt(f),
            Self::Prefix => "text is a prefix, not a single address",
            Self::LeadingZero => "IPv4 address has a number with a leading zero",
            Self::Port => "port is not a number from 0 to 65535",
            Self::FurtherText => "text follows the address",
            Self::NotAnAddress => return AddressError::NotAnAddress.fmt(f),
        })
    }
}

impl Error for LineError {}

/// Parses a line. Returns `None` if the line is empty or contains only a comment.
pub fn parse(line: &str) -> Result<Option<Address>, LineError> {
    let line = line.trim_start_matches('\u{feff}');
    let line = line.split(['#', ';']).next().unwrap_or_default().trim_ascii();
    let line = line.strip_suffix(',').unwrap_or(line).trim_ascii_end();
    let line = ['"', '\'']
        .into_iter()
        .find_map(|quote| line.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(line)
        .trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let entry = without_brackets(line);
    match address::parse(host(&entry)?) {
        Ok(address) => Ok(address),
        Err(AddressError::TooLong { length }) => Err(LineError::TooLong { length }),
        Err(AddressError::NotAnAddress) => Err(reason(&entry)),
    }
}

/// Replaces `[.]` and `[:]`.
fn without_brackets(line: &str) -> Cow<'_, str> {
    if line.contains("[.]") || line.contains("[:]") {
        Cow::Owned(line.replace("[.]", ".").replace("[:]", ":"))
    } else {
        Cow::Borrowed(line)
    }
}

/// Returns the part of an entry before the port. If the entry has no port, returns the whole entry.
fn host(entry: &str) -> Result<&str, LineError> {
    let (host, port) = if let Some(rest) = entry.strip_prefix('[') {
        let Some((host, port)) = rest.split_once(']') else { return Ok(entry) };
        if !host.contains(':') {
            return Ok(entry);
        }
        match port.strip_prefix(':') {
            Some(port) => (host, port),
            None if port.is_empty() => return Ok(host),
            None => return Err(LineError::FurtherText),
        }
    } else {
        match entry.split_once(':') {
            Some((host, port)) if is_address(host) => (host, port),
            _ => return Ok(entry),
        }
    };
    let (port, further) = port.split_once([' ', '\t', ',']).unwrap_or((port, ""));
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match is_port && port.parse::<u16>().is_ok() {
        true if further.is_empty() => Ok(host),
        true => Err(LineError::FurtherText),
        false => Err(LineError::Port),
    }
}

/// Returns why an entry is not an address.
fn reason(entry: &str) -> LineError {
    let first = entry.split(|letter: char| letter.is_ascii_whitespace() || letter == ',').next();
    if let Some(first) = first.filter(|first| first.len() < entry.len())
        && host(first).is_ok_and(is_address)
    {
        return LineError::FurtherText;
    }
    let is_length = |length: &str| length.parse::<u8>().is_ok_and(|length| length <= 128);
    if entry.split_once('/').is_some_and(|(host, length)| is_address(host) && is_length(length)) {
        return LineError::Prefix;
    }
    if has_leading_zero(entry) { LineError::LeadingZero } else { LineError::NotAnAddress }
}

/// Returns true if an IPv4 address is invalid only because its numbers have leading zeros.
fn has_leading_zero(entry: &str) -> bool {
    let is_padded = |number: &str| number.len() > 1 && number.starts_with('0');
    let plain = |number: &str| match number.trim_start_matches('0') {
        "" if is_padded(number) => "0".to_owned(),
        "" => number.to_owned(),
        rest => rest.to_owned(),
    };
    entry.split('.').any(is_padded) && is_address(&entry.split('.').map(plain).collect::<Vec<_>>().join("."))
}

fn is_address(text: &str) -> bool {
    matches!(address::parse(text), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(text: &str) -> Result<Option<Address>, LineError> {
        Ok(Some(Address::new(text.parse().unwrap())))
    }

    #[test]
    fn a_line_may_have_what_lists_have_around_an_address() {
        for line in [
            "203.0.113.7",
            "  203.0.113.7\t\r\n",
            "\u{feff}203.0.113.7",
            "203.0.113.7/32",
            "::ffff:203.0.113.7",
            "203.0.113.7 # a scanner",
            "203.0.113.7;a scanner",
            "203.0.113.7,",
            "\"203.0.113.7\",",
            "'203.0.113.7'",
            "203.0.113.7:22",
            "[::ffff:203.0.113.7]:65535",
            "203[.]0[.]113[.]7",
            "203.0.113[.]7:2222 ; a report",
        ] {
            assert_eq!(parse(line), host("203.0.113.7"), "{line:?}");
        }
        for line in
            ["2001:db8::7", "[2001:db8::7]", "[2001:db8::7]:22", "2001:DB8:0::7/128", "2001[:]db8[:][:]7"]
        {
            assert_eq!(parse(line), host("2001:db8::7"), "{line:?}");
        }
        assert_eq!(parse("fe80::1%eth0"), host("fe80::1"));
        // Without brackets, the last number belongs to the address.
        assert_eq!(parse("2001:db8::7:22"), host("2001:db8::7:22"));
    }

    #[test]
    fn an_empty_line_and_a_comment_are_no_error() {
        for line in ["", " \t\r\n", "# Tor exits", "  ; comment", "\"\"", "''", ",", "\u{feff}"] {
            assert_eq!(parse(line), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn a_bad_line_has_a_reason() {
        for (line, error) in [
            ("203.0.113.0/24", LineError::Prefix),
            ("2001:db8::/32", LineError::Prefix),
            ("203.0.113.7/33", LineError::Prefix),
            ("203.0.113.007", LineError::LeadingZero),
            ("00.0.0.1", LineError::LeadingZero),
            ("203.0.113.7:", LineError::Port),
            ("203.0.113.7:65536", LineError::Port),
            ("203.0.113.7:ssh", LineError::Port),
            ("203.0.113.7:+22", LineError::Port),
            ("[2001:db8::7]:", LineError::Port),
            ("[2001:db8::7]x", LineError::FurtherText),
            ("203.0.113.7 2024-05-01", LineError::FurtherText),
            ("203.0.113.7,DE", LineError::FurtherText),
            ("203.0.113.7:22 open", LineError::FurtherText),
            ("example.com", LineError::NotAnAddress),
            ("203.0.113.256", LineError::NotAnAddress),
            ("[203.0.113.7]", LineError::NotAnAddress),
            ("\"203.0.113.7", LineError::NotAnAddress),
            ("203.0.113.7/", LineError::NotAnAddress),
            ("203.0.113", LineError::NotAnAddress),
            ("1.2.3.4-1.2.3.9", LineError::NotAnAddress),
            ("[", LineError::NotAnAddress),
            ("[.]", LineError::NotAnAddress),
        ] {
            assert_eq!(parse(line), Err(error), "{line:?}");
        }
        assert_eq!(parse(&"1".repeat(500)), Err(LineError::TooLong { length: 500 }));
    }

    #[test]
    fn reasons_are_readable() {
        assert_eq!(LineError::Prefix.to_string(), "text is a prefix, not a single address");
        assert_eq!(LineError::NotAnAddress.to_string(), "text is not an IPv4 or IPv6 address");
        assert_eq!(
            LineError::TooLong { length: 500 }.to_string(),
            "address of 500 bytes is longer than 128 bytes"
        );
    }

    proptest! {
        #[test]
        fn what_an_address_column_accepts_is_accepted_in_a_list(text in "[0-9a-f:.%/ ]{0,40}") {
            if let Ok(address) = address::parse(&text) {
                prop_assert_eq!(parse(&text), Ok(address));
            }
        }

        #[test]
        fn no_line_makes_it_panic(line in ".{0,60}") {
            let _ = parse(&line);
        }

        #[test]
        fn an_address_with_a_port_is_the_address(bits in any::<u32>(), port in any::<u16>()) {
            let ip = std::net::Ipv4Addr::from_bits(bits);
            prop_assert_eq!(parse(&format!("{ip}:{port}")), Ok(Some(Address::new(ip.into()))));
            let ip = ip.to_ipv6_compatible();
            prop_assert_eq!(parse(&format!("[{ip}]:{port}")), Ok(Some(Address::new(ip.into()))));
        }
    }
}
