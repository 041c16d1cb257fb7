//! Tests exchanges from settings to replies, over real sockets.

use super::servers::{Asked, Authority, Server, TempFile, answer, gzip, read_head};
use super::*;
use crate::net::{Pool, Task};
use crate::providers::dshield::{DSHIELD_CONTACT, DSHIELD_URL, Dshield};
use crate::providers::greynoise::{
    GREYNOISE_API_KEY_FILE, GREYNOISE_DAILY_QUOTA, GREYNOISE_TIMEOUT, GREYNOISE_URL, GreyNoise,
};
use crate::providers::setting;
use crate::providers::spur::{SPUR_TOKEN_FILE, SPUR_URL, Spur};
use crate::providers::{Exchange, Lookups, Provider};
use proptest::prelude::*;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Generates JSON values of a few levels. The values include texts and numbers that providers send.
pub(in crate::providers) fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec!["true", "false", "192.0.2.1", "192.0.2.2", ""]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        let member = prop_oneof![
            "[a-z]{1,5}",
            Just("text".to_owned()),
            Just("found".to_owned()),
            Just("number".to_owned())
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(member, inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

const KEY: &str = "k3y-that-nobody-may-see";
const SEEN: &str = r#"{"ip":"192.0.2.1","noise":true,"riot":false,"classification":"malicious"}"#;

fn address() -> Address {
    Address::new("192.0.2.1".parse().unwrap())
}

fn text(text: &str) -> setting::Value {
    setting::Value::Text(Some(text.to_owned()))
}

fn greynoise(url: &str) -> Settings {
    Settings::defaults(GreyNoise.settings())
        .with(&GREYNOISE_URL, text(url))
        .with(&GREYNOISE_API_KEY_FILE, text("community"))
}

fn dshield(url: &str) -> Settings {
    Settings::defaults(Dshield.settings())
        .with(&DSHIELD_URL, text(url))
        .with(&DSHIELD_CONTACT, text("jane@example.org"))
}

fn spur(url: &str, key: &TempFile) -> Settings {
    Settings::defaults(Spur.settings()).with(&SPUR_URL, text(url)).with(&SPUR_TOKEN_FILE, text(key.path()))
}

/// Sets the timeout in milliseconds. All slow tests use the same timeout, so they share one HTTP agent.
fn within(settings: Settings, timeout: i32) -> Settings {
    settings.with(&GREYNOISE_TIMEOUT, setting::Value::Number(timeout))
}

fn ask(provider: &dyn Provider, settings: &Settings) -> Reply {
    provider.fetch(&[address()], settings, &Cancel::new())
}

/// Returns the reply of GreyNoise's client to these bytes.
fn reply_to(bytes: impl Into<Vec<u8>>) -> Reply {
    ask(&GreyNoise, &greynoise(&Server::answering(bytes).url("")))
}

fn failure_of(bytes: impl Into<Vec<u8>>) -> Failure {
    reply_to(bytes).failure.unwrap()
}

fn source_data(reply: &Reply) -> JsonObject {
    match reply.answers.get(&address()) {
        Some(Answer::Found(finding)) => finding.source_data.clone(),
        other => panic!("{other:?} {:?}", reply.failure),
    }
}

#[test]
fn requests_say_what_they_have_to_and_no_more() {
    let key = TempFile::new(format!("  {KEY}\n"));
    let server = Server::answering(answer("200 OK", "", SEEN));
    let settings = greynoise(&server.url("/v3/community/")).with(&GREYNOISE_API_KEY_FILE, text(key.path()));
    assert_eq!(source_data(&ask(&GreyNoise, &settings))["noise"], true);
    let reply = ask(&Dshield, &dshield(&server.url("/api/ip")));
    assert!(reply.failure.is_some());
    ask(&Spur, &spur(&server.url(""), &key));

    let asked = server.asked();
    let lines: Vec<&str> = asked.iter().map(Asked::line).collect();
    assert_eq!(
        lines,
        [
            "GET /v3/community/192.0.2.1 HTTP/1.1",
            "GET /api/ip/192.0.2.1?json HTTP/1.1",
            "GET /192.0.2.1 HTTP/1.1"
        ]
    );
    let headers = |name| asked.iter().map(|asked| asked.header(name)).collect::<Vec<_>>();
    assert_eq!(headers("key"), [Some(KEY), None, None]);
    assert_eq!(headers("token"), [None, None, Some(KEY)]);
    let contact = format!("{USER_AGENT} (jane@example.org)");
    assert_eq!(headers("user-agent"), [Some(USER_AGENT), Some(&contact), Some(USER_AGENT)]);
    assert!(USER_AGENT.starts_with("cowrie_enrich/"));
    assert_eq!(headers("accept-encoding"), [Some("gzip"); 3]);
}

#[test]
fn each_status_means_what_the_table_says() {
    let spoken = |status: &str| answer(status, "", r#"{"message":"out\u0007 of memory"}"#);
    for (status, demanded) in
        [("500 Oops", false), ("502 Bad Gateway", false), ("418 x", false), ("204 No", false)]
    {
        let reply = reply_to(answer(status, "", ""));
        assert!(matches!(reply.failure, Some(Failure::Status { .. })), "{status}: {reply:?}");
        assert_eq!(reply.demand.is_some(), demanded);
    }
    assert_eq!(
        failure_of(spoken("500 Oops")),
        Failure::Status { code: 500, text: "500 Internal Server Error: out of memory".into() }
    );
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let reply = reply_to(spoken(status));
        let Some(Demand::Stop(why)) = reply.demand else { panic!("{status}") };
        assert_eq!(
            why,
            format!(
                "GreyNoise does not allow the request: {status}: out of memory; see cowrie_enrich.greynoise_api_key_file"
            )
        );
        assert_eq!(reply.failure.unwrap().to_string(), format!("{status}: out of memory"));
        assert!(reply.answers.is_empty() && !reply.blames_lookup);
    }
    let refused = reply_to(spoken("400 Bad Request"));
    assert_eq!(refused.answers[&address()], Answer::Refused("out of memory".into()));
    assert_eq!((refused.failure, refused.demand), (None, None));
    let wordless = reply_to(answer("400 Bad Request", "", "<html>"));
    assert_eq!(wordless.answers[&address()], Answer::Refused("400 Bad Request".into()));
}

#[test]
fn resting_is_asked_for_by_429_and_503() {
    let key = TempFile::new(KEY);
    let rest = |status: &str, header: &str| {
        let server = Server::answering(answer(status, header, ""));
        let url = server.url("");
        [ask(&GreyNoise, &greynoise(&url)), ask(&Dshield, &dshield(&url)), ask(&Spur, &spur(&url, &key))].map(
            |reply| {
                assert!(matches!(reply.failure, Some(Failure::Status { code: 429 | 503, .. })), "{reply:?}");
                match reply.demand {
                    Some(Demand::Pause(rest)) => Some(rest.as_secs()),
                    None => None,
                    other => panic!("{other:?}"),
                }
            },
        )
    };
    assert_eq!(rest("429 Too Many Requests", ""), [Some(60), Some(300), Some(3600)]);
    assert_eq!(rest("429 x", "Retry-After: 7\r\n"), [Some(7), Some(300), Some(7)]);
    assert_eq!(rest("429 x", "Retry-After: 0\r\n"), [Some(1), Some(300), Some(1)]);
    assert_eq!(rest("429 x", "Retry-After: 4000\r\n"), [Some(4000); 3]);
    assert_eq!(rest("429 x", "Retry-After: 99999999999999999999999\r\n"), [Some(86_400); 3]);
    assert_eq!(rest("429 x", "Retry-After: soon\r\n"), [Some(60), Some(300), Some(3600)]);
    assert_eq!(rest("503 x", "Retry-After: 7\r\n"), [Some(7); 3]);
    assert_eq!(rest("503 x", ""), [None; 3]);
}

#[test]
fn retry_after_is_a_number_or_a_date() {
    let now = httpdate::parse_http_date("Fri, 20 Nov 2026 09:00:00 GMT").unwrap();
    let seconds = |text| retry_after(text, now).map(|rest| rest.as_secs());
    assert_eq!(seconds(" 120 "), Some(120));
    assert_eq!(seconds("Fri, 20 Nov 2026 09:02:00 GMT"), Some(120));
    assert_eq!(seconds("Friday, 20-Nov-26 09:02:00 GMT"), Some(120));
    assert_eq!(seconds("Thu, 19 Nov 2026 09:02:00 GMT"), Some(1));
    assert_eq!(seconds("Fri, 20 Nov 2099 09:02:00 GMT"), Some(86_400));
    for text in ["", " ", "-5", "1.5", "+3", "soon", "Fri, 20 Nov 2026", "\u{664}"] {
        assert_eq!(seconds(text), None, "{text}");
    }
}

#[test]
fn redirect_is_not_followed_and_tells_the_host_alone() {
    let other = Server::answering(answer("200 OK", "", SEEN));
    let key = TempFile::new(KEY);
    for status in ["301 x", "302 x", "307 x", "308 x"] {
        let location = format!("Location: {}\r\n", other.url("/secret?key=1"));
        let server = Server::answering(answer(status, &location, SEEN));
        let settings = greynoise(&server.url("")).with(&GREYNOISE_API_KEY_FILE, text(key.path()));
        let reply = ask(&GreyNoise, &settings);
        let failure = reply.failure.unwrap().to_string();
        assert!(failure.ends_with(": the redirect points to 127.0.0.1"), "{failure}");
        assert!(reply.answers.is_empty());
    }
    assert_eq!(other.connections(), 0);
    let failure = failure_of(answer("302 Found", "Location: /elsewhere\r\n", ""));
    assert_eq!(failure.to_string(), "302 Found: the redirect points elsewhere on the same host");
    assert_eq!(failure_of(answer("304 x", "", "")).to_string(), "304 Not Modified");
}

#[test]
fn connections_are_used_again() {
    let server = Server::new(|asked, stream| {
        let status = if asked.line().contains("/a/") { "200 OK" } else { "404 Not Found" };
        stream.write_all(&answer(status, "", SEEN)).is_ok()
    });
    for path in ["/a", "/a", "/b", "/a", "/a"] {
        ask(&GreyNoise, &greynoise(&server.url(path)));
    }
    assert_eq!((server.connections(), server.asked().len()), (1, 5));
}

#[test]
fn answer_may_be_compressed() {
    let reply = reply_to(answer("200 OK", "Content-Encoding: gzip\r\n", gzip(SEEN.as_bytes())));
    assert_eq!(source_data(&reply)["classification"], "malicious");
    let whole = gzip(SEEN.as_bytes());
    let cut = answer("200 OK", "Content-Encoding: gzip\r\n", &whole[..whole.len() - 12]);
    assert_eq!(failure_of(cut), Failure::Cut);
    let wrong = failure_of(answer("200 OK", "Content-Encoding: gzip\r\n", SEEN));
    assert!(matches!(wrong, Failure::Malformed(_)), "{wrong:?}");
}

#[test]
fn bomb_is_given_up_early() {
    let bomb = gzip(&vec![b' '; 100_000_000]);
    assert!(bomb.len() < 200_000);
    assert_eq!(failure_of(answer("200 OK", "Content-Encoding: gzip\r\n", bomb)), Failure::TooLarge);
}

#[test]
fn endless_body_is_given_up_early() {
    let (counted, count) = std::sync::mpsc::channel();
    let server = Server::new(move |_, stream| {
        let mut sent = 0_usize;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").unwrap();
        while sent < 100_000_000 && stream.write_all(&[b' '; 10_000]).is_ok() {
            sent += 10_000;
        }
        counted.send(sent).unwrap();
        false
    });
    assert_eq!(ask(&GreyNoise, &greynoise(&server.url(""))).failure, Some(Failure::TooLarge));
    // The kernel's buffers and the MiB.
    let sent = count.recv().unwrap();
    assert!(sent < 30_000_000, "{sent}");
}

/// The server sends a response without an end. The body unpacks to nothing, so the limit of the body never applies. The
/// limit on all received bytes ends each exchange long before its deadline.
#[test]
fn endless_nothing_is_given_up_early() {
    // A deflate block of the type "stored". The block is empty and is not marked as the last block.
    const EMPTY_BLOCK: &[u8] = b"\0\0\0\xff\xff";
    let gzip_head = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";
    let gzipped = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\nContent-Encoding: gzip\r\n\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n";
    for (what, head, endless) in [
        ("blocks", [&gzipped[..], gzip_head].concat(), EMPTY_BLOCK.to_vec()),
        ("trailers", [&chunked[..], b"0\r\n"].concat(), b"X-Trailer: x\r\n".to_vec()),
        ("interim answers", Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
    ] {
        let (counted, count) = std::sync::mpsc::channel();
        let server = Server::new(move |_, stream| {
            let piece = endless.repeat(10_000 / endless.len() + 1);
            let mut sent = 0_usize;
            let mut alive = stream.write_all(&head).is_ok();
            while alive && sent < 200_000_000 {
                alive = stream.write_all(&piece).is_ok();
                sent += piece.len();
            }
            counted.send(sent).unwrap();
            false
        });
        let reply = ask(&GreyNoise, &greynoise(&server.url("")));
        assert_eq!(reply.failure, Some(Failure::TooLarge), "{what}");
        // The client reads two MiB at most. The other sent bytes are in the buffers of the kernel.
        let sent = count.recv().unwrap();
        assert!(sent < 30_000_000, "{what}: {sent}");
    }
}

/// The limit applies to an exchange, not to a connection.
#[test]
fn kept_connection_may_carry_any_number_of_answers() {
    let padded = format!("{SEEN}{}", " ".repeat(900_000));
    let server = Server::answering(answer("200 OK", "", padded));
    for _ in 0..5 {
        assert_eq!(source_data(&ask(&GreyNoise, &greynoise(&server.url(""))))["noise"], true);
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn largest_body_is_read_whole() {
    let padded = |size: usize| format!("{SEEN}{}", " ".repeat(size - SEEN.len()));
    assert_eq!(source_data(&reply_to(answer("200 OK", "", padded(1 << 20))))["noise"], true);
    assert_eq!(failure_of(answer("200 OK", "", padded((1 << 20) + 1))), Failure::TooLarge);
}

#[test]
fn endless_head_is_given_up() {
    let long = format!("X-Long: {}\r\n", "x".repeat(100_000));
    assert_eq!(failure_of(answer("200 OK", &long, SEEN)), Failure::TooLarge);
}

/// Exchanges end soon after their deadline, in every phase.
#[test]
fn one_deadline_holds_for_the_whole_exchange() {
    let hanging = Server::new(|_, stream| stream.read(&mut [0]).is_err());
    let dripping_head = Server::new(|_, stream| drip(stream, b"HTTP/1.1 200 OK\r\nX-Long: "));
    let dripping_body =
        Server::new(|_, stream| drip(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"));
    let stalling = Server::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{").unwrap();
        stream.read(&mut [0]).is_err()
    });
    let silent_tls = Server::new(|_, _| true);
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    for (url, failure) in [
        (hanging.url(""), Failure::Silent),
        (dripping_head.url(""), Failure::Silent),
        (dripping_body.url(""), Failure::TooSlow),
        (stalling.url(""), Failure::TooSlow),
        (silent_tls.url("").replace("http:", "https:"), Failure::ConnectTimeout),
        (format!("http://{}", deaf.local_addr().unwrap()), Failure::Silent),
    ] {
        let begun = Instant::now();
        let reply = ask(&GreyNoise, &within(greynoise(&url), 600));
        let lasted = begun.elapsed();
        assert_eq!(reply.failure, Some(failure), "{url}");
        assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&lasted), "{url}: {lasted:?}");
    }
}

fn drip(stream: &mut dyn servers::Duplex, head: &[u8]) -> bool {
    let mut alive = stream.write_all(head).is_ok();
    for _ in 0..2_000 {
        if !alive {
            break;
        }
        thread::sleep(Duration::from_millis(20));
        alive = stream.write_all(b"x").and_then(|()| stream.flush()).is_ok();
    }
    false
}

#[test]
fn unreachable_provider_is_named_with_its_port_alone() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = ask(&GreyNoise, &greynoise(&format!("http://{free}/path"))).failure.unwrap();
    assert!(matches!(refused, Failure::Connect(_)) && refused.is_unreachable(), "{refused:?}");
    assert!(refused.to_string().starts_with(&format!("could not connect to {free}: ")), "{refused}");
    assert!(!refused.to_string().contains("path"));

    let url = format!("https://{}.invalid/path", "x".repeat(64));
    let unknown = ask(&GreyNoise, &greynoise(&url)).failure.unwrap();
    assert!(matches!(unknown, Failure::Resolve(_)) && unknown.is_unreachable(), "{unknown:?}");
    assert!(!unknown.to_string().contains("path"));
}

#[test]
fn answer_cut_short_is_no_answer() {
    for (bytes, failure) in [
        ("", Failure::Cut),
        ("HTTP/1.1 200 OK\r\nContent-", Failure::Cut),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", Failure::Cut),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}", Failure::Cut),
    ] {
        let server = Server::new(move |_, stream| {
            stream.write_all(bytes.as_bytes()).unwrap();
            false
        });
        assert_eq!(ask(&GreyNoise, &greynoise(&server.url(""))).failure, Some(failure), "{bytes:?}");
    }
    let other = failure_of("SSH-2.0-OpenSSH_9.9\r\n\r\n");
    assert!(matches!(other, Failure::Malformed(_)), "{other:?}");
}

#[test]
fn answer_about_another_address_is_held_against_the_lookup() {
    let key = TempFile::new(KEY);
    let greynoise_says = r#"{"ip":"192.0.2.2","noise":true,"riot":false}"#;
    for (provider, status, body) in [
        (&GreyNoise as &dyn Provider, "200 OK", greynoise_says),
        (&GreyNoise, "404 Not Found", &greynoise_says.replace("true", "false")),
        (&Dshield, "200 OK", r#"{"ip":{"number":"192.0.2.2","count":1}}"#),
        (&Spur, "200 OK", r#"{"ip":"192.0.2.2"}"#),
        (&Spur, "200 OK", r#"{"ip":["192.0.2.1"]}"#),
    ] {
        let server = Server::answering(answer(status, "", body));
        let url = server.url("");
        let settings = match provider.name() {
            "greynoise" => greynoise(&url),
            "dshield" => dshield(&url),
            _ => spur(&url, &key),
        };
        let reply = ask(provider, &settings);
        assert!(matches!(reply.failure, Some(Failure::Malformed(_))), "{reply:?}");
        assert_eq!((reply.anomalies.foreign, reply.blames_lookup, reply.answers.len()), (1, true, 0));
    }
}

#[test]
fn answer_too_long_to_be_kept_is_none() {
    let key = TempFile::new(KEY);
    let long = |size: usize| format!(r#"{{"ip":"192.0.2.1","x":"{}"}}"#, "x".repeat(size));
    let rest = long(0).len();
    for (size, fits) in [(65_536 - rest, true), (65_537 - rest, false)] {
        let server = Server::answering(answer("200 OK", "", long(size)));
        let reply = ask(&Spur, &spur(&server.url(""), &key));
        let seen = (reply.answers.len() == 1, reply.anomalies.oversized == 0, reply.blames_lookup);
        assert_eq!(seen, (fits, fits, !fits));
        assert_eq!(reply.failure, (!fits).then_some(Failure::TooLarge));
    }
}

#[test]
fn notice_tells_the_balance_whatever_the_status() {
    let key = TempFile::new(KEY);
    let notice = |status: &str, headers: &str| {
        let server = Server::answering(answer(status, headers, "{}"));
        ask(&Spur, &spur(&server.url(""), &key)).notice
    };
    let headers = "x-balance-remaining: 4711\r\nx-result-dt: 20261120\r\n";
    let both = Some("balance: 4711, date of the data: 20261120".to_owned());
    assert_eq!((notice("200 OK", headers), notice("429 x", headers)), (both.clone(), both));
    assert_eq!(notice("200 OK", "x-result-dt: 20261120\r\n").as_deref(), Some("date of the data: 20261120"));
    assert_eq!(notice("200 OK", ""), None);
    assert_eq!(notice("200 OK", &format!("x-result-dt: {}\r\n", "9".repeat(41))), None);
    assert_eq!(notice("200 OK", "x-result-dt: two words\r\n"), None);
}

#[test]
fn key_is_shown_by_nothing() {
    let key = TempFile::new(KEY);
    let body = format!(r#"{{"message":"{}{KEY} is wrong","x":["{KEY}"],"ip":"192.0.2.1"}}"#, "w".repeat(90));
    let headers =
        format!("Location: https://{KEY}.example/{KEY}\r\nx-result-dt: {KEY}\r\nx-balance-remaining: 1\r\n");
    for status in ["200 OK", "302 x", "400 x", "401 x", "403 x", "404 x", "429 x", "500 x", "503 x"] {
        let server = Server::answering(answer(status, &headers, &body));
        for (provider, settings) in [
            (&Spur as &dyn Provider, spur(&server.url(""), &key)),
            (&GreyNoise, greynoise(&server.url("")).with(&GREYNOISE_API_KEY_FILE, text(key.path()))),
        ] {
            let reply = ask(provider, &settings);
            let shown = format!("{reply:?}");
            assert!(!shown.contains(&KEY[..8]), "{status}: {shown}");
            if let Some(failure) = reply.failure {
                assert!(!failure.to_string().contains(&KEY[..8]));
            }
        }
        assert!(server.asked().iter().all(|asked| asked.head.contains(KEY)));
    }
    let secret = Secret::read(key.path()).unwrap();
    assert_eq!((format!("{secret:?}"), secret.to_string()), ("[key]".into(), "[key]".into()));
    assert!(!format!("{:?}", secret.header().unwrap()).contains(KEY));
}

#[test]
fn key_goes_over_no_open_line() {
    let key = TempFile::new(KEY);
    let proxy = Server::answering(answer("200 OK", "", ""));
    let proxied = |settings: Settings| settings.with(&HTTP_PROXY, text(&proxy.url("")));
    let settings = proxied(spur("http://provider.test/v2", &key));
    let why = "cowrie_enrich.spur_url is not an https URL, and cowrie_enrich.spur_token_file is set";
    assert_eq!(Spur.blocked_reason(&settings).as_deref(), Some(why));
    assert_eq!(ask(&Spur, &settings).failure, Some(Failure::Io(why.into())));
    let settings = proxied(greynoise("http://192.0.2.99/")).with(&GREYNOISE_API_KEY_FILE, text(key.path()));
    assert!(GreyNoise.blocked_reason(&settings).is_some() && ask(&GreyNoise, &settings).failure.is_some());
    assert_eq!(proxy.connections(), 0);

    // A request without a key sends no secret, so its URL need not use TLS.
    assert_eq!(GreyNoise.blocked_reason(&greynoise("http://192.0.2.99/")), None);
    for url in ["https://a.example", "http://localhost:1/x", "http://127.9.9.9", "http://[::1]:80/"] {
        assert_eq!(Spur.blocked_reason(&spur(url, &key)), None, "{url}");
    }
}

#[test]
fn obstacles_name_their_setting() {
    let blocked_reason = |url: &str| GreyNoise.blocked_reason(&greynoise(url));
    for url in
        ["example.org", "ftp://example.org", "http://", "http://a b", "https://:443", "http://a:x", "/x"]
    {
        let why = "cowrie_enrich.greynoise_url is not an http or https URL";
        assert_eq!(blocked_reason(url).as_deref(), Some(why), "{url}");
    }
    for url in ["http://a:99999", "http://a:0", "https://u:p@a/", "https://a/?x=1", "https://a/#x"] {
        assert!(blocked_reason(url).unwrap().starts_with("cowrie_enrich.greynoise_url "), "{url}");
    }
    assert!(blocked_reason(&format!("https://a/{}", "x".repeat(3000))).is_some());
    let unset = Settings::defaults(GreyNoise.settings()).with(&GREYNOISE_URL, setting::Value::Text(None));
    assert_eq!(GreyNoise.blocked_reason(&unset).as_deref(), Some("cowrie_enrich.greynoise_url is not set"));
    for proxy in ["socks5://127.0.0.1:1080", "ftp://a", "http://", "a b"] {
        let why = GreyNoise.blocked_reason(&greynoise("https://a").with(&HTTP_PROXY, text(proxy)));
        assert_eq!(
            why.as_deref(),
            Some("cowrie_enrich.http_proxy is not the http or https URL of a proxy"),
            "{proxy}"
        );
    }
    assert_eq!(
        Spur.blocked_reason(&Settings::defaults(Spur.settings())).as_deref(),
        Some("cowrie_enrich.spur_token_file is not set")
    );
    let unset = Dshield.blocked_reason(&Settings::defaults(Dshield.settings())).unwrap();
    assert!(unset.starts_with("cowrie_enrich.dshield_contact is not set: "), "{unset}");
    for contact in ["jané@example.org", "a\tb", "a\nX-Injected: 1", &"x".repeat(201)] {
        let settings = dshield("https://a").with(&DSHIELD_CONTACT, text(contact));
        assert!(
            Dshield
                .blocked_reason(&settings)
                .unwrap()
                .starts_with("cowrie_enrich.dshield_contact is not one line")
        );
    }
    let unset = GreyNoise.blocked_reason(&Settings::defaults(GreyNoise.settings())).unwrap();
    assert!(unset.starts_with("cowrie_enrich.greynoise_api_key_file is not set: "), "{unset}");
}

/// GreyNoise gets a request only if an operator has set a key file or the community interface.
#[test]
fn greynoise_is_asked_with_consent_alone() {
    let server = Server::answering(answer("200 OK", "", SEEN));
    let silent = Settings::defaults(GreyNoise.settings()).with(&GREYNOISE_URL, text(&server.url("")));
    assert!(ask(&GreyNoise, &silent).unsent);
    assert_eq!(server.connections(), 0);
    let community = greynoise(&server.url(""));
    assert_eq!(GreyNoise.blocked_reason(&community), None);
    assert!(ask(&GreyNoise, &community).failure.is_none());
    assert_eq!(server.connections(), 1);
}

#[test]
fn community_interface_of_greynoise_is_asked_fifty_times_a_day_at_most() {
    let quota = |settings: &Settings| GreyNoise.limits(settings).daily_quota;
    let of = |number| setting::Value::Number(number);
    let community = || greynoise("https://a");
    assert_eq!(quota(&community()), 50);
    assert_eq!(quota(&community().with(&GREYNOISE_DAILY_QUOTA, of(0))), 50);
    assert_eq!(quota(&community().with(&GREYNOISE_DAILY_QUOTA, of(7))), 7);
    let with_key = community().with(&GREYNOISE_API_KEY_FILE, text("/etc/key"));
    assert_eq!(quota(&with_key), 10_000);
}

#[test]
fn key_file_that_is_none_stops_asking() {
    let server = Server::answering(answer("200 OK", "", SEEN));
    let key = TempFile::new("");
    let settings = spur(&server.url(""), &key);
    let stop = |why: &str| {
        let reply = ask(&Spur, &settings);
        let why = format!("the file that cowrie_enrich.spur_token_file names {why}");
        assert_eq!(reply.demand, Some(Demand::Stop(why.clone())));
        assert_eq!(reply.failure, Some(Failure::Io(why)));
    };
    stop("is empty");
    for content in ["two words", "two\nlines", "schlüssel", "a\0b"] {
        key.write(content);
        stop("contains more than one word, or characters that are not visible ASCII");
    }
    key.write(&"x".repeat(4097));
    stop("is longer than 4096 bytes");
    let gone = spur(&server.url(""), &key).with(&SPUR_TOKEN_FILE, text("/nonexistent/key"));
    let why = ask(&Spur, &gone).failure.unwrap().to_string();
    assert_eq!(why, "the file that cowrie_enrich.spur_token_file names could not be read: entity not found");
    let folder = spur(&server.url(""), &key).with(&SPUR_TOKEN_FILE, text("/tmp"));
    assert!(ask(&Spur, &folder).failure.unwrap().to_string().ends_with("is not a file"));
    assert_eq!(server.connections(), 0);
    key.write(&"x".repeat(4096));
    assert!(ask(&Spur, &settings).demand.is_none());
}

#[test]
fn replaced_key_is_used_at_once_and_changes_the_credentials() {
    let server = Server::answering(answer("200 OK", "", "{}"));
    let key = TempFile::new("one");
    let settings = spur(&server.url(""), &key);
    let mut all = vec![Spur.credentials(&settings)];
    assert_eq!(Spur.credentials(&settings), all[0]);
    ask(&Spur, &settings);
    key.write("two");
    all.push(Spur.credentials(&settings));
    ask(&Spur, &settings);
    let tokens: Vec<_> =
        server.asked().iter().map(|asked| asked.header("token").map(str::to_owned)).collect();
    assert_eq!(tokens, [Some("one".to_owned()), Some("two".to_owned())]);
    key.write("");
    all.push(Spur.credentials(&settings));
    all.push(Spur.credentials(&settings.clone().with(&SPUR_URL, text("https://other.example"))));
    all.push(Spur.credentials(&settings.with(&SPUR_TOKEN_FILE, setting::Value::Text(None))));
    all.push(Dshield.credentials(&dshield("https://a")));
    all.push(Dshield.credentials(&dshield("https://a").with(&DSHIELD_CONTACT, text("other"))));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

/// The test server first replaces the contents of the key file, and then refuses the old key.
#[test]
fn reply_names_the_credentials_that_were_sent() {
    let key = Arc::new(TempFile::new("one"));
    let server = Server::new({
        let key = Arc::clone(&key);
        move |_, stream| {
            key.write("two");
            stream.write_all(&answer("401 Unauthorized", "", "")).is_ok()
        }
    });
    let settings = spur(&server.url(""), &key);
    let one = Spur.credentials(&settings);
    let reply = ask(&Spur, &settings);
    let two = Spur.credentials(&settings);
    assert!(matches!(reply.demand, Some(Demand::Stop(_))) && one != two);
    assert_eq!(server.asked()[0].header("token"), Some("one"));
    assert_eq!(reply.credentials, Some(one));
    // This reply is about the current key.
    assert_eq!(ask(&Spur, &settings).credentials, Some(two));
}

#[test]
fn every_reply_names_its_credentials() {
    let server = Server::answering(answer("200 OK", "", SEEN));
    let (url, key, free) = (server.url(""), TempFile::new(KEY), TcpListener::bind("127.0.0.1:0").unwrap());
    let refused = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let empty = TempFile::new("");
    let gone = spur(&url, &key).with(&SPUR_TOKEN_FILE, text("/nonexistent/key"));
    for (provider, settings) in [
        (&GreyNoise as &dyn Provider, greynoise(&url)),
        (&GreyNoise, greynoise(&refused)),
        (&GreyNoise, greynoise(&url).with(&GREYNOISE_API_KEY_FILE, text(key.path()))),
        (&Dshield, dshield(&url)),
        (&Dshield, dshield(&url).with(&DSHIELD_CONTACT, text("other"))),
        (&Dshield, Settings::defaults(Dshield.settings())),
        (&Spur, spur(&url, &key)),
        (&Spur, spur(&url, &empty)),
        (&Spur, gone),
        (&Spur, spur("ftp://a", &key)),
    ] {
        let reply = ask(provider, &settings);
        assert_eq!(reply.credentials, Some(provider.credentials(&settings)), "{reply:?}");
    }
}

#[test]
fn cancelled_exchange_sends_nothing() {
    let server = Server::answering(answer("200 OK", "", SEEN));
    let cancel = Cancel::new();
    cancel.set();
    let settings = greynoise(&server.url(""));
    let reply = GreyNoise.fetch(&[address()], &settings, &cancel);
    assert_eq!((&reply.failure, reply.unsent), (&Some(Failure::Cancelled), true));
    let reply = Exchange { provider: &GreyNoise, settings, lookups: Lookups::Addresses(vec![address()]) }
        .run(&cancel);
    assert_eq!((&reply.failure, reply.unsent), (&Some(Failure::Cancelled), true));
    assert_eq!(server.connections(), 0);
}

#[test]
fn reply_says_whether_anything_was_sent() {
    let server = Server::answering(answer("500 x", "", ""));
    let (url, key, empty) = (server.url(""), TempFile::new(KEY), TempFile::new(""));
    for settings in [
        spur(&url, &empty),
        spur(&url, &key).with(&SPUR_TOKEN_FILE, text("/nonexistent/key")),
        spur("ftp://a", &key),
        spur("http://provider.test", &key),
        Settings::defaults(Spur.settings()),
        spur(&url, &key).with(&HTTP_PROXY, text("socks5://127.0.0.1:1")),
    ] {
        let reply = ask(&Spur, &settings);
        assert!(reply.unsent && reply.failure.is_some(), "{reply:?}");
    }
    assert!(Spur.fetch(&[], &spur(&url, &key), &Cancel::new()).unsent);
    assert!(ask(&Dshield, &Settings::defaults(Dshield.settings())).unsent);
    assert_eq!(server.connections(), 0);

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [url, format!("http://{free}"), "https://provider.invalid".to_owned()] {
        let reply = ask(&Spur, &spur(&url, &key));
        assert!(!reply.unsent && reply.failure.is_some(), "{url}: {reply:?}");
    }
    assert!(!Exchange::lost("told to".into()).unsent);
}

#[test]
fn error_of_the_provider_is_not_held_against_the_lookup() {
    let ask_dshield = |error: &str| {
        let body = serde_json::json!({ "error": error }).to_string();
        ask(&Dshield, &dshield(&Server::answering(answer("200 OK", "", body)).url("")))
    };
    let failed = ask_dshield(&format!(" data\u{7}base is down {}", "x".repeat(500)));
    let words = format!("the provider answered with an error: database is down {}", "x".repeat(100 - 17));
    assert_eq!(failed.failure, Some(Failure::Malformed(words)));
    assert!(failed.answers.is_empty() && !failed.blames_lookup && failed.demand.is_none());
    let refused = ask_dshield("Bad IP address");
    assert_eq!(refused.answers[&address()], Answer::Refused("Bad IP address".into()));
    assert_eq!((refused.failure, refused.blames_lookup), (None, false));
}

#[test]
fn mistyped_url_makes_nothing_unknown() {
    let key = TempFile::new(KEY);
    let reply = |body: &str| {
        let server = Server::answering(answer("404 Not Found", "", body));
        ask(&Spur, &spur(&server.url("/v3/kontext"), &key))
    };
    for (body, text) in [
        (
            r#"{"message":"no Route matched with those values"}"#,
            "404 Not Found: no Route matched with those values",
        ),
        ("404 page not found", "404 Not Found"),
    ] {
        let reply = reply(body);
        assert_eq!(reply.failure, Some(Failure::Status { code: 404, text: text.into() }));
        assert!(reply.answers.is_empty() && !reply.blames_lookup);
    }
    for body in ["", r#"{"ip":"192.0.2.1"}"#] {
        assert_eq!(reply(body).answers[&address()], Answer::Absent(None));
    }
}

#[test]
fn proxy_is_asked_to_connect_to_the_provider() {
    let proxy = Server::new(|asked, stream| {
        assert!(stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").is_ok());
        let head = read_head(stream).unwrap();
        assert!(
            head.starts_with("GET /v3/192.0.2.1 HTTP/1.1\r\n") && head.contains("provider.test"),
            "{head}"
        );
        assert!(!asked.head.contains("GET"));
        let _ = stream.write_all(&answer("200 OK", "", SEEN));
        false
    });
    let settings = greynoise("http://provider.test:8080/v3").with(&HTTP_PROXY, text(&proxy.url("")));
    assert_eq!(source_data(&ask(&GreyNoise, &settings))["noise"], true);
    assert_eq!(proxy.asked()[0].line(), "CONNECT provider.test:8080 HTTP/1.1");
    assert_eq!(proxy.asked()[0].header("user-agent"), Some(USER_AGENT));

    // The exchange does not use the proxy for a server on this host, because a proxy cannot reach the loopback address
    // of this host.
    let server = Server::answering(answer("200 OK", "", SEEN));
    let settings = greynoise(&server.url("")).with(&HTTP_PROXY, text(&proxy.url("")));
    assert_eq!(source_data(&ask(&GreyNoise, &settings))["noise"], true);
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn proxy_that_refuses_is_told_from_the_provider() {
    let proxy = Server::answering(answer("403 Forbidden", "", ""));
    let settings = greynoise("http://provider.test/v3").with(&HTTP_PROXY, text(&proxy.url("")));
    let reply = ask(&GreyNoise, &settings);
    assert_eq!(reply.demand, None);
    let failure = reply.failure.unwrap();
    assert!(matches!(failure, Failure::Connect(_)), "{failure:?}");
    let text = failure.to_string();
    assert!(
        text.starts_with("could not connect to provider.test through the proxy: ") && text.contains("403")
    );
}

/// Other tests run this test in a separate process. The test makes one exchange on a thread of a pool.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let Ok(url) = std::env::var("ASKED_URL") else { return };
    let mut pool = Pool::new().unwrap();
    let exchange = Exchange {
        provider: &GreyNoise,
        settings: greynoise(&url),
        lookups: Lookups::Addresses(vec![address()]),
    };
    pool.start(1, exchange).unwrap();
    let reply = loop {
        if let Some(finished) = pool.finished().pop() {
            break finished.done;
        }
        thread::sleep(Duration::from_millis(1));
    };
    println!("answers: {}, failure: {:?}", reply.answers.len(), reply.failure);
}

fn run_child(url: &str, environment: &[(&str, &str)]) -> String {
    let Output { status, stdout, stderr } = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "providers::http::tests::child"])
        .env("ASKED_URL", url)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{stdout}{stderr}");
    stdout.into_owned()
}

#[test]
fn environment_names_no_proxy() {
    let server = Server::answering(answer("200 OK", "", SEEN));
    let proxy = Server::answering(answer("500 x", "", ""));
    let url = proxy.url("");
    let names = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy"];
    let mut environment: Vec<(&str, &str)> = names.into_iter().map(|name| (name, url.as_str())).collect();
    environment.push(("NO_PROXY", ""));
    environment.push(("no_proxy", ""));
    let told = run_child(&server.url(""), &environment);
    assert!(told.contains("answers: 1, failure: None"), "{told}");
    assert_eq!((server.connections(), proxy.connections()), (1, 0));
}

#[test]
fn certificate_is_checked_against_the_roots_of_the_system() {
    let authority = Authority::new();
    let server = Server::with_tls(&authority, answer("200 OK", "", SEEN));
    let url = server.url("").replace("http:", "https:");
    let roots = TempFile::new(&authority.pem);
    let told = run_child(&url, &[("SSL_CERT_FILE", roots.path())]);
    assert!(told.contains("answers: 1, failure: None"), "{told}");

    let other = TempFile::new(Authority::new().pem);
    let told = run_child(&url, &[("SSL_CERT_FILE", other.path())]);
    assert!(told.contains("answers: 0, failure: Some(Connect(") && told.contains("certificate"), "{told}");
    // The trusted certificate authority has signed the certificate, but the certificate does not contain the host name.
    let told = run_child(&url.replace("127.0.0.1", "localhost"), &[("SSL_CERT_FILE", roots.path())]);
    assert!(told.contains("answers: 0, failure: Some(Connect(") && told.contains("certificate"), "{told}");
    assert_eq!(server.asked().len(), 1);
}
