//! The number of sessions of a table over time.
//!
//! A bucket of months or days follows the calendar of a time zone. A shorter bucket always has the same length. Buckets are counted
//! from 2001-01-01 00:00 in the time zone. This day is a Monday, and the first day of a year and a quarter.
//!
//! The sessions of a table may have times without a time zone. The caller names the time zone in which these times were
//! written. The default is UTC instead of the connection's time zone, because summer time makes one hour of each year
//! ambiguous.

use std::ffi::CString;

use cowrie_enrich_engine::timestamp::Timestamp;

use super::campaigns::{Campaign, Parts};
use crate::error;
use crate::pg::spi::{Connection, Rows};
use crate::pg::sql_function::Interval;
use crate::pg::user_table::TableStatement;
use crate::pg::value::{Bigint, Text, Timestamptz};
use crate::pg::{catalog, text};

/// A row of a timeline: the start of the bucket, the value of the column `by`, and the numbers of sessions
/// and addresses.
pub type Buckets = (Timestamptz, Text, Bigint, Bigint);
type Arguments = (Text, Text, Timestamptz, Timestamptz);

const TIMELINE: TableStatement<'static, Arguments, Buckets> =
    TableStatement::new("timeline", include_str!("../../sql/queries/analysis/timeline.sql"));

/// What a caller asks for.
pub struct Request<'a> {
    pub bucket: Interval,
    /// The name of a column.
    pub by: Option<String>,
    /// Texts in the server's encoding.
    pub time_zone: &'a [u8],
    pub stored_time_zone: &'a [u8],
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub condition: &'a [u8],
}

/// The bounds of a timeline without bounds.
const ALWAYS: (Timestamp, Timestamp) = (Timestamp::from_micros(i64::MIN), Timestamp::from_micros(i64::MAX));

impl Campaign {
    /// Passes the buckets that have sessions to `read`.
    pub fn timeline<T>(
        &self,
        connection: &Connection,
        request: &Request<'_>,
        read: impl FnOnce(&Rows<Buckets>) -> T,
    ) -> T {
        let parts = self.timeline_parts(request);
        self.run(connection, TIMELINE, &parts, &[], arguments(request), read)
    }

    fn timeline_parts(&self, request: &Request<'_>) -> Parts {
        let name = catalog::table_name(self.table().oid());
        let Some((time, column)) = self.time() else { error::no_time_column(&name) };
        let column = [b"s.", column].concat();
        let (bin, bucket) = Bucket::of(request.bucket).expressions();
        let mut parts = self.common_parts(request.condition);
        parts.extend([
            ("@seen@", seen(&column, time.holds_local_times(), request.stored_time_zone)),
            ("@range@", range(&column, time.holds_local_times(), request)),
            ("@by@", self.value(&name, request.by.as_deref())),
            ("@bin@", bin.into()),
            ("@bucket@", bucket.into()),
        ]);
        parts
    }

    /// Returns the expression for the value by which sessions are grouped. A short name stands for a snapshot column,
    /// unless the table has a column of this name.
    fn value(&self, table: &str, by: Option<&str>) -> Vec<u8> {
        let Some(by) = by else { return b"NULL::pg_catalog.text".to_vec() };
        let named = |name: &str| {
            let name = CString::new(text::to_server(name).as_ref()).ok()?;
            Some((self.table().column(&name)?.0, name))
        };
        let short = match by {
            "network" => "snapshot_asn",
            "country" => "snapshot_country",
            "type" => "snapshot_ip_type",
            other => other,
        };
        let Some((column, name)) = named(by).or_else(|| named(short)) else {
            error::no_column_to_group_by(table, by)
        };
        if !column.has_builtin_type() {
            error::cannot_group_by(table, by);
        }
        [b"s.", catalog::quoted_name(&name).as_slice(), b"::pg_catalog.text"].concat()
    }
}

fn arguments<'a>(request: &Request<'a>) -> (&'a [u8], &'a [u8], Timestamp, Timestamp) {
    let (since, until) = (request.since.unwrap_or(ALWAYS.0), request.until.unwrap_or(ALWAYS.1));
    (request.time_zone, request.stored_time_zone, since, until)
}

/// Returns the expression for the time of a session, null if the time is implausible. Some implausible times cannot be
/// converted. A comparison never fails.
fn seen(column: &[u8], is_local: bool, stored_time_zone: &[u8]) -> Vec<u8> {
    // The server converts a time much faster if the time zone is an interval instead of a name.
    let zone = if stored_time_zone.eq_ignore_ascii_case(b"utc") { "'00:00:00'::interval" } else { "$2" };
    let ([before, after], least, now) = match is_local {
        true => (
            [format!("pg_catalog.timezone({zone}, "), "::timestamp)".to_owned()],
            "'1970-01-01 00:00:00'::timestamp",
            format!("pg_catalog.timezone({zone}, pg_catalog.now())"),
        ),
        false => (
            [String::new(), String::new()],
            "'1970-01-01 00:00:00+00'::timestamp with time zone",
            "pg_catalog.now()".to_owned(),
        ),
    };
    let least = format!(" OPERATOR(pg_catalog.>=) {least} AND ");
    let most =
        format!(" OPERATOR(pg_catalog.<=) ({now} OPERATOR(pg_catalog.+) '24:00:00'::interval) THEN {before}");
    let parts: [&[u8]; 7] =
        [b"CASE WHEN ", column, least.as_bytes(), column, most.as_bytes(), column, after.as_bytes()];
    [&parts.concat()[..], b" END"].concat()
}

/// Returns a comparison of the bare column, for which the server can use an index. The statement also compares
/// `seen`, because the bounds for a time without a time zone are a day wider.
fn range(column: &[u8], is_local: bool, request: &Request<'_>) -> Vec<u8> {
    let local = |argument: &str, operator: &str| {
        format!(
            "(pg_catalog.timezone('00:00:00'::interval, {argument}) OPERATOR(pg_catalog.{operator}) '48:00:00'::interval)"
        )
    };
    let conditions = [(request.since, ">=", "$3", "-"), (request.until, "<", "$4", "+")].map(
        |(bound, operator, argument, widening)| {
            let is_useful = bound.is_some_and(|bound| USEFUL.contains(&bound.micros()));
            let argument = if is_local { local(argument, widening) } else { argument.to_owned() };
            let comparison = format!(" OPERATOR(pg_catalog.{operator}) {argument}");
            if is_useful { [column, comparison.as_bytes()].concat() } else { b"true".to_vec() }
        },
    );
    conditions.join(&b" AND "[..])
}

/// Bounds that are compared with the bare column: from 1970-01-03 to 2999, in microseconds since 2000. The conversion of other
/// bounds could fail. For such bounds the comparison of `seen` is enough.
const USEFUL: std::ops::Range<i64> = -10_955 * 86_400_000_000..365_243 * 86_400_000_000;

/// The length of a bucket, in one kind of unit.
enum Bucket {
    Months(i32),
    Days(i32),
    Microseconds(i64),
}

impl Bucket {
    fn of(interval: Interval) -> Bucket {
        match interval {
            // A century of months, and no infinite interval.
            Interval { months: months @ 1..=1200, days: 0, microseconds: 0 } => Bucket::Months(months),
            Interval { months: 0, days: days @ 1..=36_525, microseconds: 0 } => Bucket::Days(days),
            Interval { months: 0, days: 0, microseconds: time @ 1..=LONGEST } => Bucket::Microseconds(time),
            _ => error::invalid_bucket(),
        }
    }

    /// Returns two expressions: the first computes the bin of a time, and the second computes the bucket of a bin. The second
    /// expression is slower, so it is evaluated only once for each group.
    fn expressions(&self) -> (String, String) {
        const LOCAL: &str = "pg_catalog.timezone($1, t.seen)";
        const FIRST: &str = "'2001-01-01 00:00:00'::timestamp";
        let to_time = "pg_catalog.timezone($1, c.bin)".to_owned();
        match self {
            Bucket::Microseconds(time) => (
                format!(
                    "pg_catalog.date_bin('{time} microseconds'::interval, t.seen, pg_catalog.timezone($1, {FIRST}))"
                ),
                "c.bin".to_owned(),
            ),
            Bucket::Days(days) => {
                (format!("pg_catalog.date_bin('{days} days'::interval, {LOCAL}, {FIRST})"), to_time)
            }
            Bucket::Months(1) => (format!("pg_catalog.date_trunc('month', {LOCAL})"), to_time),
            Bucket::Months(months) => (
                format!(
                    "({FIRST} OPERATOR(pg_catalog.+) pg_catalog.make_interval(months => (pg_catalog.floor((\
                     (EXTRACT(YEAR FROM {LOCAL}) OPERATOR(pg_catalog.-) 2001::numeric) OPERATOR(pg_catalog.*) 12::numeric \
                     OPERATOR(pg_catalog.+) EXTRACT(MONTH FROM {LOCAL}) OPERATOR(pg_catalog.-) 1::numeric) \
                     OPERATOR(pg_catalog./) {months}::numeric) OPERATOR(pg_catalog.*) {months}::numeric)::integer))"
                ),
                to_time,
            ),
        }
    }
}

/// A century, as days of 24 hours.
const LONGEST: i64 = 36_525 * 86_400 * 1_000_000;
