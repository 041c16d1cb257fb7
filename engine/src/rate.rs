//! Rate limiter.
//!
//! The limiter uses GCRA, a form of the leaky bucket. The state of the limiter is one number: the time at which the bucket would be
//! empty again ("theoretical arrival time", ITU-T I.371). So the state can be one atomic that several processes share. `admit` is a
//! pure function. If it refuses a request, the state does not change.
//!
//! If several processes share a limiter, each of them must first load the state, then read the clock, and then store `next` with a
//! compare-and-exchange. If the exchange fails, the process starts again with loading the state. If a process read the clock first,
//! another process could store a newer state in the meantime. This state would look as if it came from the future.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// A limit on requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Time between requests. Zero means no limit.
    pub interval: Duration,
    /// How much earlier a request may be sent than with even spacing. A request that is sent early uses up a part of this time.
    pub tolerance: Duration,
}

/// The result of `admit`. All times must come from one clock, which all processes read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// The request is allowed. Store `next` as the state.
    Granted { next: Timestamp },
    /// Try again at this time. The state does not change.
    NotBefore(Timestamp),
}

const MICROS_PER_MINUTE: u64 = 60_000_000;
const MICROS_PER_SECOND: u64 = 1_000_000;

/// The requests that are allowed in one second are spread over this time: 1,070 ms. A provider with a limit per second counts a
/// request when the request arrives. If one request arrives 50 ms late and a later request arrives without delay, the provider sees
/// 50 ms less between the two. So the time is 50 ms longer than a second, and another 20 ms longer because of `MOST_EARLY`.
const STRETCH: u64 = 1_070;

/// On a busy machine, a process wakes up some milliseconds late. With this tolerance, the next request may be sent earlier, so the
/// delays do not add up.
const MOST_EARLY: Duration = Duration::from_millis(20);

/// Maximum difference between the times that two processes read from the clock in sequence. If the state is further in the future,
/// it was stored before the clock was set back.
const SKEW: Duration = Duration::from_millis(100);

impl Rate {
    pub const NONE: Self = Self { interval: Duration::ZERO, tolerance: Duration::ZERO };

    /// Returns a limit on the requests per minute. 0 means that there is no limit. `burst` is the number of requests that may be
    /// sent at once after a time without requests. A `burst` of 0 has the same effect as 1.
    pub fn per_minute(per_minute: u32, burst: u32) -> Self {
        if per_minute == 0 {
            return Self::NONE;
        }
        // Rounded up, because otherwise more than `per_minute` requests would be sent.
        let interval = Duration::from_micros(MICROS_PER_MINUTE.div_ceil(per_minute.into()));
        Self { interval, tolerance: interval.saturating_mul(burst.max(1) - 1) }
    }

    /// Returns a limit for a provider that accepts at most `per_second` requests in every interval of one second. The requests are
    /// evenly spaced, without bursts. 0 means that there is no limit.
    pub fn per_second(per_second: u32) -> Self {
        if per_second == 0 {
            return Self::NONE;
        }
        let stretched = MICROS_PER_SECOND * STRETCH / 1_000;
        let interval = Duration::from_micros(stretched.div_ceil(per_second.into()));
        Self { interval, tolerance: (interval / 5).min(MOST_EARLY) }
    }

    /// Decides whether a request may be sent at `now`. `state` is the `next` of the last granted request, or [`Timestamp::UNSET`]
    /// before the first request.
    ///
    /// A request never waits longer than one interval plus `SKEW`, even after the clock was set back. Normally the state is the
    /// `next` of a granted request. If the state is so far in the future that this is impossible, it is replaced with the state
    /// after a full burst.
    pub fn admit(&self, state: Timestamp, now: Timestamp) -> Admission {
        if self.interval.is_zero() {
            return Admission::Granted { next: state };
        }
        let latest = now + self.interval + self.tolerance + SKEW;
        let arrival = if state <= latest { state.max(now) } else { now + self.tolerance };
        if arrival - self.tolerance <= now {
            Admission::Granted { next: arrival + self.interval }
        } else {
            Admission::NotBefore(arrival - self.tolerance)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TENTH: Duration = Duration::from_millis(100);
    const BEGIN: Timestamp = Timestamp::from_micros(1_000_000_000_000);

    fn granted(admission: Admission) -> Option<Timestamp> {
        match admission {
            Admission::Granted { next } => Some(next),
            Admission::NotBefore(_) => None,
        }
    }

    /// Makes one request at each of these times. Returns the times of the requests that were granted.
    fn grants(
        rate: Rate,
        state: &mut Timestamp,
        times: impl IntoIterator<Item = Timestamp>,
    ) -> Vec<Timestamp> {
        let mut grants = Vec::new();
        for now in times {
            if let Some(next) = granted(rate.admit(*state, now)) {
                *state = next;
                grants.push(now);
            }
        }
        grants
    }

    #[test]
    fn burst_is_granted_at_once_then_one_per_interval() {
        let rate = Rate::per_minute(60, 3);
        let times = (0..50).map(|tenth| BEGIN + tenth * TENTH);
        let grants = grants(rate, &mut Timestamp::default(), times);
        assert_eq!(grants, [0, 1, 2, 10, 20, 30, 40].map(|tenth| BEGIN + tenth * TENTH));
    }

    #[test]
    fn refusal_names_the_time_of_the_next_grant() {
        let rate = Rate::per_minute(6, 1);
        let Admission::Granted { next } = rate.admit(Timestamp::UNSET, BEGIN) else { panic!() };
        let time = BEGIN + 10 * SECOND;
        assert_eq!(rate.admit(next, BEGIN), Admission::NotBefore(time));
        assert_eq!(rate.admit(next, time - Duration::from_micros(1)), Admission::NotBefore(time));
        assert!(granted(rate.admit(next, time)).is_some());
    }

    #[test]
    fn minute_holds_no_more_than_the_rate() {
        for per_minute in [1, 7, 59, 60, 61, 7_919] {
            let rate = Rate::per_minute(per_minute, 1);
            let (mut state, mut now, mut count) = (Timestamp::UNSET, BEGIN, 0);
            while now < BEGIN + 60 * SECOND {
                match rate.admit(state, now) {
                    Admission::Granted { next } => (state, count) = (next, count + 1),
                    Admission::NotBefore(time) => now = time,
                }
            }
            assert_eq!(count, per_minute);
        }
    }

    #[test]
    fn second_is_filled_evenly() {
        for per_second in [1, 2, 7, 10, 100, 1_000] {
            let rate = Rate::per_second(per_second);
            let (mut state, mut now, mut count) = (Timestamp::UNSET, BEGIN, 0);
            while now < BEGIN + 107 * SECOND {
                match rate.admit(state, now) {
                    Admission::Granted { next } => (state, count) = (next, count + 1),
                    Admission::NotBefore(time) => now = time,
                }
            }
            // The loop covers 107 s. In this time, the limit allows as many requests as in 100 s at the full rate. The tolerance
            // allows one more request.
            assert!(
                (100 * per_second - 1..=100 * per_second + 1).contains(&count),
                "{count} at {per_second}"
            );
        }
    }

    #[test]
    fn zero_is_no_limit() {
        for rate in [Rate::per_minute(0, 0), Rate::per_second(0), Rate::NONE] {
            let state = Timestamp::from_micros(7);
            assert_eq!(rate.admit(state, Timestamp::from_micros(-5)), Admission::Granted { next: state });
        }
    }

    #[test]
    fn clock_that_was_set_back_locks_nobody_out() {
        let rate = Rate::per_minute(60, 5);
        let mut state = Timestamp::UNSET;
        grants(rate, &mut state, [BEGIN; 5]);
        // The clock is set back by ten days. One request is granted at once. The next requests are granted at the usual rate,
        // because the burst has been used up.
        let begin = BEGIN - 864_000 * SECOND;
        let back = (0..30).map(|tenth| begin + tenth * TENTH);
        assert_eq!(grants(rate, &mut state, back), [0, 1, 2].map(|second| begin + second * SECOND));
    }

    #[test]
    fn clocks_read_a_moment_apart_do_not_grant_twice() {
        let rate = Rate::per_minute(60, 1);
        let Admission::Granted { next } = rate.admit(Timestamp::UNSET, BEGIN) else { panic!() };
        assert!(granted(rate.admit(next, BEGIN - Duration::from_millis(1))).is_none());
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_holds_more_than_burst_and_rate(
            per_minute in 1..10_000_u32, burst in 0..20_u32,
            gaps in proptest::collection::vec(0..20_000_000_u64, 1..200),
        ) {
            let rate = Rate::per_minute(per_minute, burst);
            let times = gaps.iter().scan(BEGIN, |now, gap| {
                *now = *now + Duration::from_micros(*gap);
                Some(*now)
            });
            let granted = grants(rate, &mut Timestamp::default(), times);
            for (first, from) in granted.iter().enumerate() {
                for (last, to) in granted.iter().enumerate().skip(first) {
                    let micros = (*to - *from).as_micros() as u64;
                    let allowed = u64::from(burst.max(1)) + micros * u64::from(per_minute) / MICROS_PER_MINUTE;
                    prop_assert!((last - first + 1) as u64 <= allowed);
                }
            }
        }

        #[test]
        fn asking_at_the_named_time_is_granted(
            per_minute in 1..10_000_u32, burst in 0..20_u32, state in 0..1_000_000_000_i64,
            now in 0..1_000_000_000_i64, near in proptest::bool::weighted(0.8),
        ) {
            let rate = Rate::per_minute(per_minute, burst);
            let interval = MICROS_PER_MINUTE.div_ceil(per_minute.into());
            // Mostly near `now`, where the edge cases are.
            let state = if near { now + state % (interval as i64 * i64::from(burst + 2)) } else { state };
            let (state, now) = (Timestamp::from_micros(state), Timestamp::from_micros(now));
            if let Admission::NotBefore(time) = rate.admit(state, now) {
                prop_assert!(time > now && time <= now + Duration::from_micros(interval) + SKEW);
                prop_assert!(granted(rate.admit(state, time - Duration::from_micros(1))).is_none());
                prop_assert!(granted(rate.admit(state, time)).is_some());
            }
        }

        #[test]
        fn any_state_and_time_are_answered(
            number: u32, burst: u32, rate: (Duration, Duration), state: Timestamp, now: Timestamp,
        ) {
            Rate::per_minute(number, burst).admit(state, now);
            Rate::per_second(number).admit(state, now);
            Rate { interval: rate.0, tolerance: rate.1 }.admit(state, now);
        }

        /// A request may arrive at the provider up to 50 ms late. So a request that is sent later may arrive earlier. The provider
        /// counts the requests in every interval of one second.
        #[test]
        fn no_second_holds_more_than_the_rate(
            per_second in prop_oneof![1..20_u32, 1..1_001_u32],
            late in proptest::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..1.5_f64, 0.0..50.0_f64], 1..200),
        ) {
            let rate = Rate::per_second(per_second);
            let (mut state, mut now, mut granted) = (Timestamp::UNSET, BEGIN, Vec::new());
            for late in late {
                match rate.admit(state, now) {
                    Admission::Granted { next } => {
                        state = next;
                        granted.push(now);
                    }
                    Admission::NotBefore(time) => now = time + rate.tolerance.mul_f64(late),
                }
            }
            for (first, from) in granted.iter().enumerate() {
                let until = *from + SECOND + Duration::from_millis(50);
                let within = granted[first..].iter().take_while(|at| **at < until).count();
                prop_assert!(within <= per_second as usize, "{} from {:?}", within, from);
            }
        }

        #[test]
        fn who_is_late_by_the_tolerance_still_reaches_the_rate(
            per_second in 1..1_001_u32, late in proptest::collection::vec(0.0..=1.0_f64, 300),
        ) {
            let rate = Rate::per_second(per_second);
            let (mut state, mut now, mut count) = (Timestamp::UNSET, BEGIN, 0);
            for late in late {
                match rate.admit(state, now) {
                    Admission::Granted { next } => (state, count) = (next, count + 1),
                    Admission::NotBefore(time) => now = time + rate.tolerance.mul_f64(late),
                }
            }
            prop_assert!(now - BEGIN <= count * rate.interval);
            // The interval is at most as long as `STRETCH` requires.
            prop_assert!(rate.interval <= SECOND * 107 / 100 / per_second + Duration::from_micros(1));
        }
    }
}
