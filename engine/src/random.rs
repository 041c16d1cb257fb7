//! Answers: which number can nobody guess?
//!
//! The rule: called at the edge only. Logic takes its random numbers as arguments.
//!
//! The source is the standard library's: `RandomState` is SipHash, which is made to be unpredictable without its
//! key, under 128 bits that the system drew for this thread, another key each time.

use std::hash::{BuildHasher, RandomState};
use std::process;
use std::time::SystemTime;

pub fn bits() -> u64 {
    // Processes forked from one that had drawn its key already have the same: PostgreSQL's do.
    RandomState::new().hash_one((process::id(), SystemTime::now()))
}

/// 0 or more, less than 1.
pub fn unit() -> f64 {
    // A double holds 53 bits exactly; more would round up to 1.
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
