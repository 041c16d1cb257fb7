//! The requests of clients of an HTTP service, with their times.
//!
//! Clocks: if the server answers a request, its end is recorded before the client can see the end of the answer. So the
//! count of concurrent requests is exact. If a client gives up, the server's thread notices that when it is scheduled,
//! perhaps after it has read the same client's next request. Such an end counts as [`NOTICED_WITHIN`] earlier.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::locked;
use crate::record::{NOTICED_WITHIN, most_open};

/// One request.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// When the head of the request had been read.
    pub at: Instant,
    /// The end of the request. If the answer was sent, this time is recorded before the client can see the end of the
    /// answer. Otherwise it is the time when the server saw that the client had left, or the time when the server was
    /// stopped.
    pub ended: Option<Instant>,
    /// When the server saw that the client had left before the end of the answer. A client that only stops sending
    /// looks the same.
    pub left: Option<Instant>,
    /// The address that was asked about.
    pub ip: Option<IpAddr>,
    pub method: String,
    /// Includes the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// Number of the connection, in the order in which they were accepted, from 0.
    pub connection: usize,
    /// Status of the answer, once its head was begun.
    pub status: Option<u16>,
}

impl HttpRequest {
    /// Returns the value of the first header of this name. Ignores the case of the name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the time until which this request counts as in progress. `None` if the request has not ended.
    fn over(&self) -> Option<Instant> {
        self.ended
            .map(|ended| if self.left.is_some() { (ended - NOTICED_WITHIN).max(self.at) } else { ended })
    }
}

pub type Entry = Arc<Mutex<HttpRequest>>;

/// All requests since the last `forget`. The requests that are in progress are in a separate list, which `forget` does
/// not change.
#[derive(Default)]
pub struct HttpRecord {
    requests: Mutex<Vec<Entry>>,
    under_way: Mutex<Vec<Entry>>,
}

impl HttpRecord {
    pub fn begin(&self, request: HttpRequest) -> Entry {
        let entry = Arc::new(Mutex::new(request));
        locked(&self.under_way).push(Arc::clone(&entry));
        locked(&self.requests).push(Arc::clone(&entry));
        entry
    }

    /// Records the end of a request. Only its first end counts.
    pub fn end(&self, entry: &Entry) {
        locked(entry).ended.get_or_insert_with(Instant::now);
        locked(&self.under_way).retain(|other| !Arc::ptr_eq(other, entry));
    }

    /// Records that the client has left before the end of its answer.
    pub fn abandoned(&self, entry: &Entry) {
        {
            let mut request = locked(entry);
            if request.ended.is_none() {
                request.left = Some(Instant::now());
            }
        }
        self.end(entry);
    }

    pub fn end_all(&self) {
        let open = locked(&self.under_way).clone();
        open.iter().for_each(|entry| self.end(entry));
    }

    pub fn requests(&self) -> Vec<HttpRequest> {
        let entries = locked(&self.requests).clone();
        entries.iter().map(|entry| locked(entry).clone()).collect()
    }

    pub fn in_progress(&self) -> usize {
        locked(&self.under_way).len()
    }

    pub fn forget(&self) {
        locked(&self.requests).clear();
    }
}

pub fn most_at_once(requests: &[HttpRequest]) -> usize {
    most_open(requests.iter().map(|request| (request.at, request.over())))
}

pub fn most_within(requests: &[HttpRequest], window: Duration) -> usize {
    let mut moments: Vec<Instant> = requests.iter().map(|request| request.at).collect();
    moments.sort_unstable();
    let within =
        |(nth, first): (usize, &Instant)| moments[nth..].partition_point(|moment| *moment - *first < window);
    moments.iter().enumerate().map(within).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(at: Instant, ended: Option<Instant>, left: Option<Instant>) -> HttpRequest {
        HttpRequest {
            at,
            ended,
            left,
            ip: None,
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: vec![("X-Key".to_owned(), "a".to_owned()), ("x-key".to_owned(), "b".to_owned())],
            connection: 0,
            status: None,
        }
    }

    #[test]
    fn a_request_that_follows_another_is_not_under_way_beside_it() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let answered = |from, to| request(at(from), Some(at(to)), None);
        let left = |from, to| request(at(from), Some(at(to)), Some(at(to)));
        let open = |from| request(at(from), None, None);
        assert_eq!(most_at_once(&[]), 0);
        assert_eq!(most_at_once(&[answered(0, 5), open(5)]), 1);
        assert_eq!(most_at_once(&[answered(0, 6), open(5)]), 2);
        assert_eq!(most_at_once(&[left(0, 1010), open(1000)]), 1);
        assert_eq!(most_at_once(&[left(0, 1010), open(500)]), 2);
        assert_eq!(most_at_once(&[left(0, 10), open(500), open(600)]), 2);
    }

    #[test]
    fn a_window_holds_its_first_moment_and_not_its_last() {
        let start = Instant::now();
        let requests: Vec<HttpRequest> = [0, 100, 150, 200, 1000, 90]
            .map(|ms| request(start + Duration::from_millis(ms), None, None))
            .into();
        let most = |ms| most_within(&requests, Duration::from_millis(ms));
        assert_eq!([0, 1, 10, 11, 60, 61, 110, 111, 2000].map(most), [0, 1, 1, 2, 2, 3, 3, 4, 6]);
        assert_eq!(most_within(&[], Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_header_is_found_in_any_case_and_the_first_counts() {
        assert_eq!(request(Instant::now(), None, None).header("x-KEY"), Some("a"));
        assert_eq!(request(Instant::now(), None, None).header("key"), None);
    }
}
