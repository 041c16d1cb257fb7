//! Answers: what does a scraper ask for, and what is it told?
//!
//! ```text
//! GET /metrics HTTP/1.1
//! Host: 127.0.0.1:9487
//!
//! HTTP/1.1 200 OK
//! Content-Type: text/plain; version=0.0.4; charset=utf-8
//! Content-Length: 12345
//! Connection: close
//! ```
//!
//! HTTP/1.1 (RFC 9112) as far as it is needed: one request a connection, without a body. Parsed by `httparse`.

use std::time::SystemTime;

/// Bytes of a request without its body: a scraper's has a few hundred.
pub const LONGEST: usize = 8 * 1024;
const MOST_HEADERS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    HeadersTooLarge,
    Unavailable,
}

/// What somebody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    Metrics { head_only: bool },
    Health { head_only: bool },
    Nonsense(Status),
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::HeadersTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

/// Reads what has come so far; `None`: there is more to come.
pub fn read(bytes: &[u8]) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= LONGEST => {}
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return None,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Asked::Nonsense(Status::HeadersTooLarge));
        }
        Err(_) => return Some(Asked::Nonsense(Status::BadRequest)),
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Some(Asked::Nonsense(Status::MethodNotAllowed)),
    };
    Some(match path(request.path.unwrap_or_default()) {
        "/metrics" => Asked::Metrics { head_only },
        "/-/healthy" => Asked::Health { head_only },
        _ => Asked::Nonsense(Status::NotFound),
    })
}

/// The path of a target, which may be a whole URL (RFC 9112, 3.2.2) and may have a query.
fn path(target: &str) -> &str {
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    target.split(['?', '#']).next().unwrap_or_default()
}

/// What comes before a body of so many bytes.
pub fn head(status: Status, content_type: &str, length: usize, now: SystemTime) -> Vec<u8> {
    let allow = if status == Status::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {}\r\nDate: {}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}\
         Connection: close\r\n\r\n",
        status.line(),
        httpdate::fmt_http_date(now),
    )
    .into_bytes()
}

/// What a human reads of a status.
pub fn words(status: Status) -> String {
    match status {
        Status::Ok => "OK\n".to_owned(),
        Status::NotFound => "404 Not Found: metrics are at /metrics\n".to_owned(),
        status => format!("{}\n", status.line()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Asked::{Health, Metrics, Nonsense};
    use proptest::prelude::*;

    fn asked(text: &str) -> Option<Asked> {
        read(text.as_bytes())
    }

    #[test]
    fn targets_are_told_apart() {
        for (line, expected) in [
            ("GET /metrics HTTP/1.1", Metrics { head_only: false }),
            ("GET /metrics HTTP/1.0", Metrics { head_only: false }),
            ("HEAD /metrics HTTP/1.1", Metrics { head_only: true }),
            ("GET /metrics?name[]=x HTTP/1.1", Metrics { head_only: false }),
            ("GET http://127.0.0.1:9487/metrics HTTP/1.1", Metrics { head_only: false }),
            ("GET /-/healthy HTTP/1.1", Health { head_only: false }),
            ("GET / HTTP/1.1", Nonsense(Status::NotFound)),
            ("GET /metrics/ HTTP/1.1", Nonsense(Status::NotFound)),
            ("GET http://127.0.0.1 HTTP/1.1", Nonsense(Status::NotFound)),
            ("POST /metrics HTTP/1.1", Nonsense(Status::MethodNotAllowed)),
            ("get /metrics HTTP/1.1", Nonsense(Status::MethodNotAllowed)),
            ("GET /metrics HTTP/2.0", Nonsense(Status::BadRequest)),
            ("GET", Nonsense(Status::BadRequest)),
            ("\u{16}\u{3}\u{1}", Nonsense(Status::BadRequest)),
        ] {
            assert_eq!(asked(&format!("{line}\r\nHost: x\r\n\r\n")), Some(expected), "{line}");
        }
    }

    #[test]
    fn head_may_come_byte_by_byte() {
        let whole = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(asked(&whole[..end]), None, "{:?}", &whole[..end]);
        }
        assert_eq!(asked(whole), Some(Metrics { head_only: false }));
    }

    #[test]
    fn long_heads_are_refused() {
        let many: String = (0..100).map(|n| format!("h{n}: x\r\n")).collect();
        assert_eq!(
            asked(&format!("GET /metrics HTTP/1.1\r\n{many}\r\n")),
            Some(Nonsense(Status::HeadersTooLarge))
        );
        let long = format!("GET /metrics HTTP/1.1\r\nh: {}", "x".repeat(LONGEST));
        assert_eq!(asked(&long), Some(Nonsense(Status::HeadersTooLarge)));
        assert_eq!(asked(&long[..LONGEST - 1]), None);
        assert_eq!(asked(&format!("{long}\r\n\r\n")), Some(Nonsense(Status::HeadersTooLarge)));
    }

    #[test]
    fn heads_of_answers_are_http() {
        let text = String::from_utf8(head(Status::MethodNotAllowed, "text/plain", 5, SystemTime::UNIX_EPOCH));
        assert_eq!(
            text.as_deref(),
            Ok("HTTP/1.1 405 Method Not Allowed\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                Content-Type: text/plain\r\nContent-Length: 5\r\nAllow: GET, HEAD\r\nConnection: close\r\n\r\n")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            crate::promises::scrape_request(&bytes);
        }
    }
}
