//! Test servers that replace the servers of Team Cymru. A test gives the responses as bytes or as DNS messages.

use cowrie_enrich_upstreams::{Behaviour, DnsFault, Fault, Routes};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, Record};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

pub(super) use cowrie_enrich_upstreams::Transport as Protocol;

/// A port on which no program listens, neither for TCP nor for UDP. The port is reserved, so no other test uses it.
pub(super) struct ClosedPort {
    port: u16,
    _taken: (TcpStream, UdpSocket),
}

impl ClosedPort {
    pub(super) fn new() -> Self {
        // The sockets are connected, so they keep their port and accept no data from other peers.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        loop {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let local = stream.local_addr().unwrap();
            if let Ok(socket) = UdpSocket::bind(local) {
                socket.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
                return Self { port: local.port(), _taken: (stream, socket) };
            }
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

pub(super) struct Whois(cowrie_enrich_upstreams::Whois);

impl Whois {
    /// Starts a server that knows a route for every public address.
    pub(super) fn new(behaviour: impl Into<Behaviour>) -> Self {
        let server = cowrie_enrich_upstreams::Whois::start(Routes::synthetic());
        server.behave(behaviour);
        Self(server)
    }

    /// Starts a server that responds to every request with these bytes.
    pub(super) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::new(Fault::Custom(Arc::new(move |_| answer.clone())))
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port()
    }

    /// Returns the lines of the only request.
    pub(super) fn asked(&self) -> Vec<String> {
        match &self.0.record().connections[..] {
            [connection] => connection.lines.clone(),
            connections => panic!("{} connections", connections.len()),
        }
    }

    /// Waits until the server has read a request. If `with_answer` is set, also waits until the server has begun its
    /// response.
    pub(super) fn wait_for_request(&self, with_answer: bool) {
        let is_there = |connection: &cowrie_enrich_upstreams::Connection| {
            connection.end && (connection.answered.is_some() || !with_answer)
        };
        while !self.0.record().connections.iter().any(is_there) {
            std::thread::yield_now();
        }
    }
}

/// A DNS server. The script converts a query to messages.
pub(super) struct Dns(cowrie_enrich_upstreams::Dns);

impl Dns {
    pub(super) fn new(script: impl Fn(Protocol, &Message) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let server = cowrie_enrich_upstreams::Dns::start(Routes::empty());
        server.behave(DnsFault::Custom(Arc::new(move |protocol, query: &[u8]| {
            script(protocol, &Message::from_vec(query).unwrap())
        })));
        Self(server)
    }

    /// Starts a server that responds to a query for a name with the result of `texts`. `None` means that the name does
    /// not exist.
    pub(super) fn answering(texts: impl Fn(&str) -> Option<Vec<Vec<u8>>> + Send + Sync + 'static) -> Self {
        Self::new(move |_, question| vec![reply(question, texts(&name_of(question)))])
    }

    /// Returns the address in the form of the setting.
    pub(super) fn server(&self) -> String {
        format!("127.0.0.1:{}", self.0.port())
    }

    /// Returns all queries received, with their names in lower case.
    pub(super) fn asked(&self) -> Vec<(Protocol, String)> {
        self.0.record().into_iter().map(|query| (query.transport, format!("{}.", query.name))).collect()
    }
}

pub(super) fn name_of(question: &Message) -> String {
    question.queries[0].name.to_ascii()
}

/// Builds a response with one TXT record for each text. Each record is divided into strings of at most 100 bytes. If
/// `texts` is `None`, the response says NXDOMAIN.
pub(super) fn reply(question: &Message, texts: Option<Vec<Vec<u8>>>) -> Vec<u8> {
    let mut message = response(question);
    match texts {
        None => message.metadata.response_code = ResponseCode::NXDomain,
        Some(texts) => {
            for text in texts {
                let strings = if text.is_empty() { vec![&[][..]] } else { text.chunks(100).collect() };
                let data = RData::TXT(TXT::from_bytes(strings));
                message.add_answer(Record::from_rdata(question.queries[0].name.clone(), 60, data));
            }
        }
    }
    message.to_vec().unwrap()
}

/// Builds an empty response to the question.
pub(super) fn response(question: &Message) -> Message {
    let mut message = question.clone();
    message.metadata.message_type = MessageType::Response;
    message
}
