//! Invariants of the requests of scrapers and of the exporter's settings.

use super::request::{self, LONGEST, Request, Status};
use super::settings;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::SystemTime;

/// Checks the parser of request heads. A head may arrive over a connection in several pieces.
pub fn scrape_request(bytes: &[u8]) {
    let own = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
    let asked = request::read(bytes, own);
    if matches!(asked, Some(Request::Metrics { .. } | Request::Health { .. })) {
        let lower = bytes.to_ascii_lowercase();
        let hosts = [&b"localhost"[..], b"127.0.0.1", b"[", b"http/1.0"];
        assert!(hosts.iter().any(|host| has(&lower, host)), "a request for another host must be rejected");
    }
    match asked {
        None => {
            assert!(bytes.len() < LONGEST, "must not wait for more bytes after a head of the maximum length")
        }
        Some(Request::Metrics { head_only }) => {
            assert!(has(bytes, b"/metrics") && has(bytes, if head_only { b"HEAD " } else { b"GET " }));
        }
        Some(Request::Health { head_only }) => {
            assert!(has(bytes, b"/-/healthy") && has(bytes, if head_only { b"HEAD " } else { b"GET " }));
        }
        Some(Request::Invalid(status)) => {
            assert!(!matches!(status, Status::Ok | Status::Unavailable));
            assert!(request::explanation(status).ends_with('\n'));
            let head = request::head(status, "text/plain", bytes.len(), SystemTime::UNIX_EPOCH);
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut headers);
            let read = response.parse(&head).expect("the head of a response must be valid HTTP");
            assert_eq!(read, httparse::Status::Complete(head.len()));
        }
    }
    // The server stops reading when it has decided on a request. So a decision on the first half of a request must
    // equal the decision on the whole request.
    let half = &bytes[..bytes.len() / 2];
    match request::read(half, own) {
        Some(Request::Invalid(_)) => assert!(matches!(asked, Some(Request::Invalid(_))), "{asked:?}"),
        Some(before) => assert_eq!(asked, Some(before)),
        None => {}
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Checks the parsers of three settings: the listen address, the status file and the endpoint.
pub fn collector_settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(address) = settings::listen(text) {
        assert!(address.ip().is_loopback() && address.port() > 0);
    }
    let data = Path::new("/data/main");
    if let Ok(path) = settings::status_file(text, data) {
        // Compares the paths component by component. If a path has no symbolic links, the kernel resolves it in the
        // same way.
        let resolved = path.components().as_path();
        assert!(resolved.is_absolute() && !resolved.starts_with(data) && !text.contains("/../"), "{text}");
        assert!(path.extension().is_some_and(|end| end == "json"));
    }
    if settings::endpoint(text).is_ok() {
        let lower = text.trim().to_ascii_lowercase();
        assert!(lower.starts_with("http://") || lower.starts_with("https://"), "{text}");
        let host = lower.split('/').nth(2).unwrap_or_default();
        assert!(!host.is_empty() && !host.contains('@') && !text.contains('?'), "{text}");
    }
}
