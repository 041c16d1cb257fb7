//! Lists of addresses, as `lookup_ips()` reads them.

use cowrie_enrich_engine::address_line;
use cowrie_enrich_engine::mmdb::clean_name;
use cowrie_enrich_engine::{address::Address, bogon};

use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::sql_function::Call;
use crate::pg::value::Value;
use crate::{row, sql_function};

sql_function!(read_address_list_wrapper, pg_finfo_read_address_list_wrapper, read_address_list);
/// Reads all lines in one call, because a call for each line would take longer than the lookups.
fn read_address_list(call: &Call) {
    let lines = call.texts(0).unwrap_or_default();
    mmdb::with(LoadPolicy::Import, |databases| {
        call.set((1..).zip(&lines).map(|(number, line)| read_line(databases, number, line.as_deref())));
    });
}

fn read_line(databases: &Databases, number: i32, line: Option<&str>) -> Vec<Value> {
    let (address, error) = match line.map(address_line::parse) {
        Some(Ok(address)) => (address, None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    let mut row = row![Integer: number, Text: line, Inet: address, Text: error.as_deref()];
    row.extend(facts(databases, address));
    row
}

/// Returns what constants and mmdb files say about an address.
fn facts(databases: &Databases, address: Option<Address>) -> Vec<Value> {
    let details = address.and_then(|address| databases.detailed_location(address));
    let region = details.and_then(|details| details.region).map(clean_name);
    let location = details.map(|details| details.location);
    let network = address.and_then(|address| databases.network(address)).map(|found| found.value);
    let city = location.and_then(|location| location.city).map(clean_name);
    let organization = network.and_then(|network| network.organization).map(clean_name);
    row![
        Text: address.and_then(bogon::reason),
        Text: location.and_then(|location| location.country),
        Text: region.as_deref(),
        Text: city.as_deref(),
        Float: location.and_then(|location| location.latitude),
        Float: location.and_then(|location| location.longitude),
        Bigint: network.map(|network| i64::from(network.asn)),
        Text: organization.as_deref(),
    ]
}
