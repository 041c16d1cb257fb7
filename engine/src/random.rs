//! Unpredictable random numbers.
//!
//! Only the outermost callers use this module. Logic takes its random numbers as arguments.
//!
//! The source is `RandomState` of the standard library. It is SipHash, which is designed to be unpredictable without
//! its key. The operating system provides the 128-bit key of each thread, and each call uses another key.

use std::hash::{BuildHasher, RandomState};
use std::process;
use std::time::SystemTime;

pub fn bits() -> u64 {
    // PostgreSQL forks its processes. If a parent process has chosen its random key, all processes that it forks later have the
    // same key. The process id and the time make their numbers different.
    RandomState::new().hash_one((process::id(), SystemTime::now()))
}

/// Returns a number from 0 up to, but not including, 1.
pub fn unit() -> f64 {
    // A double holds 53 bits exactly. More bits could round up to 1.
    (bits() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_and_fill_their_range() {
        let drawn: Vec<f64> = (0..10_000).map(|_| unit()).collect();
        assert!(drawn.iter().all(|number| (0.0..1.0).contains(number)));
        for tenth in 0..10 {
            let from = f64::from(tenth) / 10.0;
            let count = drawn.iter().filter(|number| (from..from + 0.1).contains(*number)).count();
            assert!((700..1300).contains(&count), "{count} of 10000 from {from}");
        }
    }
}
