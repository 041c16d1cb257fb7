//! The private copies: where they are, and which one is in service.
//!
//! `<data directory>/cowrie_enrich/` holds, for each configured file, the copy (`city-<build>-<nonce>.mmdb`) and
//! its status (`city.json`). The names of the second file start with `city.2`, and so on. A status is only replaced by rename, under the lock file's lock. A copy is never
//! written after its rename, only unlinked. Readers take no lock. They read the status, then open the file
//! that it names, and start again if that file was replaced in between. A backend that maps an unlinked copy
//! keeps it.

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

/// Identity of a status file. A new status has another inode or another modification time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version {
    inode: u64,
    modified: (i64, i64),
}

/// Identity of a source file when it was read. If any part changes, the file is read again.
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

    /// Returns true if the source was last written at least `seconds` ago. Then the source is probably complete.
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

/// The state of one configured file: the copy in service, and the file that was refused after the copy was
/// made.
#[derive(Clone, Default, Debug)]
pub struct Status {
    /// Name of the copy in service, within the directory.
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
    /// The build of a source that was refused because it was too old, in seconds since 1970.
    pub refused_build: Option<i64>,
}

impl Status {
    /// Returns the state after the copy in service has become too old.
    fn after_removal(self) -> Status {
        Status {
            last_error: Some(max_age::describe(self.build_epoch)),
            refused: self.source,
            refused_build: self.build_epoch,
            ..Status::default()
        }
    }

    /// Returns whether lookups do not use the file because it is too old.
    pub fn is_too_old(&self, kind: Kind) -> bool {
        match self.file {
            Some(_) => max_age::is_too_old(kind, self.build_epoch),
            None => self.refused_build.is_some_and(|build| max_age::is_too_old(kind, Some(build))),
        }
    }

    /// Returns whether this source was refused, and would be refused again.
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

    /// Returns true if the copy exists. The status may name a missing file in two cases: a base backup was
    /// taken while a file was replaced, or the data directory was copied without the file.
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

/// Number of times that a reader retries when files are replaced during the read. Even two replacements in a
/// row are very unlikely.
const READ_ATTEMPTS: usize = 5;

/// Maps the copy in service, unless it is too old.
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

/// The right to replace the copies in service. Released when dropped.
pub struct ReplacementLock {
    _lock: File,
}

impl ReplacementLock {
    /// Takes the right to replace files. If another process holds the right, waits, or returns `None` if `wait` is false.
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

    /// Creates a new file for a copy of a source.
    pub fn draft(&self, id: FileId) -> io::Result<Draft> {
        let path = directory().join(format!("{}.draft", id.stem()));
        let file =
            File::options().create(true).truncate(true).read(true).write(true).mode(0o600).open(&path)?;
        Ok(Draft { path, file, renamed: false })
    }

    /// Puts a finished draft into service, and removes the copy that the draft replaces.
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
        // If the new copy could not be put into service, it is removed, because it may have filled the disk.
        let serving = read_status(id).and_then(|status| status.file);
        remove_others(id, serving.as_deref().unwrap_or(&name));
        written
    }

    /// Removes the copies and statuses of files that a setting no longer names. The first file's copy stays,
    /// because an empty setting may be a mistake that a reload corrects.
    pub fn remove_unnamed(&self, kind: Kind, configured: usize) {
        for path in unnamed(kind, configured) {
            // If a file cannot be removed now, the next import removes it.
            let _ = fs::remove_file(path);
        }
    }

    /// Removes the copies that are too old, also those of files that a setting no longer names, and unfinished
    /// copies that a killed process left. Returns the statuses of copies that were in service.
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

/// An unfinished copy. If a crash leaves a draft, the next draft overwrites it. A draft that is not published is removed, because
/// it may have filled the disk.
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

/// Returns true if a copy is too old, or an unfinished copy exists. A killed process left the unfinished
/// copy, or another process is still writing it.
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

/// Parses the name of a status or of an unfinished copy of a file of locations or networks.
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

/// Returns whether a file name belongs to a copy of locations or networks that is too old. The name contains the time
/// of the build.
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
            // If the copy cannot be removed now, the next import removes it.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// If no setting names a file, its copies are removed this long after they were last changed. Without this
/// time, a process that has not read the new settings yet would remove the copy of a newly configured file.
const UNCONFIGURED_FOR: Duration = Duration::from_secs(3600);

/// Removes the copies of files of types that are not configured any more.
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
            // If the file cannot be removed now, the next import removes it.
            let _ = fs::remove_file(entry.path());
        }
    }
}
