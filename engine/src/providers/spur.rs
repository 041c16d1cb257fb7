//! SPUR knows which kind of connection an address has, and which proxies and VPNs use the address.
//!
//! ```text
//! GET <url>/<ip>                  ; header `Token: <token>`
//!
//! 200 {"ip":"203.0.113.7","as":{"number":64500,"organization":"EXAMPLE"},"organization":"…",
//!      "infrastructure":"DATACENTER","client":{…},"location":{…},"risks":["TUNNEL"],"services":["OPENVPN"],
//!      "tunnels":[{"type":"VPN","operator":"…","anonymous":true,"entries":[…]}]}
//!     x-balance-remaining: 4711
//!     x-result-dt: 20261120
//! 200 {"ip":"203.0.113.7"}        ; or with all other fields empty: SPUR has no data
//! 404                             ; without a body, or with one that names the address: SPUR has no data
//! 400, 401, 403, 429 (the balance is used up), 500
//! ```
//!
//! Any other response with status 404 may come from a gateway or a web server, for example because the URL is mistyped.
//! Such a response says nothing about the address, so it counts as a failure.
//!
//! Source: SPUR's description of its context interface, <https://docs.spur.us>.
//!
//! The extension stores the whole JSON object of the response. This includes fields and values that this file does not
//! name. Only the field `ip` is required. It must contain the address of the lookup.

use super::http::settings::{absent_ttl, daily_quota, key_file, max_parallel, rate, timeout, ttl, url};
use super::http::{
    self, Backoff, Common, HTTP_PROXY, HttpProvider, HttpResponse, HttpService, Key, ReadResult,
};
use super::{Answer, Finding, Purpose, Setting};
use crate::address::Address;
use std::time::Duration;
use ureq::http::HeaderMap;

pub struct Spur;

pub static SPUR_URL: Setting =
    url(c"cowrie_enrich.spur_url", c"URL of the SPUR API.", c"https://api.spur.us/v2/context");
pub static SPUR_TOKEN_FILE: Setting = key_file(
    c"cowrie_enrich.spur_token_file",
    c"Path of the file with the SPUR API token.",
    c"The worker reads the token file before each request. If the setting is empty, no requests are sent to SPUR.",
);
pub static SPUR_RATE: Setting =
    rate(c"cowrie_enrich.spur_rate", c"Maximum number of requests to SPUR per second.", 10);
pub static SPUR_MAX_PARALLEL: Setting =
    max_parallel(c"cowrie_enrich.spur_max_parallel", c"Maximum number of simultaneous requests to SPUR.", 4);
pub static SPUR_DAILY_QUOTA: Setting =
    daily_quota(c"cowrie_enrich.spur_daily_quota", c"Maximum number of requests to SPUR per day.", 0);
pub static SPUR_TIMEOUT: Setting =
    timeout(c"cowrie_enrich.spur_timeout", c"Maximum duration of one request to SPUR.");
pub static SPUR_TTL: Setting =
    ttl(c"cowrie_enrich.spur_ttl", c"How long a SPUR answer with data about an address stays valid.");
pub static SPUR_ABSENT_TTL: Setting = absent_ttl(
    c"cowrie_enrich.spur_absent_ttl",
    c"How long a SPUR answer of \"nothing known about this address\" stays valid.",
);

static SERVICE: HttpService = HttpService {
    name: "spur",
    title: "SPUR",
    purpose: Purpose::IpType,
    takes: |_| true,
    settings: &[
        &SPUR_URL,
        &SPUR_TOKEN_FILE,
        &SPUR_RATE,
        &SPUR_MAX_PARALLEL,
        &SPUR_DAILY_QUOTA,
        &SPUR_TIMEOUT,
        &SPUR_TTL,
        &SPUR_ABSENT_TTL,
        &HTTP_PROXY,
    ],
    common: Common {
        url: &SPUR_URL,
        rate: &SPUR_RATE,
        max_parallel: &SPUR_MAX_PARALLEL,
        daily_quota: &SPUR_DAILY_QUOTA,
        timeout: &SPUR_TIMEOUT,
        ttl: &SPUR_TTL,
        absent_ttl: &SPUR_ABSENT_TTL,
    },
    suffix: "",
    key: Some(Key { file: &SPUR_TOKEN_FILE, header: "token", keyless: None }),
    contact: None,
    // If the balance is used up, SPUR returns 429. SPUR does not refill the balance within a minute, so the pause is an
    // hour.
    backoff: Backoff { default: Duration::from_secs(60 * 60), minimum: Duration::ZERO },
    read,
    notice,
};

/// Response headers about the account and the data. Each entry also contains the words that describe the header to
/// users.
const NOTICES: [(&str, &str); 2] = [("x-balance-remaining", "balance"), ("x-result-dt", "date of the data")];

/// Maximum length of this header, in characters.
const LONGEST_NOTICE: usize = 40;

impl HttpProvider for Spur {
    fn service(&self) -> &'static HttpService {
        &SERVICE
    }
}

fn read(address: Address, response: &HttpResponse<'_>) -> Option<ReadResult> {
    match response.status {
        200 => Some(read_answer(address, response.body)),
        404 if is_absence(address, response.body) => Some(ReadResult::Answer(Answer::Absent(None))),
        _ => None,
    }
}

/// Returns true if a response with status 404 is about the address, and not about the URL.
fn is_absence(address: Address, body: &[u8]) -> bool {
    body.trim_ascii().is_empty()
        || http::object(body)
            .is_some_and(|source_data| http::names(&source_data, "ip", address) == Some(true))
}

fn read_answer(address: Address, body: &[u8]) -> ReadResult {
    let Some(source_data) = http::object(body) else {
        return ReadResult::Malformed("the answer is not a JSON object");
    };
    // Every field except `ip` is optional. Without this check, any JSON object would be accepted, for example the error
    // message of a gateway.
    match http::names(&source_data, "ip", address) {
        Some(true)
            if source_data.iter().all(|(member, value)| member == "ip" || http::says_nothing(value)) =>
        {
            ReadResult::Answer(Answer::Absent(Some(source_data)))
        }
        Some(true) => ReadResult::Answer(Answer::Found(Finding { source_data, ..Finding::default() })),
        Some(false) => ReadResult::Foreign,
        None => ReadResult::Malformed("the answer does not name the address"),
    }
}

/// Returns for example `balance: 4711, date of the data: 20261120`.
fn notice(headers: &HeaderMap) -> Option<String> {
    let source_data = NOTICES.into_iter().filter_map(|(name, words)| {
        let value = headers.get(name)?.to_str().ok()?;
        let sane = !value.is_empty() && value.len() <= LONGEST_NOTICE;
        (sane && value.bytes().all(|byte| byte.is_ascii_graphic())).then(|| format!("{words}: {value}"))
    });
    Some(source_data.collect::<Vec<_>>().join(", ")).filter(|source_data| !source_data.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read_as(status: u16, body: impl AsRef<[u8]>) -> Option<ReadResult> {
        let address = Address::new("2001:db8::1".parse().unwrap());
        read(address, &HttpResponse { status, body: body.as_ref() })
    }

    #[test]
    fn context_is_kept_as_sent() {
        for body in [
            json!({ "ip": "2001:0DB8:0::1", "infrastructure": "NEVER_HEARD_OF", "risks": [], "tunnels": [{ "type": 7 }] }),
            json!({ "ip": "2001:db8::1", "organization": "…" }),
            json!({ "ip": "2001:db8::1", "client": { "count": 0 } }),
        ] {
            let Some(ReadResult::Answer(Answer::Found(finding))) = read_as(200, body.to_string()) else {
                panic!("{body}");
            };
            assert_eq!(Value::Object(finding.source_data), body);
        }
        assert!(matches!(read_as(200, "{\"ip\":\"2001:db8::2\"}"), Some(ReadResult::Foreign)));
        for body in ["", "[]", "null", "<html>", "{\"ip\":"] {
            assert!(matches!(read_as(200, body), Some(ReadResult::Malformed(_))), "{body}");
        }
    }

    #[test]
    fn address_without_a_context_is_absent() {
        for body in [
            json!({ "ip": "2001:db8::1" }),
            json!({ "ip": "2001:db8::1", "infrastructure": null, "risks": [], "client": {}, "organization": "" }),
            json!({ "ip": "2001:db8::1", "as": { "number": null }, "tunnels": [null] }),
        ] {
            match read_as(200, body.to_string()) {
                Some(ReadResult::Answer(Answer::Absent(Some(source_data)))) => {
                    assert_eq!(Value::Object(source_data), body)
                }
                _ => panic!("{body}"),
            }
        }
    }

    #[test]
    fn object_that_does_not_name_the_address_is_no_answer() {
        for body in [
            json!({}),
            json!({ "ip": null }),
            json!({ "message": "ok" }),
            json!({ "infrastructure": "DATACENTER", "tunnels": [{ "type": "VPN" }] }),
            json!({ "client": { "ip": "2001:db8::1" } }),
        ] {
            assert!(matches!(read_as(200, body.to_string()), Some(ReadResult::Malformed(_))), "{body}");
        }
        for body in [json!({ "ip": "" }), json!({ "ip": 7 }), json!({ "ip": ["2001:db8::1"] })] {
            assert!(matches!(read_as(200, body.to_string()), Some(ReadResult::Foreign)), "{body}");
        }
    }

    #[test]
    fn absence_is_said_of_the_address_and_not_of_the_url() {
        for body in ["", "\r\n", r#"{"ip":"2001:db8::1"}"#, r#"{"ip":"2001:DB8:0::1","message":"not found"}"#]
        {
            assert!(matches!(read_as(404, body), Some(ReadResult::Answer(Answer::Absent(None)))), "{body}");
        }
        for body in [
            "{}",
            "not found",
            " <!DOCTYPE html>",
            r#"{"message":"no Route matched with those values"}"#,
            r#"{"ip":null}"#,
            r#"{"ip":"2001:db8::2"}"#,
            r#"[{"ip":"2001:db8::1"}]"#,
        ] {
            assert!(read_as(404, body).is_none(), "{body}");
        }
        assert!(read_as(500, "{}").is_none());
    }

    #[test]
    fn types_wait_for_it() {
        assert_eq!(SERVICE.purpose, Purpose::IpType);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body: Vec<u8>, status in prop_oneof![Just(200), Just(404)]) {
            http::invariants::spur_answer(&[format!("{status}\n").as_bytes(), &body].concat());
        }

        #[test]
        fn any_object_is_about_the_address_or_nothing(ip in http::tests::json(), other in http::tests::json()) {
            let body = json!({ "ip": ip, "client": other });
            http::invariants::spur_answer(format!("200 4711\n{body}").as_bytes());
        }

        #[test]
        fn any_headers_are_read(balance: Vec<u8>, date in "\\PC{0,50}") {
            let mut headers = HeaderMap::new();
            for ((name, _), value) in NOTICES.into_iter().zip([balance, date.into_bytes()]) {
                if let Ok(value) = ureq::http::HeaderValue::from_bytes(&value) {
                    headers.insert(name, value);
                }
            }
            let notice = notice(&headers);
            prop_assert!(notice.is_none_or(|source_data| source_data.len() <= 120 && source_data.bytes().all(|byte| (b' '..=b'~').contains(&byte))));
        }
    }
}
