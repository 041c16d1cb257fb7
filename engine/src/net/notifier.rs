//! Wakes a process that polls a descriptor, from any thread.
//!
//! A thread stores its result before it notifies the owner. The owner drains the notifier before it reads results. If a
//! result arrives after the drain, its notification makes the descriptor readable again. So the owner misses no result.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// A pair of connected sockets. The thread that writes a notification holds both sockets open, so the write cannot
/// raise SIGPIPE.
pub struct Notifier {
    sender: UnixStream,
    receiver: UnixStream,
}

impl Notifier {
    pub fn new() -> io::Result<Arc<Notifier>> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Arc::new(Notifier { sender, receiver }))
    }

    /// Makes the descriptor readable.
    pub fn notify(&self) {
        // Ignores an error of this write. If the buffer is full, the descriptor is readable already.
        let _ = (&self.sender).write(&[1]);
    }

    /// Returns the descriptor that is readable after a notification.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }

    /// Removes all notifications.
    pub fn drain(&self) {
        let mut bytes = [0; 64];
        loop {
            match (&self.receiver).read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Removes one notification. Returns whether there was one.
    #[cfg(test)]
    pub(super) fn takes_one(&self) -> bool {
        matches!((&self.receiver).read(&mut [0]), Ok(1..))
    }
}
