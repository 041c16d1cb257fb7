//! Answers: how does a file change for its readers at one moment, in a directory that is somebody else's?
//!
//! The rule: written under another name in the same directory, then renamed. The other name is this process's own, is
//! made anew (whoever may write to the directory might have put a link there that leads elsewhere), and is gone again
//! whatever happens but a kill.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::net::{Cancel, Task};

/// The monitor is another user's: the directory says who may read.
const MODE: u32 = 0o644;

/// Files to be written, in this order.
pub struct Writing {
    pub directory: PathBuf,
    /// Names and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// Nothing is written in here.
    pub forbidden: PathBuf,
}

impl Task for Writing {
    type Done = Result<(), String>;

    fn run(self, cancel: &Cancel) -> Self::Done {
        let at = |error: io::Error| format!("{}: {error}", self.directory.display());
        // By where it really is: a link may lead into the server's own files.
        let directory = self.directory.canonicalize().map_err(at)?;
        if directory.starts_with(self.forbidden.canonicalize().map_err(at)?) {
            return Err(format!("{} is inside the data directory", self.directory.display()));
        }
        for (name, contents) in &self.files {
            if cancel.is_set() {
                return Ok(());
            }
            let path = directory.join(name);
            replace(&path, contents).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    fn lost(panic: String) -> Self::Done {
        Err(panic)
    }
}

fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = write_new(&temporary, contents).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What could not be made is not there; anything else has been said already.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
    let mut file = match create() {
        // Of a process that was killed and had the same number.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()?
        }
        made => made?,
    };
    // The server's umask is its own.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Directory {
            static MADE: AtomicU32 = AtomicU32::new(0);
            let name = format!("files-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).expect("a directory can be made");
            Directory(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("it can be read").flatten();
            let mut names: Vec<_> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }

        fn write(&self, files: &[(&str, &str)]) -> Result<(), String> {
            let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
            let forbidden = PathBuf::from("/proc");
            Writing { directory: self.0.clone(), files: files.collect(), forbidden }.run(&Cancel::new())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn temporary(stem: &str) -> String {
        format!("{stem}.{}.tmp", std::process::id())
    }

    #[test]
    fn files_are_replaced_and_nothing_else_is_left() {
        let directory = Directory::new();
        directory.write(&[("a.json", "first"), ("b.json", "b")]).expect("it can be written");
        directory.write(&[("a.json", "second")]).expect("it can be written");
        assert_eq!(fs::read_to_string(directory.0.join("a.json")).ok().as_deref(), Some("second"));
        assert_eq!(directory.names(), ["a.json", "b.json"]);
        let mode = fs::metadata(directory.0.join("a.json")).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn links_are_not_followed() {
        let directory = Directory::new();
        let victim = directory.0.join("victim");
        fs::write(&victim, "precious").expect("it can be written");
        symlink(&victim, directory.0.join(temporary("a"))).expect("a link can be made");
        symlink(&victim, directory.0.join("a.json")).expect("a link can be made");
        directory.write(&[("a.json", "new")]).expect("it can be written");
        assert_eq!(fs::read_to_string(&victim).ok().as_deref(), Some("precious"));
        assert_eq!(fs::read_to_string(directory.0.join("a.json")).ok().as_deref(), Some("new"));
        assert_eq!(directory.names(), ["a.json", "victim"]);
    }

    #[test]
    fn failures_name_the_file_and_leave_nothing_behind() {
        let directory = Directory::new();
        fs::create_dir(directory.0.join("a.json")).expect("a directory can be made");
        let failure = directory.write(&[("a.json", "x")]).expect_err("a directory is in the way");
        assert!(failure.contains("a.json: "), "{failure}");
        assert_eq!(directory.names(), ["a.json"]);
        let nowhere = directory.0.join("nowhere");
        let writing = Writing { directory: nowhere, files: Vec::new(), forbidden: PathBuf::from("/proc") };
        assert!(writing.run(&Cancel::new()).is_err_and(|failure| failure.contains("nowhere: ")));
    }

    #[test]
    fn nothing_is_written_where_it_is_forbidden_whatever_the_path_says() {
        let directory = Directory::new();
        let inside = directory.0.join("data/base");
        fs::create_dir_all(&inside).expect("a directory can be made");
        let link = directory.0.join("link");
        symlink(&inside, &link).expect("a link can be made");
        let files = vec![("a.json".to_owned(), b"x".to_vec())];
        let writing = Writing { directory: link, files, forbidden: directory.0.join("data") };
        assert!(writing.run(&Cancel::new()).is_err_and(|failure| failure.contains("inside the data")));
        assert!(!inside.join("a.json").exists());
    }
}
