//! The steps that run before a transaction commits. They create missing inventory rows, append the counts, and queue lookups.
//!
//! Each step runs in its own subtransaction. If the rows cannot be created, the counts are still appended. Folding the counts then
//! creates the missing rows.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;

use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::role::{acting_as, with_settings};
use crate::pg::spi::Connection;
use crate::pg::subtransaction::{Failure, contained};
use crate::pg::{self, mvcc_snapshot, relation, transaction};
use crate::provider::limiter;
use crate::provider::{Provider, Providers};
use crate::session::pending_address::{OtherIncomplete, PendingAddresses};
use crate::store::completions::{AppendResult, IncompleteSessionRow};
use crate::store::enrich::{self, LockPolicy, SessionCount};
use crate::store::recount_requests::RecountRequest;
use crate::store::{ExtensionOids, completions, recount_requests, session_delta};
use crate::telemetry::{self, Counter};
use crate::worker::registry;

/// The total time that the steps of a commit may still wait for locks.
pub struct LockWaitBudget(Cell<Duration>);

impl LockWaitBudget {
    /// Starts with the maximum time that a commit may wait for locks.
    pub fn begin() -> LockWaitBudget {
        LockWaitBudget(Cell::new(LOCK_WAIT_LIMIT))
    }

    fn spend(&self, waited: Duration) {
        self.0.set(self.0.get().saturating_sub(waited));
    }

    /// Takes the lock that is needed to append to a table of the extension. Raises an error if the wait for the lock takes too
    /// long.
    pub fn lock(&self, oids: ExtensionOids, table: &CStr) {
        let began = Instant::now();
        let longest = self.0.get().max(LOCK_WAIT_MINIMUM);
        relation::lock_for_appending(relation::find(oids.schema, table), longest);
        self.spend(began.elapsed());
    }

    /// Takes the lock that is needed to append to a table of the extension, then runs `work`, which appends. Both run in one
    /// subtransaction.
    pub fn append<T>(
        &self,
        oids: ExtensionOids,
        table: &CStr,
        work: impl FnOnce() -> T,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let appended = contained(|| {
            self.lock(oids, table);
            work()
        });
        if let Err(failure) = &appended
            && failure.was_lock
        {
            self.spend(began.elapsed());
        }
        appended
    }
}

/// Runs all steps.
pub fn write(oids: ExtensionOids, mut addresses: PendingAddresses, other_incomplete: &OtherIncomplete) {
    let budget = LockWaitBudget::begin();
    let may_be_missing = addresses.iter().filter(|(_, pending)| pending.needs_row && !pending.is_present());
    let may_be_missing: Vec<(Address, SessionCount)> =
        may_be_missing.map(|(address, pending)| (*address, pending.count.arrived())).collect();
    // In a serializable transaction, folding creates the rows instead, because the reads of this step could cause serialization
    // failures in this or another transaction.
    if !may_be_missing.is_empty() && !mvcc_snapshot::is_serializable() {
        let began = Instant::now();
        let created = create(oids, may_be_missing.into_iter(), CreationTime::Commit);
        if let Err(failure) = &created
            && failure.was_lock
        {
            budget.spend(began.elapsed());
        }
        for address in created.unwrap_or_default() {
            // The row was created with the count of these sessions, and the lookups of the address are queued. So both are removed
            // from the pending work.
            if let Some(created) = addresses.get_mut(&address) {
                created.count.sessions -= created.count.arrived().sessions;
                created.awaits = Providers::NONE;
            }
        }
    }
    // The counts are appended first, because only a recount of all sessions can replace lost counts.
    append_counts(oids, &addresses, &budget);
    queue_awaited(oids, &addresses, &budget);
    note_incomplete(oids, &addresses, other_incomplete, &budget);
}

fn append_counts(oids: ExtensionOids, addresses: &PendingAddresses, budget: &LockWaitBudget) {
    let counts = || {
        addresses
            .iter()
            .map(|(address, pending)| (*address, pending.count))
            .filter(|(_, count)| count.sessions != 0)
    };
    if counts().next().is_none() {
        return;
    }
    if let Err(failure) = budget.append(oids, c"session_delta", || session_delta::append(oids, counts())) {
        let sessions = counts().map(|(_, count)| count.sessions.abs()).sum();
        counts_are_lost(oids, sessions, &failure);
    }
}

fn counts_are_lost(oids: ExtensionOids, sessions: i64, failure: &Failure) {
    telemetry::add(Counter::CountsLost, sessions);
    let headline = "could not store the session counts of a transaction in session_delta";
    let is_logged = telemetry::error_is_logged(headline, &failure.message);
    request_recount(oids, RecountRequest { sessions, has_gaps: false });
    if !is_logged {
        return;
    }
    let hint = if registry::has_worker() {
        "The worker will recount all sessions automatically. The table recount_request has a row until the recount has ended."
    } else {
        "No worker runs in this database. Call refresh_session_counts() to recount all sessions."
    };
    pg::warning("cowrie_enrich could not count the sessions of this transaction", hint);
}

/// Requests a recount of the sessions of all tables. The request is a row that commits together with the sessions. If the row
/// cannot be appended, the request is kept in shared memory until the worker has appended a row.
fn request_recount(oids: ExtensionOids, missing: RecountRequest) {
    registry::work_was_queued();
    let requested = contained(|| {
        relation::lock_for_appending(relation::find(oids.schema, c"recount_request"), LOCK_WAIT_MINIMUM);
        recount_requests::append(oids, missing);
    });
    if let Err(failure) = requested {
        telemetry::error("could not store a recount request in the table recount_request", &failure.message);
        registry::recount_is_needed();
    }
}

fn were_not_queued(failure: &Failure) {
    registry::sweep_is_needed();
    telemetry::error(
        "could not queue the lookups of a transaction; the worker will queue these lookups later",
        &failure.message,
    );
}

/// Queues lookups of addresses that already exist, but whose network or type is still unknown. A provider's answer for such an
/// address may already be pending. Without the queued lookup, the worker could store this answer before it sees the sessions of
/// this transaction, and these sessions would stay incomplete. The worker reads the queued lookup after this commit, and then
/// completes the sessions.
pub fn queue_awaited(oids: ExtensionOids, addresses: &PendingAddresses, budget: &LockWaitBudget) {
    let some = addresses.values().any(|pending| pending.was_added && !pending.awaits.is_empty());
    // If the database has no worker, no answer can be pending.
    if !some || !registry::has_worker() {
        return;
    }
    let answering = Providers::of(
        Providers::enabled().iter().filter(|provider| limiter::may_have_pending_answer(*provider)),
    );
    let awaited: Vec<(Address, Provider)> = addresses
        .iter()
        .filter(|(_, pending)| pending.was_added)
        .flat_map(|(address, pending)| enrich::able(*address, pending.awaits.and(answering)))
        .collect();
    if awaited.is_empty() {
        return;
    }
    let table = c"enrichment_request";
    if let Err(failure) = budget.append(oids, table, || enrich::request(oids, awaited)) {
        were_not_queued(&failure);
    }
}

/// Records the tables that have sessions with null snapshot columns, if an enabled provider may fill these columns.
pub fn note_incomplete(
    oids: ExtensionOids,
    addresses: &PendingAddresses,
    other_incomplete: &OtherIncomplete,
    budget: &LockWaitBudget,
) {
    if other_incomplete.is_empty() && addresses.values().all(|pending| pending.incomplete.is_none()) {
        return;
    }
    let may_be_filled = completions::may_be_filled();
    let own = addresses.iter().filter_map(|(address, pending)| {
        let (table, gaps) = pending.incomplete?;
        Some((*address, table, gaps))
    });
    let incomplete: Vec<IncompleteSessionRow> = own
        .chain(other_incomplete.iter().map(|((address, table), gaps)| (*address, *table, *gaps)))
        .map(|(address, table, gaps)| (address, table, gaps.and(may_be_filled)))
        .filter(|(address, _, gaps)| gaps.any() && bogon::reason(*address).is_none())
        .filter_map(|(address, table, gaps)| {
            let pending = addresses.get(&address).filter(|pending| pending.was_added)?;
            // If `is_asked` is true, the append does not read the index. In a serializable transaction, a read of the index could
            // cause serialization failures.
            let is_asked = pending.is_asked || mvcc_snapshot::is_serializable();
            Some(IncompleteSessionRow { address, table, gaps, is_asked })
        })
        .collect();
    if incomplete.is_empty() {
        return;
    }
    let has_worker = registry::has_worker();
    let append = || completions::append(oids, incomplete.into_iter(), has_worker);
    match budget.append(oids, c"incomplete_session", append) {
        Ok(AppendResult::Rows) => registry::work_was_queued(),
        Ok(AppendResult::Nothing) => {}
        // If a request for a recount already exists, no further request is needed, because a recount reads the sessions of all
        // tables.
        Ok(AppendResult::NoRoom) if recount_requests::may_exist(oids) => {}
        Ok(AppendResult::NoRoom) => request_recount(oids, RecountRequest { sessions: 0, has_gaps: true }),
        Err(failure) => {
            telemetry::error(
                "could not register sessions with null snapshot columns in the table incomplete_session",
                &failure.message,
            );
            request_recount(oids, RecountRequest { sessions: 0, has_gaps: true });
        }
    }
}

/// When addresses are created.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CreationTime {
    /// Addresses are created before PostgreSQL checks a foreign key. If this fails, the addresses are created without their
    /// networks.
    ForeignKeyCheck,
    /// Addresses are created at commit, when statement_timeout no longer applies. If this fails, folding creates the rows later.
    Commit,
}

/// Maximum time that a commit waits for locks. Other commits hold these locks for only a few milliseconds. But a long enrichment,
/// an idle transaction or a lock on a table of the extension must not block a honeypot.
const LOCK_WAIT_LIMIT: Duration = Duration::from_millis(300);
/// [`LOCK_WAIT_LIMIT`] as a setting.
const LOCK_TIMEOUT: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"300ms")];
/// Time for which a step may still wait for the lock of a table after earlier steps have used the whole [`LOCK_WAIT_LIMIT`].
const LOCK_WAIT_MINIMUM: Duration = Duration::from_millis(20);

/// With this setting, the server does not check foreign keys. A check would open `asn_inventory`, even if the reference is null.
/// The rows that are created with this setting refer to no network.
const WITHOUT_REFERENCES: &[(&CStr, &CStr)] = &[(c"session_replication_role", c"replica")];

/// Creates the addresses that a foreign key requires, without their networks. Called if a lock or an error has prevented the
/// creation with networks. The foreign key needs only the address, so only the inventory of addresses is opened. Returns true if
/// the rows exist.
///
/// If another transaction is creating the same address, this transaction waits for it. The wait ends at the latest after the user's
/// own lock_timeout. Without the wait, the foreign key would make the INSERT fail, and Cowrie would lose the session.
pub fn create_bare(oids: ExtensionOids, wanted: &[Address]) -> bool {
    let written = contained(|| {
        mvcc_snapshot::with_fresh(|| {
            acting_as(oids.owner, || {
                with_settings(WITHOUT_REFERENCES, || {
                    Connection::with(oids.schema, |connection| enrich::create_bare(connection, wanted))
                })
            })
        })
    });
    let created = match written {
        Ok(created) => created,
        Err(failure) => {
            telemetry::error(
                "could not create rows of ip_inventory that a foreign key requires",
                &failure.message,
            );
            return false;
        }
    };
    let budget = LockWaitBudget(Cell::new(LOCK_WAIT_MINIMUM));
    let lookups =
        enrich::lookups_of_new(created.into_iter().map(|address| (address, None)), Providers::enabled());
    let queued = budget.append(oids, c"enrichment_request", || enrich::request(oids, lookups));
    if let Err(failure) = queued {
        were_not_queued(&failure);
    }
    true
}

/// Creates missing rows, and renews rows that are older than the mmdb files. Returns the addresses whose rows were created.
pub fn create(
    oids: ExtensionOids,
    addresses: impl Iterator<Item = (Address, SessionCount)>,
    time: CreationTime,
) -> Result<Vec<Address>, Failure> {
    let counts: BTreeMap<Address, SessionCount> = addresses.collect();
    // This lock_timeout also applies to the locks on the tables.
    let written = contained(|| {
        with_settings(LOCK_TIMEOUT, || {
            mmdb::with(LoadPolicy::None, |databases| create_missing(oids, counts, databases, time))
        })
    });
    written.inspect_err(|failure| {
        let what = match time {
            CreationTime::Commit => {
                "could not create inventory rows for the addresses of a transaction; fold_statistics() or the worker will create these rows later"
            }
            CreationTime::ForeignKeyCheck => "could not create rows of ip_inventory and their networks for a foreign key",
        };
        telemetry::error(what, &failure.message);
    })
}

fn create_missing(
    oids: ExtensionOids,
    counts: BTreeMap<Address, SessionCount>,
    databases: &Databases,
    time: CreationTime,
) -> Vec<Address> {
    let latest = mvcc_snapshot::Latest::take();
    let plan = enrich::plan(oids, counts, databases, latest.view(), false, Providers::NONE);
    drop(latest);
    if plan.missing.is_empty() && plan.due.is_empty() {
        return Vec::new();
    }
    mvcc_snapshot::with_fresh(|| {
        acting_as(oids.owner, || {
            let created = Connection::with(oids.schema, |connection| {
                enrich::write(oids, connection, databases, &plan, LockPolicy::Skip)
            });
            if time == CreationTime::Commit {
                // Fires the deferred triggers on the inventories. This is necessary because the server has already fired the
                // deferred triggers of this commit, and does not fire them again.
                transaction::end_as_current_user();
            }
            created
        })
    })
}
