//! Functions for analysts.

use crate::pg::Oid;
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::{Text, ToSql, Typed};
use crate::store::ExtensionOids;
use crate::store::campaigns::Campaign;
use crate::{error, sql_function};

sql_function!(campaign_query_wrapper, pg_finfo_campaign_query_wrapper, campaign_query);
fn campaign_query(call: &Call) -> Typed<Text> {
    let oids = ExtensionOids::of_caller(call);
    let (rel, condition) = arguments(call);
    let query =
        Connection::with(oids.schema, |connection| Campaign::of(oids, connection, rel).text(condition));
    (&query).to_sql()
}

sql_function!(campaign_networks_wrapper, pg_finfo_campaign_networks_wrapper, campaign_networks);
fn campaign_networks(call: &Call) {
    let oids = ExtensionOids::of_caller(call);
    let (rel, condition) = arguments(call);
    Connection::with(oids.schema, |connection| {
        Campaign::of(oids, connection, rel).run(connection, condition, |rows| {
            call.set(rows.values());
        });
    });
}

fn arguments(call: &Call) -> (Oid, &[u8]) {
    let Some(rel) = call.oid(0) else { error::null_argument("rel") };
    let Some(condition) = call.text_bytes(1) else { error::null_argument("condition") };
    (rel, condition)
}
