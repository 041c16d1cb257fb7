//! Kills `cowrie-load --follow` at any moment, and compares the stored sessions with those of one clean load.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use postgres::{Client, NoTls};
use support::{Database, Random, Site, line, wait_until};

const SESSIONS: u64 = 20_000;
const KILLS: u64 = 50;

/// Writes the events of many sessions, interleaved and in the order of time, as Cowrie does.
///
/// One session in 100 is never closed. One in 100 has an event long after its close.
fn traffic(random: &mut Random) -> Vec<String> {
    let mut events: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut count = 0;
    let mut add = |millisecond: u64, id: &str, event: &str, fields: &str| {
        count += 1;
        let second = 1_714_521_600 + millisecond / 1000;
        let time = format!(
            "{}",
            jiff::Timestamp::new(second as i64, (millisecond % 1000) as i32 * 1_000_000).unwrap()
        );
        let text = format!(
            "{{\"eventid\":\"cowrie.{event}\",\"session\":\"{id}\",\"sensor\":\"trap-{}\",\"src_ip\":\"198.51.{}.{}\",\"timestamp\":\"{time}\",\"nth\":{count}{fields}}}\n",
            &id[..1],
            millisecond % 200,
            millisecond % 250,
        );
        events.insert((millisecond, count), text);
    };
    for number in 0..SESSIONS {
        let id = format!("{:012x}", (number << 20) + random.below(1 << 20));
        let mut time = number * 100 + random.below(100);
        add(time, &id, "session.connect", "");
        time += random.below(2000);
        add(time, &id, "client.version", &format!(",\"version\":\"SSH-2.0-{}\"", random.below(20)));
        for attempt in 0..random.below(5) {
            time += random.below(5000);
            let fields = format!(",\"username\":\"root\",\"password\":\"{}\"", random.below(1000));
            add(time, &id, if attempt == 3 { "login.success" } else { "login.failed" }, &fields);
        }
        if random.one_in(3) {
            time += random.below(20_000);
            add(time, &id, "command.input", ",\"input\":\"uname -a\"");
            add(time, &id, "client.size", ",\"width\":80,\"height\":24");
        }
        if random.one_in(20) {
            let fields = ",\"dst_ip\":\"192.0.2.80\",\"dst_port\":80,\"data\":\"GET / HTTP/1.0\"";
            add(time, &id, "direct-tcpip.data", fields);
        }
        if !random.one_in(100) {
            time += random.below(10_000);
            add(time, &id, "session.closed", "");
            if random.one_in(100) {
                time += random.below(60_000);
                add(time, &id, "log.closed", &format!(",\"ttylog\":\"tty/{number}\",\"size\":{number}"));
            }
        }
    }
    // The honeypot was quiet for hours, so the sessions without an end are idle.
    let later = SESSIONS * 100 + 20_000_000;
    add(later, "ffffffffffff", "session.connect", "");
    add(later + 500, "ffffffffffff", "client.version", ",\"version\":\"SSH-2.0-last\"");
    add(later + 1000, "ffffffffffff", "session.closed", "");
    events.into_values().collect()
}

/// Writes a log and rotates it.
struct Honeypot<'a> {
    site: &'a Site,
    lines: std::vec::IntoIter<String>,
    /// The part of a line that was not written yet.
    rest: String,
    rotations: u32,
}

impl Honeypot<'_> {
    /// Writes some lines, and sometimes half of a line. Returns false at the end of the log.
    fn write(&mut self, random: &mut Random) -> bool {
        let mut text = std::mem::take(&mut self.rest);
        for line in self.lines.by_ref().take(random.below(500) as usize) {
            text += &line;
        }
        if random.one_in(2)
            && let Some(line) = self.lines.next()
        {
            let (half, rest) = line.split_at(1 + random.below(line.len() as u64 - 1) as usize);
            text += half;
            self.rest = rest.to_owned();
        }
        self.site.append("cowrie.json", text);
        !self.rest.is_empty() || self.lines.len() > 0
    }

    /// Ends the line that is half-written, and rotates the log in one of the ways that honeypots use.
    fn rotate(&mut self, random: &mut Random) {
        let rest = std::mem::take(&mut self.rest);
        self.site.append("cowrie.json", rest);
        self.rotations += 1;
        let log = self.site.log("cowrie.json");
        match random.below(3) {
            // Cowrie itself: a new name with a date.
            0 => fs::rename(&log, self.site.log(&format!("cowrie.json.2024-05-{:02}", self.rotations)))
                .unwrap(),
            // logrotate with compress.
            1 => {
                self.shift();
                fs::rename(&log, self.site.log("cowrie.json.1")).unwrap();
            }
            // logrotate with copytruncate and compress, as T-Pot has it.
            _ => {
                self.shift();
                fs::copy(&log, self.site.log("cowrie.json.1")).unwrap();
                File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
            }
        }
    }

    /// Gives each older log the next number, and compresses the newest of them.
    fn shift(&self) {
        for number in (2..100).rev() {
            let old = self.site.log(&format!("cowrie.json.{number}.gz"));
            if old.exists() {
                fs::rename(old, self.site.log(&format!("cowrie.json.{}.gz", number + 1))).unwrap();
            }
        }
        let newest = self.site.log("cowrie.json.1");
        if newest.exists() {
            assert!(Command::new("gzip").arg("-1").arg(&newest).status().unwrap().success());
            fs::rename(self.site.log("cowrie.json.1.gz"), self.site.log("cowrie.json.2.gz")).unwrap();
        }
    }
}

#[test]
fn fifty_kills_at_random_leave_the_sessions_of_one_clean_load() {
    let Some(mut clean) = Database::new("kills_clean") else {
        return;
    };
    let mut random = Random::seeded();
    let lines = traffic(&mut random);
    clean.report(&["-"], lines.concat().as_bytes());
    let expected = clean.contents();
    assert_eq!(clean.one("SELECT count(*)::text FROM sessions"), (SESSIONS + 1).to_string());

    let mut database = Database::new("kills").unwrap();
    let dsn = database.role("loader_kills", "follow");
    let site = Site::new("kills", &dsn);
    let steps_for_a_kill = lines.len() as u64 / 375 / KILLS;
    let mut honeypot = Honeypot { site: &site, lines: lines.into_iter(), rest: String::new(), rotations: 0 };
    let arguments = ["--batch", "300", "--idle", "600"];
    let mut kills = 0;
    let (mut while_committing, mut after_progress) = (0, 0);
    let mut is_more = true;
    while is_more || kills < KILLS {
        let stored_before = count(&mut database);
        let follower = site.start(&arguments);
        for _ in 0..=random.below(2 * steps_for_a_kill) {
            is_more = is_more && honeypot.write(&mut random);
            if is_more && random.one_in(4) {
                honeypot.rotate(&mut random);
            }
        }
        if kills == KILLS {
            // No more kills: the last loader runs while the rest is written.
            while is_more {
                is_more = honeypot.write(&mut random);
            }
            drop(follower);
            break;
        }
        // Most kills come after the loader has stored something. A random number of queries later is a random moment.
        if !random.one_in(4) && is_more {
            wait_until(
                "the loader stores sessions",
                || (count(&mut database), site.errors()),
                |(stored, _)| *stored > stored_before,
            );
            after_progress += 1;
        }
        for _ in 0..random.below(40) {
            count(&mut database);
        }
        follower.kill();
        kills += 1;
        while_committing += u32::from(state_is_committing(&site));
    }
    eprintln!(
        "{kills} kills: {after_progress} after a commit, {while_committing} with a batch in the state file; {} rotations",
        honeypot.rotations
    );
    assert!(honeypot.rotations > 20 && after_progress > 20);

    let _follower = site.start(&arguments);
    wait_until("all is read and stored", || quiet(&site), |(is_quiet, _)| *is_quiet);
    let found = database.contents();
    let missing: Vec<&String> = expected.iter().filter(|row| found.binary_search(row).is_err()).collect();
    let surplus: Vec<&String> = found.iter().filter(|row| expected.binary_search(row).is_err()).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nsurplus: {surplus:#?}");
    assert_eq!(found.len(), expected.len(), "rows were stored twice");
    assert_eq!(found, expected);
    for name in ["malformed_lines", "rejected_sessions", "known_sessions", "lost_updates", "read_errors"] {
        assert_eq!(site.metric(&format!("cowrie_load_{name}_total")), Some(0.0), "{name}: {}", site.errors());
    }
}

fn count(database: &mut Database) -> i64 {
    database.client.query_one("SELECT count(*) FROM sessions", &[]).unwrap().get(0)
}

/// Returns true if the metrics of the running loader say that nothing waits.
fn quiet(site: &Site) -> (bool, String) {
    let is = |name: &str| site.metric(name) == Some(0.0);
    let is_quiet = is("cowrie_load_unread_bytes")
        && is("cowrie_load_open_sessions")
        && is("cowrie_load_lag_seconds")
        && site.metric("cowrie_load_database_up") == Some(1.0);
    (is_quiet, site.errors())
}

fn state_is_committing(site: &Site) -> bool {
    fs::read_to_string(site.root.join("state/state.json"))
        .is_ok_and(|text| text.contains("\"is_committing\":true"))
}

/// Makes each commit on a table wait for an advisory lock, which the test holds.
const COMMIT_WAITS: &str = "
    CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$BEGIN PERFORM pg_advisory_lock_shared(4711); PERFORM pg_advisory_unlock_shared(4711); RETURN NULL; END$$;
    CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT ON TABLE_NAME
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit()";

const WAITING: &str =
    "SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Kills the loader while the server commits. Then either lets the server commit, or ends its process.
fn killed_in_commit(
    name: &str,
    table: &str,
    is_committed: bool,
    before: &str,
    text: &str,
) -> Option<Vec<String>> {
    let mut database = Database::new(name)?;
    let dsn = database.role(&format!("loader_{name}"), "follow");
    let site = Site::new(name, &dsn);
    site.append("cowrie.json", before);
    let follower = site.start(&[]);
    if !before.is_empty() {
        wait_until("the first session is stored", || count(&mut database), |count| *count == 1);
    }
    database.client.batch_execute(&COMMIT_WAITS.replace("TABLE_NAME", table)).unwrap();
    let mut holder = Client::connect(&database.dsn, NoTls).unwrap();
    holder.execute("SELECT pg_advisory_lock(4711)", &[]).unwrap();
    site.append("cowrie.json", text);
    wait_until("the commit waits", || database.one(WAITING), |waiting| waiting == "1");
    follower.kill();
    assert!(state_is_committing(&site));
    if !is_committed {
        database
            .client
            .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cowrie-load' AND datname = current_database()", &[])
            .unwrap();
    }
    holder.execute("SELECT pg_advisory_unlock(4711)", &[]).unwrap();
    let _follower = site.start(&[]);
    wait_until("all is read and stored", || quiet(&site), |(is_quiet, _)| *is_quiet);
    wait_until("the batch is done", || state_is_committing(&site), |is_committing| !is_committing);
    assert_eq!(site.metric("cowrie_load_known_sessions_total"), Some(0.0));
    Some(database.contents())
}

fn closed_session(id: &str) -> String {
    [
        line(id, 1, "session.connect", ""),
        line(id, 2, "login.failed", ",\"username\":\"u\",\"password\":\"p\""),
        line(id, 3, "session.closed", ""),
    ]
    .concat()
}

#[test]
fn a_batch_whose_commit_outlived_the_loader_is_not_stored_again() {
    for (name, is_committed) in [("commit_done", true), ("commit_lost", false)] {
        let text = [closed_session("a"), closed_session("b")].concat();
        let Some(rows) = killed_in_commit(name, "sessions", is_committed, "", &text) else {
            return;
        };
        assert_eq!(
            rows,
            [
                "auth|a                               |f|u|p|2024-01-01 00:00:02",
                "auth|b                               |f|u|p|2024-01-01 00:00:02",
                "sensor|trap",
                "session|a                               |2024-01-01 00:00:01|2024-01-01 00:00:03|trap|192.0.2.1",
                "session|b                               |2024-01-01 00:00:01|2024-01-01 00:00:03|trap|192.0.2.1",
            ],
            "committed: {is_committed}"
        );
    }
}

#[test]
fn late_rows_whose_commit_outlived_the_loader_are_not_stored_again() {
    for (name, is_committed) in [("late_done", true), ("late_lost", false)] {
        let late = line("a", 20, "log.closed", ",\"ttylog\":\"tty/a\",\"size\":7");
        let Some(rows) = killed_in_commit(name, "ttylog", is_committed, &closed_session("a"), &late) else {
            return;
        };
        let rows: Vec<&String> = rows.iter().filter(|row| row.starts_with("ttylog")).collect();
        assert_eq!(rows, ["ttylog|a                               |tty/a|7"], "committed: {is_committed}");
    }
}

/// A loader that runs when the machine loses its network knows nothing about the outcome of its commit either.
#[test]
fn a_connection_that_is_lost_while_the_server_commits_stores_nothing_twice() {
    let Some(mut database) = Database::new("commit_cut") else {
        return;
    };
    let dsn = database.role("loader_commit_cut", "follow");
    let site = Site::new("commit_cut", &dsn);
    database.client.batch_execute(&COMMIT_WAITS.replace("TABLE_NAME", "sessions")).unwrap();
    let mut holder = Client::connect(&database.dsn, NoTls).unwrap();
    holder.execute("SELECT pg_advisory_lock(4711)", &[]).unwrap();
    site.append("cowrie.json", closed_session("a"));
    let _follower = site.start(&[]);
    wait_until("the commit waits", || database.one(WAITING), |waiting| waiting == "1");
    database
        .client
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cowrie-load' AND datname = current_database()", &[])
        .unwrap();
    holder.execute("SELECT pg_advisory_unlock(4711)", &[]).unwrap();
    wait_until("the session is stored", || count(&mut database), |count| *count == 1);
    assert_eq!(database.one("SELECT count(*)::text FROM auth"), "1");
    assert!(site.errors().contains("could not store sessions, and will try again"), "{}", site.errors());
}

#[test]
fn a_file_that_the_loader_was_writing_when_it_was_killed_does_not_disturb() {
    let Some(mut database) = Database::new("half_state") else {
        return;
    };
    let dsn = database.role("loader_half_state", "follow");
    let site = Site::new("half_state", &dsn);
    fs::create_dir_all(site.root.join("state")).unwrap();
    let mut file = File::create(site.root.join("state/state.json.new")).unwrap();
    file.write_all(b"{\"version\":1,\"lo").unwrap();
    site.append("cowrie.json", closed_session("a"));
    let _follower = site.start(&[]);
    wait_until("the session is stored", || count(&mut database), |count| *count == 1);
}
