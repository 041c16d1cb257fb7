//! What operators call.

use pgrx::pg_sys;

use crate::mmdb::{self, Kind};
use crate::pg::call::Call;
use crate::pg::{clock, text};
use crate::telemetry::{self, Counter, Distribution, Operation, cells};
use crate::{error, sql_function};

sql_function!(mmdb_file_wrapper, pg_finfo_mmdb_file_wrapper, mmdb_file);
/// One row of `mmdb_status()`: of the kind given.
fn mmdb_file(call: &Call) -> Option<pg_sys::Datum> {
    let wanted = call.text(0)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == wanted)?;
    let status = mmdb::status(kind).unwrap_or_default();
    let serving = status.serves() && kind.source_path().is_some();
    let number = |value: Option<i64>| value.filter(|_| serving).map(pg_sys::Datum::from);
    let build_time = status.build_epoch.map(clock::from_unix);
    call.record(&[
        Some(text::write(kind.name())),
        kind.source_path().as_deref().map(text::write),
        status.database_type.as_deref().filter(|_| serving).map(text::write),
        number(build_time),
        number(status.ip_version),
        number(status.node_count),
        number(status.loaded_at),
        status.last_error.as_deref().map(text::write),
    ])
}

sql_function!(reload_mmdb_wrapper, pg_finfo_reload_mmdb_wrapper, reload_mmdb);
fn reload_mmdb(_: &Call) -> Option<pg_sys::Datum> {
    if let Err(failure) = mmdb::reload() {
        error::import_failed(&failure);
    }
    None
}

sql_function!(enrich_stats_wrapper, pg_finfo_enrich_stats_wrapper, enrich_stats);
fn enrich_stats(call: &Call) -> Option<pg_sys::Datum> {
    let count = |counter| Some(pg_sys::Datum::from(telemetry::read(counter)));
    let created: i64 = cells::all_created().map(|(.., networks)| networks).sum();
    let updated: i64 = cells::all_updated().map(|(.., networks)| networks).sum();
    let milliseconds: f64 =
        Operation::ALL.map(|operation| Distribution::Operation(operation).read().sum).iter().sum();
    call.record(&[
        count(Counter::TotalIps),
        count(Counter::CacheHits),
        count(Counter::MaxmindHits),
        count(Counter::CymruHits),
        count(Counter::GreynoiseHits),
        count(Counter::DshieldHits),
        count(Counter::SpurHits),
        count(Counter::Errors),
        Some(pg_sys::Datum::from(created)),
        Some(pg_sys::Datum::from(updated)),
        pgrx::IntoDatum::into_datum(milliseconds),
        // Each network is created once.
        Some(pg_sys::Datum::from(created)),
    ])
}

sql_function!(reset_enrich_stats_wrapper, pg_finfo_reset_enrich_stats_wrapper, reset_enrich_stats);
fn reset_enrich_stats(_: &Call) -> Option<pg_sys::Datum> {
    telemetry::reset();
    None
}
