//! Read-only memory maps.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file.
///
/// Used only for the private copies of the mmdb files, because these files are never changed in place. They are written under a
/// temporary name, renamed, and later only unlinked. Truncating a mapped file would cause a SIGBUS in the backend and a restart of
/// the cluster.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: see above; the data directory belongs to the server alone.
    unsafe { Mmap::map(file) }
}
