//! HTTP providers, with one address per request.
//!
//! An `HttpService` describes one provider: it contains data, and one function that reads the provider's responses.
//! This folder contains the code that all services share. If the function of a service does not decide otherwise, the
//! status of a response has the following meaning.
//!
//! | status | means |
//! |---|---|
//! | 200 | an answer, which the service's function reads |
//! | 400 | the provider does not accept the lookup |
//! | 401, 403 | the provider does not accept the key: stop |
//! | 429, and 503 with a time | pause |
//! | all others, including redirects | failure |
//!
//! | file | holds |
//! |---|---|
//! | `settings` | the settings that all HTTP providers share |
//! | `target` | the URL, and the check that a key may be sent to it |
//! | `secret` | keys |
//! | `exchange` | one request and its response |
//! | `bounded` | the limit on received bytes |

mod bounded;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;
#[cfg(any(test, fuzzing))]
mod memory;
mod secret;
#[cfg(test)]
mod servers;
pub mod settings;
mod target;
#[cfg(test)]
pub(super) mod tests;

pub(super) use settings::{Common, HTTP_PROXY};

use super::{
    Answer, Demand, Failure, Finding, JsonObject, Lifetimes, Limits, Provider, Purpose, Reply, Setting,
    Settings,
};
use crate::address::{self, Address};
use crate::net::Cancel;
pub(crate) use exchange::{Request, Response, USER_AGENT, post};
use secret::Secret;
use serde_json::Value;
use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant, SystemTime};
pub(crate) use target::Target;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};

/// Maximum length of the JSON that is stored for one answer, in bytes. Larger rows would make queries of the table
/// slow.
const LONGEST_KEPT: usize = 64 * 1024;

/// Maximum length, in characters, of a provider's message, and of the contact that is sent to the provider.
const LONGEST_WORDS: usize = 100;
const LONGEST_CONTACT: usize = 200;

/// Shortest and longest pause that a provider can request. A longer time is probably a mistake, and a time of zero
/// would be no pause. Such a time is replaced by the nearer limit.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// An HTTP provider. Its service contains everything else.
pub(super) trait HttpProvider: Sync {
    fn service(&self) -> &'static HttpService;

    /// See [`Provider::leaves_out_benign_scanners`].
    fn leaves_out_benign_scanners(&self) -> bool {
        false
    }
}

/// Data about one provider: the values that the methods of the provider return, and the data from which requests are
/// made.
pub(super) struct HttpService {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) purpose: Purpose,
    pub(super) takes: fn(Address) -> bool,
    /// The settings of `common`, `key` and `contact`, and the proxy.
    pub(super) settings: &'static [&'static Setting],
    pub(super) common: Common,
    /// Text after the address in the URL.
    pub(super) suffix: &'static str,
    pub(super) key: Option<Key>,
    /// Setting for the contact in the User-Agent. The provider requires it.
    pub(super) contact: Option<&'static Setting>,
    pub(super) backoff: Backoff,
    /// Reads a response. Returns `None` if the status alone decides.
    pub(super) read: fn(Address, &HttpResponse<'_>) -> Option<ReadResult>,
    /// See `Reply::notice`.
    pub(super) notice: fn(&HeaderMap) -> Option<String>,
}

/// A key, and the header that carries it.
pub(super) struct Key {
    pub(super) file: &'static Setting,
    pub(super) header: &'static str,
    /// Terms of requests without a key, if the provider allows them.
    pub(super) keyless: Option<Keyless>,
}

/// Terms for requests without a key. To accept the terms, an operator sets the setting of the key file to the word
/// `word`.
pub(super) struct Keyless {
    pub(super) word: &'static str,
    /// Maximum number of requests without a key in one day. It applies even if the setting allows more requests.
    pub(super) daily_quota: u32,
}

/// Pause after a response with status 429.
pub(super) struct Backoff {
    /// Used if the provider names no time.
    pub(super) default: Duration,
    /// The shortest pause. If the provider states a shorter time, this pause is used instead.
    pub(super) minimum: Duration,
}

/// A response, as the function `read` of a service gets it.
pub(super) struct HttpResponse<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
}

/// The result of the service's function.
pub(super) enum ReadResult {
    Answer(Answer),
    /// The response is about another address.
    Foreign,
    /// The response is invalid. Contains the reason.
    Malformed(&'static str),
    /// The provider could not answer. Contains its message.
    Failed(String),
}

/// The parts from which a request is made.
struct RequestParts {
    target: Target,
    headers: Vec<(HeaderName, HeaderValue)>,
    secret: Option<Secret>,
    proxy: Option<String>,
}

/// The result of reading the key file. `Ok(None)` means that no key file is set. `Err` contains a sentence that names
/// the setting.
type ReadKey = Result<Option<Secret>, String>;

/// Why no request was sent.
enum PrepareError {
    Settings(String),
    /// The key file is invalid.
    Key(String),
}

impl<T: HttpProvider> Provider for T {
    fn name(&self) -> &'static str {
        self.service().name
    }

    fn title(&self) -> &'static str {
        self.service().title
    }

    fn settings(&self) -> &'static [&'static Setting] {
        self.service().settings
    }

    fn limits(&self, settings: &Settings) -> Limits {
        let service = self.service();
        let mut limits = service.common.limits(settings);
        if let Some(terms) = service.key.as_ref().and_then(|key| key.keyless(settings)) {
            // 0 means no limit.
            limits.daily_quota = match limits.daily_quota {
                0 => terms.daily_quota,
                own => own.min(terms.daily_quota),
            };
        }
        limits
    }

    fn lifetimes(&self, settings: &Settings) -> Lifetimes {
        self.service().common.lifetimes(settings)
    }

    fn blocked_reason(&self, settings: &Settings) -> Option<String> {
        let service = self.service();
        service.target(settings).and_then(|_| service.user_agent(settings)).err()
    }

    fn credentials(&self, settings: &Settings) -> u64 {
        let service = self.service();
        service.credentials(settings, &service.read_key(settings))
    }

    fn takes(&self, address: Address) -> bool {
        (self.service().takes)(address)
    }

    fn leaves_out_benign_scanners(&self) -> bool {
        HttpProvider::leaves_out_benign_scanners(self)
    }

    fn purpose(&self) -> Purpose {
        self.service().purpose
    }

    fn fetch(&self, addresses: &[Address], settings: &Settings, cancel: &Cancel) -> Reply {
        self.service().fetch(addresses, settings, cancel)
    }
}

impl HttpService {
    /// Returns a hash of the URL, the contact and the key. If the key file cannot be read, the hash differs from the
    /// hash of every valid key.
    fn credentials(&self, settings: &Settings, read: &ReadKey) -> u64 {
        // This hash function uses constants as its keys, so every process computes the same number.
        let mut hasher = DefaultHasher::new();
        settings.text(self.common.url).hash(&mut hasher);
        self.contact.and_then(|setting| settings.text(setting)).hash(&mut hasher);
        match read {
            Ok(Some(secret)) => secret.bytes().hash(&mut hasher),
            Ok(None) => 0_u8.hash(&mut hasher),
            Err(why) => (1_u8, why).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Looks up only the first address. Further addresses get no answer. Reads the key file only once, so
    /// `Reply::credentials` belongs to the key that was sent.
    fn fetch(&self, addresses: &[Address], settings: &Settings, cancel: &Cancel) -> Reply {
        let Some(address) = addresses.first().copied() else {
            return Reply { unsent: true, ..Reply::default() };
        };
        let read = self.read_key(settings);
        let credentials = Some(self.credentials(settings, &read));
        let reply = match self.prepare(settings, read) {
            Ok(_) if cancel.is_set() => Reply::unsent(Failure::Cancelled),
            Ok(prepared) => self.ask(address, settings, prepared),
            Err(PrepareError::Settings(why)) => Reply::unsent(Failure::Io(why)),
            // A retry would not help.
            Err(PrepareError::Key(why)) => {
                Reply { demand: Some(Demand::Stop(why.clone())), ..Reply::unsent(Failure::Io(why)) }
            }
        };
        Reply { credentials, ..reply }
    }

    fn ask(&self, address: Address, settings: &Settings, prepared: RequestParts) -> Reply {
        let begun = Instant::now();
        let request = Request {
            url: prepared.target.about(address, self.suffix),
            target: &prepared.target,
            headers: prepared.headers,
            timeout: self.common.timeout(settings),
            proxy: prepared.proxy,
        };
        let reply = match exchange::get(request) {
            Ok(response) => self.judge(address, &response, prepared.secret.as_ref()),
            Err(failure) => Reply::failed(failure),
        };
        Reply { connected: exchange::connected(begun, reply.failure.as_ref()), ..reply }
    }

    fn read_key(&self, settings: &Settings) -> ReadKey {
        self.key.as_ref().map_or(Ok(None), |key| key.read(settings))
    }

    fn prepare(&self, settings: &Settings, read: ReadKey) -> Result<RequestParts, PrepareError> {
        let target = self.target(settings).map_err(PrepareError::Settings)?;
        let user_agent = self.user_agent(settings).map_err(PrepareError::Settings)?;
        let secret = read.map_err(PrepareError::Key)?;
        let mut headers = vec![(header::USER_AGENT, user_agent)];
        if let (Some(key), Some(value)) = (&self.key, secret.as_ref().and_then(Secret::header)) {
            headers.push((HeaderName::from_static(key.header), value));
        }
        Ok(RequestParts { target, headers, secret, proxy: settings.text(&HTTP_PROXY) })
    }

    /// Returns an error if the settings do not allow requests.
    fn target(&self, settings: &Settings) -> Result<Target, String> {
        let name = name(self.common.url);
        let url = settings.text(self.common.url).ok_or_else(|| format!("{name} is not set"))?;
        let target = Target::parse(&url).map_err(|why| format!("{name} {why}"))?;
        if settings.text(&HTTP_PROXY).is_some_and(|proxy| !exchange::is_proxy(&proxy)) {
            return Err(format!("{} is not the http or https URL of a proxy", self::name(&HTTP_PROXY)));
        }
        if let Some(key) = &self.key {
            match settings.text(key.file) {
                None => return Err(key.missing()),
                Some(_) if key.keyless(settings).is_none() && !target.may_see_keys() => {
                    return Err(format!("{name} is not an https URL, and {} is set", self::name(key.file)));
                }
                _ => {}
            }
        }
        Ok(target)
    }

    fn user_agent(&self, settings: &Settings) -> Result<HeaderValue, String> {
        let Some(setting) = self.contact else {
            return Ok(HeaderValue::from_static(USER_AGENT));
        };
        let name = name(setting);
        let contact = settings.text(setting).ok_or_else(|| {
            format!("{name} is not set: {} requires your e-mail address or URL", self.title)
        })?;
        let visible =
            contact.bytes().all(|byte| matches!(byte, b' '..=b'~')) && contact.len() <= LONGEST_CONTACT;
        let header = visible.then(|| HeaderValue::from_str(&format!("{USER_AGENT} ({contact})")).ok());
        header
            .flatten()
            .ok_or_else(|| format!("{name} is not one line of at most 200 visible ASCII characters"))
    }

    fn judge(&self, address: Address, response: &Response, secret: Option<&Secret>) -> Reply {
        let hide = |text: &str| secret.map_or_else(|| text.to_owned(), |secret| secret.hide_in(text));
        let mut reply = match &response.body {
            Ok(body) => {
                let body = secret.map_or(Cow::Borrowed(&body[..]), |secret| secret.hide_in_bytes(body));
                self.judge_body(address, response, &body, secret, &hide)
            }
            Err(failure) if response.status.is_success() => Reply::failed(failure.clone()),
            // The status is sufficient.
            Err(_) => self.judge_status(address, response, b"", &hide),
        };
        reply.notice = (self.notice)(&response.headers).map(|notice| hide(&notice));
        reply
    }

    fn judge_body(
        &self,
        address: Address,
        response: &Response,
        body: &[u8],
        secret: Option<&Secret>,
        hide: &dyn Fn(&str) -> String,
    ) -> Reply {
        let mut reply = Reply::default();
        match (self.read)(address, &HttpResponse { status: response.status.as_u16(), body }) {
            Some(ReadResult::Answer(answer)) => match keep(answer, secret) {
                Some(answer) => {
                    reply.answers.insert(address, answer);
                }
                None => {
                    reply.failure = Some(Failure::TooLarge);
                    reply.anomalies.oversized = 1;
                    // The answer would be too long again.
                    reply.blames_lookup = true;
                }
            },
            Some(ReadResult::Foreign) => {
                reply.failure = Some(Failure::Malformed("the answer is about another address".to_owned()));
                reply.anomalies.foreign = 1;
                reply.blames_lookup = true;
            }
            Some(ReadResult::Malformed(why)) => {
                reply.failure = Some(Failure::Malformed(why.to_owned()));
                reply.anomalies.malformed = 1;
            }
            Some(ReadResult::Failed(words)) => {
                let words = cut(&hide(&printable(&words)));
                reply.failure =
                    Some(Failure::Malformed(format!("the provider answered with an error: {words}")));
                reply.anomalies.malformed = 1;
            }
            None => reply = self.judge_status(address, response, body, hide),
        }
        reply
    }

    fn judge_status(
        &self,
        address: Address,
        response: &Response,
        body: &[u8],
        hide: &dyn Fn(&str) -> String,
    ) -> Reply {
        let status = response.status;
        let words = words(body).map(|words| cut(&hide(&words)));
        if status == StatusCode::BAD_REQUEST {
            let refused = Answer::Refused(words.unwrap_or_else(|| "400 Bad Request".to_owned()));
            return Reply { answers: [(address, refused)].into(), ..Reply::default() };
        }
        let words = if status.is_redirection() { redirected_to(&response.headers, hide) } else { words };
        let reason = status.canonical_reason().map(|reason| format!(" {reason}")).unwrap_or_default();
        let words = words.map(|words| format!(": {}", hide(&words))).unwrap_or_default();
        let text = format!("{}{reason}{words}", status.as_u16());
        let demand = self.demand(status, &response.headers, &text);
        Reply { demand, ..Reply::failed(Failure::Status { code: status.as_u16(), text }) }
    }

    fn demand(&self, status: StatusCode, headers: &HeaderMap, text: &str) -> Option<Demand> {
        let named = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let named = named.and_then(|text| retry_after(text, SystemTime::now()));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let see =
                    self.key.as_ref().map(|key| format!("; see {}", name(key.file))).unwrap_or_default();
                Some(Demand::Stop(format!("{} does not allow the request: {text}{see}", self.title)))
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Some(Demand::Pause(named.unwrap_or(self.backoff.default).max(self.backoff.minimum)))
            }
            StatusCode::SERVICE_UNAVAILABLE => named.map(Demand::Pause),
            _ => None,
        }
    }
}

impl Key {
    /// If the operator has accepted the terms for requests without a key, returns these terms.
    fn keyless(&self, settings: &Settings) -> Option<&Keyless> {
        let word = settings.text(self.file)?;
        self.keyless.as_ref().filter(|terms| terms.word == word)
    }

    /// Returns a text that says which setting is missing.
    fn missing(&self) -> String {
        let name = name(self.file);
        match &self.keyless {
            Some(terms) => {
                format!("{name} is not set: set it to the path of a key file, or to \"{}\"", terms.word)
            }
            None => format!("{name} is not set"),
        }
    }

    fn read(&self, settings: &Settings) -> ReadKey {
        let Some(path) = settings.text(self.file) else {
            return Ok(None);
        };
        if self.keyless(settings).is_some() {
            return Ok(None);
        }
        Secret::read(&path).map(Some).map_err(|why| format!("the file that {} names {why}", name(self.file)))
    }
}

fn name(setting: &Setting) -> String {
    setting.name.to_string_lossy().into_owned()
}

/// Removes the key from an answer, and returns the answer in the form that is stored. Returns `None` if the answer is
/// too long.
fn keep(answer: Answer, secret: Option<&Secret>) -> Option<Answer> {
    let clean = |source_data: JsonObject| {
        let mut source_data = Value::Object(source_data);
        if let Some(secret) = secret {
            secret.hide_in_value(&mut source_data);
        }
        let fits = source_data.to_string().len() <= LONGEST_KEPT;
        match source_data {
            Value::Object(source_data) if fits => Some(source_data),
            _ => None,
        }
    };
    match answer {
        Answer::Found(finding) => {
            Some(Answer::Found(Finding { source_data: clean(finding.source_data)?, ..finding }))
        }
        Answer::Absent(Some(source_data)) => Some(Answer::Absent(Some(clean(source_data)?))),
        Answer::Absent(None) => Some(Answer::Absent(None)),
        Answer::Refused(words) => {
            let words = printable(&words);
            Some(Answer::Refused(cut(&secret.map_or(words.clone(), |secret| secret.hide_in(&words)))))
        }
    }
}

/// Parses a body that is a JSON object.
pub(super) fn object(body: &[u8]) -> Option<JsonObject> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    }
}

/// Returns true if a value contains no information: null, a blank text, or a list or object that contains only such
/// values.
pub(super) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim_ascii().is_empty(),
        Value::Array(values) => values.iter().all(says_nothing),
        Value::Object(members) => members.values().all(says_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Returns true if a member of an answer is this address. Returns `None` if the answer does not have the member, or if
/// the member is null.
pub(super) fn names(object: &JsonObject, member: &str, address: Address) -> Option<bool> {
    match object.get(member)? {
        Value::Null => None,
        Value::String(text) => Some(address::parse(text.as_str()).is_ok_and(|named| named == Some(address))),
        _ => Some(false),
    }
}

/// Returns the whole message of the provider from a JSON body.
fn words(body: &[u8]) -> Option<String> {
    let object = object(body)?;
    let source_data = ["message", "error"].into_iter().find_map(|member| object.get(member)?.as_str());
    source_data.map(printable).filter(|words| !words.is_empty())
}

pub(super) fn printable(text: &str) -> String {
    text.trim().chars().filter(|char| !char.is_control()).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST_WORDS).collect()
}

/// Returns a text with the host of a redirect. The text leaves out the rest of the URL, because the rest may repeat the
/// request and its secrets.
fn redirected_to(headers: &HeaderMap, hide: &dyn Fn(&str) -> String) -> Option<String> {
    let location: Uri = headers.get(header::LOCATION)?.to_str().ok()?.parse().ok()?;
    Some(match location.host().filter(|_| location.scheme().is_some()) {
        Some(host) => cut(&format!("the redirect points to {}", printable(&hide(host)))),
        None => "the redirect points elsewhere on the same host".to_owned(),
    })
}

/// Parses the time in a Retry-After header: a number of seconds or a date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim_ascii();
    let rest = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number with too many digits is a long time.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        until.duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(rest.clamp(SHORTEST_PAUSE, LONGEST_PAUSE))
}
