//! Answers: how does a blocking exchange run beside a process that must not block?
//!
//! Each exchange is a thread with plain blocking sockets, in slices short enough to notice a deadline or `Cancel`. The
//! owner starts it, goes on polling its own events together with `Pool::ready`, and collects the result.
//!
//! The rule: the threads get data and give data. They know no table, no setting and no function of the server's; the
//! engine has no dependency through which they could.
//!
//! | file | answers for |
//! |---|---|
//! | `failure` | why an exchange did not succeed |
//! | `notifier` | wakes the owner that polls a descriptor |
//! | `pool` | threads: started, told to stop, collected |
//! | `stream` | TCP: resolve, connect, read and write under deadlines |
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

/// The longest wait in one system call. After this time at most a thread sees that it was cancelled.
const SLICE: Duration = Duration::from_millis(100);

/// How long to wait in one system call when the wait ends at `until`; `None` when it has.
fn slice(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    // The kernel counts in microseconds at best, and a time-out of zero means "for ever".
    (!left.is_zero()).then(|| left.clamp(Duration::from_millis(1), SLICE))
}
