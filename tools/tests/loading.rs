//! Tests `cowrie-load` against a server: the rows are the same if a log is split, repeated, compressed or damaged.

mod support;

use std::io::Read;
use std::process::Command;

use cowrie_enrich_tools::log;
use support::{Database, Site, bundled, line};

fn unpacked(path: &str) -> String {
    let mut text = String::new();
    log::decompressed(std::fs::File::open(path).unwrap()).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_repeated_load_changes_nothing() {
    let Some(mut database) = Database::new("repeated") else {
        return;
    };
    let first = database.report(&[&bundled()], b"");
    assert!(first.contains("sessions stored                                    632"), "{first}");
    let contents = database.contents();
    let second = database.report(&[&bundled()], b"");
    assert!(second.contains("632 sessions, 0 of them new"), "{second}");
    assert!(!second.contains("rows stored"), "{second}");
    assert_eq!(database.contents(), contents);
}

#[test]
fn a_log_loaded_in_parts_or_in_small_batches_gives_the_same_rows() {
    let Some(mut whole) = Database::new("whole") else {
        return;
    };
    whole.report(&[&bundled()], b"");
    let expected = whole.contents();
    let mut parts = Database::new("parts").unwrap();
    // 2025-05-08T10:36:27 is in the middle of a session, between two commands.
    for part in [["--until", "2025-05-08T10:36:27Z"], ["--from", "2025-05-08T10:36:27Z"]] {
        parts.report(&[&part[..], &[&bundled()]].concat(), b"");
    }
    assert_eq!(parts.contents(), expected);
    let mut small = Database::new("small").unwrap();
    small.report(&["--batch", "1", &bundled()], b"");
    assert_eq!(small.contents(), expected);
}

/// The hour before the end of summer time occurs twice in Berlin.
#[test]
fn times_are_stored_in_utc_whatever_time_zone_the_database_has() {
    let Some(mut database) = Database::new("zone") else {
        return;
    };
    let name = database.one("SELECT quote_ident(current_database())");
    database.client.batch_execute(&format!("ALTER DATABASE {name} SET timezone = 'Europe/Berlin'")).unwrap();
    let connect = |hour: u32| {
        let time = format!("2024-10-27T0{hour}:30:00");
        line(&format!("s{hour}"), 0, "session.connect", "").replace("2024-01-01T00:00:00", &time)
    };
    let hours: String = (0..4).map(connect).collect();
    database.report(&["-"], hours.as_bytes());
    assert_eq!(
        database.one("SELECT string_agg(starttime::text, ' ' ORDER BY id) FROM sessions"),
        "2024-10-27 00:30:00 2024-10-27 01:30:00 2024-10-27 02:30:00 2024-10-27 03:30:00"
    );
}

#[test]
fn a_directory_gives_its_logs_in_the_order_of_their_events() {
    let Some(mut whole) = Database::new("directory_whole") else {
        return;
    };
    whole.report(&[&bundled()], b"");
    let text = unpacked(&bundled());
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (old, new) = lines.split_at(lines.len() / 2);
    let logs = Site::new("directory", "");
    // The names are in another order than the events.
    logs.append("cowrie.json", new.concat());
    logs.append("cowrie.json.2025-05-07", old.concat());
    logs.append("cowrie.log", "not a log of events");
    let directory = logs.root.join("logs").display().to_string();
    let mut parts = Database::new("directory_parts").unwrap();
    parts.report(&[&directory], b"");
    assert_eq!(parts.contents(), whole.contents());
    let empty = logs.root.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let output = parts.load(&[empty.to_str().unwrap()], b"");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("no log of Cowrie in "), "{error}");
}

#[test]
fn the_printed_schema_is_enough_to_load_a_log() {
    let Some(mut database) = Database::new("schema") else {
        return;
    };
    let output = Command::new(env!("CARGO_BIN_EXE_cowrie-load")).arg("--print-schema").output().unwrap();
    let script = String::from_utf8(output.stdout).unwrap();
    database.psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    database.psql(&script);
    database.report(&[&bundled()], b"");
    assert_eq!(database.one("SELECT count(*)::text FROM sessions"), "632");
}

#[test]
fn damaged_lines_are_counted_and_the_rest_is_stored() {
    let Some(mut database) = Database::new("damaged") else {
        return;
    };
    let log = [
        line("a", 1, "session.connect", ""),
        "{\"eventid\": \"cowrie.login\n".into(),
        "\u{0}\u{1}garbage\n".into(),
        "[]\n\n".into(),
        "{\"eventid\":\"cowrie.system.start\",\"timestamp\":\"2024-01-01T00:00:00Z\"}\n".into(),
        line(
            "a",
            2,
            "login.failed",
            ",\"username\":\"x\\u0000y\\\\N\\n\\t'; drop table auth; --\",\"password\":\"\\udcff\"",
        ),
        line("a", 3, "session.closed", ""),
        "{\"eventid\":\"cowrie.session.connect\",\"session\":\"cut".into(),
    ]
    .concat();
    let report = database.report(&["-"], log.as_bytes());
    assert!(report.contains("malformed, skipped                                 4"), "{report}");
    assert!(report.contains("without a session, skipped                         1"), "{report}");
    assert!(report.contains("values truncated to the column's length              1"), "{report}");
    assert_eq!(database.one("SELECT username FROM auth"), "xy\\N\n\t'; drop table auth; --");
    assert_eq!(database.one("SELECT password FROM auth"), "\u{fffd}");
}

#[test]
fn too_long_values_are_cut_and_counted() {
    let Some(mut database) = Database::new("long") else {
        return;
    };
    let long = "ß".repeat(300);
    let log = [
        line("a", 1, "session.connect", ""),
        line("a", 2, "client.version", &format!(",\"version\":\"{long}\"")),
        line("a", 3, "login.success", &format!(",\"username\":\"{long}\",\"password\":\"{long}\"")),
        line("a", 4, "client.size", ",\"width\":100000,\"height\":200000"),
        line("a", 5, "command.input", &format!(",\"input\":\"{long}\"")),
    ]
    .concat();
    let report = database.report(&["-"], log.as_bytes());
    assert!(report.contains("values truncated to the column's length              4"), "{report}");
    assert!(report.contains("not closed in this log                             1"), "{report}");
    let lengths = "SELECT concat_ws(' ', length(username), length(password), length(input), (SELECT length(version) FROM clients), (SELECT termsize FROM sessions)) FROM auth, input";
    assert_eq!(database.one(lengths), "100 100 300 50 100000x");
}

#[test]
fn a_rotated_log_loses_neither_the_beginning_nor_the_end_of_a_session() {
    let Some(mut database) = Database::new("rotated") else {
        return;
    };
    let later = [
        line("a", 20, "command.input", ",\"input\":\"id\""),
        line("a", 21, "session.closed", ""),
        line("never-connected", 30, "login.failed", ",\"username\":\"u\",\"password\":\"p\""),
        line("never-connected", 31, "session.closed", ""),
    ]
    .concat();
    let earlier = [
        line("a", 10, "session.connect", ""),
        line("a", 11, "client.version", ",\"version\":\"SSH-2.0-Go\""),
    ]
    .concat();
    database.report(&["-"], earlier.as_bytes());
    let report = database.report(&["-"], later.as_bytes());
    assert!(report.contains("without a connect event                            1"), "{report}");
    assert!(report.contains("completed by this load                             1"), "{report}");
    let session = "SELECT concat_ws(' ', starttime, endtime, version) FROM sessions s JOIN clients c ON c.id = s.client WHERE s.id = 'a'";
    assert_eq!(database.one(session), "2024-01-01 00:00:10 2024-01-01 00:00:21 SSH-2.0-Go");
    assert_eq!(
        database.one("SELECT concat_ws(' ', starttime, ip) FROM sessions WHERE id = 'never-connected'"),
        "2024-01-01 00:00:30 192.0.2.1"
    );
    database.report(&["-"], later.as_bytes());
    assert_eq!(
        database.one("SELECT concat_ws(' ', (SELECT count(*) FROM auth), (SELECT count(*) FROM input))"),
        "1 1"
    );
}

#[test]
fn another_session_by_the_same_id_is_counted_and_equal_rows_stay_equal_in_number() {
    let Some(mut database) = Database::new("same_id") else {
        return;
    };
    let attempt = line("a", 2, "login.failed", ",\"username\":\"u\",\"password\":\"p\"");
    let first = [
        line("a", 1, "session.connect", ""),
        attempt.clone(),
        attempt.clone(),
        line("a", 3, "session.closed", ""),
    ]
    .concat();
    database.report(&["-"], first.as_bytes());
    database.report(&["-"], first.as_bytes());
    assert_eq!(database.one("SELECT count(*)::text FROM auth"), "2");
    let second = line("a", 40, "session.connect", "");
    let report = database.report(&["-"], second.as_bytes());
    assert!(report.contains("different session with the same id, not stored         1"), "{report}");
    let report = database.report(&["-"], [second, line("a", 50, "session.connect", "")].concat().as_bytes());
    assert!(report.contains("different session with the same id, not stored         2"), "{report}");
    assert_eq!(database.one("SELECT starttime::text FROM sessions"), "2024-01-01 00:00:01");
}

#[test]
fn a_truncated_archive_gives_what_it_holds_and_an_error() {
    let Some(mut database) = Database::new("truncated") else {
        return;
    };
    let packed = std::fs::read(bundled()).unwrap();
    let output = database.load(&["-"], &packed[..packed.len() / 2]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not read all of -"));
    assert!(database.one("SELECT count(*)::text FROM sessions").parse::<u32>().unwrap() > 100);
}

#[test]
fn a_database_without_cowries_tables_is_told_so() {
    let Some(database) = Database::new("empty") else {
        return;
    };
    let dsn = database.dsn.replace("dbname=empty", "dbname=postgres");
    let output = Database { dsn, client: database.client }.load(&["-"], b"");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("could not find Cowrie's tables")
            && error.contains("\"sessions\" does not exist; the statements of `cowrie-load --print-schema`"),
        "{error}"
    );
}

#[test]
fn tables_that_an_old_schema_lacks_are_left_out() {
    let Some(mut database) = Database::new("old_schema") else {
        return;
    };
    database.client.batch_execute("DROP TABLE ipforwards, ipforwardsdata").unwrap();
    let report = database.report(&[&bundled()], b"");
    assert!(report.contains("rows for missing tables, not stored                 88"), "{report}");
}
