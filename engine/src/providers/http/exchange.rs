//! Sends one HTTP request and reads the response.
//!
//! An exchange has one host, one deadline, and a limit on received bytes. The deadline covers all steps from the name
//! resolution to the last byte of the body. The client does not follow a redirect, but treats it as a response like any
//! other. A proxy is used only if the settings name one. The unpacked body is limited to one MiB. All bytes of a
//! response together are limited to two MiB (see `bounded`).
//!
//! Connections stay open after an exchange, because the next request then takes one round trip instead of four. The
//! static variable `AGENTS` contains the HTTP agents, which own the connections. Agents exist longer than the threads
//! that use them. A thread locks `AGENTS` only for a short time, and never while it sends data.

use super::bounded::{BoundedConnector, CONNECTED, LONGEST_BODY};
use super::target::Target;
use crate::net::Failure;
use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::config::Config;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Error, Proxy, Timeout};

/// Buffer sizes in bytes. Each kept connection has both buffers.
const INPUT_BUFFER: usize = 32 * 1024;
const OUTPUT_BUFFER: usize = 8 * 1024;

/// Maximum length of the head of a response, in bytes. It must be less than `INPUT_BUFFER`. Otherwise a head that fills
/// the buffer would look like a truncated head.
const LONGEST_HEAD: usize = 16 * 1024;

/// Maximum number of idle connections. The settings allow the same number of concurrent exchanges with one host.
const MOST_IDLE: usize = 32;

/// Maximum number of HTTP agents in the cache. Each provider needs one agent for its current settings, and for a short
/// time one for its previous settings.
const MOST_AGENTS: usize = 8;

/// If an agent is not used for the time `LONGEST_IDLE`, it is dropped, because agents hold connections. `LONGEST_LIFE`
/// limits the age of an agent that is always in use. Otherwise this agent would never notice that the system's root
/// certificates have changed.
const LONGEST_IDLE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(60 * 60);

/// First part of the User-Agent header that is sent to providers (RFC 9110, section 10.1.5).
pub(crate) const USER_AGENT: &str = concat!("cowrie_enrich/", env!("CARGO_PKG_VERSION"));

pub(crate) struct Request<'a> {
    pub(crate) target: &'a Target,
    /// A URL of `target`.
    pub(crate) url: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) timeout: Duration,
    /// Proxy for the request. It is not used if the host of the request is this machine.
    pub(crate) proxy: Option<String>,
}

pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Result<Vec<u8>, Failure>,
}

/// Sends a GET request. Returns the head of the response, and the body. If the body is incomplete, returns the reason
/// instead of the body. ureq cannot be interrupted, so a caller that was cancelled may have to wait until the deadline.
pub(super) fn get(request: Request<'_>) -> Result<Response, Failure> {
    send(request, |agent, url, headers| {
        headers.into_iter().fold(agent.get(url), |call, (name, value)| call.header(name, value)).call()
    })
}

/// Sends a POST request with a body.
pub(crate) fn post(request: Request<'_>, body: &[u8]) -> Result<Response, Failure> {
    send(request, |agent, url, headers| {
        headers.into_iter().fold(agent.post(url), |call, (name, value)| call.header(name, value)).send(body)
    })
}

type Headers = Vec<(HeaderName, HeaderValue)>;

fn send(
    mut request: Request<'_>,
    call: impl FnOnce(&Agent, &str, Headers) -> Result<ureq::http::Response<ureq::Body>, Error>,
) -> Result<Response, Failure> {
    let proxy = request.proxy.take().filter(|_| !request.target.loopback);
    let settings = AgentSettings { timeout: request.timeout, proxy };
    let proxied = settings.proxy.is_some();
    let agent = AGENTS.lock().unwrap_or_else(PoisonError::into_inner).get(&settings, Instant::now());
    let agent = agent.map_err(|error| failure_of(error, &request.target.host, proxied))?;
    send_with(&agent, request, proxied, call)
}

fn send_with(
    agent: &Agent,
    request: Request<'_>,
    proxied: bool,
    call: impl FnOnce(&Agent, &str, Headers) -> Result<ureq::http::Response<ureq::Body>, Error>,
) -> Result<Response, Failure> {
    let host = &request.target.host;
    CONNECTED.take();
    let response =
        call(agent, &request.url, request.headers).map_err(|error| failure_of(error, host, proxied))?;
    let (head, body) = response.into_parts();
    let body = read(body.into_reader()).map_err(|error| match Error::from(error) {
        Error::Timeout(_) => Failure::TooSlow,
        error => failure_of(error, host, proxied),
    });
    Ok(Response {
        status: head.status,
        headers: head.headers,
        body: body.and_then(|body| body.ok_or(Failure::TooLarge)),
    })
}

/// Returns the time from `begun` until the last request of this thread had a connection. If the connection already
/// existed, the time is zero. If no connection was established, returns `None`. The TLS handshake comes later, so its
/// time is not included.
pub(super) fn connected(begun: Instant, failure: Option<&Failure>) -> Option<Duration> {
    match CONNECTED.take() {
        Some(at) => Some(at.saturating_duration_since(begun)),
        None => (!failure.is_some_and(Failure::is_unreachable)).then_some(Duration::ZERO),
    }
}

/// Reads a body up to the maximum length. If the body is longer, stops and returns `None`.
fn read(body: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    body.take(LONGEST_BODY + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= LONGEST_BODY))
}

/// The settings of an agent.
#[derive(Clone, PartialEq, Eq)]
struct AgentSettings {
    timeout: Duration,
    proxy: Option<String>,
}

struct CachedAgent {
    settings: AgentSettings,
    agent: Agent,
    made: Instant,
    used: Instant,
}

/// The agents, ordered by the time of their last use. The agent that was used most recently is at the end.
struct Agents(Vec<CachedAgent>);

static AGENTS: Mutex<Agents> = Mutex::new(Agents(Vec::new()));

impl Agents {
    fn get(&mut self, settings: &AgentSettings, now: Instant) -> Result<Agent, Error> {
        self.0.retain(|cached| {
            now.saturating_duration_since(cached.used) < LONGEST_IDLE
                && now.saturating_duration_since(cached.made) < LONGEST_LIFE
        });
        let cached = match self.0.iter().position(|cached| cached.settings == *settings) {
            Some(place) => CachedAgent { used: now, ..self.0.remove(place) },
            None => {
                CachedAgent { settings: settings.clone(), agent: new_agent(settings)?, made: now, used: now }
            }
        };
        if self.0.len() >= MOST_AGENTS {
            self.0.remove(0);
        }
        let agent = cached.agent.clone();
        self.0.push(cached);
        Ok(agent)
    }
}

fn new_agent(settings: &AgentSettings) -> Result<Agent, Error> {
    let connector = DefaultConnector::new().chain(BoundedConnector);
    Ok(Agent::with_parts(config(settings)?, connector, DefaultResolver::default()))
}

fn config(settings: &AgentSettings) -> Result<Config, Error> {
    // The cryptography provider is passed explicitly, because this crate does not set a default for the process.
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        // The proxy is always set, even if it is `None`. Otherwise ureq would read a proxy from the environment.
        .proxy(settings.proxy.as_deref().map(Proxy::new).transpose()?)
        .user_agent(USER_AGENT)
        .accept("application/json")
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(settings.timeout))
        // Resolving the name may take half of the time, and connecting may take half of the time. So the error shows
        // which step failed: the name resolution, the connection, or the response.
        .timeout_resolve(Some(settings.timeout / 2))
        .timeout_connect(Some(settings.timeout / 2))
        .max_response_header_size(LONGEST_HEAD)
        .input_buffer_size(INPUT_BUFFER)
        .output_buffer_size(OUTPUT_BUFFER)
        .max_idle_connections(MOST_IDLE)
        .max_idle_connections_per_host(MOST_IDLE)
        .build();
    Ok(config)
}

/// Returns true if the client can use this proxy. The client does not support SOCKS.
pub(super) fn is_proxy(url: &str) -> bool {
    Proxy::new(url)
        .is_ok_and(|proxy| matches!(proxy.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https))
}

/// Converts an error of ureq. The error texts of ureq may contain the URL. So only the texts of the system and of
/// rustls are passed on.
fn failure_of(error: Error, host: &str, proxied: bool) -> Failure {
    let through = if proxied { " through the proxy" } else { "" };
    let connect =
        |why: String| Failure::Connect(format!("could not connect to {host:.80}{through}: {why:.100}"));
    match error {
        Error::Timeout(Timeout::Resolve) => {
            Failure::Resolve(format!("could not resolve {host:.80}: no answer within the timeout"))
        }
        Error::Timeout(Timeout::Connect) => Failure::ConnectTimeout,
        Error::Timeout(_) => Failure::Silent,
        Error::HostNotFound => Failure::Resolve(format!("could not resolve {host:.80}: no address")),
        Error::Rustls(error) => connect(error.to_string()),
        Error::Tls(why) => connect(why.to_owned()),
        Error::ConnectionFailed => connect("no reason given".to_owned()),
        Error::ConnectProxyFailed(why) => connect(why),
        Error::InvalidProxyUrl => connect("the proxy's URL is malformed".to_owned()),
        Error::LargeResponseHeader(..) | Error::BodyExceedsLimit(_) => Failure::TooLarge,
        Error::Protocol(_) => Failure::Malformed(format!("{host:.80} did not answer in HTTP")),
        Error::Decompress(_, error) if error.kind() == ErrorKind::UnexpectedEof => Failure::Cut,
        Error::Decompress(..) => Failure::Malformed("the answer could not be decompressed".to_owned()),
        Error::Io(error) => failure_of_io(&error, host, connect),
        _ => Failure::Io(format!("could not send a request to {host:.80}")),
    }
}

fn failure_of_io(error: &std::io::Error, host: &str, connect: impl Fn(String) -> Failure) -> Failure {
    // The standard library has no error kind for a failed call of `getaddrinfo`. The text of this error begins with
    // these words.
    const UNRESOLVED: &str = "failed to lookup address information";
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match error.kind() {
        _ if tls.is_some() => connect(error.to_string()),
        ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::AddrNotAvailable => connect(error.to_string()),
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe => Failure::Cut,
        _ if error.to_string().starts_with(UNRESOLVED) => {
            Failure::Resolve(format!("could not resolve {host:.80}: {error:.100}"))
        }
        _ => Failure::Io(format!("could not send a request to {host:.80}: {error:.100}")),
    }
}

/// Runs `get` with a simulated server that sends exactly these bytes. Returns the result, and the number of bytes that
/// the client read.
#[cfg(any(test, fuzzing))]
pub(super) fn get_from_memory(request: Request<'_>, bytes: &[u8]) -> (Result<Response, Failure>, usize) {
    use super::memory::{CannedConnector, FixedResolver};
    let memory = CannedConnector::new(bytes);
    let settings = AgentSettings { timeout: request.timeout, proxy: None };
    let agent = match config(&settings) {
        Ok(config) => Agent::with_parts(config, memory.clone().chain(BoundedConnector), FixedResolver),
        Err(error) => return (Err(failure_of(error, &request.target.host, false)), 0),
    };
    let answer = send_with(&agent, request, false, |agent, url, headers| {
        headers.into_iter().fold(agent.get(url), |call, (name, value)| call.header(name, value)).call()
    });
    (answer, memory.taken())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unpacks to an unlimited length.
    struct Bomb(u64);

    impl Read for Bomb {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0 += into.len() as u64;
            assert!(self.0 <= 2 * LONGEST_BODY, "reads on");
            into.fill(b' ');
            Ok(into.len())
        }
    }

    #[test]
    fn body_is_read_up_to_its_longest() {
        assert!(read(Bomb(0)).unwrap().is_none());
        assert_eq!(read(&b"{}"[..]).unwrap().as_deref(), Some(&b"{}"[..]));
    }

    fn settings(seconds: u64) -> AgentSettings {
        AgentSettings { timeout: Duration::from_secs(seconds), proxy: None }
    }

    #[test]
    fn agents_are_few_and_the_one_in_use_stays() {
        let (mut agents, now) = (Agents(Vec::new()), Instant::now());
        for seconds in 1..50 {
            agents.get(&settings(seconds), now).unwrap();
            agents.get(&settings(1), now).unwrap();
            assert!(agents.0.len() <= MOST_AGENTS);
        }
        let seconds = |cached: &CachedAgent| cached.settings.timeout.as_secs();
        assert_eq!(agents.0.iter().map(seconds).collect::<Vec<_>>(), [43, 44, 45, 46, 47, 48, 49, 1]);
    }

    #[test]
    fn agents_go_when_idle_and_when_old() {
        let (mut agents, begun) = (Agents(Vec::new()), Instant::now());
        agents.get(&settings(1), begun).unwrap();
        for minute in 0..60 {
            let now = begun + Duration::from_secs(minute * 60);
            agents.get(&settings(2), now - Duration::from_secs(if minute == 0 { 0 } else { 30 })).unwrap();
            agents.get(&settings(2), now).unwrap();
            assert_eq!(agents.0.last().map(|cached| cached.made), Some(begun));
        }
        assert_eq!(agents.0.len(), 1);
        let later = begun + LONGEST_LIFE;
        agents.get(&settings(2), later).unwrap();
        assert_eq!(agents.0.last().map(|cached| cached.made), Some(later));
    }
}
