//! The scrape server: serves metrics over HTTP.
//!
//! One thread accepts connections, and each connection has its own thread. If a client requests metrics, the thread of
//! the connection sends a numbered ticket to the owner of the server, and waits. The owner then prepares one text. This
//! text is the response to all tickets up to the ticket that the owner received last. So the text is never older than a
//! request, and concurrent requests share one text.
//!
//! The server limits the number of connections, the bytes of a request, and the time of each step. If all connections
//! are in use, the server closes one of them and accepts the new connection. It first closes connections whose response
//! was already sent, and then connections whose request is incomplete. So idle clients cannot use up all connections.
//!
//! Locking: all threads share `State` under one mutex. A thread does not hold the mutex while it reads or writes a
//! socket, or while it notifies the owner. All threads inherit the signal mask of the caller of `Server::start`. No
//! thread calls PostgreSQL.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::request::{self, LONGEST, Request, Status};
use crate::net::Notifier;

/// Maximum number of connections.
const CONNECTIONS: usize = 64;
/// Maximum number of threads. There may be more threads than connections, because the thread of a closed connection can
/// run for a short time after the connection was closed.
const MOST_THREADS: usize = 2 * CONNECTIONS;
/// Maximum time from the start of a connection until the head of the request is complete.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Time from the request to the owner's response.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// Time from the owner's response until its last byte is sent.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Maximum time for which the server reads and discards bytes before it closes a socket. If the server closed a socket
/// that still has unread bytes, the client could lose the response.
const DRAINED_WITHIN: Duration = Duration::from_secs(1);
/// Maximum number of discarded pieces.
const MOST_DRAINED: usize = 16;
/// Pause after a failure to accept a connection, for example if the system had no free descriptor or thread.
const ACCEPTS_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Bytes per read.
const PIECE: usize = 2048;
/// Stack size of a thread, in bytes. A small stack is enough, because large values are on the heap.
const STACK: usize = 256 * 1024;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// Events that the owner receives.
#[derive(PartialEq, Eq, Debug)]
pub enum Event {
    /// A scraper requests metrics that are not older than this event. Contains the ticket, which identifies the
    /// request.
    Requested(u64),
    /// A scraper received metrics.
    Served,
    /// A scraper did not receive metrics, or the server cannot accept a connection. Contains the reason.
    Failed(String),
}

/// The handle by which the owner controls the server. Dropping the handle stops the server and closes all connections.
pub struct Server {
    address: SocketAddr,
    events: Receiver<Event>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens on an address and starts the thread of the server. All threads of the server inherit the caller's signal
    /// mask. So the caller must block all signals before this call. The server notifies `owner` of each event.
    pub fn start(address: SocketAddr, owner: Arc<Notifier>) -> io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let (sender, events) = mpsc::channel();
        let shared = Arc::new(Shared {
            own: address.ip(),
            state: Mutex::default(),
            changed: Condvar::new(),
            events: sender,
            owner,
            stop: Notifier::new()?,
        });
        let of_thread = Arc::clone(&shared);
        let thread = spawn(move || {
            let end = panic::catch_unwind(AssertUnwindSafe(|| of_thread.accept_connections(&listener)));
            match end {
                Ok(Ok(())) => {}
                Ok(Err(error)) => of_thread.report(Event::Failed(error.to_string())),
                Err(_) => of_thread.report(Event::Failed("the thread panicked".to_owned())),
            }
        })?;
        Ok(Server { address, events, shared, thread })
    }

    /// Returns the listen address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the events since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Ends the wait of all requests whose ticket is not higher than `ticket`. These requests get the response `text`, the
    /// metrics. If `text` is `None`, the metrics are not available, and these requests get the status 503.
    pub fn answer(&self, ticket: u64, text: Option<Vec<u8>>) {
        let mut state = self.shared.lock();
        (state.answered, state.text) = (ticket, text.map(Arc::from));
        self.shared.changed.notify_all();
    }

    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_stopped = true;
        for connection in &state.connections {
            // The peer may have closed it already.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
        self.shared.stop.notify();
    }
}

struct Shared {
    /// The listen address. Requests for other hosts are refused.
    own: IpAddr,
    state: Mutex<State>,
    /// The server signals this variable when the owner has responded, when a connection becomes free, and when the
    /// server stops.
    changed: Condvar,
    events: Sender<Event>,
    owner: Arc<Notifier>,
    stop: Arc<Notifier>,
}

#[derive(Default)]
struct State {
    /// At most `CONNECTIONS` connections, the oldest first.
    connections: Vec<Connection>,
    threads: usize,
    /// Connections accepted so far.
    accepted: u64,
    /// Tickets issued so far.
    tickets: u64,
    /// The last ticket that the owner answered, and its response.
    answered: u64,
    text: Option<Arc<[u8]>>,
    is_stopped: bool,
}

struct Connection {
    number: u64,
    step: Step,
    stream: Arc<TcpStream>,
}

/// The steps of a connection, in the order in which connections are replaced: connections in the first step are
/// replaced first. A connection that waits for the owner is not replaced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Draining,
    Reading,
    Writing,
    Waiting,
}

impl State {
    fn has_room(&self) -> bool {
        let is_replaceable = |connection: &Connection| connection.step != Step::Waiting;
        let has_slot = self.connections.len() < CONNECTIONS || self.connections.iter().any(is_replaceable);
        has_slot && self.threads < MOST_THREADS
    }

    /// Adds a connection and returns the number of the new connection. If all connections are in use, first closes one
    /// of them.
    fn add(&mut self, stream: Arc<TcpStream>) -> u64 {
        if self.connections.len() >= CONNECTIONS {
            let replaced = (0..CONNECTIONS).min_by_key(|index| self.connections[*index].step).unwrap_or(0);
            // The thread of the replaced connection gets an error from its next call on the socket. An error of this
            // call is ignored, because the peer may have closed the socket already.
            let _ = self.connections.remove(replaced).stream.shutdown(Shutdown::Both);
        }
        self.accepted += 1;
        self.threads += 1;
        self.connections.push(Connection { number: self.accepted, step: Step::Reading, stream });
        self.accepted
    }

    /// Sets the next step of a connection. Returns true if the connection is still open.
    fn enter(&mut self, number: u64, step: Step) -> bool {
        let connection = self.connections.iter_mut().find(|connection| connection.number == number);
        connection.map(|connection| connection.step = step).is_some()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, event: Event) {
        let _ = self.events.send(event);
        self.owner.notify();
    }

    fn enter(&self, number: u64, step: Step) -> bool {
        let is_open = self.lock().enter(number, step);
        self.changed.notify_all();
        is_open
    }

    fn accept_connections(self: &Arc<Self>, listener: &TcpListener) -> io::Result<()> {
        let stop = self.stop.fd();
        while !self.lock().is_stopped {
            let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(&stop, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            match listener.accept().and_then(|(stream, _)| self.start_connection(stream)) {
                Ok(()) => {}
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {}
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset => {}
                    _ => {
                        self.report(Event::Failed(format!("could not accept a connection: {error}")));
                        let pause =
                            self.changed.wait_timeout_while(self.lock(), ACCEPTS_AGAIN_AFTER, |state| {
                                !state.is_stopped
                            });
                        drop(pause);
                    }
                },
            }
        }
        Ok(())
    }

    /// Waits until the server can take one more connection. Then starts a thread that serves the new connection.
    fn start_connection(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        // On some systems, an accepted socket inherits the non-blocking mode of the listener. The threads need blocking
        // sockets.
        stream.set_nonblocking(false)?;
        let stream = Arc::new(stream);
        let is_waiting = |state: &mut State| !state.is_stopped && !state.has_room();
        let mut state =
            self.changed.wait_while(self.lock(), is_waiting).unwrap_or_else(PoisonError::into_inner);
        if state.is_stopped {
            return Ok(());
        }
        let number = state.add(Arc::clone(&stream));
        drop(state);
        let shared = Arc::clone(self);
        let thread = spawn(move || {
            let served = panic::catch_unwind(AssertUnwindSafe(|| shared.serve(number, &stream)));
            shared.end(number);
            if served.is_err() {
                shared.report(Event::Failed("a connection's thread panicked".to_owned()));
            }
        });
        thread.map(drop).inspect_err(|_| self.end(number))
    }

    fn end(&self, number: u64) {
        let mut state = self.lock();
        state.connections.retain(|connection| connection.number != number);
        state.threads -= 1;
        self.changed.notify_all();
    }

    /// Reads a request and writes the response. If the request was for metrics, reports to the owner whether the client
    /// received the metrics.
    fn serve(&self, number: u64, stream: &TcpStream) {
        // If a client disconnects before its request is complete, the server sends no response.
        let Ok(request) = read_request(stream, self.own) else { return };
        let mut metrics = None;
        let (status, head_only) = match request {
            Request::Metrics { head_only } => {
                metrics = self.request_metrics(number);
                (if metrics.is_some() { Status::Ok } else { Status::Unavailable }, head_only)
            }
            Request::Health { head_only } => (Status::Ok, head_only),
            Request::Invalid(status) => (status, false),
        };
        let explanation = request::explanation(status);
        let (content_type, body) = match &metrics {
            Some(text) => (METRICS_TYPE, &text[..]),
            None => (TEXT_TYPE, explanation.as_bytes()),
        };
        let head = request::head(status, content_type, body.len(), SystemTime::now());
        self.enter(number, Step::Writing);
        let until = Instant::now() + WRITTEN_WITHIN;
        let written = write(stream, &head, until)
            .and_then(|()| write(stream, if head_only { &[] } else { body }, until));
        if metrics.is_some() {
            self.report(match &written {
                Ok(()) => Event::Served,
                Err(error) => Event::Failed(self.why_not_written(number, error)),
            });
        }
        if written.is_ok() && self.enter(number, Step::Draining) {
            // The response was written, so an error changes nothing.
            let _ = drain(stream);
        }
    }

    /// Requests metrics from the owner and waits for them.
    fn request_metrics(&self, number: u64) -> Option<Arc<[u8]>> {
        let mut state = self.lock();
        state.tickets += 1;
        let ticket = state.tickets;
        state.enter(number, Step::Waiting);
        drop(state);
        self.report(Event::Requested(ticket));
        let is_waiting = |state: &mut State| state.answered < ticket && !state.is_stopped;
        let (state, _) = self
            .changed
            .wait_timeout_while(self.lock(), ANSWERED_WITHIN, is_waiting)
            .unwrap_or_else(PoisonError::into_inner);
        if state.answered >= ticket {
            return state.text.clone();
        }
        drop(state);
        self.report(Event::Failed("the exporter did not answer in time".to_owned()));
        None
    }

    fn why_not_written(&self, number: u64, error: &io::Error) -> String {
        let is_replaced = self.lock().connections.iter().all(|connection| connection.number != number);
        match error.kind() {
            _ if is_replaced => {
                "the exporter closed the connection of a scraper to accept newer connections".to_owned()
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                "a scraper did not read the answer in time".to_owned()
            }
            _ => format!("a scraper closed the connection: {error}"),
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("scrape".into()).stack_size(STACK).spawn(work)
}

/// Returns the time left for the next call on a socket.
fn time_left(until: Instant) -> io::Result<Option<Duration>> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
}

fn read_request(stream: &TcpStream, own: IpAddr) -> io::Result<Request> {
    let until = Instant::now() + READ_WITHIN;
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; PIECE];
        let length = read(stream, &mut piece, until)?;
        bytes.extend_from_slice(&piece[..length]);
        if let Some(request) = request::read(&bytes, own) {
            return Ok(request);
        }
        debug_assert!(bytes.len() < LONGEST);
    }
}

/// Reads at least one byte.
fn read(mut stream: &TcpStream, piece: &mut [u8], until: Instant) -> io::Result<usize> {
    loop {
        stream.set_read_timeout(time_left(until)?)?;
        match stream.read(piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn write(mut stream: &TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(time_left(until)?)?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads and discards bytes until the client closes the connection, sends too many bytes, or takes too long.
fn drain(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let until = Instant::now() + DRAINED_WITHIN;
    (0..MOST_DRAINED).try_for_each(|_| read(stream, &mut [0; PIECE], until).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served() -> Server {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        // The port stays free after this listener is closed.
        let free = TcpListener::bind(address).and_then(|listener| listener.local_addr());
        Server::start(free.expect("a port is free"), Notifier::new().expect("a socket pair"))
            .expect("it listens")
    }

    fn connect(server: &Server) -> TcpStream {
        let stream = TcpStream::connect(server.address()).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time can be set");
        stream
    }

    /// Returns the response to a request. The owner answers every ticket.
    fn ask(server: &Server, request: &str) -> String {
        let mut stream = connect(server);
        stream.write_all(request.as_bytes()).expect("it is taken");
        let mut text = String::new();
        thread::scope(|scope| {
            let reader = scope.spawn(|| stream.read_to_string(&mut text).map(drop));
            while !reader.is_finished() {
                for event in server.take_events() {
                    if let Event::Requested(ticket) = event {
                        server.answer(ticket, Some(b"metric 1\n".to_vec()));
                    }
                }
                thread::yield_now();
            }
            reader.join().expect("no panic").expect("the answer arrives");
        });
        text
    }

    fn is_open(mut stream: &TcpStream) -> bool {
        stream.set_nonblocking(true).expect("it can be set");
        matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn a_scraper_replaces_the_oldest_idle_connections() {
        let server = served();
        let idle: Vec<TcpStream> = (0..200).map(|_| connect(&server)).collect();
        let answer = ask(&server, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("metric 1\n"), "{answer}");
        let open: Vec<usize> = (0..idle.len()).filter(|n| is_open(&idle[*n])).collect();
        // One of the 64 open connections belongs to the scraper.
        assert_eq!(open, Vec::from_iter(137..200));
    }

    #[test]
    fn requests_that_wait_for_an_answer_are_not_replaced() {
        let server = served();
        let mut asking: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&server)).collect();
        for stream in &mut asking {
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it is taken");
        }
        let mut tickets = Vec::new();
        while tickets.len() < CONNECTIONS {
            tickets.extend(server.take_events().into_iter().filter_map(|event| match event {
                Event::Requested(ticket) => Some(ticket),
                _ => None,
            }));
            thread::yield_now();
        }
        let idle: Vec<TcpStream> = (0..100).map(|_| connect(&server)).collect();
        assert!(asking.iter().all(is_open));
        server.answer(tickets.into_iter().max().expect("a ticket"), Some(b"metric 1\n".to_vec()));
        for mut stream in asking {
            stream.set_nonblocking(false).expect("it can be set");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("the answer arrives");
            assert!(text.ends_with("metric 1\n"), "{text}");
        }
        drop(idle);
    }

    #[test]
    fn a_dropped_server_closes_its_connections_and_its_port() {
        let server = served();
        let (idle, mut waiting) = (connect(&server), connect(&server));
        waiting.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it is taken");
        while !server.take_events().contains(&Event::Requested(1)) {
            thread::yield_now();
        }
        let address = server.address();
        drop(server);
        for mut stream in [idle, waiting] {
            assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        }
        while TcpStream::connect(address).is_ok() {
            thread::yield_now();
        }
    }

    #[test]
    fn metrics_are_for_this_host_alone() {
        let server = served();
        let answer = ask(&server, "GET /metrics HTTP/1.1\r\nHost: evil.example.com\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("metric 1"), "{answer}");
    }
}
