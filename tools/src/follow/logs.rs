//! All logs of a directory, and the position up to which each of them has been read.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::directory::{FileVersion, Found, Scanner};
use super::head::LogId;
use super::reader::{LastLine, Reader, stated_length};

/// Number of positions that are kept for logs that are no longer in the directory.
const KEPT_POSITIONS: usize = 1000;

/// Time after which a last line without an end is taken as it is, if a later log exists.
const LAST_LINE_WAIT: Duration = Duration::from_secs(60);

/// A log that could not be read is read again after this time. Meanwhile the other logs are read.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

/// The position in one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of bytes of the uncompressed log that were read.
    pub bytes: u64,
    /// Time of the first event of the log.
    pub first: Timestamp,
    /// The last known name of the log, for a person who reads the state file.
    pub name: String,
}

/// A log whose complete lines have all been read. `size` is the size of the log at that time.
#[derive(Clone, Copy, Debug)]
struct Stalled {
    size: u64,
    since: Instant,
    last_line: LastLine,
}

pub struct Logs {
    directory: PathBuf,
    scanner: Scanner,
    reader: Reader,
    pub positions: HashMap<LogId, Position>,
    found: Vec<Found>,
    stalled: HashMap<LogId, Stalled>,
    /// Logs that could not be read, and the time of the last attempt.
    failed: HashMap<LogId, Instant>,
    /// Compressed files without unread lines.
    exhausted: HashSet<FileVersion>,
    /// Errors since the last call of [`Logs::take_errors`].
    errors: Vec<String>,
    pub error_count: u64,
}

impl Logs {
    pub fn new(directory: PathBuf, positions: HashMap<LogId, Position>) -> Logs {
        Logs {
            directory,
            scanner: Scanner::default(),
            reader: Reader::default(),
            positions,
            found: Vec::new(),
            stalled: HashMap::new(),
            failed: HashMap::new(),
            exhausted: HashSet::new(),
            errors: Vec::new(),
            error_count: 0,
        }
    }

    /// Looks for new, renamed and changed logs.
    pub fn scan(&mut self) {
        let mut found = match self.scanner.scan(&self.directory) {
            Ok(found) => found,
            Err(error) => return self.fail(format!("{}: {error}", self.directory.display())),
        };
        for unreadable in std::mem::take(&mut self.scanner.unreadable) {
            self.fail(unreadable);
        }
        self.reader.add_open(&mut found);
        for log in &found {
            if let Some(position) = self.positions.get_mut(&log.head.id) {
                position.name = name_of(&log.path);
                if log.is_compressed
                    && log.path.extension().is_some_and(|extension| extension == "gz")
                    && !self.exhausted.contains(&log.version)
                    && stated_length(&log.path).is_ok_and(|length| length == position.bytes as u32)
                {
                    self.exhausted.insert(log.version);
                }
            }
        }
        let versions: HashSet<FileVersion> = found.iter().map(|log| log.version).collect();
        self.exhausted.retain(|version| versions.contains(version));
        let ids: HashSet<LogId> = found.iter().map(|log| log.head.id).collect();
        self.stalled.retain(|id, _| ids.contains(id));
        self.failed.retain(|id, _| ids.contains(id));
        self.found = found;
        self.forget_old_positions(&ids);
    }

    fn forget_old_positions(&mut self, present: &HashSet<LogId>) {
        let mut absent: Vec<(Timestamp, LogId)> = self
            .positions
            .iter()
            .filter(|(id, _)| !present.contains(id))
            .map(|(id, position)| (position.first, *id))
            .collect();
        absent.sort();
        for (_, id) in absent.iter().rev().skip(KEPT_POSITIONS) {
            self.positions.remove(id);
        }
    }

    /// Reads a piece of the oldest log that has unread lines. Leaves out a log that could not be read a moment ago. Returns
    /// false if no other log has unread lines.
    pub fn read(&mut self, each: &mut dyn FnMut(&Path, &[u8])) -> bool {
        let pauses = |index: usize| {
            let failed = self.failed.get(&self.found[index].head.id);
            failed.is_some_and(|at| at.elapsed() < PAUSE_AFTER_ERROR)
        };
        let mut readable = (0..self.found.len()).filter(|index| !pauses(*index));
        let Some(index) = readable.find(|index| self.has_unread(*index)) else {
            return false;
        };
        let last_line = self.last_line(index);
        let log = &self.found[index];
        let id = log.head.id;
        let before = self.read_up_to(log);
        let progress = self.reader.read(log, before, last_line, &mut |line| each(&log.path, line));
        match progress {
            Ok(Some(progress)) => {
                let (first, name) = (log.first, name_of(&log.path));
                self.positions.insert(id, Position { bytes: progress.position, first, name });
                if log.is_compressed {
                    if progress.is_at_end {
                        self.exhausted.insert(log.version);
                    }
                } else if progress.position == before {
                    let size = log.version.size;
                    let since = match self.stalled.get(&id) {
                        Some(stalled) if stalled.size == size => stalled.since,
                        _ => Instant::now(),
                    };
                    self.stalled.insert(id, Stalled { size, since, last_line });
                } else if progress.position > log.version.size {
                    self.found[index].version.size = progress.position;
                }
                if let Some(error) = progress.error {
                    self.fail(format!("{}: {error}", self.found[index].path.display()));
                }
            }
            // The log was renamed, truncated or removed. The next scan finds it.
            Ok(None) => drop(self.found.remove(index)),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.failed.insert(id, Instant::now());
                    self.fail(format!("{}: {error}", log.path.display()));
                }
                self.found.remove(index);
            }
        }
        true
    }

    /// Number of bytes in the directory that were not read. For compressed logs this is their compressed size.
    pub fn unread_bytes(&self) -> u64 {
        (0..self.found.len())
            .filter(|index| self.has_unread(*index))
            .map(|index| {
                let log = &self.found[index];
                match log.is_compressed {
                    true => log.version.size,
                    false => log.version.size.saturating_sub(self.read_up_to(log)),
                }
            })
            .sum()
    }

    /// Time of the first event of the oldest log with unread lines.
    pub fn first_unread(&self) -> Option<Timestamp> {
        (0..self.found.len()).find(|index| self.has_unread(*index)).map(|index| self.found[index].first)
    }

    pub fn take_errors(&mut self) -> Vec<String> {
        std::mem::take(&mut self.errors)
    }

    fn fail(&mut self, error: String) {
        self.error_count += 1;
        self.errors.push(error);
    }

    fn read_up_to(&self, log: &Found) -> u64 {
        self.positions.get(&log.head.id).map_or(0, |position| position.bytes)
    }

    fn has_unread(&self, index: usize) -> bool {
        let log = &self.found[index];
        if log.is_compressed {
            return !self.exhausted.contains(&log.version);
        }
        log.version.size > self.read_up_to(log)
            && self.stalled.get(&log.head.id).is_none_or(|stalled| {
                stalled.size != log.version.size || stalled.last_line < self.last_line(index)
            })
    }

    /// A last line without an end is the rest of a log only if a later log exists.
    fn last_line(&self, index: usize) -> LastLine {
        if index + 1 == self.found.len() {
            return LastLine::Waits;
        }
        let log = &self.found[index];
        match self.stalled.get(&log.head.id) {
            Some(stalled)
                if stalled.size == log.version.size && stalled.since.elapsed() >= LAST_LINE_WAIT =>
            {
                LastLine::Taken
            }
            _ => LastLine::TakenIfJson,
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
