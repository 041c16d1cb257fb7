//! Opens files whose paths other users may change.
//!
//! The file is opened in a mode that never waits. In another mode, opening a FIFO would wait until a program writes to the FIFO. A
//! device is refused, because reading from a device might never end. The file type is checked after the file was opened. A check
//! before opening would not be enough, because another file could replace the checked file before it is opened.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// Opens a file for reading. If the file is not a regular file, returns an error.
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
