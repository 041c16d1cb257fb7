//! Puts mmdb files into service. Copies a file, verifies the copy, and renames the copy. If the file is
//! refused, the old copy stays in service.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};

use cowrie_enrich_engine::mmdb::types::{TypeDatabase, TypeList};
use cowrie_enrich_engine::mmdb::{Database, Facts, MmdbError};
use cowrie_enrich_engine::regular_file;
use memmap2::Mmap;

use super::private_copy::{self, Draft, ReplacementLock, Signature, Status, read_status};
use super::{ConfiguredFile, FileId, Kind, max_age};
use crate::pg::{self, clock, mapped_file};
use crate::telemetry;

/// The reason why a file was not put into service.
#[derive(Debug)]
pub enum ImportError {
    /// The source file could not be read, or the private copy could not be written.
    File { kind: Kind, path: String, error: io::Error },
    /// Another program wrote to the source file while the extension read the file.
    Changing { kind: Kind, path: String },
    /// The file is not an mmdb file, or is damaged.
    Damaged { kind: Kind, path: String, error: MmdbError },
    /// The file is valid, but it belongs into another setting.
    WrongContent { kind: Kind, path: String, database_type: String },
    /// The file is older than the setting mmdb_max_age allows.
    TooOld { kind: Kind, path: String, build_epoch: Option<i64> },
}

impl ImportError {
    pub fn kind(&self) -> Kind {
        match self {
            ImportError::File { kind, .. }
            | ImportError::Changing { kind, .. }
            | ImportError::Damaged { kind, .. }
            | ImportError::WrongContent { kind, .. }
            | ImportError::TooOld { kind, .. } => *kind,
        }
    }

    pub fn path(&self) -> &str {
        match self {
            ImportError::File { path, .. }
            | ImportError::Changing { path, .. }
            | ImportError::Damaged { path, .. }
            | ImportError::WrongContent { path, .. }
            | ImportError::TooOld { path, .. } => path,
        }
    }

    /// If the error is that the file is too old, returns the time when the file was built.
    fn refused_build(&self) -> Option<i64> {
        match self {
            ImportError::TooOld { build_epoch, .. } => Some(build_epoch.unwrap_or_default()),
            _ => None,
        }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImportError::File { error, .. } => write!(f, "{error}"),
            ImportError::Changing { .. } => {
                f.write_str("the mmdb file changed while the extension read the file")
            }
            ImportError::Damaged { error, .. } => write!(f, "{error}"),
            ImportError::WrongContent { kind: Kind::City, database_type, .. } => {
                write!(f, "a file of type \"{database_type}\" does not contain locations of addresses")
            }
            ImportError::WrongContent { kind: Kind::Asn, database_type, .. } => {
                write!(f, "a file of type \"{database_type}\" does not contain networks (ASNs) of addresses")
            }
            ImportError::WrongContent { kind: Kind::Types, database_type, .. } => {
                write!(
                    f,
                    "a file of type \"{database_type}\" does not contain types of addresses, such as VPN or TOR"
                )
            }
            ImportError::TooOld { build_epoch, .. } => f.write_str(&max_age::describe(*build_epoch)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Imports a file only if the source file has changed after the last import or refusal. If another process
    /// is importing a file, waits for that process only if this file has no copy in service yet.
    IfChanged,
    /// A user requested the import. Reads the file again unless it is already in service without an error.
    Ask,
}

/// If a source file changed less than this number of seconds ago, the file may be incomplete, because a program
/// may still be writing to it.
const STABLE_AFTER_SECONDS: i64 = 2;

/// Puts a configured file into service unless it is already in service.
pub fn run(file: &ConfiguredFile, mode: Mode) -> Result<(), ImportError> {
    let ConfiguredFile { id, path } = file.clone();
    let kind = id.kind;
    let signature = match Signature::of(&path) {
        Ok(signature) => signature,
        // If the source file is missing, the private copy stays in service. A missing source file is an error
        // only if a user requested the import.
        Err(_) if mode == Mode::IfChanged && read_status(id).is_some() => return Ok(()),
        Err(error) => {
            let lock = ReplacementLock::take(false).ok().flatten();
            return refuse(id, lock.as_ref(), None, ImportError::File { kind, path, error }, mode);
        }
    };
    if !is_wanted(id, &signature, mode) {
        return Ok(());
    }
    let first = read_status(id).is_none_or(|status| !status.serves());
    let lock = ReplacementLock::take(mode == Mode::Ask || first).map_err(|error| ImportError::File {
        kind,
        path: path.clone(),
        error,
    })?;
    let Some(lock) = lock else { return Ok(()) };
    // Tests this again, because another process that held the lock before may have imported the file.
    if !is_wanted(id, &signature, mode) {
        return Ok(());
    }
    match copy_and_verify(id, &lock, &path, &signature) {
        Ok((draft, status)) => lock
            .publish(id, draft, status)
            .or_else(|error| refuse(id, Some(&lock), None, ImportError::File { kind, path, error }, mode)),
        Err(error @ ImportError::Changing { .. }) if mode == Mode::IfChanged => Err(error),
        Err(error) => {
            let refused = (!matches!(error, ImportError::Changing { .. })).then_some(signature);
            refuse(id, Some(&lock), refused.as_ref(), error, mode)
        }
    }
}

/// Returns true if a file must be put into service and no process is importing a file.
pub fn is_due(file: &ConfiguredFile) -> bool {
    let Ok(signature) = Signature::of(&file.path) else { return false };
    is_wanted(file.id, &signature, Mode::IfChanged) && matches!(ReplacementLock::take(false), Ok(Some(_)))
}

/// Returns true if a copy is too old and no process is importing a file.
pub fn has_too_old() -> bool {
    private_copy::has_too_old() && matches!(ReplacementLock::take(false), Ok(Some(_)))
}

/// Removes the private copies that are too old. Lookups no longer use these copies.
pub fn remove_too_old(mode: Mode) {
    if !private_copy::has_too_old() {
        return;
    }
    // If another process is importing a file, that process holds the lock. In this case the next call of this
    // function removes the copies.
    let lock = ReplacementLock::take(mode == Mode::Ask);
    match lock.and_then(|lock| lock.map_or(Ok(Vec::new()), |lock| lock.remove_too_old())) {
        Ok(removed) => {
            for (id, status) in removed {
                let path = status.source.map(|source| source.path).unwrap_or_default();
                telemetry::log_once_per_burst(
                    "removed the copy of an mmdb file that is too old; lookups no longer use the file",
                    &format!("{} \"{path}\": {}", id.kind.setting(), max_age::describe(status.build_epoch)),
                );
            }
        }
        Err(error) => telemetry::log_once_per_burst(
            "could not remove the copy of an mmdb file that is too old; lookups do not use the copy",
            &error.to_string(),
        ),
    }
}

/// Removes the copies of files that the settings no longer name.
pub fn remove_unnamed() {
    if let Ok(Some(lock)) = ReplacementLock::take(false) {
        private_copy::remove_unconfigured(&lock);
    }
    for kind in Kind::ALL {
        let configured = kind.files().len();
        if private_copy::unnamed(kind, configured).is_empty() {
            continue;
        }
        // If another process is importing a file, that process holds the lock. In this case the next call of
        // this function removes the copies.
        if let Ok(Some(lock)) = ReplacementLock::take(false) {
            lock.remove_unnamed(kind, configured);
        }
    }
}

fn is_wanted(id: FileId, signature: &Signature, mode: Mode) -> bool {
    let Some(status) = read_status(id) else { return true };
    let has_copy = status.serves();
    let serving = has_copy && status.source.as_ref() == Some(signature);
    match mode {
        Mode::Ask => !serving || status.last_error.is_some(),
        Mode::IfChanged => {
            !serving
                && !status.refuses(id.kind, signature)
                && (!has_copy || signature.is_stable(STABLE_AFTER_SECONDS))
        }
    }
}

fn copy_and_verify(
    id: FileId,
    lock: &ReplacementLock,
    path: &str,
    signature: &Signature,
) -> Result<(Draft, Status), ImportError> {
    let kind = id.kind;
    let file_error = |error| ImportError::File { kind, path: path.to_owned(), error };
    let mut source = regular_file::open(path).map_err(file_error)?;
    let mut draft = lock.draft(id).map_err(file_error)?;
    copy(&mut source, &mut draft.file, signature.size).map_err(file_error)?;
    let after = Signature::of(path).map_err(file_error)?;
    let opened = Signature::from_metadata(path, &source.metadata().map_err(file_error)?);
    if after != *signature || opened != *signature {
        return Err(ImportError::Changing { kind, path: path.to_owned() });
    }

    let map = mapped_file::map(&draft.file).map_err(file_error)?;
    let (facts, lists) = verify(kind, path, map)?;
    let status = Status {
        file: None,
        source: Some(signature.clone()),
        database_type: Some(facts.database_type),
        vendor: Some(facts.vendor),
        build_epoch: i64::try_from(facts.build_epoch).ok(),
        ip_version: Some(i64::from(facts.ip_version)),
        node_count: Some(i64::from(facts.node_count)),
        loaded_at: Some(clock::now()),
        last_error: None,
        lists,
        refused: None,
        refused_build: None,
    };
    Ok((draft, status))
}

/// Verifies a private copy. Returns the metadata of the file. For a file with types of addresses, also returns
/// the lists in the file.
fn verify(kind: Kind, path: &str, map: Mmap) -> Result<(Facts, Vec<TypeList>), ImportError> {
    let damaged = |error| ImportError::Damaged { kind, path: path.to_owned(), error };
    if kind == Kind::Types {
        let database = TypeDatabase::open(map).map_err(damaged)?;
        database.verify().map_err(damaged)?;
        return Ok((database.facts().clone(), database.lists().to_vec()));
    }
    let database = Database::open(map).map_err(damaged)?;
    let facts = database.facts().clone();
    if !kind.accepts(database.content()) {
        return Err(ImportError::WrongContent {
            kind,
            path: path.to_owned(),
            database_type: facts.database_type,
        });
    }
    let build_epoch = i64::try_from(facts.build_epoch).ok();
    if max_age::is_too_old(kind, build_epoch) {
        return Err(ImportError::TooOld { kind, path: path.to_owned(), build_epoch });
    }
    database.verify().map_err(damaged)?;
    Ok((facts, Vec::new()))
}

/// Number of bytes that are copied between two checks for interrupts.
const COPY_CHUNK: usize = 1 << 20;

/// Copies a source file of `size` bytes. Stops if the source file is longer than `size`. Such a file has
/// changed, and may grow as fast as this function reads the file.
fn copy(from: &mut File, to: &mut File, size: u64) -> io::Result<()> {
    let mut chunk = vec![0; COPY_CHUNK];
    let mut copied = 0;
    while copied <= size {
        pg::check_for_interrupts();
        match from.read(&mut chunk)? {
            0 => break,
            n => {
                to.write_all(&chunk[..n])?;
                copied += n as u64;
            }
        }
    }
    Ok(())
}

/// Stores the reason why a file was refused, so that the file is not read again before it changes.
fn refuse(
    id: FileId,
    lock: Option<&ReplacementLock>,
    refused: Option<&Signature>,
    error: ImportError,
    mode: Mode,
) -> Result<(), ImportError> {
    let message = error.to_string();
    if let Some(lock) = lock {
        record(lock, id, refused.map(|refused| (refused, error.refused_build())), &message);
    }
    if mode == Mode::IfChanged {
        telemetry::log_once_per_burst(
            "refused an mmdb file; the file that was loaded before stays in use",
            &format!("{} \"{}\": {message}", id.kind.setting(), error.path()),
        );
    }
    Err(error)
}

/// Stores the reason why a file was refused. If the file is too old, also stores the time when it was built.
fn record(lock: &ReplacementLock, id: FileId, refused: Option<(&Signature, Option<i64>)>, message: &str) {
    let mut status = read_status(id).unwrap_or_default();
    status.last_error = Some(message.to_owned());
    if let Some((source, build)) = refused {
        (status.refused, status.refused_build) = (Some(source.clone()), build);
    }
    // Ignores an error. Otherwise a full disk would make the user's query fail, although only a file was
    // refused.
    let _ = lock.write_status(id, &status);
}
