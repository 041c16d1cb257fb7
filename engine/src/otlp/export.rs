//! Sends one request to a collector and reads the response.
//!
//! A request is sent again only in the cases that the specification names: after status 429, 502, 503 or 504, or if no
//! response arrived. After any other status, the collector would refuse the request again. Source:
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>.
//!
//! | status | means |
//! |---|---|
//! | 2xx | accepted, except the items that `partial_success` rejects |
//! | 429, 502, 503, 504 | retry later |
//! | all others, including redirects | do not retry |

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use ureq::http::{HeaderName, HeaderValue, StatusCode, header};

use crate::net::{Cancel, Failure, Task};
use crate::providers::http::{self, Response, Target};

/// The signal that a request carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Signal {
    Metrics,
    Traces,
}

impl Signal {
    pub const ALL: [Signal; 2] = [Signal::Metrics, Signal::Traces];

    pub fn name(self) -> &'static str {
        match self {
            Signal::Metrics => "metrics",
            Signal::Traces => "traces",
        }
    }
}

/// One request to a collector.
pub struct Export {
    pub signal: Signal,
    /// The URL before `/v1/metrics`.
    pub endpoint: String,
    pub body: Vec<u8>,
    /// Maximum time from the start of the name resolution to the last byte of the response.
    pub timeout: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The collector accepted the request, but it may have rejected some of the data points or spans. `rejected` is
    /// their number, and `words` is the collector's message about them.
    Taken { rejected: u64, words: String },
    /// The request must be sent again. `rest` is the time to wait before that, if the collector stated a time. `why` is
    /// the reason.
    Deferred { rest: Option<Duration>, why: String },
    /// Do not send the request again. Contains the reason.
    Refused(String),
}

/// Maximum length of a collector's message, in characters.
pub(super) const LONGEST_WORDS: usize = 200;

/// Checks an endpoint. The caller puts the setting's name before the error text.
pub fn check(endpoint: &str) -> Result<(), &'static str> {
    Target::parse(endpoint).map(|_| ())
}

impl Task for Export {
    type Done = Outcome;

    fn run(self, cancel: &Cancel) -> Outcome {
        if cancel.is_set() {
            return Outcome::Deferred { rest: None, why: "cancelled".to_owned() };
        }
        let target = match Target::parse(&self.endpoint) {
            Ok(target) => target,
            Err(why) => return Outcome::Refused(format!("the endpoint {why}")),
        };
        let request = http::Request {
            url: target.below(&format!("/v1/{}", self.signal.name())),
            target: &target,
            headers: headers(),
            timeout: self.timeout,
            proxy: None,
        };
        match http::post(request, &self.body) {
            Ok(response) => judge(self.signal, &response, SystemTime::now()),
            Err(failure) => no_answer(&failure),
        }
    }

    fn lost(panic: String) -> Outcome {
        Outcome::Refused(format!("the exchange panicked: {panic}"))
    }
}

fn headers() -> Vec<(HeaderName, HeaderValue)> {
    const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
    vec![
        (header::USER_AGENT, HeaderValue::from_static(http::USER_AGENT)),
        (header::CONTENT_TYPE, PROTOBUF),
        (header::ACCEPT, PROTOBUF),
    ]
}

fn no_answer(failure: &Failure) -> Outcome {
    match failure {
        Failure::Malformed(_) | Failure::TooLarge => Outcome::Refused(failure.to_string()),
        _ => Outcome::Deferred { rest: None, why: failure.to_string() },
    }
}

pub(super) fn judge(signal: Signal, response: &Response, now: SystemTime) -> Outcome {
    let status = response.status;
    if status.is_success() {
        // This status means that the collector accepted the request. If the body is not an OTLP message, the number of
        // rejected items is 0.
        let body = response.body.as_deref().unwrap_or_default();
        let (rejected, words) = partial_success(signal, body).unwrap_or_default();
        return Outcome::Taken { rejected: u64::try_from(rejected).unwrap_or(0), words: cut(&words) };
    }
    let reason = status.canonical_reason().unwrap_or_default();
    let why = format!("{} {reason}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let named = response.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            Outcome::Deferred { rest: named.and_then(|text| http::retry_after(text, now)), why }
        }
        _ => Outcome::Refused(why),
    }
}

/// Returns the number of rejected items and the collector's message.
fn partial_success(signal: Signal, body: &[u8]) -> Option<(i64, String)> {
    match signal {
        Signal::Metrics => {
            let partial = ExportMetricsServiceResponse::decode(body).ok()?.partial_success?;
            Some((partial.rejected_data_points, partial.error_message))
        }
        Signal::Traces => {
            let partial = ExportTraceServiceResponse::decode(body).ok()?.partial_success?;
            Some((partial.rejected_spans, partial.error_message))
        }
    }
}

fn cut(words: &str) -> String {
    words.trim().chars().filter(|char| !char.is_control()).take(LONGEST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use ureq::http::HeaderMap;

    fn response(status: u16, retry_after: Option<&'static str>, body: Vec<u8>) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
        }
        Response { status: StatusCode::from_u16(status).unwrap(), headers, body: Ok(body) }
    }

    #[test]
    fn only_what_the_specification_names_is_sent_again() {
        let judged =
            |status, after| judge(Signal::Metrics, &response(status, after, Vec::new()), SystemTime::now());
        let taken = Outcome::Taken { rejected: 0, words: String::new() };
        assert_eq!([judged(200, None), judged(202, None)], [taken.clone(), taken]);
        for status in [429, 502, 503, 504] {
            assert!(matches!(judged(status, None), Outcome::Deferred { rest: None, .. }), "{status}");
        }
        let seven = Some(Duration::from_secs(7));
        assert_eq!(
            judged(429, Some("7")),
            Outcome::Deferred { rest: seven, why: "429 Too Many Requests".into() }
        );
        for status in [301, 307, 400, 401, 404, 405, 408, 413, 415, 500, 501] {
            assert!(matches!(judged(status, Some("7")), Outcome::Refused(_)), "{status}");
        }
        for (failure, is_deferred) in [
            (Failure::Connect(String::new()), true),
            (Failure::ConnectTimeout, true),
            (Failure::Silent, true),
            (Failure::Cut, true),
            (Failure::Malformed(String::new()), false),
        ] {
            assert_eq!(matches!(no_answer(&failure), Outcome::Deferred { .. }), is_deferred, "{failure:?}");
        }
    }

    #[test]
    fn what_was_not_taken_is_heard() {
        let metrics = ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: 3,
                error_message: "no\nsuch unit".into(),
            }),
        };
        let judged = judge(Signal::Metrics, &response(200, None, metrics.encode_to_vec()), SystemTime::now());
        assert_eq!(judged, Outcome::Taken { rejected: 3, words: "nosuch unit".into() });
        let traces = ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans: -1,
                error_message: "x".repeat(900),
            }),
        };
        let judged = judge(Signal::Traces, &response(200, None, traces.encode_to_vec()), SystemTime::now());
        assert_eq!(judged, Outcome::Taken { rejected: 0, words: "x".repeat(LONGEST_WORDS) });
        let judged = judge(Signal::Traces, &response(200, None, b"all is well".to_vec()), SystemTime::now());
        assert_eq!(judged, Outcome::Taken { rejected: 0, words: String::new() });
    }

    #[test]
    fn a_request_is_posted_as_the_specification_says() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut source_data = Vec::new();
            while !source_data.ends_with(b"body") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                source_data.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            String::from_utf8(source_data).unwrap()
        });
        let export = Export {
            signal: Signal::Traces,
            endpoint: format!("http://127.0.0.1:{port}/otlp/"),
            body: b"body".to_vec(),
            timeout: Duration::from_secs(10),
        };
        assert_eq!(export.run(&Cancel::new()), Outcome::Taken { rejected: 0, words: String::new() });
        let source_data = server.join().unwrap().to_ascii_lowercase();
        assert!(source_data.starts_with("post /otlp/v1/traces http/1.1\r\n"), "{source_data}");
        for header in ["content-type: application/x-protobuf\r\n", "content-length: 4\r\n"] {
            assert!(source_data.contains(header), "{source_data}");
        }
        assert!(
            !source_data.contains("application/json") && source_data.matches("user-agent").count() == 1,
            "{source_data}"
        );
    }

    #[test]
    fn endpoints_are_urls_without_secrets() {
        for endpoint in ["http://127.0.0.1:4318", "https://otel.example/otlp/", "http://[::1]:4318"] {
            assert_eq!(check(endpoint), Ok(()), "{endpoint}");
        }
        for endpoint in
            ["", "localhost:4318", "ftp://a", "http://user:word@a", "http://a/?key=1", "http://a:0"]
        {
            assert!(check(endpoint).is_err(), "{endpoint}");
        }
    }
}
