//! The private copies of mmdb files: where the copies are, and which copy is in service.
//!
//! For each configured file, the directory `<data directory>/cowrie_enrich/` contains the private copy
//! (`city-<build>-<inode>.mmdb`) and its status (`city.json`). For the second file of a setting, both names begin with `city.2`,
//! and so on.
//!
//! A process that replaces a status holds the lock on the file `lock`, and renames the new status over the old status. After a copy
//! has been renamed, no process writes to the copy. Processes only unlink it. Readers take no lock. A reader reads the status, and
//! then opens the copy that the status names. If the copy was replaced meanwhile, the reader starts again. If a copy is unlinked, a
//! backend that has mapped the copy can still use it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cowrie_enrich_engine::mmdb::types::TypeList;
use cowrie_enrich_engine::timestamp::Timestamp;

use memmap2::Mmap;
use serde_json::{Map, Value};

use super::file::TYPES_PREFIX;
use super::{FileId, Kind, max_age};
use crate::pg::{self, mapped_file};

/// Identifies a version of a status file. A new version has another inode or another modification time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version {
    inode: u64,
    modified: (i64, i64),
}

/// Identifies the version of a source file that was read. If any field changes, the file is read again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    pub path: String,
    device: u64,
    inode: u64,
    pub size: u64,
    modified: (i64, i64),
}

impl Signature {
    pub fn of(path: &str) -> io::Result<Signature> {
        Ok(Self::from_metadata(path, &fs::metadata(path)?))
    }

    pub fn from_metadata(path: &str, metadata: &fs::Metadata) -> Signature {
        Signature {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Returns true if the source file was last modified at least `seconds` ago. In this case the file is probably complete.
    pub fn is_stable(&self, seconds: i64) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        (now.as_secs() as i64).saturating_sub(self.modified.0) >= seconds
    }

    fn to_json(&self) -> Value {
        serde_json::json!([self.path, self.device, self.inode, self.size, self.modified.0, self.modified.1])
    }

    fn from_json(value: &Value) -> Option<Signature> {
        let number = |i: usize| value.get(i)?.as_u64();
        Some(Signature {
            path: value.get(0)?.as_str()?.to_owned(),
            device: number(1)?,
            inode: number(2)?,
            size: number(3)?,
            modified: (value.get(4)?.as_i64()?, value.get(5)?.as_i64()?),
        })
    }
}

/// The status of one configured file. It describes the copy in service, and the source file that was refused
/// later, if any.
#[derive(Clone, Default, Debug)]
pub struct Status {
    /// File name of the copy in service, without the directory.
    pub file: Option<String>,
    pub source: Option<Signature>,
    pub database_type: Option<String>,
    pub vendor: Option<String>,
    /// Seconds since 1970.
    pub build_epoch: Option<i64>,
    pub ip_version: Option<i64>,
    pub node_count: Option<i64>,
    pub loaded_at: Option<Timestamp>,
    pub last_error: Option<String>,
    /// The lists of a file with types of addresses.
    pub lists: Vec<TypeList>,
    pub refused: Option<Signature>,
    /// If a source file was refused because it was too old, the time when it was built, in seconds since 1970.
    pub refused_build: Option<i64>,
}

impl Status {
    /// Returns the status after the copy in service was removed because it was too old.
    fn after_removal(self) -> Status {
        Status {
            last_error: Some(max_age::describe(self.build_epoch)),
            refused: self.source,
            refused_build: self.build_epoch,
            ..Status::default()
        }
    }

    /// Returns true if lookups do not use the configured file because the file is too old.
    pub fn is_too_old(&self, kind: Kind) -> bool {
        match self.file {
            Some(_) => max_age::is_too_old(kind, self.build_epoch),
            None => self.refused_build.is_some_and(|build| max_age::is_too_old(kind, Some(build))),
        }
    }

    /// Returns true if this source file was refused and would be refused again.
    pub fn refuses(&self, kind: Kind, source: &Signature) -> bool {
        let may_be_used_now =
            || self.refused_build.is_some_and(|build| !max_age::is_too_old(kind, Some(build)));
        self.refused.as_ref() == Some(source) && !may_be_used_now()
    }

    fn to_json(&self) -> Value {
        let mut all = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                all.insert(key.to_owned(), value);
            }
        };
        put("file", self.file.clone().map(Value::from));
        put("source", self.source.as_ref().map(Signature::to_json));
        put("database_type", self.database_type.clone().map(Value::from));
        put("vendor", self.vendor.clone().map(Value::from));
        put("build_epoch", self.build_epoch.map(Value::from));
        put("ip_version", self.ip_version.map(Value::from));
        put("node_count", self.node_count.map(Value::from));
        put("loaded_at", self.loaded_at.map(|at| Value::from(at.micros())));
        put("last_error", self.last_error.clone().map(Value::from));
        if !self.lists.is_empty() {
            put("lists", Some(self.lists.iter().map(list_to_json).collect()));
        }
        put("refused", self.refused.as_ref().map(Signature::to_json));
        put("refused_build", self.refused_build.map(Value::from));
        Value::Object(all)
    }

    fn from_json(value: &Value) -> Status {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| value.get(key).and_then(Value::as_i64);
        Status {
            file: text("file").filter(|name| is_copy_name(name)),
            source: value.get("source").and_then(Signature::from_json),
            database_type: text("database_type"),
            vendor: text("vendor"),
            build_epoch: number("build_epoch"),
            ip_version: number("ip_version"),
            node_count: number("node_count"),
            loaded_at: number("loaded_at").map(Timestamp::from_micros),
            last_error: text("last_error"),
            lists: value
                .get("lists")
                .and_then(Value::as_array)
                .map(|lists| lists.iter().filter_map(list_from_json).collect())
                .unwrap_or_default(),
            refused: value.get("refused").and_then(Signature::from_json),
            refused_build: number("refused_build"),
        }
    }

    /// Returns true if the private copy that the status names exists. This copy may be missing in two cases: a
    /// base backup was taken while a copy was replaced, or the data directory was copied without the private
    /// copy.
    pub fn serves(&self) -> bool {
        self.file.as_ref().is_some_and(|name| directory().join(name).exists())
    }
}

fn list_to_json(list: &TypeList) -> Value {
    serde_json::json!({
        "name": list.name, "type": list.kind, "published": list.published,
        "entries": list.entries, "notice": list.notice,
    })
}

fn list_from_json(value: &Value) -> Option<TypeList> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    Some(TypeList {
        name: text("name")?,
        kind: text("type")?,
        published: value.get("published")?.as_u64()?,
        entries: value.get("entries").and_then(Value::as_u64),
        notice: text("notice"),
    })
}

fn is_copy_name(name: &str) -> bool {
    name.ends_with(".mmdb") && !name.contains('/')
}

fn directory() -> PathBuf {
    pg::data_directory().join("cowrie_enrich")
}

fn status_path(id: FileId) -> PathBuf {
    directory().join(format!("{}.json", id.stem()))
}

/// Returns the current status. Takes no lock.
pub fn read_status(id: FileId) -> Option<Status> {
    let bytes = fs::read(status_path(id)).ok()?;
    serde_json::from_slice(&bytes).ok().map(|value| Status::from_json(&value))
}

pub fn version(id: FileId) -> Option<Version> {
    fs::metadata(status_path(id)).ok().map(|metadata| version_of(&metadata))
}

fn version_of(metadata: &fs::Metadata) -> Version {
    Version { inode: metadata.ino(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
}

/// Maximum number of attempts of a reader. A reader tries again if the copy was replaced while the reader read
/// the status. Even two such replacements in succession are very unlikely.
const READ_ATTEMPTS: usize = 5;

/// Creates a memory map of the private copy that is in service. Returns `None` if this copy is too old.
pub fn map_current(id: FileId) -> Option<(Mmap, Version)> {
    for _ in 0..READ_ATTEMPTS {
        let version = version(id)?;
        let status = read_status(id)?;
        if status.is_too_old(id.kind) {
            return None;
        }
        let name = status.file?;
        if let Ok(file) = File::open(directory().join(name)) {
            return mapped_file::map(&file).ok().map(|map| (map, version));
        }
    }
    None
}

/// The lock that a process holds while it replaces private copies. Dropping the value releases the lock.
pub struct ReplacementLock {
    _lock: File,
}

impl ReplacementLock {
    /// Takes the lock for replacing private copies. If another process holds the lock and `wait` is true, waits for the lock. If
    /// another process holds the lock and `wait` is false, returns `None`.
    pub fn take(wait: bool) -> io::Result<Option<ReplacementLock>> {
        let directory = directory();
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join("lock"))?;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(ReplacementLock { _lock: lock })),
                Err(fs::TryLockError::WouldBlock) if wait => {
                    pg::check_for_interrupts();
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Creates a new file into which the caller copies a source file.
    pub fn draft(&self, id: FileId) -> io::Result<Draft> {
        let path = directory().join(format!("{}.draft", id.stem()));
        let file =
            File::options().create(true).truncate(true).read(true).write(true).mode(0o600).open(&path)?;
        Ok(Draft { path, file, renamed: false })
    }

    /// Puts a finished draft into service as the private copy, and removes the copy that the draft replaces.
    pub fn publish(&self, id: FileId, draft: Draft, mut status: Status) -> io::Result<()> {
        draft.file.sync_all()?;
        let name = format!(
            "{}-{}-{:x}.mmdb",
            id.stem(),
            status.build_epoch.unwrap_or_default(),
            draft.file.metadata()?.ino()
        );
        draft.rename(&directory().join(&name))?;
        status.file = Some(name.clone());
        let written = self.write_status(id, &status);
        // If the new copy could not be put into service, removes the new copy, because it may have filled the
        // disk.
        let serving = read_status(id).and_then(|status| status.file);
        remove_others(id, serving.as_deref().unwrap_or(&name));
        written
    }

    /// Removes the private copies and statuses of files that a setting no longer names. Keeps the copy of the
    /// first file, because an empty setting may be a mistake that the administrator soon corrects.
    pub fn remove_unnamed(&self, kind: Kind, configured: usize) {
        for path in unnamed(kind, configured) {
            // Ignores an error. If a file cannot be removed now, the next import removes the file.
            let _ = fs::remove_file(path);
        }
    }

    /// Removes the private copies that are too old, including copies of files that a setting no longer names.
    /// Also removes unfinished copies that a killed process left. Returns the statuses of the removed copies
    /// that were in service.
    pub fn remove_too_old(&self) -> io::Result<Vec<(FileId, Status)>> {
        let (names, mut removed) = (file_names(), Vec::new());
        for id in names.iter().filter_map(|name| id_of_status(name)) {
            let Some(status) = read_status(id) else { continue };
            if status.file.is_some() && status.is_too_old(id.kind) {
                self.write_status(id, &status.clone().after_removal())?;
                removed.push((id, status));
            }
        }
        for name in names.iter().filter(|name| is_old_copy(name) || is_draft(name)) {
            fs::remove_file(directory().join(name))?;
        }
        Ok(removed)
    }

    pub fn write_status(&self, id: FileId, status: &Status) -> io::Result<()> {
        let directory = directory();
        let draft = directory.join(format!("{}.json.draft", id.stem()));
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(status.to_json().to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, status_path(id))?;
        File::open(&directory)?.sync_all()
    }
}

/// An unfinished private copy. Dropping a draft that was not published removes the file of the draft, because the file may have
/// filled the disk. If a crash leaves the file of a draft, the next draft overwrites this file.
pub struct Draft {
    path: PathBuf,
    pub file: File,
    renamed: bool,
}

impl Draft {
    fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the paths of the copies and statuses that no configured file uses.
pub fn unnamed(kind: Kind, configured: usize) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory()) else { return Vec::new() };
    let is_unnamed = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| FileId::number_of(kind, name));
        number.is_some_and(|number| number > configured.max(1))
    };
    entries.flatten().filter(is_unnamed).map(|entry| entry.path()).collect()
}

/// Returns true if a private copy is too old, or if an unfinished copy exists. Either a killed process has left
/// the unfinished copy, or another process is still writing it. Always returns false if the setting
/// mmdb_max_age is off.
pub fn has_too_old() -> bool {
    let is_old_status = |name: &String| {
        id_of_status(name)
            .and_then(|id| Some((id, read_status(id)?)))
            .is_some_and(|(id, status)| status.file.is_some() && status.is_too_old(id.kind))
    };
    max_age::is_on()
        && file_names().iter().any(|name| is_old_copy(name) || is_draft(name) || is_old_status(name))
}

fn file_names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory()) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Parses the file name of a status or of an unfinished private copy. Accepts only names that belong to a file
/// of locations or to a file of networks.
fn id_of(name: &str, ending: &str) -> Option<FileId> {
    let stem = name.strip_suffix(ending)?;
    Kind::ALL.into_iter().find_map(|kind| {
        let number = if stem == kind.name() { Some(1) } else { FileId::number_of(kind, stem) };
        number.map(|number| FileId::of(kind, number, "")).filter(|id| id.stem() == stem)
    })
}

fn id_of_status(name: &str) -> Option<FileId> {
    id_of(name, ".json")
}

fn is_draft(name: &str) -> bool {
    id_of(name, ".draft").is_some()
}

/// Returns true if a file name belongs to a private copy that is too old. The name of a private copy contains the time when the
/// source file was built. Accepts only copies of files of locations or networks.
fn is_old_copy(name: &str) -> bool {
    let build = || {
        let (stem, rest) = name.strip_suffix(".mmdb")?.split_once('-')?;
        let id = id_of(stem, "")?;
        let (build, _) = rest.split_once('-')?;
        Some((id.kind, build.parse().ok()?))
    };
    build().is_some_and(|(kind, build)| max_age::is_too_old(kind, Some(build)))
}

fn remove_others(id: FileId, keep: &str) {
    let prefix = format!("{}-", id.stem());
    let Ok(entries) = fs::read_dir(directory()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = Path::new(&name).to_str() else { continue };
        if name.starts_with(&prefix) && is_copy_name(name) && name != keep {
            // Ignores an error. If the copy cannot be removed now, the next import removes the copy.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// If no setting names a file with types of addresses, its private copies are removed when they have not
/// changed for this time. Without this time, a process that has not read the new settings yet would remove the
/// copy of a newly configured file.
const UNCONFIGURED_FOR: Duration = Duration::from_secs(3600);

/// Removes the private copies of files with types of addresses that no setting names any longer.
pub fn remove_unconfigured(_lock: &ReplacementLock) {
    let wanted: Vec<String> = Kind::Types.files().iter().map(|file| file.id.stem()).collect();
    let Ok(entries) = fs::read_dir(directory()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(TYPES_PREFIX)) else { continue };
        let stem_length = TYPES_PREFIX.len() + 16;
        if wanted.iter().any(|stem| name.get(..stem_length) == Some(stem)) {
            continue;
        }
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > UNCONFIGURED_FOR));
        if is_old {
            // Ignores an error. If the copy cannot be removed now, the next import removes the copy.
            let _ = fs::remove_file(entry.path());
        }
    }
}
