//! Checks session times for plausibility.
//!
//! A sensor without a clock sends 1970, and a hostile sensor sends any time. A time that cannot be true stays in the
//! session's row as written, but `first_seen` and `last_seen` ignore it. The SQL function `session_time()` applies the
//! same rule to times that are already stored.

/// 1970-01-01 UTC, in microseconds since 2000-01-01 UTC, PostgreSQL's unit.
pub const EARLIEST: i64 = -946_684_800_000_000;

/// How far a session's time may be ahead of its enrichment, in microseconds: a sensor's time zone may be wrong.
pub const AHEAD: i64 = 86_400_000_000;

/// Returns `time` if it is between 1970-01-01 and a day after the session's enrichment, else `None`.
///
/// All times are microseconds since 2000-01-01 UTC. A session without a believable `enriched_at` was enriched `now`.
pub fn believed(time: i64, enriched_at: Option<i64>, now: i64) -> Option<i64> {
    let enriched_at = enriched_at.filter(|at| (EARLIEST..=now).contains(at)).unwrap_or(now);
    (EARLIEST..=enriched_at.saturating_add(AHEAD)).contains(&time).then_some(time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{AHEAD, EARLIEST, believed};

    const NOW: i64 = 850_000_000_000_000;

    #[test]
    fn both_ends_of_the_range_are_believed() {
        assert_eq!(believed(EARLIEST, None, NOW), Some(EARLIEST));
        assert_eq!(believed(EARLIEST - 1, None, NOW), None);
        assert_eq!(believed(NOW + AHEAD, None, NOW), Some(NOW + AHEAD));
        assert_eq!(believed(NOW + AHEAD + 1, None, NOW), None);
    }

    #[test]
    fn the_range_ends_a_day_after_the_enrichment() {
        let enriched_at = NOW - 10 * AHEAD;
        assert_eq!(believed(enriched_at + AHEAD, Some(enriched_at), NOW), Some(enriched_at + AHEAD));
        assert_eq!(believed(enriched_at + AHEAD + 1, Some(enriched_at), NOW), None);
    }

    #[test]
    fn an_enrichment_that_cannot_be_true_was_now() {
        for enriched_at in [i64::MIN, EARLIEST - 1, NOW + 1, i64::MAX] {
            assert_eq!(believed(NOW, Some(enriched_at), NOW), Some(NOW));
            assert_eq!(believed(NOW + AHEAD + 1, Some(enriched_at), NOW), None);
        }
    }

    proptest! {
        #[test]
        fn believed_times_can_be_subtracted(
            times in any::<(i64, i64)>(), enriched_at in any::<Option<i64>>(), now in any::<i64>(),
        ) {
            let seen = (believed(times.0, enriched_at, now), believed(times.1, enriched_at, now));
            if let (Some(first), Some(last)) = seen
                && now < i64::MAX / 2
            {
                prop_assert!(last.checked_sub(first).is_some());
            }
        }
    }
}
