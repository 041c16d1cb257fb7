//! Opens files whose paths other users may change.
//!
//! Opening never blocks, and the check examines the opened file. A FIFO would block the process until a writer opens
//! it, and a device may never end. A path that was checked before opening may name another file when it is opened.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// Opens a file for reading. Returns an error unless it is a regular file.
pub fn open(path: &str) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "is not a regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_opening_never_waits() {
        let directory = std::env::temp_dir().join(format!("regular-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a directory can be made");
        let fifo = directory.join("fifo");
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        );
        made.expect("a FIFO can be made");
        for path in [fifo.as_path(), directory.as_path(), std::path::Path::new("/dev/zero")] {
            let error = open(&path.to_string_lossy()).expect_err("it is no regular file");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}: {error}", path.display());
        }
        let file = directory.join("file");
        std::fs::write(&file, "x").expect("it can be written");
        assert!(open(&file.to_string_lossy()).is_ok());
        std::fs::remove_dir_all(&directory).expect("own directory");
    }
}
