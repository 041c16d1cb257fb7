//! The bulk whois server: a thread that accepts, and one for each connection.
//!
//! The server sends its whole answer after `end` was read, and then closes, as the real service does. A request that
//! does not start with `begin` is closed without an answer. The behaviour of a connection is chosen when it is
//! accepted.
//!
//! Locking: a connection's record is written by its thread and by `stop`, under the record's mutex. No thread holds two
//! mutexes, and no thread holds one while it reads or writes a socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::behaviour::{Behaviour, Fault};
use crate::listener::Listener;
use crate::locked;
use crate::record::{Connection, Record};
use crate::routes::Routes;

/// Interval at which a waiting connection checks for a new behaviour or the client's end.
const GLANCE: Duration = Duration::from_millis(10);

pub struct Whois {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Mutex<Option<Listener>>,
}

struct Shared {
    routes: Routes,
    script: Mutex<Script>,
    record: Mutex<Vec<Arc<Mutex<Connection>>>>,
    streams: Mutex<Vec<(Arc<Mutex<Connection>>, TcpStream)>>,
}

/// The behaviours of the next connections. The last one repeats.
struct Script {
    turns: Vec<Behaviour>,
    taken: usize,
    /// Counts the calls of `behave`.
    version: u64,
}

impl Script {
    fn next(&mut self) -> Behaviour {
        let turn = self.taken.min(self.turns.len() - 1);
        self.taken += 1;
        self.turns[turn].clone()
    }
}

impl Whois {
    /// Listens on 127.0.0.1, on a free port.
    pub fn start(routes: Routes) -> Whois {
        Whois::start_on((Ipv4Addr::LOCALHOST, 0).into(), routes).expect("a free port of 127.0.0.1 can be had")
    }

    pub fn start_on(address: SocketAddr, routes: Routes) -> io::Result<Whois> {
        let shared = Arc::new(Shared {
            routes,
            script: Mutex::new(Script { turns: vec![Behaviour::normal()], taken: 0, version: 0 }),
            record: Mutex::default(),
            streams: Mutex::default(),
        });
        let listener = listen(address, &shared)?;
        Ok(Whois { address: listener.address(), shared, listener: Mutex::new(Some(listener)) })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sets the behaviour of all later connections, and of those that `Fault::Held` holds.
    pub fn behave(&self, behaviour: impl Into<Behaviour>) {
        self.behave_in_turn(vec![behaviour.into()]);
    }

    /// Sets one behaviour for each later connection. The last one repeats.
    ///
    /// # Panics
    /// If `turns` is empty.
    pub fn behave_in_turn(&self, turns: Vec<Behaviour>) {
        assert!(!turns.is_empty(), "a script needs a behaviour");
        let mut script = locked(&self.shared.script);
        *script = Script { turns, taken: 0, version: script.version + 1 };
    }

    pub fn record(&self) -> Record {
        let connections = locked(&self.shared.record).clone();
        Record { connections: connections.iter().map(|connection| locked(connection).clone()).collect() }
    }

    /// Starts a new record. Connections that are open now are not in it.
    pub fn forget(&self) {
        locked(&self.shared.record).clear();
    }

    /// Refuses connections from now on. Open ones stay.
    pub fn refuse(&self) {
        drop(locked(&self.listener).take());
    }

    /// Refuses connections from now on and closes those that are open.
    pub fn stop(&self) {
        self.refuse();
        let open = std::mem::take(&mut *locked(&self.shared.streams));
        for (connection, stream) in open {
            locked(&connection).closed.get_or_insert_with(Instant::now);
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Panics
    /// When another program has taken the port and keeps it.
    pub fn listen_again(&self) {
        Listener::reopen(&mut locked(&self.listener), || listen(self.address, &self.shared));
    }
}

impl Drop for Whois {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(address: SocketAddr, shared: &Arc<Shared>) -> io::Result<Listener> {
    let shared = Arc::clone(shared);
    Listener::open(address, move |stream| {
        let Ok(handle) = stream.try_clone() else { return };
        let connection = Arc::new(Mutex::new(Connection::new()));
        locked(&shared.record).push(Arc::clone(&connection));
        locked(&shared.streams).push((Arc::clone(&connection), handle));
        let (behaviour, version) = {
            let mut script = locked(&shared.script);
            (script.next(), script.version)
        };
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut dialogue =
                ConnectionThread { stream, shared: &shared, connection: &connection, unread: Vec::new() };
            // An error ends the connection, and is recorded.
            let _ = dialogue.conduct(behaviour, version);
            locked(&connection).closed.get_or_insert_with(Instant::now);
            locked(&shared.streams).retain(|(other, _)| !Arc::ptr_eq(other, &connection));
        });
    })
}

struct ConnectionThread<'a> {
    stream: TcpStream,
    shared: &'a Shared,
    connection: &'a Mutex<Connection>,
    /// The beginning of a line whose end was not received yet.
    unread: Vec<u8>,
}

impl ConnectionThread<'_> {
    fn conduct(&mut self, mut behaviour: Behaviour, version: u64) -> io::Result<()> {
        let _ = self.stream.set_nodelay(true);
        loop {
            let (end, questions) = {
                let connection = locked(self.connection);
                (connection.end, connection.questions.len())
            };
            if let Some(Fault::DropAfter { questions: enough }) = behaviour.fault
                && questions >= enough
            {
                return Ok(());
            }
            if end {
                break;
            }
            self.read(None)?;
            if self.has_left() {
                return Ok(());
            }
        }
        if let Some(Fault::Held) = behaviour.fault {
            while locked(&self.shared.script).version == version {
                self.wait(GLANCE)?;
                if self.has_left() {
                    return Ok(());
                }
            }
            behaviour = locked(&self.shared.script).next();
        }
        if let Some(Fault::Silent | Fault::Held) = behaviour.fault {
            return self.hear_out();
        }
        self.wait(behaviour.delay)?;
        let request = locked(self.connection).clone();
        if request.lines.first().is_some_and(|line| line.trim() == "begin") {
            self.answer(&behaviour, &request)?;
        }
        if let Some(Fault::HangAfter(_)) = behaviour.fault {
            return self.hear_out();
        }
        // Writes the record first, because a client that sees the end may open its next connection at once.
        locked(self.connection).closed.get_or_insert_with(Instant::now);
        self.stream.shutdown(Shutdown::Write)?;
        // Closing a socket with unread bytes would reset the connection, and the client would lose the answer.
        self.hear_out()
    }

    fn answer(&mut self, behaviour: &Behaviour, request: &Connection) -> io::Result<()> {
        let answer = behaviour.answer(&self.shared.routes, request);
        if let Some(Fault::Drip { every }) = behaviour.fault {
            for byte in answer {
                self.send(&[byte])?;
                self.wait(every)?;
                if self.has_left() {
                    return Ok(());
                }
            }
        } else {
            self.send(&answer)?;
            while let Some(more) = behaviour.more(request) {
                self.send(&more)?;
            }
        }
        let mut connection = locked(self.connection);
        if connection.left.is_none()
            && !matches!(behaviour.fault, Some(Fault::CloseAfter { .. } | Fault::HangAfter(_)))
        {
            connection.completed = Some(Instant::now());
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        locked(self.connection).answered.get_or_insert_with(Instant::now);
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(written) => {
                    sent += written;
                    locked(self.connection).sent += written as u64;
                }
                Err(problem) if problem.kind() == ErrorKind::Interrupted => {}
                Err(problem) => {
                    locked(self.connection).left.get_or_insert_with(Instant::now);
                    return Err(problem);
                }
            }
        }
        Ok(())
    }

    fn has_left(&self) -> bool {
        let connection = locked(self.connection);
        connection.left.is_some() || connection.closed.is_some()
    }

    fn hear_out(&mut self) -> io::Result<()> {
        while locked(self.connection).left.is_none() {
            self.read(None)?;
        }
        Ok(())
    }

    /// Waits for this time, and reads the client's lines meanwhile. Ends early if the client leaves or `stop` is
    /// called.
    fn wait(&mut self, how_long: Duration) -> io::Result<()> {
        let started = Instant::now();
        while let Some(rest) = how_long.checked_sub(started.elapsed()).filter(|rest| !rest.is_zero()) {
            let (left, stopped) = {
                let connection = locked(self.connection);
                (connection.left.is_some(), connection.closed.is_some())
            };
            if stopped {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            // A client that has only stopped sending still gets its answer.
            if left {
                std::thread::sleep(rest.min(GLANCE));
            } else {
                self.read(Some(rest.max(Duration::from_millis(1))))?;
            }
        }
        Ok(())
    }

    /// Waits for bytes, at most for the time `limit`. Records the lines that have arrived, or that the client has left.
    fn read(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(limit)?;
        let mut bytes = [0; 16_384];
        match self.stream.read(&mut bytes) {
            Ok(0) => {
                locked(self.connection).left.get_or_insert_with(Instant::now);
            }
            Ok(received) => {
                self.unread.extend_from_slice(&bytes[..received]);
                let mut connection = locked(self.connection);
                while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                    connection.received(&self.unread[..end]);
                    self.unread.drain(..=end);
                }
            }
            Err(problem)
                if matches!(
                    problem.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(problem) => {
                locked(self.connection).left.get_or_insert_with(Instant::now);
                return Err(problem);
            }
        }
        Ok(())
    }
}
