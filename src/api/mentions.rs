//! Implements the SQL function that searches a text for addresses.

use cowrie_enrich_engine::mention::Wanted;

use crate::pg::sql_function::Call;
use crate::pg::value::{Boolean, ToSql, Typed};
use crate::sql_function;

sql_function!(mentions_address_wrapper, pg_finfo_mentions_address_wrapper, mentions_address);
fn mentions_address(call: &Call) -> Typed<Boolean> {
    let Some(content) = call.text(0) else { return false.to_sql() };
    let wanted = Wanted::new(call.inets(1).into_iter().flatten().map(|inet| inet.address));
    wanted.is_mentioned_in(&content).to_sql()
}
