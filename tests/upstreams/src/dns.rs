//! The routes as TXT records, by UDP and TCP on one port:
//!
//! ```text
//! 8.8.8.8.origin.asn.cymru.com        "15169 | 8.8.8.0/24 | US | arin | 2023-12-28"
//! 8.8.8.8.….0.6.8.4.1.0.0.2.origin6.asn.cymru.com     the nibbles of an IPv6 address, reversed
//! AS15169.asn.cymru.com               "15169 | US | arin | 2023-12-28 | GOOGLE, US"
//! ```
//!
//! If a prefix has several origins, the first field has several numbers. Leading nibbles of the name, which are the
//! last ones of an IPv6 address, may be left out. A name without a route does not exist (NXDOMAIN). The name of Team Cymru's own
//! network, AS23028, always exists.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::behaviour::{FOREIGN_ASN, wider};
use crate::listener::Listener;
use crate::locked;
use crate::routes::Routes;

const OWN_NETWORK: &str = "as23028.asn.cymru.com";

#[derive(Clone)]
pub struct DnsBehaviour {
    /// Delay of each answer. Answers to several questions are delayed concurrently.
    pub delay: Duration,
    pub fault: Option<DnsFault>,
}

impl DnsBehaviour {
    pub fn normal() -> DnsBehaviour {
        DnsBehaviour { delay: Duration::ZERO, fault: None }
    }

    #[must_use]
    pub fn delayed(self, delay: Duration) -> DnsBehaviour {
        DnsBehaviour { delay, ..self }
    }
}

impl From<DnsFault> for DnsBehaviour {
    fn from(fault: DnsFault) -> DnsBehaviour {
        DnsBehaviour { fault: Some(fault), ..DnsBehaviour::normal() }
    }
}

#[derive(Clone)]
pub enum DnsFault {
    /// Nothing is answered; a TCP connection stays open.
    Silent,
    /// The first n datagrams after `behave` are not answered.
    LoseFirst(usize),
    /// By UDP an empty answer with the TC bit, by TCP the whole answer.
    Truncate,
    /// NXDOMAIN for every name but that of Team Cymru's own network.
    NxDomain,
    /// NXDOMAIN for every name, as from a filter or a server without a connection to the internet.
    DenyAll,
    ServFail,
    /// Character strings of seven bytes instead of 255.
    MultiString,
    /// One record for each origin, and before them a record of a wider prefix with an unrelated AS number.
    SeveralRecords,
    /// By UDP, before the right answer: one with another id, and one to another question; both of `FOREIGN_ASN`.
    WrongFirst,
    /// Messages sent instead of the answer, as a function of the transport and the received message.
    Custom(Arc<CustomMessages>),
}

pub type CustomMessages = dyn Fn(Transport, &[u8]) -> Vec<Vec<u8>> + Send + Sync;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    Tcp,
}

#[derive(Clone, Debug)]
pub struct DnsQuestion {
    /// In lower case, without the final dot.
    pub name: String,
    /// 16 is TXT.
    pub kind: u16,
    pub transport: Transport,
    pub at: Instant,
}

pub struct Dns {
    address: SocketAddr,
    shared: Arc<Shared>,
    sockets: Mutex<Option<Sockets>>,
}

struct Shared {
    routes: Routes,
    behaviour: Mutex<(DnsBehaviour, usize)>,
    record: Mutex<Vec<DnsQuestion>>,
    streams: Mutex<Vec<TcpStream>>,
}

impl Dns {
    /// Listens on 127.0.0.1, on a port that is free for both transports.
    pub fn start(routes: Routes) -> Dns {
        Dns::start_on((Ipv4Addr::LOCALHOST, 0).into(), routes).expect("a free port of 127.0.0.1 can be had")
    }

    pub fn start_on(address: SocketAddr, routes: Routes) -> io::Result<Dns> {
        Dns::open(address, routes, true)
    }

    /// Leaves the TCP port of this number to another server.
    pub fn start_without_tcp_on(address: SocketAddr, routes: Routes) -> io::Result<Dns> {
        Dns::open(address, routes, false)
    }

    fn open(address: SocketAddr, routes: Routes, with_tcp: bool) -> io::Result<Dns> {
        let shared = Arc::new(Shared {
            routes,
            behaviour: Mutex::new((DnsBehaviour::normal(), 0)),
            record: Mutex::default(),
            streams: Mutex::default(),
        });
        let mut attempts = 0;
        loop {
            match Sockets::open(address, &shared, with_tcp) {
                Ok(sockets) => {
                    return Ok(Dns { address: sockets.address, shared, sockets: Mutex::new(Some(sockets)) });
                }
                // The port that is free for one transport is in use for the other.
                Err(_) if address.port() == 0 && attempts < 20 => attempts += 1,
                Err(problem) => return Err(problem),
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sets the behaviour for all later questions.
    pub fn behave(&self, behaviour: impl Into<DnsBehaviour>) {
        *locked(&self.shared.behaviour) = (behaviour.into(), 0);
    }

    /// Returns the questions in the order in which they arrived.
    pub fn record(&self) -> Vec<DnsQuestion> {
        locked(&self.shared.record).clone()
    }

    pub fn forget(&self) {
        locked(&self.shared.record).clear();
    }

    /// Closes all sockets. The kernel then rejects datagrams as unreachable.
    pub fn stop(&self) {
        drop(locked(&self.sockets).take());
        for stream in locked(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Sockets {
    address: SocketAddr,
    udp: Arc<UdpSocket>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _tcp: Option<Listener>,
}

impl Sockets {
    fn open(address: SocketAddr, shared: &Arc<Shared>, with_tcp: bool) -> io::Result<Sockets> {
        let udp = Arc::new(UdpSocket::bind(address)?);
        let address = udp.local_addr()?;
        let tcp = if with_tcp {
            let shared = Arc::clone(shared);
            Some(Listener::open(address, move |stream| {
                let Ok(handle) = stream.try_clone() else { return };
                locked(&shared.streams).push(handle);
                let shared = Arc::clone(&shared);
                // An error ends the connection.
                std::thread::spawn(move || drop(serve_stream(&shared, stream)));
            })?)
        } else {
            None
        };
        let closing = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (udp, shared, closing) = (Arc::clone(&udp), Arc::clone(shared), Arc::clone(&closing));
            move || serve_datagrams(&shared, &udp, &closing)
        });
        Ok(Sockets { address, udp, closing, thread: Some(thread), _tcp: tcp })
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the thread, which waits for a datagram.
        let _ = self.udp.send_to(&[], self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve_datagrams(shared: &Arc<Shared>, udp: &Arc<UdpSocket>, closing: &AtomicBool) {
    let mut bytes = [0; 4096];
    while !closing.load(Ordering::SeqCst) {
        // The system reports here that an earlier client is unreachable. The server continues.
        let Ok((length, client)) = udp.recv_from(&mut bytes) else { continue };
        let message = bytes[..length].to_vec();
        let Some(answers) = shared.heard(&message, Transport::Udp) else { continue };
        let udp = Arc::clone(udp);
        answers.in_time(move |message| {
            let _ = udp.send_to(message, client);
            Ok(())
        });
    }
}

fn serve_stream(shared: &Arc<Shared>, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message)?;
        let Some(answers) = shared.heard(&message, Transport::Tcp) else { continue };
        let mut stream = stream.try_clone()?;
        answers.in_time(move |message| {
            // One write: a client that reads once must not find the length alone.
            stream.write_all(&[&(message.len() as u16).to_be_bytes(), message].concat())
        });
    }
}

struct Answers {
    delay: Duration,
    messages: Vec<Vec<u8>>,
}

impl Answers {
    fn in_time(self, mut send: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static) {
        let mut all = move |messages: &[Vec<u8>]| {
            for message in messages {
                let _ = send(message);
            }
        };
        if self.delay.is_zero() {
            all(&self.messages);
        } else {
            std::thread::spawn(move || {
                std::thread::sleep(self.delay);
                all(&self.messages);
            });
        }
    }
}

impl Shared {
    /// Records the question and returns the answers, if it gets any.
    fn heard(&self, message: &[u8], transport: Transport) -> Option<Answers> {
        let question = Question::parse(message)?;
        locked(&self.record).push(DnsQuestion {
            name: question.name.clone(),
            kind: question.kind,
            transport,
            at: Instant::now(),
        });
        let (behaviour, nth) = {
            let mut current = locked(&self.behaviour);
            if transport == Transport::Udp {
                current.1 += 1;
            }
            current.clone()
        };
        let udp = transport == Transport::Udp;
        let string = if let Some(DnsFault::MultiString) = behaviour.fault { 7 } else { 255 };
        let right = || {
            let texts = self.texts(&question.name, matches!(behaviour.fault, Some(DnsFault::SeveralRecords)));
            match texts {
                None => question.answer(NXDOMAIN, &[], string),
                Some(_) if question.kind != TXT => question.answer(0, &[], string),
                Some(texts) => question.answer(0, &texts, string),
            }
        };
        let messages = match &behaviour.fault {
            Some(DnsFault::Silent) => return None,
            Some(DnsFault::LoseFirst(lost)) if udp && nth <= *lost => return None,
            Some(DnsFault::Truncate) if udp => vec![question.answer(TRUNCATED, &[], string)],
            Some(DnsFault::NxDomain) if question.name != OWN_NETWORK => {
                vec![question.answer(NXDOMAIN, &[], string)]
            }
            Some(DnsFault::DenyAll) => vec![question.answer(NXDOMAIN, &[], string)],
            Some(DnsFault::ServFail) => vec![question.answer(SERVFAIL, &[], string)],
            Some(DnsFault::WrongFirst) if udp => {
                let foreign = [format!("{FOREIGN_ASN} | 4.0.0.0/9 | US | arin | 1992-12-01")];
                let mut other_id = question.answer(0, &foreign, string);
                other_id[1] ^= 1;
                let mut other_question = question.answer(0, &foreign, string);
                // Changes the first letter of the first label, for example "0" to "1".
                other_question[HEADER + 1] ^= 1;
                vec![other_id, other_question, right()]
            }
            Some(DnsFault::Custom(answer)) => answer(transport, message),
            _ => vec![right()],
        };
        Some(Answers { delay: behaviour.delay, messages })
    }

    /// Returns the records of a name; `None` if the name does not exist.
    fn texts(&self, name: &str, several: bool) -> Option<Vec<String>> {
        if name == OWN_NETWORK {
            return Some(vec!["23028 | US | arin | 2002-01-04 | TEAM-CYMRU, US".to_owned()]);
        }
        let zone = name.strip_suffix(".asn.cymru.com")?;
        if let Some(digits) = zone.strip_prefix("as") {
            let route = self.routes.by_asn(digits.parse().ok()?)?;
            return Some(vec![format!(
                "{} | {} | {} | {} | {}",
                route.asn, route.country, route.registry, route.allocated, route.name
            )]);
        }
        let address = if let Some(octets) = zone.strip_suffix(".origin") {
            octets_reversed(octets)?
        } else {
            nibbles_reversed(zone.strip_suffix(".origin6")?)?
        };
        let routes = self.routes.of(address);
        let first = routes.first()?;
        let text = |numbers: &str, prefix: &str| {
            format!("{numbers} | {prefix} | {} | {} | {}", first.country, first.registry, first.allocated)
        };
        if several {
            let mut texts = vec![text(&(first.asn - 1).to_string(), &wider(address))];
            texts.extend(routes.iter().map(|route| text(&route.asn.to_string(), &route.prefix)));
            Some(texts)
        } else {
            let numbers: Vec<String> = routes.iter().map(|route| route.asn.to_string()).collect();
            Some(vec![text(&numbers.join(" "), &first.prefix)])
        }
    }
}

fn octets_reversed(text: &str) -> Option<IpAddr> {
    let octets: Vec<u8> = text.split('.').map(|label| label.parse().ok()).collect::<Option<_>>()?;
    let [d, c, b, a] = octets[..] else { return None };
    Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
}

fn nibbles_reversed(text: &str) -> Option<IpAddr> {
    let mut bits = 0_u128;
    let mut nibbles = 0;
    for label in text.rsplit('.') {
        let [digit] = label.as_bytes() else { return None };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
        nibbles += 1;
    }
    // With more than 32 nibbles, the first ones were shifted out.
    let rest = 32_u32.checked_sub(nibbles)?;
    Some(IpAddr::V6(Ipv6Addr::from(bits << (4 * rest))))
}

const HEADER: usize = 12;
const TXT: u16 = 16;
/// Bits of the header's second 16 bits, added to "an answer, recursion desired and available".
const TRUNCATED: u16 = 0x0200;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;

/// RFC 1035, section 4.1: id, flags, four counts; then the name as labels with their lengths, the type and the class.
struct Question {
    id: [u8; 2],
    name: String,
    kind: u16,
    /// As it was sent. The answer repeats it.
    bytes: Vec<u8>,
}

impl Question {
    fn parse(message: &[u8]) -> Option<Question> {
        let id = [*message.first()?, *message.get(1)?];
        let mut at = HEADER;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            if length > 63 {
                return None;
            }
            labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
        let bytes = message.get(HEADER..at + 4)?.to_vec();
        Some(Question { id, name: labels.join("."), kind, bytes })
    }

    fn answer(&self, flags: u16, texts: &[String], string: usize) -> Vec<u8> {
        let mut message = self.id.to_vec();
        for number in [0x8180 | flags, 1, texts.len() as u16, 0, 0] {
            message.extend(number.to_be_bytes());
        }
        message.extend(&self.bytes);
        for text in texts {
            let data: Vec<u8> = text
                .as_bytes()
                .chunks(string)
                .flat_map(|chunk| [&[chunk.len() as u8], chunk].concat())
                .collect();
            // The name is a pointer to the question's name. Then follow the type, the class IN and a TTL of four hours.
            message.extend([0xc0, HEADER as u8, 0, TXT as u8, 0, 1, 0, 0, 0x38, 0x40]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(data);
        }
        message
    }
}
