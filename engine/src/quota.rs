//! Daily quota of requests to a provider.
//!
//! A request counts as used from the time at which it is granted until it is given back. It counts only for the day on which it was
//! granted. The quota reads no clock and takes no lock. It is stored in a larger struct in shared memory, and the lock of this
//! struct protects it. New shared memory is zero, which is the state before the first request. Days begin at midnight UTC and are
//! counted from 2000-01-01.
//!
//! If a clock is set back from one day to the previous day, the number of requests used on the previous day is no longer known. So
//! new requests are counted for the later day, and the limit for the later day applies.
//!
//! If a clock is set back by more than a day, the earlier time was wrong. In this case the number of used requests is copied from
//! the later day to the day that the clock shows now. Otherwise requests could be blocked until a date years in the future. For the
//! same reason, an entry of a ledger (a table with the number of used requests of each day) is used only if its day is the day that
//! the clock shows.

use crate::timestamp::Timestamp;

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Quota {
    pub day: i32,
    /// Requests used on that day.
    pub used: i64,
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Returns the day of a time.
pub fn day_of(now: Timestamp) -> i32 {
    // 2^63 microseconds are 107 million days.
    now.micros().div_euclid(MICROS_PER_DAY) as i32
}

/// Returns the first microsecond of a day.
pub fn begins(day: i32) -> Timestamp {
    Timestamp::from_micros(i64::from(day).saturating_mul(MICROS_PER_DAY))
}

impl Quota {
    /// Returns the number of requests that remain on the day of `now`. If `limit` is 0, there is no limit, so the function returns
    /// `None`.
    pub fn left(&self, now: Timestamp, limit: u32) -> Option<u64> {
        let left = i64::from(limit).saturating_sub(self.at(now).used).max(0);
        (limit != 0).then_some(left.unsigned_abs())
    }

    /// Grants requests: at most `wanted`, and at most as many as remain. Returns the number of granted requests. The granted
    /// requests count for the day `self.day`.
    pub fn take(&mut self, now: Timestamp, wanted: u32, limit: u32) -> u32 {
        *self = self.at(now);
        let left = self.left(now, limit).unwrap_or(u64::MAX);
        let granted = u64::from(wanted).min(left) as u32;
        self.used = self.used.saturating_add(granted.into());
        granted
    }

    /// Returns requests that were granted on `day` and not sent.
    pub fn give_back(&mut self, day: i32, unspent: u32) {
        if day == self.day {
            self.used = self.used.saturating_sub(unspent.into()).max(0);
        }
    }

    /// Raises the number of used requests to the number that a ledger has for this day. If the ledger's number is lower, nothing
    /// changes. A ledger entry for another day than the day of `now` is ignored. An entry for a later day was written while a clock
    /// was wrong.
    pub fn learn(&mut self, now: Timestamp, day: i32, used: i64) {
        if day == day_of(now) {
            *self = self.at(now);
            self.used = self.used.max(used);
        }
    }

    /// Returns the start of the next quota.
    pub fn resets_at(&self, now: Timestamp) -> Timestamp {
        begins(self.at(now).day.saturating_add(1))
    }

    /// Returns the count that is valid at `now`.
    fn at(&self, now: Timestamp) -> Self {
        let today = day_of(now);
        match i64::from(today) - i64::from(self.day) {
            -1 | 0 => *self,
            1.. => Self { day: today, used: 0 },
            _ => Self { day: today, used: self.used },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const MICROSECOND: Duration = Duration::from_micros(1);
    const NOON: Timestamp = Timestamp::from_micros(9_800 * MICROS_PER_DAY + MICROS_PER_DAY / 2);

    #[test]
    fn days_begin_at_midnight() {
        let epoch = Timestamp::default();
        let days = [epoch, epoch + DAY - MICROSECOND, epoch + DAY, epoch - MICROSECOND].map(day_of);
        assert_eq!(days, [0, 0, 1, -1]);
        assert_eq!([0, 1, -1].map(begins), [epoch, epoch + DAY, epoch - DAY]);
        for time in [epoch, epoch - MICROSECOND, NOON, Timestamp::NEG_INFINITY, Timestamp::INFINITY] {
            let day = day_of(time);
            assert!(begins(day) <= time || begins(day) == Timestamp::NEG_INFINITY);
            assert!(begins(day + 1) > time || begins(day + 1) == Timestamp::INFINITY);
        }
    }

    #[test]
    fn zeroed_memory_is_a_whole_quota() {
        let mut quota = Quota::default();
        assert_eq!(quota.left(NOON, 5), Some(5));
        assert_eq!(quota.take(NOON, 3, 5), 3);
        assert_eq!((quota.take(NOON, 3, 5), quota.take(NOON, 3, 5)), (2, 0));
        assert_eq!((quota.left(NOON, 5), quota.resets_at(NOON)), (Some(0), begins(9_801)));
    }

    #[test]
    fn midnight_renews_it() {
        let mut quota = Quota::default();
        assert_eq!(quota.take(NOON, 9, 5), 5);
        assert_eq!(quota.take(begins(9_801) - MICROSECOND, 1, 5), 0);
        assert_eq!(quota.left(begins(9_801), 5), Some(5));
        assert_eq!(quota.take(begins(9_801), 9, 5), 5);
    }

    #[test]
    fn no_limit_counts_all_the_same() {
        let mut quota = Quota::default();
        assert_eq!((quota.take(NOON, u32::MAX, 0), quota.left(NOON, 0)), (u32::MAX, None));
        assert_eq!(quota.take(NOON, 1, 100), 0);
    }

    #[test]
    fn only_its_own_day_takes_back() {
        let mut quota = Quota::default();
        quota.take(NOON, 5, 5);
        let day = quota.day;
        quota.give_back(day, 2);
        assert_eq!(quota.left(NOON, 5), Some(3 - 1));
        quota.take(NOON + DAY, 5, 5);
        quota.give_back(day, 2);
        assert_eq!(quota.left(NOON + DAY, 5), Some(0));
        quota.give_back(day + 1, 100);
        assert_eq!(quota.left(NOON + DAY, 5), Some(5));
    }

    #[test]
    fn ledger_raises_and_never_lowers() {
        let mut quota = Quota::default();
        quota.take(NOON, 3, 10);
        let day = quota.day;
        quota.learn(NOON, day, 2);
        assert_eq!(quota.used, 3);
        quota.learn(NOON, day, 8);
        assert_eq!(quota.used, 8);
        quota.learn(NOON + DAY, day + 1, 1);
        assert_eq!((quota.day, quota.used), (day + 1, 1));
        quota.learn(NOON + 2 * DAY, day + 2, i64::MIN);
        assert_eq!((quota.day, quota.used), (day + 2, 0));
    }

    #[test]
    fn ledger_of_another_day_says_nothing() {
        let mut quota = Quota::default();
        quota.take(NOON, 3, 10);
        let before = quota;
        for other in [-1, 1, 2, 5_000, -5_000] {
            quota.learn(NOON, before.day + other, 9);
            assert_eq!(quota, before, "{other}");
        }
    }

    /// In this test, the requests of the previous day also count for the later day. So neither day exceeds its limit.
    #[test]
    fn ledger_of_the_day_a_clock_steps_back_to_raises_the_later_day() {
        let mut quota = Quota::default();
        let midnight = begins(9_801);
        quota.take(midnight, 2, 5);
        quota.learn(midnight - MICROSECOND, 9_800, 5);
        assert_eq!((quota.take(midnight - MICROSECOND, 1, 5), quota.take(midnight, 1, 5)), (0, 0));
    }

    #[test]
    fn clock_that_steps_back_over_midnight_spends_the_later_day() {
        let mut quota = Quota::default();
        let midnight = begins(9_801);
        quota.take(midnight - MICROSECOND, 5, 5);
        assert_eq!(quota.take(midnight, 2, 5), 2);
        assert_eq!(quota.take(midnight - MICROSECOND, 9, 5), 3);
        assert_eq!(quota.take(midnight, 9, 5), 0);
        assert_eq!(quota.resets_at(midnight - MICROSECOND), midnight + DAY);
    }

    #[test]
    fn clock_that_was_years_ahead_locks_nobody_out() {
        let mut quota = Quota::default();
        quota.take(NOON + 5_000 * DAY, 5, 5);
        assert_eq!((quota.take(NOON, 5, 5), quota.resets_at(NOON)), (0, begins(9_801)));
        assert_eq!(quota.take(NOON + DAY, 5, 5), 5);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(u32),
        GiveBack(u32),
        Learn(i64),
        /// Reads an entry of a ledger. The first number says how many days later than the current day the entry's day is.
        LearnOther(i32, i64),
        /// Number of days.
        Pass(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..20_u32).prop_map(Step::Take),
            2 => (0..20_u32).prop_map(Step::GiveBack),
            1 => (0..60_i64).prop_map(Step::Learn),
            2 => (prop_oneof![-5_000..0, 1..5_000_i32], 0..200_i64)
                .prop_map(|(ahead, used)| Step::LearnOther(ahead, used)),
            1 => (1..3_u32).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_day_is_over_its_limit(steps in steps(), limit in 1..100_u32) {
            let (mut quota, mut now, mut spent) = (Quota::default(), NOON, 0);
            for step in steps {
                match step {
                    Step::Take(wanted) => {
                        let left = quota.left(now, limit);
                        let granted = quota.take(now, wanted, limit);
                        prop_assert_eq!(Some(u64::from(granted)), left.map(|left| left.min(wanted.into())));
                        spent += granted;
                    }
                    Step::GiveBack(unspent) => {
                        let unspent = unspent.min(spent);
                        quota.give_back(day_of(now), unspent);
                        spent -= unspent;
                    }
                    Step::Learn(used) => {
                        quota.learn(now, day_of(now), used);
                        prop_assert!(quota.left(now, limit) <= Some(u64::from(limit).saturating_sub(used as u64)));
                    }
                    Step::LearnOther(ahead, used) => {
                        let before = quota;
                        quota.learn(now, day_of(now) + ahead, used);
                        prop_assert_eq!(quota, before);
                    }
                    Step::Pass(days) => {
                        // A late return of yesterday's requests changes nothing.
                        let yesterday = day_of(now);
                        now = now + days * DAY;
                        spent = quota.take(now, 1, limit);
                        prop_assert_eq!(spent, 1);
                        quota.give_back(yesterday, 20);
                    }
                }
                prop_assert!(spent <= limit);
                prop_assert!(quota.left(now, limit) <= Some(u64::from(limit - spent)));
            }
        }

        #[test]
        fn any_bytes_in_shared_memory_are_answered(
            day: i32, used: i64, now: Timestamp, limit: u32, wanted: u32, other: i32, ledger: i64,
        ) {
            let mut quota = Quota { day, used };
            quota.resets_at(now);
            prop_assert!(quota.left(now, limit).is_none_or(|left| limit != 0 && (used < 0 || left <= limit.into())));
            quota.give_back(other, wanted);
            quota.learn(now, other, ledger);
            prop_assert!(quota.take(now, wanted, limit) <= wanted);
        }
    }
}
