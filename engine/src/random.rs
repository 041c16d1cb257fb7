//! Unpredictable random numbers.
//!
//! Only the outermost functions call this module. All other functions get a random number as an argument, so that tests can choose
//! the number.
//!
//! The random numbers come from `RandomState` of the standard library. `RandomState` uses SipHash, whose results cannot be
//! predicted without the key. The operating system provides the 128-bit key of each thread, and each call uses a different key.

use std::hash::{BuildHasher, RandomState};
use std::process;
use std::time::SystemTime;

pub fn bits() -> u64 {
    // PostgreSQL forks its processes. If a process has already chosen its random key, all processes that are forked from it have
    // the same key. The process id and the time are hashed too, so these processes get different numbers.
    RandomState::new().hash_one((process::id(), SystemTime::now()))
}

/// Returns a number from 0 up to, but not including, 1.
pub fn unit() -> f64 {
    // A double can store 53 bits exactly. With more bits, the result could be rounded up to 1.
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
