//! Clocks of the server, and texts of its times.

use std::time::{SystemTime, UNIX_EPOCH};

use cowrie_enrich_engine::timestamp::Timestamp;
use pgrx::pg_sys;

/// Returns the start of the current transaction, as `now()` does.
pub fn transaction_start() -> Timestamp {
    // SAFETY: reads a static of the transaction system.
    Timestamp::from_micros(unsafe { pg_sys::GetCurrentTransactionStartTimestamp() })
}

unsafe extern "C-unwind" {
    /// Defined in src/backend/access/transam/xact.c. Declared here without pgrx's guard against ERRORs, because the guard takes
    /// longer than all other overhead of a lookup. The function returns a static variable and cannot raise an error.
    safe fn GetCurrentStatementStartTimestamp() -> i64;
}

/// Returns the start time of the current statement. This clock costs little. It is used to measure intervals of about a second.
pub fn statement_start() -> Timestamp {
    Timestamp::from_micros(GetCurrentStatementStartTimestamp())
}

/// Returns the time at which this process last read its configuration files.
pub fn settings_loaded_at() -> Timestamp {
    // SAFETY: reads a static of this process.
    Timestamp::from_micros(unsafe { pg_sys::PgReloadTime })
}

/// Returns the current time.
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Returns the current time in the unit of OpenTelemetry: nanoseconds since 1970.
pub fn unix_nanoseconds() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the processor time that this thread has used, in nanoseconds. The time does not include waiting.
pub fn worked() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes only its output. The clock of the calling thread always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// Converts a date `YYYY-MM-DD` to the number of days since 2000-01-01, the form in which `date` values are stored. Returns
/// `None` if the text is not a date.
pub fn date(text: &str) -> Option<i32> {
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<i32>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !((1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)) {
        return None;
    }
    // SAFETY: arithmetic on its arguments.
    Some(unsafe { pg_sys::date2j(year, month, day) } - pg_sys::POSTGRES_EPOCH_JDATE as i32)
}

/// Returns a time as a text in ISO 8601, in UTC with microseconds: `2026-11-20T03:18:32.123456+00:00`. The fields `cached_at`
/// and `asked_at` of the sources have this form.
pub fn iso8601(timestamp: Timestamp) -> String {
    let micros = timestamp.micros();
    let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    let (mut year, mut month, mut day) = (0, 0, 0);
    // SAFETY: j2date writes only its three outputs. The Julian day of 2000-01-01 is 2451545.
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
