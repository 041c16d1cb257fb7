//! Log lines on standard error, one for each problem.

use std::time::{Duration, Instant};

/// Pause between two log lines about the same kind of problem.
const REPEAT_INTERVAL: Duration = Duration::from_secs(600);

/// A kind of problem, and when it was logged last.
#[derive(Default)]
pub struct Reported {
    message: String,
    at: Option<Instant>,
}

impl Reported {
    /// Logs a message, unless the same message was logged a short time ago.
    pub fn report(&mut self, message: String) {
        let is_recent = self.at.is_some_and(|at| at.elapsed() < REPEAT_INTERVAL);
        if !is_recent || self.message != message {
            eprintln!("cowrie-load: {message}");
            self.at = Some(Instant::now());
            self.message = message;
        }
    }
}
