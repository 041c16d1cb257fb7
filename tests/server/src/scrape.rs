//! A server whose metrics are scraped, and the scraper. The scraper sends bytes over a socket, so that it can also
//! send invalid requests.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::{Session, wait_until};

/// Longer than any deadline of the exporter.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Returns an address without a listener. The system will not soon give the same port to another process, because it
/// assigns all other ports first.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port is free")
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The status line and headers as they were sent, one a line.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split_once(": ").is_some_and(|(own, _)| own == name);
        self.head.lines().find(named).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }

    /// Returns the value of the sample whose line begins like this.
    #[track_caller]
    pub fn sample(&self, name_and_labels: &str) -> f64 {
        self.try_sample(name_and_labels).unwrap_or_else(|| panic!("no {name_and_labels} in\n{}", self.body))
    }

    pub fn try_sample(&self, name_and_labels: &str) -> Option<f64> {
        let value = |line: &str| line.strip_prefix(name_and_labels)?.strip_prefix(' ')?.parse().ok();
        self.body.lines().find_map(value)
    }
}

pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Sends these bytes and reads until the other side closes the connection.
pub fn ask(address: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    stream.write_all(request)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, String::from_utf8_lossy(&bytes));
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    Ok(Answer { status, head: head.replace("\r\n", "\n"), body: body.to_owned() })
}

pub fn request(address: SocketAddr, method: &str, path: &str) -> io::Result<Answer> {
    ask(address, format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes())
}

/// Scrapes as Prometheus does.
#[track_caller]
pub fn scrape(address: SocketAddr) -> Answer {
    let answer = request(address, "GET", "/metrics").expect("metrics are served");
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer
}

/// Waits until metrics are served at an address.
#[track_caller]
pub fn wait_for_metrics(address: SocketAddr) -> Answer {
    let answer = wait_until(
        "metrics are served",
        || request(address, "GET", "/metrics"),
        |answer| answer.as_ref().is_ok_and(|answer| answer.status == 200),
    );
    answer.expect("wait_until returns what satisfied it")
}

/// Returns the exporter processes.
pub fn exporters(session: &mut Session) -> Vec<i64> {
    let rows = session
        .rows("SELECT pid FROM pg_stat_activity WHERE backend_type = 'cowrie_enrich exporter' ORDER BY pid");
    rows.iter().map(|pid| pid.parse().expect("a process has a number")).collect()
}

/// Returns the only exporter process, once it is running and registered.
pub fn exporter_pid(session: &mut Session) -> i64 {
    wait_until(
        "there is an exporter",
        || {
            let seated = session.rows("SELECT pid FROM enrich.worker_status() WHERE role = 'exporter'");
            (exporters(session), seated)
        },
        |(pids, seated)| pids.len() == 1 && seated.len() == 1,
    )
    .0[0]
}
