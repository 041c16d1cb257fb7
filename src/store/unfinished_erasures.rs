//! The table `unfinished_erasure`, which has the erasures that are running or have failed.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::Oid;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{self, Bigint, Boolean, Inet, Text, Timestamptz};

thread_local! {
    static BEGIN: Statement<(Text, value::Oid, Inet, Timestamptz)> = const { Statement::new(
        "unfinished_begin", include_str!("../../sql/queries/erase/unfinished_begin.sql")) };
    static FINISH: Statement<(Text, value::Oid, Inet, Timestamptz)> = const { Statement::new(
        "unfinished_finish", include_str!("../../sql/queries/erase/unfinished_finish.sql")) };
    static STATUS: Statement<(), (Bigint, Timestamptz, Boolean)> = const { Statement::new(
        "erasure_status", include_str!("../../sql/queries/erase/erasure_status.sql")) };
}

/// Identifies an erasure: one address, or all addresses without a session since a time.
#[derive(Clone, Copy)]
pub struct ErasureKey {
    pub procedure: &'static str,
    pub relation: Oid,
    pub address: Option<Address>,
    pub before: Option<Timestamp>,
}

/// Stores that an erasure has begun.
pub fn begin(connection: &Connection, key: ErasureKey) {
    BEGIN.execute(connection, (key.procedure, key.relation, key.address, key.before));
}

/// Stores that an erasure has ended without an error. Also ends earlier calls whose work this erasure has done.
pub fn finish(connection: &Connection, key: ErasureKey) {
    FINISH.execute(connection, (key.procedure, key.relation, key.address, key.before));
}

/// The state of the procedure calls that erase addresses.
#[derive(Clone, Copy, Default)]
pub struct Erasures {
    /// Number of procedure calls that failed or were killed, and were not repeated.
    pub failed: i64,
    /// End time of the most recent procedure call that expired the addresses of all tables.
    pub last_expiry: Option<Timestamp>,
    /// True if pg_cron has a job in this database that expires addresses.
    pub is_scheduled: bool,
}

/// Returns the state of the procedure calls that erase addresses.
pub fn erasures(connection: &Connection) -> Erasures {
    let status = STATUS.first(connection, (), |(failed, last_expiry, is_scheduled)| Erasures {
        failed: failed.unwrap_or_default(),
        last_expiry,
        is_scheduled: is_scheduled.unwrap_or_default(),
    });
    status.unwrap_or_default()
}
