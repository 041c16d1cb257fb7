//! The kinds of steps that a worker runs, and the activity of a worker as the views show it.

use std::ffi::CStr;
use std::sync::atomic::Ordering;

use crate::shared_state::{Report, STEP_KINDS, WorkerSlot};
use crate::telemetry;

/// A worker's activity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Activity {
    Starting = 0,
    Sleeping,
    CreatingJobs,
    Claiming,
    Applying,
    Folding,
    Requeueing,
    Waiting,
    EvaluatingPriorities,
    CollectingMetrics,
    WaitingForUpdate,
    Supervising,
    StoppedByKeys,
    Reclassifying,
    TakingOver,
    LookingForRestore,
    WaitingForRestore,
    CollectingCounts,
}

impl Activity {
    /// Returns the name of the activity as `worker_status` shows it.
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }

    /// Returns the name of the activity as pg_stat_activity shows it.
    pub fn c_name(self) -> &'static CStr {
        match self {
            Activity::Starting => c"starting",
            Activity::Sleeping => c"sleeping",
            Activity::CreatingJobs => c"creating jobs",
            Activity::Claiming => c"claiming jobs",
            Activity::Applying => c"applying answers",
            Activity::Folding => c"adding pending counts to the inventories",
            Activity::Requeueing => c"queueing lookups that were not queued before",
            Activity::Waiting => c"waiting for a provider",
            Activity::EvaluatingPriorities => c"evaluating session priorities",
            Activity::CollectingMetrics => c"collecting queue metrics",
            Activity::WaitingForUpdate => c"waiting for ALTER EXTENSION UPDATE, or for a newer library",
            Activity::Supervising => c"supervising the processes that run code of table owners",
            Activity::StoppedByKeys => c"stopped by an unsafe foreign key",
            Activity::Reclassifying => c"reclassifying networks",
            Activity::TakingOver => c"taking over from an earlier worker",
            Activity::LookingForRestore => c"checking whether pg_restore runs",
            Activity::WaitingForRestore => c"waiting for pg_restore to end",
            Activity::CollectingCounts => c"collecting counts from the nodes of a Citus cluster",
        }
    }

    fn of(code: u32) -> Activity {
        const ALL: [Activity; 18] = [
            Activity::Starting,
            Activity::Sleeping,
            Activity::CreatingJobs,
            Activity::Claiming,
            Activity::Applying,
            Activity::Folding,
            Activity::Requeueing,
            Activity::Waiting,
            Activity::EvaluatingPriorities,
            Activity::CollectingMetrics,
            Activity::WaitingForUpdate,
            Activity::Supervising,
            Activity::StoppedByKeys,
            Activity::Reclassifying,
            Activity::TakingOver,
            Activity::LookingForRestore,
            Activity::WaitingForRestore,
            Activity::CollectingCounts,
        ];
        ALL.into_iter().find(|activity| *activity as u32 == code).unwrap_or(Activity::Starting)
    }

    /// Returns the activity of the worker in a slot.
    pub fn of_slot(worker_slot: &WorkerSlot) -> Activity {
        Activity::of(worker_slot.state.load(Ordering::Relaxed))
    }
}

/// A kind of transaction that a worker or an owner process runs. After a failure, the process runs the transaction again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum StepKind {
    LookForRestore = 0,
    TakeOver,
    CreateJobs,
    Sweep,
    EvaluatePriorities,
    Claim,
    ReleaseJobs,
    Apply,
    LookForRecounts,
    Collect,
    Fold,
    Reclassify,
    Supervise,
    Count,
    Lease,
    Complete,
    EndLeases,
    Evaluate,
}

impl StepKind {
    pub const ALL: [StepKind; STEP_KINDS] = [
        StepKind::LookForRestore,
        StepKind::TakeOver,
        StepKind::CreateJobs,
        StepKind::Sweep,
        StepKind::EvaluatePriorities,
        StepKind::Claim,
        StepKind::ReleaseJobs,
        StepKind::Apply,
        StepKind::LookForRecounts,
        StepKind::Collect,
        StepKind::Fold,
        StepKind::Reclassify,
        StepKind::Supervise,
        StepKind::Count,
        StepKind::Lease,
        StepKind::Complete,
        StepKind::EndLeases,
        StepKind::Evaluate,
    ];

    /// Returns the name of the step as the metrics and the log show it.
    pub fn name(self) -> &'static str {
        match self {
            StepKind::LookForRestore => "look_for_restore",
            StepKind::TakeOver => "take_over",
            StepKind::CreateJobs => "create_jobs",
            StepKind::Sweep => "sweep",
            StepKind::EvaluatePriorities => "evaluate_priorities",
            StepKind::Claim => "claim",
            StepKind::ReleaseJobs => "release_jobs",
            StepKind::Apply => "apply",
            StepKind::LookForRecounts => "look_for_recounts",
            StepKind::Collect => "collect",
            StepKind::Fold => "fold",
            StepKind::Reclassify => "reclassify",
            StepKind::Supervise => "supervise",
            StepKind::Count => "count",
            StepKind::Lease => "lease",
            StepKind::Complete => "complete",
            StepKind::EndLeases => "end_leases",
            StepKind::Evaluate => "evaluate",
        }
    }

    /// Returns the activity that the views show for a worker while it runs this step.
    pub fn activity(self) -> Activity {
        match self {
            StepKind::LookForRestore => Activity::LookingForRestore,
            StepKind::TakeOver => Activity::TakingOver,
            StepKind::CreateJobs => Activity::CreatingJobs,
            StepKind::Sweep => Activity::Requeueing,
            StepKind::EvaluatePriorities => Activity::EvaluatingPriorities,
            StepKind::Claim | StepKind::ReleaseJobs => Activity::Claiming,
            StepKind::Apply => Activity::Applying,
            StepKind::LookForRecounts | StepKind::Fold => Activity::Folding,
            StepKind::Collect => Activity::CollectingCounts,
            StepKind::Reclassify => Activity::Reclassifying,
            StepKind::Count => Activity::CollectingMetrics,
            // Owner processes run all of these steps, except `Supervise`, which the worker runs.
            StepKind::Supervise
            | StepKind::Lease
            | StepKind::Complete
            | StepKind::EndLeases
            | StepKind::Evaluate => Activity::Supervising,
        }
    }

    /// Counts the failure of a step in the report of a database, and logs the failure.
    pub fn failed(self, report: &Report, headline: &'static str, reason: &str) {
        report.step_errors[self as usize].fetch_add(1, Ordering::Relaxed);
        telemetry::error_about(self.name(), headline, reason);
    }
}
