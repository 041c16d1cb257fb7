//! Finds Cowrie's logs in a directory.
//!
//! | program that rotates | names |
//! |---|---|
//! | Cowrie itself | `cowrie.json`, `cowrie.json.2024-05-01`, in old versions `cowrie.json.2018_5_1` |
//! | logrotate (T-Pot, DShield) | `cowrie.json`, `cowrie.json.1`, `cowrie.json.2.gz`, `cowrie.json-20240501.gz` |

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// A file in the directory that has the name of a log.
#[derive(Clone, Debug)]
pub struct Listed {
    pub path: PathBuf,
    pub version: FileVersion,
}

impl Listed {
    pub fn name(&self) -> String {
        name_of(&self.path)
    }
}

/// A file and its last change. The contents of a file are examined again only if this value differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileVersion {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub modified: (i64, i64),
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

    pub fn is_of_same_file(&self, other: &FileVersion) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
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
        false => Err(not_regular()),
    }
}

/// Number of attempts to list the directory while logs are renamed.
const ATTEMPTS: u32 = 10;

/// Files, and files that could not be examined with the reasons.
type Listing = (Vec<Listed>, Vec<(PathBuf, io::Error)>);

/// Returns the files that have names of logs, as [`list_once`] does. Lists the directory until two listings are equal.
/// Otherwise a log that is renamed meanwhile could be missing, and later logs would be read before it.
pub fn list(directory: &Path, is_skipped: impl Fn(&Path) -> bool) -> io::Result<Listing> {
    let mut before = list_once(directory, &is_skipped)?;
    for _ in 0..ATTEMPTS {
        let after = list_once(directory, &is_skipped)?;
        let is_same = |(a, b): (&Listed, &Listed)| a.path == b.path && a.version.is_of_same_file(&b.version);
        if before.0.len() == after.0.len() && before.0.iter().zip(&after.0).all(is_same) {
            return Ok(after);
        }
        before = after;
    }
    Ok(before)
}

/// Returns the files that have names of logs. Leaves out empty files, and files for which `is_skipped` is true. Also returns
/// the files that could not be examined, and the reasons.
fn list_once(directory: &Path, is_skipped: impl Fn(&Path) -> bool) -> io::Result<Listing> {
    let (mut listed, mut failed) = (Vec::<Listed>::new(), Vec::new());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_name().to_str().is_some_and(is_log_name) || is_skipped(&path) {
            continue;
        }
        match fs::metadata(&path) {
            Ok(data) if !data.is_file() => failed.push((path, not_regular())),
            Ok(data) if data.len() > 0 => listed.push(Listed { path, version: FileVersion::of(&data) }),
            Ok(_) => {}
            // The file was renamed or removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failed.push((path, error)),
        }
    }
    // A link is not a second log.
    listed.sort_by(|a, b| {
        (a.version.device, a.version.inode, &a.path).cmp(&(b.version.device, b.version.inode, &b.path))
    });
    listed.dedup_by(|a, b| a.version.is_of_same_file(&b.version));
    Ok((listed, failed))
}

/// Opens a file that was listed. If it was replaced since, it counts as not found.
pub fn open_version(path: &Path, version: &FileVersion) -> io::Result<File> {
    let file = open(path)?;
    match FileVersion::of(&file.metadata()?).is_of_same_file(version) {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")
}

pub fn has_packed_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz" || extension == "xz")
}

pub fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
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
