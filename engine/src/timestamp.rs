//! Answers: when is that?
//!
//! Documents hold times as ISO 8601 texts; ours are in UTC with microseconds, those of other writers in any of its
//! usual spellings.

/// Microseconds since 2000-01-01 UTC of `2026-11-20T03:18:32.123456+00:00`, of the same with a blank for the `T`, with
/// `Z` or without an offset (UTC), with fewer digits of a second or none. `None`: it is no time of the years 1 to 9999.
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.trim_ascii().as_bytes();
    let (date, rest) = (bytes.get(..10)?, bytes.get(11..)?);
    if date[4] != b'-' || date[7] != b'-' || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let (clock, after) = (rest.get(..8)?, rest.get(8..)?);
    let (hour, minute, second) = (number(&clock[..2])?, number(&clock[3..5])?, number(&clock[6..])?);
    let is_clock = clock[2] == b':' && clock[5] == b':' && hour < 24 && minute < 60 && second < 61;
    if !is_clock || year < 1 || !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    let (micros, zone) = fraction(after);
    let seconds = days_since_2000(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    // Its offset may move a time over the edge of the years that there are.
    let (first, end) = (days_since_2000(1, 1, 1) * 86_400, days_since_2000(10_000, 1, 1) * 86_400);
    let seconds = Some(seconds - offset(zone)?).filter(|seconds| (first..end).contains(seconds))?;
    Some(seconds * 1_000_000 + micros)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
}

/// Microseconds behind a dot or comma, and what follows them. Further digits are cut.
fn fraction(text: &[u8]) -> (i64, &[u8]) {
    let Some(b'.' | b',') = text.first() else { return (0, text) };
    let digits = text[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let kept = &text[1..=digits.min(6)];
    let micros = number(kept).unwrap_or_default() * 10_i64.pow(6 - kept.len() as u32);
    (micros, &text[1 + digits..])
}

/// Seconds east of UTC.
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

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// By counting years from March, so that the day that leap years add is the last.
fn days_since_2000(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = |year: i64| 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 2000-01-01 is the 307th day of the year that began in March 1999.
    days(year) - days(1999) + (153 * month + 2) / 5 + day - 307
}

/// A time in microseconds since 2000-01-01 UTC as `2026-11-20T03:18:32.123456+00:00`.
pub fn text(micros: i64) -> String {
    const DAY: i64 = 86_400_000_000;
    let (year, month, day) = date(micros.div_euclid(DAY));
    let rest = micros.rem_euclid(DAY);
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

/// The date so many days after 2000-01-01, as [`days_since_2000`] counts: years begin in March.
fn date(days: i64) -> (i64, i64, i64) {
    // Days since 2000-03-01, by whole cycles of 400 years, which have 146,097.
    let (cycle, day) = ((days - 60).div_euclid(146_097), (days - 60).rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 2000 + 400 * cycle + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
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
    fn anything_else_is_no_time() {
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
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        assert_eq!(text(9_820 * DAY + 11_912_000_007), "2026-11-20T03:18:32.000007+00:00");
        for days in -800_000..2_900_000 {
            let (year, month, day) = date(days);
            assert!((1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day), "{days}");
            assert_eq!(days_since_2000(year, month, day), days);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_promised(
            text in ".{0,40}|[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{0,9})?([+-][01][0-9]:?[0-5][0-9]|Z)?",
        ) {
            crate::invariants::document_time(text.as_bytes());
        }

        #[test]
        fn later_dates_are_later(year in 1..9_999_i64, month in 1..13_i64, day in 1..28_i64) {
            let at = |y: i64, m: i64, d: i64| parse(&format!("{y:04}-{m:02}-{d:02}T00:00:00")).unwrap();
            prop_assert_eq!(at(year, month, day + 1) - at(year, month, day), DAY);
        }
    }
}
