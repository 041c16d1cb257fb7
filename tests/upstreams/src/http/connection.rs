//! One connection: its requests, one after the other, and the answer to each.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::behaviour::{CannedAnswer, HttpBehaviour, HttpFault};
use super::record::{Entry, HttpRequest};
use super::services::Service;
use super::wire::{self, Head};
use super::{GLANCE, Open, Shared};
use crate::behaviour::noise;
use crate::json::{Json, object};
use crate::locked;

/// The date in SPUR's answers.
const RESULT_DATE: &str = "20250508";

/// Large bodies are sent in pieces of this size, so that no body is ever in memory as a whole.
const PIECE: usize = 65_536;

pub fn serve(stream: TcpStream, shared: &Shared, open: &Open) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut connection = Connection { stream, shared, open, unread: Vec::new(), left: false };
    while let Some((head, entry)) = connection.next_request()? {
        let answered = connection.respond(&head, &entry);
        if answered.is_err() {
            shared.record.abandoned(&entry);
        }
        shared.record.end(&entry);
        if let AfterAnswer::Close = answered? {
            break;
        }
    }
    connection.stream.shutdown(Shutdown::Write)?;
    // Closing a socket with unread bytes would reset the connection, and the client would lose the answer.
    connection.hear_out()
}

/// Says if the connection is kept after an answer.
enum AfterAnswer {
    Keep,
    Close,
}

struct Connection<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    open: &'a Open,
    /// Received bytes that belong to no request yet.
    unread: Vec<u8>,
    /// True if the client's end was seen.
    left: bool,
}

/// How the client learns where a body ends.
#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Length,
    Chunks,
    Close,
}

impl Connection<'_> {
    /// Waits for a head. Returns `None` if the client has left or does not speak HTTP.
    fn next_request(&mut self) -> io::Result<Option<(Head, Entry)>> {
        let end = loop {
            if let Some(end) = wire::head_end(&self.unread) {
                break end;
            }
            if self.left || self.unread.len() > wire::LONGEST_HEAD {
                return Ok(None);
            }
            self.read(None)?;
        };
        let at = Instant::now();
        let Some(head) = Head::parse(&self.unread[..end]) else { return Ok(None) };
        self.unread.drain(..end);
        let ip = self.shared.service.question(&head.path).and_then(|question| question.parse().ok());
        let request = HttpRequest {
            at,
            ended: None,
            left: None,
            ip,
            method: head.method.clone(),
            path: head.path.clone(),
            headers: head.headers.clone(),
            connection: self.open.number,
            status: None,
        };
        let entry = self.shared.record.begin(request);
        Ok(Some((head, entry)))
    }

    fn respond(&mut self, head: &Head, entry: &Entry) -> io::Result<AfterAnswer> {
        while self.unread.len() < head.body {
            self.read_more()?;
        }
        self.unread.drain(..head.body);
        let request = locked(entry).clone();
        let mut behaviour = self.decide(request.ip)?;
        if !head.keep_alive {
            behaviour.close = true;
        }
        if let Some(HttpFault::Silent) = behaviour.fault {
            return self.wait_for_the_end();
        }
        self.wait(behaviour.delay)?;
        self.answer(&behaviour, &request, entry)
    }

    /// Returns the behaviour for a request. If that is `Held`, waits until another one is set.
    fn decide(&mut self, ip: Option<IpAddr>) -> io::Result<HttpBehaviour> {
        let now = |connection: &Self| {
            let script = locked(&connection.shared.script);
            (script.of(ip), script.version)
        };
        let (mut behaviour, mut version) = now(self);
        while let Some(HttpFault::Held) = behaviour.fault {
            while locked(&self.shared.script).version == version {
                self.wait(GLANCE)?;
            }
            (behaviour, version) = now(self);
        }
        Ok(behaviour)
    }

    fn answer(
        &mut self,
        behaviour: &HttpBehaviour,
        request: &HttpRequest,
        entry: &Entry,
    ) -> io::Result<AfterAnswer> {
        match &behaviour.fault {
            Some(HttpFault::Garbage(bytes)) => {
                self.last(&noise(*bytes), entry)?;
                return Ok(AfterAnswer::Close);
            }
            Some(HttpFault::Huge { bytes }) => return self.huge(behaviour, request, *bytes, entry),
            Some(HttpFault::GzipBomb { bytes }) => return self.bomb(behaviour, request, *bytes, entry),
            _ => {}
        }
        let mut canned = self.canned(behaviour, request);
        for (name, value) in &behaviour.headers {
            wire::set(&mut canned.headers, name, value);
        }
        if behaviour.gzip && !canned.body.is_empty() {
            canned.body = gzip(&canned.body)?;
            wire::set(&mut canned.headers, "content-encoding", "gzip");
        }
        let CannedAnswer { status, mut headers, body } = canned;
        if behaviour.close {
            wire::set(&mut headers, "connection", "close");
        }
        let has_framing = ["content-length", "transfer-encoding"]
            .iter()
            .any(|name| wire::value_of(&headers, name).is_some());
        let chunks = behaviour.chunked && !has_framing;
        if chunks {
            wire::set(&mut headers, "transfer-encoding", "chunked");
        } else if !has_framing {
            wire::set(&mut headers, "content-length", body.len().to_string());
        }
        let says_close = wire::value_of(&headers, "connection") == Some("close");
        let head = wire::head(status, &headers);
        // Half of a chunked body is the beginning of a chunk whose end is missing.
        let body = match (chunks, body.is_empty()) {
            (false, _) => body,
            (true, true) => wire::LAST_CHUNK.to_vec(),
            (true, false) => [&wire::chunk(&body), wire::LAST_CHUNK].concat(),
        };
        locked(entry).status = Some(status);
        match behaviour.fault {
            Some(HttpFault::Hang) => {
                self.send(&head)?;
                return self.wait_for_the_end();
            }
            Some(HttpFault::CutBody) => {
                self.last(&[&head, &body[..body.len() / 2]].concat(), entry)?;
                return Ok(AfterAnswer::Close);
            }
            Some(HttpFault::Drip { every }) => {
                let bytes = [head, body].concat();
                let Some((last, first)) = bytes.split_last() else { return Ok(AfterAnswer::Close) };
                for byte in first {
                    self.send(&[*byte])?;
                    self.wait(every)?;
                }
                self.last(&[*last], entry)?;
            }
            _ => self.last(&[head, body].concat(), entry)?,
        }
        Ok(if says_close { AfterAnswer::Close } else { AfterAnswer::Keep })
    }

    /// Returns an answer that is small enough to be built before it is sent.
    fn canned(&self, behaviour: &HttpBehaviour, request: &HttpRequest) -> CannedAnswer {
        let service = self.shared.service;
        let json = |status: u16, body: &Json| CannedAnswer {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into_bytes(),
        };
        let mut canned = match &behaviour.fault {
            Some(HttpFault::Custom(answer)) => answer(request),
            Some(HttpFault::Status { code, retry_after }) => {
                let mut canned = json(*code, &service.message(*code));
                if let Some(moment) = retry_after {
                    wire::set(&mut canned.headers, "retry-after", moment.as_str());
                }
                canned
            }
            Some(HttpFault::NotJson) => {
                let mut canned = json(200, &Json::Null);
                canned.body = b"{\"ip\": \"all is well\", noise}".to_vec();
                canned
            }
            Some(HttpFault::Html404) => CannedAnswer {
                status: 404,
                headers: vec![("content-type".to_owned(), "text/html; charset=utf-8".to_owned())],
                body: b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\
                        <body><h1>Not Found</h1></body></html>\n"
                    .to_vec(),
            },
            Some(HttpFault::Redirect { to }) => CannedAnswer {
                status: 302,
                headers: vec![("location".to_owned(), to.clone())],
                body: Vec::new(),
            },
            Some(HttpFault::Echo) => {
                let values: Vec<&str> = request.headers.iter().map(|(_, value)| value.as_str()).collect();
                json(403, &object([("message", format!("not allowed: {}", values.join(" ")).into())]))
            }
            Some(HttpFault::EmptyBody) => {
                let mut canned = json(200, &Json::Null);
                canned.body.clear();
                canned
            }
            _ if request.method != "GET" => json(405, &service.message(405)),
            _ if !self.has_what_is_required(request) => json(401, &service.message(401)),
            _ if service == Service::Dshield && !asks_for_json(&request.path) => CannedAnswer {
                status: 200,
                headers: vec![("content-type".to_owned(), "text/xml".to_owned())],
                body: b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ip></ip>\n".to_vec(),
            },
            fault => {
                let other = matches!(fault, Some(HttpFault::OtherAddress));
                let named = |address| if other { neighbour(address) } else { address };
                let (status, body) = service.answer(&self.shared.hosts, &request.path, named);
                let spoil = matches!(fault, Some(HttpFault::WrongTypes));
                json(status, &if spoil { body.mistyped(&["ip", "number"]) } else { body })
            }
        };
        if service == Service::Spur {
            let one_less = |balance: u64| Some(balance.saturating_sub(1));
            let before = self.shared.balance.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
            let left = before.unwrap_or(0).saturating_sub(1);
            canned.headers.push(("x-balance-remaining".to_owned(), left.to_string()));
            canned.headers.push(("x-result-dt".to_owned(), RESULT_DATE.to_owned()));
        }
        canned
    }

    fn has_what_is_required(&self, request: &HttpRequest) -> bool {
        let required = locked(&self.shared.required).clone();
        required.iter().all(|(name, value)| request.header(name) == Some(value))
    }

    fn huge(
        &mut self,
        behaviour: &HttpBehaviour,
        request: &HttpRequest,
        bytes: u64,
        entry: &Entry,
    ) -> io::Result<AfterAnswer> {
        let framing = match (behaviour.chunked, behaviour.close) {
            (true, _) => Framing::Chunks,
            (false, true) => Framing::Close,
            (false, false) => Framing::Length,
        };
        let text = LongText::new(request.ip, bytes);
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        match framing {
            Framing::Length => headers.push(("content-length".to_owned(), text.length().to_string())),
            Framing::Chunks => headers.push(("transfer-encoding".to_owned(), "chunked".to_owned())),
            Framing::Close => {}
        }
        self.begin(headers, behaviour, entry)?;
        let mut pieces = BodyWriter { connection: self, framing };
        text.write_to(&mut pieces)?;
        match framing {
            Framing::Chunks => self.last(&[&wire::chunk(LongText::END), wire::LAST_CHUNK].concat(), entry)?,
            Framing::Length | Framing::Close => self.last(LongText::END, entry)?,
        }
        Ok(if behaviour.close { AfterAnswer::Close } else { AfterAnswer::Keep })
    }

    fn bomb(
        &mut self,
        behaviour: &HttpBehaviour,
        request: &HttpRequest,
        bytes: u64,
        entry: &Entry,
    ) -> io::Result<AfterAnswer> {
        let framing = if behaviour.chunked { Framing::Chunks } else { Framing::Close };
        let mut headers = vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("content-encoding".to_owned(), "gzip".to_owned()),
        ];
        if framing == Framing::Chunks {
            headers.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
        }
        let close = behaviour.close || framing == Framing::Close;
        let shared = self.shared;
        self.begin(headers, &HttpBehaviour { close, ..behaviour.clone() }, entry)?;
        let mut encoder = GzEncoder::new(BodyWriter { connection: self, framing }, Compression::best());
        LongText::new(request.ip, bytes).write_to(&mut encoder)?;
        encoder.write_all(LongText::END)?;
        // The compressed data marks its end.
        shared.record.end(entry);
        encoder.finish()?;
        if framing == Framing::Chunks {
            self.send(wire::LAST_CHUNK)?;
        }
        Ok(if close { AfterAnswer::Close } else { AfterAnswer::Keep })
    }

    /// Sends the head of a large answer.
    fn begin(
        &mut self,
        mut headers: Vec<(String, String)>,
        behaviour: &HttpBehaviour,
        entry: &Entry,
    ) -> io::Result<()> {
        for (name, value) in &behaviour.headers {
            wire::set(&mut headers, name, value);
        }
        if behaviour.close {
            wire::set(&mut headers, "connection", "close");
        }
        locked(entry).status = Some(200);
        self.send(&wire::head(200, &headers))
    }

    /// Sends the end of an answer. Writes the record first, because a client that sees the end may send its next
    /// request at once.
    fn last(&mut self, bytes: &[u8], entry: &Entry) -> io::Result<()> {
        self.shared.record.end(entry);
        self.send(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn hear_out(&mut self) -> io::Result<()> {
        while !self.left {
            self.read(None)?;
            self.unread.clear();
        }
        Ok(())
    }

    /// Waits until the client leaves or `stop` is called.
    fn wait_for_the_end(&mut self) -> io::Result<AfterAnswer> {
        loop {
            self.read_more()?;
            self.unread.clear();
        }
    }

    /// Waits for this time. Ends early if the client leaves or `stop` is called.
    fn wait(&mut self, how_long: Duration) -> io::Result<()> {
        let started = Instant::now();
        while let Some(rest) = how_long.checked_sub(started.elapsed()).filter(|rest| !rest.is_zero()) {
            self.read(Some(rest.max(Duration::from_millis(1))))?;
            self.still_there()?;
        }
        Ok(())
    }

    fn read_more(&mut self) -> io::Result<()> {
        self.read(None)?;
        self.still_there()
    }

    fn still_there(&self) -> io::Result<()> {
        if self.left { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Waits for bytes, at most for the time `limit`. Appends the bytes to `unread`, or records that the client has
    /// left.
    fn read(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(limit)?;
        let mut bytes = [0; 16_384];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.left = true,
            Ok(received) => self.unread.extend_from_slice(&bytes[..received]),
            Err(problem)
                if matches!(
                    problem.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(problem) => {
                self.left = true;
                return Err(problem);
            }
        }
        Ok(())
    }
}

/// Writes the parts of a body in the framing of the answer.
struct BodyWriter<'a, 'b> {
    connection: &'a mut Connection<'b>,
    framing: Framing,
}

impl Write for BodyWriter<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match self.framing {
            Framing::Chunks => self.connection.send(&wire::chunk(bytes))?,
            Framing::Length | Framing::Close => self.connection.send(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{"ip":"8.8.8.8","padding":"xxx…"}` of a given length, never whole in memory.
struct LongText {
    start: String,
    padding: u64,
}

impl LongText {
    const END: &[u8] = b"\"}";

    fn new(ip: Option<IpAddr>, bytes: u64) -> LongText {
        let ip = ip.map_or(String::new(), |ip| ip.to_string());
        let start = format!("{{\"ip\":\"{ip}\",\"padding\":\"");
        let padding = bytes.saturating_sub((start.len() + LongText::END.len()) as u64);
        LongText { start, padding }
    }

    fn length(&self) -> u64 {
        (self.start.len() + LongText::END.len()) as u64 + self.padding
    }

    /// Writes all but `END`.
    fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(self.start.as_bytes())?;
        let piece = [b'x'; PIECE];
        let mut rest = self.padding;
        while rest > 0 {
            let size = rest.min(PIECE as u64) as usize;
            writer.write_all(&piece[..size])?;
            rest -= size as u64;
        }
        Ok(())
    }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn asks_for_json(path: &str) -> bool {
    path.split_once('?').is_some_and(|(_, query)| query.split('&').any(|part| part == "json"))
}

/// Returns the next address.
fn neighbour(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4) ^ 1)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) ^ 1)),
    }
}
