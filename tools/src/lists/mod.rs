//! Reads lists of addresses in the formats in which their publishers offer them.
//!
//! | file | holds |
//! |---|---|
//! | `recognise` | the choice of a format, from the content of a file |
//! | `sink` | the rules that hold for the networks of all formats |
//! | `lines` | addresses, prefixes and ranges, one a line |
//! | `tor` | Tor's exit-addresses |
//! | `geofeed` | geofeed CSV (RFC 8805) |
//! | `clouds` | the JSON of AWS, Google, Azure and Oracle |
//! | `csv_rows` | the rows of CSV, for geofeeds and ASN lists |
//! | `members` | the members of JSON objects, with their types checked |
//! | `documents` | other JSON: MISP warninglists, research scanners of the ISC |
//! | `ndjson` | Spamhaus' JSON lines, of networks or of ASNs |
//! | `asns` | lists of ASNs, and their prefixes from an mmdb file |
//! | `list` | a list that consists of one or more files |
//! | `compile` | the mmdb file of several lists |
//! | `command` | `mmdb-build --types` and `--known-networks`: reads files, checks sizes, replaces the output |
//! | `known_networks` | ASN lists as rows for the table `known_networks` |
//!
//! The name of a file is never used to recognise its format, because operators choose it. A list is read completely or
//! refused: an error names the line.

pub mod asns;
mod clouds;
pub mod command;
pub mod compile;
mod csv_rows;
mod documents;
mod geofeed;
pub mod known_networks;
mod lines;
pub mod list;
mod members;
mod ndjson;
mod recognise;
mod sink;
mod tor;

use std::fmt;
use std::rc::Rc;

use cowrie_enrich_engine::prefix::Prefix;

pub use recognise::read;

/// Details of a network in a list, in addition to its type.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Details {
    pub provider: Option<String>,
    pub region: Option<String>,
    pub service: Option<String>,
}

/// A network of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    pub prefix: Prefix,
    pub details: Rc<Details>,
}

/// An autonomous system of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asn {
    /// From 1 to 4294967295.
    pub number: u32,
    /// Name or comment.
    pub label: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Lines,
    TorExits,
    Geofeed,
    Aws,
    Google,
    Azure,
    Oracle,
    Misp,
    IscResearch,
    SpamhausNetworks,
    SpamhausAsns,
    AsnLines,
    AsnCsv,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lines => "lines of addresses",
            Self::TorExits => "Tor exit-addresses",
            Self::Geofeed => "geofeed",
            Self::Aws => "AWS ip-ranges",
            Self::Google => "Google ip-ranges",
            Self::Azure => "Azure service tags",
            Self::Oracle => "Oracle public_ip_ranges",
            Self::Misp => "MISP warninglist",
            Self::IscResearch => "research scanners of the ISC",
            Self::SpamhausNetworks => "Spamhaus JSON lines",
            Self::SpamhausAsns => "Spamhaus JSON lines of ASNs",
            Self::AsnLines => "lines of ASNs",
            Self::AsnCsv => "CSV of ASNs",
        })
    }
}

/// Numbers of networks that a reader changed or left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Networks with bits set after the prefix length. The bits were cleared.
    pub host_bits: u64,
    /// Private or reserved networks and ASNs. They were left out.
    pub bogons: u64,
    /// Entries that repeat other entries of the file, as its format requires. They were left out.
    pub repeated: u64,
}

/// The content of one file.
#[derive(Debug)]
pub struct Content {
    pub format: Format,
    /// The entries in the order of the file, including duplicates.
    pub entries: Vec<Entry>,
    pub asns: Vec<Asn>,
    /// When the file was made, in seconds since 1970. Only for formats whose publisher makes a new file at least daily.
    /// Files of other publishers can be old and still be right.
    pub made_at: Option<u64>,
    /// Copyright notice of the file.
    pub notice: Option<String>,
    /// Remarks for the operator.
    pub remarks: Vec<String>,
    pub counts: Counts,
}

/// An error in a list, with its position.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    /// Number of the line, from 1. `None` if the error concerns the whole file.
    line: Option<u64>,
    problem: String,
}

impl Error {
    fn at(line: u64, problem: impl fmt::Display) -> Self {
        Self { line: Some(line), problem: problem.to_string() }
    }

    fn of_file(problem: impl fmt::Display) -> Self {
        Self { line: None, problem: problem.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

impl std::error::Error for Error {}

/// Returns the text for an error message: at most 60 characters, without control characters.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().filter(|letter| !letter.is_control()).take(60).collect();
    if text.chars().count() > 60 {
        shown.push('…');
    }
    shown
}
