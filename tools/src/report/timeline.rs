//! The sessions of a report over time.

use jiff::{SignedDuration, Timestamp};
use postgres::Transaction;

use super::sessions::{Counts, Sessions};
use super::table::SessionTable;
use super::{Absent, Period, Section};

/// Numbers of sessions in buckets of equal kind, the oldest first. Buckets without sessions are included.
pub struct Timeline {
    pub bucket: Bucket,
    pub buckets: Vec<(Timestamp, Counts)>,
}

/// The length of the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    Hour,
    Day,
    Week,
    Month,
}

/// Monday, 2001-01-01: `session_timeline()` counts buckets from this day.
const FIRST_DAY: i64 = 978_307_200;
const DAY: i64 = 86_400;

impl Bucket {
    /// Returns a bucket that divides a period into at most about 200 parts.
    fn of(length: SignedDuration) -> Bucket {
        match length.as_secs() / DAY {
            ..4 => Bucket::Hour,
            4..200 => Bucket::Day,
            200..1400 => Bucket::Week,
            _ => Bucket::Month,
        }
    }

    fn interval(self) -> &'static str {
        match self {
            Bucket::Hour => "1 hour",
            Bucket::Day => "1 day",
            Bucket::Week => "7 days",
            Bucket::Month => "1 month",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Bucket::Hour => "hour",
            Bucket::Day => "day",
            Bucket::Week => "week",
            Bucket::Month => "month",
        }
    }

    /// Returns the start of the bucket in which a time is.
    fn start(self, time: Timestamp) -> Timestamp {
        let length = match self {
            Bucket::Hour => 3_600,
            Bucket::Day => DAY,
            Bucket::Week => 7 * DAY,
            Bucket::Month => {
                let day = jiff::tz::Offset::UTC.to_datetime(time).date().first_of_month();
                return jiff::tz::Offset::UTC
                    .to_timestamp(day.to_datetime(jiff::civil::Time::midnight()))
                    .unwrap_or(time);
            }
        };
        let since = (time.as_second() - FIRST_DAY).rem_euclid(length);
        Timestamp::from_second(time.as_second() - since).unwrap_or(time)
    }

    /// Returns the start of the next bucket.
    fn next(self, start: Timestamp) -> Timestamp {
        let days = match self {
            Bucket::Hour => return start.saturating_add(SignedDuration::from_hours(1)).unwrap_or(start),
            Bucket::Day => 1,
            Bucket::Week => 7,
            // In the next month. `start` below finds its first day.
            Bucket::Month => 32,
        };
        let later = start.saturating_add(SignedDuration::from_hours(24 * days)).unwrap_or(start);
        self.start(later)
    }
}

impl Timeline {
    /// Reads the timeline of a period. A bound that is absent is the time of the first or the last session.
    pub fn read(
        transaction: &mut Transaction<'_>,
        table: &SessionTable,
        period: Period,
        sessions: &Sessions,
        now: Timestamp,
    ) -> Result<Section<Timeline>, postgres::Error> {
        if !table.has_time() {
            return Ok(Err(Absent(format!(
                "This section is left out, because {} was attached without a time column.",
                table.name
            ))));
        }
        let (Some(first), Some(last)) = (sessions.first_seen, sessions.last_seen) else {
            return Ok(Err(Absent("No session of this period has a time.".to_owned())));
        };
        let first = period.since.map_or(first, |since| since.min(first));
        let last = period.until.map_or(last, |until| until.min(now).max(last));
        let bucket = Bucket::of(last.duration_since(first));
        let rows = transaction.query(
            &format!(
                "SELECT bucket_start, sessions, addresses
                 FROM {}.session_timeline($1::oid::regclass, $2::text::interval, since => $3, until => $4,
                                          stored_time_zone => $5)",
                table.extension
            ),
            &[&table.oid, &bucket.interval(), &period.since, &period.until, &table.stored_time_zone],
        )?;
        let counted: Vec<(Timestamp, Counts)> = rows
            .iter()
            .map(|row| {
                let number = |column| row.get::<_, i64>(column).unsigned_abs();
                (row.get(0), Counts { sessions: number(1), addresses: number(2) })
            })
            .collect();
        Ok(Ok(Timeline { bucket, buckets: filled(bucket, bucket.start(first), last, &counted) }))
    }
}

/// Adds the buckets without sessions.
fn filled(
    bucket: Bucket,
    first: Timestamp,
    last: Timestamp,
    counted: &[(Timestamp, Counts)],
) -> Vec<(Timestamp, Counts)> {
    let mut buckets = Vec::new();
    let mut counted = counted.iter().peekable();
    let mut start = first;
    while start <= last {
        let next = bucket.next(start);
        let mut counts = Counts::default();
        while let Some((_, found)) = counted.next_if(|(at, _)| *at < next) {
            counts.sessions += found.sessions;
            counts.addresses += found.addresses;
        }
        buckets.push((start, counts));
        if next <= start {
            break;
        }
        start = next;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn buckets_begin_where_session_timeline_begins_them() {
        for (bucket, at, start, next) in [
            (Bucket::Hour, "2025-05-01T12:34:56Z", "2025-05-01T12:00:00Z", "2025-05-01T13:00:00Z"),
            (Bucket::Day, "2025-05-01T12:34:56Z", "2025-05-01T00:00:00Z", "2025-05-02T00:00:00Z"),
            (Bucket::Week, "2025-05-01T12:34:56Z", "2025-04-28T00:00:00Z", "2025-05-05T00:00:00Z"),
            (Bucket::Month, "2025-12-31T12:34:56Z", "2025-12-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            (Bucket::Week, "1999-12-31T00:00:00Z", "1999-12-27T00:00:00Z", "2000-01-03T00:00:00Z"),
        ] {
            assert_eq!(bucket.start(time(at)), time(start), "{bucket:?}");
            assert_eq!(bucket.next(time(start)), time(next), "{bucket:?}");
        }
    }

    #[test]
    fn buckets_without_sessions_are_included() {
        let counts = Counts { sessions: 5, addresses: 2 };
        let (first, last) = (time("2025-05-01T00:00:00Z"), time("2025-05-03T10:00:00Z"));
        let buckets = filled(Bucket::Day, first, last, &[(time("2025-05-02T00:00:00Z"), counts)]);
        let sessions: Vec<u64> = buckets.iter().map(|(_, counts)| counts.sessions).collect();
        assert_eq!(sessions, [0, 5, 0]);
    }
}
