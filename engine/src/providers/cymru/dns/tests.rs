//! Tests complete exchanges with a DNS server that responds, loses datagrams, truncates responses, fails, or forges responses.

use super::super::Registry;
use super::super::servers::{ClosedPort, Dns, Protocol, name_of, reply, response};
use super::*;
use crate::prefix::Prefix;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{Name, RData, Record};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

fn host(text: &str) -> Address {
    Address::new(text.parse().unwrap())
}

const GOOGLE: &str = "8.8.8.8.origin.asn.cymru.com.";
const CLOUDFLARE: &str = "4.3.2.1.origin.asn.cymru.com.";
const OWN_NAME: &str = "AS23028.asn.cymru.com.";

fn own_network() -> Option<Vec<Vec<u8>>> {
    texts(&["23028 | US | arin | 2002-01-04 | TEAM-CYMRU, US"])
}

fn texts(texts: &[&str]) -> Option<Vec<Vec<u8>>> {
    Some(texts.iter().map(|text| text.as_bytes().to_vec()).collect())
}

/// Returns the records of a correct server.
fn known(name: &str) -> Option<Vec<Vec<u8>>> {
    match name {
        GOOGLE => texts(&["15169 | 8.8.8.0/24 | US | arin | 2023-12-28"]),
        CLOUDFLARE => texts(&["13335 | 1.2.3.0/24 | AU | apnic | 2011-08-11"]),
        "AS15169.asn.cymru.com." => texts(&["15169 | US | arin | 2000-03-30 | GOOGLE, US"]),
        "AS13335.asn.cymru.com." => texts(&["13335 | US | arin | 2010-07-14 | CLOUDFLARENET, US"]),
        _ => None,
    }
}

fn timing() -> Timing {
    Timing::new(Duration::from_secs(600))
}

/// Times for tests in which queries are repeated. Each wait is a tenth of the usual wait.
fn hurried() -> Timing {
    let usual = timing();
    Timing { waits: usual.waits.map(|wait| wait / 10), ..usual }
}

fn ask_with(timing: &Timing, server: &Dns, addresses: &[&str]) -> RouteReply {
    let addresses: Vec<Address> = addresses.iter().map(|text| host(text)).collect();
    let begun = Instant::now();
    let reply = run(Some(&server.server()), &addresses, timing, &Cancel::new());
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(reply.used, Transport::Dns);
    reply
}

fn ask(server: &Dns, addresses: &[&str]) -> RouteReply {
    ask_with(&timing(), server, addresses)
}

fn route(reply: &RouteReply, address: &str) -> super::super::Route {
    match reply.answers.get(&host(address)) {
        Some(RouteAnswer::Route(route)) => route.clone(),
        other => panic!("{other:?} of {reply:?}"),
    }
}

#[test]
fn answer_has_route_and_name() {
    let server = Dns::answering(known);
    let reply = ask(&server, &["8.8.8.8", "1.2.3.4"]);
    assert_eq!((&reply.failure, reply.anomalies, reply.spoke), (&None, Anomalies::default(), true));
    let google = route(&reply, "8.8.8.8");
    assert_eq!((google.asn, google.prefix), (15169, Prefix::parse("8.8.8.0/24")));
    assert_eq!((google.country, google.registry), (Some(*b"US"), Some(Registry::Arin)));
    assert_eq!(google.allocated.as_deref(), Some("2023-12-28"));
    assert_eq!(google.name.as_deref(), Some("GOOGLE, US"));
    assert_eq!(route(&reply, "1.2.3.4").name.as_deref(), Some("CLOUDFLARENET, US"));
}

#[test]
fn questions_are_reversed_absolute_and_asked_once() {
    let server = Dns::answering(|name| match name {
        "AS15169.asn.cymru.com." => texts(&["15169 | US | arin | 2000-03-30 | GOOGLE, US"]),
        "8.8.8.8.origin.asn.cymru.com." | "4.4.8.8.origin.asn.cymru.com." => {
            texts(&["15169 | 8.0.0.0/8 | US | arin | 2023-12-28"])
        }
        _ => texts(&["15169 | 2001:4860::/32 | US | arin | 2005-03-14"]),
    });
    let reply = ask(&server, &["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888"]);
    assert_eq!((reply.failure, reply.answers.len()), (None, 3));
    let mut asked = server.asked();
    asked.sort_by(|a, b| a.1.cmp(&b.1));
    let expected = [
        "4.4.8.8.origin.asn.cymru.com.",
        "8.8.8.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.8.4.0.6.8.4.1.0.0.2.origin6.asn.cymru.com.",
        "8.8.8.8.origin.asn.cymru.com.",
        "as15169.asn.cymru.com.",
    ];
    assert_eq!(asked, expected.map(|name| (Protocol::Udp, name.to_owned())));
}

#[test]
fn names_are_as_documented() {
    assert_eq!(origin_name(host("216.90.108.31")), "31.108.90.216.origin.asn.cymru.com.");
    assert_eq!(origin_name(host("::ffff:216.90.108.31")), "31.108.90.216.origin.asn.cymru.com.");
    assert_eq!(
        origin_name(host("2001:0db8:1234:5678:9abc:def0:1357:2468")),
        "8.6.4.2.7.5.3.1.0.f.e.d.c.b.a.9.8.7.6.5.4.3.2.1.8.b.d.0.1.0.0.2.origin6.asn.cymru.com."
    );
    assert_eq!(network_name(4294967295), "AS4294967295.asn.cymru.com.");
}

#[test]
fn most_specific_of_several_records_wins() {
    let server = Dns::answering(|name| match name {
        GOOGLE => texts(&[
            "3356 | 8.0.0.0/9 | US | arin | 1992-12-01",
            "15169 64500 | 8.8.8.0/24 | US | arin | 2023-12-28",
            "64496 | 8.8.0.0/16 | US | arin |",
        ]),
        _ => known(name),
    });
    let route = route(&ask(&server, &["8.8.8.8"]), "8.8.8.8");
    assert_eq!((route.asn, &route.origins[..]), (15169, &[3356, 64496, 64500][..]));
    assert_eq!(route.name.as_deref(), Some("GOOGLE, US"));
}

#[test]
fn strings_of_one_record_are_joined() {
    let many: Vec<String> = (1..=60).map(|number| (100_000 + number).to_string()).collect();
    let text = format!("{} | 8.8.8.0/24 | US | arin | 2023-12-28", many.join(" "));
    let server = Dns::answering(move |name| (name == GOOGLE).then(|| vec![text.clone().into_bytes()]));
    let route = route(&ask(&server, &["8.8.8.8"]), "8.8.8.8");
    assert_eq!((route.asn, route.origins.len()), (100_001, 32));
    assert_eq!(route.country, Some(*b"US"));
}

#[test]
fn what_does_not_exist_is_absent() {
    let server = Dns::new(|_, question| match name_of(question).as_str() {
        GOOGLE => vec![reply(question, None)],
        OWN_NAME => vec![reply(question, own_network())],
        _ => vec![reply(question, Some(vec![]))],
    });
    let reply = ask(&server, &["8.8.8.8", "1.2.3.4"]);
    assert_eq!(reply.failure, None);
    assert_eq!(reply.answers.into_values().collect::<Vec<_>>(), [RouteAnswer::Absent, RouteAnswer::Absent]);
}

/// A DNS server that filters names, or that has no connection to the internet, may deny names that exist.
#[test]
fn absence_counts_only_from_a_server_that_knows_the_zone() {
    let own_names = [None, Some(vec![]), texts(&["64496 | US | arin | 2000-03-30 | OTHERS, US"])];
    for own_name in own_names {
        let text = own_name.clone();
        let server = Dns::answering(move |name| if name == OWN_NAME { text.clone() } else { None });
        let reply = ask(&server, &["8.8.8.8", "1.2.3.4"]);
        assert!(reply.answers.is_empty(), "{own_name:?}: {reply:?}");
        assert!(matches!(reply.failure, Some(Failure::Io(_))), "{own_name:?}: {reply:?}");
        let cancel = Cancel::new();
        let reply = ask_server(Some(&server.server()), &[15169], &timing(), &cancel, |resolver| {
            ask_networks(resolver, &[15169], &cancel)
        });
        assert!(reply.answers.is_empty() && reply.failure.is_some(), "{own_name:?}: {reply:?}");
    }
    // The server knows one name of the batch. So the client does not query the name of Team Cymru's own network.
    let server = Dns::answering(|name| if name == CLOUDFLARE { known(name) } else { None });
    let reply = ask(&server, &["8.8.8.8", "1.2.3.4"]);
    assert_eq!(reply.answers[&host("8.8.8.8")], RouteAnswer::Absent);
    assert!(server.asked().iter().all(|(_, name)| !name.contains("23028")), "{:?}", server.asked());
}

#[test]
fn missing_name_is_no_failure() {
    let server = Dns::answering(|name| if name.starts_with("AS") { None } else { known(name) });
    let reply = ask(&server, &["8.8.8.8"]);
    assert_eq!((&reply.failure, route(&reply, "8.8.8.8").name), (&None, None));

    let server = Dns::answering(|name| match name {
        "AS15169.asn.cymru.com." => texts(&["64496 | US | arin | 2000-03-30 | OTHERS, US"]),
        _ => known(name),
    });
    let reply = ask(&server, &["8.8.8.8"]);
    assert_eq!((&reply.failure, reply.anomalies.malformed), (&None, 1));
    assert_eq!(route(&reply, "8.8.8.8").name, None);
}

#[test]
fn refused_questions_stay_unanswered() {
    let server = Dns::new(|_, question| {
        let mut message = response(question);
        message.metadata.response_code = ResponseCode::ServFail;
        if name_of(question) == GOOGLE {
            vec![message.to_vec().unwrap()]
        } else {
            vec![reply(question, if name_of(question) == OWN_NAME { own_network() } else { None })]
        }
    });
    let reply = ask(&server, &["8.8.8.8", "1.2.3.4"]);
    assert_eq!(reply.failure, None);
    assert_eq!(reply.answers.keys().collect::<Vec<_>>(), [&host("1.2.3.4")]);

    let reply = ask(&server, &["8.8.8.8"]);
    assert!(matches!(reply.failure, Some(Failure::Io(_))), "{:?}", reply.failure);
    assert!(reply.spoke && reply.answers.is_empty());
}

#[test]
fn referral_is_not_absence() {
    let with_authority = |data: fn() -> RData| {
        Dns::new(move |_, question| {
            if name_of(question) == OWN_NAME {
                return vec![reply(question, own_network())];
            }
            let mut message = response(question);
            message.add_authority(Record::from_rdata(Name::from_ascii("cymru.com.").unwrap(), 60, data()));
            vec![message.to_vec().unwrap()]
        })
    };
    let referring = with_authority(|| RData::NS(NS(Name::from_ascii("ns.cymru.com.").unwrap())));
    let reply = ask(&referring, &["8.8.8.8"]);
    assert!(reply.answers.is_empty() && matches!(reply.failure, Some(Failure::Io(_))), "{reply:?}");

    let denying = with_authority(|| {
        let root = Name::root();
        RData::SOA(SOA::new(root.clone(), root, 1, 2, 3, 4, 5))
    });
    assert_eq!(ask(&denying, &["8.8.8.8"]).answers[&host("8.8.8.8")], RouteAnswer::Absent);
}

#[test]
fn texts_that_are_about_something_else_are_counted() {
    for text in [
        "welcome to the hotel",
        "15169 | 9.9.9.0/24 | US | arin | 2023-12-28",
        "15169 |  | US | arin | 2023-12-28",
        "0 | 8.8.8.0/24 | US | arin | 2023-12-28",
        "4294967296 | 8.8.8.0/24 | US | arin | 2023-12-28",
        "15169 | 8.8.8.0/24 | US | arin",
        "15169 | 8.8.8.0/24 | US | arin | 2023-12-28 | GOOGLE",
        "",
    ] {
        let server = Dns::answering(move |_| texts(&[text]));
        let reply = ask(&server, &["8.8.8.8"]);
        assert!(reply.answers.is_empty(), "{text}: {reply:?}");
        assert_eq!(reply.anomalies.malformed, 1, "{text}");
        assert!(matches!(reply.failure, Some(Failure::Io(_))), "{text}: {:?}", reply.failure);
    }
}

#[test]
fn lost_datagrams_are_repeated() {
    let counts: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let server = Dns::new(move |_, question| {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(name_of(question)).or_default();
        *count += 1;
        if *count <= 2 { vec![] } else { vec![reply(question, known(&name_of(question)))] }
    });
    let reply = ask_with(&hurried(), &server, &["8.8.8.8", "1.2.3.4"]);
    assert_eq!((&reply.failure, reply.answers.len()), (&None, 2));
    assert_eq!(route(&reply, "8.8.8.8").name.as_deref(), Some("GOOGLE, US"));
    // The client sends four queries: two about addresses and two about names of networks. It sends each query three
    // times, or four times on a slow machine.
    assert!((12..=16).contains(&server.asked().len()));
}

#[test]
fn silence_is_given_up_after_four_sendings() {
    let server = Dns::new(|_, _| vec![]);
    let addresses: Vec<String> = (0..40).map(|last| format!("8.8.8.{last}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let timing = Timing { waits: [Duration::from_millis(50); 4], ..timing() };
    let reply = ask_with(&timing, &server, &addresses);
    assert_eq!((reply.failure, reply.spoke), (Some(Failure::Silent), false));
    let mut asked = server.asked();
    let all = asked.len();
    asked.sort_by(|a, b| a.1.cmp(&b.1));
    asked.dedup();
    // Only the sixteen in-flight queries were sent.
    assert_eq!((asked.len(), all), (16, 64));
}

#[test]
fn one_silent_name_does_not_hold_up_the_others() {
    let server = Dns::new(|_, question| match name_of(question).as_str() {
        GOOGLE => vec![],
        name => vec![reply(question, known(name))],
    });
    let reply = ask_with(&hurried(), &server, &["8.8.8.8", "1.2.3.4", "9.9.9.9"]);
    assert_eq!(reply.failure, None);
    assert_eq!(reply.answers.keys().collect::<Vec<_>>(), [&host("1.2.3.4"), &host("9.9.9.9")]);
}

#[test]
fn whole_time_ends_it() {
    let server = Dns::new(|_, question| match name_of(question).as_str() {
        CLOUDFLARE => vec![reply(question, known(CLOUDFLARE))],
        _ => vec![],
    });
    let timing = Timing { waits: [Duration::from_secs(600); 4], whole: Duration::from_secs(1), ..timing() };
    let reply = ask_with(&timing, &server, &["8.8.8.8", "1.2.3.4"]);
    assert_eq!(reply.failure, Some(Failure::TooSlow));
    assert_eq!(reply.answers.keys().collect::<Vec<_>>(), [&host("1.2.3.4")]);
    assert_eq!(ask_with(&timing, &server, &["8.8.8.8"]).failure, Some(Failure::Silent));
}

#[test]
fn truncated_answer_is_asked_for_over_tcp() {
    let server = Dns::new(|protocol, question| {
        let whole = reply(question, known(&name_of(question)));
        match protocol {
            Protocol::Tcp => vec![whole],
            Protocol::Udp => {
                let mut cut = whole;
                cut[2] |= 0b10;
                // Some servers truncate in the middle of a record.
                cut.truncate(cut.len() - 10);
                vec![cut]
            }
        }
    });
    let reply = ask(&server, &["8.8.8.8"]);
    assert_eq!((&reply.failure, reply.anomalies), (&None, Anomalies::default()));
    assert_eq!(route(&reply, "8.8.8.8").name.as_deref(), Some("GOOGLE, US"));
    let protocols: Vec<Protocol> = server.asked().into_iter().map(|(protocol, _)| protocol).collect();
    assert_eq!(protocols, [Protocol::Udp, Protocol::Tcp, Protocol::Udp, Protocol::Tcp]);
}

#[test]
fn message_over_tcp_is_bounded() {
    let server = Dns::new(|protocol, question| {
        let mut message = reply(question, known(&name_of(question)));
        match protocol {
            Protocol::Tcp => message.resize(LONGEST_MESSAGE + 1, 0),
            Protocol::Udp => message[2] |= 0b10,
        }
        vec![message]
    });
    let reply = ask(&server, &["8.8.8.8"]);
    assert!(reply.answers.is_empty() && reply.failure.is_some());
    assert_eq!(reply.anomalies.oversized, 1);
}

#[test]
fn forged_answers_are_ignored() {
    let forged = "64496 | 8.8.8.0/24 | XX | arin | 2023-12-28";
    let server = Dns::new(move |_, question| {
        let name = name_of(question);
        let mut other_id = question.clone();
        other_id.metadata.id ^= 1;
        let mut other_name = question.clone();
        other_name.queries[0].name = Name::from_ascii("8.8.8.9.origin.asn.cymru.com.").unwrap();
        let mut no_name = question.clone();
        no_name.queries.clear();
        let mut not_a_response = Message::from_vec(&reply(question, texts(&[forged]))).unwrap();
        not_a_response.metadata.message_type = MessageType::Query;
        let empty = response(&no_name).to_vec().unwrap();
        vec![
            reply(&other_id, texts(&[forged])),
            reply(&other_name, texts(&[forged])),
            not_a_response.to_vec().unwrap(),
            empty,
            b"garbage".to_vec(),
            vec![],
            reply(question, known(&name)),
            // A duplicate, as after a repeated query.
            reply(question, known(&name)),
        ]
    });
    let reply = ask(&server, &["8.8.8.8"]);
    assert_eq!((&reply.failure, route(&reply, "8.8.8.8").asn), (&None, 15169));
    assert!((6..=12).contains(&reply.anomalies.malformed), "{:?}", reply.anomalies);
}

#[test]
fn no_more_than_sixteen_are_in_flight() {
    let unanswered = AtomicUsize::new(0);
    let most = std::sync::Arc::new(AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&most);
    let held: Mutex<Vec<Message>> = Mutex::default();
    // Responds only when sixteen queries wait, or to the last ones.
    let server = Dns::new(move |_, question| {
        let mut held = held.lock().unwrap();
        held.push(question.clone());
        let now = held.len();
        seen.fetch_max(now, Ordering::Relaxed);
        let total = unanswered.fetch_add(1, Ordering::Relaxed) + 1;
        if now < 16 && total < 100 {
            return vec![];
        }
        let text = |question: &Message| if name_of(question) == OWN_NAME { own_network() } else { None };
        held.drain(..).map(|question| reply(&question, text(&question))).collect()
    });
    let addresses: Vec<String> = (0..100).map(|last| format!("8.8.8.{last}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let timing = Timing { waits: [Duration::from_secs(600); 4], ..timing() };
    let reply = ask_with(&timing, &server, &addresses);
    assert_eq!((reply.failure, reply.answers.len()), (None, 100));
    assert_eq!(most.load(Ordering::Relaxed), 16);
    // One more query is the one about Team Cymru's own network.
    assert_eq!(server.asked().len(), 101);
}

#[test]
fn closed_port_is_unreachable() {
    let closed = ClosedPort::new();
    let server = format!("127.0.0.1:{}", closed.port());
    let reply = run(Some(&server), &[host("8.8.8.8")], &timing(), &Cancel::new());
    let failure = reply.failure.unwrap();
    assert!(failure.is_unreachable(), "{failure:?}");
    assert!(!reply.spoke);
}

#[test]
fn nonsense_for_a_server_is_unreachable() {
    for server in ["", "[::1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:dns"] {
        let reply = run(Some(server), &[host("8.8.8.8")], &timing(), &Cancel::new());
        assert!(matches!(reply.failure, Some(Failure::Resolve(_))), "{server}: {reply:?}");
    }
}

#[test]
fn cancel_ends_it_and_keeps_what_came() {
    let cancel = Cancel::new();
    let other = cancel.clone();
    let server = Dns::new(move |_, question| match name_of(question).as_str() {
        GOOGLE => {
            other.set();
            vec![]
        }
        name => vec![reply(question, known(name))],
    });
    let timing = Timing {
        waits: [Duration::from_secs(600); 4],
        in_flight: 1,
        whole: Duration::from_secs(600),
        ..timing()
    };
    let begun = Instant::now();
    let reply = run(Some(&server.server()), &[host("1.2.3.4"), host("8.8.8.8")], &timing, &cancel);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(reply.failure, Some(Failure::Cancelled));
    assert_eq!(reply.answers.keys().collect::<Vec<_>>(), [&host("1.2.3.4")]);
}
