//! Log lines on standard error: one for each problem, and summaries of what was stored.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pause between two log lines about the same kind of problem.
const REPEAT_INTERVAL: Duration = Duration::from_secs(600);

/// Pause between two summaries.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// Time after the first look at the end of all logs until the first summary. Sessions that have just ended are stored
/// in this time.
const SETTLING: Duration = Duration::from_secs(4);

/// Number of different messages about a kind of problem that are remembered.
const MOST_MESSAGES: usize = 16;

/// A kind of problem, and when each message about it was logged last.
#[derive(Default)]
pub struct Reported {
    messages: VecDeque<(String, Instant)>,
}

impl Reported {
    /// Logs a message, unless the same message was logged a short time ago.
    pub fn report(&mut self, message: String) {
        self.messages.retain(|(_, at)| at.elapsed() < REPEAT_INTERVAL);
        if self.messages.iter().all(|(logged, _)| *logged != message) {
            eprintln!("cowrie-load: {message}");
            self.messages.truncate(MOST_MESSAGES - 1);
            self.messages.push_front((message, Instant::now()));
        }
    }
}

/// The values of a summary.
#[derive(Clone, Debug)]
pub struct Totals {
    pub stored: u64,
    pub open: usize,
    /// Number of logs in the directory.
    pub logs: usize,
    /// Name of the newest log, and the number of bytes that were read.
    pub newest: Option<(String, u64)>,
    pub unread: u64,
}

/// Decides when to log a summary: once when all logs are read, and later at most once a minute, if sessions were stored.
#[derive(Debug)]
pub struct Summary {
    caught_up_at: Option<Instant>,
    is_first_logged: bool,
    logged_at: Instant,
    stored_before: u64,
}

impl Summary {
    pub fn new(now: Instant) -> Summary {
        Summary { caught_up_at: None, is_first_logged: false, logged_at: now, stored_before: 0 }
    }

    /// Returns a message if it is time for one. `is_caught_up` is true if all logs are read and nothing waits.
    pub fn message(
        &mut self,
        now: Instant,
        is_caught_up: bool,
        stored: u64,
        totals: impl FnOnce() -> Totals,
    ) -> Option<String> {
        let is_first = is_caught_up
            && !self.is_first_logged
            && now.duration_since(*self.caught_up_at.get_or_insert(now)) >= SETTLING;
        let is_next = stored > self.stored_before && now.duration_since(self.logged_at) >= SUMMARY_INTERVAL;
        if !is_first && !is_next {
            return None;
        }
        let totals = totals();
        let position = totals
            .newest
            .as_ref()
            .map_or(String::new(), |(name, bytes)| format!(", position: byte {bytes} of {name}"));
        let more = totals.stored - self.stored_before;
        let start = if is_first { "all logs are read; " } else { "" };
        (self.logged_at, self.stored_before) = (now, totals.stored);
        self.is_first_logged |= is_first;
        let Totals { open, logs, unread, .. } = totals;
        Some(format!(
            "{start}sessions stored: {more}, open: {open}; logs: {logs}, unread bytes: {unread}{position}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_logged_when_logs_are_read_and_then_once_a_minute() {
        let start = Instant::now();
        let mut summary = Summary::new(start);
        let mut at = |second, is_caught_up, stored| {
            let totals = || Totals {
                stored,
                open: 2,
                logs: 3,
                newest: Some(("cowrie.json".to_owned(), 4711)),
                unread: 0,
            };
            summary.message(start + Duration::from_secs(second), is_caught_up, stored, totals)
        };
        let end = "open: 2; logs: 3, unread bytes: 0, position: byte 4711 of cowrie.json";
        assert_eq!(at(0, false, 0), None);
        assert_eq!(at(59, false, 7), None);
        assert_eq!(at(60, false, 7), Some(format!("sessions stored: 7, {end}")));
        assert_eq!(at(61, true, 8), None);
        assert_eq!(at(65, true, 9), Some(format!("all logs are read; sessions stored: 2, {end}")));
        for second in 66..300 {
            assert_eq!(at(second, true, 9), None);
        }
        assert_eq!(at(300, true, 10), Some(format!("sessions stored: 1, {end}")));
        assert_eq!(at(359, true, 11), None);
        assert_eq!(at(360, true, 12), Some(format!("sessions stored: 2, {end}")));
    }
}
