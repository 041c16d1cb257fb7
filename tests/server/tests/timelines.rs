//! Sessions over time. The expected counts are computed in Rust, with the rules for summer time of Europe/Berlin, and
//! without PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};

use server_tests::hosts::{COWRIE, SUMMARIES};
use server_tests::random::Random;
use server_tests::{Database, database};

/// Seconds since 1970 of the start of a day in UTC.
fn day(year: i64, month: i64, day: i64) -> i64 {
    // Days of the civil calendar. March is the first month, so that a leap day is the last of a year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 1;
    (days - 719_468) * 86_400
}

const HOUR: i64 = 3600;

/// When summer time began and ended in 2024, which is at 01:00 UTC.
fn summer() -> (i64, i64) {
    (day(2024, 3, 31) + HOUR, day(2024, 10, 27) + HOUR)
}

/// Returns how far Berlin's clocks are ahead of UTC, in 2024.
fn ahead(time: i64) -> i64 {
    let (from, to) = summer();
    if (from..to).contains(&time) { 2 * HOUR } else { HOUR }
}

/// Returns when Berlin's clocks showed a time at which they did not change.
fn of_berlin(shown: i64) -> i64 {
    [HOUR, 2 * HOUR]
        .map(|offset| shown - offset)
        .into_iter()
        .find(|time| time + ahead(*time) == shown)
        .expect("once")
}

/// One of 2001-01-01 00:00 in Berlin, a Monday.
fn origin() -> i64 {
    day(2001, 1, 1) - HOUR
}

fn days(length: i64) -> impl Fn(i64) -> i64 {
    move |time| {
        let first = day(2001, 1, 1);
        let shown = time + ahead(time);
        of_berlin(first + (shown - first).div_euclid(length * 86_400) * length * 86_400)
    }
}

fn months(length: i64) -> impl Fn(i64) -> i64 {
    move |time| {
        let shown = time + ahead(time);
        let month = (1..=12).rev().find(|month| day(2024, *month, 1) <= shown).expect("a month of 2024");
        of_berlin(day(2024, month - (month - 1).rem_euclid(length), 1))
    }
}

fn seconds(length: i64) -> impl Fn(i64) -> i64 {
    move |time| origin() + (time - origin()).div_euclid(length) * length
}

/// Sessions of the days around both clock changes, and a few of the whole year.
fn times() -> Vec<i64> {
    let (from, to) = summer();
    let mut random = Random::seeded(5);
    let mut times: Vec<i64> = [from, to]
        .into_iter()
        .flat_map(|change| (-36 * 6..36 * 6).map(move |step| change + step * 600))
        .map(|time| time + random.below(600) as i64)
        .collect();
    // The seconds before and after each change, and before and after each midnight next to it.
    for edge in [
        from,
        to,
        of_berlin(day(2024, 3, 31)),
        of_berlin(day(2024, 4, 1)),
        of_berlin(day(2024, 10, 27)),
        of_berlin(day(2024, 10, 28)),
    ] {
        times.extend([edge - 1, edge]);
    }
    times.extend((0..400).map(|_| day(2024, 1, 1) + random.below(365 * 86_400 - 7200) as i64));
    times
}

/// Stores sessions of 50 addresses, each with the sensor 1 or 2. Returns time, address and sensor of each.
fn store(db: &mut Database<'_>) -> Vec<(i64, i64, i64)> {
    COWRIE.create_attached(db);
    let sessions: Vec<(i64, i64, i64)> = times()
        .into_iter()
        .enumerate()
        .map(|(n, time)| (time, n as i64 * 7 % 50, 1 + n as i64 % 2))
        .collect();
    let values: Vec<String> = sessions
        .iter()
        .enumerate()
        .map(|(n, (time, address, sensor))| {
            format!("('{n}', to_timestamp({time}) AT TIME ZONE 'UTC', {sensor}, '8.8.4.{address}')")
        })
        .collect();
    db.run(&format!("INSERT INTO sessions (id, starttime, sensor, ip) VALUES {}", values.join(", ")));
    sessions
}

/// Counts in Rust what `session_timeline()` returns.
fn counted(sessions: &[(i64, i64, i64)], bucket: impl Fn(i64) -> i64, by_sensor: bool) -> Vec<String> {
    let mut buckets: BTreeMap<(i64, i64), (i64, BTreeSet<i64>)> = BTreeMap::new();
    for (time, address, sensor) in sessions {
        let (count, addresses) =
            buckets.entry((bucket(*time), if by_sensor { *sensor } else { 0 })).or_default();
        *count += 1;
        addresses.insert(*address);
    }
    buckets
        .into_iter()
        .map(|((bucket, sensor), (count, addresses))| {
            let value = if by_sensor { sensor.to_string() } else { "NULL".to_owned() };
            format!("{bucket}|{value}|{count}|{}", addresses.len())
        })
        .collect()
}

fn asked(db: &mut Database<'_>, arguments: &str) -> Vec<String> {
    db.rows(&format!(
        "SELECT extract(epoch FROM bucket_start)::bigint, value, sessions, addresses
         FROM session_timeline({arguments}) ORDER BY 1, 2"
    ))
}

#[test]
fn times_without_a_time_zone_are_counted_right_across_both_clock_changes_in_berlin() {
    let mut db = database();
    let sessions = store(&mut db);
    // The time zone of the connection has clock changes too, on other days.
    for connection in ["UTC", "Europe/Berlin", "America/New_York"] {
        db.run(&format!("SET TimeZone = '{connection}'"));
        for (interval, expected) in [
            ("15 minutes", counted(&sessions, seconds(900), false)),
            ("1 hour", counted(&sessions, seconds(HOUR), false)),
            ("6 hours", counted(&sessions, seconds(6 * HOUR), false)),
            ("24 hours", counted(&sessions, seconds(24 * HOUR), false)),
            ("1 day", counted(&sessions, days(1), false)),
            ("1 week", counted(&sessions, days(7), false)),
            ("10 days", counted(&sessions, days(10), false)),
            ("1 month", counted(&sessions, months(1), false)),
            ("3 months", counted(&sessions, months(3), false)),
            ("1 year", counted(&sessions, months(12), false)),
        ] {
            let found = asked(&mut db, &format!("'sessions', '{interval}', time_zone => 'Europe/Berlin'"));
            assert_eq!(found, expected, "{interval} in a connection with TimeZone {connection}");
        }
        let found = asked(&mut db, "'sessions', '1 day', 'sensor', 'Europe/Berlin'");
        assert_eq!(found, counted(&sessions, days(1), true), "by sensor, {connection}");
    }
    // The day of the change in spring has 23 hours, the one in autumn has 25.
    let of =
        |from: i64| counted(&sessions, days(1), false).iter().any(|row| row.starts_with(&format!("{from}|")));
    let (spring, autumn) = (of_berlin(day(2024, 3, 31)), of_berlin(day(2024, 10, 27)));
    assert_eq!(of_berlin(day(2024, 4, 1)) - spring, 23 * HOUR);
    assert_eq!(of_berlin(day(2024, 10, 28)) - autumn, 25 * HOUR);
    assert!(of(spring) && of(autumn));
}

/// In these time zones, clocks went back at midnight, so the local time at which the bucket begins occurred twice.
#[test]
fn a_bucket_begins_with_the_first_of_two_midnights() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    for (zone, bucket, first) in [
        ("Atlantic/Azores", "1 day", "2024-10-27 00:00"),
        ("America/Havana", "1 month", "2020-11-01 04:00"),
        ("America/Havana", "1 day", "2020-11-01 04:00"),
    ] {
        db.run(&format!(
            "TRUNCATE sessions;
             INSERT INTO sessions (id, starttime, ip)
             SELECT 's' || n, timestamptz '{first}+00' + n * interval '10 min', '8.8.8.8' FROM generate_series(0, 5) n"
        ));
        let start = "to_char(bucket_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')";
        assert_eq!(
            db.rows(&format!("SELECT {start}, sessions FROM session_timeline('sessions', '{bucket}', time_zone => '{zone}')")),
            [format!("{first}|6")],
            "{zone}, {bucket}"
        );
    }
}

#[test]
fn the_period_is_exact_for_columns_with_and_without_a_time_zone() {
    let mut db = database();
    let sessions = store(&mut db);
    SUMMARIES.create_attached(&mut db);
    db.run(
        "INSERT INTO session_summaries (session_id, source_ip, first_event_at)
         SELECT id, ip::inet, starttime AT TIME ZONE 'UTC' FROM sessions",
    );
    for edge in [summer().0, summer().1] {
        let (since, until) = (edge - HOUR, edge + HOUR);
        let within: Vec<_> =
            sessions.iter().copied().filter(|(time, ..)| (since..until).contains(time)).collect();
        assert!(within.len() > 10);
        let expected = counted(&within, seconds(900), false);
        for (table, zone) in [("sessions", "Asia/Kathmandu"), ("session_summaries", "UTC")] {
            db.run(&format!("SET TimeZone = '{zone}'"));
            let period = format!("since => to_timestamp({since}), until => to_timestamp({until})");
            let found =
                asked(&mut db, &format!("'{table}', '15 minutes', time_zone => 'Europe/Berlin', {period}"));
            assert_eq!(found, expected, "{table}");
        }
    }
    // A column that was written in another time zone.
    db.run("UPDATE sessions SET starttime = starttime AT TIME ZONE 'UTC' AT TIME ZONE 'Asia/Kathmandu'");
    let found = asked(
        &mut db,
        "'sessions', '1 day', time_zone => 'Europe/Berlin', stored_time_zone => 'Asia/Kathmandu'",
    );
    assert_eq!(found, counted(&sessions, days(1), false));
    for (bounds, sessions) in [
        ("'-infinity'", sessions.len()),
        ("'infinity'", 0),
        ("NULL", sessions.len()),
        ("'4714-11-24 BC'", sessions.len()),
    ] {
        let found = db.number(&format!(
            "SELECT coalesce(sum(sessions), 0) FROM session_timeline('sessions', '1 day', since => {bounds})"
        ));
        assert_eq!(found, sessions as i64, "{bounds}");
    }
}

/// Sessions with local times of Berlin at the clock changes of 2024, and the seconds since 1970. A local time between 2
/// and 3 o'clock on the day in autumn occurs twice, and is read as standard time.
fn berlin_sessions() -> [(&'static str, i64); 5] {
    let (from, to) = summer();
    [
        ("2024-03-31 01:59:59", from - 1),
        ("2024-03-31 03:00:00", from),
        ("2024-10-27 01:59:59", to - HOUR - 1),
        ("2024-10-27 02:30:00", to + HOUR / 2),
        ("2024-10-27 03:00:00", to + HOUR),
    ]
}

#[test]
fn all_functions_read_local_times_in_the_stored_time_zone() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    let sessions = berlin_sessions();
    for (n, (time, _)) in sessions.iter().enumerate() {
        db.run(&COWRIE.insert_at(time, &[(&format!("s{n}"), Some(&format!("8.8.{n}.1")))]));
    }
    let seconds = |time: &str| format!("extract(epoch FROM {time})::bigint");
    let (first, last) = (seconds("first_seen"), seconds("last_seen"));
    let all: Vec<String> = sessions.iter().map(|(_, time)| format!("{time}|{time}")).collect();
    let (begin, end) = (sessions[0].1, sessions[4].1);
    for connection in ["UTC", "Asia/Kathmandu", "Europe/Berlin", "America/New_York"] {
        db.run(&format!("SET TimeZone = '{connection}'"));
        let mut rows = |call: &str, order: &str| {
            db.rows(&format!("SELECT {first}, {last} FROM {call} ORDER BY {order}"))
        };
        let zone = "stored_time_zone => 'Europe/Berlin'";
        assert_eq!(
            rows(&format!("campaign_addresses('sessions', {zone})"), "ip_address"),
            all,
            "{connection}"
        );
        assert_eq!(rows(&format!("prefix_activity('sessions', {zone})"), "prefix"), all, "{connection}");
        assert_eq!(rows(&format!("blocklist('sessions', NULL, {zone})"), "target"), all, "{connection}");
        let networks = rows(&format!("campaign_networks('sessions', {zone})"), "asn_number");
        assert_eq!(networks, [format!("{begin}|{end}")], "{connection}");
        let query = db.one(&format!("SELECT campaign_query('sessions', {zone})"));
        let networks = db.one(&format!("SELECT {first}, {last} FROM ({query}) q"));
        assert_eq!(networks, format!("{begin}|{end}"), "{connection}");
        for (n, (_, time)) in sessions.iter().enumerate() {
            for (since, expected) in [(format!("{time}"), 5 - n), (format!("{time} + 0.000001"), 4 - n)] {
                let since = format!("since => to_timestamp({since}), {zone}");
                for call in ["campaign_addresses", "prefix_activity", "blocklist"] {
                    let found = db.number(&format!("SELECT count(*) FROM {call}('sessions', {since})"));
                    assert_eq!(found, expected as i64, "{call}, {since}, {connection}");
                }
                let found = db.number(&format!(
                    "SELECT coalesce(sum(sessions), 0) FROM session_timeline('sessions', '1 day', {since})"
                ));
                assert_eq!(found, expected as i64, "{since}, {connection}");
            }
        }
        assert_eq!(
            db.one("SELECT address_profile('8.8.2.1', 'sessions', 'Europe/Berlin') -> 'sessions_per_day'"),
            r#"[{"day": "2024-10-26", "sessions": 1}]"#,
            "{connection}"
        );
        // The default is UTC.
        let found = db.one(&format!("SELECT min({first}), max({last}) FROM campaign_addresses('sessions')"));
        assert_eq!(found, format!("{}|{}", begin + HOUR, end + HOUR), "{connection}");
    }
    let refusal =
        db.refused("SELECT * FROM campaign_networks('sessions', stored_time_zone => 'Mars''/Olympus')");
    assert_eq!(refusal.code, "22023");
    for call in ["campaign_networks('sessions', 'true', NULL)", "prefix_activity('sessions', NULL, NULL)"] {
        assert_eq!(db.refused(&format!("SELECT * FROM {call}")).code, "22004", "{call}");
    }
}

#[test]
fn sessions_are_grouped_by_any_column_of_a_builtin_type() {
    let mut db = database();
    COWRIE.create(&mut db);
    db.run(
        "ALTER TABLE sessions ADD \"select\" inet, ADD \"Odd \"\"name\" boolean, ADD country date;
         CREATE TYPE colour AS ENUM ('red'); ALTER TABLE sessions ADD colour colour",
    );
    COWRIE.attach(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("8.8.8.9")), ("c", Some("89.160.20.1"))]));
    db.run("UPDATE sessions SET \"select\" = '10.0.0.0/8', \"Odd \"\"name\" = true, country = '2024-02-29' WHERE id <> 'b'");
    let mut by = |column: &str| {
        db.rows(&format!(
            "SELECT value, sessions, addresses FROM session_timeline('sessions', '1 day', $by${column}$by$)"
        ))
    };
    assert_eq!(by("network"), ["15169|2|2", "29518|1|1"]);
    assert_eq!(by("snapshot_country"), ["US|2|2", "SE|1|1"]);
    assert_eq!(by("type"), ["NULL|3|3"]);
    assert_eq!(by("sensor"), ["1|3|3"]);
    assert_eq!(by("select"), ["10.0.0.0/8|2|2", "NULL|1|1"]);
    assert_eq!(by("Odd \"name"), ["true|2|2", "NULL|1|1"]);
    // The table's own column comes before the short name.
    assert_eq!(by("country"), ["2024-02-29|2|2", "NULL|1|1"]);
    let mut refused = |arguments: &str| {
        let refusal = db.refused(&format!("SELECT * FROM session_timeline({arguments})"));
        (refusal.code, refusal.hint.is_some())
    };
    for column in ["none", "s.id", "id\"", "", "id; DROP TABLE sessions", "ctid", "Sensor"] {
        assert_eq!(
            refused(&format!("'sessions', '1 day', '{column}'")),
            ("42703".to_owned(), true),
            "{column}"
        );
    }
    assert_eq!(refused("'sessions', '1 day', 'colour'"), ("42804".to_owned(), true));
}

#[test]
fn a_bucket_or_time_zone_that_is_none_is_refused() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8"))]));
    for bucket in
        ["0", "-1 day", "1 day 1 hour", "1 month 1 day", "-1 month", "1 month -30 days", "101 years"]
    {
        let refusal = db.refused(&format!("SELECT * FROM session_timeline('sessions', '{bucket}')"));
        assert_eq!(refusal.code, "22023", "{bucket}");
        assert!(refusal.hint.is_some());
    }
    for zones in ["time_zone => 'Mars/Olympus'", "stored_time_zone => 'Mars/Olympus'"] {
        let refusal = db.refused(&format!("SELECT * FROM session_timeline('sessions', '1 day', {zones})"));
        assert_eq!(refusal.code, "22023", "{zones}");
    }
    for call in ["NULL, '1 day'", "'sessions', NULL", "'sessions', '1 day', NULL, NULL"] {
        assert_eq!(db.refused(&format!("SELECT * FROM session_timeline({call})")).code, "22004", "{call}");
    }
    db.run("CREATE TABLE bare (ip inet); SELECT attach_session_table('bare', 'ip')");
    let refusal = db.refused("SELECT * FROM session_timeline('bare', '1 day')");
    assert_eq!(refusal.code, "55000");
    assert!(refusal.hint.is_some());
    let refusal = db.refused("SELECT * FROM session_timeline('sessions', '1 day', condition => 's.none')");
    assert_eq!(refusal.code, "42703");
}

#[test]
fn implausible_times_and_sessions_that_the_condition_leaves_out_are_not_counted() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(&COWRIE.insert(&[("a", Some("8.8.8.8")), ("b", Some("not an ip")), ("c", Some("8.8.8.8"))]));
    for (key, time) in [("x", "infinity"), ("y", "0001-01-01"), ("z", "294276-12-31 23:59:59")] {
        db.run(&COWRIE.insert_at(time, &[(key, Some("8.8.8.8"))]));
    }
    let mut total = |condition: &str| {
        db.one(&format!(
            "SELECT sum(sessions), sum(addresses) FROM session_timeline('sessions', '1 day', condition => $c${condition}$c$)"
        ))
    };
    assert_eq!(total("true"), "3|1");
    assert_eq!(total("s.id <> 'c' -- one"), "2|1");
}

#[test]
fn a_period_is_answered_from_the_index_by_time_alone() {
    let mut db = database();
    COWRIE.create_attached(&mut db);
    db.run(
        "INSERT INTO sessions (id, ip, starttime)
             SELECT n, '8.8.' || n % 7 || '.' || n % 200, timestamp '2024-01-01' + n * interval '10 min'
             FROM generate_series(1, 20000) n;
         SELECT index_session_table('sessions')",
    );
    db.run("VACUUM (ANALYZE) sessions");
    db.run("SELECT pg_stat_reset_single_table_counters('sessions'::regclass)");
    // Statements inside a function are shown by no EXPLAIN, so the index is seen by its statistics.
    for by in ["NULL", "'network'", "'country'", "'type'", "'sensor'"] {
        let scans = |db: &mut Database<'_>| {
            db.run("SELECT pg_stat_force_next_flush()");
            db.one(
                "SELECT i.idx_scan, i.idx_tup_fetch, t.seq_scan
                 FROM pg_stat_user_indexes i JOIN pg_stat_user_tables t USING (relid)
                 WHERE i.indexrelname = 'sessions_cowrie_enrich_by_time'",
            )
        };
        let before = scans(&mut db);
        let count = db.number(&format!(
            "SELECT sum(sessions) FROM session_timeline('sessions', '1 day', {by},
                 since => '2024-03-01 00:00Z', until => '2024-03-08 00:00Z')"
        ));
        assert_eq!(count, 7 * 144);
        let after = scans(&mut db);
        let numbers = |row: &str| row.split('|').map(|n| n.parse().expect("a number")).collect::<Vec<i64>>();
        let (before, after) = (numbers(&before), numbers(&after));
        // Each process of a parallel scan counts one scan.
        assert!(after[0] > before[0], "{by}: the index is scanned");
        assert_eq!(after[1..], before[1..], "{by}: the table is not read");
    }
}
