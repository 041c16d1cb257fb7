//! Tests batches through the pool, over whois and over DNS.

use super::servers::{ClosedPort, Dns, Whois};
use super::*;
use crate::net::Pool;
use cowrie_enrich_upstreams::{Behaviour, Fault, NetworkFault};
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

fn networks(transport: Transport, whois_port: u16, dns_server: &str, asns: &[u32]) -> NetworkReply {
    let settings = batch(transport, whois_port, dns_server).settings;
    NetworkRequest { settings, asns: asns.to_vec() }.run(&Cancel::new())
}

fn google() -> NetworkAnswer {
    NetworkAnswer::Network(Network {
        country: Some(*b"US"),
        registry: Some(Registry::Arin),
        allocated: Some("2000-03-30".into()),
        name: Some("GOOGLE, US".into()),
    })
}

#[test]
fn both_ways_give_the_same_answer_about_networks() {
    let whois = Whois::answering(
        "15169 | US | arin | 2000-03-30 | GOOGLE, US\nError: no ASN or IP match on line 4.\n",
    );
    let whois_reply = networks(Transport::Whois, whois.port(), "", &[15169, 1]);
    let dns = dns();
    let dns_reply = networks(Transport::Dns, 0, &dns.server(), &[15169, 1]);
    assert_eq!(whois.asked(), ["begin", "verbose", "AS15169", "AS1", "end"]);
    let mut asked: Vec<String> = dns.asked().into_iter().map(|(_, name)| name).collect();
    asked.sort();
    assert_eq!(asked, ["as1.asn.cymru.com.", "as15169.asn.cymru.com."]);
    assert_eq!(whois_reply.answers, BTreeMap::from([(1, NetworkAnswer::Absent), (15169, google())]));
    assert_eq!(whois_reply.answers, dns_reply.answers);
    assert_eq!((whois_reply.failure, dns_reply.failure), (None, None));
    assert_eq!((whois_reply.used, dns_reply.used), (Transport::Whois, Transport::Dns));
}

#[test]
fn networks_are_looked_up_by_dns_when_whois_is_out_of_reach() {
    let (closed, dns) = (ClosedPort::new(), dns());
    let reply = networks(Transport::Auto, closed.port(), &dns.server(), &[15169]);
    assert_eq!((reply.used, reply.failure, reply.answers.len()), (Transport::Dns, None, 1));
    let reply = networks(Transport::Auto, closed.port(), &format!("127.0.0.1:{}", closed.port()), &[15169]);
    assert!(reply.failure.is_some_and(|failure| failure.is_unreachable()) && !reply.spoke);
}

#[test]
fn dns_records_that_contradict_each_other_are_no_answer() {
    let dns = Dns::answering(|_| {
        let record =
            |country: &str| format!("15169 | {country} | arin | 2000-03-30 | GOOGLE, US").into_bytes();
        Some(vec![record("US"), record("DE")])
    });
    let reply = networks(Transport::Dns, 0, &dns.server(), &[15169]);
    assert_eq!((reply.answers.len(), reply.anomalies.malformed), (0, 1));
    assert!(reply.failure.is_some() && reply.spoke);
}

#[test]
fn faulty_rows_about_networks_are_no_facts() {
    const ASKED: [u32; 4] = [1_000_001, 1_000_002, 1_000_003, 1_000_004];
    let faults = [
        // The fault, and the number of networks whose rows are valid.
        (NetworkFault::MixedShapes, 2),
        (NetworkFault::SevenColumns, 0),
        (NetworkFault::SwappedColumns, 0),
        (NetworkFault::SwappedNames, 0),
        (NetworkFault::UnknownRegistry, 4),
        (NetworkFault::Duplicated, 4),
        (NetworkFault::Contradicted, 0),
        (NetworkFault::BarInName, 0),
        (NetworkFault::CutRows, 0),
    ];
    let behaviours = faults.iter().flat_map(|(fault, valid)| {
        let plain = Behaviour::from(Fault::Networks(*fault));
        [(plain.clone(), *valid), (plain.with_headings(), *valid)]
    });
    let others = [
        (Fault::Foreign { only: true }, 0),
        (Fault::Foreign { only: false }, 4),
        (Fault::CloseAfter { rows: 2, mid_row: true }, 2),
        (Fault::CloseAfter { rows: 0, mid_row: false }, 0),
        (Fault::Missing { every: 2 }, 2),
        (Fault::Garbage(2_000), 0),
        (Fault::Custom(std::sync::Arc::new(|_| Vec::new())), 0),
    ];
    let behaviours = behaviours.chain(others.map(|(fault, valid)| (fault.into(), valid)));
    for (nth, (behaviour, valid)) in behaviours.enumerate() {
        let whois = Whois::new(behaviour);
        let reply = networks(Transport::Whois, whois.port(), "", &ASKED);
        assert_eq!(reply.answers.len(), valid, "behaviour {nth}");
        for (asn, answer) in &reply.answers {
            let NetworkAnswer::Network(network) = answer else { panic!("{answer:?}") };
            let name = cowrie_enrich_upstreams::synthetic_name(u64::from(*asn));
            assert_eq!(
                (network.name.as_ref(), network.allocated.as_deref()),
                (Some(&name), Some("2020-02-20"))
            );
        }
        let Anomalies { foreign, malformed, oversized } = reply.anomalies;
        let is_noticed = reply.failure.is_some() || foreign + malformed + oversized > 0;
        assert!(valid == 4 || is_noticed || reply.answers.len() < ASKED.len(), "behaviour {nth}");
    }
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

/// Collects one result. Returns `None` if no result arrives within 20 s.
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
