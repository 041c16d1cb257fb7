//! What is measured, for those who may read it: as rows, as Prometheus reads it, and as the status files have it.

use cowrie_enrich_engine::metrics::{Family, prometheus};
use pgrx::pg_sys;

use crate::pg::call::Call;
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::{jsonb, text};
use crate::store::{Home, sizes};
use crate::telemetry::families;
use crate::{error, exporter, sql_function};

sql_function!(enrich_metrics_wrapper, pg_finfo_enrich_metrics_wrapper, enrich_metrics);
fn enrich_metrics(call: &Call) -> Option<pg_sys::Datum> {
    let rows = prometheus::rows(&now(call));
    call.set(rows.into_iter().map(|row| {
        let labels = jsonb::object(|object| {
            for (name, value) in &row.labels {
                object.text(name, value);
            }
        });
        vec![
            Some(text::write(&row.name)),
            Some(text::write(row.kind.name())),
            Some(labels),
            pgrx::IntoDatum::into_datum(row.value),
        ]
    }));
    None
}

sql_function!(prometheus_metrics_wrapper, pg_finfo_prometheus_metrics_wrapper, prometheus_metrics);
fn prometheus_metrics(call: &Call) -> Option<pg_sys::Datum> {
    match prometheus::text(&now(call)) {
        Ok(written) => Some(text::write(&written)),
        Err(failure) => error::not_encoded(&failure.to_string()),
    }
}

sql_function!(status_json_wrapper, pg_finfo_status_json_wrapper, status_json);
fn status_json(call: &Call) -> Option<pg_sys::Datum> {
    let document = exporter::status::document(&now(call));
    Some(jsonb::object(|object| document.iter().for_each(|(key, value)| object.json(key, value))))
}

/// Everything, with sizes of this moment for the database that it is called in.
fn now(call: &Call) -> Vec<Family> {
    let home = Home::of(call);
    let sizes = acting_as(home.owner, || Connection::with(home.schema, sizes::count));
    families::families(Some(&sizes))
}
