//! The metrics of `cowrie-load --follow`, as a file for the textfile collector of Prometheus's node_exporter.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;

/// A metric: its name, kind and meaning.
pub struct Metric {
    pub name: &'static str,
    pub kind: &'static str,
    pub help: &'static str,
    value: fn(&Metrics) -> f64,
}

/// Values of all metrics. Counters start at zero when the program starts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub lines: u64,
    pub malformed: u64,
    pub sessions: u64,
    pub rows: u64,
    pub known: u64,
    pub rejected: u64,
    pub lost_updates: u64,
    pub late: u64,
    pub future: u64,
    pub truncated: u64,
    pub database_errors: u64,
    pub read_errors: u64,
    pub open_sessions: u64,
    pub unread_bytes: u64,
    pub lag_seconds: f64,
    pub last_commit: Option<Timestamp>,
    pub is_connected: bool,
}

pub const ALL: [Metric; 17] = [
    Metric {
        name: "cowrie_load_lines_total",
        kind: "counter",
        help: "Lines read from the logs.",
        value: |m| m.lines as f64,
    },
    Metric {
        name: "cowrie_load_malformed_lines_total",
        kind: "counter",
        help: "Lines skipped, because they are not JSON or have no usable time.",
        value: |m| m.malformed as f64,
    },
    Metric {
        name: "cowrie_load_sessions_total",
        kind: "counter",
        help: "Sessions stored.",
        value: |m| m.sessions as f64,
    },
    Metric {
        name: "cowrie_load_rows_total",
        kind: "counter",
        help: "Rows stored in all tables.",
        value: |m| m.rows as f64,
    },
    Metric {
        name: "cowrie_load_known_sessions_total",
        kind: "counter",
        help: "Sessions not stored, because the table already had a session with the same id.",
        value: |m| m.known as f64,
    },
    Metric {
        name: "cowrie_load_rejected_sessions_total",
        kind: "counter",
        help: "Sessions that the database refuses, written to rejected.json.",
        value: |m| m.rejected as f64,
    },
    Metric {
        name: "cowrie_load_lost_updates_total",
        kind: "counter",
        help: "Events that came too late to change the row of a stored session, such as its end.",
        value: |m| m.lost_updates as f64,
    },
    Metric {
        name: "cowrie_load_late_sessions_total",
        kind: "counter",
        help: "Sessions stored long ago whose late events were not stored, but written to late.json.",
        value: |m| m.late as f64,
    },
    Metric {
        name: "cowrie_load_future_lines_total",
        kind: "counter",
        help: "Lines whose time is more than five minutes after the clock of this machine.",
        value: |m| m.future as f64,
    },
    Metric {
        name: "cowrie_load_truncated_values_total",
        kind: "counter",
        help: "Values truncated to the length of their column.",
        value: |m| m.truncated as f64,
    },
    Metric {
        name: "cowrie_load_database_errors_total",
        kind: "counter",
        help: "Failed attempts to connect or to store.",
        value: |m| m.database_errors as f64,
    },
    Metric {
        name: "cowrie_load_read_errors_total",
        kind: "counter",
        help: "Failed attempts to read the directory or a log.",
        value: |m| m.read_errors as f64,
    },
    Metric {
        name: "cowrie_load_open_sessions",
        kind: "gauge",
        help: "Sessions whose end the program has not read yet.",
        value: |m| m.open_sessions as f64,
    },
    Metric {
        name: "cowrie_load_unread_bytes",
        kind: "gauge",
        help: "Bytes of the logs that were not read.",
        value: |m| m.unread_bytes as f64,
    },
    Metric {
        name: "cowrie_load_lag_seconds",
        kind: "gauge",
        help: "Age of the oldest event that was not read or not stored yet; 0 if there is none. Events of open sessions do not count.",
        value: |m| m.lag_seconds,
    },
    Metric {
        name: "cowrie_load_last_commit_timestamp_seconds",
        kind: "gauge",
        help: "Time of the last commit; 0 if there was none since the start.",
        value: |m| m.last_commit.map_or(0.0, |time| time.as_millisecond() as f64 / 1000.0),
    },
    Metric {
        name: "cowrie_load_database_up",
        kind: "gauge",
        help: "1 if the last attempt to connect or to store succeeded, otherwise 0.",
        value: |m| f64::from(u8::from(m.is_connected)),
    },
];

impl Metrics {
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Metric { name, kind, help, value } in &ALL {
            let value = value(self);
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
        text
    }

    /// Replaces the file by a rename, so that the collector never reads half of it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        fs::write(&temporary, self.text())?;
        fs::rename(&temporary, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_help_a_type_and_a_value() {
        let metrics = Metrics {
            lines: 12_345_678,
            lag_seconds: 1.5,
            last_commit: Some(Timestamp::from_millisecond(1_700_000_000_250).unwrap()),
            is_connected: true,
            ..Metrics::default()
        };
        let text = metrics.text();
        for metric in &ALL {
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)));
            assert!(text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind)));
        }
        for sample in [
            "cowrie_load_lines_total 12345678\n",
            "cowrie_load_lag_seconds 1.5\n",
            "cowrie_load_last_commit_timestamp_seconds 1700000000.25\n",
            "cowrie_load_database_up 1\n",
            "cowrie_load_known_sessions_total 0\n",
        ] {
            assert!(text.contains(sample), "{text}");
        }
    }
}
