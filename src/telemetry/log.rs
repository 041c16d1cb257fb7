//! Messages for the server's log, at most one per burst.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;

use super::{Counter, add};
use crate::pg::{self, clock};
use crate::shared_state::owner_process;

thread_local! {
    /// The time at which this backend last logged each headline, and the number of messages with this headline that were suppressed
    /// since then.
    static LOGGED: RefCell<HashMap<Message, (Timestamp, u64)>> = RefCell::default();
}

/// Counts an error that the caller of a function did not cause. Logs the error at most once per burst.
pub fn error(headline: &'static str, detail: &str) {
    error_is_logged(headline, detail);
}

/// Like [`error`]. Returns true if the error was logged.
pub fn error_is_logged(headline: &'static str, detail: &str) -> bool {
    add(Counter::Errors, 1);
    log_burst((headline, ""), detail)
}

/// Like [`error`], with separate bursts for each subject.
pub fn error_about(subject: &'static str, headline: &'static str, detail: &str) {
    add(Counter::Errors, 1);
    log_burst((headline, subject), &format!("{subject}: {detail}"));
}

/// A headline, and its subject or an empty text.
type Message = (&'static str, &'static str);

/// Length of a burst.
const BURST: Duration = Duration::from_secs(60);

/// Writes a message to the server's log. Each backend writes messages with the same headline at most once a minute.
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
    if owner_process::may_log(number, now, BURST) == Some(false) {
        return false;
    }
    let swallowed = LOGGED.with_borrow_mut(|logged| match logged.get_mut(&message) {
        Some((last, swallowed)) if now - *last < BURST => {
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
            pg::log(&format!("cowrie_enrich: {headline}: {detail} ({n} similar messages were not logged)"));
        }
    }
    swallowed.is_some()
}
