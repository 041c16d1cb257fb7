//! Answers: what came of one request?
//!
//! The rule: one deadline, one host, one MiB. The time holds for everything from resolving the name to the last byte of
//! the body; a redirect is an answer like any other and is not followed; and no proxy is asked but the one that is set.
//! The MiB is of the body, unpacked; all bytes of an answer together may be twice that, which `bounded` sees to.
//!
//! Connections are kept between exchanges, for a request costs one round trip then and not four: agents outlive the
//! threads that use them, in `AGENTS`. That lock is held for moments only, never while anything is sent.

use super::bounded::{BoundedConnector, CONNECTED};
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

/// Bytes of a body, unpacked. The largest answers known have some dozens of KiB.
pub(super) const LONGEST_BODY: u64 = 1024 * 1024;

/// Bytes. Each kept connection holds buffers of both sizes.
const INPUT_BUFFER: usize = 32 * 1024;
const OUTPUT_BUFFER: usize = 8 * 1024;

/// Bytes; less than `INPUT_BUFFER`, or a head that fills that would look like one that was cut.
const LONGEST_HEAD: usize = 16 * 1024;

/// As many as may be asked at a time; more to one host is not set.
const MOST_IDLE: usize = 32;

/// Providers times what their settings were a moment ago.
const MOST_AGENTS: usize = 8;

/// An agent that nobody uses holds connections; one that is always used would never see that the system's roots have
/// changed.
const LONGEST_IDLE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(60 * 60);

/// What providers see of the client, first of all; RFC 9110 section 10.1.5.
pub(crate) const USER_AGENT: &str = concat!("cowrie_enrich/", env!("CARGO_PKG_VERSION"));

pub(crate) struct Request<'a> {
    pub(crate) target: &'a Target,
    /// Of `target`.
    pub(crate) url: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) timeout: Duration,
    /// Of all exchanges but those with this host itself.
    pub(crate) proxy: Option<String>,
}

pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Result<Vec<u8>, Failure>,
}

/// The head of an answer, and as much of its body as could be had. ureq cannot be interrupted: who cancels waits for
/// the deadline at most.
pub(super) fn get(request: Request<'_>) -> Result<Response, Failure> {
    send(request, |agent, url, headers| {
        headers.into_iter().fold(agent.get(url), |call, (name, value)| call.header(name, value)).call()
    })
}

/// The same of a request with a body.
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

/// How long it took this thread's last request, begun then, to have a connection: no time where one was kept. `None`:
/// none came about. What TLS has to agree on comes after it.
pub(super) fn connected(begun: Instant, failure: Option<&Failure>) -> Option<Duration> {
    match CONNECTED.take() {
        Some(at) => Some(at.saturating_duration_since(begun)),
        None => (!failure.is_some_and(Failure::is_unreachable)).then_some(Duration::ZERO),
    }
}

/// Stops reading behind the longest body, and gives `None` then.
fn read(body: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    body.take(LONGEST_BODY + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= LONGEST_BODY))
}

/// What an agent is made for.
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

/// The one used last is the last.
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
    // Not the process's default provider of cryptography: setting that is up to nobody in particular here.
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        // Always said: what is not said, ureq takes from the environment.
        .proxy(settings.proxy.as_deref().map(Proxy::new).transpose()?)
        .user_agent(USER_AGENT)
        .accept("application/json")
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(settings.timeout))
        // A name without an answer is told from a host without one, and from a host that says nothing.
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

/// Whether that proxy can be used; SOCKS is not built in.
pub(super) fn is_proxy(url: &str) -> bool {
    Proxy::new(url)
        .is_ok_and(|proxy| matches!(proxy.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https))
}

/// ureq's own texts may hold the URL: what is passed on is the system's word, or rustls's.
fn failure_of(error: Error, host: &str, proxied: bool) -> Failure {
    let through = if proxied { " through the proxy" } else { "" };
    let connect =
        |why: String| Failure::Connect(format!("could not connect to {host:.80}{through}: {why:.100}"));
    match error {
        Error::Timeout(Timeout::Resolve) => {
            Failure::Resolve(format!("could not resolve {host:.80}: no answer within the time allowed"))
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
        _ => Failure::Io(format!("could not ask {host:.80}")),
    }
}

fn failure_of_io(error: &std::io::Error, host: &str, connect: impl Fn(String) -> Failure) -> Failure {
    // As the standard library begins the text of a failed `getaddrinfo`; there is no kind for it.
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
        _ => Failure::Io(format!("could not ask {host:.80}: {error:.100}")),
    }
}

/// What `get` makes of these bytes as the server's, all of them there at once, then the end; and how many it read.
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

    /// Unpacks to as much as anybody wants.
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
