//! Replaces a file atomically.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Replaces the file by rename. A reader sees the old file or the new one, also after a crash. A reader that has mapped
/// the old file keeps it. If an error occurs, the old file stays.
///
/// The new file has the permissions of the old one. If the path is a symbolic link, the file behind the link is replaced.
/// A device or a directory is not replaced, because a rename by root would destroy a device such as `/dev/null`.
pub fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = match fs::metadata(path) {
        Ok(old) if old.is_file() => Some(old),
        Ok(_) => return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let path = if old.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
    let (partial, mut file) = create_partial(&path, old.as_ref())?;
    let written = file
        .write_all(bytes)
        .and_then(|()| old.as_ref().map_or(Ok(()), |old| file.set_permissions(old.permissions())))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&partial, &path));
    match written {
        Ok(()) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all())
        }
        Err(error) => {
            let _ = fs::remove_file(partial);
            Err(error)
        }
    }
}

/// Creates a file beside the path. Its name is of this run only, because processes in two containers can have the same id.
fn create_partial(path: &Path, old: Option<&Metadata>) -> io::Result<(PathBuf, File)> {
    let mut number = 0;
    loop {
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".partial.{}.{number}", std::process::id()));
        let mode = old.map_or(0o666, |old| old.mode() & 0o777);
        match File::options().write(true).create_new(true).mode(mode).open(&partial) {
            Ok(file) => return Ok((partial.into(), file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 100 => number += 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("cowrie-publish-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn the_file_behind_a_link_is_replaced_and_keeps_its_permissions() {
        let directory = directory("link");
        let (file, link) = (directory.join("report.html"), directory.join("link.html"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        // A process with the same id was killed.
        fs::write(directory.join(format!("report.html.partial.{}.0", std::process::id())), "left").unwrap();
        publish(&link, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_pipe_and_a_directory_are_not_replaced() {
        let directory = directory("pipe");
        let pipe = directory.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&pipe, &directory] {
            let error = publish(path, b"new").unwrap_err();
            assert_eq!(error.to_string(), "it is not a regular file");
        }
        assert!(publish(&directory.join("nowhere/report.html"), b"new").is_err());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }
}
