//! Reads complete lines of a log from a position.
//!
//! A position counts bytes of the uncompressed log. It is always at the start of a line. The last line of a log can be
//! half-written: it is left until its end arrives.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::directory::{self, FileVersion, Found};
use super::head::Head;
use crate::log::{self, LONGEST_LINE, Rejected};

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
    pub position: u64,
    /// True if there are no more complete lines.
    pub is_at_end: bool,
    /// The reason why the rest of a compressed log could not be read.
    pub error: Option<io::Error>,
}

#[derive(Debug)]
struct OpenLog {
    head: Head,
    first: Timestamp,
    path: PathBuf,
    file: File,
    /// True while the rest of a line is skipped, because the line is longer than [`LONGEST_LINE`].
    is_in_long_line: bool,
}

struct CompressedLog {
    version: FileVersion,
    input: Box<dyn BufRead + Send>,
    position: u64,
}

#[derive(Default)]
pub struct Reader {
    plain: Vec<OpenLog>,
    compressed: Option<CompressedLog>,
}

impl Reader {
    /// Reads the next lines. Returns `None` if the file at this path is not this log any more.
    pub fn read(
        &mut self,
        log: &Found,
        position: u64,
        last_line: LastLine,
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<Progress>> {
        if log.is_compressed {
            return self.read_compressed(log, position, each).map(Some);
        }
        let index = match self.plain.iter().position(|open| open.head.id == log.head.id) {
            Some(index) => index,
            None => {
                let file = directory::open(&log.path)?;
                let (head, first, path) = (log.head, log.first, log.path.clone());
                self.plain.push(OpenLog { head, first, path, file, is_in_long_line: false });
                self.plain.len() - 1
            }
        };
        let progress = self.plain[index].read(position, last_line, each)?;
        if progress.is_none() {
            self.plain.remove(index);
        } else if self.plain.len() > KEPT_OPEN {
            self.plain.sort_by_key(|open| open.first);
            self.plain.remove(0);
        }
        Ok(progress)
    }

    /// Adds open logs that the directory does not have any more, or has only in a compressed or shorter form.
    pub fn add_open(&mut self, found: &mut Vec<Found>) {
        self.plain.retain(|open| open.head.is_of(&open.file));
        for open in &self.plain {
            let Ok(version) = open.file.metadata().map(|data| FileVersion::of(&data)) else { continue };
            let listed = found.iter_mut().find(|log| log.head.id == open.head.id);
            let (path, head, first) = (open.path.clone(), open.head, open.first);
            let log = Found { path, head, first, is_compressed: false, version };
            match listed {
                Some(other) if other.is_compressed => *other = log,
                Some(other) => {
                    other.version = if other.version.size < version.size { version } else { other.version }
                }
                None => found.push(log),
            }
        }
        found.sort_by(|a, b| (a.first, &a.path).cmp(&(b.first, &b.path)));
    }

    fn read_compressed(
        &mut self,
        log: &Found,
        position: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Progress> {
        let mut compressed = match self.compressed.take() {
            Some(open) if open.version == log.version && open.position == position => open,
            _ => {
                let mut input = log::decompressed(directory::open(&log.path)?)?;
                match io::copy(&mut (&mut input).take(position), &mut io::sink()) {
                    Ok(skipped) if skipped == position => {}
                    // The log is now shorter than the part of it that was read before.
                    Ok(_) => return Ok(Progress { position, is_at_end: true, error: None }),
                    Err(error) => return Ok(Progress { position, is_at_end: true, error: Some(error) }),
                }
                CompressedLog { version: log.version, input, position }
            }
        };
        let end = position + PIECE as u64;
        let mut line = Vec::new();
        while compressed.position < end {
            match counted_line(&mut compressed.input, &mut line) {
                Ok(0) => {
                    return Ok(Progress { position: compressed.position, is_at_end: true, error: None });
                }
                Ok(length) => {
                    compressed.position += length;
                    each(without_nuls(&line));
                }
                Err(error) => {
                    let position = compressed.position;
                    return Ok(Progress { position, is_at_end: true, error: Some(error) });
                }
            }
        }
        let position = compressed.position;
        self.compressed = Some(compressed);
        Ok(Progress { position, is_at_end: false, error: None })
    }
}

impl OpenLog {
    fn read(
        &mut self,
        position: u64,
        last_line: LastLine,
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<Progress>> {
        let mut wanted = PIECE;
        loop {
            let size = self.file.metadata()?.len();
            if size < position {
                return Ok(None);
            }
            let mut piece = vec![0; usize::try_from(size - position).unwrap_or(usize::MAX).min(wanted)];
            let length = read_at(&self.file, &mut piece, position)?;
            piece.truncate(length);
            // The file may have been truncated and written again while it was read. Its first line shows
            // whether it was.
            if !self.head.is_of(&self.file) {
                return Ok(None);
            }
            let position_after = position + length as u64;
            let is_at_end = position_after >= size;
            let progress = |position, is_at_end| Ok(Some(Progress { position, is_at_end, error: None }));
            let Some(end) = piece.iter().rposition(|byte| *byte == b'\n') else {
                if piece.iter().all(|byte| *byte == 0) {
                    return progress(position_after, is_at_end);
                }
                if is_at_end {
                    let is_taken = match last_line {
                        LastLine::Waits => false,
                        LastLine::TakenIfJson => log::parse(without_nuls(&piece)) != Err(Rejected::Malformed),
                        LastLine::Taken => true,
                    };
                    if !is_taken {
                        return progress(position, true);
                    }
                    each(without_nuls(&piece));
                    return progress(position_after, true);
                }
                if wanted <= LONGEST_LINE {
                    wanted *= 4;
                    continue;
                }
                self.is_in_long_line = true;
                return progress(position_after, false);
            };
            for line in piece[..end].split(|byte| *byte == b'\n') {
                // The end of a line that is too long counts as one malformed line.
                each(if std::mem::take(&mut self.is_in_long_line) {
                    b"too long"
                } else {
                    without_nuls(line)
                });
            }
            return progress(position + end as u64 + 1, is_at_end && end + 1 == length);
        }
    }
}

fn read_at(file: &File, piece: &mut [u8], position: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < piece.len() {
        match file.read_at(&mut piece[length..], position + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Drops NUL bytes before a line. They are not part of a log: see [`Head`].
fn without_nuls(line: &[u8]) -> &[u8] {
    &line[line.iter().take_while(|byte| **byte == 0).count()..]
}

/// Reads the next line without its end, at most [`LONGEST_LINE`] bytes of it. Returns its length in the log.
fn counted_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let mut length = 0;
    loop {
        let available = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        if available.is_empty() {
            return Ok(length);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let piece = &available[..end.unwrap_or(available.len())];
        line.extend_from_slice(&piece[..piece.len().min(LONGEST_LINE.saturating_sub(line.len()))]);
        let used = piece.len() + usize::from(end.is_some());
        input.consume(used);
        length += used as u64;
        if end.is_some() {
            return Ok(length);
        }
    }
}

/// Returns the length of a gzip file's contents, modulo 2^32, as the last four bytes of the file say.
pub fn stated_length(path: &Path) -> io::Result<u32> {
    let file = directory::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 4];
    file.read_exact_at(&mut length, size.saturating_sub(4))?;
    Ok(u32::from_le_bytes(length))
}
