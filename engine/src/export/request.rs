//! Requests of scrapers, and heads of responses.
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
//! Implements the part of HTTP/1.1 (RFC 9112) that scrapers need: one request per connection, without a body. The crate
//! `httparse` parses the request.
//!
//! The server refuses a request for another host. Otherwise a web page could read the metrics through a browser on this
//! machine. The host name of the page may resolve to a loopback address (DNS rebinding), and then the browser sends the
//! requests of the page to this server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

/// Maximum length of the head of a request, in bytes. Scrapers send heads of a few hundred bytes.
pub const LONGEST: usize = 8 * 1024;
const MOST_HEADERS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    MisdirectedRequest,
    HeadersTooLarge,
    Unavailable,
}

/// A request, reduced to the parts that the server uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    Metrics { head_only: bool },
    Health { head_only: bool },
    Invalid(Status),
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::MisdirectedRequest => "421 Misdirected Request",
            Status::HeadersTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

/// Parses the bytes that have been received. Returns `None` if the request is incomplete. `own` is the address on which
/// the server listens.
pub fn read(bytes: &[u8], own: IpAddr) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= LONGEST => {}
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return None,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Request::Invalid(Status::HeadersTooLarge));
        }
        Err(_) => return Some(Request::Invalid(Status::BadRequest)),
    }
    if let Err(status) = check_hosts(&request, own) {
        return Some(Request::Invalid(status));
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Some(Request::Invalid(Status::MethodNotAllowed)),
    };
    Some(match path(request.path.unwrap_or_default()) {
        "/metrics" => Request::Metrics { head_only },
        "/-/healthy" => Request::Health { head_only },
        _ => Request::Invalid(Status::NotFound),
    })
}

/// Checks that a request is for this server. Checks the Host header, which HTTP/1.1 requires, and the host in the
/// target, if the target contains a host.
fn check_hosts(request: &httparse::Request<'_, '_>, own: IpAddr) -> Result<(), Status> {
    let mut headers = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let header = headers.next();
    let is_missing = header.is_none() && request.version != Some(0);
    if is_missing || headers.next().is_some() {
        return Err(Status::BadRequest);
    }
    let header = header.map(|header| std::str::from_utf8(header.value).unwrap_or_default());
    let target = request.path.and_then(|target| authority(target).map(|(authority, _)| authority));
    match [header, target].into_iter().flatten().all(|authority| is_own(authority, own)) {
        true => Ok(()),
        false => Err(Status::MisdirectedRequest),
    }
}

/// Returns true if `authority` names this server. The host must be `localhost`, a loopback address, or the listen
/// address. A port may follow the host.
fn is_own(authority: &str, own: IpAddr) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host.parse().ok().map(IpAddr::V6), ""),
        Some((host, port)) => match port.strip_prefix(':') {
            Some(port) => (host.parse().ok().map(IpAddr::V6), port),
            None => return false,
        },
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            let named = host.eq_ignore_ascii_case("localhost").then_some(own);
            (named.or_else(|| host.parse().ok().map(IpAddr::V4)), port)
        }
    };
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), own];
    // Any port is accepted, because a tunnel or a proxy on this machine uses another port.
    host.is_some_and(|host| loopback.contains(&host)) && port.bytes().all(|digit| digit.is_ascii_digit())
}

/// If the target is a whole URL (RFC 9112, 3.2.2), returns the authority of the URL and the text after the authority.
fn authority(target: &str) -> Option<(&str, &str)> {
    const SCHEME: &str = "http://";
    let scheme = target.get(..SCHEME.len()).filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME))?;
    let rest = &target[scheme.len()..];
    Some(rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())))
}

/// Returns the path in the target of a request. The target may be a whole URL and may contain a query.
fn path(target: &str) -> &str {
    let target = match authority(target) {
        Some((_, "")) => "/",
        Some((_, rest)) => rest,
        None => target,
    };
    target.split(['?', '#']).next().unwrap_or_default()
}

/// Returns the head of a response whose body has `length` bytes.
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

/// Returns the body of a response without metrics.
pub fn explanation(status: Status) -> String {
    match status {
        Status::Ok => "OK\n".to_owned(),
        Status::NotFound => "404 Not Found: metrics are at /metrics\n".to_owned(),
        Status::MisdirectedRequest => {
            "421 Misdirected Request: the Host header must be localhost, 127.0.0.1, [::1] or metrics_listen\n"
                .to_owned()
        }
        status => format!("{}\n", status.line()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Request::{Health, Invalid, Metrics};
    use proptest::prelude::*;

    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 8, 7));

    fn asked(text: &str) -> Option<Request> {
        read(text.as_bytes(), OWN)
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
            ("GET / HTTP/1.1", Invalid(Status::NotFound)),
            ("GET /metrics/ HTTP/1.1", Invalid(Status::NotFound)),
            ("GET http://127.0.0.1 HTTP/1.1", Invalid(Status::NotFound)),
            ("POST /metrics HTTP/1.1", Invalid(Status::MethodNotAllowed)),
            ("get /metrics HTTP/1.1", Invalid(Status::MethodNotAllowed)),
            ("GET /metrics HTTP/2.0", Invalid(Status::BadRequest)),
            ("GET", Invalid(Status::BadRequest)),
            ("\u{16}\u{3}\u{1}", Invalid(Status::BadRequest)),
        ] {
            assert_eq!(asked(&format!("{line}\r\nHost: localhost\r\n\r\n")), Some(expected), "{line}");
        }
    }

    #[test]
    fn requests_for_other_hosts_are_refused() {
        let metrics = Metrics { head_only: false };
        let (foreign, malformed) = (Invalid(Status::MisdirectedRequest), Invalid(Status::BadRequest));
        for (host, expected) in [
            ("127.0.0.1", metrics),
            ("127.0.0.1:9487", metrics),
            ("127.0.0.1:1", metrics),
            ("127.0.0.1:", metrics),
            ("127.9.8.7:9487", metrics),
            ("LocalHost:9487", metrics),
            ("[::1]", metrics),
            ("[0:0::1]:9487", metrics),
            ("evil.example.com", foreign),
            ("localhost.evil.example.com", foreign),
            ("127.0.0.1.evil.example.com:9487", foreign),
            ("127.0.0.1:9487@evil.example.com", foreign),
            ("evil@127.0.0.1", foreign),
            ("127.0.0.2", foreign),
            ("192.0.2.1:9487", foreign),
            ("::1", foreign),
            ("[::1]x", foreign),
            ("[127.0.0.1]", foreign),
            ("[::2]", foreign),
            ("", foreign),
        ] {
            assert_eq!(
                asked(&format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\n\r\n")),
                Some(expected),
                "{host}"
            );
            assert_eq!(
                asked(&format!("GET http://{host}/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")),
                Some(expected),
                "{host}"
            );
        }
        for (head, expected) in [
            ("GET /metrics HTTP/1.0", metrics),
            ("GET /metrics HTTP/1.0\r\nHost: evil.example.com", foreign),
            ("GET /metrics HTTP/1.1", malformed),
            ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost", malformed),
            ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHOST: evil.example.com", malformed),
            ("GET HTTP://evil.example.com/metrics HTTP/1.1\r\nHost: localhost", foreign),
            ("GET http://evil.example.com?/metrics HTTP/1.1\r\nHost: localhost", foreign),
            ("POST /metrics HTTP/1.1\r\nHost: evil.example.com", foreign),
            ("GET /-/healthy HTTP/1.1\r\nHost: evil.example.com", foreign),
        ] {
            assert_eq!(asked(&format!("{head}\r\n\r\n")), Some(expected), "{head}");
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
            Some(Invalid(Status::HeadersTooLarge))
        );
        let long = format!("GET /metrics HTTP/1.1\r\nh: {}", "x".repeat(LONGEST));
        assert_eq!(asked(&long), Some(Invalid(Status::HeadersTooLarge)));
        assert_eq!(asked(&long[..LONGEST - 1]), None);
        assert_eq!(asked(&format!("{long}\r\n\r\n")), Some(Invalid(Status::HeadersTooLarge)));
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
            crate::invariants::scrape_request(&bytes);
        }
    }
}
