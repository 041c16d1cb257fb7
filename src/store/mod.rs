//! All SQL that Rust runs. Knows tables, never the network.
//!
//! Order of locks: new networks, existing networks, new addresses, existing addresses; each in key order. A
//! transaction that follows it cannot deadlock with another that does. Sessions only create; they take no lock on an
//! existing network, and an existing address only if it is free. Jobs of the queue come before all of these, and
//! rows of session_completion after them.

pub mod addresses;
pub mod backfill_sessions;
pub mod block_answer;
pub mod build_asn_inventory;
pub mod calls;
pub mod campaigns;
pub mod complete_sessions;
pub mod completions;
pub mod counter_deltas;
pub mod enrich;
pub mod fill_register;
pub mod fold;
pub mod import_inventory;
pub mod networks;
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
pub mod sizes;
pub mod unblocked;

use std::ffi::CStr;
use std::ops::ControlFlow;

use cowrie_enrich_engine::version::Fit;

use crate::guc;
use crate::pg::call::{self, Call};
use crate::pg::catalog::{self, Extension};
use crate::pg::role::acting_as;
use crate::pg::scan::Readable;
use crate::pg::spi::Connection;
use crate::pg::{Oid, relation, snapshot, transaction};
use crate::versions;

/// For statements that work on much at once: compiling takes longer than it saves, and memory; and what they sum and compare
/// is of any size, what is in memory of it is not.
const BOUNDED: &[(&CStr, &CStr)] = &[(c"jit", c"off"), (c"work_mem", c"4MB")];

/// Where the extension's objects are, and who owns them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Home {
    pub schema: Oid,
    pub owner: Oid,
    /// `ip_inventory` and its primary key's index.
    pub inventory: Oid,
    pub inventory_key: Oid,
}

impl Home {
    /// Found by the function that is being called: it lives where everything else does.
    pub fn of(call: &Call) -> Home {
        let function = call.function();
        Home::at(call::schema_of_function(function), call::owner_of_function(function))
    }

    /// The same for a function that somebody called, who can be told that it does not fit the objects.
    pub fn of_caller(call: &Call) -> Home {
        versions::require_fitting_objects();
        Home::of(call)
    }

    /// Returns `asn_inventory` and its primary key's index.
    pub fn networks(self) -> (Oid, Oid) {
        (relation::find(self.schema, c"asn_inventory"), relation::find(self.schema, c"asn_inventory_pkey"))
    }

    /// As the catalogs say, for a process that no function was called in.
    pub fn of_extension(extension: &Extension) -> Home {
        Home::at(extension.schema, extension.owner)
    }

    /// The same for the worker and the processes that it starts: `worker_role` stands for the owner where it is set.
    pub fn with_worker_role(mut self) -> Home {
        if let Some(name) = guc::worker_role() {
            self.owner =
                catalog::role(&name).unwrap_or_else(|| pgrx::error!("role \"{name}\" does not exist"));
        }
        self
    }

    /// Runs `work` as the owner. Deferred triggers that somebody put on our tables fire within it, not as whom the process
    /// began as.
    pub fn run_by_owner<T>(self, work: impl FnOnce(Home, &Connection) -> T) -> T {
        let home = self;
        acting_as(home.owner, || {
            let result = Connection::with(home.schema, |connection| work(home, connection));
            transaction::end_as_current_user();
            result
        })
    }

    /// The owner is that of `ip_inventory`. `pg_upgrade` makes the superuser who runs it the owner of the extension, and a
    /// superuser who updates the extension becomes the owner of new functions. Neither may bring more rights.
    fn at(schema: Oid, owner: Oid) -> Home {
        let inventory = relation::find(schema, c"ip_inventory");
        Home {
            schema,
            owner: catalog::owner_of_table(inventory).unwrap_or(owner),
            inventory,
            inventory_key: relation::find(schema, c"ip_inventory_pkey"),
        }
    }
}

/// Runs `work` in the current transaction of a process that the worker has started, as the extension's owner or `worker_role`.
/// `None`: the extension is not there, or does not fit the library.
pub fn run_for_worker<T>(work: impl FnOnce(Home, &Connection) -> T) -> Option<T> {
    let extension = catalog::extension()?;
    let fits = versions::fit(&extension.version) == Fit::Fits;
    fits.then(|| Home::of_extension(&extension).with_worker_role().run_by_owner(work))
}

/// Returns whether a table of the extension has a row that is visible now; `None` if it cannot be read below the executor.
/// Plans nothing, because an idle worker asks every naptime.
pub fn has_rows(home: Home, table: &CStr) -> Option<bool> {
    let readable = Readable::open(relation::find(home.schema, table))?;
    let latest = snapshot::Latest::take();
    let mut has_some = false;
    readable.rows(latest.view(), |_| {
        has_some = true;
        ControlFlow::Break(())
    });
    Some(has_some)
}
