//! An OpenTelemetry collector on 127.0.0.1: OTLP over HTTP, read with the official definitions.
//!
//! Each connection has a thread, which also serves the next request. A request that cannot be read is recorded with the
//! reason.
//!
//! Locking: the answer, the record and the open connections each have a mutex. No thread holds two of them, and no
//! thread holds one while it reads or writes a socket.

mod seen;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message;
pub use seen::{Point, ReceivedSpan};

use crate::http::wire::{self, Head};
use crate::listener::Listener;
use crate::locked;

/// Interval at which a held request checks for a new answer or the client's end.
const GLANCE: Duration = Duration::from_millis(10);

/// How requests are answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CollectorAnswer {
    /// Accepts everything.
    Take,
    /// Rejects this number of items with this message, and accepts the others.
    TakeBut {
        rejected: i64,
        words: String,
    },
    Status {
        code: u16,
        retry_after: Option<String>,
    },
    /// Reads the request, and sends nothing until the client leaves or another answer is set. In the second case, sends
    /// the new answer.
    Silent,
    /// Reads and closes the connection.
    Close,
}

/// One request.
#[derive(Clone, Debug)]
pub struct ReceivedExport {
    /// When the request had been read.
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub sent: ExportBody,
    /// Status of the answer, if one was sent.
    pub status: Option<u16>,
}

#[derive(Clone, Debug)]
pub enum ExportBody {
    Metrics(Vec<ResourceMetrics>),
    Traces(Vec<ResourceSpans>),
    /// Body that cannot be decoded, with the reason.
    Unreadable(String),
}

impl ReceivedExport {
    /// Returns the value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::value_of(&self.headers, name)
    }
}

pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Mutex<Option<Listener>>,
}

struct Shared {
    answer: Mutex<CollectorAnswer>,
    record: Mutex<Vec<ReceivedExport>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Collector {
    /// Listens on 127.0.0.1, on a free port, and accepts everything.
    pub fn start() -> Collector {
        let shared = Arc::new(Shared {
            answer: Mutex::new(CollectorAnswer::Take),
            record: Mutex::default(),
            open: Mutex::default(),
        });
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let listener = listen(any, &shared).expect("a free port of 127.0.0.1 can be had");
        Collector { address: listener.address(), shared, listener: Mutex::new(Some(listener)) }
    }

    /// Returns the URL for the client's configuration.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the answer to later requests, and to requests that `Silent` holds.
    pub fn answer(&self, answer: CollectorAnswer) {
        *locked(&self.shared.answer) = answer;
    }

    /// Refuses connections from now on and closes those that are open.
    pub fn stop(&self) {
        drop(locked(&self.listener).take());
        for stream in std::mem::take(&mut *locked(&self.shared.open)) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Panics
    /// When another program has taken the port and keeps it.
    pub fn start_again(&self) {
        Listener::reopen(&mut locked(&self.listener), || listen(self.address, &self.shared));
    }

    /// Returns the requests in the order in which they were read.
    pub fn requests(&self) -> Vec<ReceivedExport> {
        locked(&self.shared.record).clone()
    }

    /// Starts a new record.
    pub fn forget(&self) {
        locked(&self.shared.record).clear();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(address: SocketAddr, shared: &Arc<Shared>) -> io::Result<Listener> {
    let shared = Arc::clone(shared);
    Listener::open(address, move |stream| {
        let Ok(handle) = stream.try_clone() else { return };
        locked(&shared.open).push(handle);
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || {
            // An error ends the connection.
            let _ = serve(stream, &shared);
        });
    })
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut unread = Vec::new();
    loop {
        let Some(head) = read_head(&mut stream, &mut unread)? else { return Ok(()) };
        while unread.len() < head.body {
            if read(&mut stream, &mut unread)? == 0 {
                return Ok(());
            }
        }
        let body: Vec<u8> = unread.drain(..head.body).collect();
        let exported = ReceivedExport {
            at: Instant::now(),
            sent: decode(&head, &body),
            method: head.method,
            path: head.path,
            headers: head.headers,
            status: None,
        };
        let at = exported.at;
        locked(&shared.record).push(exported.clone());
        let answer = decide(&stream, shared)?;
        let (status, headers, body) = match &answer {
            CollectorAnswer::Close => return stream.shutdown(Shutdown::Both),
            CollectorAnswer::Status { code, retry_after } => {
                let after = retry_after.iter().map(|value| ("retry-after".to_owned(), value.clone()));
                (*code, after.collect(), Vec::new())
            }
            CollectorAnswer::TakeBut { rejected, words } => {
                (200, Vec::new(), said(&exported.sent, *rejected, words))
            }
            CollectorAnswer::Take | CollectorAnswer::Silent => (200, Vec::new(), said(&exported.sent, 0, "")),
        };
        // Writes the record first, because a client that has its answer may read the record at once.
        for entry in locked(&shared.record).iter_mut().filter(|entry| entry.at == at) {
            entry.status = Some(status);
        }
        let mut headers: Vec<(String, String)> = headers;
        wire::set(&mut headers, "content-type", "application/x-protobuf");
        wire::set(&mut headers, "content-length", body.len().to_string());
        stream.write_all(&[wire::head(status, &headers), body].concat())?;
    }
}

/// Returns the answer to a request. While the answer is `Silent`, waits until another answer is set.
fn decide(stream: &TcpStream, shared: &Shared) -> io::Result<CollectorAnswer> {
    loop {
        let answer = locked(&shared.answer).clone();
        if answer != CollectorAnswer::Silent {
            return Ok(answer);
        }
        stream.set_nonblocking(true)?;
        let left = matches!(stream.peek(&mut [0]), Ok(0));
        stream.set_nonblocking(false)?;
        if left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        std::thread::sleep(GLANCE);
    }
}

fn read_head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<Head>> {
    loop {
        if let Some(end) = wire::head_end(unread) {
            let head = Head::parse(&unread[..end]);
            unread.drain(..end);
            return Ok(head);
        }
        if read(stream, unread)? == 0 || unread.len() > wire::LONGEST_HEAD + 65_536 {
            return Ok(None);
        }
    }
}

fn read(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 65_536];
    let count = stream.read(&mut buffer)?;
    unread.extend_from_slice(&buffer[..count]);
    Ok(count)
}

fn decode(head: &Head, body: &[u8]) -> ExportBody {
    let kind = wire::value_of(&head.headers, "content-type");
    if head.method != "POST" || kind != Some("application/x-protobuf") {
        return ExportBody::Unreadable(format!("{} of {kind:?}", head.method));
    }
    let read = match head.path.as_str() {
        "/v1/metrics" => {
            ExportMetricsServiceRequest::decode(body).map(|it| ExportBody::Metrics(it.resource_metrics))
        }
        "/v1/traces" => {
            ExportTraceServiceRequest::decode(body).map(|it| ExportBody::Traces(it.resource_spans))
        }
        path => return ExportBody::Unreadable(format!("nothing is at {path}")),
    };
    read.unwrap_or_else(|error| ExportBody::Unreadable(error.to_string()))
}

/// Returns the message of an answer.
fn said(to: &ExportBody, rejected: i64, words: &str) -> Vec<u8> {
    let is_partial = rejected != 0 || !words.is_empty();
    match to {
        ExportBody::Traces(_) => ExportTraceServiceResponse {
            partial_success: is_partial.then(|| ExportTracePartialSuccess {
                rejected_spans: rejected,
                error_message: words.to_owned(),
            }),
        }
        .encode_to_vec(),
        _ => ExportMetricsServiceResponse {
            partial_success: is_partial.then(|| ExportMetricsPartialSuccess {
                rejected_data_points: rejected,
                error_message: words.to_owned(),
            }),
        }
        .encode_to_vec(),
    }
}
