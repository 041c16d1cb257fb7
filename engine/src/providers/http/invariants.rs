//! Invariants of replies, for any bytes that a provider sends.
//!
//! The first line of the input is `STATUS [VALUE]`. The rest of the input is the body. VALUE becomes the value of every
//! header that the code reads.
//!
//! ```text
//! 429 120
//! {"message":"quota exceeded"}
//! ```

use super::bounded::LONGEST_BODY;
use super::exchange::get_from_memory;
use super::secret::Secret;
use super::*;
use crate::providers::dshield::Dshield;
use crate::providers::greynoise::GreyNoise;
use crate::providers::spur::Spur;
use std::net::IpAddr;

/// `ASKED` is the requested address. `KEY` is the key that the request sends to the provider.
const ASKED: &str = "192.0.2.1";
const KEY: &[u8] = b"k3y-that-nobody-may-see";

fn asked() -> Address {
    Address::new(ASKED.parse().expect("an address"))
}

pub fn greynoise_answer(bytes: &[u8]) {
    let (reply, body) = replied(GreyNoise.service(), bytes);
    if let Some(Answer::Found(Finding { source_data, .. }) | Answer::Absent(Some(source_data))) =
        reply.answers.get(&asked())
    {
        let known = ["noise", "riot", "classification", "name", "last_seen"];
        for (member, value) in source_data {
            let fits = match member.as_str() {
                "noise" | "riot" => value.is_boolean(),
                _ => value.as_str().is_some_and(|text| (1..=256).contains(&text.chars().count())),
            };
            assert!(known.contains(&member.as_str()) && fits, "{member}: {value}");
        }
        assert!(source_data.contains_key("noise") && source_data.contains_key("riot"));
        assert_ne!(named(&body, "ip"), Some(false), "must not accept an answer about another address");
    }
}

pub fn dshield_answer(bytes: &[u8]) {
    let (reply, body) = replied(Dshield.service(), bytes);
    if let Some(Demand::Pause(rest)) = reply.demand
        && reply.failure.as_ref().is_some_and(|failure| matches!(failure, Failure::Status { code: 429, .. }))
    {
        assert!(
            rest >= Duration::from_secs(300),
            "the Internet Storm Center demands a pause of five minutes after status 429"
        );
    }
    if let Some(Answer::Found(Finding { source_data, .. }) | Answer::Absent(Some(source_data))) =
        reply.answers.get(&asked())
    {
        assert!(
            source_data.len() == 1 && source_data["ip"].as_object().is_some_and(|report| !report.is_empty())
        );
        let report = body.as_ref().and_then(|body| body.get("ip")).cloned();
        let number = report.map(|report| match &report["number"] {
            Value::Object(wrapped) if wrapped.len() == 1 => wrapped.get("text").cloned().unwrap_or_default(),
            number => number.clone(),
        });
        let of = number.map(|number| serde_json::json!({ "number": number }));
        assert_ne!(named(&of, "number"), Some(false), "must not accept an answer about another address");
    }
}

pub fn spur_answer(bytes: &[u8]) {
    let (reply, body) = replied(Spur.service(), bytes);
    match reply.answers.get(&asked()) {
        Some(Answer::Found(Finding { source_data, .. })) => {
            assert_eq!(named(&Some(Value::Object(source_data.clone())), "ip"), Some(true));
            assert_eq!(named(&body, "ip"), Some(true), "must not accept an answer about another address");
        }
        Some(Answer::Absent(Some(source_data))) => {
            let nothing = source_data.iter().all(|(member, value)| member == "ip" || says_nothing(value));
            assert!(nothing, "an answer with data must not be classified as Absent");
            assert_eq!(named(&body, "ip"), Some(true), "must not accept an answer about another address");
        }
        _ => {}
    }
}

/// Checks the client with a whole response of a server, head and body. The body is plain, chunked or compressed.
pub fn http_answer(bytes: &[u8]) {
    let service = GreyNoise.service();
    let target = Target::parse("http://provider.example/v3").expect("a URL");
    let request = Request {
        url: target.about(asked(), ""),
        target: &target,
        headers: Vec::new(),
        timeout: Duration::from_secs(600),
        proxy: None,
    };
    let (response, taken) = get_from_memory(request, bytes);
    assert!(taken <= bytes.len());
    match response {
        Ok(response) => {
            if let Ok(body) = &response.body {
                assert!(body.len() as u64 <= LONGEST_BODY, "the body is too long: {} bytes", body.len());
            }
            if let Err(failure) = &response.body {
                sane_failure(failure);
            }
            let reply = service.judge(asked(), &response, None);
            sane_reply(service, &reply, response.status.as_u16());
            if response.status.is_success() && response.body.is_err() {
                assert!(reply.answers.is_empty(), "a response with a broken body must not contain answers");
            }
        }
        Err(failure) => {
            assert!(
                !failure.is_unreachable(),
                "{failure}: a host with an open connection must not count as unreachable"
            );
            sane_failure(&failure);
        }
    }
}

/// Checks URLs, key files and Retry-After values.
pub fn http_settings(bytes: &[u8]) {
    if let Ok(secret) = Secret::parse(bytes) {
        assert!(!secret.bytes().is_empty() && secret.bytes().iter().all(u8::is_ascii_graphic));
        assert!(secret.header().is_some_and(|header| header.is_sensitive()));
        assert_eq!(format!("{secret} {secret:?}"), "[key] [key]");
        let key = String::from_utf8_lossy(secret.bytes()).into_owned();
        assert!(!secret.hide_in(&format!("a {key} b")).contains(&key) || "a [key] b".contains(&key));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(target) = Target::parse(text) {
        let about = target.about(asked(), "?json");
        let uri: Uri = about.parse().expect("a URL must stay valid if an address is appended");
        assert_eq!(uri.authority().map(|who| who.as_str().to_ascii_lowercase()), Some(target.host.clone()));
        assert!(uri.path().ends_with(&format!("/{ASKED}")) && uri.query() == Some("json"), "{about}");
        assert!(!target.host.contains('@') && !about.contains(['#', ' ']) && about.len() < 2200);
        // A key is sent to the host of the connection. So this host must determine whether a key may be sent.
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        assert_eq!(target.may_see_keys(), uri.scheme_str() == Some("https") || local, "{text}");
        assert_eq!(target.loopback, local, "{text}");
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if let Some(rest) = retry_after(text, now) {
        assert!((SHORTEST_PAUSE..=LONGEST_PAUSE).contains(&rest));
        if let Ok(seconds) = text.trim_ascii().parse::<u32>() {
            assert_eq!(rest, Duration::from_secs(seconds.into()).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        }
    }
    let _ = exchange::is_proxy(text);
}

/// Converts the input of a fuzz target into a response. Returns the reply that the service makes from this response,
/// and the body as JSON.
fn replied(service: &'static HttpService, bytes: &[u8]) -> (Reply, Option<Value>) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (line, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let (status, value) = line.split_at(line.len().min(3));
    let status = StatusCode::from_bytes(status).unwrap_or(StatusCode::OK);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(value.trim_ascii()) {
        for name in ["retry-after", "location", "x-balance-remaining", "x-result-dt"] {
            headers.insert(name, value.clone());
        }
    }
    let secret = Secret::parse(KEY).expect("a key");
    let cut = Response { status, headers: headers.clone(), body: Err(Failure::Cut) };
    let without_body = service.judge(asked(), &cut, Some(&secret));
    sane_reply(service, &without_body, status.as_u16());
    assert!(without_body.answers.values().all(|answer| matches!(answer, Answer::Refused(_))));

    let response = Response { status, headers, body: Ok(body.to_vec()) };
    let reply = service.judge(asked(), &response, Some(&secret));
    sane_reply(service, &reply, status.as_u16());
    assert!(!format!("{reply:?}").contains(std::str::from_utf8(KEY).expect("text")), "the key: {reply:?}");
    (reply, serde_json::from_slice(body).ok())
}

/// Returns true if a member of the body is the requested address. Returns `None` if the body has no such member. Parses
/// the address with the standard library.
fn named(body: &Option<Value>, member: &str) -> Option<bool> {
    let text = match body.as_ref()?.get(member)? {
        Value::Null => return None,
        Value::String(text) => text.trim_matches(|char: char| char.is_ascii_whitespace()),
        _ => return Some(false),
    };
    let host = text.strip_suffix("/32").or_else(|| text.strip_suffix("/128")).unwrap_or(text);
    let host = host.split('%').next().unwrap_or_default();
    Some(host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == asked().ip()))
}

fn sane_reply(service: &HttpService, reply: &Reply, status: u16) {
    // A reply has either an answer or a failure.
    assert!(reply.answers.keys().all(|address| *address == asked()));
    assert_ne!(reply.answers.is_empty(), reply.failure.is_none(), "{reply:?}");
    match reply.answers.get(&asked()) {
        Some(Answer::Found(finding)) => {
            assert!(matches!(status, 200 | 206));
            kept(&finding.source_data);
        }
        Some(Answer::Absent(source_data)) => {
            assert!(matches!(status, 200 | 206 | 404));
            source_data.iter().for_each(kept);
        }
        Some(Answer::Refused(words)) => {
            assert!(matches!(status, 200 | 400));
            assert!(words.chars().count() <= LONGEST_WORDS && !words.contains(char::is_control));
        }
        None => {}
    }
    reply.failure.iter().for_each(sane_failure);
    match &reply.demand {
        Some(Demand::Stop(why)) => {
            assert!(matches!(status, 401 | 403) && why.contains(service.title));
            assert!(why.chars().count() < 400 && !why.contains(char::is_control));
        }
        Some(Demand::Pause(rest)) => {
            assert!(matches!(status, 429 | 503) && (SHORTEST_PAUSE..=LONGEST_PAUSE).contains(rest));
        }
        None => assert!(
            !matches!(status, 401 | 403 | 429),
            "a reply with status 401, 403 or 429 must stop or pause the requests"
        ),
    }
    if let Some(notice) = &reply.notice {
        assert!(!notice.is_empty() && notice.len() < 200 && !notice.contains(char::is_control));
    }
}

fn sane_failure(failure: &Failure) {
    let text = failure.to_string();
    assert!(!text.is_empty() && text.chars().count() <= 200 && !text.contains(char::is_control), "{text:?}");
}

fn kept(source_data: &JsonObject) {
    let text = serde_json::to_string(source_data).expect("JSON");
    assert!(text.len() <= LONGEST_KEPT);
    let again: JsonObject = serde_json::from_str(&text).expect("the stored answer must be JSON");
    assert!(again.keys().eq(source_data.keys()));
}
