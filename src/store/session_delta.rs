//! Appends counts of sessions to `session_delta`. Such an append does not wait for other transactions.

use cowrie_enrich_engine::address::Address;

use super::ExtensionOids;
use super::enrich::SessionCount;
use crate::pg::clock;
use crate::pg::relation::Table;
use crate::pg::value::{Bigint, Inet, Timestamptz};

/// Appends one row for each address. The rows contain the current time.
pub fn append(oids: ExtensionOids, session_counts: impl Iterator<Item = (Address, SessionCount)>) {
    let table = Table::open_for_appending(oids.schema, c"session_delta");
    let now = clock::now();
    table.append::<(Inet, Bigint, Timestamptz, Timestamptz, Timestamptz)>(session_counts.map(
        |(address, session_count)| {
            (address, session_count.sessions, session_count.first_seen, session_count.last_seen, now)
        },
    ));
}
