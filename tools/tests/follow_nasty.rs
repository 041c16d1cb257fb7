//! `cowrie-load --follow` with logs and times that no honeypot should write, compared with one load of the files.

mod support;

use std::fs;

use support::{Database, Random, Site, line, wait_until};

fn closed(id: &str, second: u32) -> String {
    line(id, second, "session.closed", "")
}

fn whole(id: &str, second: u32) -> String {
    [line(id, second, "session.connect", ""), closed(id, second + 1)].concat()
}

fn input(id: &str, second: u32, text: &str) -> String {
    line(id, second, "command.input", &format!(",\"input\":\"{text}\""))
}

/// A database and a loader's directory. The role has the privileges of `--follow`.
fn lab(name: &str) -> Option<(Database, Site)> {
    let mut database = Database::new(name)?;
    let dsn = database.role(&format!("loader_{name}"), "follow");
    Some((database, Site::new(name, &dsn)))
}

#[track_caller]
fn wait_for_metric(site: &Site, name: &str, value: f64) {
    let name = format!("cowrie_load_{name}");
    wait_until(&name, || (site.metric(&name), site.errors()), |(found, _)| *found == Some(value));
}

#[track_caller]
fn wait_for_sessions(database: &mut Database, ids: &str) {
    let query = "SELECT coalesce(string_agg(rtrim(id), ' ' ORDER BY id), '') FROM sessions";
    wait_until("these sessions are stored", || database.one(query), |found| found == ids);
}

/// Lines that are too long, that have NUL bytes, white space or bytes that are no text, and ids that the table shortens.
fn nasty_log() -> Vec<u8> {
    let long = "x".repeat(17 << 20);
    let id = "i".repeat(32);
    let mut log = vec![0; 5000];
    for part in [
        line("a", 1, "session.connect", "").into_bytes(),
        input("a", 2, &long).into_bytes(),
        [closed("a", 3).trim_end(), &" ".repeat(17 << 20), "\n"].concat().into_bytes(),
        b"\0\0\0\n \t\n\r\n\n".to_vec(),
        [b"\0\0\0".as_slice(), input("a", 4, "after NUL bytes").as_bytes()].concat(),
        input("a", 4, "NUL \0 inside").into_bytes(),
        input("a", 5, "escaped \\u0000 NUL").into_bytes(),
        [b"no text \xff\xfe ".as_slice(), input("a", 5, "x").as_bytes()].concat(),
        input("a", 6, "\\udcff half a pair").into_bytes(),
        closed("a", 7).into_bytes(),
        line(&format!("{id}1"), 8, "session.connect", "").into_bytes(),
        input(&format!("{id}2"), 9, "another id, the same in the table").into_bytes(),
        closed(&format!("{id}3"), 10).into_bytes(),
        line("b ", 11, "session.connect", "").into_bytes(),
        // The same connect event, and what follows it, a second time.
        input("b", 12, "once").into_bytes(),
        line("b ", 11, "session.connect", "").into_bytes(),
        input("b", 12, "once").into_bytes(),
        closed("b", 13).into_bytes(),
        b"{\"eventid\":\"cowrie.system.start\",\"timestamp\":\"2024-01-01T00:00:00Z\"}\n".to_vec(),
        b"[]\n{}\nnull\n".to_vec(),
        // The last line has no end.
        whole("c", 20).trim_end().as_bytes().to_vec(),
    ] {
        log.extend(part);
    }
    log
}

#[test]
fn a_nasty_log_gives_the_same_rows_and_counts_in_both_modes() {
    let Some(mut clean) = Database::new("nasty_clean") else {
        return;
    };
    let log = nasty_log();
    let report = clean.report(&["-"], &log);
    for name in ["cowrie.json.1", "cowrie.json.1.gz"] {
        let (mut database, site) = lab("nasty").unwrap();
        if name.ends_with(".gz") {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gz, &log).unwrap();
            site.append(name, gz.finish().unwrap());
        } else {
            site.append(name, &log);
        }
        // Because a later log exists, the last line is taken.
        site.append("cowrie.json", "[\n");
        let _follower = site.start(&[]);
        wait_for_metric(&site, "sessions_total", 4.0);
        wait_for_metric(&site, "open_sessions", 0.0);
        assert_eq!(database.contents(), clean.contents(), "{name}");
        let malformed = site.metric("cowrie_load_malformed_lines_total").unwrap() - 1.0;
        assert!(report.contains(&format!("malformed, skipped {malformed:>33}")), "{malformed} {report}");
        let lines = site.metric("cowrie_load_lines_total").unwrap() - 1.0;
        assert!(report.contains(&format!("lines read {lines:>43}")), "{lines} {report}");
    }
}

#[test]
fn later_events_of_a_rejected_session_go_to_the_file_and_not_to_the_tables() {
    let Some((mut database, site)) = lab("orphan") else {
        return;
    };
    database.client.batch_execute("ALTER TABLE auth ADD CHECK (username <> 'evil')").unwrap();
    let login = line("b", 2, "login.failed", ",\"username\":\"evil\",\"password\":\"p\"");
    site.append("cowrie.json", [line("b", 1, "session.connect", ""), login, closed("b", 3)].concat());
    let follower = site.start(&[]);
    wait_for_metric(&site, "rejected_sessions_total", 1.0);
    follower.kill();
    // The program still knows after a restart that the session was refused.
    let _follower = site.start(&[]);
    site.append("cowrie.json", [input("b", 4, "late"), whole("c", 5)].concat());
    wait_for_sessions(&mut database, "c");
    wait_for_metric(&site, "open_sessions", 0.0);
    assert_eq!(database.one("SELECT count(*)::text FROM input"), "0");
    database.client.batch_execute("ALTER TABLE auth DROP CONSTRAINT auth_username_check").unwrap();
    let rejected = site.root.join("state/rejected.json");
    wait_until("it is written", || fs::read_to_string(&rejected).unwrap(), |text| text.contains("late"));
    database.report(&[rejected.to_str().unwrap()], b"");
    assert_eq!(database.one("SELECT string_agg(rtrim(session) || input, ' ') FROM input"), "blate");
    wait_for_sessions(&mut database, "b c");
}

#[test]
fn events_that_come_long_after_their_session_are_counted_and_written_to_a_file() {
    let Some((mut database, site)) = lab("late") else {
        return;
    };
    site.append("cowrie.json", whole("a", 1));
    let _follower = site.start(&[]);
    wait_for_sessions(&mut database, "a");
    // Hours later the id of the session is forgotten.
    let hours_later = |text: String| text.replace("T00:00", "T05:00");
    site.append(
        "cowrie.json",
        hours_later((0..4).map(|number| whole(&format!("b{number}"), number)).collect()),
    );
    wait_for_sessions(&mut database, "a b0 b1 b2 b3");
    site.append("cowrie.json", hours_later([input("a", 10, "very late"), closed("a", 11)].concat()));
    wait_for_metric(&site, "late_sessions_total", 1.0);
    assert_eq!(site.metric("cowrie_load_known_sessions_total"), Some(0.0));
    assert!(site.errors().contains("wrote late events of the session a"), "{}", site.errors());
    let late = site.root.join("state/late.json");
    wait_until("it is written", || late.exists(), |exists| *exists);
    assert_eq!(database.one("SELECT count(*)::text FROM input"), "0");
    // The file can be loaded, also twice.
    for _ in 0..2 {
        database.report(&[late.to_str().unwrap()], b"");
        assert_eq!(database.one("SELECT string_agg(rtrim(session) || input, ' ') FROM input"), "avery late");
    }
}

/// The key of a partitioned table has more columns than the id. So the table does not refuse late events as a session.
#[test]
fn late_events_are_written_to_a_file_if_the_key_has_the_start_too() {
    let Some(mut database) = Database::new("late_key") else {
        return;
    };
    database
        .client
        .batch_execute(
            "ALTER TABLE sessions RENAME TO old;
             CREATE TABLE sessions (LIKE old, PRIMARY KEY (id, starttime)) PARTITION BY RANGE (starttime);
             CREATE TABLE sessions_2024 PARTITION OF sessions FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
        )
        .unwrap();
    let dsn = database.role("loader_late_key", "follow");
    let site = Site::new("late_key", &dsn);
    site.append("cowrie.json", whole("a", 1));
    let _follower = site.start(&[]);
    wait_for_sessions(&mut database, "a");
    let hours_later = |text: String| text.replace("T00:00", "T05:00");
    site.append(
        "cowrie.json",
        hours_later((0..4).map(|number| whole(&format!("b{number}"), number)).collect()),
    );
    wait_for_sessions(&mut database, "a b0 b1 b2 b3");
    let late = [input("a", 10, "very late"), closed("a", 11), whole("c", 20)].concat();
    site.append("cowrie.json", hours_later(late));
    wait_for_metric(&site, "late_sessions_total", 1.0);
    wait_for_sessions(&mut database, "a b0 b1 b2 b3 c");
    assert!(
        site.errors().contains("wrote late events of the session a, whose start was not read, to late.json")
    );
    let late = site.root.join("state/late.json");
    wait_until("it is written", || late.exists(), |exists| *exists);
    for _ in 0..2 {
        database.report(&[late.to_str().unwrap()], b"");
        assert_eq!(database.one("SELECT string_agg(rtrim(session) || input, ' ') FROM input"), "avery late");
    }
    wait_for_sessions(&mut database, "a b0 b1 b2 b3 c");
}

/// An attacker can send commands that an index refuses, one session after the other.
#[test]
fn many_refused_sessions_do_not_stop_later_sessions() {
    let Some((mut database, site)) = lab("flood") else {
        return;
    };
    database.client.batch_execute("CREATE INDEX ON input (input)").unwrap();
    // PostgreSQL would compress a text that repeats.
    let mut random = Random(1);
    let long: String = (0..250).map(|_| format!("{:016x}", random.below(u64::MAX))).collect();
    let bad = |number: u32| {
        let id = format!("x{number:04}");
        [line(&id, 1, "session.connect", ""), input(&id, 2, &long), closed(&id, 3)].concat()
    };
    site.append("cowrie.json", (0..30).map(bad).collect::<String>());
    let _follower = site.start(&[]);
    // Nothing says yet whether the database refuses all sessions.
    wait_for_metric(&site, "rejected_sessions_total", 10.0);
    wait_for_metric(&site, "database_up", 0.0);
    site.append("cowrie.json", whole("a", 20));
    wait_for_sessions(&mut database, "a");
    wait_for_metric(&site, "rejected_sessions_total", 30.0);
    // Without any other session too, the program goes on after a number of sessions.
    site.append("cowrie.json", (100..1300).map(bad).collect::<String>());
    site.append("cowrie.json", whole("b", 40));
    wait_for_sessions(&mut database, "a b");
    wait_for_metric(&site, "rejected_sessions_total", 1230.0);
    assert_eq!(site.metric("cowrie_load_open_sessions"), Some(0.0));
    let errors = site.errors();
    assert_eq!(errors.matches("could not store sessions").count(), 1, "{errors}");
    assert!(!errors.contains("connected again"), "{errors}");
}

#[test]
fn sessions_are_on_disk_whatever_the_role_has_set() {
    let Some((mut database, site)) = lab("durable") else {
        return;
    };
    database
        .client
        .batch_execute(
            "CREATE TABLE seen (setting text); GRANT INSERT ON seen TO PUBLIC;
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                 INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END$$;
             CREATE TRIGGER see BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION see()",
        )
        .unwrap();
    for (number, (set, expected)) in
        [("off", "local"), ("local", "local"), ("on", "on"), ("remote_apply", "remote_apply")]
            .iter()
            .enumerate()
    {
        let role = format!("ALTER ROLE loader_durable SET synchronous_commit = {set}; TRUNCATE seen");
        database.client.batch_execute(&role).unwrap();
        site.append("cowrie.json", whole(&format!("s{number}"), number as u32 * 10));
        let follower = site.start(&[]);
        let seen = "SELECT coalesce(max(setting), '') FROM seen";
        wait_until("a session is stored", || database.one(seen), |found| found == expected);
        follower.kill();
    }
}

#[test]
fn a_line_from_the_future_ends_no_session() {
    let Some((mut database, site)) = lab("future") else {
        return;
    };
    let future = |text: String| text.replace("2024-01-01", "2190-01-01");
    site.append(
        "cowrie.json",
        [line("a", 1, "session.connect", ""), future(input("x", 1, "y").repeat(20)), whole("b", 2)].concat(),
    );
    let _follower = site.start(&[]);
    wait_for_metric(&site, "future_lines_total", 20.0);
    site.append("cowrie.json", [closed("a", 3), whole("c", 9)].concat());
    wait_for_sessions(&mut database, "a b c");
    assert_eq!(database.one("SELECT count(endtime)::text FROM sessions"), "3");
    assert_eq!(site.metric("cowrie_load_lost_updates_total"), Some(0.0));
    assert!(site.errors().contains("time after the clock of this machine"), "{}", site.errors());
}

/// Two sensors began their logs with equal lines. Then lines are cut from one log, while the loader runs.
#[test]
fn equal_first_lines_and_cut_lines_neither_lose_nor_repeat_sessions() {
    let Some((mut database, site)) = lab("equal") else {
        return;
    };
    let start =
        "{\"eventid\":\"cowrie.system.start\",\"timestamp\":\"2024-01-01T00:00:00Z\",\"sensor\":\"trap\"}\n";
    site.append("cowrie.json", [start, &whole("a", 1)].concat());
    site.append("cowrie-2.json", [start, &whole("b", 1)].concat());
    let _follower = site.start(&[]);
    wait_for_sessions(&mut database, "a b");
    let late = input("a", 3, "late");
    site.append("cowrie.json", &late);
    wait_until("it is stored", || database.one("SELECT count(*)::text FROM input"), |count| count == "1");
    fs::write(site.log("cowrie.json"), [late, whole("c", 4)].concat()).unwrap();
    wait_for_sessions(&mut database, "a b c");
    site.append("cowrie-2.json", whole("d", 5));
    wait_for_sessions(&mut database, "a b c d");
    wait_for_metric(&site, "open_sessions", 0.0);
    assert_eq!(database.one("SELECT count(*)::text FROM input"), "1");
    assert_eq!(site.metric("cowrie_load_known_sessions_total"), Some(0.0));
}

#[test]
fn a_whole_log_that_is_written_again_stores_no_row_twice() {
    let Some((mut database, site)) = lab("again") else {
        return;
    };
    let login = line("a", 2, "login.failed", ",\"username\":\"u\",\"password\":\"p\"");
    let log =
        [line("a", 1, "session.connect", ""), login, closed("a", 3), line("o", 4, "session.connect", "")];
    site.append("cowrie.json", [log.concat(), input("o", 5, "open")].concat());
    let _follower = site.start(&[]);
    wait_for_sessions(&mut database, "a");
    // The first line differs, and the last line that was read is gone.
    let again = ["another first line\n", &log.concat(), &input("o", 6, "new"), &closed("o", 7)].concat();
    fs::write(site.log("cowrie.json"), again).unwrap();
    wait_for_sessions(&mut database, "a o");
    wait_for_metric(&site, "open_sessions", 0.0);
    assert_eq!(database.one("SELECT count(*)::text FROM auth"), "1");
    assert_eq!(database.one("SELECT string_agg(input, ' ' ORDER BY timestamp) FROM input"), "open new");
}

#[test]
fn a_message_says_what_was_read_and_stored() {
    let Some((mut database, site)) = lab("summary") else {
        return;
    };
    site.append("cowrie.json", [whole("a", 1), whole("b", 2), line("c", 3, "session.connect", "")].concat());
    let length = fs::metadata(site.log("cowrie.json")).unwrap().len();
    let _follower = site.start(&[]);
    wait_for_sessions(&mut database, "a b");
    let message = format!(
        "cowrie-load: all logs are read; sessions stored: 2, open: 1; logs: 1, unread bytes: 0, position: byte {length} \
         of cowrie.json\n"
    );
    wait_until("the message", || site.errors(), |errors| errors.contains(&message));
}

#[test]
fn a_full_disk_ends_the_program_and_neither_loses_nor_repeats_a_session() {
    let Some((mut database, site)) = lab("disk_full") else {
        return;
    };
    site.append("cowrie.json", [whole("a", 1), input("a", 2, "once")].concat());
    let state = site.root.join("state");
    fs::create_dir_all(&state).unwrap();
    let temporary = state.join("state.json.new");
    for _ in 0..3 {
        std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
        let mut follower = site.start(&[]);
        assert!(!follower.child.wait().unwrap().success());
        assert!(site.errors().contains("could not write the state file: No space left"), "{}", site.errors());
        assert_eq!(database.one("SELECT count(*)::text FROM sessions"), "0");
        fs::remove_file(&temporary).unwrap();
    }
    let _follower = site.start(&[]);
    wait_for_sessions(&mut database, "a");
    wait_for_metric(&site, "open_sessions", 0.0);
    assert_eq!(database.one("SELECT count(*)::text FROM input"), "1");
}

#[test]
fn two_loaders_of_one_directory_store_each_session_once() {
    let Some((mut database, site)) = lab("two") else {
        return;
    };
    let other = Site { root: site.root.join("other"), dsn: site.dsn.clone() };
    fs::create_dir_all(&other.root).unwrap();
    std::os::unix::fs::symlink(site.root.join("logs"), other.root.join("logs")).unwrap();
    let _followers = [site.start(&[]), other.start(&[])];
    let session =
        |number: u32| [whole(&format!("s{number:02}"), number), input(&format!("s{number:02}"), number, "x")];
    for number in 0..50 {
        site.append("cowrie.json", session(number).concat());
    }
    let count = "SELECT count(*)::text FROM sessions";
    wait_until("all are stored", || database.one(count), |count| count == "50");
    for site in [&site, &other] {
        wait_for_metric(site, "open_sessions", 0.0);
        wait_for_metric(site, "lag_seconds", 0.0);
    }
    // Events that come later are stored by the loader that has stored the session.
    site.append(
        "cowrie.json",
        (0..50).map(|number| input(&format!("s{number:02}"), 55, "late")).collect::<String>(),
    );
    let late = "SELECT count(*)::text FROM input WHERE input = 'late'";
    wait_until("all late events are stored", || database.one(late), |count| count == "50");
    for site in [&site, &other] {
        wait_for_metric(site, "unread_bytes", 0.0);
        wait_for_metric(site, "open_sessions", 0.0);
        assert_eq!(site.metric("cowrie_load_late_sessions_total"), Some(0.0));
    }
    assert_eq!(database.one("SELECT count(*)::text FROM input"), "100");
    let stored = |site: &Site| site.metric("cowrie_load_sessions_total").unwrap();
    assert_eq!(stored(&site) + stored(&other), 50.0);
}
