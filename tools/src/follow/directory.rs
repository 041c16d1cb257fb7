//! Finds Cowrie's logs in a directory.
//!
//! | program that rotates | names |
//! |---|---|
//! | Cowrie itself | `cowrie.json`, `cowrie.json.2024-05-01`, in old versions `cowrie.json.2018_5_1` |
//! | logrotate (T-Pot, DShield) | `cowrie.json`, `cowrie.json.1`, `cowrie.json.2.gz`, `cowrie.json-20240501.gz` |

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::OFlags;

use super::head::{Head, LogId};
use crate::log;

/// A log in the directory.
#[derive(Clone, Debug)]
pub struct Found {
    pub path: PathBuf,
    pub head: Head,
    /// Time of the first event, or else of the last change of the file. Logs are read in this order.
    pub first: Timestamp,
    pub is_compressed: bool,
    pub version: FileVersion,
}

/// A file and its last change. A compressed file is read again only if this value differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    pub size: u64,
    modified: (i64, i64),
}

impl FileVersion {
    pub fn of(data: &fs::Metadata) -> FileVersion {
        FileVersion {
            device: data.dev(),
            inode: data.ino(),
            size: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
        }
    }
}

/// Returns true for names of Cowrie's JSON logs, with the suffixes that rotation adds.
pub fn is_log_name(name: &str) -> bool {
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".xz")).unwrap_or(name);
    let Some((stem, suffix)) = name.rsplit_once(".json") else { return false };
    stem.starts_with("cowrie")
        && (suffix.is_empty()
            || suffix.starts_with(['.', '-', '_'])
                && suffix[1..].starts_with(|character: char| character.is_ascii_digit())
                && suffix.chars().all(|c| c.is_ascii_digit() || ['.', '-', '_'].contains(&c)))
}

/// Opens a regular file for reading. Opening never waits, even if the file is replaced by a pipe.
pub fn open(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")),
    }
}

/// Scans the directory. Reads the start of a file again only after the file has changed.
#[derive(Debug, Default)]
pub struct Scanner {
    known: HashMap<PathBuf, (FileVersion, Option<Head>)>,
    /// Files that could not be read, and the reasons.
    pub unreadable: Vec<String>,
}

impl Scanner {
    /// Returns the logs by the time of their first event. If several files have the same contents, it returns one of
    /// them: a plain file instead of a compressed file, otherwise the longer file.
    pub fn scan(&mut self, directory: &Path) -> io::Result<Vec<Found>> {
        let mut known = HashMap::new();
        let mut logs: HashMap<LogId, Found> = HashMap::new();
        self.unreadable.clear();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(is_log_name) {
                continue;
            }
            let path = entry.path();
            let found = match self.examine(&path) {
                Ok((version, head)) => {
                    known.insert(path.clone(), (version, head));
                    head.map(|head| found(path, version, head))
                }
                // The file was renamed or removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    self.unreadable.push(format!("{}: {error}", path.display()));
                    None
                }
            };
            if let Some(found) = found {
                let rank = |log: &Found| (!log.is_compressed, log.version.size);
                match logs.get(&found.head.id) {
                    Some(other) if rank(other) >= rank(&found) => {}
                    _ => drop(logs.insert(found.head.id, found)),
                }
            }
        }
        self.known = known;
        let mut logs: Vec<Found> = logs.into_values().collect();
        logs.sort_by(|a, b| (a.first, &a.path).cmp(&(b.first, &b.path)));
        Ok(logs)
    }

    fn examine(&self, path: &Path) -> io::Result<(FileVersion, Option<Head>)> {
        let version = FileVersion::of(&fs::metadata(path)?);
        match self.known.get(path) {
            Some((known, head)) if *known == version => return Ok((version, *head)),
            // A log that has grown keeps its first line.
            Some((known, Some(head)))
                if !is_compressed(path) && known.inode == version.inode && known.device == version.device =>
            {
                let file = open(path)?;
                if FileVersion::of(&file.metadata()?).inode == version.inode && head.is_of(&file) {
                    return Ok((version, Some(*head)));
                }
            }
            _ => {}
        }
        let file = open(path)?;
        let version = FileVersion::of(&file.metadata()?);
        let head = match is_compressed(path) {
            true => Head::read(log::decompressed(file)?)?,
            false => Head::read(file)?,
        };
        Ok((version, head))
    }
}

fn found(path: PathBuf, version: FileVersion, head: Head) -> Found {
    let modified = || Timestamp::from_second(version.modified.0).unwrap_or(Timestamp::UNIX_EPOCH);
    let first = head.first.unwrap_or_else(modified);
    Found { is_compressed: is_compressed(&path), path, head, first, version }
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz" || extension == "xz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rotated_logs_are_recognised() {
        for name in [
            "cowrie.json",
            "cowrie.json.2024-05-01",
            "cowrie.json.2018_5_6",
            "cowrie.json.1",
            "cowrie.json.12.gz",
            "cowrie.json-20240501.gz",
            "cowrie.json.2024-05-01.xz",
            "cowrie-2024-05-01.json",
        ] {
            assert!(is_log_name(name), "{name}");
        }
        for name in [
            "cowrie.log",
            "cowrie.json.swp",
            "cowrie.json~",
            "cowrie.json.bz2",
            "cowrie.json.1.zst",
            "cowrie.json.",
            "cowrie.json.1.gz.tmp",
            "webhoneypot-2024-05-01.json",
            ".cowrie.json",
        ] {
            assert!(!is_log_name(name), "{name}");
        }
    }
}
