//! Delays after failures.
//!
//! The functions in this module do not read a clock and do not sleep. The caller passes the random number, so that tests can choose
//! this number.

use std::time::Duration;

/// The shortest and the longest delay with jitter, as a share of the delay without jitter. If workers of several databases fail at
/// the same time, jitter makes them retry at different times.
const SHORTEST: f64 = 0.75;
const LONGEST: f64 = 1.25;

/// Returns the delay before the next attempt, after a number of consecutive failures. After the first failure the delay is `base`.
/// Each further failure doubles the delay, up to `cap`. Then jitter multiplies the delay by a factor between 75 % and 125 %.
/// `random` (0 to 1) determines this factor. Without a failure, the delay is zero.
pub fn delay(failures: u32, base: Duration, cap: Duration, random: f64) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let plain = base.saturating_mul(factor).min(cap);
    let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
    let jittered = plain.as_secs_f64() * (SHORTEST + (LONGEST - SHORTEST) * random);
    Duration::try_from_secs_f64(jittered).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: Duration = Duration::from_secs(2);
    const CAP: Duration = Duration::from_secs(300);

    #[test]
    fn delays_double_up_to_the_cap() {
        let seconds = |failures| delay(failures, BASE, CAP, 0.5).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 8, 9, 40, u32::MAX].map(seconds), [0, 2, 4, 8, 16, 256, 300, 300, 300]);
    }

    #[test]
    fn jitter_takes_or_adds_a_quarter() {
        assert_eq!(delay(1, BASE, CAP, 0.0), Duration::from_millis(1500));
        assert_eq!(delay(1, BASE, CAP, 1.0), Duration::from_millis(2500));
    }

    proptest! {
        #[test]
        fn any_delay_is_within_the_jitter_of_the_plain_one(
            failures in 1..100_u32, base in 0..1_000_000_u64, cap in 0..1_000_000_000_u64, random in 0.0..1.0_f64,
        ) {
            let (base, cap) = (Duration::from_millis(base), Duration::from_millis(cap));
            let plain = base.as_secs_f64() * 2_f64.powi(failures as i32 - 1);
            let plain = plain.min(cap.as_secs_f64());
            let delay = delay(failures, base, cap, random).as_secs_f64();
            prop_assert!(delay >= 0.75 * plain - 1e-6 && delay <= 1.25 * plain + 1e-6, "{} of {}", delay, plain);
        }

        #[test]
        fn any_arguments_are_answered(
            failures: u32, base: u64, cap: u64, random in prop_oneof![any::<f64>(), Just(f64::NAN)],
        ) {
            delay(failures, Duration::from_secs(base), Duration::from_secs(cap), random);
        }
    }
}
