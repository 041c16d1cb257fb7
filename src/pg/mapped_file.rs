//! Read-only memory maps.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file.
///
/// Only for files that nobody changes in place: the private copies of the mmdb files, which are written under a
/// temporary name, renamed into place and afterwards only ever unlinked. A mapped file that is truncated is a SIGBUS
/// for the backend and with it a restart of the cluster.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: see above; the data directory belongs to the server alone.
    unsafe { Mmap::map(file) }
}
