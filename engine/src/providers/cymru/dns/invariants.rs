//! Invariants of DNS messages, for any bytes.

use super::super::invariants::{asked, sane_answer, sane_network_answer};
use super::message::{self, Outcome};
use super::{best_of, network_of, server, text};
use crate::invariants::stored_name;
use crate::providers::Anomalies;

/// Checks the parser of DNS messages. If the bytes are not a DNS message, they are parsed as the text of one record.
pub fn dns_message(bytes: &[u8]) {
    match message::decode(bytes) {
        Some(response) => {
            let [_, _, flags, codes, ..] = bytes else { panic!("no header") };
            let code = codes & 15;
            assert!(flags & 0x80 != 0 && flags & 0x78 == 0, "not a response to a query");
            assert_eq!(bytes[..2], response.id.to_be_bytes());
            assert_eq!(response.truncated, flags & 2 != 0);
            match response.outcome {
                Outcome::Texts(texts) => {
                    assert_eq!(code, 0, "a DNS response with an error code must not give TXT records");
                    // Names may be compressed, but texts appear byte by byte.
                    assert!(!texts.is_empty() && texts.concat().len() < bytes.len());
                    assert!(!response.truncated, "a truncated DNS response must not give TXT records");
                    texts_are_read(&texts);
                }
                Outcome::Nothing => {
                    assert!(matches!(code, 0 | 3), "an error must not count as a missing record")
                }
                Outcome::Failed(why) => assert!(!why.is_empty() && !why.contains(char::is_control)),
                Outcome::Unanswered => panic!("a response must not count as unanswered"),
            }
        }
        None => texts_are_read(&[bytes.to_vec()]),
    }
}

fn texts_are_read(texts: &[Vec<u8>]) {
    for address in asked() {
        let mut anomalies = Anomalies::default();
        let answer = best_of(texts, address, &mut anomalies);
        assert!(anomalies.malformed <= texts.len() as u64);
        assert!(answer.is_some() || anomalies.malformed == texts.len() as u64);
        if let Some(answer) = answer {
            sane_answer(address, &answer);
            if let super::super::RouteAnswer::Route(route) = &answer {
                assert!(route.prefix.is_some(), "accepted a route without a prefix for {address}");
                assert!(route.name.is_none());
            }
        }
    }
    for text in texts {
        for asn in [1, 23028, u32::MAX] {
            if let Some(Some(name)) = text::name(text, asn) {
                stored_name(&name);
            }
        }
    }
    for asn in [1, 23028, u32::MAX] {
        let mut anomalies = Anomalies::default();
        if let Some(answer) = network_of(texts, asn, &mut anomalies) {
            assert!(anomalies.malformed < texts.len() as u64);
            sane_network_answer(&answer);
        }
    }
}

/// Checks two parsers: the parser of the setting that names a DNS server, and the parser of the system's list of DNS
/// servers.
pub fn dns_server(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    server::invariants::names_are_read(text);
}
