//! Circuit breaker of one provider.
//!
//! The circuit breaker has three states:
//! - `Closed`: the number of consecutive failures is less than `OPENS_AFTER`. After each failure, requests are blocked for the time
//!   that `backoff::delay` returns.
//! - `Open`: requests are blocked until the time `until`.
//! - `HalfOpen`: the time `until` has passed. One probe at a time is allowed. If a probe succeeds, the breaker closes. If a probe
//!   fails, the breaker opens again.
//!
//! The breaker reads no clock, uses no random numbers and takes no lock. It is stored in a larger struct in shared memory, and the
//! lock of this struct protects it. New shared memory is zero. If all bytes of the breaker are zero, the breaker is closed. All
//! times must come from one clock, which all processes read.
//!
//! Several exchanges run at the same time, so one cause may make several of them fail. If the breaker is closed, each failure is
//! counted, and `until` is set to the current time plus the delay of this failure. The delays of several failures are not added. If
//! the breaker is open and no probe runs, the failed exchange began before the breaker opened, so the failure changes nothing. If a
//! probe runs, the failure may come from the probe or from an earlier exchange. The breaker cannot distinguish these cases, so it
//! counts one failure of the probe.
//!
//! If the process of a probe was killed, the probe never reports a result. So when a probe is granted, `until` is set to the time
//! at which the probe must have ended. After this time the next probe is granted.

use std::time::Duration;

use crate::backoff;
use crate::timestamp::Timestamp;

/// Number of consecutive failures that open the breaker. Usually fewer exchanges than this number run at the same time. So the
/// breaker stays closed if a short outage makes all running exchanges fail.
pub const OPENS_AFTER: u32 = 5;

/// Longest pause between two attempts, without jitter. If a provider is down for a day, about 300 probes are sent.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Breaker {
    /// Consecutive failures.
    pub failures: u32,
    /// Number of probes that were granted since the last probe reported. It is 0 or 1 if every probe reports, and higher if some
    /// probes never reported.
    pub probes: u32,
    /// Requests are blocked until this time.
    pub until: Timestamp,
    /// Unset while closed.
    pub opened_at: Timestamp,
    /// The latest time that was passed to `pause_until`. A successful request does not clear this time.
    pub backoff_until: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permission {
    Ask,
    /// One request is allowed. All other requests wait for its outcome.
    Probe,
    /// Requests are blocked until this time.
    NotBefore(Timestamp),
}

impl Breaker {
    /// Returns the state. It is `HalfOpen` also while a probe runs.
    pub fn state(&self, now: Timestamp) -> State {
        match self.failures {
            0..OPENS_AFTER => State::Closed,
            _ if now < self.until && self.probes == 0 => State::Open,
            _ => State::HalfOpen,
        }
    }

    /// Returns whether a request may be sent now. If a probe has not reported within `probe_lasts`, the probe counts as lost.
    pub fn permission(&mut self, now: Timestamp, probe_lasts: Duration) -> Permission {
        if now < self.until {
            return Permission::NotBefore(self.until);
        }
        if self.failures < OPENS_AFTER {
            return Permission::Ask;
        }
        self.probes = self.probes.saturating_add(1);
        self.until = now + probe_lasts;
        Permission::Probe
    }

    /// Records that the provider answered.
    pub fn succeeded(&mut self) {
        *self = Self { until: self.backoff_until, backoff_until: self.backoff_until, ..Self::default() };
    }

    /// Records that the provider did not answer, or sent an invalid answer. `base` is the pause after the first failure.
    pub fn failed(&mut self, now: Timestamp, base: Duration, random: f64) {
        let open = self.failures >= OPENS_AFTER;
        if open && self.probes == 0 {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let until = now + backoff::delay(self.failures, base, LONGEST_PAUSE, random);
        // If the breaker is open, `until` is the time by which the granted probe must report, so this time is ignored here. If the
        // breaker is closed, `until` is the end of an earlier pause. This earlier pause remains if it ends later than the new
        // pause.
        let floor = if open { self.backoff_until } else { self.until };
        self.until = until.max(floor);
        self.probes = 0;
        if self.failures == OPENS_AFTER {
            self.opened_at = now;
        }
    }

    /// Blocks requests until the time that the provider named with Retry-After. Neither a success nor a failure makes this pause
    /// shorter.
    pub fn pause_until(&mut self, until: Timestamp) {
        self.backoff_until = self.backoff_until.max(until);
        self.until = self.until.max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MICROSECOND: Duration = Duration::from_micros(1);
    const BASE: Duration = Duration::from_secs(10);
    const PROBE: Duration = Duration::from_secs(40);
    const BEGIN: Timestamp = Timestamp::from_micros(1_000_000_000_000);

    fn opened(now: Timestamp) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..OPENS_AFTER {
            breaker.failed(now, BASE, 0.5);
        }
        breaker
    }

    #[test]
    fn zeroed_memory_is_a_closed_breaker() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.state(BEGIN), State::Closed);
        assert_eq!(breaker.permission(BEGIN, PROBE), Permission::Ask);
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn each_failure_doubles_the_pause() {
        let mut breaker = Breaker::default();
        let mut now = BEGIN;
        for pause in [10, 20, 40, 80] {
            breaker.failed(now, BASE, 0.5);
            assert_eq!(breaker.state(now), State::Closed);
            let until = now + pause * SECOND;
            assert_eq!(breaker.permission(until - MICROSECOND, PROBE), Permission::NotBefore(until));
            assert_eq!(breaker.permission(until, PROBE), Permission::Ask);
            now = until;
        }
    }

    #[test]
    fn fifth_failure_opens_it_and_one_probe_at_a_time_goes_out() {
        let mut breaker = opened(BEGIN);
        let until = BEGIN + 160 * SECOND;
        assert_eq!((breaker.state(BEGIN), breaker.opened_at), (State::Open, BEGIN));
        assert_eq!(breaker.permission(until - MICROSECOND, PROBE), Permission::NotBefore(until));
        assert_eq!(breaker.state(until), State::HalfOpen);
        assert_eq!(breaker.permission(until, PROBE), Permission::Probe);
        assert_eq!(breaker.state(until), State::HalfOpen);
        assert_eq!(breaker.permission(until, PROBE), Permission::NotBefore(until + PROBE));
    }

    #[test]
    fn failed_probe_doubles_the_pause_up_to_the_longest() {
        let mut breaker = opened(BEGIN);
        for _ in 0..20 {
            let now = breaker.until;
            assert_eq!(breaker.permission(now, PROBE), Permission::Probe);
            breaker.failed(now + SECOND, BASE, 0.5);
            assert_eq!(breaker.state(now + SECOND), State::Open);
            assert_eq!(breaker.until, now + SECOND + 300 * SECOND);
            assert_eq!(breaker.opened_at, BEGIN);
        }
    }

    #[test]
    fn lost_probe_is_replaced_when_its_time_is_over() {
        let mut breaker = opened(BEGIN);
        let now = breaker.until;
        assert_eq!(breaker.permission(now, PROBE), Permission::Probe);
        assert_eq!(breaker.permission(now + PROBE - MICROSECOND, PROBE), Permission::NotBefore(now + PROBE));
        assert_eq!(breaker.permission(now + PROBE, PROBE), Permission::Probe);
        assert_eq!(breaker.probes, 2);
    }

    #[test]
    fn success_closes() {
        let mut breaker = opened(BEGIN);
        breaker.permission(breaker.until, PROBE);
        breaker.succeeded();
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn failures_begun_before_it_opened_change_nothing() {
        let mut breaker = opened(BEGIN);
        let before = breaker;
        for minute in 0..5 {
            breaker.failed(BEGIN + minute * 60 * SECOND, BASE, 0.9);
        }
        assert_eq!(breaker, before);
    }

    #[test]
    fn requested_rest_outlives_success_and_failure() {
        let mut breaker = Breaker::default();
        let until = BEGIN + 1_000 * SECOND;
        breaker.pause_until(until);
        breaker.succeeded();
        assert_eq!(breaker.permission(until - SECOND, PROBE), Permission::NotBefore(until));
        breaker.failed(BEGIN, BASE, 0.5);
        breaker.pause_until(BEGIN + 5 * SECOND);
        assert_eq!(breaker.permission(until - SECOND, PROBE), Permission::NotBefore(until));
        assert_eq!(breaker.permission(until, PROBE), Permission::Ask);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Pass(Duration),
        Ask,
        Succeed,
        Fail(f64),
        /// The process of the last request is killed.
        Lose,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..400_000_000_u64).prop_map(|micros| Step::Pass(Duration::from_micros(micros))),
            4 => Just(Step::Ask),
            1 => Just(Step::Succeed),
            4 => (0.0..1.0_f64).prop_map(Step::Fail),
            1 => Just(Step::Lose),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn invariants_hold_for_any_history(steps in steps()) {
            let mut breaker = Breaker::default();
            let (mut now, mut asking, mut probe_ends) = (BEGIN, 0_u32, None);
            for step in steps {
                let before = breaker;
                match step {
                    Step::Pass(time) => now = now + time,
                    Step::Ask => match breaker.permission(now, PROBE) {
                        Permission::Ask => {
                            prop_assert!(now >= before.until && before.failures < OPENS_AFTER);
                            prop_assert_eq!(breaker, before);
                            asking += 1;
                        }
                        Permission::Probe => {
                            prop_assert!(now >= before.until && before.failures >= OPENS_AFTER);
                            prop_assert!(probe_ends.is_none_or(|end| end <= now), "two probes at a time");
                            probe_ends = Some(now + PROBE);
                            asking += 1;
                        }
                        Permission::NotBefore(time) => {
                            prop_assert!(time > now && time == before.until && breaker == before);
                        }
                    },
                    Step::Succeed if asking > 0 => {
                        breaker.succeeded();
                        (asking, probe_ends) = (asking - 1, None);
                        prop_assert_eq!(breaker, Breaker::default());
                    }
                    Step::Fail(random) if asking > 0 => {
                        breaker.failed(now, BASE, random);
                        asking -= 1;
                        if before.probes > 0 {
                            probe_ends = None;
                        }
                        // One failure increases the number of failures by at most one. The pause is at most the longest pause with
                        // the largest jitter.
                        prop_assert!(breaker.failures <= before.failures + 1);
                        let longest = backoff::delay(breaker.failures, BASE, LONGEST_PAUSE, 1.0);
                        prop_assert!(breaker.until <= before.until.max(now + longest));
                        prop_assert!(breaker.state(now) != State::HalfOpen || before.state(now) == State::HalfOpen);
                    }
                    Step::Lose => asking = asking.saturating_sub(1),
                    Step::Succeed | Step::Fail(_) => {}
                }
                prop_assert_eq!(breaker.state(now) == State::Closed, breaker.failures < OPENS_AFTER);
                prop_assert_eq!(breaker.opened_at != Timestamp::UNSET, breaker.failures >= OPENS_AFTER);
                // The breaker never blocks requests forever.
                let mut later = breaker;
                let answer = later.permission(breaker.until.max(now), PROBE);
                prop_assert!(matches!(answer, Permission::Ask | Permission::Probe));
            }
        }

        #[test]
        fn any_bytes_in_shared_memory_are_answered(
            failures: u32, probes: u32, until: Timestamp, opened_at: Timestamp, backoff_until: Timestamp, now: Timestamp,
            lasts: Duration,
        ) {
            let breaker = Breaker { failures, probes, until, opened_at, backoff_until };
            breaker.state(now);
            let mut other = breaker;
            other.permission(now, lasts);
            other = breaker;
            other.failed(now, BASE, 0.5);
            other.succeeded();
            other.pause_until(until);
        }
    }
}
