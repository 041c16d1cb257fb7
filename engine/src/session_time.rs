//! Checks session times for plausibility.
//!
//! A sensor without a clock sends times in 1970, and a hostile sensor may send any time. If the time of a session cannot be true,
//! the row of the session keeps this time unchanged, but the time is not used for `first_seen` and `last_seen`. The SQL function
//! `session_time()` applies the same rule to times that are already stored.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// 1970-01-01 UTC.
pub const EARLIEST: Timestamp = Timestamp::from_unix(0);

/// The time of a session may be later than the enrichment of the session by at most this duration. The clock of a sensor may have a
/// wrong time zone.
pub const AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns `time` if it is not before 1970-01-01 and at most one day after the enrichment of the session. Otherwise returns `None`.
///
/// A session without a believable `enriched_at` was enriched `now`.
pub fn believed(time: Timestamp, enriched_at: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let enriched_at = enriched_at.filter(|at| (EARLIEST..=now).contains(at)).unwrap_or(now);
    (EARLIEST..=enriched_at + AHEAD).contains(&time).then_some(time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(850_000_000_000_000);
    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn both_ends_of_the_range_are_believed() {
        assert_eq!(believed(EARLIEST, None, NOW), Some(EARLIEST));
        assert_eq!(believed(EARLIEST - MICROSECOND, None, NOW), None);
        assert_eq!(believed(NOW + AHEAD, None, NOW), Some(NOW + AHEAD));
        assert_eq!(believed(NOW + AHEAD + MICROSECOND, None, NOW), None);
    }

    #[test]
    fn the_range_ends_a_day_after_the_enrichment() {
        let enriched_at = NOW - 10 * AHEAD;
        assert_eq!(believed(enriched_at + AHEAD, Some(enriched_at), NOW), Some(enriched_at + AHEAD));
        assert_eq!(believed(enriched_at + AHEAD + MICROSECOND, Some(enriched_at), NOW), None);
    }

    #[test]
    fn an_enrichment_that_cannot_be_true_was_now() {
        for enriched_at in
            [Timestamp::NEG_INFINITY, EARLIEST - MICROSECOND, NOW + MICROSECOND, Timestamp::INFINITY]
        {
            assert_eq!(believed(NOW, Some(enriched_at), NOW), Some(NOW));
            assert_eq!(believed(NOW + AHEAD + MICROSECOND, Some(enriched_at), NOW), None);
        }
    }

    proptest! {
        #[test]
        fn believed_times_can_be_subtracted(
            times: (Timestamp, Timestamp), enriched_at: Option<Timestamp>, now: Timestamp,
        ) {
            let seen = (believed(times.0, enriched_at, now), believed(times.1, enriched_at, now));
            if let (Some(first), Some(last)) = seen
                && now.micros() < i64::MAX / 2
            {
                prop_assert!(last.micros().checked_sub(first.micros()).is_some());
            }
        }
    }
}
