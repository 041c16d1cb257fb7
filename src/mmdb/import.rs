//! Puts files into service: copies, verifies and renames them. If a file is refused, the old copy stays in
//! service.

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
    /// The source could not be read, or the copy could not be written.
    File { kind: Kind, path: String, error: io::Error },
    /// The source was written to while it was read.
    Changing { kind: Kind, path: String },
    /// The file is not an mmdb file, or is damaged.
    Damaged { kind: Kind, path: String, error: MmdbError },
    /// The file is valid, but for another setting.
    WrongContent { kind: Kind, path: String, database_type: String },
    /// The file is older than the setting allows.
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

    /// Returns the build of a file that is too old.
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
    /// Import only if the source changed since the last import or refusal. Never wait for another process.
    IfChanged,
    /// The user requested the import: read the file again unless it is in service.
    Ask,
}

/// A source that changed less than this many seconds ago may be incomplete, because a program may still be
/// writing it.
const STABLE_AFTER_SECONDS: i64 = 2;

/// Puts a configured file into service unless it is already in service.
pub fn run(file: &ConfiguredFile, mode: Mode) -> Result<(), ImportError> {
    let ConfiguredFile { id, path } = file.clone();
    let kind = id.kind;
    let signature = match Signature::of(&path) {
        Ok(signature) => signature,
        // A missing source does no harm, because the copy stays in service. It is an error only if the user
        // requested the import.
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
    // The previous holder of the lock may have imported the file.
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

/// Returns true if a file waits to be put into service and no process is importing it.
pub fn is_due(file: &ConfiguredFile) -> bool {
    let Ok(signature) = Signature::of(&file.path) else { return false };
    is_wanted(file.id, &signature, Mode::IfChanged) && matches!(ReplacementLock::take(false), Ok(Some(_)))
}

/// Returns true if a copy is too old and no process is importing a file.
pub fn has_too_old() -> bool {
    private_copy::has_too_old() && matches!(ReplacementLock::take(false), Ok(Some(_)))
}

/// Removes the copies that are too old. Lookups do not use these copies any more.
pub fn remove_too_old(mode: Mode) {
    if !private_copy::has_too_old() {
        return;
    }
    // Another process holds the lock if it imports a file. The next call removes the copies.
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
        // A process that is importing a file holds this lock. In that case, the next call removes the copies.
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

/// Verifies a copy. Returns its metadata, and the lists of a file of types.
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

/// Bytes to copy between two checks for interrupts.
const COPY_CHUNK: usize = 1 << 20;

/// Copies a source of `size` bytes. Stops if the source is longer, because it has changed and may grow as
/// fast as it is read.
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

/// Records why a file was refused, so that it is not tried again until it changes.
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

/// Records why a file was refused, and its build if the file is too old.
fn record(lock: &ReplacementLock, id: FileId, refused: Option<(&Signature, Option<i64>)>, message: &str) {
    let mut status = read_status(id).unwrap_or_default();
    status.last_error = Some(message.to_owned());
    if let Some((source, build)) = refused {
        (status.refused, status.refused_build) = (Some(source.clone()), build);
    }
    // An error is ignored. Otherwise a full disk would make the query fail, although only the file was refused.
    let _ = lock.write_status(id, &status);
}
