//! GreyNoise knows addresses that scan the internet, and addresses of common business services.
//!
//! GreyNoise has two interfaces. The URL selects one of them. Both support IPv4 only.
//!
//! ```text
//! GET <url>/<ip>                  ; header `key: <key>`, optional for the community interface
//!
//! 200, v3/community
//!   {"ip":"8.8.8.8","noise":false,"riot":true,"classification":"benign","name":"Google Public DNS",
//!    "link":"…","last_seen":"2026-11-19","message":"Success"}
//! 404, v3/community: also an answer
//!   {"ip":"198.51.100.7","noise":false,"riot":false,"message":"IP not observed scanning the internet …"}
//! 200 and 206 (fields withheld), v3/ip
//!   {"ip":"…","internet_scanner_intelligence":{"found":true,"classification":"malicious","actor":"…",
//!    "last_seen":"2026-11-19",…},"business_service_intelligence":{"found":false,"name":"",…}}
//! 400, 401, 429
//!   {"message":"…"}
//! ```
//!
//! Sources: GreyNoise's description of both interfaces, <https://docs.greynoise.io/reference>, and the client program
//! pygreynoise 3.0 of GreyNoise. Responses of v3/ip with status 404 are not documented.
//!
//! The stored answers of both interfaces have the same keys. The keys `noise` and `riot` are always stored. The keys
//! `classification`, `name` and `last_seen` are stored if the response contains them.

use super::http::settings::{absent_ttl, daily_quota, key_file, max_parallel, rate, timeout, ttl, url};
use super::http::{
    self, Backoff, Common, HTTP_PROXY, HttpProvider, HttpResponse, HttpService, Key, Keyless, ReadResult,
};
use super::{Answer, Finding, JsonObject, Purpose, Setting};
use crate::address::Address;
use serde_json::Value;
use std::time::Duration;

pub struct GreyNoise;

pub static GREYNOISE_URL: Setting = url(
    c"cowrie_enrich.greynoise_url",
    c"URL of the GreyNoise API.",
    c"https://api.greynoise.io/v3/community",
);
pub static GREYNOISE_API_KEY_FILE: Setting = key_file(
    c"cowrie_enrich.greynoise_api_key_file",
    c"Path of the file with the GreyNoise API key, or the word 'community' for requests without a key.",
    c"The worker reads the key file before each request. With 'community', the worker sends at most 50 requests a day. \
        If the setting is empty, the worker sends no requests to GreyNoise.",
);
pub static GREYNOISE_RATE: Setting =
    rate(c"cowrie_enrich.greynoise_rate", c"Maximum number of requests to GreyNoise per second.", 10);
pub static GREYNOISE_MAX_PARALLEL: Setting = max_parallel(
    c"cowrie_enrich.greynoise_max_parallel",
    c"Maximum number of simultaneous requests to GreyNoise.",
    10,
);
pub static GREYNOISE_DAILY_QUOTA: Setting = daily_quota(
    c"cowrie_enrich.greynoise_daily_quota",
    c"Maximum number of requests to GreyNoise per day.",
    10_000,
);
pub static GREYNOISE_TIMEOUT: Setting =
    timeout(c"cowrie_enrich.greynoise_timeout", c"Maximum duration of one request to GreyNoise.");
pub static GREYNOISE_TTL: Setting = ttl(
    c"cowrie_enrich.greynoise_ttl",
    c"How long a GreyNoise answer with data about an address stays valid.",
);
pub static GREYNOISE_ABSENT_TTL: Setting = absent_ttl(
    c"cowrie_enrich.greynoise_absent_ttl",
    c"How long a GreyNoise answer of \"address not seen\" stays valid.",
);

static SERVICE: HttpService = HttpService {
    name: "greynoise",
    title: "GreyNoise",
    purpose: Purpose::Facts,
    takes: |address| address.ip().is_ipv4(),
    settings: &[
        &GREYNOISE_URL,
        &GREYNOISE_API_KEY_FILE,
        &GREYNOISE_RATE,
        &GREYNOISE_MAX_PARALLEL,
        &GREYNOISE_DAILY_QUOTA,
        &GREYNOISE_TIMEOUT,
        &GREYNOISE_TTL,
        &GREYNOISE_ABSENT_TTL,
        &HTTP_PROXY,
    ],
    common: Common {
        url: &GREYNOISE_URL,
        rate: &GREYNOISE_RATE,
        max_parallel: &GREYNOISE_MAX_PARALLEL,
        daily_quota: &GREYNOISE_DAILY_QUOTA,
        timeout: &GREYNOISE_TIMEOUT,
        ttl: &GREYNOISE_TTL,
        absent_ttl: &GREYNOISE_ABSENT_TTL,
    },
    suffix: "",
    key: Some(Key {
        file: &GREYNOISE_API_KEY_FILE,
        header: "key",
        // Source: GreyNoise's page on the community interface. GreyNoise allows 50 requests a day to users without a
        // plan.
        keyless: Some(Keyless { word: "community", daily_quota: 50 }),
    }),
    contact: None,
    backoff: Backoff { default: Duration::from_secs(60), minimum: Duration::ZERO },
    read,
    notice: |_| None,
};

/// Maximum length of a stored text, in characters.
const LONGEST_TEXT: usize = 256;

impl HttpProvider for GreyNoise {
    fn service(&self) -> &'static HttpService {
        &SERVICE
    }

    /// Addresses of benign scanners are not looked up. A list of research scanners contains everything that GreyNoise
    /// knows about these addresses, and reading a list uses no quota.
    fn leaves_out_benign_scanners(&self) -> bool {
        true
    }
}

fn read(address: Address, response: &HttpResponse<'_>) -> Option<ReadResult> {
    match response.status {
        200 | 206 => Some(read_answer(address, response.body)),
        404 => read_absence(address, response.body),
        _ => None,
    }
}

fn read_answer(address: Address, body: &[u8]) -> ReadResult {
    let Some(object) = http::object(body) else {
        return ReadResult::Malformed("the answer is not a JSON object");
    };
    if http::names(&object, "ip", address) == Some(false) {
        return ReadResult::Foreign;
    }
    match Flags::read(&object) {
        Ok(Some(seen)) => ReadResult::Answer(Answer::Found(Finding {
            source_data: seen.kept(&object),
            ..Finding::default()
        })),
        // The response has the members that would report a sighting, but their values are null. This means that
        // GreyNoise has not seen the address.
        Ok(None) if Flags::ASKED.into_iter().any(|member| object.contains_key(member)) => {
            ReadResult::Answer(Answer::Absent(Some(Flags::NEITHER.kept(&JsonObject::new()))))
        }
        Ok(None) => ReadResult::Malformed("the answer does not say whether the address was seen"),
        Err(NotBoolean) => ReadResult::Malformed("the answer has a value that is neither true nor false"),
    }
}

/// Reads a response with status 404. The body is an answer only if it is about an address. A page that reports an
/// unknown URL is not an answer.
fn read_absence(address: Address, body: &[u8]) -> Option<ReadResult> {
    let object = http::object(body)?;
    let seen = match Flags::read(&object) {
        Ok(seen) => seen,
        Err(NotBoolean) => {
            return Some(ReadResult::Malformed("the answer has a value that is neither true nor false"));
        }
    };
    let absent = match http::names(&object, "ip", address) {
        Some(false) => return Some(ReadResult::Foreign),
        Some(true) => true,
        None => seen.is_some() || speaks_of_an_address(&object),
    };
    (absent && seen.is_none_or(|seen| !seen.noise && !seen.riot))
        .then(|| ReadResult::Answer(Answer::Absent(Some(Flags::NEITHER.kept(&JsonObject::new())))))
}

fn speaks_of_an_address(object: &JsonObject) -> bool {
    let message = object.get("message").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    ["observed", "seen", "scanning"].iter().any(|word| message.contains(word))
}

/// The two flags that every answer contains.
struct Flags {
    noise: bool,
    riot: bool,
    shape: Shape,
}

enum Shape {
    Community,
    Full,
}

struct NotBoolean;

const SCANNER: &str = "internet_scanner_intelligence";
const BUSINESS: &str = "business_service_intelligence";

impl Flags {
    const NEITHER: Flags = Flags { noise: false, riot: false, shape: Shape::Community };

    /// Members of both interfaces that contain the flags.
    const ASKED: [&str; 4] = ["noise", "riot", SCANNER, BUSINESS];

    /// Returns `None` if the response contains neither flag.
    fn read(object: &JsonObject) -> Result<Option<Self>, NotBoolean> {
        let found = |part| flag(object.get(part).and_then(|part| part.get("found")));
        let of = |noise: Option<bool>, riot: Option<bool>, shape| {
            let source_data = noise.is_some() || riot.is_some();
            source_data.then(|| Self { noise: noise.unwrap_or(false), riot: riot.unwrap_or(false), shape })
        };
        let community = of(flag(object.get("noise"))?, flag(object.get("riot"))?, Shape::Community);
        let full = of(found(SCANNER)?, found(BUSINESS)?, Shape::Full);
        Ok(community.or(full))
    }

    fn kept(&self, object: &JsonObject) -> JsonObject {
        let part = |part: &str, member: &str| object.get(part).and_then(|part| part.get(member));
        let texts = match self.shape {
            Shape::Community => ["classification", "name", "last_seen"].map(|member| object.get(member)),
            Shape::Full => {
                let name = if self.riot { part(BUSINESS, "name") } else { part(SCANNER, "actor") };
                [part(SCANNER, "classification"), name, part(SCANNER, "last_seen")]
            }
        };
        let texts = ["classification", "name", "last_seen"].into_iter().zip(texts);
        let texts = texts.filter_map(|(member, value)| Some((member, Value::from(text(value?)?))));
        [("noise", Value::from(self.noise)), ("riot", Value::from(self.riot))]
            .into_iter()
            .chain(texts)
            .map(|(member, value)| (member.to_owned(), value))
            .collect()
    }
}

fn flag(value: Option<&Value>) -> Result<Option<bool>, NotBoolean> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(Value::String(text)) if text == "true" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" => Ok(Some(false)),
        Some(_) => Err(NotBoolean),
    }
}

/// Returns an optional text. Other types are left out.
fn text(value: &Value) -> Option<String> {
    let text: String = http::printable(value.as_str()?).chars().take(LONGEST_TEXT).collect();
    (!text.is_empty()).then_some(text)
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

    /// Returns the stored part of a response.
    fn found(body: &Value) -> Value {
        match read_as(200, body.to_string()) {
            Some(ReadResult::Answer(Answer::Found(finding))) => Value::Object(finding.source_data),
            _ => panic!("{body}"),
        }
    }

    fn is_malformed(reading: &Option<ReadResult>) -> bool {
        matches!(reading, Some(ReadResult::Malformed(_)))
    }

    #[test]
    fn community_answer_is_kept_in_short() {
        let body = json!({
            "ip": "192.0.2.1", "noise": true, "riot": false, "classification": "malicious", "name": "unknown",
            "link": "https://viz.greynoise.io/ip/192.0.2.1", "last_seen": "2026-11-19", "message": "Success",
        });
        let kept = json!({
            "noise": true, "riot": false, "classification": "malicious", "name": "unknown", "last_seen": "2026-11-19",
        });
        assert_eq!(found(&body), kept);
    }

    #[test]
    fn nulls_in_place_of_answers_are_absence() {
        for body in [
            json!({ "ip": "192.0.2.1", "noise": null, "riot": null }),
            json!({ "ip": "192.0.2.1", "noise": null, "riot": null, "message": "Success" }),
            json!({ "ip": "192.0.2.1", SCANNER: null, BUSINESS: null }),
            json!({ "ip": "192.0.2.1", SCANNER: { "found": null }, BUSINESS: {} }),
        ] {
            match read_as(200, body.to_string()) {
                Some(ReadResult::Answer(Answer::Absent(Some(source_data)))) => {
                    assert_eq!(Value::Object(source_data), json!({ "noise": false, "riot": false }));
                }
                _ => panic!("{body}"),
            }
        }
        let one = json!({ "ip": "192.0.2.1", SCANNER: null, BUSINESS: { "found": true, "name": "x" } });
        assert_eq!(found(&one), json!({ "noise": false, "riot": true, "name": "x" }));
    }

    #[test]
    fn full_answer_is_kept_in_the_same_shape() {
        let body = |riot| {
            json!({
                "ip": "192.0.2.1",
                "internet_scanner_intelligence": {
                    "found": true, "classification": "benign", "actor": "Censys", "last_seen": "2026-11-19", "tags": [],
                },
                "business_service_intelligence": { "found": riot, "name": "Example DNS", "trust_level": "1" },
            })
        };
        let kept = |riot, name| {
            json!({
                "noise": true, "riot": riot, "classification": "benign", "name": name, "last_seen": "2026-11-19",
            })
        };
        assert_eq!(found(&body(false)), kept(false, "Censys"));
        assert_eq!(found(&body(true)), kept(true, "Example DNS"));
        assert!(matches!(read_as(206, body(true).to_string()), Some(ReadResult::Answer(Answer::Found(_)))));
    }

    #[test]
    fn flags_are_booleans_or_their_names() {
        let of = |noise: Value| json!({ "noise": noise, "riot": "false" });
        assert_eq!(found(&of(json!("true"))), json!({ "noise": true, "riot": false }));
        assert_eq!(found(&of(Value::Null)), json!({ "noise": false, "riot": false }));
        for wrong in [json!("yes"), json!(1), json!(0), json!(""), json!("True"), json!([]), json!({})] {
            assert!(is_malformed(&read_as(200, of(wrong.clone()).to_string())), "{wrong}");
            assert!(is_malformed(&read_as(404, of(wrong.clone()).to_string())), "{wrong}");
            let full = json!({ "internet_scanner_intelligence": { "found": wrong } });
            assert!(is_malformed(&read_as(200, full.to_string())), "{wrong}");
        }
    }

    #[test]
    fn texts_are_short_and_printable_or_left_out() {
        let source_data = found(&json!({
            "noise": true, "name": format!("a\u{7}b\n{}", "\u{e9}".repeat(500)), "classification": 7,
            "last_seen": " \u{0} ",
        }));
        assert_eq!(source_data["name"].as_str().map(|name| name.chars().count()), Some(LONGEST_TEXT));
        assert!(source_data["name"].as_str().unwrap().starts_with("ab\u{e9}"));
        assert_eq!((source_data.get("classification"), source_data.get("last_seen")), (None, None));
    }

    #[test]
    fn answer_that_says_nothing_is_malformed() {
        for body in
            ["", "null", "[]", "{}", "{\"ip\":\"192.0.2.1\"}", "<html>", "{\"noise\":tru", "\u{feff}{}"]
        {
            assert!(is_malformed(&read_as(200, body)), "{body}");
        }
    }

    #[test]
    fn absence_is_an_answer_when_it_speaks_of_the_address() {
        for body in [
            json!({ "ip": "192.0.2.1", "noise": false, "riot": false, "message": "IP not observed scanning" }),
            json!({ "ip": "::ffff:192.0.2.1" }),
            json!({ "noise": false, "riot": false }),
            json!({ "internet_scanner_intelligence": { "found": false } }),
            json!({ "message": "IP not observed scanning the internet or contained in RIOT data set." }),
            json!({ "message": "This IP has not been SEEN." }),
        ] {
            let Some(ReadResult::Answer(Answer::Absent(Some(source_data)))) = read_as(404, body.to_string())
            else {
                panic!("{body}");
            };
            assert_eq!(Value::Object(source_data), json!({ "noise": false, "riot": false }));
        }
        for body in [
            "",
            "<html>404 not observed</html>",
            "{}",
            "[]",
            "{\"message\":\"no such page\"}",
            "{\"message\":7}",
            "{\"ip\":\"192.0.2.1\",\"noise\":true}",
        ] {
            assert!(read_as(404, body).is_none(), "{body}");
        }
        assert!(matches!(read_as(404, "{\"ip\":\"192.0.2.2\"}"), Some(ReadResult::Foreign)));
    }

    #[test]
    fn only_ipv4_is_asked() {
        assert!((SERVICE.takes)(Address::new("192.0.2.1".parse().unwrap())));
        assert!((SERVICE.takes)(Address::new("::ffff:192.0.2.1".parse().unwrap())));
        assert!(!(SERVICE.takes)(Address::new("2001:db8::1".parse().unwrap())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body: Vec<u8>, status in prop_oneof![Just(200), Just(206), Just(404), Just(500)]) {
            http::invariants::greynoise_answer(&[format!("{status}\n").as_bytes(), &body].concat());
        }

        #[test]
        fn any_answer_keeps_to_the_shape(
            noise in http::tests::json(), riot in http::tests::json(), name in http::tests::json(),
            scanner in http::tests::json(), ip in proptest::option::of(http::tests::json()),
            status in prop_oneof![Just(200), Just(404)],
        ) {
            let mut body = json!({ "noise": noise, "riot": riot, "name": name, SCANNER: scanner, BUSINESS: { "name": 1 } });
            if let Some(ip) = ip {
                body["ip"] = ip;
            }
            http::invariants::greynoise_answer(format!("{status}\n{body}").as_bytes());
        }
    }
}
