//! Answers: who asks for metrics over HTTP, and how are they served?
//!
//! One thread serves a listener and some connections, none of which can hold up another: sockets do not block, and each
//! step of a connection has a deadline. For metrics the thread asks its owner, by a ticket, and rings; the owner answers
//! with bytes that it has finished. So an answer is never older than the question, and questions that come at once are
//! answered by one.
//!
//! Bounds: connections at once, bytes of a request, and the time of each step. Where all places are taken, a new connection
//! takes the place of the oldest that has not asked yet. So idle connections cannot keep a scraper out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::request::{self, Asked, LONGEST, Status};
use crate::net::Bell;

/// Connections at once. They are a file descriptor and a few kilobytes each.
const CONNECTIONS: usize = 64;
/// From the beginning of a connection to the end of its request's head.
const READS_WITHIN: Duration = Duration::from_secs(5);
/// From there to the owner's answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// From there to the last byte's leaving.
const WRITES_WITHIN: Duration = Duration::from_secs(10);
/// How long bytes are taken that nobody wants: a socket closed with some unread takes the answer with it.
const LINGERS: Duration = Duration::from_secs(1);
/// After the system had no descriptor for a connection.
const ACCEPTS_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Bytes read at once.
const PIECE: usize = 2048;
/// Bytes. What is large is on the heap.
const STACK: usize = 256 * 1024;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const WORDS_TYPE: &str = "text/plain; charset=utf-8";

const LISTENER: Token = Token(CONNECTIONS);
const WAKER: Token = Token(CONNECTIONS + 1);

/// What the thread tells its owner.
#[derive(PartialEq, Eq, Debug)]
pub enum Said {
    /// Metrics are wanted that are no older than this moment.
    Asked(u64),
    /// Some were delivered.
    Served,
    /// Some could not be, or nobody can be served at the moment.
    Failed(String),
}

/// For questions up to a ticket: the text, or that there is none.
struct Answer {
    ticket: u64,
    text: Option<Arc<[u8]>>,
}

/// The owner's end. Dropped, it stops the thread, which closes what is open.
pub struct Server {
    address: SocketAddr,
    said: Receiver<Said>,
    answers: Sender<Answer>,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Listens at an address and serves on a thread of its own, which inherits the caller's signal mask: block all
    /// signals around this call.
    pub fn start(address: SocketAddr, bell: Arc<Bell>) -> io::Result<Server> {
        let mut listener = TcpListener::bind(address)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (says, said) = mpsc::channel();
        let (answers, answered) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let desk = Desk {
            poll,
            listener,
            own: address.ip(),
            accepted: 0,
            connections: std::iter::repeat_with(|| None).take(CONNECTIONS).collect(),
            may_accept: true,
            accepts_after: None,
            tickets: 0,
            answered,
            says: says.clone(),
            bell: Arc::clone(&bell),
            stop: Arc::clone(&stop),
        };
        let thread = thread::Builder::new().name("scrape".into()).stack_size(STACK).spawn(move || {
            let ended = match panic::catch_unwind(AssertUnwindSafe(|| desk.run())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the thread panicked".to_owned(),
            };
            let _ = says.send(Said::Failed(ended));
            bell.ring();
        })?;
        Ok(Server { address, said, answers, stop, waker, thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the thread said since this was last asked; it has rung since.
    pub fn said(&self) -> Vec<Said> {
        self.said.try_iter().collect()
    }

    /// Answers all questions up to a ticket; `None`: there are no metrics to be had.
    pub fn answer(&self, ticket: u64, text: Option<Vec<u8>>) {
        // A thread that is gone takes no answer, and `is_alive` says so.
        let _ = self.answers.send(Answer { ticket, text: text.map(Arc::from) });
        let _ = self.waker.wake();
    }

    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.waker.wake();
    }
}

/// What the thread has.
struct Desk {
    poll: Poll,
    listener: TcpListener,
    /// Where it listens: requests for other hosts are refused.
    own: IpAddr,
    /// How many connections there have been.
    accepted: u64,
    /// By token.
    connections: Vec<Option<Connection>>,
    /// Somebody may be waiting to be let in: said once, until nobody is.
    may_accept: bool,
    accepts_after: Option<Instant>,
    tickets: u64,
    answered: Receiver<Answer>,
    says: Sender<Said>,
    bell: Arc<Bell>,
    stop: Arc<AtomicBool>,
}

struct Connection {
    stream: TcpStream,
    own: IpAddr,
    /// Grows from one connection to the next.
    number: u64,
    step: Step,
    /// Of the step.
    until: Instant,
}

enum Step {
    /// What has come of the request.
    Reading(Vec<u8>),
    /// For the owner's answer.
    Waiting { ticket: u64, head_only: bool },
    /// The head, then the body; so many bytes of both have left.
    Writing { head: Vec<u8>, body: Arc<[u8]>, sent: usize, are_metrics: bool },
    /// Everything has left.
    Lingering,
}

/// What becomes of a connection.
enum Next {
    /// It waits for its socket or for the owner.
    Stays,
    /// It asks for metrics.
    Asks { head_only: bool },
    /// Its last byte has left.
    Served { are_metrics: bool },
    /// It is over; with metrics that did not arrive, why.
    Ends(Option<String>),
}

impl Desk {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(2 * CONNECTIONS);
        loop {
            let pause = match self.can_accept() {
                true => Some(Duration::ZERO),
                false => self.next_deadline().map(|until| until.saturating_duration_since(Instant::now())),
            };
            match self.poll.poll(&mut events, pause) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                Err(_) => continue,
                Ok(()) => {}
            }
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.may_accept = true,
                    WAKER => {}
                    Token(place) => self.go_on(place),
                }
            }
            self.take_answers();
            self.end_late();
            self.let_in();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let of_connections = self.connections.iter().flatten().map(|connection| connection.until);
        of_connections.chain(self.accepts_after).min()
    }

    /// Returns whether a connection may be waiting that can be accepted at once.
    fn can_accept(&self) -> bool {
        self.may_accept && self.accepts_after.is_none() && self.place_for_another().is_some()
    }

    /// A free place, or the place of the connection that gives way to a new one: the oldest of those that have their answer,
    /// that have not asked, or that read their answer, in this order. A question that waits for its answer keeps its place.
    fn place_for_another(&self) -> Option<usize> {
        let free = self.connections.iter().position(Option::is_none);
        let gives_way = |(place, connection): (usize, &Option<Connection>)| {
            let connection = connection.as_ref()?;
            let class = match connection.step {
                Step::Lingering => 0,
                Step::Reading(_) => 1,
                Step::Writing { .. } => 2,
                Step::Waiting { .. } => return None,
            };
            Some((class, connection.number, place))
        };
        free.or_else(|| {
            self.connections.iter().enumerate().filter_map(gives_way).min().map(|(_, _, place)| place)
        })
    }

    fn make_room(&mut self, place: usize) {
        let Some(connection) = &self.connections[place] else { return };
        let is_reading = matches!(connection.step, Step::Writing { are_metrics: true, .. });
        self.end(place, is_reading.then(|| "a scraper gave way to newer connections".to_owned()));
    }

    fn let_in(&mut self) {
        let now = Instant::now();
        if self.accepts_after.is_some_and(|after| after > now) {
            return;
        }
        self.accepts_after = None;
        // A bounded number, so that existing connections are served in between.
        for _ in 0..CONNECTIONS {
            if !self.may_accept {
                return;
            }
            let Some(place) = self.place_for_another() else { return };
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    self.make_room(place);
                    let both = Interest::READABLE | Interest::WRITABLE;
                    if self.poll.registry().register(&mut stream, Token(place), both).is_ok() {
                        let step = Step::Reading(Vec::new());
                        let until = Instant::now() + READS_WITHIN;
                        self.accepted += 1;
                        let (own, number) = (self.own, self.accepted);
                        self.connections[place] = Some(Connection { stream, own, number, step, until });
                        self.go_on(place);
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.may_accept = false,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset => {}
                    _ => {
                        self.accepts_after = Some(now + ACCEPTS_AGAIN_AFTER);
                        self.say(Said::Failed(format!("could not accept a connection: {error}")));
                        return;
                    }
                },
            }
        }
    }

    /// Takes a connection as far as it can go now.
    fn go_on(&mut self, place: usize) {
        while let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) {
            match connection.go_on() {
                Next::Stays => return,
                Next::Asks { head_only } => {
                    self.tickets += 1;
                    let ticket = self.tickets;
                    connection.enter(Step::Waiting { ticket, head_only }, ANSWERED_WITHIN);
                    self.say(Said::Asked(ticket));
                    return;
                }
                Next::Served { are_metrics } => {
                    connection.enter(Step::Lingering, LINGERS);
                    if are_metrics {
                        self.say(Said::Served);
                    }
                }
                Next::Ends(failure) => {
                    self.end(place, failure);
                    return;
                }
            }
        }
    }

    fn take_answers(&mut self) {
        while let Ok(Answer { ticket, text }) = self.answered.try_recv() {
            for place in 0..CONNECTIONS {
                let Some(connection) = &mut self.connections[place] else { continue };
                match connection.step {
                    Step::Waiting { ticket: own, head_only } if own <= ticket => {
                        match &text {
                            Some(text) => connection.write_metrics(text, head_only),
                            None => connection.write_words(Status::Unavailable, head_only),
                        }
                        self.go_on(place);
                    }
                    _ => {}
                }
            }
        }
    }

    fn end_late(&mut self) {
        let now = Instant::now();
        for place in 0..CONNECTIONS {
            let Some(connection) = &mut self.connections[place] else { continue };
            if connection.until > now {
                continue;
            }
            match &connection.step {
                Step::Waiting { head_only, .. } => {
                    connection.write_words(Status::Unavailable, *head_only);
                    self.say(Said::Failed("the exporter did not answer in time".to_owned()));
                    self.go_on(place);
                }
                Step::Writing { are_metrics: true, .. } => {
                    self.end(place, Some("a scraper did not read in time".to_owned()));
                }
                _ => self.end(place, None),
            }
        }
    }

    fn end(&mut self, place: usize, failure: Option<String>) {
        if let Some(mut connection) = self.connections[place].take() {
            // Closing it would do as well.
            let _ = self.poll.registry().deregister(&mut connection.stream);
        }
        if let Some(failure) = failure {
            self.say(Said::Failed(failure));
        }
    }

    fn say(&self, said: Said) {
        let _ = self.says.send(said);
        self.bell.ring();
    }
}

impl Connection {
    fn enter(&mut self, step: Step, within: Duration) {
        self.step = step;
        self.until = Instant::now() + within;
    }

    fn write(&mut self, head: Vec<u8>, body: Arc<[u8]>, are_metrics: bool) {
        self.enter(Step::Writing { head, body, sent: 0, are_metrics }, WRITES_WITHIN);
    }

    fn write_metrics(&mut self, text: &Arc<[u8]>, head_only: bool) {
        let head = request::head(Status::Ok, METRICS_TYPE, text.len(), SystemTime::now());
        let body = if head_only { Arc::from([]) } else { Arc::clone(text) };
        self.write(head, body, true);
    }

    fn write_words(&mut self, status: Status, head_only: bool) {
        let words = request::words(status);
        let head = request::head(status, WORDS_TYPE, words.len(), SystemTime::now());
        let body = if head_only { String::new() } else { words };
        self.write(head, Arc::from(body.into_bytes()), false);
    }

    fn go_on(&mut self) -> Next {
        match &mut self.step {
            Step::Reading(bytes) => match read(&mut self.stream, bytes, self.own) {
                Ok(None) => Next::Stays,
                Ok(Some(Asked::Metrics { head_only })) => Next::Asks { head_only },
                Ok(Some(Asked::Health { head_only })) => {
                    self.write_words(Status::Ok, head_only);
                    self.go_on()
                }
                Ok(Some(Asked::Nonsense(status))) => {
                    self.write_words(status, false);
                    self.go_on()
                }
                // Somebody who went away without a question is owed no answer.
                Err(_) => Next::Ends(None),
            },
            // Nothing that the scraper does is of interest before there is an answer.
            Step::Waiting { .. } => Next::Stays,
            Step::Writing { head, body, sent, are_metrics } => {
                let are_metrics = *are_metrics;
                match write(&mut self.stream, head, body, sent) {
                    Ok(false) => Next::Stays,
                    Ok(true) => {
                        // An error shows when the rest is read.
                        let _ = self.stream.shutdown(std::net::Shutdown::Write);
                        Next::Served { are_metrics }
                    }
                    Err(error) => Next::Ends(are_metrics.then(|| format!("a scraper hung up: {error}"))),
                }
            }
            Step::Lingering => match drain(&mut self.stream) {
                Ok(()) => Next::Stays,
                Err(_) => Next::Ends(None),
            },
        }
    }
}

/// Reads until the request is complete or there is nothing to read for now.
fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>, own: IpAddr) -> io::Result<Option<Asked>> {
    let mut piece = [0; PIECE];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                bytes.extend_from_slice(&piece[..length]);
                if let Some(asked) = request::read(bytes, own) {
                    return Ok(Some(asked));
                }
                debug_assert!(bytes.len() < LONGEST);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes what the socket takes; whether that was everything.
fn write(stream: &mut TcpStream, head: &[u8], body: &[u8], sent: &mut usize) -> io::Result<bool> {
    loop {
        let left = if *sent < head.len() { &head[*sent..] } else { &body[*sent - head.len()..] };
        if left.is_empty() {
            return Ok(true);
        }
        match stream.write(left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(length) => *sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Pieces thrown away at once: a peer that never stops sending must not hold up the others.
const DRAINED_AT_ONCE: usize = 16;

/// Reads and forgets; `Err`: there will be no more, or more than anybody should send.
fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut piece = [0; PIECE];
    for _ in 0..DRAINED_AT_ONCE {
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream as Client;

    fn served() -> Server {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        // A port that is free now is free still.
        let free = std::net::TcpListener::bind(address).and_then(|listener| listener.local_addr());
        Server::start(free.expect("a port is free"), Bell::new().expect("a socket pair")).expect("it listens")
    }

    fn connect(server: &Server) -> Client {
        let stream = Client::connect(server.address()).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time can be set");
        stream
    }

    /// The answer to a request, while the owner answers every question.
    fn ask(server: &Server, request: &str) -> String {
        let mut stream = connect(server);
        stream.write_all(request.as_bytes()).expect("it is taken");
        let mut text = String::new();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| stream.read_to_string(&mut text).map(drop));
            while !reader.is_finished() {
                for said in server.said() {
                    if let Said::Asked(ticket) = said {
                        server.answer(ticket, Some(b"metric 1\n".to_vec()));
                    }
                }
                std::thread::yield_now();
            }
            reader.join().expect("no panic").expect("the answer arrives");
        });
        text
    }

    fn is_open(mut stream: &Client) -> bool {
        stream.set_nonblocking(true).expect("it can be set");
        matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    #[test]
    fn idle_connections_give_way_to_a_scraper_the_oldest_first() {
        let server = served();
        let idle: Vec<Client> = (0..200).map(|_| connect(&server)).collect();
        let answer = ask(&server, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("metric 1\n"), "{answer}");
        let open: Vec<usize> = (0..idle.len()).filter(|n| is_open(&idle[*n])).collect();
        // Of 64 places one is the scraper's.
        assert_eq!(open, Vec::from_iter(137..200));
    }

    #[test]
    fn questions_that_wait_for_an_answer_keep_their_places() {
        let server = served();
        let mut asking: Vec<Client> = (0..CONNECTIONS).map(|_| connect(&server)).collect();
        for stream in &mut asking {
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it is taken");
        }
        let mut tickets = Vec::new();
        while tickets.len() < CONNECTIONS {
            tickets.extend(server.said().into_iter().filter_map(|said| match said {
                Said::Asked(ticket) => Some(ticket),
                _ => None,
            }));
            std::thread::yield_now();
        }
        let idle: Vec<Client> = (0..100).map(|_| connect(&server)).collect();
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
    fn metrics_are_for_this_host_alone() {
        let server = served();
        let answer = ask(&server, "GET /metrics HTTP/1.1\r\nHost: evil.example.com\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("metric 1"), "{answer}");
    }
}
