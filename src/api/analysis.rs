//! Functions for analysts.

use crate::pg::Oid;
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::{Text, ToSql, Typed};
use crate::store::ExtensionOids;
use crate::store::campaigns::{Campaign, Selection};
use crate::store::timelines::Request;
use crate::{error, sql_function};

sql_function!(campaign_query_wrapper, pg_finfo_campaign_query_wrapper, campaign_query);
fn campaign_query(call: &Call) -> Typed<Text> {
    let oids = ExtensionOids::of_caller(call);
    let (rel, selection) = arguments(call);
    let query = Connection::with(oids.schema, |connection| {
        Campaign::of(oids, connection, rel).networks_text(&selection)
    });
    (&query).to_sql()
}

sql_function!(campaign_networks_wrapper, pg_finfo_campaign_networks_wrapper, campaign_networks);
fn campaign_networks(call: &Call) {
    let oids = ExtensionOids::of_caller(call);
    let (rel, selection) = arguments(call);
    Connection::with(oids.schema, |connection| {
        Campaign::of(oids, connection, rel).networks(connection, &selection, |rows| {
            call.set(rows.values());
        });
    });
}

sql_function!(campaign_addresses_wrapper, pg_finfo_campaign_addresses_wrapper, campaign_addresses);
fn campaign_addresses(call: &Call) {
    let oids = ExtensionOids::of_caller(call);
    let (rel, selection) = arguments(call);
    let since = call.timestamptz(3);
    Connection::with(oids.schema, |connection| {
        Campaign::of(oids, connection, rel).addresses(connection, &selection, since, |rows| {
            call.set(rows.values());
        });
    });
}

sql_function!(session_timeline_wrapper, pg_finfo_session_timeline_wrapper, session_timeline);
fn session_timeline(call: &Call) {
    let oids = ExtensionOids::of_caller(call);
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    let Some(bucket) = call.interval(1) else { error::null_argument("bucket") };
    let Some(time_zone) = call.text_bytes(3) else { error::null_argument("time_zone") };
    let Some(condition) = call.text_bytes(6) else { error::null_argument("condition") };
    let Some(stored_time_zone) = call.text_bytes(7) else { error::null_argument("stored_time_zone") };
    let request = Request {
        bucket,
        by: call.text(2),
        time_zone,
        stored_time_zone,
        since: call.timestamptz(4),
        until: call.timestamptz(5),
        condition,
    };
    Connection::with(oids.schema, |connection| {
        Campaign::of(oids, connection, rel).timeline(connection, &request, |rows| {
            call.set(rows.values());
        });
    });
}

fn arguments(call: &Call) -> (Oid, Selection<'_>) {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    let Some(condition) = call.text_bytes(1) else { error::null_argument("condition") };
    let Some(stored_time_zone) = call.text_bytes(2) else { error::null_argument("stored_time_zone") };
    (rel, Selection { condition, stored_time_zone })
}
