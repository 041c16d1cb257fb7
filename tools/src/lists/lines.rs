//! Addresses, prefixes and ranges, one a line: Tor's bulk exit list, Cloudflare, X4BNet, FireHOL, Spamhaus' old text.
//!
//! ```text
//! line    = [ address / prefix / address *blank "-" *blank address ] *blank [ comment ]
//! comment = ( "#" / ";" ) *any
//! ```

use super::sink::Sink;
use super::{Content, Details, Error, Format};

/// Returns the lines with content and their numbers, without comments and surrounding blanks. Numbers count from 1.
pub(super) fn content_lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    (1..).zip(text.lines()).filter_map(|(number, line)| {
        let content = without_comment(line);
        (!content.is_empty()).then_some((number, content))
    })
}

pub(super) fn without_comment(line: &str) -> &str {
    line.find(['#', ';']).map_or(line, |at| &line[..at]).trim()
}

pub(super) fn is_range(line: &str) -> bool {
    let is_address = |text: &str| text.trim().parse::<std::net::IpAddr>().is_ok();
    line.split_once('-').is_some_and(|(first, last)| is_address(first) && is_address(last))
}

pub(super) fn read(text: &str) -> Result<Content, Error> {
    let mut sink = Sink::new();
    for (number, line) in content_lines(text) {
        match line.split_once('-') {
            Some((first, last)) => sink.range(line, first, last, Details::default()),
            None => sink.network(line, Details::default()),
        }
        .map_err(|problem| Error::at(number, problem))?;
    }
    Ok(sink.finish(Format::Lines))
}
