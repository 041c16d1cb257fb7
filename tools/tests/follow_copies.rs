//! `cowrie-load --follow` beside an earlier log that is still being copied into the directory.

mod support;

use std::time::{Duration, SystemTime};

use support::{Database, Random, Site, line, wait_until};

/// The ids of the stored sessions.
const STORED: &str = "SELECT coalesce(string_agg(rtrim(id), ' ' ORDER BY id), '') FROM sessions";

/// A line at a time of day. The lines of `line` are in the first minute of the day.
fn at(id: &str, time: &str, event: &str, fields: &str) -> String {
    line(id, 0, event, fields).replace("2024-01-01T00:00:00", time)
}

fn whole(id: &str, minute: &str) -> String {
    [
        at(id, &format!("{minute}:00"), "session.connect", ""),
        at(id, &format!("{minute}:01"), "session.closed", ""),
    ]
    .concat()
}

/// A log of one day, in parts in which it arrives, and the log of the next day in two parts.
///
/// | session | first log | second log |
/// |---|---|---|
/// | `long` | connects at the beginning, then types until the end | closes |
/// | `tail` | connects in the part that arrives last | closes |
/// | `cut` | connects, and has no end | |
fn logs() -> (Vec<String>, [String; 2]) {
    let day = "2024-01-01T";
    let input = |id: &str, hour: u32| {
        at(id, &format!("{day}{hour:02}:30:00"), "command.input", &format!(",\"input\":\"{id} {hour}\""))
    };
    let mut parts = vec![
        [
            at("long", &format!("{day}00:10:00"), "session.connect", ""),
            whole("early", &format!("{day}00:11")),
            // If the later log is read before this log, the third line of this log sets the time of the logs back. A session that
            // begins before this line stays open for an hour.
            at("cut", &format!("{day}00:12:00"), "session.connect", ""),
        ]
        .concat(),
    ];
    for hour in 1..24 {
        // No pause is longer than the time after which a session without an event counts as ended.
        let half = at("long", &format!("{day}{hour:02}:00:00"), "command.input", ",\"input\":\"w\"");
        parts.push(
            [half, input("long", hour), whole(&format!("h{hour}"), &format!("{day}{hour:02}:40"))].concat(),
        );
    }
    parts.push(
        [
            at("tail", &format!("{day}23:50:00"), "session.connect", ""),
            at("tail", &format!("{day}23:50:01"), "client.version", ",\"version\":\"SSH-2.0-Go\""),
        ]
        .concat(),
    );
    let next = "2024-01-02T";
    let later = [
        [
            whole("next", &format!("{next}00:00")),
            at("tail", &format!("{next}00:01:00"), "session.closed", ""),
            whole("after", &format!("{next}00:02")),
        ],
        [
            at("long", &format!("{next}00:03:00"), "session.closed", ""),
            whole("last", &format!("{next}00:04")),
            String::new(),
        ],
    ];
    (parts, later.map(|part| part.concat()))
}

/// Puts a copy in the place of a log, as rsync does. Each copy has another inode.
fn mirror(site: &Site, name: &str, text: &[u8]) {
    let copy = site.log(".copy");
    std::fs::write(&copy, text).unwrap();
    std::fs::rename(copy, site.log(name)).unwrap();
}

/// Another machine has the honeypot. Its log is copied every moment, and rotated. In half of the rounds, the loader is killed in between.
#[test]
fn logs_that_are_mirrored_from_another_machine_are_stored_once() {
    let (parts, later) = logs();
    let (early, later) = (parts.concat().into_bytes(), later.concat().into_bytes());
    let all = String::from_utf8([early.as_slice(), &later].concat()).unwrap();
    let Some(clean) = clean_contents("mirror_clean", &all) else {
        return;
    };
    let mut random = Random::seeded();
    for round in 0..4 {
        let mut database = Database::new("mirror").unwrap();
        let dsn = database.role("loader_mirror", "follow");
        let site = Site::new("mirror", &dsn);
        let mut follower = Some(site.start(&[]));
        let mut pause = |random: &mut Random| {
            std::thread::sleep(Duration::from_millis(random.below(300)));
            if round % 2 == 1 && random.one_in(3) {
                follower.take().unwrap().kill();
                follower = Some(site.start(&[]));
            }
        };
        // The last part of the earlier log comes with its new name, after the later log.
        let mut copied = 0;
        while copied < early.len() - 600 {
            copied = (early.len() - 1).min(copied + 1 + random.below(1500) as usize);
            mirror(&site, "cowrie.json", &early[..copied]);
            pause(&mut random);
        }
        let mut copied = 1 + random.below(500) as usize;
        mirror(&site, "cowrie.json", &later[..copied]);
        pause(&mut random);
        mirror(&site, "cowrie.json.2024-01-01", &early);
        settle(&site, "cowrie.json.2024-01-01");
        while copied < later.len() {
            copied = later.len().min(copied + 1 + random.below(300) as usize);
            mirror(&site, "cowrie.json", &later[..copied]);
            pause(&mut random);
        }
        wait_for(&mut database, &site, &format!("round {round} ends as a clean load"), &clean);
        wait_until("all is read", || site.metric("cowrie_load_unread_bytes"), |bytes| *bytes == Some(0.0));
    }
}

/// Makes the log look as if it had been copied long ago.
fn settle(site: &Site, name: &str) {
    let file = std::fs::File::options().append(true).open(site.log(name)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

fn clean_contents(name: &str, log: &str) -> Option<Vec<String>> {
    let mut clean = Database::new(name)?;
    clean.report(&["-"], log.as_bytes());
    Some(clean.contents())
}

fn wait_for(database: &mut Database, site: &Site, what: &str, expected: &[String]) {
    wait_until(what, || (database.contents(), site.errors()), |(found, _)| found == expected);
}

#[test]
fn a_session_that_goes_on_in_a_later_log_keeps_its_end_while_the_earlier_log_is_copied() {
    let (parts, later) = logs();
    let Some(clean) = clean_contents("copies_clean", &[parts.concat(), later.concat()].concat()) else {
        return;
    };
    let mut database = Database::new("copies").unwrap();
    let dsn = database.role("loader_copies", "follow");
    let site = Site::new("copies", &dsn);
    site.append("cowrie.json.1", &parts[0]);
    site.append("cowrie.json", &later[0]);
    let _follower = site.start(&[]);
    // The sessions that have nothing to do with the rest of the earlier log are stored at once.
    wait_until("the later log is stored", || database.one(STORED), |ids| ids.contains("after"));
    assert_eq!(database.one(STORED), "after early next");
    site.append("cowrie.json", &later[1]);
    for part in &parts[1..] {
        site.append("cowrie.json.1", part);
    }
    settle(&site, "cowrie.json.1");
    wait_for(&mut database, &site, "all sessions have their ends", &clean);
    assert_eq!(site.metric("cowrie_load_lost_updates_total"), Some(0.0));
}

/// The loader is killed at random places of the copy, and the later log grows at the same time.
#[test]
fn a_loader_that_is_killed_while_a_log_is_copied_stores_each_session_once_with_its_end() {
    let (parts, later) = logs();
    let Some(clean) = clean_contents("copies_kills_clean", &[parts.concat(), later.concat()].concat()) else {
        return;
    };
    let mut random = Random::seeded();
    for round in 0..5 {
        let mut database = Database::new("copies_kills").unwrap();
        let dsn = database.role("loader_copies_kills", "follow");
        let site = Site::new("copies_kills", &dsn);
        let (early, all_later) = (parts.concat().into_bytes(), later.concat().into_bytes());
        let (mut copied, mut written, mut is_ahead) = (0, 0, false);
        while copied < early.len() || written < all_later.len() {
            let follower = site.start(&[]);
            let before = (copied, written);
            copied = early.len().min(copied.max(parts[0].len()) + random.below(900) as usize);
            written = all_later.len().min(written + random.below(400) as usize);
            // The later log is always ahead of the copy.
            written = written.max(later[0].len());
            site.append("cowrie.json.1", &early[before.0..copied]);
            site.append("cowrie.json", &all_later[before.1..written]);
            // Once in each round, the loader stores sessions of the later log while the rest of the earlier log is missing.
            // Otherwise it is killed before, while or after it reads these lines.
            if !is_ahead && random.one_in(2) {
                wait_until("the later log is stored", || database.one(STORED), |ids| ids.contains("after"));
                is_ahead = true;
            } else if random.one_in(2) {
                std::thread::sleep(Duration::from_millis(random.below(300)));
            }
            follower.kill();
        }
        let _follower = site.start(&[]);
        settle(&site, "cowrie.json.1");
        wait_for(&mut database, &site, &format!("round {round} ends as a clean load"), &clean);
    }
}
