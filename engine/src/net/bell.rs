//! Answers: how does a thread tell the process that it has something for it?
//!
//! The rule: who rings has put down before what it rings for; who listens silences the bell first and looks second. So
//! nothing is left behind without a ring.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Both ends live as long as one thread does, so that ringing cannot raise SIGPIPE.
pub struct Bell {
    ring: UnixStream,
    ear: UnixStream,
}

impl Bell {
    pub fn new() -> io::Result<Arc<Bell>> {
        let (ring, ear) = UnixStream::pair()?;
        ring.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok(Arc::new(Bell { ring, ear }))
    }

    pub fn ring(&self) {
        // A full buffer is as readable as one more byte would make it.
        let _ = (&self.ring).write(&[1]);
    }

    /// Readable when somebody has rung.
    pub fn ear(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }

    pub fn silence(&self) {
        let mut bytes = [0; 64];
        loop {
            match (&self.ear).read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Takes one ring, if there is one.
    #[cfg(test)]
    pub(super) fn hears_one(&self) -> bool {
        matches!((&self.ear).read(&mut [0]), Ok(1..))
    }
}
