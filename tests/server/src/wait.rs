//! Waits for a condition, never for a fixed time. The time limit only ends a test that would otherwise hang.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Generous, because a loaded machine is slow and a passing test never waits this long.
const LIMIT: Duration = Duration::from_secs(400);
/// Shortest and longest pause between two fetches. A fetch is often a query, and several suites wait on two cores. So
/// the pause grows to a twentieth of the time that has passed.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(25));

/// Fetches until `predicate` holds and returns the value that satisfied it.
///
/// # Panics
/// After 400 seconds, with the last value seen.
pub fn wait_until<T: Debug>(what: &str, fetch: impl FnMut() -> T, predicate: impl Fn(&T) -> bool) -> T {
    wait_up_to(LIMIT, what, fetch, predicate)
}

/// Does the same for a condition that cannot become true within 400 seconds.
pub fn wait_up_to<T: Debug>(
    limit: Duration,
    what: &str,
    mut fetch: impl FnMut() -> T,
    predicate: impl Fn(&T) -> bool,
) -> T {
    let started = Instant::now();
    loop {
        let value = fetch();
        if predicate(&value) {
            return value;
        }
        let elapsed = started.elapsed();
        assert!(elapsed < limit, "gave up waiting until {what}; last value: {value:?}");
        std::thread::sleep((elapsed / 20).clamp(PAUSES.0, PAUSES.1));
    }
}
