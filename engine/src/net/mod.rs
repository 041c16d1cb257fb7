//! Runs blocking exchanges for a process that must not block.
//!
//! Each exchange runs in its own thread and uses blocking sockets. The thread waits in short slices, so it notices a
//! deadline or a cancellation soon. The owner of the pool starts an exchange, polls the descriptor `Pool::ready`
//! together with the descriptors of its own events, and collects the result.
//!
//! The threads receive and return plain data. They use no table, setting or function of PostgreSQL, because the engine
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

/// Maximum wait in one system call. So a thread notices within this time that its exchange was cancelled.
const SLICE: Duration = Duration::from_millis(100);

/// Returns how long one system call may wait if the whole wait ends at `until`. Returns `None` if this time has passed.
fn slice(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    // Waits at least one millisecond. The kernel could round a shorter wait to zero, and a wait of zero means a wait
    // without a time-out.
    (!left.is_zero()).then(|| left.clamp(Duration::from_millis(1), SLICE))
}
