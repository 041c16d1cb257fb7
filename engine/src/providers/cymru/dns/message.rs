//! Encodes and decodes single DNS messages.
//!
//! The crate hickory-proto encodes and decodes DNS messages. This module decides which messages are answers.
//!
//! A name counts as absent only if the DNS server says so explicitly. A referral to other servers and a failure of the
//! server do not mean that the name is absent.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// The result of one query.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) enum Outcome {
    #[default]
    Unanswered,
    /// One text for each TXT record, with its strings joined.
    Texts(Vec<Vec<u8>>),
    /// The name does not exist, or has no TXT record.
    Nothing,
    /// The server failed or refused. Contains the reason.
    Failed(String),
}

/// A response to a TXT query. The caller must check that the response matches a query that was sent.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) id: u16,
    pub(super) name: Name,
    /// If true, the response is truncated, and the query must be repeated over TCP. In this case, `outcome` is not
    /// valid.
    pub(super) truncated: bool,
    pub(super) outcome: Outcome,
}

/// Parses a name. Returns `None` if the name is invalid. The callers of this module pass only valid names.
pub(super) fn parse_name(name: &str) -> Option<Name> {
    Name::from_ascii(name).ok()
}

pub(super) fn encode(id: u16, name: &Name) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), RecordType::TXT));
    message.to_vec().ok()
}

/// Decodes a message. Returns `None` if the message is not a response to a TXT query.
pub(super) fn decode(bytes: &[u8]) -> Option<Response> {
    let truncated = is_truncated(bytes);
    let message = if truncated { decode_question(bytes)? } else { Message::from_vec(bytes).ok()? };
    let [question] = &message.queries[..] else {
        return None;
    };
    let ours = message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query
        && question.query_type == RecordType::TXT
        && question.query_class == DNSClass::IN;
    ours.then(|| Response {
        id: message.metadata.id,
        name: question.name.clone(),
        truncated,
        outcome: outcome(&message),
    })
}

fn outcome(message: &Message) -> Outcome {
    match message.metadata.response_code {
        ResponseCode::NoError => {
            let texts: Vec<_> = message.answers.iter().filter_map(text).collect();
            match texts.is_empty() {
                false => Outcome::Texts(texts),
                true if is_referral(message) => {
                    Outcome::Failed("the DNS server only referred to other DNS servers".into())
                }
                true => Outcome::Nothing,
            }
        }
        ResponseCode::NXDomain => Outcome::Nothing,
        code => Outcome::Failed(code.to_string()),
    }
}

fn text(record: &Record) -> Option<Vec<u8>> {
    match &record.data {
        RData::TXT(text) => Some(text.txt_data.concat()),
        _ => None,
    }
}

/// Returns true if the message is a referral to other DNS servers. RFC 2308, section 2.2: a referral has NS records and
/// no SOA record. A "no data" response has an SOA record, or it has no NS records.
fn is_referral(message: &Message) -> bool {
    let has = |kind| message.authorities.iter().any(|record| record.record_type() == kind);
    message.answers.is_empty() && has(RecordType::NS) && !has(RecordType::SOA)
}

/// Bytes before the first section: id, flags, four counts.
const HEADER: usize = 12;

fn is_truncated(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[2] & 0b10 != 0
}

/// Decodes the header and the question of a truncated message. The other sections are left out, because the message may
/// end inside a record.
fn decode_question(bytes: &[u8]) -> Option<Message> {
    let mut bytes = bytes.to_vec();
    bytes.get_mut(6..HEADER)?.fill(0);
    Message::from_vec(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn question() -> Vec<u8> {
        encode(0x1234, &parse_name("31.108.90.216.origin.asn.cymru.com.").unwrap()).unwrap()
    }

    #[test]
    fn question_asks_for_text_recursively() {
        let mut expected = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        expected.extend(b"\x0231\x03108\x0290\x03216\x06origin\x03asn\x05cymru\x03com\x00\x00\x10\x00\x01");
        assert_eq!(question(), expected);
    }

    #[test]
    fn question_is_no_response() {
        assert!(decode(&question()).is_none());
    }

    /// A message in wire format that was written by hand. It has compressed names and two records. The first record has
    /// two strings.
    #[test]
    fn response_is_read_with_all_its_strings() {
        let mut bytes = question();
        bytes[2..8].copy_from_slice(b"\x81\x80\x00\x01\x00\x02");
        bytes.extend(b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x00\x09\x0323 \x04| 21");
        bytes.extend(b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x00\x03\x02\xff\x00");
        let response = decode(&bytes).unwrap();
        assert_eq!((response.id, response.truncated), (0x1234, false));
        assert_eq!(Some(response.name), parse_name("31.108.90.216.ORIGIN.asn.cymru.com."));
        assert_eq!(response.outcome, Outcome::Texts(vec![b"23 | 21".to_vec(), b"\xff\0".to_vec()]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            crate::invariants::dns_message(&bytes);
        }

        #[test]
        fn any_damage_is_answered(at in 0..80_usize, with: u8, rest in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = question();
            bytes[2] |= 0x80;
            bytes.extend(rest);
            let at = at % bytes.len();
            bytes[at] = with;
            crate::invariants::dns_message(&bytes);
        }
    }
}
