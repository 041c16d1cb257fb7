//! SQL functions that show operators the state of the workers and the providers.

use std::sync::atomic::Ordering;

use cowrie_enrich_engine::breaker::State;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::pg::sql_function::Call;
use crate::pg::value::{Bigint, Integer, ToSql, Typed, Value, value};
use crate::pg::{Oid, catalog, text};
use crate::provider::Provider;
use crate::provider::counters::{self, COUNTS};
use crate::provider::health;
use crate::shared_state::{self, OwnerSlot, WorkerSlot, owner_process};
use crate::store::inbox_duplicates;
use crate::worker::activity::Activity;
use crate::worker::registry::{self, NoWorkerReason};
use crate::{row, sql_function};

sql_function!(request_appended_wrapper, pg_finfo_request_appended_wrapper, request_appended);
/// Row trigger on `enrichment_request`.
fn request_appended(_: &Call) {
    registry::work_was_queued();
}

sql_function!(
    reclassification_appended_wrapper,
    pg_finfo_reclassification_appended_wrapper,
    reclassification_appended
);
/// Statement trigger on `network_reclassification`.
fn reclassification_appended(_: &Call) {
    registry::networks_were_edited();
}

sql_function!(requests_removed_wrapper, pg_finfo_requests_removed_wrapper, requests_removed);
/// Statement trigger on `enrichment_request`.
fn requests_removed(_: &Call) {
    inbox_duplicates::begin_epoch();
}

sql_function!(worker_status_wrapper, pg_finfo_worker_status_wrapper, worker_status);
fn worker_status(call: &Call) {
    let block = shared_state::block();
    let launcher_says = if !shared_state::is_shared() {
        "not started: shared_preload_libraries does not contain cowrie_enrich"
    } else if catalog::is_standby() {
        "waiting for promotion of this standby"
    } else if block.launcher.is_taken() {
        "running"
    } else {
        "starting"
    };
    let mut rows = vec![row("launcher", None, &block.launcher, launcher_says)];
    if block.exporter.is_taken() {
        rows.push(row("exporter", None, &block.exporter, "running"));
    }
    for worker_slot in &block.worker_slots {
        let database = Oid::from(worker_slot.database.load(Ordering::Acquire));
        if database != Oid::INVALID {
            let says = Activity::of_slot(worker_slot).name();
            rows.push(row("worker", catalog::database_name(database), worker_slot, says));
        }
        for slot in worker_slot.owner_slots.iter().filter(|slot| slot.pid.load(Ordering::Acquire) != 0) {
            rows.push(owner_row(slot));
        }
    }
    let has_slot = |database| {
        block.worker_slots.iter().any(|worker_slot| worker_slot.database.load(Ordering::Acquire) == database)
    };
    for waiting in shared_state::waiting().into_iter().filter(|waiting| !has_slot(waiting.database)) {
        // Databases that were dropped in the meantime are left out.
        let Some(name) = catalog::database_name(waiting.database.into()) else { continue };
        rows.push(row![
            Text: "worker",
            Text: &name,
            Integer: None::<i32>,
            Text: NoWorkerReason::name(waiting.reason),
            Timestamptz: waiting.since,
            Timestamptz: None::<Timestamp>,
            Bigint: 0_i64,
            Bigint: 0_i64,
        ]);
    }
    call.set(rows);
}

/// Returns the row of `worker_status()` for an owner process. An owner process runs code of the owner of session tables.
fn owner_row(slot: &OwnerSlot) -> Vec<Value> {
    let role = Oid::from(slot.owner.load(Ordering::Acquire));
    let name = catalog::role_name(role).map(|name| text::distinct(&name));
    let name = name.unwrap_or_else(|| role.to_u32().to_string());
    let says = if slot.is_abandoned.load(Ordering::Acquire) {
        format!("abandoned: code of table owner {name} did not end after cancellation")
    } else if !slot.is_connected.load(Ordering::Acquire) {
        format!("starting; will work on session tables of owner {name}")
    } else if slot.is_idle.load(Ordering::Acquire) {
        format!("waiting for work on session tables of owner {name}")
    } else {
        format!("working on session tables of owner {name}")
    };
    let database = Oid::from(slot.database.load(Ordering::Acquire));
    row![
        Text: "owner process",
        Text: catalog::database_name(database),
        Integer: slot.pid.load(Ordering::Acquire),
        Text: &says,
        Timestamptz: slot.since.load(Ordering::Relaxed),
        Timestamptz: slot.started_at.load(Ordering::Relaxed),
        Bigint: slot.batches.load(Ordering::Relaxed),
        Bigint: slot.errors.load(Ordering::Relaxed),
    ]
}

sql_function!(abandoned_processes_wrapper, pg_finfo_abandoned_processes_wrapper, abandoned_processes);
fn abandoned_processes(_: &Call) -> Typed<Integer> {
    i32::try_from(owner_process::abandoned(catalog::own_database())).unwrap_or(i32::MAX).to_sql()
}

fn row(role: &str, database: Option<String>, worker_slot: &WorkerSlot, says: &str) -> Vec<Value> {
    let pid = worker_slot.pid.load(Ordering::Acquire);
    let says = if pid == 0 && role == "worker" { Activity::Starting.name() } else { says };
    row![
        Text: role,
        Text: database,
        Integer: (pid != 0).then_some(pid),
        Text: says,
        Timestamptz: worker_slot.since.load(Ordering::Relaxed).if_set(),
        Timestamptz: worker_slot.started_at.load(Ordering::Relaxed).if_set(),
        Bigint: worker_slot.batches.load(Ordering::Relaxed),
        Bigint: worker_slot.errors.load(Ordering::Relaxed),
    ]
}

sql_function!(provider_status_wrapper, pg_finfo_provider_status_wrapper, provider_status);
fn provider_status(call: &Call) {
    call.set(Provider::all().map(|provider| {
        let health = health::health(provider);
        let (quota, left, resets_at) = match health.quota {
            Some((quota, left, resets_at)) => {
                (Some(i64::from(quota)), i64::try_from(left).ok(), Some(resets_at))
            }
            None => (None, None, None),
        };
        let state = match health.state {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half-open",
        };
        let mut row = row![
            Text: provider.name(),
            Text: state,
            Text: health.blocked_reason,
            Bigint: i64::from(health.failures),
            Timestamptz: health.backoff_until,
            Bigint: i64::from(health.in_use),
            Timestamptz: health.last_success,
            Timestamptz: health.last_failure,
            Text: health.last_error,
            Text: health.notice,
            Bigint: quota,
            Bigint: left,
            Timestamptz: resets_at,
        ];
        row.extend(COUNTS.map(|count| value::<Bigint>(counters::read(provider, count))));
        row
    }));
}
