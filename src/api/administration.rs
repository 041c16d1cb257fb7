//! Functions for operators.

use cowrie_enrich_engine::timestamp::Timestamp;

use crate::mmdb::{self, FileId, Kind};
use crate::pg::sql_function::Call;
use crate::pg::value::Value;
use crate::telemetry::{self, Counter, Distribution, Operation, cells, networks_seen};
use crate::{error, row, sql_function};

sql_function!(mmdb_files_wrapper, pg_finfo_mmdb_files_wrapper, mmdb_files);
/// Returns the rows of `mmdb_status()` for one setting. There is one row for each file that the setting names. If a setting for
/// locations or networks names no file, there is one row without a file.
fn mmdb_files(call: &Call) {
    let wanted = call.text(0).unwrap_or_default();
    let Some(kind) = Kind::EVERY.into_iter().find(|kind| kind.name() == wanted) else {
        return call.set([]);
    };
    let named = kind.files();
    // If a setting for types of addresses names no file, it gets no row, because such files are optional.
    let is_shown = named.is_empty() && kind != Kind::Types;
    let unnamed = is_shown.then_some((FileId::of(kind, 1, ""), None));
    let all = named.into_iter().map(|file| (file.id, Some(file.path))).chain(unnamed);
    call.set(all.map(|(id, path)| mmdb_file(id, path)));
}

fn mmdb_file(id: FileId, path: Option<String>) -> Vec<Value> {
    let status = mmdb::status(id).unwrap_or_default();
    let is_too_old = path.is_some() && status.is_too_old(id.kind);
    let serving = status.serves() && path.is_some() && !is_too_old;
    let build_time = status.build_epoch.map(Timestamp::from_unix);
    row![
        Text: id.kind.name(),
        Integer: i32::try_from(id.number).ok(),
        Text: path,
        Text: status.vendor.as_deref().filter(|_| serving),
        Text: status.database_type.as_deref().filter(|_| serving),
        Timestamptz: build_time.filter(|_| serving),
        Integer: status.ip_version.filter(|_| serving).and_then(|version| i32::try_from(version).ok()),
        Bigint: status.node_count.filter(|_| serving),
        Timestamptz: status.loaded_at.filter(|_| serving),
        // The loaded data of a file that is too old may not have been removed yet. In this case, the status of the file
        // contains no error. So the error is added here.
        Text: status.last_error.or_else(|| is_too_old.then(|| mmdb::max_age::describe(status.build_epoch))),
    ]
}

sql_function!(reload_mmdb_wrapper, pg_finfo_reload_mmdb_wrapper, reload_mmdb);
fn reload_mmdb(_: &Call) {
    if let Err(failure) = mmdb::reload() {
        error::import_failed(&failure);
    }
}

sql_function!(enrich_stats_wrapper, pg_finfo_enrich_stats_wrapper, enrich_stats);
fn enrich_stats(call: &Call) -> Value {
    let count = telemetry::read;
    let created: i64 = cells::all_created().map(|(.., networks)| networks).sum();
    let updated: i64 = cells::all_updated().map(|(.., networks)| networks).sum();
    let milliseconds: f64 =
        Operation::ALL.map(|operation| Distribution::Operation(operation).read().sum).iter().sum();
    call.record(row![
        Bigint: count(Counter::TotalIps),
        Bigint: count(Counter::CacheHits),
        Bigint: count(Counter::MaxmindHits),
        Bigint: count(Counter::CymruHits),
        Bigint: count(Counter::GreynoiseHits),
        Bigint: count(Counter::DshieldHits),
        Bigint: count(Counter::SpurHits),
        Bigint: count(Counter::Errors),
        Bigint: created,
        Bigint: updated,
        Float: milliseconds,
        Bigint: networks_seen::estimate() as i64,
    ])
}

sql_function!(reset_enrich_stats_wrapper, pg_finfo_reset_enrich_stats_wrapper, reset_enrich_stats);
fn reset_enrich_stats(_: &Call) {
    telemetry::reset();
}
