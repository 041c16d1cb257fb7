//! Messages to the server's log: one a burst.

use std::cell::RefCell;
use std::collections::HashMap;

use super::{Counter, add};
use crate::pg::{self, clock, owner_process};

thread_local! {
    /// When each headline was last logged by this backend, in microseconds, and how often it was swallowed since.
    static LOGGED: RefCell<HashMap<Message, (i64, u64)>> = RefCell::default();
}

/// Counts an error that was no caller's fault, and logs it once per burst.
pub fn error(headline: &'static str, detail: &str) {
    error_is_logged(headline, detail);
}

/// The same. Returns whether it was logged.
pub fn error_is_logged(headline: &'static str, detail: &str) -> bool {
    add(Counter::Errors, 1);
    log_burst((headline, ""), detail)
}

/// The same where several may be the cause, each with bursts of its own.
pub fn error_about(subject: &'static str, headline: &'static str, detail: &str) {
    add(Counter::Errors, 1);
    log_burst((headline, subject), &format!("{subject}: {detail}"));
}

/// A headline, and what it is about where that is said.
type Message = (&'static str, &'static str);

/// A burst of one message is a minute of it.
const BURST_MICROS: i64 = 60_000_000;

/// Writes to the server's log, at most once a minute per headline and backend.
pub fn log_once_per_burst(headline: &'static str, detail: &str) {
    log_burst((headline, ""), detail);
}

fn log_burst(message: Message, detail: &str) -> bool {
    let (headline, _) = message;
    let now = clock::now();
    // FNV-1a: the same in every process.
    let number = headline.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    if owner_process::may_log(number, now, BURST_MICROS) == Some(false) {
        return false;
    }
    let swallowed = LOGGED.with_borrow_mut(|logged| match logged.get_mut(&message) {
        Some((last, swallowed)) if now.saturating_sub(*last) < BURST_MICROS => {
            *swallowed += 1;
            None
        }
        Some(entry) => Some(std::mem::replace(entry, (now, 0)).1),
        None => {
            logged.insert(message, (now, 0));
            Some(0)
        }
    });
    match swallowed {
        None => {}
        Some(0) => pg::log(&format!("cowrie_enrich: {headline}: {detail}")),
        Some(n) => {
            pg::log(&format!("cowrie_enrich: {headline}: {detail} ({n} more since the last message)"));
        }
    }
    swallowed.is_some()
}
