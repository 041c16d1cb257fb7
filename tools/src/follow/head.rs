//! Recognises a log by its first line.
//!
//! A log keeps its first line when it is renamed, copied or compressed, but not its name and inode. Cowrie's lines have
//! times with microseconds, so two logs do not begin with the same line. A file that is truncated and written again
//! gets another first line, so it is another log.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use jiff::Timestamp;

use crate::log;

/// Maximum number of bytes at the start of a log that are read to recognise it.
const LONGEST: usize = 64 << 10;

/// Identifies the contents of a log: a hash of its first line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u128);

impl LogId {
    /// FNV-1a with 128 bits. The hash is stored, so it must be the same in every version of this program.
    fn of(line: &[u8]) -> LogId {
        let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
        for byte in line {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        LogId(hash)
    }
}

/// The start of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub id: LogId,
    /// Number of NUL bytes before the first line. A writer that does not append leaves them when its file is truncated.
    nuls: u64,
    length: usize,
    /// Time of the first event that has one.
    pub first: Option<Timestamp>,
}

impl Head {
    /// Reads the start of a log. Returns `None` while the first line has no end.
    pub fn read(mut input: impl Read) -> io::Result<Option<Head>> {
        let mut start = Vec::new();
        let mut nuls = 0;
        let mut piece = [0; 8192];
        while start.len() < LONGEST {
            let length = match input.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A compressed log that is still being written ends like this.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            };
            let mut read = &piece[..length];
            if start.is_empty() {
                let skipped = read.iter().take_while(|byte| **byte == 0).count();
                nuls += skipped as u64;
                read = &read[skipped..];
            }
            start.extend_from_slice(read);
        }
        start.truncate(LONGEST);
        let Some(length) = start
            .iter()
            .position(|byte| *byte == b'\n')
            .or_else(|| (start.len() == LONGEST).then_some(LONGEST))
        else {
            return Ok(None);
        };
        let first =
            start.split(|byte| *byte == b'\n').find_map(|line| log::parse(line).ok()).map(|entry| entry.time);
        Ok(Some(Head { id: LogId::of(&start[..length]), nuls, length, first }))
    }

    /// Returns true if the file still begins with this line.
    pub fn is_of(&self, file: &File) -> bool {
        let mut line = vec![0; self.length];
        file.read_exact_at(&mut line, self.nuls).is_ok() && LogId::of(&line) == self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &[u8]) -> Option<Head> {
        Head::read(text).unwrap()
    }

    #[test]
    fn a_log_is_recognised_when_its_first_line_is_complete() {
        assert_eq!(head(b""), None);
        assert_eq!(head(b"half a li"), None);
        let one = head(b"a line\n").unwrap();
        assert_eq!(head(b"a line\nand more\n").unwrap().id, one.id);
        assert_eq!(head(b"\0\0\0a line\n").unwrap().id, one.id);
        assert_ne!(head(b"b line\n").unwrap().id, one.id);
        let long = vec![b'x'; LONGEST + 1];
        assert_eq!(head(&long).unwrap().length, LONGEST);
    }

    #[test]
    fn the_first_time_is_that_of_the_first_event() {
        let text = b"garbage\n{\"session\":\"a\",\"timestamp\":\"2024-01-01T00:00:07Z\"}\n";
        assert_eq!(head(text).unwrap().first.unwrap().to_string(), "2024-01-01T00:00:07Z");
        assert_eq!(head(b"garbage\n").unwrap().first, None);
    }

    /// Reference values of FNV-1a, from the authors' list of test vectors.
    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(LogId::of(b"").0, 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(LogId::of(b"a").0, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
