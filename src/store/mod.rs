//! Contains all SQL statements that Rust code runs. This module uses tables, and never the network.
//!
//! The order of locks is: new networks, existing networks, new addresses, existing addresses. The rows of each kind are locked
//! in key order. Transactions that follow this order cannot deadlock with each other. Sessions only create rows. They do not
//! lock existing networks, and they lock an existing address only if it is free. Jobs of the queue are locked before all of
//! these rows. Rows of session_completion are locked after them.

pub mod address_list;
pub mod addresses;
pub mod backfill_sessions;
pub mod block_answer;
pub mod build_asn_inventory;
pub mod campaigns;
pub mod cancel_requests;
pub mod cluster;
pub mod complete_sessions;
pub mod completions;
pub mod counter_deltas;
pub mod enrich;
pub mod erase;
pub mod erase_documents;
pub mod erase_session_documents;
pub mod erase_tables;
pub mod fold;
mod fold_missing;
pub mod import_inventory;
pub mod inbox_duplicates;
pub mod lookup_estimate;
pub mod network_answers;
pub mod network_registries;
pub mod networks;
pub mod procedure_call;
pub mod provider_quota;
pub mod queue;
pub mod reclassification;
pub mod recount_requests;
pub mod refresh_session_counts;
pub mod refresh_stale;
pub mod requeue;
pub mod session_delta;
pub mod session_foreign_key;
pub mod session_options;
pub mod session_priority;
mod session_times;
pub mod sizes;
pub mod skip_locked;
pub mod snapshot_fill;
pub mod timelines;
pub mod unfinished_erasures;

use std::ffi::CStr;
use std::ops::ControlFlow;

use cowrie_enrich_engine::version::VersionMatch;

use crate::guc;
use crate::pg::catalog::{self, Extension};
use crate::pg::role::acting_as;
use crate::pg::scan::ReadableTable;
use crate::pg::spi::Connection;
use crate::pg::sql_function::{self, Call};
use crate::pg::{Oid, mvcc_snapshot, relation, transaction};
use crate::versions;

/// Settings for statements that process many rows. JIT is off, because the compilation takes longer than it saves, and because
/// it needs memory. work_mem limits the memory of a statement, even if the statement processes much data.
const BOUNDED: &[(&CStr, &CStr)] = &[(c"jit", c"off"), (c"work_mem", c"4MB")];

/// The OIDs of some objects of the extension, and the OID of the role that owns these objects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ExtensionOids {
    pub schema: Oid,
    pub owner: Oid,
    /// The OID of the table `ip_inventory`. The next field is the OID of its primary key's index.
    pub inventory: Oid,
    pub inventory_key: Oid,
}

impl ExtensionOids {
    /// Returns the OIDs of the objects in the schema of the function that is being called.
    pub fn of(call: &Call) -> ExtensionOids {
        let function = call.function();
        ExtensionOids::at(
            sql_function::schema_of_function(function),
            sql_function::owner_of_function(function),
        )
    }

    /// Like [`ExtensionOids::of`], but for a function that a user called. Raises an error if the version of the library is not
    /// compatible with the objects.
    pub fn of_caller(call: &Call) -> ExtensionOids {
        versions::require_compatible_objects();
        ExtensionOids::of(call)
    }

    /// Returns the OID of the table `asn_inventory`, and the OID of its primary key's index.
    pub fn networks(self) -> (Oid, Oid) {
        (relation::find(self.schema, c"asn_inventory"), relation::find(self.schema, c"asn_inventory_pkey"))
    }

    /// Returns the OIDs according to the catalogs. This function is for processes in which no SQL function of the extension was
    /// called.
    pub fn of_extension(extension: &Extension) -> ExtensionOids {
        ExtensionOids::at(extension.schema, extension.owner)
    }

    /// If `worker_role` is set, replaces the owner by this role. Only the worker and the processes that it starts use this
    /// function.
    pub fn with_worker_role(mut self) -> ExtensionOids {
        if let Some(name) = guc::worker_role() {
            self.owner =
                catalog::role(&name).unwrap_or_else(|| pgrx::error!("role \"{name}\" does not exist"));
        }
        self
    }

    /// Runs `work` with the rights of the owner. Deferred triggers on the extension's tables fire before the current role is
    /// reset. So these triggers do not run with the rights of the user who started the process.
    pub fn run_by_owner<T>(self, work: impl FnOnce(ExtensionOids, &Connection) -> T) -> T {
        let oids = self;
        acting_as(oids.owner, || {
            let result = Connection::with(oids.schema, |connection| work(oids, connection));
            transaction::end_as_current_user();
            result
        })
    }

    /// The owner is the role that owns `ip_inventory`. So this code does not get the rights of a superuser. If `pg_upgrade` was
    /// used, the owner of the extension may be the superuser who ran it. The owner of a new function may be the superuser who
    /// updated the extension.
    fn at(schema: Oid, owner: Oid) -> ExtensionOids {
        let inventory = relation::find(schema, c"ip_inventory");
        ExtensionOids {
            schema,
            owner: catalog::owner_of_table(inventory).unwrap_or(owner),
            inventory,
            inventory_key: relation::find(schema, c"ip_inventory_pkey"),
        }
    }
}

/// Runs `work` in the current transaction of a process that the worker started. Uses the rights of `worker_role` if it is set,
/// otherwise those of the extension's owner. Returns `None` if the extension does not exist, or if its version is not
/// compatible with the library.
pub fn run_for_worker<T>(work: impl FnOnce(ExtensionOids, &Connection) -> T) -> Option<T> {
    let extension = catalog::extension()?;
    let is_compatible = versions::compare(&extension.version) == VersionMatch::Compatible;
    is_compatible.then(|| ExtensionOids::of_extension(&extension).with_worker_role().run_by_owner(work))
}

/// Returns true if a table in the extension's schema has a visible row. Returns `None` if the table does not exist or is not an
/// ordinary table. No statement is planned, because an idle worker calls this function every naptime.
pub fn has_rows(schema: Oid, table: &CStr) -> Option<bool> {
    let readable = ReadableTable::open(relation::find(schema, table))?;
    let latest = mvcc_snapshot::Latest::take();
    let mut has_some = false;
    readable.rows(latest.view(), |_| {
        has_some = true;
        ControlFlow::Break(())
    });
    Some(has_some)
}
