//! DShield: reports of its sensors about an address.
//!
//! ```text
//! GET <url>/<ip>?json             ; User-Agent with a contact, as the Internet Storm Center requests
//!
//! 200 {"ip":{"number":"203.0.113.7","count":141,"attacks":87,"maxdate":"2026-11-19","mindate":"2026-10-02",
//!      "updated":"…","comment":null,"maxrisk":null,"asabusecontact":"…","as":64500,"asname":"EXAMPLE",
//!      "ascountry":"DE","assize":4096,"network":"203.0.113.0/24","threatfeeds":{…}}}
//! 200 {"ip":{"number":"198.51.100.7","count":null,"attacks":null,…,"as":64500,"asname":"EXAMPLE","network":"…"}}
//!                                 ; never reported; 0 may replace null; the network's fields exist for every
//!                                 ; routed address
//! 200 {"error":"bad IP address"}  ; an error of this lookup; other errors are failures of the provider
//! ```
//!
//! An older form of the response was made from XML and wraps values in objects: `"count":{"text":"141"}`. Numbers
//! arrive as JSON numbers or as texts.
//!
//! Source: the Internet Storm Center's description, <https://isc.sans.edu/api/>. This description also asks clients to
//! pause for five minutes after a response with status 429.
//!
//! The extension stores the object `ip` of the response under the key `ip`. If a value is wrapped in an object, the
//! extension stores only the value. It changes nothing else.

use super::http::settings::{absent_ttl, daily_quota, max_parallel, rate, timeout, ttl, url};
use super::http::{self, Backoff, Common, HTTP_PROXY, HttpProvider, HttpResponse, HttpService, ReadResult};
use super::setting::Kind;
use super::{Answer, Finding, JsonObject, Purpose, Setting};
use crate::address::Address;
use serde_json::Value;
use std::time::Duration;

pub struct Dshield;

pub static DSHIELD_URL: Setting =
    url(c"cowrie_enrich.dshield_url", c"URL of the DShield API.", c"https://isc.sans.edu/api/ip");
pub static DSHIELD_CONTACT: Setting = Setting {
    name: c"cowrie_enrich.dshield_contact",
    short: c"E-mail address or URL at which DShield can contact you about your requests.",
    long: c"The worker sends the value of the setting in the User-Agent header of each request. \
        If the setting is empty, no requests are sent to DShield.",
    kind: Kind::Text { default: None },
    guarded: true,
};
pub static DSHIELD_RATE: Setting =
    rate(c"cowrie_enrich.dshield_rate", c"Maximum number of requests to DShield per second.", 1);
pub static DSHIELD_MAX_PARALLEL: Setting = max_parallel(
    c"cowrie_enrich.dshield_max_parallel",
    c"Maximum number of simultaneous requests to DShield.",
    2,
);
pub static DSHIELD_DAILY_QUOTA: Setting =
    daily_quota(c"cowrie_enrich.dshield_daily_quota", c"Maximum number of requests to DShield per day.", 0);
pub static DSHIELD_TIMEOUT: Setting =
    timeout(c"cowrie_enrich.dshield_timeout", c"Maximum duration of one request to DShield.");
pub static DSHIELD_TTL: Setting =
    ttl(c"cowrie_enrich.dshield_ttl", c"How long a DShield answer with data about an address stays valid.");
pub static DSHIELD_ABSENT_TTL: Setting = absent_ttl(
    c"cowrie_enrich.dshield_absent_ttl",
    c"How long a DShield answer of \"no report about this address\" stays valid.",
);

/// Texts that occur in errors about the requested address, in lower case. Any other error is a failure of DShield,
/// because it would occur for every address.
const REFUSALS: [&str; 3] = ["bad ip", "invalid ip", "not a valid ip"];

/// Members that describe the address and its network, not a report.
const NETWORK: [&str; 7] = ["number", "as", "asname", "ascountry", "asabusecontact", "assize", "network"];

const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);

static SERVICE: HttpService = HttpService {
    name: "dshield",
    title: "DShield",
    purpose: Purpose::Facts,
    takes: |_| true,
    settings: &[
        &DSHIELD_URL,
        &DSHIELD_CONTACT,
        &DSHIELD_RATE,
        &DSHIELD_MAX_PARALLEL,
        &DSHIELD_DAILY_QUOTA,
        &DSHIELD_TIMEOUT,
        &DSHIELD_TTL,
        &DSHIELD_ABSENT_TTL,
        &HTTP_PROXY,
    ],
    common: Common {
        url: &DSHIELD_URL,
        rate: &DSHIELD_RATE,
        max_parallel: &DSHIELD_MAX_PARALLEL,
        daily_quota: &DSHIELD_DAILY_QUOTA,
        timeout: &DSHIELD_TIMEOUT,
        ttl: &DSHIELD_TTL,
        absent_ttl: &DSHIELD_ABSENT_TTL,
    },
    suffix: "?json",
    key: None,
    contact: Some(&DSHIELD_CONTACT),
    backoff: Backoff { default: FIVE_MINUTES, minimum: FIVE_MINUTES },
    read,
    notice: |_| None,
};

impl HttpProvider for Dshield {
    fn service(&self) -> &'static HttpService {
        &SERVICE
    }
}

fn read(address: Address, response: &HttpResponse<'_>) -> Option<ReadResult> {
    (response.status == 200).then(|| read_answer(address, response.body))
}

fn read_answer(address: Address, body: &[u8]) -> ReadResult {
    let Some(mut object) = http::object(body) else {
        return ReadResult::Malformed("the answer is not a JSON object");
    };
    let report = match (object.remove("ip"), object.remove("error")) {
        (Some(Value::Object(report)), _) if !report.is_empty() => unwrapped(report),
        (None | Some(Value::Null), Some(error)) if !http::says_nothing(&error) => return read_error(&error),
        _ => return ReadResult::Malformed("the answer is not a report about an address"),
    };
    if http::names(&report, "number", address) == Some(false) {
        return ReadResult::Foreign;
    }
    let absent =
        report.iter().all(|(member, value)| NETWORK.contains(&member.as_str()) || is_unreported(value));
    let source_data: JsonObject = [("ip".to_owned(), Value::Object(report))].into_iter().collect();
    ReadResult::Answer(if absent {
        Answer::Absent(Some(source_data))
    } else {
        Answer::Found(Finding { source_data, ..Finding::default() })
    })
}

fn read_error(error: &Value) -> ReadResult {
    let words = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
    let lower = words.to_ascii_lowercase();
    if REFUSALS.iter().any(|refusal| lower.contains(refusal)) {
        ReadResult::Answer(Answer::Refused(words))
    } else {
        ReadResult::Failed(words)
    }
}

/// Replaces `{"text": x}` by `x`.
fn unwrapped(report: JsonObject) -> JsonObject {
    let unwrap = |value| match value {
        Value::Object(mut wrapped) if wrapped.len() == 1 && wrapped.contains_key("text") => {
            wrapped.remove("text").unwrap_or_default()
        }
        value => value,
    };
    report.into_iter().map(|(member, value)| (member, unwrap(value))).collect()
}

/// Returns true if a value means "no report": null, `false`, a zero (as a number, a text or a date), an empty text, or
/// a list or object that contains only such values.
fn is_unreported(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(is_reported) => !is_reported,
        Value::String(text) => text.chars().all(|letter| matches!(letter, '0' | '-' | ':' | '.' | ' ')),
        Value::Array(values) => values.iter().all(is_unreported),
        Value::Object(members) => members.values().all(is_unreported),
        Value::Null => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_as(status: u16, body: impl AsRef<[u8]>) -> Option<ReadResult> {
        let address = Address::new("192.0.2.1".parse().unwrap());
        read(address, &HttpResponse { status, body: body.as_ref() })
    }

    fn answer(body: &Value) -> Answer {
        match read_as(200, body.to_string()) {
            Some(ReadResult::Answer(answer)) => answer,
            _ => panic!("{body}"),
        }
    }

    fn found(body: &Value) -> Value {
        match answer(body) {
            Answer::Found(finding) => Value::Object(finding.source_data),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn report_is_kept_as_sent() {
        let body = json!({ "ip": {
            "number": "192.0.2.1", "count": 141, "attacks": "87", "maxdate": "2026-11-19", "comment": null,
            "as": 64500, "asname": "EXAMPLE", "ascountry": "", "threatfeeds": { "blocklistde": { "lastseen": "x" } },
        }});
        assert_eq!(found(&body), body);
    }

    #[test]
    fn nothing_beside_the_report_is_kept() {
        let report = json!({ "ip": { "number": "192.0.2.1", "count": 1 } });
        let mut body = report.clone();
        body["copyright"] = json!("…");
        body["error"] = json!("");
        assert_eq!(found(&body), report);
    }

    #[test]
    fn wrapped_values_are_unwrapped_once() {
        let body = json!({ "ip": {
            "number": { "text": "192.0.2.1" }, "count": { "text": "141" }, "twice": { "text": { "text": "x" } },
            "more": { "text": "x", "other": 1 }, "comment": { "text": null },
        }});
        let kept = json!({ "ip": {
            "number": "192.0.2.1", "count": "141", "twice": { "text": "x" }, "more": { "text": "x", "other": 1 },
            "comment": null,
        }});
        assert_eq!(found(&body), kept);
        let foreign = json!({ "ip": { "number": { "text": "192.0.2.2" }, "count": 1 } });
        assert!(matches!(read_as(200, foreign.to_string()), Some(ReadResult::Foreign)));
    }

    #[test]
    fn report_without_anything_is_absence() {
        for body in [
            json!({ "ip": { "number": "192.0.2.1", "count": null, "attacks": null, "asname": null, "threatfeeds": null } }),
            json!({ "ip": { "number": "192.0.2.1", "count": "", "threatfeeds": [], "x": {} } }),
            json!({ "ip": { "number": "192.0.2.1" } }),
            json!({ "ip": { "number": "192.0.2.1", "count": 0, "attacks": "0", "maxrisk": 0.0 } }),
            json!({ "ip": { "number": "192.0.2.1", "count": 0, "threatfeeds": { "blocklistde": null } } }),
            json!({ "ip": { "number": "192.0.2.1", "count": false, "attacks": false, "weblogs": { "count": 0 } } }),
            json!({ "ip": { "number": "192.0.2.1", "count": "0", "maxdate": "0000-00-00", "mindate": "0000-00-00 00:00:00" } }),
            json!({ "ip": {
                "number": "192.0.2.1", "count": null, "attacks": null, "maxdate": null, "mindate": null, "updated": null,
                "comment": null, "maxrisk": null, "asabusecontact": "abuse@example.net", "as": 64501,
                "asname": "EXAMPLE-AS", "ascountry": "US", "assize": 4096, "network": "192.0.2.0/24",
            }}),
        ] {
            assert_eq!(answer(&body), Answer::Absent(body.as_object().cloned()), "{body}");
        }
    }

    #[test]
    fn error_about_the_address_is_a_refusal() {
        for words in ["bad IP address", "Invalid IP", "192.0.2.1 is not a valid ip address"] {
            assert_eq!(answer(&json!({ "error": words })), Answer::Refused(words.into()));
        }
        assert_eq!(
            answer(&json!({ "error": ["bad ip"], "ip": null })),
            Answer::Refused("[\"bad ip\"]".into())
        );
    }

    #[test]
    fn other_errors_are_the_providers_own() {
        for (error, words) in [
            (json!("database is down"), "database is down"),
            (json!("your IP is blocked"), "your IP is blocked"),
            (json!({ "code": 7 }), "{\"code\":7}"),
        ] {
            let read = read_as(200, json!({ "error": error }).to_string());
            assert!(matches!(read, Some(ReadResult::Failed(source_data)) if source_data == words), "{error}");
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        for body in [
            "",
            "[]",
            "{}",
            "{\"ip\":{}}",
            "{\"ip\":null}",
            "{\"ip\":\"192.0.2.1\"}",
            "<html>",
            "{\"ip\":{",
            "{\"error\":null}",
            "{\"error\":\" \"}",
        ] {
            assert!(matches!(read_as(200, body), Some(ReadResult::Malformed(_))), "{body}");
        }
        assert!(read_as(404, "{\"ip\":{\"count\":1}}").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body: Vec<u8>) {
            http::invariants::dshield_answer(&[&b"200\n"[..], &body].concat());
        }

        #[test]
        fn any_report_is_kept_under_one_key(report in http::tests::json(), error in http::tests::json()) {
            let body = json!({ "ip": report, "error": error });
            http::invariants::dshield_answer(format!("200\n{body}").as_bytes());
        }
    }
}
