//! Checks the settings for the destinations of metrics.
//!
//! If a value of a setting cannot work, it is refused when it is set. The error has a hint that says which values work.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use super::status::PHASES;
use crate::otlp;

/// Why a value is refused, and a valid example.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub reason: &'static str,
    pub hint: &'static str,
}

/// Parses the address on which the server waits for scrapers: a loopback address with a port. Other addresses are
/// refused, because every client that can connect may read all metrics.
pub fn listen(value: &str) -> Result<SocketAddr, Refusal> {
    let refused = |reason| Refusal { reason, hint: "Use for example 127.0.0.1:9487 or [::1]:9487." };
    let address: SocketAddr =
        value.parse().map_err(|_| refused("The value is not an IP address with a port."))?;
    if !address.ip().is_loopback() {
        return Err(Refusal {
            reason: "Only loopback addresses are allowed, because every client that can connect can read all metrics.",
            hint: "Use for example 127.0.0.1:9487 or [::1]:9487. To allow remote access, use a proxy that authenticates clients.",
        });
    }
    if address.port() == 0 {
        return Err(refused(
            "The exporter needs a fixed port. Port 0 means a free port that the operating system selects.",
        ));
    }
    Ok(address)
}

/// Checks the path of the status file that contains all phases. The file of each single phase is written to the same
/// directory.
pub fn status_file(value: &str, data_directory: &Path) -> Result<PathBuf, Refusal> {
    const HINT: &str = "Use for example /var/lib/cowrie/logs/status/status.json.";
    let refused = |reason| Err(Refusal { reason, hint: HINT });
    let path = Path::new(value);
    if !path.is_absolute() {
        return refused("The value is not an absolute path.");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return refused("The path contains \"..\".");
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if value.ends_with('/') || !name.ends_with(".json") || name.starts_with('.') {
        return refused("The path does not end with the name of a .json file.");
    }
    if PHASES.iter().any(|phase| name.strip_suffix(".json") == Some(phase)) {
        return refused(
            "In the directory of status_file, the extension uses this file name for the status of one kind of work.",
        );
    }
    if path.starts_with(data_directory) {
        return refused("The path is inside the data directory.");
    }
    Ok(path.to_owned())
}

/// Checks the URL of an OpenTelemetry collector.
pub fn endpoint(value: &str) -> Result<(), Refusal> {
    otlp::check(value).map_err(|_| Refusal {
        reason: "The value is not an http or https URL, or the URL contains a user name or a query.",
        hint: "Use for example http://127.0.0.1:4318.",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapes_are_served_on_loopback_only() {
        for good in ["127.0.0.1:9487", "127.9.8.7:1", "[::1]:65535"] {
            assert_eq!(listen(good).map(|address| address.to_string()), Ok(good.to_owned()));
        }
        for (bad, reason) in [
            ("0.0.0.0:9487", "loopback"),
            ("192.168.1.1:9487", "loopback"),
            ("[::]:9487", "loopback"),
            ("[::ffff:127.0.0.1]:9487", "loopback"),
            ("128.0.0.1:9487", "loopback"),
            ("127.0.0.1:0", "Port 0"),
            ("127.0.0.1", "not an IP address"),
            ("127.0.0.1:65536", "not an IP address"),
            ("localhost:9487", "not an IP address"),
            ("127.1:9487", "not an IP address"),
            (":9487", "not an IP address"),
            ("http://127.0.0.1:9487", "not an IP address"),
        ] {
            let refusal = listen(bad).expect_err(bad);
            assert!(refusal.reason.contains(reason), "{bad}: {refusal:?}");
        }
    }

    #[test]
    fn status_file_is_a_json_file_by_an_absolute_path_outside_the_data_directory() {
        let checked = |value| status_file(value, Path::new("/data/main"));
        for good in ["/srv/status/status.json", "/status.json", "/data/main2/s.json", "/srv/a b/x.json"] {
            assert_eq!(checked(good), Ok(PathBuf::from(good)));
        }
        for (bad, reason) in [
            ("status.json", "absolute"),
            ("./status.json", "absolute"),
            ("/srv/../data/main/status.json", "\"..\""),
            ("/srv/status/", "name of a .json file"),
            ("/srv/status.json/", "name of a .json file"),
            ("/srv/status.txt", "name of a .json file"),
            ("/srv/.json", "name of a .json file"),
            ("/", "name of a .json file"),
            ("/srv/enrichment.json", "one kind of work"),
            ("/data/main/status.json", "data directory"),
            ("/data/main/base/1/status.json", "data directory"),
        ] {
            let refusal = checked(bad).expect_err(bad);
            assert!(refusal.reason.contains(reason), "{bad}: {refusal:?}");
        }
    }

    #[test]
    fn endpoint_is_a_url() {
        assert_eq!(endpoint("http://127.0.0.1:4318"), Ok(()));
        assert_eq!(endpoint("https://collector.example:4318/v1"), Ok(()));
        for bad in
            ["collector:4318", "grpc://collector:4317", "http://", "/v1/metrics", "http://me:key@collector"]
        {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
