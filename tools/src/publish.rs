//! Replaces a file atomically.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces the file by rename. A reader sees the old file or the new one, also after a crash. A reader that has mapped
/// the old file keeps it. If an error occurs, the old file stays.
pub fn publish(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial.{}", std::process::id()));
    let partial = Path::new(&partial);
    let written = File::create(partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(partial, path));
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
