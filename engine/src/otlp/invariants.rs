//! Invariants of a collector's response, for any bytes.
//!
//! The input has the same form as the input for responses of providers: a line `STATUS [Retry-After]`, then the body.
//! In this module, the body is a protobuf message.

use super::export::{LONGEST_WORDS, Outcome, Signal, judge};
use crate::providers::http::Response;
use std::time::{Duration, SystemTime};
use ureq::http::{HeaderMap, HeaderValue, StatusCode, header};

pub fn collector_answer(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (status, rest) = bytes[..end].split_at(end.min(3));
    let status = StatusCode::from_bytes(status).unwrap_or(StatusCode::OK);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(rest.trim_ascii()) {
        headers.insert(header::RETRY_AFTER, value);
    }
    let body = bytes.get(end + 1..).unwrap_or_default().to_vec();
    let response = Response { status, headers, body: Ok(body) };
    for signal in Signal::ALL {
        match judge(signal, &response, SystemTime::UNIX_EPOCH) {
            Outcome::Taken { words, .. } => {
                assert!(status.is_success());
                assert!(words.chars().count() <= LONGEST_WORDS && !words.contains(char::is_control));
            }
            Outcome::Deferred { rest, why } => {
                assert!(matches!(status.as_u16(), 429 | 502 | 503 | 504) && !why.is_empty());
                assert!(rest.is_none_or(|rest| rest <= Duration::from_secs(24 * 60 * 60)));
            }
            Outcome::Refused(why) => assert!(!status.is_success() && !why.is_empty()),
        }
    }
}
