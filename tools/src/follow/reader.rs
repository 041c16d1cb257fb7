//! Reads complete lines of a log from a position.
//!
//! A position counts bytes of the uncompressed log. It is always at the start of a line. The last line of a log can be
//! half-written: it is left until its end arrives.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use jiff::Timestamp;

use super::directory::{self, FileVersion};
use super::fingerprint::{Fingerprint, SHORTEST, Trace, Traced};
use super::identify::{Found, contents};
use super::position::{LogId, Position, Positions};
use crate::log::{self, Rejected};

/// Number of bytes that one call of [`Reader::read`] reads, if no line is longer.
const PIECE: usize = 1 << 20;

/// Number of plain logs that stay open. logrotate can compress and remove a log while Cowrie still writes to it.
const KEPT_OPEN: usize = 2;

/// What to do with a last line without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LastLine {
    /// Cowrie may still write the rest of the line.
    Waits,
    /// Take the line if it is complete except for its end.
    TakenIfJson,
    Taken,
}

/// The result of reading a piece of a log.
#[derive(Debug)]
pub struct Progress {
    /// The part of the log that is read now.
    pub read: Fingerprint,
    /// True if there are no more complete lines.
    pub is_at_end: bool,
    /// The reason why the rest of a compressed log could not be read.
    pub error: Option<io::Error>,
}

#[derive(Debug)]
struct OpenLog {
    id: LogId,
    first: Timestamp,
    path: PathBuf,
    file: File,
    version: FileVersion,
    /// The part that was read. It shows whether the file still is this log.
    trace: Trace,
    /// True while the rest of a line is skipped, because the line is too long.
    is_in_long_line: bool,
}

struct CompressedLog {
    version: FileVersion,
    input: Traced<Box<dyn BufRead + Send>>,
}

#[derive(Default)]
pub struct Reader {
    plain: Vec<OpenLog>,
    compressed: Option<CompressedLog>,
}

impl Reader {
    /// Reads the next lines. Returns `None` if the file is not this log any more.
    pub fn read(
        &mut self,
        log: &Found,
        position: &Position,
        last_line: LastLine,
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<Progress>> {
        if log.is_compressed {
            return self.read_compressed(log, &position.read, each);
        }
        // If the log has another file now, the file that is open stays open until the other one is known to be the log.
        let is_open = |open: &OpenLog| open.id == log.id && open.version.is_of_same_file(&log.version);
        let open = match self.plain.iter().position(is_open) {
            Some(index) => self.plain.remove(index).at(&position.read)?,
            None => OpenLog::new(log, &position.read)?,
        };
        let Some(mut open) = open else { return Ok(None) };
        self.plain.retain(|open| open.id != log.id);
        // Before its first line was complete, the log had no time.
        open.first = log.first;
        let progress = open.read(last_line, each)?;
        if progress.is_some() {
            self.plain.push(open);
            if self.plain.len() > KEPT_OPEN {
                self.plain.sort_by_key(|open| open.first);
                self.plain.remove(0);
            }
        }
        Ok(progress)
    }

    /// Adds open logs that the directory does not have any more, or has only in a compressed or shorter form. A longer file is the
    /// log as another program has copied it, and is read from the position on.
    pub fn add_open(&mut self, found: &mut Vec<Found>, positions: &Positions) {
        // A log of which no line was read is not recognised in another file. It would be read twice.
        let is_known = |open: &OpenLog| {
            open.trace.bytes >= SHORTEST || found.iter().any(|log| log.id == open.id && !log.is_compressed)
        };
        self.plain.retain(|open| {
            open.trace.is_of(&open.file) && positions.contains_key(&open.id) && is_known(open)
        });
        for open in &self.plain {
            let Ok(version) = open.file.metadata().map(|data| FileVersion::of(&data)) else { continue };
            let log = Found {
                id: open.id,
                path: open.path.clone(),
                first: positions[&open.id].first.unwrap_or(open.first),
                is_compressed: false,
                version,
            };
            match found.iter_mut().find(|log| log.id == open.id) {
                // The compressed file can have lines that only a copy of the open file had.
                Some(other) if other.is_compressed && positions[&open.id].is_exhausted => *other = log,
                Some(other) if other.is_compressed => {}
                Some(other) if other.version.size < version.size => other.version = version,
                Some(_) => {}
                None => found.push(log),
            }
        }
        found.sort_by(|a, b| (a.first, &a.path).cmp(&(b.first, &b.path)));
    }

    fn read_compressed(
        &mut self,
        log: &Found,
        read: &Fingerprint,
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<Progress>> {
        let mut compressed = match self.compressed.take() {
            Some(open) if open.version == log.version && open.input.trace.bytes == read.bytes => open,
            _ => {
                let mut input = Traced::new(contents(&log.path, &log.version, 0)?);
                if !input.skip_to(read.bytes)? {
                    // The file has only a beginning of the log. The rest was read before the file was made.
                    return Ok(Some(Progress { read: read.clone(), is_at_end: true, error: None }));
                }
                if input.trace.fingerprint() != *read {
                    return Ok(None);
                }
                CompressedLog { version: log.version, input }
            }
        };
        let input = &mut compressed.input;
        let (mut bytes, mut end) = (read.bytes, read.end);
        let mut line = Vec::new();
        let mut result = Ok(Some(()));
        while matches!(result, Ok(Some(()))) && bytes < read.bytes + PIECE as u64 {
            // A line that ends with an error is read again when the file is complete.
            result = log::next_line(input, &mut line).map(|next| next.map(drop));
            if matches!(result, Ok(Some(()))) {
                each(&line);
                (bytes, end) = (input.trace.bytes, input.trace.end());
            }
        }
        let read = input.trace.fingerprint_at(bytes, end);
        let is_at_end = !matches!(result, Ok(Some(())));
        if !is_at_end {
            self.compressed = Some(compressed);
        }
        Ok(Some(Progress { read, is_at_end, error: result.err() }))
    }
}

/// The bytes of a file after a position. Other readers of the file do not move the position.
struct After<'a> {
    file: &'a File,
    position: u64,
}

impl Read for After<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(into, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

/// Lines that were read, and the position after them.
#[derive(Debug, Default)]
struct Lines {
    lines: Vec<Vec<u8>>,
    position: u64,
    is_at_end: bool,
    is_in_long_line: bool,
}

impl OpenLog {
    /// Opens a log. Returns `None` if the file does not begin with the part that was read.
    fn new(log: &Found, read: &Fingerprint) -> io::Result<Option<OpenLog>> {
        let file = directory::open_version(&log.path, &log.version)?;
        let trace = trace_of(&file, read)?;
        let (id, first, path, version) = (log.id, log.first, log.path.clone(), log.version);
        Ok(trace.map(|trace| OpenLog { id, first, path, file, version, trace, is_in_long_line: false }))
    }

    /// Moves to a position that another file of the log has reached. Returns `None` if the file does not have this part.
    fn at(self, read: &Fingerprint) -> io::Result<Option<OpenLog>> {
        if self.trace.bytes == read.bytes {
            return Ok(Some(self));
        }
        let trace = trace_of(&self.file, read)?;
        Ok(trace.map(|trace| OpenLog { trace, is_in_long_line: false, ..self }))
    }

    fn read(&mut self, last_line: LastLine, each: &mut dyn FnMut(&[u8])) -> io::Result<Option<Progress>> {
        let lines = self.lines(last_line)?;
        let Some(trace) = Trace::load(&self.file, lines.position)? else { return Ok(None) };
        // The file may have been truncated and written again while it was read.
        if !self.trace.is_of(&self.file) {
            return Ok(None);
        }
        self.trace = trace;
        self.is_in_long_line = lines.is_in_long_line;
        for line in &lines.lines {
            each(line);
        }
        let read = self.trace.fingerprint();
        Ok(Some(Progress { read, is_at_end: lines.is_at_end, error: None }))
    }

    /// Reads lines, but does not use them yet.
    fn lines(&self, last_line: LastLine) -> io::Result<Lines> {
        let begin = self.trace.bytes;
        let mut input = BufReader::with_capacity(1 << 18, After { file: &self.file, position: begin });
        let mut lines = Lines { position: begin, is_in_long_line: self.is_in_long_line, ..Lines::default() };
        let mut line = Vec::new();
        while lines.position < begin + PIECE as u64 {
            let Some(next) = log::next_line(&mut input, &mut line)? else {
                lines.is_at_end = true;
                break;
            };
            lines.is_at_end = !next.is_complete;
            let is_nul = !next.is_complete && line.is_empty();
            let is_rest = next.is_complete && std::mem::take(&mut lines.is_in_long_line);
            if next.is_too_long && !next.is_complete {
                // The end of the line counts as one malformed line.
                lines.is_in_long_line = true;
            } else if is_rest {
                lines.lines.push(log::TOO_LONG.to_vec());
            } else if next.is_complete || is_nul || last_line.takes(&line) {
                lines.lines.push(std::mem::take(&mut line));
            } else {
                break;
            }
            lines.position += next.length;
        }
        Ok(lines)
    }
}

/// Returns the trace of a part of a file, or `None` if the file does not begin with this part.
fn trace_of(file: &File, read: &Fingerprint) -> io::Result<Option<Trace>> {
    Ok(Trace::load(file, read.bytes)?.filter(|trace| trace.fingerprint() == *read))
}

impl LastLine {
    /// Returns true if a line without an end is taken.
    fn takes(self, line: &[u8]) -> bool {
        match self {
            LastLine::Waits => false,
            LastLine::TakenIfJson => log::parse(line) != Err(Rejected::Malformed),
            LastLine::Taken => true,
        }
    }
}
