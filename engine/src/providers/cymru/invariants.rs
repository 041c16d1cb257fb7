//! Invariants of Team Cymru's answers, also of forged ones.

pub use super::dns::invariants::{dns_message, dns_server};

use super::whois::{NetworkParser, Parsed, ParsedNetworks, Parser};
use super::{Network, NetworkAnswer, NetworkReply, Route, RouteAnswer, RouteReply, Transport, route};
use crate::address::Address;
use crate::invariants::stored_name;
use crate::prefix::Prefix;
use crate::providers;

/// Returns the addresses of every request in these tests, in order.
pub(super) fn asked() -> Vec<Address> {
    ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "192.0.2.1", "2a00::1"]
        .map(|text| Address::new(text.parse().expect("an address")))
        .into()
}

/// Checks a bulk whois response, or any part of one.
pub fn whois_answer(bytes: &[u8]) {
    let asked = asked();
    let parsed = read_in_pieces(&asked, bytes, bytes.len().max(1));
    for size in [1, 1 + bytes.len() % 61] {
        assert_eq!(read_in_pieces(&asked, bytes, size), parsed, "in pieces of {size}");
    }
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    let anomalies = parsed.anomalies;
    assert!(parsed.answers.len() as u64 + anomalies.foreign + anomalies.malformed <= ends);
    assert!(anomalies.oversized <= ends + 1);
    assert_eq!(parsed.incomplete, bytes.last().is_some_and(|byte| *byte != b'\n'));
    for (address, answer) in &parsed.answers {
        assert!(asked.contains(address), "{address} was not asked");
        sane_answer(*address, answer);
        if let RouteAnswer::Route(route) = answer {
            assert!(
                stands_in(bytes, &route.asn.to_string()),
                "the response does not contain the AS number {}",
                route.asn
            );
        }
    }
    // The answers must also be valid after the conversion to the form that all providers use.
    let mut reply = RouteReply::new(Transport::Whois, None);
    reply.answers = parsed.answers;
    let reply = providers::Reply::from(reply);
    for answer in reply.answers.values() {
        if let providers::Answer::Found(finding) = answer {
            let network = finding.network.as_ref().expect("an answer with data must name a network");
            assert!(serde_json::to_string(&finding.source_data).expect("JSON").len() < 4096);
            assert_eq!(finding.source_data["asn"], network.asn.expect("an AS number"));
            assert!(network.country.as_deref().is_none_or(|country| {
                country.len() == 2 && country.bytes().all(|letter| letter.is_ascii_uppercase())
            }));
        }
    }
}

/// Checks the parser of bulk whois responses about networks. The input is a whole response or any part of one.
pub fn network_answer(bytes: &[u8]) {
    const ASKED: [u32; 3] = [15169, 48666, 64500];
    let parsed = read_networks_in_pieces(&ASKED, bytes, bytes.len().max(1));
    for size in [1, 1 + bytes.len() % 61] {
        assert_eq!(read_networks_in_pieces(&ASKED, bytes, size), parsed, "in pieces of {size}");
    }
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    let anomalies = parsed.anomalies;
    assert!(parsed.answers.len() as u64 + anomalies.foreign <= ends && anomalies.malformed <= ends);
    assert_eq!(parsed.incomplete, bytes.last().is_some_and(|byte| *byte != b'\n'));
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    for (asn, answer) in &parsed.answers {
        assert!(ASKED.contains(asn), "{asn} was not asked");
        sane_network_answer(answer);
        if let NetworkAnswer::Network(_) = answer {
            // Each answer must come from a row that has five columns and begins with the AS number of the answer.
            let row = |line: &&&[u8]| {
                let number = line.split(|byte| *byte == b'|').next().unwrap_or_default();
                number.trim_ascii() == asn.to_string().as_bytes()
                    && line.iter().filter(|byte| **byte == b'|').count() == 4
            };
            assert!(lines.iter().find(row).is_some(), "{asn} has no row");
        }
    }
    let mut reply = NetworkReply::new(Transport::Whois, None);
    reply.answers = parsed.answers;
    for answer in providers::Reply::from(reply).networks.values() {
        if let providers::Answer::Found(finding) = answer {
            assert!(serde_json::to_string(&finding.source_data).expect("JSON").len() < 4096);
            assert!(finding.network.is_some() && finding.prefix.is_none());
        }
    }
}

fn read_networks_in_pieces(asked: &[u32], bytes: &[u8], size: usize) -> ParsedNetworks {
    let mut parser = NetworkParser::new(asked);
    bytes.chunks(size).for_each(|piece| parser.feed(piece));
    parser.finish()
}

pub(super) fn sane_network_answer(answer: &NetworkAnswer) {
    match answer {
        NetworkAnswer::Network(network) => {
            assert_ne!(*network, Network::default(), "an answer without any value must be Absent");
            assert!(network.country.is_none_or(|country| country.iter().all(u8::is_ascii_uppercase)));
            network.name.iter().for_each(|name| stored_name(name));
            network.allocated.iter().for_each(|date| sane_date(date));
        }
        NetworkAnswer::Absent => {}
        NetworkAnswer::Refused(words) => sane_words(words),
    }
}

fn sane_words(words: &str) {
    assert!(words.chars().count() <= crate::mmdb::LONGEST_NAME && !words.contains(char::is_control));
}

/// Accepts exactly the dates that a column of type date accepts.
fn sane_date(date: &str) {
    let at_midnight = format!("{date}T00:00:00");
    assert!(date.len() == 10 && crate::timestamp::Timestamp::parse(&at_midnight).is_some(), "{date}");
}

fn read_in_pieces(asked: &[Address], bytes: &[u8], size: usize) -> Parsed {
    let mut parser = Parser::new(asked);
    bytes.chunks(size).for_each(|piece| parser.feed(piece));
    parser.finish()
}

fn stands_in(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

pub(super) fn sane_answer(address: Address, answer: &RouteAnswer) {
    match answer {
        RouteAnswer::Route(route) => sane_route(address, route),
        RouteAnswer::Absent => {}
        RouteAnswer::Refused(words) => sane_words(words),
    }
}

pub(super) fn sane_route(address: Address, route: &Route) {
    assert!(route.asn > 0);
    assert!(route.prefix.is_none_or(|prefix: Prefix| prefix.contains(address)), "{address}: {route:?}");
    assert!(route.country.is_none_or(|country| country.iter().all(u8::is_ascii_uppercase)));
    assert!(route.network_country().is_none_or(|country| country.iter().all(u8::is_ascii_uppercase)));
    route.name.iter().for_each(|name| stored_name(name));
    route.allocated.iter().for_each(|date| sane_date(date));
    assert!(route.origins.len() <= route::MOST_ORIGINS && !route.origins.contains(&route.asn));
    assert!(route.origins.windows(2).all(|pair| pair[0] < pair[1]) && !route.origins.contains(&0));
}
