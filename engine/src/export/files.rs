//! Replaces files atomically in a directory that another user may own.
//!
//! The writer creates a temporary file in the same directory, writes the contents, and renames the file. The name of
//! the temporary file contains the process id. The writer never writes into an existing file, because another user with
//! write access to the directory may have put a symbolic link there. After an error, the writer removes the temporary
//! file. The temporary file remains only if the process is killed.
//!
//! The writer opens the directory once, and all further calls are relative to the open directory. The owner of a
//! directory on the path may replace the rest of the path at any time. If the writer used the path again after the
//! check, the path could lead to another directory.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::net::{Cancel, Task};

/// Mode of a written file. All users may read the file, because the monitor runs as another user. To exclude users, an
/// operator can restrict the permissions of the directory.
const MODE: u32 = 0o644;

/// Files to write, in order.
pub struct FileWrites {
    pub directory: PathBuf,
    /// Names and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// The directory in which no file may be written.
    pub forbidden: PathBuf,
}

impl Task for FileWrites {
    type Done = Result<(), String>;

    fn run(self, cancel: &Cancel) -> Self::Done {
        let at = |error: io::Error| format!("{}: {error}", self.directory.display());
        let directory = open_directory(&self.directory).map_err(at)?;
        if is_below(&directory, &self.forbidden).map_err(|error| at(error.into()))? {
            return Err(format!("{} is inside the data directory", self.directory.display()));
        }
        for (name, contents) in &self.files {
            if cancel.is_set() {
                return Ok(());
            }
            replace(&directory, name, contents)
                .map_err(|error| format!("{}: {error}", self.directory.join(name).display()))?;
        }
        Ok(())
    }

    fn lost(panic: String) -> Self::Done {
        Err(panic)
    }
}

/// Opens a path component without the right to read it.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Maximum number of symbolic links on one path. The kernel has the same limit.
const MOST_LINKS: usize = 40;

/// Opens a directory by its path, one component at a time. Follows a symbolic link only if root or the user of this
/// process owns the link. Another user may have created a link to redirect the write to another directory.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let mut directory =
        rustix::fs::openat(CWD, if path.is_absolute() { "/" } else { "." }, PLACE, Mode::empty())?;
    let mut left = VecDeque::new();
    put_before(&mut left, path);
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        let next = rustix::fs::openat(&directory, &name, PLACE, Mode::empty())?;
        let found = rustix::fs::fstat(&next)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => directory = next,
            FileType::Symlink => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                if found.st_uid != 0 && found.st_uid != rustix::process::geteuid().as_raw() {
                    return Err(io::Error::other("the path contains a symbolic link of another user"));
                }
                let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    directory = rustix::fs::openat(CWD, "/", PLACE, Mode::empty())?;
                }
                put_before(&mut left, &target);
            }
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Ok(directory)
}

/// Inserts the components of `path` before the components in `left`, which are not resolved yet.
fn put_before(left: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        if matches!(component, Component::Normal(_) | Component::ParentDir) {
            left.push_front(component.as_os_str().to_owned());
        }
    }
}

/// Returns true if the open directory is the directory `above` itself or is inside it. The result is correct even if
/// the open directory was moved.
fn is_below(directory: &OwnedFd, above: &Path) -> Result<bool, Errno> {
    let identity = |found: rustix::fs::Stat| (found.st_dev, found.st_ino);
    let above = identity(rustix::fs::stat(above)?);
    let mut at = rustix::fs::openat(directory, ".", PLACE, Mode::empty())?;
    loop {
        let here = identity(rustix::fs::fstat(&at)?);
        if here == above {
            return Ok(true);
        }
        let parent = rustix::fs::openat(&at, "..", PLACE, Mode::empty())?;
        if identity(rustix::fs::fstat(&parent)?) == here {
            return Ok(false);
        }
        at = parent;
    }
}

fn replace(directory: &OwnedFd, name: &str, contents: &[u8]) -> io::Result<()> {
    if Path::new(name).file_name() != Some(OsStr::new(name)) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let temporary = Path::new(name).with_extension(format!("{}.tmp", std::process::id()));
    let rename = || Ok(rustix::fs::renameat(directory, &temporary, directory, name)?);
    let written = write_new(directory, &temporary, contents).and_then(|()| rename());
    if written.is_err() {
        // Ignores an error of this call. The temporary file may not exist, and the function returns the first error.
        let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
    }
    written
}

fn write_new(directory: &OwnedFd, name: &Path, contents: &[u8]) -> io::Result<()> {
    const NEW: OFlags = OFlags::WRONLY
        .union(OFlags::CREATE)
        .union(OFlags::EXCL)
        .union(OFlags::NOFOLLOW)
        .union(OFlags::CLOEXEC);
    let create = || rustix::fs::openat(directory, name, NEW, Mode::from_raw_mode(MODE));
    let file = match create() {
        // Left by a killed process that had the same process id.
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            create()?
        }
        made => made?,
    };
    let mut file = File::from(file);
    // The server's umask would restrict the mode.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
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
            FileWrites { directory: self.0.clone(), files: files.collect(), forbidden }.run(&Cancel::new())
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
        let writing = FileWrites { directory: nowhere, files: Vec::new(), forbidden: PathBuf::from("/proc") };
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
        let writing = FileWrites { directory: link, files, forbidden: directory.0.join("data") };
        assert!(writing.run(&Cancel::new()).is_err_and(|failure| failure.contains("inside the data")));
        assert!(!inside.join("a.json").exists());
    }

    fn write(directory: &Path, forbidden: &Path) -> Result<(), String> {
        let files = vec![("a.json".to_owned(), b"x".to_vec())];
        let (directory, forbidden) = (directory.to_owned(), forbidden.to_owned());
        FileWrites { directory, files, forbidden }.run(&Cancel::new())
    }

    #[test]
    fn links_of_trusted_users_lead_to_the_directory() {
        let directory = Directory::new();
        let (inside, outside) = (directory.0.join("data"), directory.0.join("outside"));
        fs::create_dir_all(outside.join("deeper")).expect("a directory can be made");
        fs::create_dir(&inside).expect("a directory can be made");
        for (link, target) in
            [("relative", "outside"), ("twice", "relative/deeper/.."), ("up", "data/../outside")]
        {
            symlink(target, directory.0.join(link)).expect("a link can be made");
            write(&directory.0.join(link), &inside).expect("it can be written");
            fs::remove_file(outside.join("a.json")).unwrap_or_else(|error| panic!("{link}: {error}"));
        }
        symlink("loop", directory.0.join("loop")).expect("a link can be made");
        assert!(write(&directory.0.join("loop"), &inside).is_err());
        assert!(write(&directory.0.join("outside/../data"), &inside).is_err());
    }

    /// Only root can create a link that belongs to another user. If the tests do not run as root, this test returns
    /// early.
    #[test]
    fn links_of_others_are_not_followed() {
        let directory = Directory::new();
        let outside = directory.0.join("outside");
        fs::create_dir(&outside).expect("a directory can be made");
        let link = directory.0.join("link");
        symlink(&outside, &link).expect("a link can be made");
        if std::os::unix::fs::lchown(&link, Some(12_345), None).is_err() {
            return;
        }
        let failure = write(&link, Path::new("/proc")).expect_err("it is a stranger's link");
        assert!(
            failure.ends_with("link: the path contains a symbolic link of another user")
                && !outside.join("a.json").exists(),
            "{failure}"
        );
    }

    /// Opens a directory, and then replaces the path of the directory by a link to the data directory. The file must
    /// still be written to the open directory.
    #[test]
    fn a_directory_that_is_replaced_meanwhile_is_still_the_one_that_was_checked() {
        let directory = Directory::new();
        let (status, data) = (directory.0.join("status"), directory.0.join("data"));
        fs::create_dir(&status).expect("a directory can be made");
        fs::create_dir(&data).expect("a directory can be made");
        let opened = open_directory(&status).expect("it can be opened");
        assert_eq!(is_below(&opened, &data), Ok(false));
        fs::rename(&status, directory.0.join("moved")).expect("it can be renamed");
        symlink(&data, &status).expect("a link can be made");
        replace(&opened, "a.json", b"x").expect("it can be written");
        assert!(!data.join("a.json").exists() && directory.0.join("moved/a.json").exists());
    }

    #[test]
    fn names_of_files_lead_nowhere_else() {
        let directory = Directory::new();
        fs::create_dir(directory.0.join("below")).expect("a directory can be made");
        for name in ["../a.json", "below/a.json", "/a.json", "..", ""] {
            assert!(directory.write(&[(name, "x")]).is_err(), "{name}");
        }
        assert_eq!(directory.names(), ["below"]);
    }
}
