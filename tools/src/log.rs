//! Cowrie's JSON log: one JSON object a line, one event an object.
//!
//! ```text
//! {"eventid": "cowrie.login.failed", "username": "root", "password": "admin", "src_ip": "192.0.2.7",
//!  "session": "173332e506ca", "sensor": "trap-1", "timestamp": "2018-05-06T22:33:22.698977Z", …}
//! ```
//!
//! Fields that a version of Cowrie adds are ignored. Fields that a version lacks are empty. An invalid line only adds to
//! the count of malformed lines in the report. No line stops a load, and no line takes more memory than [`LONGEST_LINE`].

use jiff::Timestamp;
use serde_json::Value;

pub use crate::log_lines::{LONGEST_LINE, LineRead, TOO_LONG, decompressed, is_compressed, next_line};

/// Number of characters of a session's id that Cowrie's tables can store.
const ID_LENGTH: usize = 32;

/// An event, with the values that Cowrie's own database output stores. Texts have any length, as in the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Connect,
    Closed,
    ClientVersion(String),
    TerminalSize(String),
    Login {
        success: bool,
        username: String,
        password: String,
    },
    Input {
        success: Option<bool>,
        realm: Option<String>,
        input: String,
    },
    Download {
        url: String,
        outfile: Option<String>,
        shasum: Option<String>,
    },
    Terminal {
        ttylog: String,
        size: i32,
    },
    Parameters {
        arch: String,
    },
    Fingerprint {
        username: String,
        fingerprint: String,
    },
    Forward {
        host: String,
        port: i32,
    },
    ForwardedData {
        host: String,
        port: i32,
        data: String,
    },
    /// An event that Cowrie's database output does not store either.
    Other,
}

/// One parsed line.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub session: String,
    pub time: Timestamp,
    pub sensor: String,
    pub address: String,
    pub event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The line is not a JSON object, or has no usable time.
    Malformed,
    /// An event of the honeypot itself, such as its start.
    NoSession,
    /// A line of white space, or a line end after NUL bytes. Such lines are not counted.
    Blank,
}

pub fn parse(line: &[u8]) -> Result<Entry, Rejected> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Err(Rejected::Blank);
    }
    let text = String::from_utf8_lossy(line);
    let value: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        // Python writes half of a surrogate pair for bytes of a client that are not text. JSON's grammar allows it, but
        // the parser does not. The line's other fields are still useful.
        Err(_) if text.contains("\\ud") || text.contains("\\uD") => {
            serde_json::from_str(&without_surrogates(&text)).map_err(|_| Rejected::Malformed)?
        }
        Err(_) => return Err(Rejected::Malformed),
    };
    entry_of(&value)
}

/// Reads an event from the JSON object of its line.
pub fn entry_of(value: &Value) -> Result<Entry, Rejected> {
    let Value::Object(_) = value else {
        return Err(Rejected::Malformed);
    };
    let session = id_of(value);
    if session.is_empty() {
        return Err(Rejected::NoSession);
    }
    let time = time_of(value).ok_or(Rejected::Malformed)?;
    Ok(Entry {
        session,
        time,
        sensor: text_of(value, "sensor"),
        address: text_of(value, "src_ip"),
        event: event_of(value),
    })
}

fn event_of(value: &Value) -> Event {
    let text = |key| text_of(value, key);
    let optional = |key| value.get(key).filter(|v| !v.is_null()).map(|_| text_of(value, key));
    let number = |key| {
        value
            .get(key)
            .and_then(|v| v.as_i64().or_else(|| v.as_str()?.parse().ok()))
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(0)
    };
    let Some(name) = value.get("eventid").and_then(Value::as_str).and_then(|id| id.strip_prefix("cowrie."))
    else {
        return Event::Other;
    };
    match name {
        "session.connect" => Event::Connect,
        "session.closed" => Event::Closed,
        "client.version" => Event::ClientVersion(text("version")),
        "client.size" => Event::TerminalSize(format!("{}x{}", text("width"), text("height"))),
        "login.success" | "login.failed" => Event::Login {
            success: name == "login.success",
            username: text("username"),
            password: text("password"),
        },
        "command.input" => Event::Input { success: Some(true), realm: None, input: text("input") },
        "command.failed" => Event::Input { success: Some(false), realm: None, input: text("input") },
        "session.input" => Event::Input { success: None, realm: optional("realm"), input: text("input") },
        "session.file_download" => {
            Event::Download { url: text("url"), outfile: optional("outfile"), shasum: optional("shasum") }
        }
        "session.file_download.failed" => Event::Download { url: text("url"), outfile: None, shasum: None },
        "session.file_upload" => {
            Event::Download { url: String::new(), outfile: optional("outfile"), shasum: optional("shasum") }
        }
        "session.params" => Event::Parameters { arch: text("arch") },
        "log.closed" => Event::Terminal { ttylog: text("ttylog"), size: number("size") },
        "client.fingerprint" => {
            Event::Fingerprint { username: text("username"), fingerprint: text("fingerprint") }
        }
        "direct-tcpip.request" => Event::Forward { host: text("dst_ip"), port: number("dst_port") },
        "direct-tcpip.data" => {
            Event::ForwardedData { host: text("dst_ip"), port: number("dst_port"), data: text("data") }
        }
        _ => Event::Other,
    }
}

/// Returns the id of the session as the column `id` stores it. Otherwise two ids could be one in the table, and two in
/// this program.
fn id_of(value: &Value) -> String {
    let id: String =
        text_of(value, "session").chars().filter(|character| *character != '\0').take(ID_LENGTH).collect();
    id.trim_end_matches(' ').to_owned()
}

/// Returns a field as text, because some fields are numbers in one version and texts in another.
fn text_of(value: &Value, key: &str) -> String {
    match value.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Returns `timestamp`, or else `time` in seconds. A `timestamp` without `Z` or an offset is UTC, as Cowrie writes by
/// default. A time outside 1970 to 2199 gives `None`, because it would make the database refuse a whole batch.
fn time_of(value: &Value) -> Option<Timestamp> {
    stated_time(value).filter(|time| (0..7_258_118_400).contains(&time.as_second()))
}

fn stated_time(value: &Value) -> Option<Timestamp> {
    if let Some(text) = value.get("timestamp").and_then(Value::as_str) {
        if let Ok(time) = text.parse() {
            return Some(time);
        }
        if let Ok(time) = format!("{text}Z").parse() {
            return Some(time);
        }
    }
    let seconds = value.get("time")?.as_f64()?;
    Timestamp::from_microsecond((seconds * 1e6) as i64).ok()
}

/// Replaces single halves of surrogate pairs by the replacement character. Complete pairs such as `\ud83d\ude00` stay.
fn without_surrogates(text: &str) -> String {
    let unit = |at: usize| -> Option<u16> {
        let bytes = text.as_bytes().get(at..at + 6)?;
        (bytes.starts_with(b"\\u"))
            .then(|| u16::from_str_radix(std::str::from_utf8(&bytes[2..]).ok()?, 16).ok())?
    };
    let mut clean = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(offset) = text[at..].find('\\') {
        let start = at + offset;
        clean.push_str(&text[at..start]);
        let length = match unit(start) {
            Some(0xd800..=0xdbff) if matches!(unit(start + 6), Some(0xdc00..=0xdfff)) => 12,
            Some(0xd800..=0xdfff) => {
                clean.push_str("\\ufffd");
                at = start + 6;
                continue;
            }
            Some(_) => 6,
            // Skips the escaped character too, so that the second of two backslashes does not begin an escape.
            None => 1 + text[start + 1..].chars().next().map_or(0, char::len_utf8),
        };
        clean.push_str(&text[start..start + length]);
        at = start + length;
    }
    clean.push_str(&text[at..]);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Event {
        parse(line.as_bytes()).unwrap().event
    }

    #[test]
    fn a_line_of_2018_is_read() {
        let line = r#"{"eventid": "cowrie.login.failed", "username": "miner", "timestamp": "2018-05-06T22:33:22.698977Z", "message": "login attempt [miner/miner] failed", "system": "SSHService", "isError": 0, "src_ip": "137.74.171.123", "session": "bed4ca4313ae", "password": "x\ty", "sensor": "920497a79896"}"#;
        let entry = parse(line.as_bytes()).unwrap();
        assert_eq!(entry.time.to_string(), "2018-05-06T22:33:22.698977Z");
        assert_eq!(
            (entry.session.as_str(), entry.address.as_str(), entry.sensor.as_str()),
            ("bed4ca4313ae", "137.74.171.123", "920497a79896")
        );
        assert_eq!(
            entry.event,
            Event::Login { success: false, username: "miner".into(), password: "x\ty".into() }
        );
    }

    #[test]
    fn fields_may_change_their_type_between_versions() {
        let line = |fields: &str| {
            format!(r#"{{"session":"a","timestamp":"2024-01-01T00:00:00.000000+0000",{fields}}}"#)
        };
        assert_eq!(
            event(&line(r#""eventid":"cowrie.client.size","width":80,"height":"24""#)),
            Event::TerminalSize("80x24".into())
        );
        assert_eq!(
            event(&line(r#""eventid":"cowrie.login.success","username":"root","password":123"#)),
            Event::Login { success: true, username: "root".into(), password: "123".into() }
        );
        assert_eq!(
            event(&line(r#""eventid":"cowrie.log.closed","ttylog":"f","size":"12""#)),
            Event::Terminal { ttylog: "f".into(), size: 12 }
        );
        assert_eq!(
            event(&line(r#""eventid":"cowrie.log.closed","ttylog":"f","size":99999999999"#)),
            Event::Terminal { ttylog: "f".into(), size: 0 }
        );
        assert_eq!(event(&line(r#""eventid":"cowrie.client.kex","hassh":"x""#)), Event::Other);
    }

    #[test]
    fn times_come_with_z_with_an_offset_with_neither_and_as_seconds() {
        let time = |field: &str| {
            parse(format!(r#"{{"session":"a",{field}}}"#).as_bytes()).map(|entry| entry.time.to_string())
        };
        assert_eq!(time(r#""timestamp":"2018-05-06T22:33:22.5Z""#).unwrap(), "2018-05-06T22:33:22.5Z");
        assert_eq!(time(r#""timestamp":"2018-05-07T00:33:22.5+02:00""#).unwrap(), "2018-05-06T22:33:22.5Z");
        assert_eq!(time(r#""timestamp":"2018-05-06T22:33:22.5""#).unwrap(), "2018-05-06T22:33:22.5Z");
        assert_eq!(time(r#""time":1525646002.5"#).unwrap(), "2018-05-06T22:33:22.5Z");
        assert_eq!(time(r#""timestamp":"yesterday""#), Err(Rejected::Malformed));
        assert_eq!(time(r#""timestamp":"-000044-03-15T12:00:00Z""#), Err(Rejected::Malformed));
        assert_eq!(time(r#""time":1e300"#), Err(Rejected::Malformed));
    }

    #[test]
    fn what_is_no_event_is_told_apart() {
        assert_eq!(parse(b"{\"truncated\": "), Err(Rejected::Malformed));
        assert_eq!(parse(b"[1]"), Err(Rejected::Malformed));
        assert_eq!(parse(b" \t"), Err(Rejected::Blank));
        assert_eq!(
            parse(br#"{"eventid":"cowrie.system.start","timestamp":"2018-05-06T22:33:22.5Z"}"#),
            Err(Rejected::NoSession)
        );
    }

    #[test]
    fn half_a_surrogate_pair_costs_one_character_and_not_the_line() {
        let line = |input: &str| {
            format!(
                r#"{{"session":"a","timestamp":"2024-01-01T00:00:00Z","eventid":"cowrie.command.input","input":"{input}"}}"#
            )
        };
        let input = |text: &str| match event(&line(text)) {
            Event::Input { input, .. } => input,
            other => panic!("{other:?}"),
        };
        assert_eq!(input(r"a\udcffb"), "a\u{fffd}b");
        assert_eq!(input(r"\ud83d\ude00\ud83d"), "\u{1f600}\u{fffd}");
        assert_eq!(input(r"\\udcff\udcff"), "\\udcff\u{fffd}");
    }

    #[test]
    fn ids_are_what_the_table_stores() {
        let id = |text: &str| {
            let line = format!(r#"{{"session":"{text}","timestamp":"2024-01-01T00:00:00Z"}}"#);
            parse(line.as_bytes()).map(|entry| entry.session)
        };
        assert_eq!(id(&"x".repeat(40)).unwrap(), "x".repeat(32));
        assert_eq!(id(r"a\u0000b  ").unwrap(), "ab");
        assert_eq!(id(" "), Err(Rejected::NoSession));
    }
}
