//! Writes a session as events of Cowrie's log, and reads it back.
//!
//! `cowrie-load --follow` keeps sessions in its state file in this form. A later version of the program can read them,
//! because it can read Cowrie's log. Sessions that the database refuses are stored in this form too, so that
//! `cowrie-load FILE` can load them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::log::{self, Event};
use crate::session::Session;

/// Returns the events of a session. [`from_lines`] returns an equal session.
pub fn to_lines(session: &Session) -> Vec<Value> {
    let line = |time: Timestamp, name: &str, mut fields: Value| {
        fields["eventid"] = format!("cowrie.{name}").into();
        fields["session"] = session.id.as_str().into();
        fields["timestamp"] = time.to_string().into();
        fields["sensor"] = session.sensor.as_str().into();
        fields["src_ip"] = session.address.as_str().into();
        fields
    };
    // Cowrie has no event of the name `session.part`. It only gives the time when the events of this part begin.
    let first = if session.connected { "session.connect" } else { "session.part" };
    let mut lines = vec![line(session.start, first, json!({}))];
    if let Some(version) = &session.client {
        lines.push(line(session.start, "client.version", json!({ "version": version })));
    }
    if let Some(size) = &session.terminal_size {
        let (width, height) = size.split_once('x').unwrap_or((size, ""));
        lines.push(line(session.start, "client.size", json!({ "width": width, "height": height })));
    }
    for (time, event) in &session.events {
        if let Some((name, fields)) = fields_of(event) {
            lines.push(line(*time, name, fields));
        }
    }
    lines.extend(session.end.map(|end| line(end, "session.closed", json!({}))));
    lines
}

/// Returns the session that [`to_lines`] has written, or `None` if these are not the events of one session.
pub fn from_lines(lines: &[Value]) -> Option<Session> {
    let mut entries = lines.iter().map(|line| log::entry_of(line).ok());
    let first = entries.next()??;
    let mut session = Session::begin(&first);
    session.add(first);
    for entry in entries {
        let entry = entry.filter(|entry| entry.session == session.id)?;
        session.add(entry);
    }
    Some(session)
}

fn fields_of(event: &Event) -> Option<(&'static str, Value)> {
    Some(match event {
        Event::Login { success, username, password } => (
            if *success { "login.success" } else { "login.failed" },
            json!({ "username": username, "password": password }),
        ),
        Event::Input { success: None, realm, input } => {
            ("session.input", json!({ "realm": realm, "input": input }))
        }
        Event::Input { success: Some(true), input, .. } => ("command.input", json!({ "input": input })),
        Event::Input { success: Some(false), input, .. } => ("command.failed", json!({ "input": input })),
        Event::Download { url, outfile, shasum } => {
            ("session.file_download", json!({ "url": url, "outfile": outfile, "shasum": shasum }))
        }
        Event::Terminal { ttylog, size } => ("log.closed", json!({ "ttylog": ttylog, "size": size })),
        Event::Parameters { arch } => ("session.params", json!({ "arch": arch })),
        Event::Fingerprint { username, fingerprint } => {
            ("client.fingerprint", json!({ "username": username, "fingerprint": fingerprint }))
        }
        Event::Forward { host, port } => {
            ("direct-tcpip.request", json!({ "dst_ip": host, "dst_port": port }))
        }
        Event::ForwardedData { host, port, data } => {
            ("direct-tcpip.data", json!({ "dst_ip": host, "dst_port": port, "data": data }))
        }
        // These events are fields of the session, or have no row.
        Event::Connect | Event::Closed | Event::ClientVersion(_) | Event::TerminalSize(_) | Event::Other => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9 x]{0,6}", any::<String>()]
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        (0..7_258_118_400_i64, 0..1_000_000_i32)
            .prop_map(|(second, micro)| Timestamp::new(second, micro * 1000).unwrap())
    }

    fn event() -> impl Strategy<Value = Event> {
        let optional = || proptest::option::of(text());
        prop_oneof![
            (any::<bool>(), text(), text()).prop_map(|(success, username, password)| Event::Login {
                success,
                username,
                password
            }),
            (any::<bool>(), text()).prop_map(|(success, input)| Event::Input {
                success: Some(success),
                realm: None,
                input
            }),
            (optional(), text()).prop_map(|(realm, input)| Event::Input { success: None, realm, input }),
            (text(), optional(), optional()).prop_map(|(url, outfile, shasum)| Event::Download {
                url,
                outfile,
                shasum
            }),
            (text(), any::<i32>()).prop_map(|(ttylog, size)| Event::Terminal { ttylog, size }),
            text().prop_map(|arch| Event::Parameters { arch }),
            (text(), text()).prop_map(|(username, fingerprint)| Event::Fingerprint { username, fingerprint }),
            (text(), any::<i32>()).prop_map(|(host, port)| Event::Forward { host, port }),
            (text(), any::<i32>(), text()).prop_map(|(host, port, data)| Event::ForwardedData {
                host,
                port,
                data
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_session_is_read_back_as_it_was_written(
            id in "[0-9a-f]{1,12}",
            connected: bool,
            start in time(),
            end in proptest::option::of(time()),
            sensor in text(),
            address in text(),
            client in proptest::option::of(text()),
            size in proptest::option::of((text(), text())),
            events in proptest::collection::vec((time(), event()), 0..5),
        ) {
            let terminal_size = size.map(|(width, height)| format!("{width}x{height}"));
            let session =
                Session { id, connected, start, end, sensor, address, client, terminal_size, events, expected: Default::default() };
            let text = serde_json::to_string(&to_lines(&session)).unwrap();
            let lines: Vec<Value> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(from_lines(&lines), Some(session.clone()));
            // A line of the log gives the same.
            for (line, value) in to_lines(&session).iter().zip(&lines) {
                prop_assert_eq!(log::parse(line.to_string().as_bytes()), log::entry_of(value));
            }
        }
    }

    #[test]
    fn events_of_two_sessions_are_not_one_session() {
        let line = |session: &str| json!({"session": session, "timestamp": "2024-01-01T00:00:00Z"});
        assert!(from_lines(&[line("a"), line("a")]).is_some());
        assert_eq!(from_lines(&[line("a"), line("b")]), None);
        assert_eq!(from_lines(&[]), None);
        assert_eq!(from_lines(&[json!("text")]), None);
    }
}
