//! The positions up to which logs were read.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::directory::FileVersion;
use super::fingerprint::Fingerprint;

/// Number of positions that are kept for logs that are no longer in the directory.
const KEPT_POSITIONS: usize = 1000;

/// Number of a log. The program gives each log the next number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u64);

/// The position in one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The part of the log that was read.
    pub read: Fingerprint,
    /// The file of the log, when it was examined last.
    pub file: FileVersion,
    pub is_compressed: bool,
    /// True if the file is compressed and has no unread lines.
    pub is_exhausted: bool,
    /// Time of the first event of the log that has one.
    pub first: Option<Timestamp>,
    /// The last known name of the log.
    pub name: String,
}

pub type Positions = HashMap<LogId, Position>;

/// Adds the position of a new log.
pub fn add(positions: &mut Positions, position: Position) -> LogId {
    let id = LogId(positions.keys().map(|id| id.0 + 1).max().unwrap_or(0));
    positions.insert(id, position);
    id
}

/// Forgets the oldest logs that are no longer in the directory, if there are many.
pub fn forget_old(positions: &mut Positions, present: &HashSet<LogId>) {
    let mut absent: Vec<(Option<Timestamp>, LogId)> = positions
        .iter()
        .filter(|(id, _)| !present.contains(id))
        .map(|(id, position)| (position.first, *id))
        .collect();
    absent.sort();
    for (_, id) in absent.iter().rev().skip(KEPT_POSITIONS) {
        positions.remove(id);
    }
}
