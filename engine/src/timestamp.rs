//! Timestamps of documents: reads and writes ISO 8601 texts.
//!
//! The extension writes UTC with microseconds. Other writers use any of the usual spellings.

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, Time};

/// PostgreSQL counts microseconds from here.
const EPOCH: DateTime = jiff::civil::datetime(2000, 1, 1, 0, 0, 0, 0);

/// Returns microseconds since 2000-01-01 UTC of `2026-11-20T03:18:32.123456+00:00`.
///
/// A blank may replace the `T`. The offset may be `Z` or absent, which means UTC. Further digits of a second are cut.
/// Returns `None` for a text of another form and for a time outside the years 1 to 9999.
pub fn parse(text: &str) -> Option<i64> {
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
    let since_midnight = (hour * 3600 + minute * 60 + second - offset(zone)?) * 1_000_000 + micros;
    let midnight = parse_date(date)?.to_datetime(Time::midnight());
    // An offset may move the time out of the years that exist.
    let time = midnight.checked_add(SignedDuration::from_micros(since_midnight)).ok()?;
    i64::try_from(time.duration_since(EPOCH).as_micros()).ok().filter(|_| time.year() >= 1)
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

/// Returns the microseconds after a dot or comma, and the text after them.
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

/// Writes microseconds since 2000-01-01 UTC as `2026-11-20T03:18:32.123456+00:00`.
///
/// A time outside the years -9999 to 9999 is written as the nearest one inside.
pub fn text(micros: i64) -> String {
    format!("{:.6}+00:00", EPOCH.saturating_add(SignedDuration::from_micros(micros)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400_000_000;

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

    /// Days from 2000-01-01 to a date, counted without the calendar of a library. Years begin in March here, so the
    /// leap day is the last day of a year.
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
