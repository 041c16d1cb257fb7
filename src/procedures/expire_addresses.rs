//! Erases the addresses of old sessions. If an address has no newer session, also erases all data about the address.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::mention::Wanted;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::erasure::{Problems, SHORT_WAIT, begin, documents, finish, sessions};
use super::refresh_session_counts::fold;
use super::session_tables::require_own_attached;
use super::{Options, Procedure, Run, run};
use crate::error;
use crate::pg::Oid;
use crate::pg::role::{acting_as, with_settings};
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::subtransaction::contained;
use crate::store::ExtensionOids;
use crate::store::erase::{self, Method, Which};
use crate::store::erase_tables::{self, Tables};
use crate::store::unfinished_erasures::ErasureKey;

/// Entry point of `expire_addresses()`.
pub fn expire(call: &Call) {
    let Some(older_than) = call.interval(0) else { error::null_argument("older_than") };
    let rel = call.oid(1);
    let Some(deletes) = call.boolean(2) else { error::null_argument("delete_sessions") };
    let method = if deletes { Method::Delete } else { Method::Anonymise };
    let oids = ExtensionOids::of_caller(call);
    // A refused call is not a failed erasure, so the owners are checked before the call is stored.
    match rel {
        Some(rel) => require_own_attached(oids, rel),
        None => erase_tables::require_owner_of_all(oids),
    }
    let before = Connection::with(oids.schema, |connection| {
        acting_as(oids.owner, || erase::moment_before(connection, older_than))
    });
    let Some(before) = before else { error::invalid_age() };
    let options = Options {
        procedure: Procedure::ExpireAddresses,
        relation: rel.unwrap_or(Oid::INVALID),
        progress: true,
        needs_commits: true,
    };
    run(call, &options, |run| {
        let key = ErasureKey {
            procedure: run.procedure(),
            relation: options.relation,
            address: None,
            before: Some(before),
        };
        begin(run, key);
        let tables = erase_tables::tables(oids, run.connection, rel.map_or(Tables::All, Tables::Of));
        // Documents in other tables of the caller can mention an address that expires.
        let searched = rel.map(|_| erase_tables::tables(oids, run.connection, Tables::Owned));
        let searched = searched.as_ref().unwrap_or(&tables);
        // Sessions without a time are as old as their address, so the counts of newer sessions are added first.
        fold(run);
        let mut problems = Problems::default();
        let (total, undated) = sessions(run, &tables, Which::Before(before), method, Some(&mut problems));
        fold(run);
        let wanted = expired(run, before, rel);
        // The documents are cleaned before the addresses are erased. So if this call is killed, the next call finds the same
        // addresses again.
        let mentions = if wanted.is_empty() { 0 } else { documents(run, searched, &Wanted::new(wanted)) };
        run.begin("inventories", 0);
        let (mut addresses, mut after, mut is_over) = (0, None, false);
        while !is_over {
            run.batch(|connection| {
                let expired = erase::expired(connection, before, after, rel.is_some());
                (after, is_over) = (expired.last().copied(), expired.is_empty());
                let erase = |some: &[Address]| {
                    contained(|| {
                        with_settings(SHORT_WAIT, || {
                            erase::lock(connection, some);
                            erase::erase_unused(oids, connection, some)
                        })
                    })
                };
                // Another transaction may have locked one of the addresses, or a foreign key of another role may keep it.
                let erased = erase(&expired).unwrap_or_else(|_| {
                    let one_by_one = expired.iter().map(|address| erase(std::slice::from_ref(address)));
                    one_by_one
                        .map(|erased| erased.map_err(|failure| problems.add(failure)).unwrap_or(0))
                        .sum()
                });
                addresses += erased;
                erased
            });
        }
        fold(run);
        problems.raise();
        finish(run, key);
        vec![
            ("sessions", total),
            ("sessions_without_time", undated),
            ("addresses", addresses),
            ("documents", mentions),
        ]
    });
}

/// Returns all addresses that have expired.
fn expired(run: &mut Run, before: Timestamp, rel: Option<Oid>) -> Vec<Address> {
    let (mut expired, mut is_over) = (Vec::new(), false);
    while !is_over {
        run.batch(|connection| {
            let batch = erase::expired(connection, before, expired.last().copied(), rel.is_some());
            is_over = batch.is_empty();
            expired.extend(batch);
            0
        });
    }
    expired
}
