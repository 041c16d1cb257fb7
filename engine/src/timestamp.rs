//! Timestamps as PostgreSQL stores them, and their ISO 8601 texts.
//!
//! The extension writes times in UTC with microseconds. The parser also accepts the usual forms that other programs write.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, Time};

/// The start of a [`Timestamp`]'s microseconds.
const EPOCH: DateTime = jiff::civil::datetime(2000, 1, 1, 0, 0, 0, 0);

/// Seconds between 1970-01-01 and 2000-01-01.
const UNIX_TO_EPOCH: i64 = 946_684_800;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// A point in time: microseconds since 2000-01-01 UTC, as PostgreSQL's `timestamptz`.
///
/// Arithmetic saturates at both infinities.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// No timestamp, in zeroed memory: the event has not happened.
    pub const UNSET: Timestamp = Timestamp(0);
    /// PostgreSQL's `-infinity`, before all other timestamps.
    pub const NEG_INFINITY: Timestamp = Timestamp(i64::MIN);
    /// PostgreSQL's `infinity`, after all other timestamps.
    pub const INFINITY: Timestamp = Timestamp(i64::MAX);

    #[inline]
    pub const fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    #[inline]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Converts seconds since 1970.
    pub const fn from_unix(seconds: i64) -> Timestamp {
        Timestamp(seconds.saturating_sub(UNIX_TO_EPOCH).saturating_mul(MICROS_PER_SECOND))
    }

    /// Converts seconds since 1970 with a fraction.
    pub fn from_unix_seconds(seconds: f64) -> Timestamp {
        Timestamp(((seconds - UNIX_TO_EPOCH as f64) * 1e6) as i64)
    }

    /// Returns seconds since 1970.
    pub fn unix_seconds(self) -> f64 {
        self.0 as f64 / 1e6 + UNIX_TO_EPOCH as f64
    }

    /// Returns the time in nanoseconds since 1970, which is the unit that OpenTelemetry uses. Returns 0 for a time before 1970.
    pub fn unix_nanoseconds(self) -> u64 {
        let micros = self.0.saturating_add(UNIX_TO_EPOCH * MICROS_PER_SECOND);
        u64::try_from(micros).unwrap_or_default().saturating_mul(1000)
    }

    #[inline]
    pub const fn is_finite(self) -> bool {
        self.0 != i64::MIN && self.0 != i64::MAX
    }

    /// Returns `None` for [`Timestamp::UNSET`].
    #[inline]
    pub fn if_set(self) -> Option<Timestamp> {
        (self != Self::UNSET).then_some(self)
    }

    /// Reads `2026-11-20T03:18:32.123456+00:00`.
    ///
    /// A blank may stand in place of the `T`. The time zone offset may be `Z`, or it may be missing. Both mean UTC. Digits after
    /// the microseconds are ignored. Returns `None` if the text has another form, or if the time is outside the years 1 to 9999.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let bytes = text.trim_ascii().as_bytes();
        let (date, rest) = (bytes.get(..10)?, bytes.get(11..)?);
        if date[4] != b'-' || date[7] != b'-' || !matches!(bytes[10], b'T' | b't' | b' ') {
            return None;
        }
        let (clock, after) = (rest.get(..8)?, rest.get(8..)?);
        let (hour, minute, second) = (number(&clock[..2])?, number(&clock[3..5])?, number(&clock[6..])?);
        if clock[2] != b':' || clock[5] != b':' || hour >= 24 || minute >= 60 || second > 60 {
            return None;
        }
        let (micros, zone) = fraction(after);
        let since_midnight =
            (hour * 3600 + minute * 60 + second - offset(zone)?) * MICROS_PER_SECOND + micros;
        let midnight = parse_date(date)?.to_datetime(Time::midnight());
        // After the time zone offset is applied, the time may be outside the years that `Timestamp` can hold.
        let time = midnight.checked_add(SignedDuration::from_micros(since_midnight)).ok()?;
        let micros = i64::try_from(time.duration_since(EPOCH).as_micros()).ok()?;
        (time.year() >= 1).then_some(Timestamp(micros))
    }

    /// Returns a text such as `2026-11-20T03:18:32.123456+00:00`.
    ///
    /// A time outside the years -9999 to 9999 is written as the nearest time in this range.
    pub fn to_iso8601(self) -> String {
        format!("{:.6}+00:00", EPOCH.saturating_add(SignedDuration::from_micros(self.0)))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.0)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    #[inline]
    fn add(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(micros(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    #[inline]
    fn sub(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(micros(duration)))
    }
}

/// Returns zero if `earlier` is the later time, as `Instant` does.
impl Sub for Timestamp {
    type Output = Duration;

    #[inline]
    fn sub(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }
}

/// Converts a time of the system's clock. A time before 1970 is converted to the start of 1970.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let unix = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_unix(0) + unix
    }
}

/// Returns whole microseconds, at most `i64::MAX`.
#[inline]
pub const fn micros(duration: Duration) -> i64 {
    let micros = duration.as_secs().saturating_mul(1_000_000).saturating_add(duration.subsec_micros() as u64);
    if micros > i64::MAX as u64 { i64::MAX } else { micros as i64 }
}

/// A [`Timestamp`] that processes share.
#[derive(Default, Debug)]
#[repr(transparent)]
pub struct AtomicTimestamp(AtomicI64);

impl AtomicTimestamp {
    #[inline]
    pub const fn new(timestamp: Timestamp) -> AtomicTimestamp {
        AtomicTimestamp(AtomicI64::new(timestamp.0))
    }

    #[inline]
    pub fn load(&self, order: Ordering) -> Timestamp {
        Timestamp(self.0.load(order))
    }

    #[inline]
    pub fn store(&self, timestamp: Timestamp, order: Ordering) {
        self.0.store(timestamp.0, order);
    }

    #[inline]
    pub fn swap(&self, timestamp: Timestamp, order: Ordering) -> Timestamp {
        Timestamp(self.0.swap(timestamp.0, order))
    }

    #[inline]
    pub fn compare_exchange(
        &self,
        current: Timestamp,
        new: Timestamp,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Timestamp, Timestamp> {
        self.0.compare_exchange(current.0, new.0, success, failure).map(Timestamp).map_err(Timestamp)
    }
}

/// A duration in whole microseconds that processes share.
#[derive(Default, Debug)]
#[repr(transparent)]
pub struct AtomicDuration(AtomicI64);

impl AtomicDuration {
    #[inline]
    pub fn load(&self, order: Ordering) -> Duration {
        Duration::from_micros(self.0.load(order).max(0).unsigned_abs())
    }

    #[inline]
    pub fn store(&self, duration: Duration, order: Ordering) {
        self.0.store(micros(duration), order);
    }

    #[inline]
    pub fn fetch_add(&self, duration: Duration, order: Ordering) {
        self.0.fetch_add(micros(duration), order);
    }
}

/// Reads `2026-11-20`, a date of the years 1 to 9999.
pub(crate) fn parse_date(text: &[u8]) -> Option<Date> {
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = text else { return None };
    let (year, month, day) = (number(&[y0, y1, y2, y3])?, number(&[m0, m1])?, number(&[d0, d1])?);
    Date::new(year as i16, month as i8, day as i8).ok().filter(|_| year >= 1)
}

/// Returns the value of at most six digits.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
}

/// Returns the fraction of a second after a dot or a comma, in microseconds. Also returns the text after the fraction.
fn fraction(text: &[u8]) -> (i64, &[u8]) {
    let Some(b'.' | b',') = text.first() else { return (0, text) };
    let digits = text[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let kept = &text[1..=digits.min(6)];
    let micros = number(kept).unwrap_or_default() * 10_i64.pow(6 - kept.len() as u32);
    (micros, &text[1 + digits..])
}

/// Returns seconds east of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, digits) = match zone {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits {
        [_, _] => (number(digits)?, 0),
        [_, _, b':', _, _] => (number(&digits[..2])?, number(&digits[3..])?),
        [_, _, _, _] => (number(&digits[..2])?, number(&digits[2..])?),
        _ => return None,
    };
    (hours < 16 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
impl proptest::arbitrary::Arbitrary for Timestamp {
    type Parameters = ();
    type Strategy = proptest::strategy::Map<proptest::num::i64::Any, fn(i64) -> Timestamp>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        proptest::strategy::Strategy::prop_map(proptest::num::i64::ANY, Timestamp::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400_000_000;

    /// Returns the microseconds of a text.
    fn parse(text: &str) -> Option<i64> {
        Timestamp::parse(text).map(Timestamp::micros)
    }

    fn text(micros: i64) -> String {
        Timestamp::from_micros(micros).to_iso8601()
    }

    #[test]
    fn arithmetic_stops_at_the_infinities() {
        let day = Duration::from_secs(86_400);
        let (epoch, last, first) = (Timestamp::default(), Timestamp::INFINITY, Timestamp::NEG_INFINITY);
        assert_eq!((epoch + day).micros(), DAY);
        assert_eq!((epoch - day).micros(), -DAY);
        assert_eq!((last + day, first - day), (last, first));
        assert_eq!((epoch + Duration::MAX, first - Duration::MAX), (last, first));
        assert_eq!((epoch + day) - epoch, day);
        assert_eq!((epoch - (epoch + day), first - last), (Duration::ZERO, Duration::ZERO));
        assert_eq!(last - first, Duration::from_micros(i64::MAX as u64));
        assert!(epoch.is_finite() && !last.is_finite() && !first.is_finite());
    }

    #[test]
    fn unix_times_are_converted() {
        let day_two = Timestamp::from_micros(DAY);
        assert_eq!(Timestamp::from_unix(946_771_200), day_two);
        assert_eq!(Timestamp::from_unix_seconds(946_771_200.5), day_two + Duration::from_millis(500));
        assert_eq!(day_two.unix_seconds(), 946_771_200.0);
        assert_eq!(day_two.unix_nanoseconds(), 946_771_200_000_000_000);
        assert_eq!(Timestamp::from(UNIX_EPOCH + Duration::from_secs(946_771_200)), day_two);
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)), Timestamp::from_unix(0));
        assert_eq!(Timestamp::NEG_INFINITY.unix_nanoseconds(), 0);
        assert_eq!(Timestamp::from_unix(i64::MAX), Timestamp::INFINITY);
        assert_eq!(Timestamp::from_unix(i64::MIN), Timestamp::NEG_INFINITY);
        assert_eq!(Timestamp::from_unix_seconds(f64::INFINITY), Timestamp::INFINITY);
    }

    #[test]
    fn usual_spellings_are_one_time() {
        let expected = parse("2026-11-20T03:18:32+00:00").unwrap();
        assert_eq!(expected, 9_820 * DAY + ((3 * 60 + 18) * 60 + 32) * 1_000_000);
        for text in [
            "2026-11-20T03:18:32",
            " 2026-11-20 03:18:32Z ",
            "2026-11-20T03:18:32.0",
            "2026-11-20T05:18:32+02:00",
            "2026-11-20T05:18:32+0200",
            "2026-11-20T05:18:32+02",
            "2026-11-19T22:48:32-04:30",
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        assert_eq!(parse("2026-11-20T03:18:32.123456+00:00"), Some(expected + 123_456));
        assert_eq!(parse("2026-11-20T03:18:32.1234567Z"), Some(expected + 123_456));
        assert_eq!(parse("2026-11-20 03:18:32,5"), Some(expected + 500_000));
    }

    #[test]
    fn days_are_counted_across_leap_years() {
        for (text, days) in [
            ("2000-01-01T00:00:00", 0),
            ("2000-02-29T00:00:00", 59),
            ("2000-03-01T00:00:00", 60),
            ("1999-12-31T00:00:00", -1),
            ("2001-01-01T00:00:00", 366),
            ("2100-03-01T00:00:00", 36_584),
            ("1970-01-01T00:00:00", -10_957),
        ] {
            assert_eq!(parse(text), Some(days * DAY), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_time() {
        for text in [
            "",
            "now",
            "2026-11-20",
            "2026-13-01T00:00:00",
            "2026-02-29T00:00:00",
            "2026-11-20T24:00:00",
            "2026-11-20T00:60:00",
            "2026-11-20X00:00:00",
            "2026-11-20T00:00:00+99:00",
            "2026-11-20T00:00:00 UTC",
            "0000-01-01T00:00:00",
            "20261120T000000",
            "２０２６-11-20T00:00:00",
            "2026-11-20T00:00:00+",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "0000-12-31T23:59:00-00:01",
            "2026-00-01T00:00:00",
            "2026-11-00T00:00:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn written_times_have_six_digits_of_a_second() {
        assert_eq!(text(9_820 * DAY + 11_912_000_007), "2026-11-20T03:18:32.000007+00:00");
        assert_eq!(text(0), "2000-01-01T00:00:00.000000+00:00");
        assert_eq!(text(-1), "1999-12-31T23:59:59.999999+00:00");
        assert_eq!(text(i64::MAX), "9999-12-31T23:59:59.999999+00:00");
    }

    #[test]
    fn a_leap_second_is_the_next_second() {
        assert_eq!(parse("2016-12-31T23:59:60Z"), parse("2017-01-01T00:00:00Z"));
        assert_eq!(parse("9999-12-31T23:59:60Z"), None);
        assert_eq!(parse("2016-12-31T23:59:61Z"), None);
    }

    /// Returns the number of days from 2000-01-01 to a date. The test computes this number without the calendar of a library. The
    /// computation lets years begin in March, so that the leap day is the last day of a year.
    fn days_since_2000(year: i64, month: i64, day: i64) -> i64 {
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = |year: i64| 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        days(year) - days(1999) + (153 * month + 2) / 5 + day - 307
    }

    fn days_in(year: i64, month: i64) -> i64 {
        match month {
            2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    #[test]
    fn every_date_is_as_many_days_away_as_arithmetic_says() {
        let mut expected = days_since_2000(1, 1, 1);
        for year in 1..10_000 {
            for month in 1..=12 {
                for day in 1..=31 {
                    let date = parse_date(format!("{year:04}-{month:02}-{day:02}").as_bytes());
                    assert_eq!(date.is_some(), day <= days_in(year, month), "{year}-{month}-{day}");
                    let Some(date) = date else { continue };
                    let since = date.to_datetime(Time::midnight()).duration_since(EPOCH).as_secs() / 86_400;
                    assert_eq!((since, days_since_2000(year, month, day)), (expected, expected), "{date}");
                    expected += 1;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn invariants_hold_for_any_text(
            text in ".{0,40}|[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{0,9})?([+-][01][0-9]:?[0-5][0-9]|Z)?",
        ) {
            crate::invariants::document_time(text.as_bytes());
        }

        #[test]
        fn later_dates_are_later(year in 1..9_999_i64, month in 1..13_i64, day in 1..28_i64) {
            let at = |y: i64, m: i64, d: i64| parse(&format!("{y:04}-{m:02}-{d:02}T00:00:00")).unwrap();
            prop_assert_eq!(at(year, month, day + 1) - at(year, month, day), DAY);
        }

        #[test]
        fn parsed_times_follow_from_days_and_seconds(
            date in (1..=9999_i64, 1..=12_i64, 1..=28_i64),
            clock in (0..24_i64, 0..60_i64, 0..=60_i64, 0..1_000_000_i64),
            (sign, hours, minutes) in (prop::sample::select(vec![1, -1]), 0..16_i64, 0..60_i64),
        ) {
            let ((year, month, day), (hour, minute, second, micros)) = (date, clock);
            let text = format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}{}{hours:02}:{minutes:02}",
                if sign > 0 { '+' } else { '-' },
            );
            let seconds = days_since_2000(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
                - sign * (hours * 3600 + minutes * 60);
            let years = days_since_2000(1, 1, 1) * 86_400..days_since_2000(10_000, 1, 1) * 86_400;
            let expected = years.contains(&seconds).then_some(seconds * 1_000_000 + micros);
            prop_assert_eq!(parse(&text), expected, "{}", text);
        }

        #[test]
        fn written_times_are_read_as_they_were(micros in -63_082_281_600_000_000..=252_455_615_999_999_999_i64) {
            prop_assert_eq!(parse(&text(micros)), Some(micros));
        }
    }
}
