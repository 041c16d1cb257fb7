//! All logs of a directory, and the position up to which each of them has been read.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::directory;
use super::identify::{Found, Identifier};
use super::position::{self, LogId, Position, Positions};
use super::reader::{LastLine, Progress, Reader};

/// Time after which a last line without an end is taken as it is, if a later log exists.
const LAST_LINE_WAIT: Duration = Duration::from_secs(60);

/// A log that was changed within this time, although a later log exists, is probably still being copied.
const COPY_WAIT: Duration = Duration::from_secs(30);

/// A file that could not be read is read again after this time. Meanwhile the other logs are read.
pub(super) const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

/// Number of looks at the directory while logs are renamed.
const MOST_LOOKS: u32 = 10;

/// A log whose complete lines have all been read. `size` is the size of the log at that time.
#[derive(Clone, Copy, Debug)]
struct Stalled {
    size: u64,
    since: Instant,
    last_line: LastLine,
}

pub struct Logs {
    directory: PathBuf,
    identifier: Identifier,
    reader: Reader,
    pub positions: Positions,
    found: Vec<Found>,
    stalled: HashMap<LogId, Stalled>,
    /// Logs that the directory had, and since when it does not have them.
    missing: HashMap<LogId, Instant>,
    /// Files, and the directory, that could not be read, and the times of the last attempts.
    failed: HashMap<PathBuf, Instant>,
    /// Errors since the last call of [`Logs::take_errors`].
    errors: Vec<String>,
    pub error_count: u64,
}

impl Logs {
    pub fn new(directory: PathBuf, positions: Positions) -> Logs {
        let mut logs = Logs {
            directory,
            identifier: Identifier::default(),
            reader: Reader::default(),
            positions,
            found: Vec::new(),
            stalled: HashMap::new(),
            missing: HashMap::new(),
            failed: HashMap::new(),
            errors: Vec::new(),
            error_count: 0,
        };
        // The newest log of the last run counts as missing until the first look at the directory finds it.
        let newest = logs.positions.iter().max_by_key(|(_, position)| position.first).map(|(id, _)| *id);
        logs.missing.extend(newest.map(|id| (id, Instant::now())));
        logs
    }

    /// Looks for new, renamed and changed logs. Leaves out files that could not be read a moment ago.
    pub fn scan(&mut self, now: Instant) {
        self.failed.retain(|_, at| now.duration_since(*at) < PAUSE_AFTER_ERROR);
        if self.failed.contains_key(&self.directory) {
            return;
        }
        let mut looks = 0;
        let (mut found, failed) = loop {
            looks += 1;
            match self.look() {
                Ok(Some(looked)) => break looked,
                // Logs were renamed meanwhile. The logs that were found last are still good enough.
                Ok(None) if looks == MOST_LOOKS => return,
                Ok(None) => {}
                Err(error) => {
                    self.found.clear();
                    self.reader.add_open(&mut self.found, &self.positions);
                    return self.fail(self.directory.clone(), &error, now);
                }
            }
        };
        for (path, error) in failed {
            self.fail(path, &error, now);
        }
        self.note_missing(&found, now);
        self.reader.add_open(&mut found, &self.positions);
        let ids: HashSet<LogId> = found.iter().map(|log| log.id).collect();
        self.stalled.retain(|id, _| ids.contains(id));
        self.found = found;
        position::forget_old(&mut self.positions, &ids);
    }

    /// Notes which logs have vanished from the directory.
    fn note_missing(&mut self, found: &[Found], now: Instant) {
        let present: HashSet<LogId> = found.iter().map(|log| log.id).collect();
        for id in self.found.iter().map(|log| log.id).filter(|id| !present.contains(id)) {
            self.missing.entry(id).or_insert(now);
        }
        self.missing.retain(|id, _| !present.contains(id) && self.positions.contains_key(id));
    }

    /// Looks at the directory once. Returns the logs, and the files that could not be read.
    fn look(&mut self) -> io::Result<Option<(Vec<Found>, Vec<(PathBuf, io::Error)>)>> {
        let (listed, mut failed) = directory::list(&self.directory, |path| self.failed.contains_key(path))?;
        Ok(self.identifier.identify(listed, &mut self.positions).map(|(found, unreadable)| {
            failed.extend(unreadable);
            (found, failed)
        }))
    }

    /// Reads a piece of the oldest log that has unread lines. Returns false if no log has unread lines.
    pub fn read(&mut self, now: Instant, each: &mut dyn FnMut(&Path, &[u8])) -> bool {
        let Some(index) = (0..self.found.len()).find(|index| self.has_unread(*index, now)) else {
            return false;
        };
        let last_line = self.last_line(index, now);
        let log = &self.found[index];
        let Some(position) = self.positions.get_mut(&log.id) else { return false };
        match self.reader.read(log, position, last_line, &mut |line| each(&log.path, line)) {
            Ok(Some(progress)) => self.take_progress(index, last_line, progress, now),
            // The log was renamed, truncated or removed. The next scan examines the file.
            Ok(None) => {
                position.file.modified = (0, 0);
                self.found.remove(index);
            }
            Err(error) => {
                let path = self.found.remove(index).path;
                if error.kind() != io::ErrorKind::NotFound {
                    self.fail(path, &error, now);
                }
            }
        }
        true
    }

    fn take_progress(&mut self, index: usize, last_line: LastLine, progress: Progress, now: Instant) {
        let log = &mut self.found[index];
        let Some(position) = self.positions.get_mut(&log.id) else { return };
        let before = std::mem::replace(&mut position.read, progress.read).bytes;
        let bytes = position.read.bytes;
        if log.is_compressed {
            position.is_exhausted = progress.is_at_end;
        } else if bytes == before {
            let size = log.version.size;
            let since = match self.stalled.get(&log.id) {
                Some(stalled) if stalled.size == size => stalled.since,
                _ => now,
            };
            self.stalled.insert(log.id, Stalled { size, since, last_line });
        } else if bytes > log.version.size {
            log.version.size = bytes;
        }
        if let Some(error) = progress.error {
            let path = log.path.clone();
            self.report(&path, &error);
        }
    }

    /// Returns the positions in the logs of the directory.
    pub fn current(&self) -> impl Iterator<Item = &Position> {
        self.found.iter().filter_map(|log| self.positions.get(&log.id))
    }

    /// Number of bytes in the directory that were not read. For compressed logs this is their compressed size.
    pub fn unread_bytes(&self, now: Instant) -> u64 {
        (0..self.found.len())
            .filter(|index| self.has_unread(*index, now))
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
    pub fn first_unread(&self, now: Instant) -> Option<Timestamp> {
        (0..self.found.len()).find(|index| self.has_unread(*index, now)).map(|index| self.found[index].first)
    }

    /// Returns the ends of the logs that are not finished: the time of the first event of the next log. A log is not finished if it
    /// has unread lines, or was changed a moment ago. The newest log has no end. A log that has vanished a moment ago is not finished
    /// either: if another program copies the logs of a honeypot, the new log can come before the rest of the log that was rotated.
    pub fn unfinished_ends(&self, now: Instant, clock: Timestamp) -> Vec<Timestamp> {
        let is_new = |modified: Timestamp| clock.duration_since(modified).unsigned_abs() < COPY_WAIT;
        let is_unfinished = |index: usize| {
            let (seconds, nanoseconds) = self.found[index].version.modified;
            self.has_unread(index, now) || Timestamp::new(seconds, nanoseconds as i32).is_ok_and(is_new)
        };
        let next = self.found.iter().skip(1).map(|log| log.first).enumerate();
        let mut ends: Vec<Timestamp> =
            next.filter(|(index, _)| is_unfinished(*index)).map(|(_, first)| first).collect();
        for (id, since) in &self.missing {
            if now.saturating_duration_since(*since) < COPY_WAIT
                && let Some(first) = self.positions.get(id).and_then(|position| position.first)
            {
                ends.extend(self.found.iter().map(|log| log.first).find(|next| *next > first));
            }
        }
        ends
    }

    pub fn take_errors(&mut self) -> Vec<String> {
        std::mem::take(&mut self.errors)
    }

    /// Reports an error. The file is not read again before a pause.
    fn fail(&mut self, path: PathBuf, error: &io::Error, now: Instant) {
        self.report(&path, error);
        self.failed.insert(path, now);
    }

    fn report(&mut self, path: &Path, error: &io::Error) {
        self.error_count += 1;
        self.errors.push(format!("{}: {error}", path.display()));
    }

    fn read_up_to(&self, log: &Found) -> u64 {
        self.positions.get(&log.id).map_or(0, |position| position.read.bytes)
    }

    fn has_unread(&self, index: usize, now: Instant) -> bool {
        let log = &self.found[index];
        if log.is_compressed {
            return self.positions.get(&log.id).is_some_and(|position| !position.is_exhausted);
        }
        log.version.size > self.read_up_to(log)
            && self.stalled.get(&log.id).is_none_or(|stalled| {
                stalled.size != log.version.size || stalled.last_line < self.last_line(index, now)
            })
    }

    /// A last line without an end is the rest of a log only if a later log exists.
    fn last_line(&self, index: usize, now: Instant) -> LastLine {
        if index + 1 == self.found.len() {
            return LastLine::Waits;
        }
        let log = &self.found[index];
        match self.stalled.get(&log.id) {
            Some(stalled)
                if stalled.size == log.version.size
                    && now.duration_since(stalled.since) >= LAST_LINE_WAIT =>
            {
                LastLine::Taken
            }
            _ => LastLine::TakenIfJson,
        }
    }
}
