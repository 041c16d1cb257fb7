//! Erases the addresses of old sessions. If an address has no newer session, also erases all data about the address.

use super::erasure::sessions;
use super::refresh_session_counts::fold;
use super::session_tables::require_own_attached;
use super::{Options, Procedure, run};
use crate::error;
use crate::pg::Oid;
use crate::pg::role::acting_as;
use crate::pg::sql_function::Call;
use crate::store::ExtensionOids;
use crate::store::erase::{self, Method, Which};

/// Entry point of `expire_addresses()`.
pub fn expire(call: &Call) {
    let Some(older_than) = call.interval(0) else { error::null_argument("older_than") };
    let rel = call.oid(1);
    let Some(deletes) = call.boolean(2) else { error::null_argument("delete_sessions") };
    let method = if deletes { Method::Delete } else { Method::Anonymise };
    if let Some(rel) = rel {
        require_own_attached(ExtensionOids::of_caller(call), rel);
    }
    let options = Options {
        procedure: Procedure::ExpireAddresses,
        relation: rel.unwrap_or(Oid::INVALID),
        progress: true,
        needs_commits: true,
    };
    run(call, &options, |run| {
        let oids = run.oids;
        let tables = erase::tables(oids, run.connection, rel);
        let before = acting_as(oids.owner, || erase::moment_before(run.connection, older_than));
        let Some(before) = before else { error::invalid_age() };
        let total = sessions(run, &tables, Which::Before(before), method);
        fold(run);
        run.begin("inventories", 0);
        let (mut addresses, mut after, mut is_over) = (0, None, false);
        while !is_over {
            run.batch(|connection| {
                let expired = erase::expired(connection, before, after, rel.is_some());
                (after, is_over) = (expired.last().copied(), expired.is_empty());
                erase::lock(connection, &expired);
                let erased = erase::erase_unused(oids, connection, &expired);
                addresses += erased;
                erased
            });
        }
        fold(run);
        vec![("sessions", total), ("addresses", addresses)]
    });
}
