//! Returns the metrics as rows, in the text format of Prometheus, and in the format of the status files.

use std::ffi::CStr;

use cowrie_enrich_engine::metrics::{Family, prometheus};

use crate::pg::jsonb;
use crate::pg::role::{acting_as, with_settings};
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::{Jsonb, Text, ToSql, Typed};
use crate::store::{ExtensionOids, sizes};
use crate::telemetry::metric_values;
use crate::{error, exporter, row, sql_function};

sql_function!(enrich_metrics_wrapper, pg_finfo_enrich_metrics_wrapper, enrich_metrics);
fn enrich_metrics(call: &Call) {
    let rows = prometheus::rows(&now(call));
    call.set(rows.into_iter().map(|row| {
        let labels = jsonb::object(|object| {
            for (name, value) in &row.labels {
                object.text(name, value);
            }
        });
        row![Text: &row.name, Text: row.kind.name(), Jsonb: labels, Float: row.value]
    }));
}

sql_function!(prometheus_metrics_wrapper, pg_finfo_prometheus_metrics_wrapper, prometheus_metrics);
fn prometheus_metrics(call: &Call) -> Typed<Text> {
    match prometheus::text(&now(call)) {
        Ok(written) => written.to_sql(),
        Err(failure) => error::not_encoded(&failure.to_string()),
    }
}

sql_function!(status_json_wrapper, pg_finfo_status_json_wrapper, status_json);
fn status_json(call: &Call) -> Typed<Jsonb> {
    let document = exporter::status::document(&now(call));
    jsonb::object(|object| document.iter().for_each(|(key, value)| object.json(key, value)))
}

/// The longest time that a query of metrics waits for a lock.
const WAITS: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"1s")];

/// Returns all metrics, including the current sizes of the current database. If a lock prevents the counting of a size, the
/// result contains the size that the worker reported last.
fn now(call: &Call) -> Vec<Family> {
    let oids = ExtensionOids::of(call);
    let (sizes, _) =
        acting_as(oids.owner, || with_settings(WAITS, || Connection::with(oids.schema, sizes::count)));
    metric_values::families(Some(&sizes))
}
