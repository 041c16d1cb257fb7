//! Tests batches through the pool, over whois and over DNS.

use super::servers::{ClosedPort, Dns, Whois};
use super::*;
use crate::net::Pool;
use cowrie_enrich_upstreams::Fault;
use std::thread;
use std::time::Instant;

const ROW: &str = "15169 | 8.8.8.8 | 8.8.8.0/24 | US | arin | 2023-12-28 | GOOGLE, US\n";

fn batch(transport: Transport, whois_port: u16, dns_server: &str) -> RouteRequest {
    let settings = CymruSettings {
        transport,
        whois_host: "127.0.0.1".into(),
        whois_port,
        dns_server: Some(dns_server.into()),
        timeout: Duration::from_secs(60),
    };
    RouteRequest { settings, addresses: vec![Address::new("8.8.8.8".parse().unwrap())] }
}

fn dns() -> Dns {
    Dns::answering(|name| match name {
        "8.8.8.8.origin.asn.cymru.com." => {
            Some(vec![b"15169 | 8.8.8.0/24 | US | arin | 2023-12-28".to_vec()])
        }
        "AS15169.asn.cymru.com." => Some(vec![b"15169 | US | arin | 2000-03-30 | GOOGLE, US".to_vec()]),
        _ => None,
    })
}

fn run(batch: RouteRequest) -> RouteReply {
    batch.run(&Cancel::new())
}

#[test]
fn both_ways_give_the_same_answer() {
    let whois = Whois::answering(ROW);
    let whois = run(batch(Transport::Whois, whois.port(), ""));
    let dns = run(batch(Transport::Dns, 0, &dns().server()));
    assert_eq!((whois.used, dns.used), (Transport::Whois, Transport::Dns));
    assert_eq!((&whois.failure, &dns.failure), (&None, &None));
    assert_eq!(whois.answers, dns.answers);
    assert_eq!(whois.answers.len(), 1);
}

#[test]
fn auto_asks_dns_when_whois_is_out_of_reach() {
    let (closed, dns) = (ClosedPort::new(), dns());
    let reply = run(batch(Transport::Auto, closed.port(), &dns.server()));
    assert_eq!((reply.used, &reply.failure, reply.answers.len()), (Transport::Dns, &None, 1));

    let mut unknown = batch(Transport::Auto, 43, &dns.server());
    unknown.settings.whois_host = format!("{}.invalid", "x".repeat(64));
    assert_eq!((run(unknown).used, dns.asked().len()), (Transport::Dns, 4));
}

#[test]
fn auto_asks_whois_alone_when_that_is_there() {
    for answer in [ROW, "", "15169 | 8.8"] {
        let dns = dns();
        let whois = Whois::answering(answer);
        let reply = run(batch(Transport::Auto, whois.port(), &dns.server()));
        assert_eq!((reply.used, dns.asked()), (Transport::Whois, vec![]));
    }
}

#[test]
fn auto_names_both_reasons() {
    let (whois, dns) = (ClosedPort::new(), ClosedPort::new());
    let reply = run(batch(Transport::Auto, whois.port(), &format!("127.0.0.1:{}", dns.port())));
    let failure = reply.failure.unwrap();
    let text = failure.to_string();
    assert!(failure.is_unreachable() && reply.used == Transport::Dns);
    for port in [whois.port(), dns.port()] {
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    }
}

#[test]
fn longest_exchange_counts_both_ways() {
    let longest = |transport, timeout| {
        let mut settings = batch(transport, 0, "").settings;
        settings.timeout = Duration::from_secs(timeout);
        settings.longest_exchange().as_secs()
    };
    assert_eq!([1, 30].map(|timeout| longest(Transport::Whois, timeout)), [1, 30]);
    assert_eq!([1, 30].map(|timeout| longest(Transport::Dns, timeout)), [15, 30]);
    assert_eq!([1, 30, 99_999].map(|timeout| longest(Transport::Auto, timeout)), [16, 40, 3610]);
}

#[test]
fn nothing_asked_is_nothing_sent() {
    let closed = ClosedPort::new();
    let mut empty = batch(Transport::Auto, closed.port(), "");
    empty.addresses.clear();
    assert_eq!(run(empty).failure, None);
}

#[test]
fn no_more_than_five_hundred_are_asked() {
    let server = Whois::answering(ROW);
    let mut large = batch(Transport::Whois, server.port(), "");
    large.addresses =
        (0..600_u32).map(|bits| Address::new(std::net::Ipv4Addr::from_bits(bits << 8).into())).collect();
    run(large);
    assert_eq!(server.asked().len(), 503);
}

/// Collects one result. Returns `None` after a time in which it would have arrived.
fn collect(pool: &mut Pool<RouteRequest>) -> Option<(u64, RouteReply)> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if let Some(finished) = pool.finished().pop() {
            return Some((finished.ticket, finished.done));
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

#[test]
fn pool_runs_a_batch() {
    let mut pool = Pool::new().unwrap();
    let server = Whois::answering(ROW);
    pool.start(42, batch(Transport::Whois, server.port(), "")).unwrap();
    let (ticket, reply) = collect(&mut pool).unwrap();
    assert_eq!((ticket, reply.answers.len(), pool.running()), (42, 1, 0));
}

#[test]
fn pool_cancels_a_batch() {
    let server = Whois::new(Fault::Silent);
    let mut slow = batch(Transport::Whois, server.port(), "");
    slow.settings.timeout = Duration::from_secs(600);
    let mut pool = Pool::new().unwrap();
    pool.start(1, slow).unwrap();
    server.wait_for_request(false);
    pool.cancel();
    let (_, reply) = collect(&mut pool).unwrap();
    assert_eq!(reply.failure, Some(Failure::Cancelled));
}
