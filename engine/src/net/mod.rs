//! Runs blocking exchanges for a process that must not block.
//!
//! Each exchange runs in a thread with blocking sockets. It waits in slices short enough to notice a deadline or
//! `Cancel`. The owner starts the exchange, polls `Pool::ready` together with its own events, and collects the result.
//!
//! The threads receive and return plain data. They use no table, setting or function of the server, because the engine
//! does not depend on PostgreSQL.
//!
//! | file | holds |
//! |---|---|
//! | `failure` | reasons why an exchange failed |
//! | `notifier` | wakes the owner that polls a descriptor |
//! | `pool` | starts, cancels and collects threads |
//! | `stream` | TCP: resolve, connect, read and write with deadlines |
//! | `datagram` | UDP to one peer |

mod datagram;
mod failure;
mod notifier;
mod pool;
mod stream;

pub(crate) use datagram::Datagrams;
pub use failure::Failure;
pub use notifier::Notifier;
pub use pool::{Cancel, Finished, Pool, Task};
pub(crate) use stream::{Read, Stream, resolve};

use std::time::{Duration, Instant};

/// Maximum wait in one system call. A thread notices within this time that it was cancelled.
const SLICE: Duration = Duration::from_millis(100);

/// Returns how long to wait in one system call if the wait ends at `until`. Returns `None` after that time.
fn slice(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    // Waits at least a millisecond. The kernel counts in microseconds at best, so it could round a shorter wait to
    // zero, and a time-out of zero means no time-out.
    (!left.is_zero()).then(|| left.clamp(Duration::from_millis(1), SLICE))
}
