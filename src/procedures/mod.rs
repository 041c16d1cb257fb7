//! Procedures that process whole tables. Each batch is one transaction. If a call is killed, the next call continues where the
//! killed call stopped.
//!
//! A call of a procedure holds a lock while it runs. Therefore at most one call of each procedure can run at a time. If the
//! procedure works on one table, at most one call can run for each table. The lock is visible in pg_locks. The progress of a call
//! is stored in `procedure_call`. Each batch stores it in its own transaction, so other sessions see only committed progress.
//!
//! Batches run as the extension's owner. They take locks in the order that is defined in `store`.

pub mod add_session_foreign_key;
pub mod backfill_sessions;
pub mod build_asn_inventory;
pub mod erase_address;
mod erasure;
pub mod expire_addresses;
pub mod import_inventory;
pub mod progress;
pub mod refresh_session_counts;
pub mod refresh_stale;
mod session_tables;

use std::time::{Duration, Instant};

use crate::error;
use crate::pg::exclusion::{AdvisoryLockGuard, HeldLock, kind_in_pg_locks};
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::transaction::{self, Isolation};
use crate::pg::value::{Jsonb, Typed};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{self, Oid, check_for_interrupts, relation};
use crate::procedures::progress::{self as report, ProgressReporter};
use crate::shared_state::PROCEDURES;
use crate::store::procedure_call::{self, Key};
use crate::store::{ExtensionOids, cluster};

/// The hint that is shown if an attached table is not intact.
const ATTACH_AGAIN: &str = "Undo the change, or call attach_session_table() again with all arguments of the earlier call. Then call backfill_sessions() for the table.";

/// The procedures. The number of a procedure identifies its lock, so the numbers of existing procedures must not change.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Procedure {
    BuildAsnInventory = 0,
    BackfillSessions = 1,
    RefreshSessionCounts = 2,
    RefreshStale = 3,
    ImportInventory = 4,
    AddSessionForeignKey = 5,
    EraseAddress = 6,
    ExpireAddresses = 7,
}

impl Procedure {
    pub const ALL: [Procedure; PROCEDURES] = [
        Procedure::BuildAsnInventory,
        Procedure::BackfillSessions,
        Procedure::RefreshSessionCounts,
        Procedure::RefreshStale,
        Procedure::ImportInventory,
        Procedure::AddSessionForeignKey,
        Procedure::EraseAddress,
        Procedure::ExpireAddresses,
    ];

    /// Returns true if the procedure reads the sessions of all attached tables.
    const fn reads_all_sessions(self) -> bool {
        matches!(self, Procedure::RefreshSessionCounts | Procedure::EraseAddress | Procedure::ExpireAddresses)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Procedure::BuildAsnInventory => "build_asn_inventory",
            Procedure::BackfillSessions => "backfill_sessions",
            Procedure::RefreshSessionCounts => "refresh_session_counts",
            Procedure::RefreshStale => "refresh_stale",
            Procedure::ImportInventory => "import_inventory",
            Procedure::AddSessionForeignKey => "add_session_foreign_key",
            Procedure::EraseAddress => "erase_address",
            Procedure::ExpireAddresses => "expire_addresses",
        }
    }
}

/// The options of a procedure call.
pub struct Options {
    pub procedure: Procedure,
    /// The table on which the call works. `Oid::INVALID` if the call does not work on one table.
    pub relation: Oid,
    /// True if the call shows its progress to the caller.
    pub progress: bool,
    /// True if the procedure needs to commit. If it is called inside a transaction block, it raises an error.
    pub needs_commits: bool,
}

/// A running call.
pub struct Run<'a> {
    pub oids: ExtensionOids,
    pub connection: &'a Connection,
    key: Key,
    may_commit: bool,
    progress: Option<ProgressBar>,
    phase: &'static str,
    done: i64,
    total: i64,
    resume_at: Option<OwnedVarlena>,
    /// Reports progress to other sessions. Unset if the call cannot commit, because its batches may still be rolled back.
    reporting: Option<ProgressReporter>,
}

/// Runs a procedure call from beginning to end. `work` returns the counts for the final report, each with its name.
pub fn run(call: &Call, options: &Options, work: impl FnOnce(&mut Run) -> Vec<(&'static str, i64)>) {
    let procedure = options.procedure;
    let may_commit = !call.is_atomic();
    if options.needs_commits && !may_commit {
        error::in_transaction_block(procedure.name());
    }
    error::require_writable(&format!("{}()", procedure.name()));
    let oids = ExtensionOids::of_caller(call);
    cluster::refuse_on_member(oids, procedure.name());
    let are_distributed = || {
        Connection::with(oids.schema, |connection| acting_as(oids.owner, || cluster::distributes(connection)))
    };
    if cluster::is_citus_table(options.relation) || procedure.reads_all_sessions() && are_distributed() {
        error::of_distributed(procedure.name());
    }
    let kind = procedure as u16;
    let calls_table = relation::find(oids.schema, c"procedure_call");
    // The guard in this variable releases all advisory locks of the session. It must be dropped after `_held`, which releases its
    // own lock. So this variable is declared before `_held`.
    let mut released = None;
    let Some(_held) = HeldLock::take(calls_table, options.relation.to_u32(), kind) else {
        error::already_running(procedure.name());
    };
    let key = Key { procedure: procedure.name(), relation: options.relation };
    let in_connection = |connection: &Connection| {
        if acting_as(oids.owner, || procedure_call::locks_of_the_session(connection)) == 1 {
            released = Some(AdvisoryLockGuard::begin());
        }
        let begin = || procedure_call::begin(connection, key, kind_in_pg_locks(kind), "starting");
        let resume_at = acting_as(oids.owner, begin);
        let progress = options.progress.then(ProgressBar::new);
        let (phase, done, total) = ("starting", 0, 0);
        let reporting = may_commit.then(|| report::begin(procedure as usize));
        let mut run =
            Run { oids, connection, key, may_commit, progress, phase, done, total, resume_at, reporting };
        run.commit();
        let report = work(&mut run);
        run.end_phase();
        acting_as(oids.owner, || procedure_call::end(connection, key, &report));
        run.commit();
        run.report(ProgressReporter::complete);
        let words: Vec<String> = report.iter().map(|(name, number)| format!("{name} {number}")).collect();
        pg::notice(&format!("{}: {}", procedure.name(), words.join(", ")));
    };
    if may_commit {
        Connection::with_commits(oids.schema, in_connection);
    } else {
        Connection::with(oids.schema, in_connection);
    }
}

impl Run<'_> {
    /// Returns the name of the procedure.
    pub fn procedure(&self) -> &'static str {
        self.key.procedure
    }

    /// Returns the position at which the previous call stopped, if that call was killed.
    pub fn resume_at(&self) -> Option<&OwnedVarlena> {
        self.resume_at.as_ref()
    }

    /// Begins a phase of the call. `total` is the expected number of rows or other units in this phase.
    pub fn begin(&mut self, phase: &'static str, total: i64) {
        self.end_phase();
        (self.phase, self.done, self.total) = (phase, 0, total);
        if let Some(bar) = &mut self.progress {
            bar.restart();
        }
        self.note(None);
        self.commit();
        self.report(|reporting| reporting.phase(phase, total));
    }

    /// Runs one batch in its own transaction, as the extension's owner. `work` returns the number of units that it has processed.
    pub fn batch(&mut self, work: impl FnOnce(&Connection) -> i64) {
        self.batch_resumable(|connection| (work(connection), None));
    }

    /// Runs one batch like [`Run::batch`]. `work` also returns a position. If this call is killed, the next call continues at this
    /// position.
    pub fn batch_resumable(&mut self, work: impl FnOnce(&Connection) -> (i64, Option<Typed<Jsonb>>)) {
        // Each batch has its own connection, so the memory of the batch's statements is freed when the batch ends.
        Connection::with(self.oids.schema, |connection| {
            let (done, resume_at) = acting_as(self.oids.owner, || work(connection));
            self.done += done;
            self.note(resume_at);
        });
        if self.may_commit {
            // The commits of batches do not wait until they are written to disk. Only the last commit of the call waits. If the
            // server crashes and loses batches, the next call repeats them.
            transaction::commit_lazily();
        }
        self.commit();
        self.report(|reporting| reporting.batch(self.done));
        if let Some(bar) = &mut self.progress {
            bar.show(self.key.procedure, self.phase, self.done, self.total, false);
        }
    }

    /// If the call may commit, commits. Also handles interrupts. Batches always use READ COMMITTED and ignore
    /// default_transaction_isolation. In a stricter isolation level, a batch that waits for a row would fail after the wait.
    pub fn commit(&self) {
        if self.may_commit {
            self.connection.commit();
            transaction::isolate(Isolation::ReadCommitted);
        }
        check_for_interrupts();
    }

    fn report(&self, report: impl FnOnce(&ProgressReporter)) {
        if let Some(reporting) = &self.reporting {
            report(reporting);
        }
    }

    /// Ends a phase. The total of a phase is only an estimate, so the number of processed units now replaces the total.
    fn end_phase(&mut self) {
        self.total = self.done;
        self.note(None);
        if let Some(bar) = &mut self.progress
            && (self.total > 0 || bar.was_shown_in_phase)
        {
            bar.show(self.key.procedure, self.phase, self.done, self.total, true);
        }
    }

    fn note(&self, resume_at: Option<Typed<Jsonb>>) {
        let (key, phase, progress) = (self.key, self.phase, (self.done, self.total));
        acting_as(self.oids.owner, || {
            procedure_call::advance(self.connection, key, phase, progress, resume_at)
        });
    }
}

/// Shows the progress to the caller, with at most one line per second.
///
/// ```text
/// NOTICE:  backfill_sessions: sessions [##########..........]  50 %, 840000 of 1680000, 31250 a second, 27 s left
/// ```
struct ProgressBar {
    began: Instant,
    shown: Option<(Instant, i64)>,
    was_shown_in_phase: bool,
}

const EVERY: Duration = Duration::from_secs(1);
const WIDTH: i64 = 20;

impl ProgressBar {
    fn new() -> ProgressBar {
        ProgressBar { began: Instant::now(), shown: None, was_shown_in_phase: false }
    }

    fn restart(&mut self) {
        *self = ProgressBar { shown: self.shown, ..ProgressBar::new() };
    }

    fn show(&mut self, procedure: &str, phase: &str, done: i64, total: i64, is_last: bool) {
        let is_early = self.shown.is_some_and(|(at, _)| at.elapsed() < EVERY);
        if is_early && !is_last {
            return;
        }
        self.shown = Some((Instant::now(), done));
        self.was_shown_in_phase = true;
        pg::notice(&if total.max(done) > 0 {
            line(procedure, phase, (done, total), self.began.elapsed())
        } else if is_last {
            format!("{procedure}: {phase} [{}] 100 %, nothing to do", "#".repeat(WIDTH as usize))
        } else {
            format!("{procedure}: {phase} [{}]   0 %, nothing done yet", ".".repeat(WIDTH as usize))
        });
    }
}

fn line(procedure: &str, phase: &str, (done, total): (i64, i64), took: Duration) -> String {
    // The total is an estimate, so `done` may be greater than the total.
    let total = total.max(done);
    let filled = (done * WIDTH / total) as usize;
    let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH as usize - filled));
    let rate = done as f64 / took.as_secs_f64().max(0.001);
    let left = if rate > 0.0 {
        format!("{:.0} s left", (total - done) as f64 / rate)
    } else {
        "time left unknown".to_owned()
    };
    format!(
        "{procedure}: {phase} [{bar}] {:3} %, {done} of {total}, {rate:.0} a second, {left}",
        done * 100 / total
    )
}
