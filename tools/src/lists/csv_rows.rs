//! The rows of a CSV text, with the numbers of their lines.

use csv::{Position, StringRecord};

use super::Error;

/// Returns the rows that have a field with content. Lines that start with `#` are comments.
pub(super) fn rows(text: &str) -> impl Iterator<Item = Result<(u64, StringRecord), Error>> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .comment(Some(b'#'))
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes())
        .into_records()
        .map(|record| match record {
            Ok(record) => Ok((record.position().map_or(0, |position| line_at(text, position)), record)),
            Err(error) => {
                let line = error.position().map_or(0, |position| line_at(text, position));
                Err(Error::at(line, format_args!("invalid CSV: {error}")))
            }
        })
        .filter(|row| row.as_ref().map_or(true, |(_, record)| record.iter().any(|field| !field.is_empty())))
}

/// The position of a record is that of the empty lines and comments before it, so these lines are counted too.
fn line_at(text: &str, position: &Position) -> u64 {
    let before = usize::try_from(position.byte()).ok().and_then(|byte| text.get(byte..)).unwrap_or_default();
    let skipped = before.lines().take_while(|line| line.trim().is_empty() || line.starts_with('#')).count();
    position.line() + skipped as u64
}
