//! Recognises a log by its contents: by hashes of its beginning, and by the last line that was read.
//!
//! A log keeps its contents when it is renamed, copied or compressed, but not its name and inode. The file system can
//! give the inode of a removed log to the next log. So a name or an inode alone does not identify a log.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;

/// Lengths of the beginnings that are hashed. Each of them ends within the first lines of a log, where logs differ.
const CHECKPOINTS: [usize; 20] =
    [64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 2048, 4096, 8192, 16384];

/// Number of bytes at the start of a log that are hashed.
pub const HEAD: usize = 16384;

/// Maximum number of bytes of the last line that are hashed.
const TAIL: usize = 1024;

/// Minimum number of bytes by which a log is recognised without its inode. Every event of Cowrie is longer.
pub const SHORTEST: u64 = 64;

/// FNV-1a with 64 bits. The hash is stored, so it must be the same in every version of this program.
struct Hash(u64);

impl Hash {
    const START: Hash = Hash(0xcbf2_9ce4_8422_2325);

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The hashes of a beginning, one for each checkpoint.
pub fn prefix_of(head: &[u8]) -> Vec<u32> {
    let mut hash = Hash::START;
    let mut from = 0;
    CHECKPOINTS
        .into_iter()
        .take_while(|length| *length <= head.len())
        .map(|length| {
            hash.add(&head[from..length]);
            from = length;
            (hash.0 ^ hash.0 >> 32) as u32
        })
        .collect()
}

/// Length and hash of the last line that was read. Short lines before it are included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub length: u64,
    pub hash: u64,
}

impl End {
    /// Returns the end of some bytes, of which `tail` has the last [`TAIL`].
    fn of(tail: &[u8]) -> End {
        let longest = &tail[tail.len().saturating_sub(TAIL)..];
        if longest.is_empty() {
            return End::default();
        }
        let enough = longest.len().saturating_sub(SHORTEST as usize);
        let start = longest[..enough].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut hash = Hash::START;
        hash.add(&longest[start..]);
        End { length: (longest.len() - start) as u64, hash: hash.0 }
    }
}

/// What is known about the part of a log that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// Number of bytes of the uncompressed log that were read.
    pub bytes: u64,
    pub prefix: Vec<u32>,
    pub end: End,
}

/// The first and the last bytes of the part of a log that was read.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub bytes: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Trace {
    /// Reads the trace of the first `bytes` bytes of a file. Returns `None` if the file is shorter.
    pub fn load(file: &File, bytes: u64) -> io::Result<Option<Trace>> {
        let part = |at: u64, length: u64| {
            let mut part = vec![0; length as usize];
            match file.read_exact_at(&mut part, at) {
                Ok(()) => Ok(Some(part)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(error) => Err(error),
            }
        };
        let length = bytes.min(TAIL as u64);
        let (Some(head), Some(tail)) = (part(0, bytes.min(HEAD as u64))?, part(bytes - length, length)?)
        else {
            return Ok(None);
        };
        Ok(Some(Trace { bytes, head, tail }))
    }

    /// Adds bytes that follow.
    pub fn advance(&mut self, read: &[u8]) {
        self.bytes += read.len() as u64;
        let missing = HEAD - self.head.len();
        self.head.extend_from_slice(&read[..read.len().min(missing)]);
        self.tail.extend_from_slice(&read[read.len().saturating_sub(TAIL)..]);
        if self.tail.len() > 8 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    /// Returns true if the file still has these bytes.
    pub fn is_of(&self, file: &File) -> bool {
        let tail = &self.tail[self.tail.len().saturating_sub(TAIL)..];
        let is_there = |expected: &[u8], at: u64| {
            let mut found = vec![0; expected.len()];
            file.read_exact_at(&mut found, at).is_ok() && found == expected
        };
        is_there(&self.head, 0) && is_there(tail, self.bytes - tail.len() as u64)
    }

    pub fn end(&self) -> End {
        End::of(&self.tail)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint_at(self.bytes, self.end())
    }

    /// Returns the fingerprint of an earlier position, which had this end.
    pub fn fingerprint_at(&self, bytes: u64, end: End) -> Fingerprint {
        let length = self.head.len().min(usize::try_from(bytes).unwrap_or(HEAD));
        Fingerprint { bytes, prefix: prefix_of(&self.head[..length]), end }
    }
}

/// Passes bytes on, and keeps a trace of them.
pub struct Traced<R> {
    input: R,
    pub trace: Trace,
}

impl<R: BufRead> Traced<R> {
    pub fn new(input: R) -> Traced<R> {
        Traced { input, trace: Trace::default() }
    }

    /// Skips bytes up to this position. Returns false if the input ends earlier.
    pub fn skip_to(&mut self, position: u64) -> io::Result<bool> {
        let missing = position.saturating_sub(self.trace.bytes);
        match io::copy(&mut self.by_ref().take(missing), &mut io::sink()) {
            Ok(skipped) => Ok(skipped == missing),
            // A compressed log that is still being written ends like this.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl<R: BufRead> Read for Traced<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(into)?;
        self.trace.advance(&into[..length]);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Traced<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, used: usize) {
        if used > 0
            && let Ok(available) = self.input.fill_buf()
        {
            self.trace.advance(&available[..used.min(available.len())]);
        }
        self.input.consume(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &[u8]) -> Trace {
        let mut trace = Trace::default();
        for piece in text.chunks(7) {
            trace.advance(piece);
        }
        trace
    }

    fn numbered(lines: std::ops::Range<u32>) -> Vec<u8> {
        lines.map(|number| format!("line {number:060}\n")).collect::<String>().into_bytes()
    }

    /// Reference values of FNV-1a, from the authors' list of test vectors.
    #[test]
    fn the_hash_is_fnv_1a() {
        let hash = |text: &[u8]| {
            let mut hash = Hash::START;
            hash.add(text);
            hash.0
        };
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_longer_part_has_the_same_beginning_and_another_end() {
        let (short, long) = (trace(&numbered(0..10)), trace(&numbered(0..1000)));
        let (short, long) = (short.fingerprint(), long.fingerprint());
        assert!(short.prefix.len() < long.prefix.len() && long.prefix.starts_with(&short.prefix));
        assert_ne!(short.end, long.end);
        assert_ne!(trace(&numbered(1..1000)).fingerprint().prefix[1], long.prefix[1]);
        assert_eq!(long.prefix.len(), CHECKPOINTS.len());
    }

    #[test]
    fn the_end_is_the_last_line_with_short_lines_before_it() {
        let end = |text: &[u8]| trace(text).end();
        let last = numbered(9..10);
        assert_eq!(end(&numbered(0..10)).length, last.len() as u64);
        assert_eq!(end(&numbered(0..10)), end(&numbered(5..10)));
        assert_eq!(end(&[numbered(0..10), b"\n\n".to_vec()].concat()).length, last.len() as u64 + 2);
        assert_eq!(end(&vec![b'x'; 5000]).length, TAIL as u64);
        assert_eq!(end(b"short\n").length, 6);
    }

    #[test]
    fn a_trace_from_a_file_equals_the_trace_of_its_bytes() {
        let path = std::env::temp_dir().join(format!("cowrie-load-trace-{}", std::process::id()));
        for count in [0, 1, 20, 2000] {
            let text = numbered(0..count);
            std::fs::write(&path, [text.as_slice(), b"not read"].concat()).unwrap();
            let file = File::open(&path).unwrap();
            let loaded = Trace::load(&file, text.len() as u64).unwrap().unwrap();
            assert_eq!(loaded.fingerprint(), trace(&text).fingerprint());
            assert!(loaded.is_of(&file) && trace(&text).is_of(&file));
            let mut traced = Traced::new(text.as_slice());
            assert!(traced.skip_to(text.len() as u64).unwrap());
            assert_eq!(traced.trace.fingerprint(), loaded.fingerprint());
            assert!(Trace::load(&file, text.len() as u64 + 9).unwrap().is_none());
        }
        std::fs::remove_file(path).unwrap();
    }
}
