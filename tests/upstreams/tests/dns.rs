//! Tests of the DNS stand-in with messages that are written by hand.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cowrie_enrich_upstreams::{
    Dns, DnsBehaviour, DnsFault, DnsQuestion, FOREIGN_ASN, Routes, Transport, synthetic_asn, synthetic_name,
};

const GOOGLE: &str = "8.8.8.8.origin.asn.cymru.com";
const GOOGLE_TEXT: &str = "15169 | 8.8.8.0/24 | US | arin | 2023-12-28";
const ID: [u8; 2] = [0x12, 0x34];

fn routes() -> Routes {
    let mut routes = Routes::empty();
    routes.add("8.8.8.0/24", 15169, "US", "arin", "2023-12-28", "GOOGLE, US");
    routes.add("2001:4860::/32", 15169, "US", "arin", "2005-03-14", "GOOGLE, US");
    routes.add("9.0.0.0/8", 7, "GB", "ripencc", "", "SEVEN, GB");
    routes.add("9.0.0.0/8", 9, "GB", "ripencc", "", "NINE, GB");
    routes
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = [&ID[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// The error code, the TC bit, and the strings of each record.
#[derive(Debug, PartialEq)]
struct Answer {
    code: u8,
    truncated: bool,
    records: Vec<Vec<String>>,
}

fn texts(records: &[&str]) -> Answer {
    let records = records.iter().map(|text| vec![(*text).to_owned()]).collect();
    Answer { code: 0, truncated: false, records }
}

fn failure(code: u8) -> Answer {
    Answer { code, ..texts(&[]) }
}

fn read(message: &[u8], question: &[u8]) -> Answer {
    assert_eq!(message[..2], ID);
    assert_eq!(message[12..question.len()], question[12..], "the question is repeated");
    let mut rest = &message[question.len()..];
    let mut records = Vec::new();
    for _ in 0..message[7] {
        assert_eq!(rest[..6], [0xc0, 12, 0, 16, 0, 1]);
        let length = usize::from(u16::from_be_bytes([rest[10], rest[11]]));
        let mut data = &rest[12..12 + length];
        let mut strings = Vec::new();
        while let [size, more @ ..] = data {
            let (string, after) = more.split_at(usize::from(*size));
            strings.push(String::from_utf8(string.to_vec()).unwrap());
            data = after;
        }
        records.push(strings);
        rest = &rest[12 + length..];
    }
    assert_eq!(rest, b"");
    Answer { code: message[3] & 15, truncated: message[2] & 2 != 0, records }
}

fn client(dns: &Dns) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, dns.port())).unwrap();
    socket
}

fn datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    bytes[..length].to_vec()
}

fn ask(dns: &Dns, name: &str) -> Answer {
    let socket = client(dns);
    let question = query(name, 16);
    socket.send(&question).unwrap();
    read(&datagram(&socket), &question)
}

fn ask_by_tcp(dns: &Dns, name: &str) -> Answer {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, dns.port())).unwrap();
    let question = query(name, 16);
    stream.write_all(&[&(question.len() as u16).to_be_bytes(), &question[..]].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    read(&message, &question)
}

const GOOGLE_V6: &str =
    "8.8.8.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.8.4.0.6.8.4.1.0.0.2.origin6.asn.cymru.com";

#[test]
fn names_are_reversed_addresses_and_numbers() {
    let dns = Dns::start(routes());
    assert_eq!(ask(&dns, GOOGLE), texts(&[GOOGLE_TEXT]));
    assert_eq!(ask(&dns, &GOOGLE.to_uppercase()), texts(&[GOOGLE_TEXT]));
    let v6 = "15169 | 2001:4860::/32 | US | arin | 2005-03-14";
    assert_eq!(ask(&dns, GOOGLE_V6), texts(&[v6]));
    assert_eq!(ask(&dns, &GOOGLE_V6["8.8.8.8.0.0.0.0.".len()..]), texts(&[v6]));
    assert_eq!(ask(&dns, "AS15169.asn.cymru.com"), texts(&["15169 | US | arin | 2023-12-28 | GOOGLE, US"]));
    assert_eq!(ask(&dns, "1.0.0.9.origin.asn.cymru.com"), texts(&["7 9 | 9.0.0.0/8 | GB | ripencc | "]));
    for nothing in [
        "8.8.8.11.origin.asn.cymru.com",
        "8.8.8.origin.asn.cymru.com",
        "8.8.8.8.origin6.asn.cymru.com",
        "8.8.8.8.origin.asn.cymru.com.example.org",
        "as1.asn.cymru.com",
    ] {
        assert_eq!(ask(&dns, nothing), failure(3), "{nothing}");
    }
    let socket = client(&dns);
    let question = query(GOOGLE, 1);
    socket.send(&question).unwrap();
    assert_eq!(read(&datagram(&socket), &question), texts(&[]));
}

#[test]
fn synthetic_networks_have_names() {
    let dns = Dns::start(Routes::synthetic());
    let asn = synthetic_asn("11.22.33.44".parse().unwrap());
    let text = &ask(&dns, "44.33.22.11.origin.asn.cymru.com").records[0][0];
    assert!(text.starts_with(&format!("{asn} | 11.22.33.0/24 | ")), "{text}");
    let text = &ask(&dns, &format!("AS{asn}.asn.cymru.com")).records[0][0];
    assert!(text.ends_with(&synthetic_name(asn)), "{text}");
}

#[test]
fn the_record_tells_names_and_transports() {
    let dns = Dns::start(routes());
    dns.behave(DnsFault::Truncate);
    assert_eq!(ask(&dns, "AS15169.asn.cymru.com"), Answer { truncated: true, ..texts(&[]) });
    assert_eq!(ask_by_tcp(&dns, GOOGLE), texts(&[GOOGLE_TEXT]));
    let record: Vec<DnsQuestion> = dns.record();
    let seen: Vec<_> =
        record.iter().map(|question| (question.name.as_str(), question.kind, question.transport)).collect();
    assert_eq!(seen, [("as15169.asn.cymru.com", 16, Transport::Udp), (GOOGLE, 16, Transport::Tcp)]);
    dns.forget();
    assert!(dns.record().is_empty());
}

#[test]
fn answers_can_fail() {
    let dns = Dns::start(routes());
    dns.behave(DnsFault::ServFail);
    assert_eq!(ask(&dns, GOOGLE), failure(2));
    dns.behave(DnsFault::NxDomain);
    assert_eq!(ask(&dns, GOOGLE), failure(3));
    dns.behave(DnsFault::Custom(Arc::new(|_, message: &[u8]| vec![message.to_vec()])));
    let socket = client(&dns);
    socket.send(&query(GOOGLE, 16)).unwrap();
    assert_eq!(datagram(&socket), query(GOOGLE, 16));
}

#[test]
fn answers_can_be_lost() {
    let dns = Dns::start(routes());
    dns.behave(DnsFault::LoseFirst(2));
    let socket = client(&dns);
    for name in ["as1.asn.cymru.com", "as2.asn.cymru.com", GOOGLE] {
        socket.send(&query(name, 16)).unwrap();
    }
    assert_eq!(read(&datagram(&socket), &query(GOOGLE, 16)), texts(&[GOOGLE_TEXT]));
    assert_eq!(dns.record().len(), 3);
    dns.behave(DnsFault::Silent);
    socket.send(&query("as15169.asn.cymru.com", 16)).unwrap();
    while dns.record().len() < 4 {
        std::thread::yield_now();
    }
    dns.behave(DnsBehaviour::normal());
    socket.send(&query(GOOGLE, 16)).unwrap();
    assert_eq!(read(&datagram(&socket), &query(GOOGLE, 16)), texts(&[GOOGLE_TEXT]));
}

#[test]
fn answers_can_be_many() {
    let dns = Dns::start(routes());
    dns.behave(DnsFault::MultiString);
    let answer = ask(&dns, GOOGLE);
    assert_eq!(answer.records[0].len(), GOOGLE_TEXT.len().div_ceil(7));
    assert_eq!(answer.records[0].concat(), GOOGLE_TEXT);
    dns.behave(DnsFault::SeveralRecords);
    let wider = "15168 | 8.0.0.0/8 | US | arin | 2023-12-28";
    assert_eq!(ask(&dns, GOOGLE), texts(&[wider, GOOGLE_TEXT]));
    assert_eq!(ask(&dns, "1.0.0.9.origin.asn.cymru.com").records.len(), 3);
}

#[test]
fn wrong_answers_can_come_before_the_right_one() {
    let dns = Dns::start(routes());
    dns.behave(DnsFault::WrongFirst);
    let socket = client(&dns);
    let question = query(GOOGLE, 16);
    socket.send(&question).unwrap();
    let [other_id, other_question, right] = [(); 3].map(|()| datagram(&socket));
    let foreign = FOREIGN_ASN.to_string();
    let mentions = |message: &[u8]| message.windows(foreign.len()).any(|bytes| bytes == foreign.as_bytes());
    assert!(other_id[..2] != ID && other_id[12..question.len()] == question[12..] && mentions(&other_id));
    assert!(other_question[..2] == ID && other_question[13] == b'9' && mentions(&other_question));
    assert_eq!(read(&right, &question), texts(&[GOOGLE_TEXT]));
}

#[test]
fn delayed_answers_are_delayed_side_by_side() {
    let dns = Dns::start(routes());
    let delay = Duration::from_millis(50);
    dns.behave(DnsBehaviour::normal().delayed(delay));
    let started = Instant::now();
    let socket = client(&dns);
    for _ in 0..100 {
        socket.send(&query(GOOGLE, 16)).unwrap();
    }
    for _ in 0..100 {
        assert_eq!(read(&datagram(&socket), &query(GOOGLE, 16)), texts(&[GOOGLE_TEXT]));
    }
    assert!(started.elapsed() >= delay);
    assert!(started.elapsed() < 50 * delay);
}

#[test]
fn a_stopped_server_is_unreachable() {
    let dns = Dns::start(routes());
    let socket = client(&dns);
    dns.stop();
    socket.send(&query(GOOGLE, 16)).unwrap();
    assert!(socket.recv(&mut [0; 10]).is_err());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, dns.port())).is_err());
}

#[test]
fn the_tcp_port_can_be_left_to_the_whois() {
    let whois = cowrie_enrich_upstreams::Whois::start(routes());
    let address = (Ipv4Addr::LOCALHOST, whois.port()).into();
    assert!(Dns::start_on(address, routes()).is_err());
    let dns = Dns::start_without_tcp_on(address, routes()).unwrap();
    assert_eq!(dns.port(), whois.port());
    assert_eq!(ask(&dns, GOOGLE), texts(&[GOOGLE_TEXT]));
}
