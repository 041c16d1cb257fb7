//! Invariants of the parsers that read untrusted bytes. An invariant must be true for all possible input.
//!
//! For each parser, this file has one function that panics if an invariant of the parser is broken. Property tests in this file and
//! the fuzz targets in `fuzz/` call these functions. If a parser is private, its invariants are in the folder of the parser.
//!
//! The invariants include everything that the callers of a parser rely on. For example, every field is valid and has a limited
//! size, and no result is about an address that was not requested. Each function computes the expected result in another way than
//! the parser, because it is not enough that the parser does not panic.

pub use crate::export::invariants::{collector_settings, scrape_request};
pub use crate::otlp::invariants::collector_answer;
pub use crate::providers::cymru::invariants::{dns_message, dns_server, network_answer, whois_answer};
pub use crate::providers::http::invariants::{
    dshield_answer, greynoise_answer, http_answer, http_settings, spur_answer,
};

use crate::address::{self, Address, AddressError, LONGEST_TEXT};
use crate::address_line;
use crate::jsonb_text::{Escapes, keepable, quoted};
use crate::prefix::Prefix;
use crate::timestamp::Timestamp;
use crate::{classify, legacy, mmdb};
use serde_json::Value;
use std::net::{IpAddr, Ipv6Addr};

/// Checks three parsers: the parser of session addresses, the parser of lines in lists of addresses, and the parser of blocks in
/// the form that providers write. For an address and a block, the result must be the same as the result of the standard library. A
/// host must never be parsed as a network.
pub fn ip_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        assert_eq!(address::parse_bytes(bytes), Err(AddressError::NotAnAddress));
        return;
    };
    let read = address::parse(text);
    assert_eq!(address::parse_bytes(bytes), read);
    assert_eq!(read, expected_address(text));
    if let Ok(Some(read)) = read {
        assert_eq!(address::parse(&read.to_string()), Ok(Some(read)));
        assert_eq!(Prefix::host(read).network(), read);
    }
    let listed = address_line::parse(text);
    // In a line of a list, these characters begin a comment or end the address. In the address of a session, they may be part of
    // the zone name.
    if read.is_ok() && !text.contains(['#', ';', ',']) {
        assert_eq!(listed.ok(), read.ok());
    } else if let Ok(Some(listed)) = listed {
        assert_eq!(address_line::parse(&listed.to_string()), Ok(Some(listed)));
    }
    let block = Prefix::parse(text);
    assert_eq!(block, expected_block(text));
    if let Some(block) = block {
        assert_eq!(Prefix::parse(&block.to_string()), Some(block));
        assert!(block.contains(block.network()));
    }
}

/// Parses an address according to the grammar in `address`, but in another order: first the text after the host, and then the host.
/// The standard library parses the host.
fn expected_address(text: &str) -> Result<Option<Address>, AddressError> {
    let text = text.trim_matches(|char: char| char.is_ascii_whitespace());
    match text.len() {
        0 => return Ok(None),
        length if length > LONGEST_TEXT => return Err(AddressError::TooLong { length }),
        _ => {}
    }
    let host = |text: &str| text.parse::<IpAddr>().ok();
    let zoned = |at: usize| {
        let zone = &text[at + 1..];
        let visible = !zone.is_empty() && zone.chars().all(|char| ('!'..='~').contains(&char));
        host(&text[..at]).filter(|ip| visible && ip.is_ipv6())
    };
    let ip = match (text.find('%'), text.strip_suffix("/32"), text.strip_suffix("/128")) {
        (Some(at), ..) => zoned(at),
        (None, Some(v4), _) => host(v4).filter(IpAddr::is_ipv4),
        (None, _, Some(v6)) => host(v6).filter(IpAddr::is_ipv6),
        _ => host(text),
    };
    ip.map(|ip| Some(Address::new(ip))).ok_or(AddressError::NotAnAddress)
}

/// Computes the block with the bits of an IPv6 address. An IPv4 block is first converted to an IPv4-mapped IPv6 block.
fn expected_block(text: &str) -> Option<Prefix> {
    let (host, length) = text.trim_matches(|char: char| char.is_ascii_whitespace()).rsplit_once('/')?;
    let ip: IpAddr = host.parse().ok()?;
    let length = length.parse::<u8>().ok().filter(|_| length.chars().all(|char| char.is_ascii_digit()))?;
    let (bits, length) = match ip {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped().to_bits(), u32::from(length).checked_add(96)?),
        IpAddr::V6(ip) => (ip.to_bits(), length.into()),
    };
    let mapped = Ipv6Addr::from_bits(bits).to_ipv4_mapped().is_some();
    if length > 128 || (mapped && length < 96) {
        return None;
    }
    let network = Ipv6Addr::from_bits(bits & u128::MAX.checked_shl(128 - length).unwrap_or(0));
    let own = if mapped { length - 96 } else { length };
    let block = Prefix::new(Address::new(network.into()), u8::try_from(own).ok()?)?;
    assert_eq!(block.network(), Address::new(network.into()), "bits behind the length");
    Some(block)
}

/// Checks texts in documents that other programs wrote.
pub fn foreign_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return json(bytes);
    };
    if let Some(asn) = legacy::asn(text) {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        assert_eq!(digits.trim_start_matches('0'), asn.to_string());
        assert!(
            text.chars().all(|char| char.is_ascii_digit() || char.is_whitespace() || "AaSs".contains(char))
        );
    }
    if let Some(country) = legacy::country(text) {
        assert!(country.iter().all(u8::is_ascii_uppercase) && !matches!(&country, b"XX" | b"ZZ"));
        assert!(text.trim().as_bytes().eq_ignore_ascii_case(&country));
    }
    if let Some(registry) = legacy::registry(text) {
        assert!(["ARIN", "RIPE", "APNIC", "LACNIC", "AFRINIC"].contains(&registry));
        assert!(text.len() >= 4);
    }
    if let Some(name) = legacy::name(text) {
        stored_name(&name);
        assert_eq!(
            legacy::name(&name),
            Some(name.clone()),
            "reading a cleaned name again must not change the name"
        );
        let _ = classify::by_name(&name);
    }
    json(bytes);
}

/// Checks that the server can store the result of `keepable`. The result must not contain NUL. If the input is valid JSON, the
/// result must be valid JSON too.
fn json(bytes: &[u8]) {
    for escapes in [Escapes::Unicode, Escapes::Ascii] {
        let kept = keepable(bytes, escapes).into_owned();
        assert_eq!(keepable(&kept, escapes), kept, "cleaning a text again must not change the text");
        assert!(kept.len() <= bytes.len());
        match serde_json::from_slice::<Value>(&kept) {
            Ok(value) => no_nul(&value),
            Err(_) => assert!(
                serde_json::from_slice::<Value>(bytes).is_err(),
                "cleaning must keep valid JSON valid"
            ),
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert_eq!(serde_json::from_slice::<String>(&quoted(bytes)).expect("a JSON string"), text);
    }
}

fn no_nul(value: &Value) {
    match value {
        Value::String(text) => assert!(!text.contains('\0')),
        Value::Array(values) => values.iter().for_each(no_nul),
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            assert!(!name.contains('\0'));
            no_nul(value);
        }),
        _ => {}
    }
}

/// Checks that a name can be stored in a text column and shown in a terminal.
pub(crate) fn stored_name(name: &str) {
    assert!(!name.is_empty() && name == name.trim(), "{name:?}");
    assert!(name.chars().count() <= mmdb::LONGEST_NAME, "{} characters", name.chars().count());
    assert!(!name.contains(char::is_control), "{name:?}");
    assert!(!name.eq_ignore_ascii_case("NA"), "{name:?}");
}

/// Checks times in documents.
pub fn document_time(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(timestamp) = Timestamp::parse(text) {
        let written = timestamp.to_iso8601();
        assert_eq!(written.len(), "2026-11-20T03:18:32.123456+00:00".len(), "{written}");
        assert_eq!(Timestamp::parse(&written), Some(timestamp), "{written}");
        // PostgreSQL refuses a year 0.
        assert!(&written[..4] >= "0001", "{written}");
    }
}
