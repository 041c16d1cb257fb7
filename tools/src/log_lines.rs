//! The lines of a log. The input is a file or standard input: plain, gzip or xz, recognised by the first bytes.

use std::io::{self, BufRead, BufReader, Read};

/// Maximum length of a line in bytes. Cowrie's longest lines, forwarded data, stay below 100 kB. A longer line is not a
/// log line.
pub const LONGEST_LINE: usize = 16 << 20;

/// Stands for a line that is too long. No JSON, so it counts as malformed.
pub const TOO_LONG: &[u8] = b"a line that is too long";

const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = b"\xfd7zXZ\0";

/// Returns true if a file that begins with these bytes is compressed.
pub fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(GZIP) || start.starts_with(XZ)
}

/// Decompresses the input. The first bytes show the compression.
pub fn decompressed<'a>(input: impl Read + Send + 'a) -> io::Result<Box<dyn BufRead + Send + 'a>> {
    let mut input = BufReader::with_capacity(1 << 16, input);
    let start = input.fill_buf()?;
    Ok(if start.starts_with(GZIP) {
        Box::new(BufReader::with_capacity(1 << 17, flate2::bufread::MultiGzDecoder::new(input)))
    } else if start.starts_with(XZ) {
        Box::new(BufReader::with_capacity(1 << 17, liblzma::bufread::XzDecoder::new_multi_decoder(input)))
    } else {
        Box::new(input)
    })
}

/// A line that [`next_line`] has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRead {
    /// Number of bytes in the log, with the line's end.
    pub length: u64,
    /// False for a last line without an end.
    pub is_complete: bool,
    /// True if the line is longer than [`LONGEST_LINE`].
    pub is_too_long: bool,
}

/// Reads the next line without its end. Returns `None` at the end of the input. Drops NUL bytes before the line: a
/// writer that does not append leaves them when its file is truncated, and a power failure can leave them too.
/// [`TOO_LONG`] stands for a line that is too long.
pub fn next_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<LineRead>> {
    line.clear();
    let mut read = LineRead { length: 0, is_complete: false, is_too_long: false };
    while !read.is_complete {
        let available = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        if available.is_empty() {
            break;
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let mut piece = &available[..end.unwrap_or(available.len())];
        let used = piece.len() + usize::from(end.is_some());
        if line.is_empty() {
            piece = &piece[piece.iter().take_while(|byte| **byte == 0).count()..];
        }
        line.extend_from_slice(&piece[..piece.len().min(LONGEST_LINE + 1 - line.len())]);
        input.consume(used);
        read.length += used as u64;
        read.is_complete = end.is_some();
    }
    if line.len() > LONGEST_LINE {
        read.is_too_long = true;
        line.clear();
        line.extend_from_slice(TOO_LONG);
    }
    Ok((read.length > 0).then_some(read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Rejected, parse};

    fn lines(mut input: &[u8]) -> Vec<(String, LineRead)> {
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while let Some(read) = next_line(&mut input, &mut line).unwrap() {
            lines.push((String::from_utf8(line.clone()).unwrap(), read));
        }
        lines
    }

    #[test]
    fn lines_end_with_the_input_and_lose_nul_bytes_before_them() {
        let read = |length, is_complete| LineRead { length, is_complete, is_too_long: false };
        assert_eq!(
            lines(b"one\n\n\0\0two\0\n\0\nx"),
            [
                ("one".to_owned(), read(4, true)),
                (String::new(), read(1, true)),
                ("two\0".to_owned(), read(7, true)),
                (String::new(), read(2, true)),
                ("x".to_owned(), read(1, false)),
            ]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_malformed_whatever_it_contains() {
        let event = br#"{"session":"a","timestamp":"2024-01-01T00:00:00Z"}"#;
        let padded =
            |length: usize| [event.as_slice(), &vec![b' '; length - event.len()], b"\nnext"].concat();
        let read = lines(&padded(LONGEST_LINE));
        assert!(parse(read[0].0.as_bytes()).is_ok() && !read[0].1.is_too_long);
        let read = lines(&padded(LONGEST_LINE + 1));
        assert_eq!(parse(read[0].0.as_bytes()), Err(Rejected::Malformed));
        assert_eq!((read[0].1.length, read[0].1.is_too_long), (LONGEST_LINE as u64 + 2, true));
        assert_eq!(read[1].0, "next");
    }

    #[test]
    fn compression_is_recognised_by_the_first_bytes() {
        use std::io::Write;
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"hello\n").unwrap();
        let mut gz = gz.finish().unwrap();
        gz.extend(gz.clone()); // two members, as in appended logs
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(b"hello\nhello\n").unwrap();
        for packed in [gz, xz.finish().unwrap(), b"hello\nhello\n".to_vec()] {
            let mut text = String::new();
            decompressed(packed.as_slice()).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello\nhello\n");
        }
        assert!(decompressed([].as_slice()).unwrap().fill_buf().unwrap().is_empty());
    }
}
