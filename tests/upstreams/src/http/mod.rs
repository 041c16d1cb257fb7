//! One HTTP service on 127.0.0.1: a thread that accepts, and one for each connection.
//!
//! Implements the part of HTTP/1.1 that clients of these services need: GET requests, and three ways to send a body.
//! The answer gives the length of the body, or sends the body in chunks, or ends the connection after the body. In the
//! first two cases the connection stays open for the next request. The answer to a request is chosen when its head was
//! read.
//!
//! Locking: the script, the record and each request in it each have a mutex. No thread holds two of them, and no thread
//! holds one while it reads or writes a socket.

mod behaviour;
mod connection;
mod record;
mod services;
pub(crate) mod wire;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use behaviour::{CannedAnswer, CustomHttpAnswer, HttpBehaviour, HttpFault};
pub use record::HttpRequest;
pub use services::Service;

use crate::hosts::Hosts;
use crate::listener::Listener;
use crate::locked;
use record::HttpRecord;

/// Interval at which a waiting connection checks for a new behaviour or the client's end.
const GLANCE: Duration = Duration::from_millis(10);

/// Initial balance of a SPUR token.
const BALANCE: u64 = 100_000;

/// A stand-in for one of the services.
pub struct Http {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Mutex<Option<Listener>>,
}

struct Shared {
    service: Service,
    hosts: Hosts,
    script: Mutex<Script>,
    required: Mutex<Vec<(String, String)>>,
    record: HttpRecord,
    open: Mutex<Vec<Arc<Open>>>,
    accepted: AtomicUsize,
    /// Balance of the token that SPUR reports.
    balance: AtomicU64,
}

/// An open connection, for `stop`.
struct Open {
    number: usize,
    stream: TcpStream,
}

struct Script {
    general: HttpBehaviour,
    of_one: HashMap<IpAddr, HttpBehaviour>,
    /// Counts the calls of `behave` and `behave_for`.
    version: u64,
}

impl Script {
    fn of(&self, ip: Option<IpAddr>) -> HttpBehaviour {
        ip.and_then(|ip| self.of_one.get(&ip)).unwrap_or(&self.general).clone()
    }
}

impl Http {
    /// Listens on 127.0.0.1, on a free port.
    pub fn start(service: Service, hosts: Hosts) -> Http {
        Http::start_on((Ipv4Addr::LOCALHOST, 0).into(), service, hosts)
            .expect("a free port of 127.0.0.1 can be had")
    }

    pub fn start_on(address: SocketAddr, service: Service, hosts: Hosts) -> io::Result<Http> {
        let shared = Arc::new(Shared {
            service,
            hosts,
            script: Mutex::new(Script {
                general: HttpBehaviour::normal(),
                of_one: HashMap::new(),
                version: 0,
            }),
            required: Mutex::default(),
            record: HttpRecord::default(),
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            balance: AtomicU64::new(BALANCE),
        });
        let listener = listen(address, &shared)?;
        Ok(Http { address: listener.address(), shared, listener: Mutex::new(Some(listener)) })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the URL for the client's configuration: the part before the slash and the address.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.shared.service.path().trim_end_matches('/'))
    }

    /// Sets the behaviour for all later requests and for those that `HttpFault::Held` holds. Ends the effect of
    /// `behave_for`.
    pub fn behave(&self, behaviour: impl Into<HttpBehaviour>) {
        let mut script = locked(&self.shared.script);
        script.general = behaviour.into();
        script.of_one.clear();
        script.version += 1;
    }

    /// Sets the behaviour for requests about this address until `behave` is called. This includes requests that are
    /// held now.
    pub fn behave_for(&self, ip: IpAddr, behaviour: impl Into<HttpBehaviour>) {
        let mut script = locked(&self.shared.script);
        script.of_one.insert(ip, behaviour.into());
        script.version += 1;
    }

    /// Makes the service answer only requests with this header. Other requests get a 401. If the header was required
    /// before, the new value replaces the old one. Faults in which the service itself does not answer need no key.
    pub fn require(&self, header: &str, value: &str) {
        let mut required = locked(&self.shared.required);
        required.retain(|(other, _)| !other.eq_ignore_ascii_case(header));
        required.push((header.to_owned(), value.to_owned()));
    }

    /// Refuses connections from now on and closes those that are open.
    pub fn stop(&self) {
        drop(locked(&self.listener).take());
        let open = std::mem::take(&mut *locked(&self.shared.open));
        // Writes the record first, as at every end of a request. The clients have not left, so the record must not say
        // so.
        self.shared.record.end_all();
        for connection in open {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }

    /// Accepts connections again, on the same port.
    ///
    /// # Panics
    /// When another program has taken the port and keeps it.
    pub fn start_again(&self) {
        Listener::reopen(&mut locked(&self.listener), || listen(self.address, &self.shared));
    }

    /// Returns the requests in the order in which their heads were read.
    pub fn requests(&self) -> Vec<HttpRequest> {
        self.shared.record.requests()
    }

    /// Starts a new record. Requests that are in progress now are not in it.
    pub fn forget(&self) {
        self.shared.record.forget();
    }

    /// Returns the largest number of requests of the record that were in progress at one time.
    pub fn most_at_once(&self) -> usize {
        record::most_at_once(&self.requests())
    }

    /// Returns the largest number of requests of the record that arrived within a window of this length. The end of the
    /// window is excluded.
    pub fn most_within(&self, window: Duration) -> usize {
        record::most_within(&self.requests(), window)
    }

    /// Returns the number of requests that were read and are not answered yet. This includes requests that are held,
    /// and requests before the last `forget`.
    pub fn in_progress(&self) -> usize {
        self.shared.record.in_progress()
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(address: SocketAddr, shared: &Arc<Shared>) -> io::Result<Listener> {
    let shared = Arc::clone(shared);
    Listener::open(address, move |stream| {
        let Ok(handle) = stream.try_clone() else { return };
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let open = Arc::new(Open { number, stream: handle });
        locked(&shared.open).push(Arc::clone(&open));
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || {
            // An error ends the connection, and is recorded.
            let _ = connection::serve(stream, &shared, &open);
            locked(&shared.open).retain(|other| !Arc::ptr_eq(other, &open));
        });
    })
}
