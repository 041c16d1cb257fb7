//! Tests complete exchanges with whois servers. Some of the servers respond, and others do not respond.

use super::super::servers::{ClosedPort, Whois};
use super::super::{Anomalies, RouteAnswer};
use super::*;
use cowrie_enrich_upstreams::{Behaviour, Fault};
use std::thread;

fn hosts(texts: &[&str]) -> Vec<Address> {
    texts.iter().map(|text| Address::new(text.parse().unwrap())).collect()
}

fn asked() -> Vec<Address> {
    hosts(&["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888"])
}

const GOOGLE: &str = "15169 | 8.8.8.8 | 8.8.8.0/24 | US | arin | 2023-12-28 | GOOGLE, US\n";
const CLOUDFLARE: &str = "13335 | 1.1.1.1 | 1.1.1.0/24 | AU | apnic | 2011-08-11 | CLOUDFLARENET, US\n";
const GOOGLE_V6: &str = "15169 | 2001:4860:4860:0:0:0:0:8888 | 2001:4860::/32 | US | arin | | GOOGLE, US\n";

/// The time limits are longer than any operation takes on any machine, unless the operation waits for the server.
fn limits() -> Limits {
    let long = Duration::from_secs(600);
    Limits { connect: long, gap: long, whole: long, ..Limits::new(Duration::ZERO, 3) }
}

/// Limits for exchanges whose time must run out.
fn short() -> Limits {
    Limits { whole: Duration::from_secs(2), ..limits() }
}

fn ask(server: &Whois) -> RouteReply {
    ask_within(&limits(), server)
}

fn ask_within(limits: &Limits, server: &Whois) -> RouteReply {
    run("127.0.0.1", server.port(), &asked(), limits, &Cancel::new())
}

/// Generous limit: it tells "ended" from "hangs" and does not measure.
fn ends_soon(ask: impl FnOnce() -> RouteReply) -> RouteReply {
    let begun = Instant::now();
    let reply = ask();
    assert!(begun.elapsed() < Duration::from_secs(60));
    reply
}

fn answered(reply: &RouteReply) -> Vec<String> {
    reply.answers.keys().map(ToString::to_string).collect()
}

#[test]
fn request_is_what_the_bulk_protocol_wants() {
    assert_eq!(request(asked()), "begin\nverbose\n8.8.8.8\n1.1.1.1\n2001:4860:4860::8888\nend\n");
}

#[test]
fn limits_follow_from_the_timeout() {
    let of = |seconds| {
        let limits = Limits::new(Duration::from_secs(seconds), 500);
        [limits.connect, limits.gap, limits.whole].map(|time| time.as_secs())
    };
    assert_eq!(of(30), [10, 10, 30]);
    assert_eq!(of(2), [2, 1, 2]);
    assert_eq!(of(u64::MAX), [10, 1200, 3600]);
    assert_eq!(Limits::new(Duration::ZERO, 500).bytes, 2_113_536);
}

#[test]
fn full_answer_is_no_failure() {
    let answer =
        ["Bulk mode; localhost [2026-11-20 06:00:00 +0000]\n", GOOGLE_V6, CLOUDFLARE, GOOGLE].concat();
    let server = Whois::answering(answer.clone());
    let reply = ask(&server);
    assert_eq!(reply.failure, None);
    assert_eq!(answered(&reply), ["1.1.1.1", "8.8.8.8", "2001:4860:4860::8888"]);
    assert_eq!((reply.bytes, reply.spoke, reply.used), (answer.len() as u64, true, Transport::Whois));
    assert_eq!(reply.anomalies, Anomalies::default());
    assert_eq!(server.asked(), ["begin", "verbose", "8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "end"]);
}

#[test]
fn missing_row_of_an_orderly_answer_is_no_failure() {
    let reply = ask(&Whois::answering([GOOGLE, CLOUDFLARE].concat()));
    assert_eq!((reply.failure, reply.answers.len()), (None, 2));
}

#[test]
fn rows_before_a_cut_are_kept() {
    let reply = ask(&Whois::answering(format!("{GOOGLE}13335 | 1.1.1.1 | 1.1.1.0/24 | AU | apn")));
    assert_eq!(reply.failure, Some(Failure::Cut));
    assert_eq!(answered(&reply), ["8.8.8.8"]);
}

#[test]
fn answer_without_a_row_is_cut() {
    for (answer, spoke) in [("", false), ("Bulk mode; x\n", true), ("1 | 9.9.9.9 | | | | | X\n", true)] {
        let reply = ask(&Whois::answering(answer));
        assert_eq!((reply.failure, reply.spoke), (Some(Failure::Cut), spoke), "{answer}");
        assert!(reply.answers.is_empty());
    }
}

#[test]
fn cut_behind_the_last_needed_row_is_no_failure() {
    let reply = ask(&Whois::answering([GOOGLE, CLOUDFLARE, GOOGLE_V6, "64496 | 8.8.8.8 | 8.8"].concat()));
    assert_eq!((reply.failure, reply.answers.len()), (None, 3));
}

#[test]
fn refused_connection_is_unreachable() {
    let closed = ClosedPort::new();
    let reply = run("127.0.0.1", closed.port(), &asked(), &limits(), &Cancel::new());
    let failure = reply.failure.unwrap();
    assert!(failure.is_unreachable() && matches!(failure, Failure::Connect(_)), "{failure:?}");
    assert!(failure.to_string().contains(&format!("127.0.0.1:{}", closed.port())), "{failure}");
    assert!(!reply.spoke);
}

#[test]
fn unknown_name_is_unreachable() {
    // The host name has a label that is too long. So the resolver of this machine refuses the name without using the
    // network.
    let host = format!("{}.invalid", "x".repeat(64));
    let reply = run(&host, 43, &asked(), &limits(), &Cancel::new());
    let failure = reply.failure.unwrap();
    assert!(failure.is_unreachable() && matches!(failure, Failure::Resolve(_)), "{failure:?}");
}

#[test]
fn no_time_left_to_connect_is_unreachable() {
    let server = Whois::new(Behaviour::normal());
    let reply = ask_within(&Limits { connect: Duration::ZERO, ..limits() }, &server);
    assert_eq!(reply.failure, Some(Failure::ConnectTimeout));
}

#[test]
fn silence_ends_with_the_whole_time() {
    let server = Whois::new(Fault::Silent);
    let reply = ends_soon(|| ask_within(&short(), &server));
    assert_eq!((reply.failure, reply.spoke), (Some(Failure::Silent), false));
}

#[test]
fn server_that_does_not_read_is_silent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // More bytes than the two socket buffers hold.
    let much = vec![Address::new("2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap()); 300_000];
    let reply = ends_soon(|| run("127.0.0.1", port, &much, &short(), &Cancel::new()));
    assert_eq!(reply.failure, Some(Failure::Silent));
}

#[test]
fn gap_in_the_answer_stalls_it() {
    let server = Whois::new(Fault::HangAfter(GOOGLE.into()));
    let limits = Limits { gap: Duration::from_millis(300), ..limits() };
    let reply = ends_soon(|| ask_within(&limits, &server));
    assert_eq!(reply.failure, Some(Failure::Stalled));
    assert_eq!(answered(&reply), ["8.8.8.8"]);
}

#[test]
fn dripping_bytes_hold_it_no_longer_than_the_whole_time() {
    let server = Whois::new(Fault::Drip { every: Duration::from_millis(50) });
    let reply = ends_soon(|| ask_within(&short(), &server));
    assert_eq!(reply.failure, Some(Failure::TooSlow));
    assert!(reply.spoke);
}

#[test]
fn answer_that_is_complete_but_never_ends_is_no_failure() {
    let server = Whois::new(Fault::HangAfter([GOOGLE, CLOUDFLARE, GOOGLE_V6].concat().into()));
    let reply = ends_soon(|| ask_within(&short(), &server));
    assert_eq!((reply.failure, reply.answers.len()), (None, 3));
}

#[test]
fn too_long_answer_is_given_up() {
    let foreign = "1 | 9.9.9.9 | 9.9.9.0/24 | | | | OTHERS\n";
    let reply = ends_soon(|| ask(&Whois::answering([GOOGLE, &foreign.repeat(500_000)].concat())));
    assert_eq!(reply.failure, Some(Failure::TooLarge));
    assert_eq!(answered(&reply), ["8.8.8.8"]);
    assert!(reply.anomalies.foreign > 1000);
    assert!(reply.bytes < limits().bytes + 64 * 1024, "{} bytes", reply.bytes);
}

#[test]
fn ten_megabytes_in_one_line_are_given_up() {
    let reply = ends_soon(|| ask(&Whois::answering([GOOGLE, &"x".repeat(10_000_000)].concat())));
    assert_eq!(reply.failure, Some(Failure::TooLarge));
    assert_eq!((reply.anomalies.oversized, answered(&reply)), (1, vec!["8.8.8.8".to_owned()]));
}

#[test]
fn garbage_and_nul_bytes_are_counted_and_the_rest_is_read() {
    let mut answer = b"\xff\x00\xfe garbage\n\0\0\0\n15169 | 8.8.8.8\0 | | | | | X\n".to_vec();
    answer.extend(b"13335 | 1.1.1.1 | 1.1.1.0/24 | AU | apnic | 2011-08-11 | CLOUD\0FLARE\xe9, US\n");
    let reply = ask(&Whois::answering(answer));
    assert_eq!((reply.failure, reply.anomalies.malformed), (None, 3));
    let Some(RouteAnswer::Route(route)) = reply.answers.values().next() else { panic!() };
    assert_eq!(route.name.as_deref(), Some("CLOUDFLARE\u{fffd}, US"));
}

#[test]
fn reset_keeps_what_came() {
    // Closing with unread bytes in the receive buffer sends a reset.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || drop(listener.accept().unwrap()));
    let reply = ends_soon(|| run("127.0.0.1", port, &asked(), &limits(), &Cancel::new()));
    assert!(matches!(reply.failure, Some(Failure::Io(_) | Failure::Cut)), "{:?}", reply.failure);
}

#[test]
fn cancel_ends_it_in_the_middle_and_keeps_what_came() {
    let server = Whois::new(Fault::HangAfter(GOOGLE.into()));
    let cancel = Cancel::new();
    let reply = thread::scope(|scope| {
        scope.spawn(|| {
            server.wait_for_request(true);
            cancel.set();
        });
        ends_soon(|| run("127.0.0.1", server.port(), &asked(), &limits(), &cancel))
    });
    assert_eq!(reply.failure, Some(Failure::Cancelled));
}

#[test]
fn cancelled_before_it_began_it_sends_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let cancel = Cancel::new();
    cancel.set();
    let reply = run("127.0.0.1", listener.local_addr().unwrap().port(), &asked(), &limits(), &cancel);
    assert_eq!(reply.failure, Some(Failure::Cancelled));
    assert!(listener.accept().is_err());
}
