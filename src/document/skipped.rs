//! Skipped lookups: lookups that a user left out with the argument `sources` of `enrich_ips()`, or cancelled with
//! `cancel_requests()`.
//!
//! A document with a skipped lookup:
//! ```json
//! {"_meta": {"greynoise": {"state": "skipped", "skipped_at": "2026-11-20T03:18:32.123456+00:00", "sessions": 3}}}
//! ```
//!
//! Without this state, a sweep would queue the skipped lookup, because the lookup would look like one that was never queued. A
//! skipped lookup is queued again in two cases: if a function call asks about the address, or if another session of the address is
//! stored. `sessions` is the number of sessions of the address when the lookup was skipped. `lookups_skip.sql` writes the same
//! format.

use cowrie_enrich_engine::timestamp::Timestamp;

use super::enrichment::meta_of;
use crate::pg::clock;
use crate::pg::jsonb::{Container, Object, Value};
use crate::provider::Providers;

pub const STATE: &str = "skipped";

/// Writes the state of each skipped lookup into the object `_meta` of a new address. The number of sessions is 0, because a new
/// address has no sessions yet.
pub fn write(meta: &mut Object, skipped: Providers) {
    for provider in skipped.iter() {
        meta.object(provider.name(), |own| {
            own.text("state", STATE);
            own.text("skipped_at", &clock::iso8601(clock::transaction_start()));
            own.number("sessions", 0);
        });
    }
}

pub fn is_skipped(document: Container<'_>, source: &str) -> bool {
    meta_of(document, source).and_then(|meta| meta.text("state")) == Some(STATE)
}

/// Returns true if the lookup was skipped, and another session of the address was stored later. The number of sessions alone does
/// not show this, because old sessions may have been deleted.
pub fn has_sessions_since(
    document: Container<'_>,
    source: &str,
    sessions: i64,
    last_seen: Option<Timestamp>,
) -> bool {
    let Some(meta) = meta_of(document, source).filter(|_| is_skipped(document, source)) else { return false };
    let skipped_at = meta.text("skipped_at").and_then(Timestamp::parse);
    let is_seen = last_seen.is_some_and(|seen| skipped_at.is_none_or(|at| at < seen));
    let before = match meta.get("sessions") {
        Some(Value::Number(number)) => number.text().parse().unwrap_or_default(),
        _ => 0,
    };
    is_seen || before < sessions
}
