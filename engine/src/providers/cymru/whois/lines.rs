//! Splits a bulk response into lines, and parses the lines that are not rows.
//!
//! Only complete lines count. Memory is bounded by one line.

use std::mem;

/// Maximum length of a line, in bytes. Rows have about 100 bytes. A longer line is ignored as a whole, up to its line
/// end.
pub const LONGEST_LINE: usize = 4096;

/// Number of the first line of a request that contains a key. The lines before it are `begin` and `verbose`.
const FIRST_LINE: usize = 3;

/// Collects bytes until a line is complete.
#[derive(Default)]
pub(super) struct Lines {
    /// The incomplete last line.
    line: Vec<u8>,
    /// True while a line that is too long is being read. All bytes up to the end of this line are ignored.
    skipping: bool,
    /// Number of lines that were too long.
    pub(super) oversized: u64,
}

impl Lines {
    /// Passes each complete line to `read`, without blanks at the beginning and at the end. Leaves out empty lines,
    /// comments, and the line that begins with "Bulk mode".
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut read: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.append(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.end_line(&mut read);
        }
        self.append(bytes);
    }

    /// Returns whether the bytes ended in the middle of a line.
    pub(super) fn is_incomplete(&self) -> bool {
        self.skipping || !self.line.is_empty()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.line.capacity()
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        if self.line.len() + bytes.len() > LONGEST_LINE {
            self.oversized += 1;
            self.skipping = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, read: &mut impl FnMut(&[u8])) {
        if !mem::take(&mut self.skipping) {
            match self.line.trim_ascii() {
                [] | [b'#' | b'%' | b';', ..] => {}
                line if starts_with(line, b"Bulk mode") => {}
                line => read(line),
            }
        }
        self.line.clear();
    }
}

pub(super) fn is_error(line: &[u8]) -> bool {
    starts_with(line, b"Error:")
}

/// Returns the index of the key to which an error line belongs. Example of an error line: `Error: no ASN or IP match on
/// line 3.`
pub(super) fn question_of_error(line: &[u8]) -> Option<usize> {
    let words = String::from_utf8_lossy(line);
    let (_, number) = words.rsplit_once("on line ")?;
    let number = number.strip_suffix('.').unwrap_or(number);
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<usize>().ok().filter(|_| digits)?.checked_sub(FIRST_LINE)
}

/// Returns an error line as a text that can be stored.
pub(super) fn message(line: &[u8]) -> String {
    crate::mmdb::clean_name(&String::from_utf8_lossy(line)).into_owned()
}

fn starts_with(line: &[u8], start: &[u8]) -> bool {
    line.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}
