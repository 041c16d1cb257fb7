//! Tests of [`Logs`] with real files: each line is read once, whatever happens to the files.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::directory;
use super::identify::Identifier;
use super::logs::{Logs, PAUSE_AFTER_ERROR};

pub struct Lab {
    directory: PathBuf,
    logs: Logs,
    now: Instant,
    /// If true, the program restarts before each look at the directory.
    restarts: bool,
}

impl Lab {
    pub fn new(name: &str) -> Lab {
        let directory = std::env::temp_dir().join(format!("cowrie-load-logs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        let logs = Logs::new(directory.clone(), Default::default());
        Lab { directory, logs, now: Instant::now(), restarts: false }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        let mut file = File::options().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
    }

    pub fn truncate(&self, name: &str) {
        File::options().write(true).open(self.path(name)).unwrap().set_len(0).unwrap();
    }

    /// Compresses a file, and removes it.
    pub fn gzip(&self, name: &str) {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(&fs::read(self.path(name)).unwrap()).unwrap();
        fs::write(self.path(&format!("{name}.gz")), gz.finish().unwrap()).unwrap();
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Replaces a file as an editor does, or in place.
    fn replace(&self, name: &str, text: &str, is_in_place: bool) {
        let before = fs::metadata(self.path(name)).unwrap().ino();
        if is_in_place {
            fs::write(self.path(name), text).unwrap();
        } else {
            fs::write(self.path("new"), text).unwrap();
            self.rename("new", name);
        }
        assert_eq!(fs::metadata(self.path(name)).unwrap().ino() == before, is_in_place);
    }

    pub fn restart(&mut self) {
        self.logs = Logs::new(self.directory.clone(), self.logs.positions.clone());
    }

    /// Reads all logs to their end. Returns the lines.
    pub fn read(&mut self) -> Vec<String> {
        if self.restarts {
            self.restart();
        }
        let mut lines = Vec::new();
        for _ in 0..1000 {
            self.logs.scan(self.now);
            let take = &mut |_: &_, line: &[u8]| lines.push(String::from_utf8(line.to_vec()).unwrap());
            if !self.logs.read(self.now, take) {
                return lines;
            }
        }
        panic!("the logs are read without end: {:?}", self.logs.take_errors());
    }

    #[track_caller]
    fn expect(&mut self, lines: &[u32]) {
        let expected: Vec<String> = lines.iter().map(|number| line(*number).trim_end().to_owned()).collect();
        assert_eq!(self.read(), expected, "restarts: {}", self.restarts);
        assert_eq!(self.read(), Vec::<String>::new());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A line that is as long as one of Cowrie's.
pub fn line(number: u32) -> String {
    let (minute, second) = (number / 60, number % 60);
    format!(
        "{{\"eventid\":\"cowrie.command.input\",\"session\":\"{number:012x}\",\"timestamp\":\"2024-01-01T00:{minute:02}:{second:02}.{number:06}Z\"}}\n"
    )
}

fn text(numbers: &[u32]) -> String {
    numbers.iter().map(|number| line(*number)).collect()
}

/// Runs a test without restarts, and with a restart before each look.
fn twice(name: &str, test: impl Fn(&mut Lab)) {
    for restarts in [false, true] {
        let mut lab = Lab::new(name);
        lab.restarts = restarts;
        test(&mut lab);
    }
}

#[test]
fn logs_with_the_same_first_lines_are_different_logs() {
    twice("same", |lab| {
        lab.append("cowrie.json.1", text(&[1, 2, 10]));
        lab.append("cowrie.json.2", text(&[1, 2, 20]));
        let mut lines = lab.read();
        lines.sort();
        lines.dedup();
        assert_eq!(lines.concat().len(), text(&[1, 2, 10, 20]).len() - 4);
        lab.append("cowrie.json.1", text(&[11]));
        lab.append("cowrie.json.2", text(&[21]));
        let mut lines = lab.read();
        lines.sort();
        assert_eq!(lines, [line(11).trim_end(), line(21).trim_end()]);
    });
}

#[test]
fn a_log_that_begins_like_a_log_that_was_read_is_read_from_where_it_differs() {
    twice("begins", |lab| {
        lab.append("cowrie.json.1", text(&[1]));
        lab.expect(&[1]);
        lab.append("cowrie.json.1", text(&[2]));
        lab.append("cowrie.json.2", text(&[1, 3]));
        lab.expect(&[2, 3]);
    });
}

#[test]
fn a_renamed_copied_linked_or_compressed_log_is_not_read_again() {
    twice("moved", |lab| {
        lab.append("cowrie.json", text(&[1, 2]));
        lab.expect(&[1, 2]);
        lab.append("cowrie.json", text(&[3]));
        lab.rename("cowrie.json", "cowrie.json.1");
        lab.append("cowrie.json", text(&[4]));
        lab.expect(&[3, 4]);
        // A copy, and a copy that is being written.
        lab.copy("cowrie.json.1", "cowrie.json.5");
        let half = &text(&[1, 2, 3])[..line(1).len() + 20];
        lab.append("cowrie.json.6", half);
        lab.expect(&[]);
        fs::hard_link(lab.path("cowrie.json.1"), lab.path("cowrie.json.7")).unwrap();
        std::os::unix::fs::symlink(lab.path("cowrie.json.1"), lab.path("cowrie.json.8")).unwrap();
        lab.expect(&[]);
        lab.gzip("cowrie.json.5");
        lab.expect(&[]);
        for name in ["cowrie.json.1", "cowrie.json.6", "cowrie.json.7", "cowrie.json.8"] {
            fs::remove_file(lab.path(name)).unwrap();
        }
        lab.expect(&[]);
        lab.rename("cowrie.json.5.gz", "cowrie.json.6.gz");
        lab.append("cowrie.json", text(&[5]));
        lab.expect(&[5]);
    });
}

#[test]
fn a_log_that_is_copied_and_truncated_loses_no_line() {
    twice("copytruncate", |lab| {
        lab.append("cowrie.json", text(&[1, 2, 3]));
        lab.expect(&[1, 2, 3]);
        lab.append("cowrie.json", text(&[4]));
        lab.copy("cowrie.json", "cowrie.json.1");
        lab.truncate("cowrie.json");
        // As long as the old log, so that only the contents differ.
        lab.append("cowrie.json", text(&[5, 6, 7, 8]));
        lab.expect(&[4, 5, 6, 7, 8]);
        // Lines that come between the copy and the truncation are read if the program is fast enough.
        lab.copy("cowrie.json", "cowrie.json.2");
        lab.append("cowrie.json", text(&[9]));
        lab.expect(&[9]);
        lab.truncate("cowrie.json");
        lab.append("cowrie.json", text(&[10]));
        lab.expect(&[10]);
        lab.gzip("cowrie.json.2");
        lab.expect(&[]);
    });
}

#[test]
fn a_compressed_log_that_ends_earlier_than_it_was_read_is_not_read_again() {
    twice("deleted", |lab| {
        lab.append("cowrie.json", text(&[1, 2]));
        lab.expect(&[1, 2]);
        let mut open = File::options().append(true).open(lab.path("cowrie.json")).unwrap();
        lab.rename("cowrie.json", "cowrie.json.1");
        lab.gzip("cowrie.json.1");
        open.write_all(line(3).as_bytes()).unwrap();
        // Only a program that has the log open can read the line.
        lab.expect(if lab.restarts { &[] } else { &[3] });
        lab.restart();
        lab.append("cowrie.json", text(&[4]));
        lab.expect(&[4]);
    });
}

/// As rsync does it: a longer copy takes the place of the log, and has another inode.
#[test]
fn a_log_that_is_replaced_by_a_longer_copy_is_read_on() {
    twice("replaced", |lab| {
        lab.append("cowrie.json", text(&[1]));
        lab.expect(&[1]);
        for number in 2..20 {
            // Some copies end within a line, and some have nothing new.
            let all: Vec<u32> = (1..=number).collect();
            let half = &line(number + 1)[..30];
            lab.replace("cowrie.json", &[&text(&all), half].concat(), false);
            lab.expect(&[number]);
            lab.replace("cowrie.json", &[&text(&all), half].concat(), false);
            lab.expect(&[]);
        }
        // The log is rotated where it comes from, so its last lines come with its new name.
        let old: Vec<u32> = (1..=25).collect();
        lab.append("cowrie.json.2024-01-01", text(&old));
        lab.replace("cowrie.json", &text(&[26]), false);
        lab.expect(&[20, 21, 22, 23, 24, 25, 26]);
        // The new log comes first.
        lab.replace("cowrie.json", &text(&[28]), false);
        lab.expect(&[28]);
        lab.append("cowrie.json.2024-01-02", text(&[26, 27]));
        lab.expect(&[27]);
    });
}

#[test]
fn a_log_that_vanishes_is_not_finished_for_a_while() {
    twice("vanished", |lab| {
        lab.append("cowrie.json", text(&[1, 2]));
        lab.expect(&[1, 2]);
        lab.replace("cowrie.json", &text(&[4]), false);
        lab.expect(&[4]);
        let ends = |lab: &Lab, seconds| {
            // By the clock, all files are old.
            let clock = Timestamp::now() + Duration::from_secs(3600);
            lab.logs.unfinished_ends(lab.now + Duration::from_secs(seconds), clock)
        };
        if lab.restarts {
            return;
        }
        let next: Timestamp = "2024-01-01T00:00:04.000004Z".parse().unwrap();
        assert_eq!((ends(lab, 29), ends(lab, 31)), (vec![next], vec![]));
        lab.append("cowrie.json.1", text(&[1, 2, 3]));
        lab.expect(&[3]);
        assert_eq!(ends(lab, 0), []);
    });
}

#[test]
fn logs_of_a_directory_that_is_removed_and_put_back_are_read_on() {
    twice("put_back", |lab| {
        lab.append("cowrie.json.1", text(&[1]));
        lab.append("cowrie.json", text(&[2]));
        lab.expect(&[1, 2]);
        for number in 3..6 {
            fs::remove_dir_all(&lab.directory).unwrap();
            lab.expect(&[]);
            fs::create_dir(&lab.directory).unwrap();
            lab.expect(&[]);
            lab.append("cowrie.json.1", text(&[1]));
            let all: Vec<u32> = (2..=number).collect();
            lab.append("cowrie.json", text(&all));
            lab.now += PAUSE_AFTER_ERROR;
            lab.expect(&[number]);
        }
    });
}

/// The first line is longer than the part of a log by which it is recognised, and the times of the files say nothing.
#[test]
fn logs_with_long_first_lines_are_read_in_the_order_of_time() {
    for length in [20_000, 200_000] {
        let mut lab = Lab::new("long_first");
        let padding = format!("\",\"input\":\"{}\",\"timestamp", "x".repeat(length));
        let long = |number: u32| line(number).replacen("\",\"timestamp", &padding, 1);
        for (number, age) in [(1, 10), (3, 30), (2, 20)] {
            let name = format!("cowrie.json.{number}");
            lab.append(&name, long(number));
            let copied = SystemTime::now() - Duration::from_secs(age);
            File::options().append(true).open(lab.path(&name)).unwrap().set_modified(copied).unwrap();
        }
        let lines: Vec<String> = [1, 2, 3].map(|number| long(number).trim_end().to_owned()).into();
        assert_eq!(lab.read(), lines);
    }
}

#[test]
fn after_lines_were_removed_only_new_lines_are_read() {
    for is_in_place in [true, false] {
        // The first line, two in the middle, and all except the last.
        for kept in [&[2, 3, 4, 5][..], &[1, 4, 5], &[5]] {
            twice("edited", |lab| {
                lab.append("cowrie.json", text(&[1, 2, 3, 4, 5]));
                lab.expect(&[1, 2, 3, 4, 5]);
                lab.replace("cowrie.json", &text(&[kept, &[6, 7, 8, 9, 10, 11][..]].concat()), is_in_place);
                lab.expect(&[6, 7, 8, 9, 10, 11]);
                lab.append("cowrie.json", text(&[12]));
                lab.expect(&[12]);
            });
        }
    }
}

#[test]
fn a_first_line_that_is_written_again_is_read_again_and_the_others_are_not() {
    for is_in_place in [true, false] {
        twice("first", |lab| {
            lab.append("cowrie.json", text(&[1, 2]));
            lab.expect(&[1, 2]);
            lab.replace("cowrie.json", &text(&[100, 2, 3]), is_in_place);
            lab.expect(&[3]);
            // Without the last line that was read, the log is another log.
            lab.replace("cowrie.json", &text(&[7, 8]), is_in_place);
            lab.expect(&[7, 8]);
        });
    }
}

#[test]
fn a_half_written_first_line_is_read_when_it_is_complete() {
    twice("half", |lab| {
        let (half, rest) = (&line(1)[..70], &line(1)[70..]);
        lab.append("cowrie.json", half);
        lab.append("cowrie.json.1", &line(2)[..20]);
        lab.expect(&[]);
        lab.append("cowrie.json", rest);
        lab.expect(&[1]);
        lab.append("cowrie.json.1", &line(2)[20..]);
        lab.append("cowrie.json", text(&[3]));
        let mut lines = lab.read();
        lines.sort();
        assert_eq!(lines, [line(2).trim_end(), line(3).trim_end()]);
    });
}

/// A log whose first line was half-written, and that only this program still has, is read before a later log.
#[test]
fn an_open_log_keeps_its_place_in_the_order_of_time() {
    let mut lab = Lab::new("order");
    lab.append("cowrie.json", &line(1)[..70]);
    lab.expect(&[]);
    lab.append("cowrie.json", &line(1)[70..]);
    lab.expect(&[1]);
    let mut open = File::options().append(true).open(lab.path("cowrie.json")).unwrap();
    lab.rename("cowrie.json", "cowrie.json.1");
    lab.gzip("cowrie.json.1");
    open.write_all(line(2).as_bytes()).unwrap();
    lab.append("cowrie.json", text(&[3]));
    lab.expect(&[2, 3]);
}

#[test]
fn an_inode_that_is_used_again_before_it_was_read_has_the_time_of_its_contents() {
    let mut lab = Lab::new("unread");
    lab.append("cowrie.json", text(&[1]));
    lab.logs.scan(lab.now);
    lab.truncate("cowrie.json");
    lab.append("cowrie.json", text(&[3]));
    lab.append("cowrie.json.1", text(&[2]));
    lab.expect(&[2, 3]);
}

#[test]
fn an_inode_that_is_used_again_is_another_log() {
    twice("inode", |lab| {
        lab.append("cowrie.json", text(&[1, 2]));
        lab.expect(&[1, 2]);
        let version = lab.logs.positions.values().next().unwrap().file;
        // The same inode and size, and other contents.
        lab.truncate("cowrie.json");
        lab.append("cowrie.json", text(&[3, 4]));
        let metadata = fs::metadata(lab.path("cowrie.json")).unwrap();
        assert_eq!((version.inode, version.size), (metadata.ino(), metadata.len()));
        lab.expect(&[3, 4]);
    });
}

/// The directory is listed, and then the logs are renamed.
#[test]
fn a_log_that_is_renamed_after_it_was_listed_is_not_taken_for_another_log() {
    let mut lab = Lab::new("renamed");
    lab.append("cowrie.json.1", text(&[1]));
    lab.append("cowrie.json", text(&[2]));
    let (listed, _) = directory::list(&lab.directory, |_| false).unwrap();
    let rotate = |lab: &Lab, number| {
        lab.rename("cowrie.json.1", &format!("cowrie.json.{}", number + 1));
        lab.rename("cowrie.json", "cowrie.json.1");
        lab.append("cowrie.json", text(&[number]));
    };
    rotate(&lab, 3);
    assert!(Identifier::default().identify(listed, &mut Default::default()).is_none());
    // After the logs were identified, but before they are opened.
    lab.logs.scan(lab.now);
    rotate(&lab, 4);
    let mut lines = Vec::new();
    while lab.logs.read(lab.now, &mut |_, line: &[u8]| lines.push(line.to_vec())) {}
    assert!(lines.len() <= 1, "{lines:?}");
    lab.expect([[1, 2, 3, 4].as_slice(), &[2, 3, 4]][lines.len()]);
}

#[test]
fn a_file_that_fails_is_not_read_again_before_a_pause_and_other_logs_are() {
    let mut lab = Lab::new("fails");
    lab.append("cowrie.json", text(&[1]));
    lab.append("cowrie.json.1", text(&[2]));
    lab.expect(&[1, 2]);
    // A directory has the name of a log, after the log was found.
    lab.append("cowrie.json.1", text(&[3]));
    lab.restart();
    lab.logs.scan(lab.now);
    fs::remove_file(lab.path("cowrie.json.1")).unwrap();
    fs::create_dir(lab.path("cowrie.json.1")).unwrap();
    for number in 4..100 {
        lab.append("cowrie.json", line(number));
        assert!(lab.read().len() == 1, "the other log is read");
    }
    assert_eq!(lab.logs.error_count, 1);
    lab.now += PAUSE_AFTER_ERROR - Duration::from_millis(1);
    lab.expect(&[]);
    assert_eq!(lab.logs.error_count, 1);
    lab.now += Duration::from_millis(1);
    lab.expect(&[]);
    assert_eq!(lab.logs.error_count, 2);
    // The log is back. It is read after the pause.
    fs::remove_dir(lab.path("cowrie.json.1")).unwrap();
    lab.append("cowrie.json.1", text(&[2, 3]));
    lab.expect(&[]);
    lab.now += PAUSE_AFTER_ERROR;
    lab.expect(&[3]);
}

#[test]
fn a_directory_that_fails_is_not_read_again_before_a_pause() {
    let mut lab = Lab::new("gone");
    lab.append("cowrie.json", text(&[1]));
    lab.expect(&[1]);
    fs::rename(&lab.directory, lab.directory.with_extension("away")).unwrap();
    for _ in 0..100 {
        lab.expect(&[]);
    }
    assert_eq!(lab.logs.error_count, 1);
    fs::rename(lab.directory.with_extension("away"), &lab.directory).unwrap();
    lab.append("cowrie.json", text(&[2]));
    lab.now += PAUSE_AFTER_ERROR;
    lab.expect(&[2]);
}
