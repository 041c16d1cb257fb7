//! Times as PostgreSQL counts them: microseconds since 2000-01-01 UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgrx::pg_sys;

/// Seconds between 1970-01-01 and 2000-01-01.
const UNIX_TO_POSTGRES: i64 = 946_684_800;

/// Start of the current transaction, what `now()` answers.
pub fn transaction_start() -> i64 {
    // SAFETY: reads a static of the transaction system.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

unsafe extern "C-unwind" {
    /// src/backend/access/transam/xact.c. Declared here without pgrx's guard against ERRORs, which costs more than the
    /// rest of a lookup's overhead: the function returns a static and cannot raise.
    safe fn GetCurrentStatementStartTimestamp() -> i64;
}

/// Start of the current statement: as good a clock as any for "about once a second", and free.
pub fn statement_start() -> i64 {
    GetCurrentStatementStartTimestamp()
}

/// When this process last read its configuration files.
pub fn settings_loaded_at() -> i64 {
    // SAFETY: reads a static of this process.
    unsafe { pg_sys::PgReloadTime }
}

/// Microseconds since 2000-01-01 of a Unix time in seconds.
pub fn from_unix(seconds: i64) -> i64 {
    seconds.saturating_sub(UNIX_TO_POSTGRES).saturating_mul(1_000_000)
}

/// Seconds since 1970 of such a time.
pub fn to_unix(micros: i64) -> f64 {
    seconds(micros) + UNIX_TO_POSTGRES as f64
}

/// Microseconds of a duration. A very long one is cut, so that a sum with a time is one.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).map_or(LONGEST, |micros| micros.min(LONGEST))
}

/// 73,000 years.
const LONGEST: i64 = i64::MAX / 4;

/// Seconds of a number of microseconds.
pub fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// The wall clock.
pub fn now() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    from_unix(unix.as_secs() as i64).saturating_add(i64::from(unix.subsec_micros()))
}

/// The wall clock as OpenTelemetry counts: nanoseconds since 1970.
pub fn unix_nanoseconds() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX)
}

/// The same of microseconds since 2000.
pub fn to_unix_nanoseconds(micros: i64) -> u64 {
    let micros = micros.saturating_add(UNIX_TO_POSTGRES * 1_000_000);
    u64::try_from(micros).unwrap_or_default().saturating_mul(1000)
}

/// Processor time that this thread has used, in nanoseconds: it stands still while the process waits for anything.
pub fn worked() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes its output; the clock of the calling thread exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// Whether a timestamp is finite; `infinity` says nothing about when a session was.
pub fn is_finite(micros: i64) -> bool {
    micros != i64::MIN && micros != i64::MAX
}

/// Days since 2000-01-01 of a date `YYYY-MM-DD`, as `date` values are stored; `None` if it is none.
pub fn date(text: &str) -> Option<i32> {
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<i32>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !((1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)) {
        return None;
    }
    // SAFETY: arithmetic on its arguments.
    Some(unsafe { pg_sys::date2j(year, month, day) } - pg_sys::POSTGRES_EPOCH_JDATE as i32)
}

/// ISO 8601 in UTC with microseconds, as the sources' `cached_at` and `asked_at` are written:
/// `2026-11-20T03:18:32.123456+00:00`.
pub fn iso8601(micros: i64) -> String {
    let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    let (mut year, mut month, mut day) = (0, 0, 0);
    // SAFETY: j2date writes its three outputs; the Julian day of 2000-01-01 is 2451545.
    unsafe {
        pg_sys::j2date(days as i32 + pg_sys::POSTGRES_EPOCH_JDATE as i32, &mut year, &mut month, &mut day)
    };
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:06}+00:00",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}
