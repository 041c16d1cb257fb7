//! Waits for a condition, never for a fixed time. The time limit only ends a test that would otherwise hang.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// The limit is long, because a loaded machine is slow. A test that passes never waits this long.
const LIMIT: Duration = Duration::from_secs(400);
/// Shortest and longest pause between two fetches. Between these limits, a pause is a twentieth of the time that has
/// passed. The pauses grow, because a fetch is often a query and several suites share two cores.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(25));

/// Fetches until `predicate` holds and returns the value that satisfied it.
///
/// # Panics
/// After 400 seconds, with the last value seen.
pub fn wait_until<T: Debug>(what: &str, fetch: impl FnMut() -> T, predicate: impl Fn(&T) -> bool) -> T {
    wait_up_to(LIMIT, what, fetch, predicate)
}

/// Waits like [`wait_until`], with a longer limit than 400 seconds. Only for conditions that need more time.
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
