//! The rows of a CSV text, with the numbers of their lines.
//!
//! A field that contains a line break is an error. Otherwise an unbalanced quote would make one field of all lines up to
//! the next quote, and the rows in these lines would be lost.

use std::io::Read;

use csv::{Position, StringRecord};

use super::Error;

/// Returns the rows that have a field with content. Lines that start with `#` are comments.
pub(super) fn rows(text: &str) -> impl Iterator<Item = Result<(u64, StringRecord), Error>> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .comment(Some(b'#'))
        .flexible(true)
        // Adds a line break, so that a quote that is still open at the end of the text is an error too.
        .from_reader(text.as_bytes().chain(&b"\n"[..]))
        .into_records()
        .map(|record| match record {
            Ok(mut record) => {
                let line = record.position().map_or(0, |position| line_at(text, position));
                if record.iter().any(|field| field.contains(['\n', '\r'])) {
                    return Err(Error::at(line, "quote of a field is not closed in the same line"));
                }
                record.trim();
                Ok((line, record))
            }
            Err(error) => {
                let line = error.position().map_or(0, |position| line_at(text, position));
                Err(Error::at(line, format_args!("invalid CSV: {error}")))
            }
        })
        .filter(|row| row.as_ref().map_or(true, |(_, record)| record.iter().any(|field| !field.is_empty())))
}

/// Returns the number of the line at which a record begins. The reader's position is before the empty lines
/// and comments that precede the record, so these lines are added.
fn line_at(text: &str, position: &Position) -> u64 {
    let before = usize::try_from(position.byte()).ok().and_then(|byte| text.get(byte..)).unwrap_or_default();
    let skipped = before.lines().take_while(|line| line.trim().is_empty() || line.starts_with('#')).count();
    position.line() + skipped as u64
}
