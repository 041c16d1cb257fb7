//! The time of the logs: the time of the line that was read last, without steps that are not plausible.
//!
//! Open sessions end by this time, so a single line with a wrong time must not move it:
//!
//! - A time that is later than the clock of this machine by more than [`TOLERANCE`] is not used.
//! - A step of more than [`STEP`] in either direction counts after [`AGREEING`] lines agree on it.

use std::time::Duration;

use jiff::Timestamp;

/// Time by which the clock of a honeypot may be ahead of the clock of this machine.
const TOLERANCE: Duration = Duration::from_secs(300);

/// The longest step that a single line can make.
const STEP: Duration = Duration::from_secs(60);

/// Number of consecutive lines that must agree on a longer step.
const AGREEING: u32 = 3;

/// A longer step that waits for more lines.
#[derive(Clone, Copy, Debug)]
struct Step {
    to: Timestamp,
    lines: u32,
}

#[derive(Debug)]
pub struct LogClock {
    time: Option<Timestamp>,
    step: Option<Step>,
    /// Lines whose time is after the clock of this machine.
    pub future: u64,
}

impl LogClock {
    pub fn new(time: Option<Timestamp>) -> LogClock {
        LogClock { time, step: None, future: 0 }
    }

    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// Takes the time of a line. `now` is the clock of this machine. Returns the time of the line if it can be used.
    pub fn observe(&mut self, line: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if line.duration_since(now).unsigned_abs() > TOLERANCE && line > now {
            self.future += 1;
            return None;
        }
        let is_near = |time: Timestamp| line.duration_since(time).unsigned_abs() <= STEP;
        if self.time.is_none_or(is_near) {
            (self.time, self.step) = (Some(line), None);
            return Some(line);
        }
        let lines = self.step.filter(|step| is_near(step.to)).map_or(1, |step| step.lines + 1);
        if lines >= AGREEING {
            (self.time, self.step) = (Some(line), None);
        } else {
            self.step = Some(Step { to: line, lines });
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    /// Returns the time of the logs after each of these lines.
    fn times(lines: &[i64]) -> Vec<i64> {
        let mut clock = LogClock::new(None);
        let at = |second| Timestamp::from_second(second).unwrap();
        lines
            .iter()
            .map(|second| {
                clock.observe(at(*second), at(NOW));
                clock.time().map_or(0, Timestamp::as_second)
            })
            .collect()
    }

    #[test]
    fn time_follows_the_lines_in_short_steps() {
        assert_eq!(times(&[100, 160, 120, 121]), [100, 160, 120, 121]);
    }

    #[test]
    fn a_long_step_needs_three_lines_that_agree() {
        assert_eq!(times(&[100, 9000, 101, 9000, 9001, 102]), [100, 100, 101, 101, 101, 102]);
        assert_eq!(times(&[100, 9000, 9010, 9020, 9021]), [100, 100, 100, 9020, 9021]);
        assert_eq!(times(&[9000, 100, 9001, 100, 101, 102]), [9000, 9000, 9001, 9001, 9001, 102]);
        assert_eq!(times(&[100, 9000, 20_000, 30_000]), [100; 4]);
    }

    #[test]
    fn a_time_in_the_future_is_never_used_however_many_lines_have_it() {
        assert_eq!(times(&[NOW, NOW + 301, NOW + 302, NOW + 303, NOW + 304]), [NOW; 5]);
        assert_eq!(times(&[NOW + 301, NOW + 300]), [0, NOW + 300]);
        let mut clock = LogClock::new(None);
        let now = Timestamp::from_second(NOW).unwrap();
        assert_eq!(clock.observe(Timestamp::MAX, now), None);
        assert_eq!(clock.observe(Timestamp::UNIX_EPOCH, now), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(clock.future, 1);
    }
}
