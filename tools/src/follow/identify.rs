//! Finds out which log each file of the directory is.
//!
//! A file is a known log if its contents begin with the part of this log that was read. The cases, in this order:
//!
//! | case | example | the file is |
//! |---|---|---|
//! | same file and same last change | a rotated log | the log of that file |
//! | begins with the part that was read | a log that has grown, or was renamed, copied or compressed | that log |
//! | equals the beginning of a file that is a log | a copy that is being written | no log of its own |
//! | equals the beginning of the part that was read | logrotate compressed a log while Cowrie still wrote to it | no log of its own |
//! | has the last line that was read at another position | a person removed lines | a new log, read after this line |
//! | none of these | a truncated log, an inode that is used again | a new log, read from its beginning |

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::directory::{self, FileVersion, Listed, has_packed_name};
use super::fingerprint::{Fingerprint, HEAD, SHORTEST, Trace, Traced, prefix_of};
use super::position::{self, LogId, Position, Positions};
use crate::log;

/// Number of bytes at the start of a log in which the time of its first event is looked for. No event of Cowrie is this long.
const MOST_FOR_TIME: u64 = 1 << 20;

/// A log in the directory, and the file that is read.
#[derive(Clone, Debug)]
pub struct Found {
    pub id: LogId,
    pub path: PathBuf,
    /// Time of the first event, or else of the last change of the file. Logs are read in this order.
    pub first: Timestamp,
    pub is_compressed: bool,
    pub version: FileVersion,
}

/// A file, and the start of its contents.
struct Examined {
    file: Listed,
    head: Vec<u8>,
    is_compressed: bool,
}

/// Remembers the copies, so that they are compared only once.
#[derive(Debug, Default)]
pub struct Identifier {
    copies: HashMap<FileVersion, LogId>,
}

/// One look at the directory.
struct Look<'a> {
    positions: &'a mut Positions,
    copies: HashMap<FileVersion, LogId>,
    /// The file of each log.
    files: HashMap<LogId, Examined>,
    failed: Vec<(PathBuf, io::Error)>,
    /// True if a file was renamed or removed since the directory was listed.
    is_stale: bool,
}

impl Identifier {
    /// Returns the logs by the time of their first event, and the files that could not be read. Adds positions of new logs.
    /// Returns `None` if a file was renamed or removed since the directory was listed.
    pub fn identify(
        &mut self,
        mut listed: Vec<Listed>,
        positions: &mut Positions,
    ) -> Option<(Vec<Found>, Vec<(PathBuf, io::Error)>)> {
        // A plain file before a compressed one, and a longer one before a shorter one, because it can be the original.
        listed.sort_by(|a, b| {
            let rank = |file: &Listed| (has_packed_name(&file.path), u64::MAX - file.version.size);
            (rank(a), &a.path).cmp(&(rank(b), &b.path))
        });
        let mut look = Look {
            positions,
            copies: HashMap::new(),
            files: HashMap::new(),
            failed: Vec::new(),
            is_stale: false,
        };
        let unknown = look.take_unchanged(listed);
        let (copies, unknown): (Vec<Listed>, Vec<Listed>) = unknown
            .into_iter()
            .partition(|file| self.copies.get(&file.version).is_some_and(|id| look.files.contains_key(id)));
        look.copies.extend(copies.iter().map(|file| (file.version, self.copies[&file.version])));
        // Logs that were read are found before other files are compared with them.
        let unknown: Vec<Examined> = unknown
            .into_iter()
            .filter_map(|file| look.examine(file).and_then(|file| look.take_known(file)))
            .collect();
        for file in unknown {
            look.take_other(file);
        }
        let Look { copies, files, failed, positions, is_stale } = look;
        self.copies = copies;
        (!is_stale).then(|| (found(files, positions), failed))
    }
}

impl Look<'_> {
    /// Takes the files that have not changed since their contents were compared. Returns the other files.
    fn take_unchanged(&mut self, listed: Vec<Listed>) -> Vec<Listed> {
        let ids: HashMap<FileVersion, LogId> =
            self.positions.iter().map(|(id, position)| (position.file, *id)).collect();
        let mut changed = Vec::new();
        for file in listed {
            match ids.get(&file.version) {
                Some(id) => {
                    let is_compressed = self.positions[id].is_compressed;
                    self.files.insert(*id, Examined { file, head: Vec::new(), is_compressed });
                }
                None => changed.push(file),
            }
        }
        changed
    }

    /// Reads the start of a file.
    fn examine(&mut self, file: Listed) -> Option<Examined> {
        match head_of(&file) {
            Ok((head, _)) if head.is_empty() => None,
            Ok((head, is_compressed)) => Some(Examined { file, head, is_compressed }),
            Err(error) => {
                self.fail(file, error);
                None
            }
        }
    }

    fn fail(&mut self, file: Listed, error: io::Error) {
        match error.kind() {
            io::ErrorKind::NotFound => self.is_stale = true,
            _ => self.failed.push((file.path, error)),
        }
    }

    /// Takes a file that begins with the part of a log that was read. Otherwise returns the file.
    fn take_known(&mut self, file: Examined) -> Option<Examined> {
        let prefix = prefix_of(&file.head);
        let is_same_file = |position: &Position| position.file.is_of_same_file(&file.file.version);
        let mut candidates: Vec<(bool, u64, LogId)> = self
            .positions
            .iter()
            .filter(|(_, position)| {
                position.read.bytes >= SHORTEST || position.read.bytes > 0 && is_same_file(position)
            })
            .filter(|(_, position)| prefix.starts_with(&position.read.prefix))
            .map(|(id, position)| (!is_same_file(position), u64::MAX - position.read.bytes, *id))
            .collect();
        candidates.sort_unstable();
        for (_, _, id) in candidates {
            let read = &self.positions[&id].read;
            match begins_with(&file, read) {
                Ok(false) => {}
                Ok(true) => {
                    self.take_as(id, file);
                    return None;
                }
                Err(error) => {
                    self.fail(file.file, error);
                    return None;
                }
            }
        }
        Some(file)
    }

    /// Takes a file that begins with the read part of this log. The log can have another file already: a copy. If the two
    /// files differ after the read part, the file is another log, which is read after this part.
    fn take_as(&mut self, id: LogId, file: Examined) {
        let position = &self.positions[&id];
        if let Some(other) = self.files.get(&id) {
            match compare(&other.file, &file.file, position.read.bytes) {
                Ok(Compared::SecondEnds) => {
                    self.copies.insert(file.file.version, id);
                    return;
                }
                Ok(Compared::FirstEnds) => {
                    self.copies.insert(other.file.version, id);
                }
                Ok(Compared::Different) => return self.take_new(file, position.read.clone()),
                Err(error) => return self.fail(file.file, error),
            }
        }
        if let Some(position) = self.positions.get_mut(&id) {
            position.file = file.file.version;
            position.is_compressed = file.is_compressed;
            position.is_exhausted = false;
            // If nothing was read, only the inode is equal, and it can be used again.
            let known = position.first.filter(|_| position.read.bytes > 0);
            position.first = known.or_else(|| first_time(&file));
        }
        self.files.insert(id, file);
    }

    /// Takes a file that does not begin with the read part of any log.
    fn take_other(&mut self, file: Examined) {
        let original = match self.original(&file) {
            Ok(original) => original,
            Err(error) => return self.fail(file.file, error),
        };
        if let Some(id) = original.or_else(|| self.longer(&file)) {
            self.copies.insert(file.file.version, id);
            return;
        }
        let read = match self.edited(&file) {
            Ok(read) => read,
            Err(error) => return self.fail(file.file, error),
        };
        // If nothing was read, only the inode is equal. The file can also be a copy of another log with an inode that is used again, so
        // this comes after the comparison with other logs.
        let is_unread_file = |(id, position): &(&LogId, &Position)| {
            position.read.bytes == 0
                && position.file.is_of_same_file(&file.file.version)
                && !self.files.contains_key(id)
        };
        let unread = self.positions.iter().filter(is_unread_file).map(|(id, _)| *id).max();
        match unread.filter(|_| read.bytes == 0) {
            Some(id) => self.take_as(id, file),
            None => self.take_new(file, read),
        }
    }

    fn take_new(&mut self, file: Examined, read: Fingerprint) {
        let position = Position {
            read,
            file: file.file.version,
            is_compressed: file.is_compressed,
            is_exhausted: false,
            first: first_time(&file),
            name: file.file.name(),
        };
        let id = position::add(self.positions, position);
        self.files.insert(id, file);
    }

    /// Returns the log of which a file is a copy: the file equals the beginning of the log's file.
    fn original(&self, file: &Examined) -> io::Result<Option<LogId>> {
        for (id, other) in &self.files {
            let head = match head_of(&other.file) {
                Ok((head, _)) => head,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                // A problem with another file is not a problem with this file.
                Err(_) => continue,
            };
            let common = head.len().min(file.head.len());
            if head[..common] == file.head[..common]
                && compare(&other.file, &file.file, 0)? == Compared::SecondEnds
            {
                return Ok(Some(*id));
            }
        }
        Ok(None)
    }

    /// Returns the log that has no file, and of which a file has only a beginning. The rest of the log was read too.
    fn longer(&self, file: &Examined) -> Option<LogId> {
        let prefix = prefix_of(&file.head);
        let is_shorter = |position: &Position| match file.is_compressed {
            true => contents(&file.file.path, &file.file.version, 0)
                .and_then(|input| Traced::new(input).skip_to(position.read.bytes))
                .is_ok_and(|is_long| !is_long),
            false => file.file.version.size < position.read.bytes,
        };
        let is_beginning = |id: &LogId, position: &Position| {
            !self.files.contains_key(id)
                && !position.file.is_of_same_file(&file.file.version)
                && position.name != file.file.name()
                && !prefix.is_empty()
                && position.read.prefix.starts_with(&prefix)
                && is_shorter(position)
        };
        self.positions.iter().find(|(id, position)| is_beginning(id, position)).map(|(id, _)| *id)
    }

    /// Returns the part of a file that was read, although the file was changed since: up to the last line that was read.
    fn edited(&self, file: &Examined) -> io::Result<Fingerprint> {
        let is_older = |(id, position): &(&LogId, &Position)| {
            !self.files.contains_key(id)
                && position.read.bytes >= SHORTEST
                && (position.file.is_of_same_file(&file.file.version) || position.name == file.file.name())
        };
        for (_, position) in self.positions.iter().filter(is_older) {
            if let Some(read) = read_part(&file.file, &position.read)? {
                return Ok(read);
            }
        }
        Ok(Fingerprint::default())
    }
}

fn found(files: HashMap<LogId, Examined>, positions: &mut Positions) -> Vec<Found> {
    let mut found = Vec::new();
    for (id, Examined { file, .. }) in files {
        let Some(position) = positions.get_mut(&id) else { continue };
        position.name = file.name();
        let modified = Timestamp::from_second(file.version.modified.0).unwrap_or(Timestamp::UNIX_EPOCH);
        let (first, is_compressed) = (position.first.unwrap_or(modified), position.is_compressed);
        found.push(Found { id, path: file.path, first, is_compressed, version: file.version });
    }
    found.sort_by(|a, b| (a.first, &a.path).cmp(&(b.first, &b.path)));
    found
}

/// Opens the uncompressed contents of a log at a position.
pub fn contents(path: &Path, version: &FileVersion, from: u64) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = directory::open_version(path, version)?;
    if !is_packed(&file)? {
        file.seek(SeekFrom::Start(from))?;
        return Ok(Box::new(BufReader::with_capacity(1 << 16, file)));
    }
    let mut input = log::decompressed(file)?;
    ended(io::copy(&mut (&mut input).take(from), &mut io::sink()))?;
    Ok(input)
}

/// Returns true if the file begins as a compressed file does.
fn is_packed(file: &File) -> io::Result<bool> {
    let mut start = [0; 6];
    let length = file.read_at(&mut start, 0)?;
    Ok(log::is_compressed(&start[..length]))
}

/// Returns the start of a log, and whether the file is compressed.
fn head_of(file: &Listed) -> io::Result<(Vec<u8>, bool)> {
    let is_compressed = is_packed(&directory::open_version(&file.path, &file.version)?)?;
    let mut head = Vec::new();
    ended(contents(&file.path, &file.version, 0)?.take(HEAD as u64).read_to_end(&mut head))?;
    Ok((head, is_compressed))
}

/// Takes the end of a compressed log that is still being written as its end.
fn ended<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(T::default()),
        result => result,
    }
}

/// Returns the time of the first event of a log. Reads more of the log if its first lines are long.
fn first_time(file: &Examined) -> Option<Timestamp> {
    let in_head = first_time_in(&mut file.head.as_slice());
    if in_head.is_some() || file.head.len() < HEAD {
        return in_head;
    }
    first_time_in(&mut contents(&file.file.path, &file.file.version, 0).ok()?.take(MOST_FOR_TIME))
}

fn first_time_in(input: &mut dyn BufRead) -> Option<Timestamp> {
    let mut line = Vec::new();
    while let Ok(Some(_)) = log::next_line(input, &mut line) {
        if let Ok(entry) = log::parse(&line) {
            return Some(entry.time);
        }
    }
    None
}

/// Returns true if a file begins with this part of a log.
fn begins_with(file: &Examined, read: &Fingerprint) -> io::Result<bool> {
    if !file.is_compressed {
        let open = directory::open_version(&file.file.path, &file.file.version)?;
        let trace = Trace::load(&open, read.bytes)?;
        return Ok(trace.is_some_and(|trace| trace.fingerprint() == *read));
    }
    let mut input = Traced::new(contents(&file.file.path, &file.file.version, 0)?);
    Ok(input.skip_to(read.bytes)? && input.trace.fingerprint() == *read)
}

/// Looks for the last line of a part that was read. Returns the part of the file up to there.
fn read_part(file: &Listed, read: &Fingerprint) -> io::Result<Option<Fingerprint>> {
    let mut input = Traced::new(contents(&file.path, &file.version, 0)?);
    let mut line = Vec::new();
    let mut part = None;
    while let Some(next) = ended(log::next_line(&mut input, &mut line))? {
        // Lines were removed, so the position is now smaller. A line that was written later can be equal.
        if input.trace.bytes > read.bytes && part.is_some() {
            break;
        }
        if next.is_complete && input.trace.end() == read.end {
            part = Some(input.trace.fingerprint());
        }
    }
    Ok(part)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    Different,
    /// The first log is a beginning of the second, which is longer.
    FirstEnds,
    /// The second log is a beginning of the first, or equals the first.
    SecondEnds,
}

/// Compares the contents of two logs after a position.
fn compare(first: &Listed, second: &Listed, from: u64) -> io::Result<Compared> {
    let open = |file: &Listed| contents(&file.path, &file.version, from);
    let (mut first, mut second) = (open(first)?, open(second)?);
    loop {
        let (one, two) = (available(&mut *first)?, available(&mut *second)?);
        let common = one.len().min(two.len());
        if two.is_empty() {
            return Ok(Compared::SecondEnds);
        }
        if one.is_empty() {
            return Ok(Compared::FirstEnds);
        }
        if one[..common] != two[..common] {
            return Ok(Compared::Different);
        }
        first.consume(common);
        second.consume(common);
    }
}

/// Returns the next bytes of a log, none at its end.
fn available(input: &mut dyn BufRead) -> io::Result<&[u8]> {
    match input.fill_buf() {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(&[]),
        available => available,
    }
}
