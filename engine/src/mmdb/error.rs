//! Errors in database files, with their location.

use std::error::Error;
use std::fmt;

#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MmdbError {
    /// The end of the file contains no marker of the metadata. The file is of another kind, or it is an mmdb file whose end is
    /// missing. The metadata are at the end of an mmdb file.
    NotMmdb { length: usize, looks_like: Option<&'static str> },
    /// The marker of the metadata exists, but the metadata after the marker are incomplete or invalid.
    Metadata { field: &'static str, reason: String },
    /// According to the metadata, the search tree ends at byte `needed`. But the file has only `available` bytes before the
    /// metadata.
    Truncated { needed: u64, available: u64 },
    /// A well-formed file that this reader does not support.
    Unsupported { what: &'static str, value: u64 },
    /// The file contains neither locations nor networks of addresses.
    NoAnswers { database_type: String },
    /// The file contains no types of addresses.
    NoTypes { database_type: String },
    /// The search tree is damaged on the way to `network`.
    Tree { network: String, reason: &'static str },
    /// The record of `network` is damaged. `offset` is the position of the damage, counted from the start of the data section.
    Record { network: String, offset: Option<usize>, reason: String },
}

impl fmt::Display for MmdbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMmdb { length, looks_like: None } => {
                write!(
                    f,
                    "file of {length} bytes has no mmdb metadata: it is not an mmdb file, or it is truncated"
                )
            }
            Self::NotMmdb { length, looks_like: Some(kind) } => {
                write!(f, "file of {length} bytes is {kind}, not an mmdb file")
            }
            Self::Metadata { field, reason } => write!(f, "mmdb metadata, {field}: {reason}"),
            Self::Truncated { needed, available } => write!(
                f,
                "mmdb file is truncated or its metadata is wrong: the search tree needs {needed} bytes, \
                 but the file has only {available} bytes for the tree"
            ),
            Self::Unsupported { what, value } => write!(f, "mmdb {what} {value} is not supported"),
            Self::NoAnswers { database_type } => {
                write!(f, "mmdb file of type \"{database_type}\" contains no countries, cities or AS numbers")
            }
            Self::NoTypes { database_type } => write!(
                f,
                "mmdb file of type \"{database_type}\" contains no types of addresses, such as VPN or TOR"
            ),
            Self::Tree { network, reason } => write!(f, "mmdb search tree at {network}: {reason}"),
            Self::Record { network, offset: Some(offset), reason } => {
                write!(f, "mmdb record of {network}, data offset {offset}: {reason}")
            }
            Self::Record { network, offset: None, reason } => write!(f, "mmdb record of {network}: {reason}"),
        }
    }
}

impl Error for MmdbError {}
