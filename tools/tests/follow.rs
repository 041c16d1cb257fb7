//! `cowrie-load --follow`: rotation, half-written lines, restarts, and a database that refuses or is away.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use postgres::{Client, NoTls};
use support::{Database, Site, checkout, line, wait_until};

/// A database with a role for the loader, and a directory of logs.
struct Lab {
    database: Database,
    site: Site,
}

impl Lab {
    fn new(name: &str) -> Option<Lab> {
        let mut database = Database::new(name)?;
        let dsn = database.role(&format!("loader_{name}"), "follow");
        Some(Lab { site: Site::new(name, &dsn), database })
    }

    /// Returns the ids of the stored sessions, without the padding of their column.
    fn ids(&mut self) -> Vec<String> {
        let rows = self.database.client.query("SELECT id::text FROM sessions ORDER BY 1", &[]).unwrap();
        rows.iter().map(|row| row.get::<_, String>(0).trim_end().to_owned()).collect()
    }

    #[track_caller]
    fn wait_for(&mut self, ids: &[&str]) {
        let expected: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let Lab { database, site } = self;
        let fetch = || {
            let rows = database.client.query("SELECT rtrim(id) FROM sessions ORDER BY 1", &[]).unwrap();
            let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            (ids, site.errors())
        };
        wait_until("these sessions are stored", fetch, |(found, _)| *found == expected);
    }

    fn one(&mut self, query: &str) -> String {
        self.database.one(query)
    }

    #[track_caller]
    fn wait_for_metric(&self, name: &str, value: f64) {
        wait_until(name, || (self.site.metric(name), self.site.errors()), |(found, _)| *found == Some(value));
    }
}

fn connect(id: &str, second: u32) -> String {
    line(id, second, "session.connect", "")
}

fn closed(id: &str, second: u32) -> String {
    line(id, second, "session.closed", "")
}

fn whole(id: &str, second: u32) -> String {
    [connect(id, second), closed(id, second + 1)].concat()
}

#[test]
fn a_half_written_line_waits_for_its_end() {
    let Some(mut lab) = Lab::new("half") else {
        return;
    };
    let _follower = lab.site.start(&[]);
    let end = closed("a", 2);
    let (half, rest) = end.split_at(40);
    lab.site.append("cowrie.json", [&connect("a", 1), half].concat());
    lab.wait_for_metric("cowrie_load_lines_total", 1.0);
    lab.site.append("cowrie.json", [rest, "no JSON\n\n", &whole("b", 3)].concat());
    lab.wait_for(&["a", "b"]);
    lab.wait_for_metric("cowrie_load_malformed_lines_total", 1.0);
    lab.wait_for_metric("cowrie_load_lines_total", 5.0);
    assert!(lab.site.errors().contains("skipped a malformed line of"), "{}", lab.site.errors());
}

#[test]
fn an_open_session_is_kept_over_restarts_and_rotations_of_every_kind() {
    let Some(mut lab) = Lab::new("open") else {
        return;
    };
    let command =
        |second, input: &str| line("a", second, "command.input", &format!(",\"input\":\"{input}\""));
    let log = lab.site.log("cowrie.json");

    // Stored in the state file with the session x, which is complete.
    lab.site
        .append("cowrie.json", [connect("a", 1), command(2, "one"), whole("x", 3), connect("y", 8)].concat());
    let follower = lab.site.start(&[]);
    lab.wait_for(&["x"]);
    follower.kill();

    // Cowrie renames its log each day. The loader is away.
    lab.site.append("cowrie.json", command(10, "two"));
    fs::rename(&log, lab.site.log("cowrie.json.2024-01-01")).unwrap();
    lab.site.append("cowrie.json", command(11, "three"));

    // logrotate of DShield compresses the log at once, while Cowrie still writes to the file that was removed.
    let mut old = File::options().append(true).open(&log).unwrap();
    let follower = lab.site.start(&[]);
    lab.wait_for_metric("cowrie_load_lines_total", 2.0);
    fs::rename(&log, lab.site.log("cowrie.json.1")).unwrap();
    assert!(Command::new("gzip").arg(lab.site.log("cowrie.json.1")).status().unwrap().success());
    old.write_all(command(12, "four").as_bytes()).unwrap();
    lab.wait_for_metric("cowrie_load_lines_total", 3.0);

    // logrotate of T-Pot copies the log and truncates it.
    lab.site.append("cowrie.json", command(13, "five"));
    lab.wait_for_metric("cowrie_load_lines_total", 4.0);
    fs::copy(&log, lab.site.log("cowrie.json.2")).unwrap();
    File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    lab.site.append("cowrie.json", command(14, "six"));
    lab.wait_for_metric("cowrie_load_lines_total", 5.0);

    // A writer that does not append leaves NUL bytes at the start of a truncated file.
    fs::copy(&log, lab.site.log("cowrie.json.3")).unwrap();
    let length = fs::metadata(&log).unwrap().len();
    File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    File::options().write(true).open(&log).unwrap().set_len(length).unwrap();
    lab.site.append("cowrie.json", [command(15, "seven"), closed("a", 16), closed("y", 17)].concat());
    lab.wait_for(&["a", "x", "y"]);
    follower.kill();

    let inputs = "SELECT string_agg(input, ' ' ORDER BY timestamp) FROM input WHERE session = 'a'";
    assert_eq!(lab.one(inputs), "one two three four five six seven");
    assert_eq!(
        lab.one("SELECT concat_ws(' ', starttime, endtime) FROM sessions WHERE id = 'a'"),
        "2024-01-01 00:00:01 2024-01-01 00:00:16"
    );
    assert_eq!(lab.site.metric("cowrie_load_malformed_lines_total"), Some(0.0), "{}", lab.site.errors());
    assert_eq!(lab.site.metric("cowrie_load_known_sessions_total"), Some(0.0));
}

#[test]
fn logs_are_read_in_the_order_of_their_first_events() {
    let Some(mut lab) = Lab::new("by_time") else {
        return;
    };
    // In the order of names, the end of the session would be read before its start.
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(connect("a", 1).as_bytes()).unwrap();
    lab.site.append("cowrie.json.2.gz", gz.finish().unwrap());
    lab.site.append("cowrie.json.1", line("a", 2, "client.version", ",\"version\":\"SSH-2.0-Go\""));
    // The last line of a rotated log has no end, because the honeypot was killed.
    lab.site.append("cowrie.json-20240101", whole("b", 3).trim_end());
    lab.site.append("cowrie.json", closed("a", 20));
    // Other files of the directory are not read.
    lab.site.append("cowrie.log", whole("c", 4));
    lab.site.append("cowrie.json.swp", whole("d", 4));
    let made = Command::new("mkfifo").arg(lab.site.log("cowrie.json.9")).status().unwrap();
    assert!(made.success());
    let _follower = lab.site.start(&[]);
    lab.wait_for(&["a", "b"]);
    assert_eq!(lab.one("SELECT version FROM sessions s JOIN clients c ON c.id = s.client"), "SSH-2.0-Go");
    lab.wait_for_metric("cowrie_load_unread_bytes", 0.0);
    assert!(lab.site.errors().contains("is not a regular file"), "{}", lab.site.errors());
}

#[test]
fn a_compressed_log_is_read_again_when_it_is_complete() {
    let Some(mut lab) = Lab::new("compressed") else {
        return;
    };
    let text: String = (0..40).map(|number| whole(&format!("s{number:02}"), number)).collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gz.write_all(text.as_bytes()).unwrap();
    let packed = gz.finish().unwrap();
    lab.site.append("cowrie.json.1.gz", &packed[..packed.len() / 2]);
    let _follower = lab.site.start(&[]);
    wait_until("a part is stored", || lab.ids().len(), |count| *count > 0);
    assert!(lab.ids().len() < 40);
    lab.site.append("cowrie.json.1.gz", &packed[packed.len() / 2..]);
    wait_until("all is stored", || lab.ids().len(), |count| *count == 40);
    assert_eq!(lab.site.metric("cowrie_load_known_sessions_total"), Some(0.0));
}

#[test]
fn a_session_without_an_end_is_stored_when_it_is_idle() {
    let Some(mut lab) = Lab::new("idle") else {
        return;
    };
    lab.site.append("cowrie.json", [connect("a", 1), connect("b", 20), whole("c", 40)].concat());
    let follower = lab.site.start(&["--idle", "30"]);
    lab.wait_for(&["a", "c"]);
    // The end of the session comes too late to change its row. Other rows are stored.
    let late = line("a", 50, "command.input", ",\"input\":\"late\"");
    lab.site.append("cowrie.json", [late, closed("a", 51), closed("b", 52)].concat());
    lab.wait_for(&["a", "b", "c"]);
    wait_until(
        "the late row is stored",
        || lab.one("SELECT count(*)::text FROM input"),
        |count| count == "1",
    );
    lab.wait_for_metric("cowrie_load_lost_updates_total", 1.0);
    assert_eq!(lab.one("SELECT count(endtime)::text FROM sessions"), "2");
    follower.kill();
    // At the end of all logs the clock of the machine counts.
    lab.site.append("cowrie.json", connect("d", 53));
    let _follower = lab.site.start(&["--idle", "0"]);
    lab.wait_for(&["a", "b", "c", "d"]);
}

#[test]
fn sessions_of_another_loader_are_left_as_they_are() {
    let Some(mut lab) = Lab::new("known") else {
        return;
    };
    let log = [whole("a", 1), whole("b", 2), whole("c", 3), whole("d", 4)].concat();
    // Another program has stored two of the four sessions, and is storing a third.
    lab.database.report(&["-"], [whole("a", 1), whole("c", 3)].concat().as_bytes());
    lab.site.append("cowrie.json", &log);
    let _follower = lab.site.start(&[]);
    lab.wait_for(&["a", "b", "c", "d"]);
    lab.wait_for_metric("cowrie_load_known_sessions_total", 2.0);
    lab.wait_for_metric("cowrie_load_sessions_total", 2.0);
}

#[test]
fn a_session_that_the_database_refuses_is_set_aside() {
    let Some(mut lab) = Lab::new("refused") else {
        return;
    };
    lab.database.client.batch_execute("ALTER TABLE auth ADD CHECK (username <> 'evil')").unwrap();
    let login = line("b", 2, "login.failed", ",\"username\":\"evil\",\"password\":\"p\"");
    let log = [whole("a", 1), connect("b", 1), login, closed("b", 3), whole("c", 4), whole("d", 5)].concat();
    lab.site.append("cowrie.json", &log);
    let follower = lab.site.start(&[]);
    lab.wait_for(&["a", "c", "d"]);
    lab.wait_for_metric("cowrie_load_rejected_sessions_total", 1.0);
    assert!(lab.site.errors().contains("the database refuses the session b"), "{}", lab.site.errors());
    follower.kill();
    // The file can be loaded after the cause is removed.
    lab.database.client.batch_execute("ALTER TABLE auth DROP CONSTRAINT auth_username_check").unwrap();
    let rejected = lab.site.root.join("state/rejected.json");
    lab.database.report(&[rejected.to_str().unwrap()], b"");
    lab.wait_for(&["a", "b", "c", "d"]);
    assert_eq!(lab.one("SELECT username FROM auth"), "evil");
}

#[test]
fn a_cause_outside_of_the_sessions_sets_only_a_few_of_them_aside() {
    let Some(mut lab) = Lab::new("broken") else {
        return;
    };
    lab.database
        .client
        .batch_execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'out of order'; END$$;
             CREATE TRIGGER fail BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        .unwrap();
    let log: String = (0..50).map(|number| whole(&format!("s{number:02}"), number)).collect();
    lab.site.append("cowrie.json", log);
    let _follower = lab.site.start(&[]);
    lab.wait_for_metric("cowrie_load_rejected_sessions_total", 10.0);
    lab.wait_for_metric("cowrie_load_database_up", 0.0);
    assert!(lab.site.errors().contains("will try again: db error: out of order"), "{}", lab.site.errors());
    lab.database.client.batch_execute("DROP TRIGGER fail ON sessions").unwrap();
    wait_until("the others are stored", || lab.ids().len(), |count| *count == 40);
    lab.wait_for_metric("cowrie_load_rejected_sessions_total", 10.0);
}

#[test]
fn what_cannot_work_is_told_at_the_start() {
    let Some(mut lab) = Lab::new("start") else {
        return;
    };
    let ends = |site: &Site, arguments: &[&str]| {
        let mut follower = site.start(arguments);
        assert!(!follower.child.wait().unwrap().success());
        let said = site.errors();
        fs::remove_file(site.root.join("errors")).unwrap();
        said
    };
    lab.database.client.batch_execute("REVOKE INSERT (endtime) ON sessions FROM loader_start").unwrap();
    let said = ends(&lab.site, &[]);
    assert!(said.contains("lacks privileges: INSERT (endtime) on table sessions; run"), "{said}");
    lab.database.client.batch_execute("GRANT INSERT (endtime) ON sessions TO loader_start").unwrap();

    lab.database
        .client
        .batch_execute(
            "ALTER TABLE sessions DROP CONSTRAINT sessions_pkey CASCADE;
             CREATE UNIQUE INDEX partial ON sessions (id) WHERE endtime IS NOT NULL;
             CREATE UNIQUE INDEX other ON sessions (id, endtime);
             CREATE UNIQUE INDEX expression ON sessions (lower(id));
             CREATE UNIQUE INDEX without_id ON sessions (starttime, ip)",
        )
        .unwrap();
    let said = ends(&lab.site, &[]);
    assert!(said.contains("no unique key on id, so a session could be stored twice"), "{said}");
    lab.database.client.batch_execute("CREATE UNIQUE INDEX usable ON sessions (id, starttime)").unwrap();

    fs::write(lab.site.root.join("state/state.json"), "{").unwrap();
    let said = ends(&lab.site, &[]);
    assert!(said.contains("could not read") && said.contains("state.json"), "{said}");
    fs::remove_file(lab.site.root.join("state/state.json")).unwrap();

    let _follower = lab.site.start(&[]);
    wait_until("it is connected", || lab.site.errors(), |errors| errors.contains("connected;"));
    let said = lab.site.start(&[]).child.wait().unwrap();
    assert!(!said.success());
    assert!(lab.site.errors().contains("another cowrie-load uses it"), "{}", lab.site.errors());
    lab.site.append("cowrie.json", whole("a", 1));
    lab.wait_for(&["a"]);
}

#[test]
fn a_server_that_restarts_or_is_away_loses_nothing() {
    if support::server().is_none() {
        return;
    }
    let cluster = |action: &str, settings: &[&str]| {
        let output = Command::new(checkout().join("scripts/cluster"))
            .args([action, "tools-restart"])
            .args(settings)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    cluster("remove", &[]);
    cluster("start", &["fsync = off"]);
    let environment = cluster("env", &[]);
    let host = environment.split_whitespace().find_map(|pair| pair.strip_prefix("PGHOST=")).unwrap();
    let dsn = format!("host={host} port=5432 user=postgres dbname=postgres");
    let schema = fs::read_to_string(checkout().join("demo/cowrie-schema.sql")).unwrap();
    Client::connect(&dsn, NoTls).unwrap().batch_execute(&schema).unwrap();
    let stored = || -> i64 {
        let Ok(mut client) = Client::connect(&dsn, NoTls) else { return -1 };
        client.query_one("SELECT count(*) FROM sessions", &[]).map_or(-1, |row| row.get(0))
    };
    let site = Site::new("restart", &dsn);
    // The loader starts before the server.
    cluster("stop", &[]);
    let mut second = 0;
    let mut visit = || {
        second += 2;
        site.append("cowrie.json", whole(&format!("s{second:02}"), second));
    };
    visit();
    let _follower = site.start(&[]);
    let state = |name: &str, value: f64| {
        wait_until(name, || (site.metric(name), site.errors()), |(found, _)| *found == Some(value));
    };
    state("cowrie_load_database_up", 0.0);
    cluster("start", &["fsync = off"]);
    wait_until("the first session is stored", stored, |count| *count == 1);
    for restarted in 2..5 {
        cluster("stop", &[]);
        visit();
        state("cowrie_load_database_up", 0.0);
        cluster("start", &["fsync = off"]);
        wait_until("the session is stored", stored, |count| *count == restarted);
    }
    cluster("remove", &[]);
    let errors: BTreeSet<String> = site.errors().lines().map(str::to_owned).collect();
    assert!(errors.iter().any(|line| line.contains("could not connect, and will try again")), "{errors:?}");
    assert!(errors.contains("cowrie-load: connected again"), "{errors:?}");
}

/// A real log of 8,068 sessions, where it is present.
#[test]
fn a_real_log_gives_the_rows_of_a_clean_load() {
    let path = checkout().join("../shared/data/cowrie-logs/2018-05.jsonl.xz");
    let path = std::env::var("COWRIE_ENRICH_REAL_LOG").map_or(path, PathBuf::from);
    let Ok(packed) = fs::read(&path) else {
        eprintln!("not tested: {} is not there", path.display());
        return;
    };
    let Some(mut clean) = Database::new("real_clean") else {
        return;
    };
    clean.report(&["-"], &packed);
    let expected = clean.contents();
    let mut lab = Lab::new("real").unwrap();
    lab.site.append("cowrie.json.2018-05-07.xz", &packed);
    let _follower = lab.site.start(&[]);
    let count = clean.one("SELECT count(*)::text FROM sessions");
    let stored = || lab.one("SELECT count(*)::text FROM sessions");
    wait_until("all sessions are stored", stored, |stored| *stored == count);
    assert!(lab.database.contents() == expected);
}
