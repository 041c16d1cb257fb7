//! Reads the times of sessions for the functions for analysts.
//!
//! A time column may have no time zone. For such a column, the caller names the time zone of the stored times. The time zone of
//! the connection is not used, because two connections would then see different times. If the stored times are in a time zone
//! with summer time, one hour of each year occurs twice. PostgreSQL reads this hour as standard time.
//!
//! The conversion of some implausible times fails, but a comparison of the column itself never fails. So each expression
//! compares the column before it converts the time. For these comparisons of the column itself, the server can use an index,
//! and can estimate the number of selected sessions.

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::column::Column;
use crate::pg::text;

/// A time column, and the way in which its values are read.
pub struct SessionTimes {
    /// The name of the column, qualified with the alias `s`.
    column: Vec<u8>,
    /// The time zone of the stored times, as an argument of `timezone()`. It is set only if the column has no time zone.
    zone: Option<Vec<u8>>,
}

/// A limit of a period, and the statement's parameter for this limit.
#[derive(Clone, Copy)]
pub struct Bound {
    pub time: Option<Timestamp>,
    pub parameter: &'static str,
}

/// Returns the value of the parameter for a limit of a period. The parameter may not be null. If the period has no such limit,
/// the statement does not use the parameter, so any value is correct.
pub fn argument(bound: Option<Timestamp>) -> Timestamp {
    bound.unwrap_or(Timestamp::from_micros(0))
}

impl SessionTimes {
    /// The caller has quoted `name` for SQL. Texts are in the server's encoding.
    pub fn of(column: Column, name: &[u8], stored_time_zone: &[u8]) -> SessionTimes {
        let zone = || match is_utc(stored_time_zone) {
            true => UTC.into(),
            false => joined(&[&text::quoted(stored_time_zone), &"::pg_catalog.text"]),
        };
        SessionTimes { column: joined(&[&"s.", &name]), zone: column.holds_local_times().then(zone) }
    }

    /// Returns the SQL expression for the time of a session. The statement must not evaluate this expression if the time is
    /// implausible.
    pub fn time(&self) -> Vec<u8> {
        match &self.zone {
            Some(zone) => joined(&[&"pg_catalog.timezone(", zone, &", ", &self.column, &"::timestamp)"]),
            None => self.column.clone(),
        }
    }

    /// Returns the SQL expression for the time of a session. If the time is implausible, the value is null.
    pub fn plausible_time(&self) -> Vec<u8> {
        joined(&[&"CASE WHEN ", &self.is_plausible(), &" THEN ", &self.time(), &" END"])
    }

    /// Returns the SQL condition that a time is plausible. Plausible times are from 1970 until tomorrow.
    pub fn is_plausible(&self) -> Vec<u8> {
        let now = &"pg_catalog.now()";
        let (first, now) = match &self.zone {
            Some(zone) => (
                "'1970-01-01 00:00:00'::timestamp",
                joined(&[&"pg_catalog.timezone(", zone, &", ", now, &")"]),
            ),
            None => ("'1970-01-01 00:00:00+00'::timestamp with time zone", joined(&[now])),
        };
        let column = &self.column;
        let tomorrow = joined(&[&"(", &now, &" OPERATOR(pg_catalog.+) '24:00:00'::interval)"]);
        let (after, before) = (" OPERATOR(pg_catalog.>=) ", " OPERATOR(pg_catalog.<=) ");
        joined(&[column, &after, &first, &" AND ", column, &before, &tomorrow])
    }

    /// Returns the SQL condition that a time is plausible and is in a period.
    pub fn is_within(&self, since: Bound, until: Bound) -> Vec<u8> {
        let mut conditions = vec![self.is_plausible()];
        for (bound, operator, widening) in [(since, ">=", "-"), (until, "<", "+")] {
            let Some(time) = bound.time else { continue };
            let operator = format!(" OPERATOR(pg_catalog.{operator}) ");
            if self.zone.is_none() {
                conditions.push(joined(&[&self.column, &operator, &bound.parameter]));
                continue;
            }
            if USEFUL.contains(&time.micros()) {
                // The difference between a time zone and UTC is always less than a day.
                let widened = format!(
                    "(pg_catalog.timezone({UTC}, {}) OPERATOR(pg_catalog.{widening}) '48:00:00'::interval)",
                    bound.parameter
                );
                conditions.push(joined(&[&self.column, &operator, &widened]));
            }
            let exact = joined(&[&self.time(), &operator, &bound.parameter]);
            conditions.push(joined(&[
                &"CASE WHEN ",
                &self.is_plausible(),
                &" THEN ",
                &exact,
                &" ELSE false END",
            ]));
        }
        conditions.join(&b" AND "[..])
    }
}

/// Returns the argument of `timezone()` for a time zone. For UTC, the argument is an interval instead of a name, because the server
/// converts times much faster with an interval. For any other time zone, it is `parameter`: the statement's parameter that holds
/// the name of the time zone.
pub fn zone_argument(time_zone: &[u8], parameter: &'static str) -> &'static str {
    if is_utc(time_zone) { UTC } else { parameter }
}

fn is_utc(time_zone: &[u8]) -> bool {
    time_zone.eq_ignore_ascii_case(b"utc")
}

const UTC: &str = "'00:00:00'::interval";

/// If a limit of a period is in this range, the limit is also compared with the column itself, without a conversion of the column.
/// The range is from 1970-01-03 to 2999, in microseconds since 2000. The conversion of a limit outside the range could fail. For
/// such a limit, the comparison with the converted time is enough.
const USEFUL: std::ops::Range<i64> = -10_955 * 86_400_000_000..365_243 * 86_400_000_000;

fn joined(parts: &[&dyn AsRef<[u8]>]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.as_ref()).copied().collect()
}
