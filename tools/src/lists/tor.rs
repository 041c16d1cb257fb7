//! Tor's exit-addresses: the addresses from which exits were seen to connect.
//!
//! ```text
//! ExitNode 63BA28370F543D175173E414D5450590D73E22DC
//! Published 2021-11-02 11:01:07
//! LastStatus 2021-11-02 22:00:00
//! ExitAddress 176.10.99.200 2021-11-02 23:17:02      ; several for one node
//! ```
//!
//! Files of CollecTor start with `@type tordnsel 1.0` and `Downloaded 2021-11-03 00:02:02`. The newest ExitAddress says
//! how old the file is, also if it came from an archive.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::lines::content_lines;
use super::sink::Sink;
use super::{Content, Details, Error, Format, shown};

pub(super) fn is_record(line: &str) -> bool {
    ["ExitNode ", "@type tordnsel ", "Downloaded "].iter().any(|start| line.starts_with(start))
}

pub(super) fn read(text: &str) -> Result<Content, Error> {
    let mut sink = Sink::new();
    for (number, line) in content_lines(text) {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        match keyword {
            "ExitNode" | "Published" | "LastStatus" | "Downloaded" | "@type" => {}
            "ExitAddress" => {
                let (address, time) = value.split_once(' ').unwrap_or((value, ""));
                let seen = seconds(time)
                    .ok_or_else(|| Error::at(number, format_args!("invalid time: \"{}\"", shown(time))))?;
                sink.network(address, Details::default()).map_err(|problem| Error::at(number, problem))?;
                sink.made_at = sink.made_at.max(Some(seen));
            }
            _ => {
                let problem = format!("not a line of Tor exit-addresses: \"{}\"", shown(line));
                return Err(Error::at(number, problem));
            }
        }
    }
    Ok(sink.finish(Format::TorExits))
}

/// Parses `2021-11-02 23:17:02`, in UTC. Returns seconds since 1970.
fn seconds(text: &str) -> Option<u64> {
    let time: DateTime = text.trim().parse().ok()?;
    u64::try_from(time.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second()).ok()
}
