//! Read-only memory maps.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file.
///
/// Used only for the private copies of the mmdb files, because these files are never changed in place. A copy is written under
/// a temporary name, then renamed, and later only unlinked. If a file were truncated while it is mapped, a backend would get a
/// SIGBUS, and the cluster would restart.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the private copies are never truncated. Only the server writes in the data directory.
    unsafe { Mmap::map(file) }
}
