//! Counts the sessions of a table for each bucket (a period of time).
//!
//! A bucket of months or days follows the calendar of a time zone. A shorter bucket always has the same length. One bucket
//! begins at 2001-01-01 00:00 in the time zone. All other buckets are counted from this bucket. The day 2001-01-01 is a Monday,
//! and the first day of a year and of a quarter.
//!
//! The times of sessions may have no time zone. For such times, the caller names the time zone in which they were written. The
//! default is UTC and not the connection's time zone. With a time zone that has summer time, one hour of each year would be
//! ambiguous.

use std::ffi::CString;

use cowrie_enrich_engine::timestamp::Timestamp;

use super::campaigns::{Campaign, Parts};
use super::session_times::{Bound, argument, zone_argument};
use crate::error;
use crate::pg::spi::{Connection, Rows};
use crate::pg::sql_function::Interval;
use crate::pg::user_table::TableStatement;
use crate::pg::value::{Bigint, Text, Timestamptz};
use crate::pg::{catalog, text};

/// A row of a timeline. The columns are: the start of the bucket, the value of the column `by`, the number of sessions, the
/// number of addresses.
pub type Buckets = (Timestamptz, Text, Bigint, Bigint);
type Arguments = (Text, Timestamptz, Timestamptz);

const TIMELINE: TableStatement<'static, Arguments, Buckets> =
    TableStatement::new("timeline", include_str!("../../sql/queries/analysis/timeline.sql"));

/// The arguments of a caller of the function for timelines.
pub struct Request<'a> {
    pub bucket: Interval,
    /// The name of the column by which sessions are grouped.
    pub by: Option<String>,
    /// The two time zones are texts in the server's encoding.
    pub time_zone: &'a [u8],
    pub stored_time_zone: &'a [u8],
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub condition: &'a [u8],
}

impl Campaign {
    /// Counts the sessions in each bucket. Passes those buckets that have sessions to `read`.
    pub fn timeline<T>(
        &self,
        connection: &Connection,
        request: &Request<'_>,
        read: impl FnOnce(&Rows<Buckets>) -> T,
    ) -> T {
        let parts = self.timeline_parts(request);
        let arguments = (request.time_zone, argument(request.since), argument(request.until));
        self.run(connection, TIMELINE, &parts, &[], arguments, read)
    }

    fn timeline_parts(&self, request: &Request<'_>) -> Parts {
        let name = catalog::table_name(self.table().oid());
        let Some(times) = self.times(request.stored_time_zone) else { error::no_time_column(&name) };
        let (since, until) =
            (Bound { time: request.since, parameter: "$2" }, Bound { time: request.until, parameter: "$3" });
        let zone = zone_argument(request.time_zone, "$1");
        let (bin, bucket) = Bucket::of(request.bucket).expressions(zone);
        let mut parts = self.common_parts(request.condition);
        parts.extend([
            ("@time@", times.time()),
            ("@period@", times.is_within(since, until)),
            ("@by@", self.value(&name, request.by.as_deref())),
            ("@bin@", bin.into()),
            ("@bucket@", bucket.into()),
        ]);
        parts
    }

    /// Returns the SQL expression for the value by which sessions are grouped. If the table has no column of the given name, a
    /// short name such as `country` means a snapshot column.
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
        let cast = if column.groups_like_its_text() { "" } else { "::pg_catalog.text" };
        [b"s.", catalog::quoted_name(&name).as_slice(), cast.as_bytes()].concat()
    }
}

/// The length of a bucket. It is either in months, in days or in microseconds.
enum Bucket {
    Months(i32),
    Days(i32),
    Microseconds(i64),
}

impl Bucket {
    fn of(interval: Interval) -> Bucket {
        match interval {
            // The length is at most a century. An infinite interval has fields outside these ranges, so it is invalid.
            Interval { months: months @ 1..=1200, days: 0, microseconds: 0 } => Bucket::Months(months),
            Interval { months: 0, days: days @ 1..=36_525, microseconds: 0 } => Bucket::Days(days),
            Interval { months: 0, days: 0, microseconds: time @ 1..=LONGEST } => Bucket::Microseconds(time),
            _ => error::invalid_bucket(),
        }
    }

    /// Returns two expressions. The first expression computes the bin of a time. The second expression computes the start of
    /// the bucket from its bin. The second expression is slower, so it is evaluated only once for each group.
    fn expressions(&self, zone: &str) -> (String, String) {
        const FIRST: &str = "'2001-01-01 00:00:00'::timestamp";
        let local = format!("pg_catalog.timezone({zone}, t.seen)");
        let to_time = first_moment(zone);
        match self {
            Bucket::Microseconds(time) => (
                format!(
                    "pg_catalog.date_bin('{time} microseconds'::interval, t.seen, pg_catalog.timezone({zone}, {FIRST}))"
                ),
                "c.bin".to_owned(),
            ),
            Bucket::Days(days) => {
                (format!("pg_catalog.date_bin('{days} days'::interval, {local}, {FIRST})"), to_time)
            }
            Bucket::Months(1) => (format!("pg_catalog.date_trunc('month', {local})"), to_time),
            Bucket::Months(months) => (
                format!(
                    "({FIRST} OPERATOR(pg_catalog.+) pg_catalog.make_interval(months => (pg_catalog.floor((\
                     (EXTRACT(YEAR FROM {local}) OPERATOR(pg_catalog.-) 2001::numeric) OPERATOR(pg_catalog.*) 12::numeric \
                     OPERATOR(pg_catalog.+) EXTRACT(MONTH FROM {local}) OPERATOR(pg_catalog.-) 1::numeric) \
                     OPERATOR(pg_catalog./) {months}::numeric) OPERATOR(pg_catalog.*) {months}::numeric)::integer))"
                ),
                to_time,
            ),
        }
    }
}

/// Returns an expression for the first moment of a bucket that begins at the local time `c.bin`. Where clocks go back at midnight,
/// this local time occurs twice, and the server takes the second one. So the expression also computes the moment with the offset that
/// the time zone had three hours earlier, and takes this moment if it has the same local time.
fn first_moment(zone: &str) -> String {
    let second = format!("pg_catalog.timezone({zone}, c.bin)");
    let earlier = format!("({second} OPERATOR(pg_catalog.-) '03:00:00'::interval)");
    let offset = format!(
        "(pg_catalog.timezone({zone}, {earlier}) OPERATOR(pg_catalog.-) pg_catalog.timezone('UTC', {earlier}))"
    );
    let first = format!("pg_catalog.timezone('UTC', (c.bin OPERATOR(pg_catalog.-) {offset}))");
    format!(
        "CASE WHEN pg_catalog.timezone({zone}, {first}) OPERATOR(pg_catalog.=) c.bin THEN LEAST({first}, {second}) ELSE {second} END"
    )
}

/// A century in microseconds. A day is counted as 24 hours.
const LONGEST: i64 = 36_525 * 86_400 * 1_000_000;
