//! Answers, in tests: what would Team Cymru have said, or a server that misbehaves?
//!
//! Each server listens on a port of 127.0.0.1 that the kernel picks, follows its script, and records what it was asked;
//! tests assert on the record.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, Record};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A port on which nobody listens, neither for TCP nor for UDP. It is taken, so that no other test gets it.
pub(super) struct Nobody {
    port: u16,
    _taken: (TcpStream, UdpSocket),
}

impl Nobody {
    pub(super) fn new() -> Self {
        // Sockets that are connected elsewhere keep their number and take nothing from others.
        let listener = TcpListener::bind(LOOPBACK).unwrap();
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

/// One whois connection: the request is read up to `end`, then the script has the connection.
pub(super) struct Whois {
    pub(super) port: u16,
    thread: JoinHandle<Vec<String>>,
}

impl Whois {
    pub(super) fn new(script: impl FnOnce(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = Vec::new();
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                lines.push(line.unwrap());
                if lines.last().is_some_and(|line| line == "end") {
                    break;
                }
            }
            script(stream);
            lines
        });
        Self { port, thread }
    }

    pub(super) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::new(move |mut stream| stream.write_all(&answer).unwrap())
    }

    /// The lines of the request.
    pub(super) fn asked(self) -> Vec<String> {
        self.thread.join().unwrap()
    }
}

/// Sends nothing until the client goes away.
pub(super) fn wait_for_the_client_to_leave(mut stream: TcpStream) {
    let _ = stream.read(&mut [0]);
}

/// How a question arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Udp,
    Tcp,
}

/// A DNS server; the script turns a question into messages.
pub(super) struct Dns {
    port: u16,
    asked: Arc<Mutex<Vec<(Way, String)>>>,
    stop: Arc<AtomicBool>,
}

type Script = Arc<dyn Fn(Way, &Message) -> Vec<Vec<u8>> + Send + Sync>;

impl Dns {
    pub(super) fn new(script: impl Fn(Way, &Message) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind(LOOPBACK).unwrap();
            // The same number may be taken for UDP.
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, socket);
            }
        };
        let port = socket.local_addr().unwrap().port();
        let (asked, stop) = (Arc::default(), Arc::default());
        let server = Self { port, asked: Arc::clone(&asked), stop: Arc::clone(&stop) };
        let script: Script = Arc::new(script);
        thread::spawn({
            let (asked, stop, script) = (Arc::clone(&asked), Arc::clone(&stop), Arc::clone(&script));
            move || serve_datagrams(&socket, &script, &asked, &stop)
        });
        thread::spawn(move || serve_streams(&listener, &script, &asked, &stop));
        server
    }

    /// Answers each name with these texts; `None`: there is no such name.
    pub(super) fn answering(texts: impl Fn(&str) -> Option<Vec<Vec<u8>>> + Send + Sync + 'static) -> Self {
        Self::new(move |_, question| vec![reply(question, texts(&name_of(question)))])
    }

    /// As in the setting.
    pub(super) fn server(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Every question, as often as it came.
    pub(super) fn asked(&self) -> Vec<(Way, String)> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the threads up.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Ok(socket) = UdpSocket::bind(LOOPBACK) {
            let _ = socket.send_to(b"", (Ipv4Addr::LOCALHOST, self.port));
        }
    }
}

fn serve_datagrams(
    socket: &UdpSocket,
    script: &Script,
    asked: &Mutex<Vec<(Way, String)>>,
    stop: &AtomicBool,
) {
    let mut buffer = [0; 2048];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let question = Message::from_vec(&buffer[..count]).unwrap();
        asked.lock().unwrap().push((Way::Udp, name_of(&question)));
        for message in script(Way::Udp, &question) {
            // The client may be gone.
            let _ = socket.send_to(&message, from);
        }
    }
}

fn serve_streams(
    listener: &TcpListener,
    script: &Script,
    asked: &Mutex<Vec<(Way, String)>>,
    stop: &AtomicBool,
) {
    while let Ok((mut stream, _)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            continue;
        }
        let mut question = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut question).unwrap();
        let question = Message::from_vec(&question).unwrap();
        asked.lock().unwrap().push((Way::Tcp, name_of(&question)));
        for message in script(Way::Tcp, &question) {
            let length = (message.len() as u16).to_be_bytes();
            stream.write_all(&[&length[..], &message].concat()).unwrap();
        }
    }
}

pub(super) fn name_of(question: &Message) -> String {
    question.queries[0].name.to_ascii()
}

/// A response with these texts, each one record of strings of 100 bytes; `None`: NXDOMAIN.
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

/// An empty response to the question.
pub(super) fn response(question: &Message) -> Message {
    let mut message = question.clone();
    message.metadata.message_type = MessageType::Response;
    message
}
