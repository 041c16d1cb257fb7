//! The workers and the providers, as an operator sees them.

use std::sync::atomic::Ordering;

use cowrie_enrich_engine::breaker::State;
use pgrx::pg_sys;

use crate::inbox;
use crate::pg::call::Call;
use crate::pg::owner_slot::{self, OwnerSlot};
use crate::pg::shared::{self, WorkerSlot};
use crate::pg::{catalog, text};
use crate::provider::Provider;
use crate::provider::limiter::{self, COUNTS};
use crate::sql_function;
use crate::worker::registry::{self, Doing, Lack};

sql_function!(request_appended_wrapper, pg_finfo_request_appended_wrapper, request_appended);
/// Row trigger on `enrichment_request`.
fn request_appended(_: &Call) -> Option<pg_sys::Datum> {
    registry::work_was_queued();
    Some(pg_sys::Datum::from(0))
}

sql_function!(
    reclassification_appended_wrapper,
    pg_finfo_reclassification_appended_wrapper,
    reclassification_appended
);
/// Statement trigger on `network_reclassification`.
fn reclassification_appended(_: &Call) -> Option<pg_sys::Datum> {
    registry::networks_were_edited();
    Some(pg_sys::Datum::from(0))
}

sql_function!(requests_removed_wrapper, pg_finfo_requests_removed_wrapper, requests_removed);
/// Statement trigger on `enrichment_request`.
fn requests_removed(_: &Call) -> Option<pg_sys::Datum> {
    inbox::begin_epoch();
    Some(pg_sys::Datum::from(0))
}

sql_function!(worker_status_wrapper, pg_finfo_worker_status_wrapper, worker_status);
fn worker_status(call: &Call) -> Option<pg_sys::Datum> {
    let block = shared::block();
    let launcher_says = if !shared::is_shared() {
        "not preloaded"
    } else if catalog::is_standby() {
        "waiting for promotion"
    } else if block.launcher.is_taken() {
        "running"
    } else {
        "starting"
    };
    let mut rows = vec![row("launcher", None, &block.launcher, launcher_says)];
    if block.exporter.is_taken() {
        rows.push(row("exporter", None, &block.exporter, "running"));
    }
    for seat in &block.seats {
        let database = pg_sys::Oid::from(seat.database.load(Ordering::Acquire));
        if database != pg_sys::InvalidOid {
            let says = Doing::in_seat(seat).name();
            rows.push(row("worker", catalog::database_name(database), seat, says));
        }
        for slot in seat.owner_slots.iter().filter(|slot| slot.pid.load(Ordering::Acquire) != 0) {
            rows.push(owner_row(slot));
        }
    }
    let has_seat =
        |database| block.seats.iter().any(|seat| seat.database.load(Ordering::Acquire) == database);
    for waiting in shared::waiting().into_iter().filter(|waiting| !has_seat(waiting.database)) {
        // One that is gone waits for nothing.
        let Some(name) = catalog::database_name(waiting.database.into()) else { continue };
        rows.push(vec![
            Some(text::write("worker")),
            Some(text::write(&name)),
            None,
            Some(text::write(Lack::name(waiting.reason))),
            Some(pg_sys::Datum::from(waiting.since)),
            None,
            Some(pg_sys::Datum::from(0_i64)),
            Some(pg_sys::Datum::from(0_i64)),
        ]);
    }
    call.set(rows);
    None
}

/// A process that runs code of a table owner.
fn owner_row(slot: &OwnerSlot) -> Vec<Option<pg_sys::Datum>> {
    let role = pg_sys::Oid::from(slot.owner.load(Ordering::Acquire));
    let name = catalog::role_name(role).map(|name| text::distinct(&name));
    let name = name.unwrap_or_else(|| role.to_u32().to_string());
    let says = if slot.is_abandoned.load(Ordering::Acquire) {
        format!("abandoned with code of {name}")
    } else if !slot.is_connected.load(Ordering::Acquire) {
        format!("starting for {name}")
    } else if slot.is_idle.load(Ordering::Acquire) {
        format!("waiting for work of {name}")
    } else {
        format!("working for {name}")
    };
    let database = pg_sys::Oid::from(slot.database.load(Ordering::Acquire));
    vec![
        Some(text::write("owner process")),
        catalog::database_name(database).as_deref().map(text::write),
        Some(pg_sys::Datum::from(slot.pid.load(Ordering::Acquire))),
        Some(text::write(&says)),
        Some(pg_sys::Datum::from(slot.since.load(Ordering::Relaxed))),
        Some(pg_sys::Datum::from(slot.started_at.load(Ordering::Relaxed))),
        Some(pg_sys::Datum::from(slot.batches.load(Ordering::Relaxed))),
        Some(pg_sys::Datum::from(slot.errors.load(Ordering::Relaxed))),
    ]
}

sql_function!(abandoned_processes_wrapper, pg_finfo_abandoned_processes_wrapper, abandoned_processes);
fn abandoned_processes(_: &Call) -> Option<pg_sys::Datum> {
    Some(pg_sys::Datum::from(
        i32::try_from(owner_slot::abandoned(catalog::own_database())).unwrap_or(i32::MAX),
    ))
}

fn row(role: &str, database: Option<String>, seat: &WorkerSlot, says: &str) -> Vec<Option<pg_sys::Datum>> {
    let time = |time: i64| (time != 0).then(|| pg_sys::Datum::from(time));
    let pid = seat.pid.load(Ordering::Acquire);
    let says = if pid == 0 && role == "worker" { Doing::Starting.name() } else { says };
    vec![
        Some(text::write(role)),
        database.as_deref().map(text::write),
        (pid != 0).then(|| pg_sys::Datum::from(pid)),
        Some(text::write(says)),
        time(seat.since.load(Ordering::Relaxed)),
        time(seat.started_at.load(Ordering::Relaxed)),
        Some(pg_sys::Datum::from(seat.batches.load(Ordering::Relaxed))),
        Some(pg_sys::Datum::from(seat.errors.load(Ordering::Relaxed))),
    ]
}

sql_function!(provider_status_wrapper, pg_finfo_provider_status_wrapper, provider_status);
fn provider_status(call: &Call) -> Option<pg_sys::Datum> {
    call.set(Provider::all().map(|provider| {
        let health = limiter::health(provider);
        let time = |time: Option<i64>| time.map(pg_sys::Datum::from);
        let words = |words: Option<&str>| words.map(text::write);
        let (quota, left, resets_at) = match health.quota {
            Some((quota, left, resets_at)) => {
                (Some(i64::from(quota)), i64::try_from(left).ok(), Some(resets_at))
            }
            None => (None, None, None),
        };
        let mut row = vec![
            Some(text::write(provider.name())),
            Some(text::write(match health.state {
                State::Closed => "closed",
                State::Open => "open",
                State::HalfOpen => "half-open",
            })),
            words(health.blocked_reason.as_deref()),
            Some(pg_sys::Datum::from(i64::from(health.failures))),
            time(health.backoff_until),
            Some(pg_sys::Datum::from(i64::from(health.in_use))),
            time(health.last_success),
            time(health.last_failure),
            words(health.last_error.as_deref()),
            words(health.notice.as_deref()),
            quota.map(pg_sys::Datum::from),
            left.map(pg_sys::Datum::from),
            time(resets_at),
        ];
        row.extend(COUNTS.map(|count| Some(pg_sys::Datum::from(limiter::counted(provider, count)))));
        row
    }));
    None
}
