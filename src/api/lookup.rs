//! Implements the SQL functions that search addresses in the mmdb files.

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::mmdb::clean_name;
use cowrie_enrich_engine::{as_registry, bogon, classify};

use crate::document::answer::Answer;
use crate::error;
use crate::guc;
use crate::mmdb::{self, Kind, LoadPolicy};
use crate::pg::sql_function::Call;
use crate::pg::value::{Array, Bigint, Boolean, Inet, Jsonb, Text, ToSql, Typed, Value, array};
use crate::pg::{inet, jsonb};
use crate::{row, sql_function};

/// Returns the address that the caller passed. Raises an error if the argument is a network, because the addresses of a network
/// may have different locations.
fn host(call: &Call) -> Option<Address> {
    let inet = call.inet(0)?;
    if !inet.is_host {
        error::not_a_host(inet.address);
    }
    Some(inet.address)
}

sql_function!(ip_country_wrapper, pg_finfo_ip_country_wrapper, ip_country);
fn ip_country(call: &Call) -> Option<Typed<Text>> {
    let address = host(call)?;
    let country = mmdb::with(LoadPolicy::Import, |databases| databases.country(address))?;
    Some(country.to_sql())
}

sql_function!(ip_registered_country_wrapper, pg_finfo_ip_registered_country_wrapper, ip_registered_country);
fn ip_registered_country(call: &Call) -> Option<Typed<Text>> {
    let address = host(call)?;
    let country = mmdb::with(LoadPolicy::Import, |databases| databases.registered_country(address))?;
    Some(country.to_sql())
}

sql_function!(ip_city_wrapper, pg_finfo_ip_city_wrapper, ip_city);
fn ip_city(call: &Call) -> Option<Typed<Text>> {
    let address = host(call)?;
    mmdb::with(LoadPolicy::Import, |databases| {
        databases.city(address).map(|city| (&*clean_name(city)).to_sql())
    })
}

sql_function!(ip_location_wrapper, pg_finfo_ip_location_wrapper, ip_location);
fn ip_location(call: &Call) -> Option<Value> {
    let address = host(call)?;
    mmdb::with(LoadPolicy::Import, |databases| {
        let found = databases.detailed_location(address);
        let location = found.map(|found| found.location).unwrap_or_default();
        let clean = |text: Option<&str>| text.map(|text| clean_name(text).into_owned());
        Some(call.record(row![
            Text: location.country,
            Text: clean(found.and_then(|found| found.region)),
            Text: clean(found.and_then(|found| found.region_code)),
            Text: clean(location.city),
            Text: clean(found.and_then(|found| found.postal_code)),
            Float: location.latitude,
            Float: location.longitude,
            Integer: location.accuracy_radius.and_then(|radius| i32::try_from(radius).ok()),
            Text: clean(found.and_then(|found| found.time_zone)),
        ]))
    })
}

sql_function!(ip_asn_wrapper, pg_finfo_ip_asn_wrapper, ip_asn);
fn ip_asn(call: &Call) -> Option<Typed<Bigint>> {
    let address = host(call)?;
    let asn = mmdb::with(LoadPolicy::Import, |databases| databases.asn(address))?;
    Some(i64::from(asn).to_sql())
}

sql_function!(ip_asn_org_wrapper, pg_finfo_ip_asn_org_wrapper, ip_asn_org);
fn ip_asn_org(call: &Call) -> Option<Typed<Text>> {
    let address = host(call)?;
    mmdb::with(LoadPolicy::Import, |databases| {
        databases.organization(address).map(|name| (&*clean_name(name)).to_sql())
    })
}

sql_function!(maxmind_lookup_wrapper, pg_finfo_maxmind_lookup_wrapper, maxmind_lookup);
fn maxmind_lookup(call: &Call) -> Option<Typed<Jsonb>> {
    let address = host(call)?;
    mmdb::with(LoadPolicy::Import, |databases| {
        let answer = Answer {
            bogon: None,
            location: databases.location(address),
            network: databases.network(address),
        };
        answer.is_hit().then(|| jsonb::object(|object| answer.write_maxmind(object)))
    })
}

sql_function!(mmdb_in_service_wrapper, pg_finfo_mmdb_in_service_wrapper, mmdb_in_service);
fn mmdb_in_service(call: &Call) -> Option<Typed<Boolean>> {
    let wanted = call.text(0)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == wanted)?;
    if !guc::names(&guc::enabled_sources(), guc::FILES) {
        return None;
    }
    Some(mmdb::with(LoadPolicy::Import, |databases| databases.serves(kind)).to_sql())
}

sql_function!(is_bogon_wrapper, pg_finfo_is_bogon_wrapper, is_bogon);
fn is_bogon(call: &Call) -> Option<Typed<Boolean>> {
    Some(bogon::reason(host(call)?).is_some().to_sql())
}

sql_function!(bogon_reason_wrapper, pg_finfo_bogon_reason_wrapper, bogon_reason);
fn bogon_reason(call: &Call) -> Option<Typed<Text>> {
    bogon::reason(host(call)?).map(ToSql::to_sql)
}

/// Returns the first argument of the call, which is an ASN. Accepts 0, because 0 is a reserved ASN.
fn asn(call: &Call) -> Option<u32> {
    let asn = call.bigint(0)?;
    Some(u32::try_from(asn).unwrap_or_else(|_| error::asn_out_of_range(asn, 0)))
}

sql_function!(asn_registry_wrapper, pg_finfo_asn_registry_wrapper, asn_registry);
fn asn_registry(call: &Call) -> Option<Typed<Text>> {
    as_registry::registry(asn(call)?).map(|registry| registry.name().to_sql())
}

sql_function!(is_bogon_asn_wrapper, pg_finfo_is_bogon_asn_wrapper, is_bogon_asn);
fn is_bogon_asn(call: &Call) -> Option<Typed<Boolean>> {
    Some(as_registry::is_bogon(asn(call)?).to_sql())
}

sql_function!(contains_bogon_wrapper, pg_finfo_contains_bogon_wrapper, contains_bogon);
fn contains_bogon(call: &Call) -> Typed<Boolean> {
    // `None` stands for a prefix that contains all IPv4-mapped addresses. IPv4-mapped addresses on the internet are bogons.
    call.prefix(0).is_none_or(bogon::occur_in).to_sql()
}

sql_function!(networks_within_wrapper, pg_finfo_networks_within_wrapper, networks_within);
fn networks_within(call: &Call) -> Typed<Array<Bigint>> {
    let within = |prefix| mmdb::with(LoadPolicy::Import, |databases| databases.networks_within(prefix));
    array(call.prefix(0).map(within).into_iter().flatten().map(i64::from)).to_sql()
}

sql_function!(
    networks_of_benign_scanners_wrapper,
    pg_finfo_networks_of_benign_scanners_wrapper,
    networks_of_benign_scanners
);
fn networks_of_benign_scanners(_: &Call) -> Typed<Array<Bigint>> {
    let networks = mmdb::with(LoadPolicy::Import, |databases| databases.networks_of_benign_scanners());
    array(networks.into_iter().map(i64::from)).to_sql()
}

sql_function!(classify_name_wrapper, pg_finfo_classify_name_wrapper, classify_name);
fn classify_name(call: &Call) -> Typed<Text> {
    let name = call.text(0).unwrap_or_default();
    classify::by_name(&name).as_str().to_sql()
}

sql_function!(canonical_address_wrapper, pg_finfo_canonical_address_wrapper, canonical_address);
fn canonical_address(call: &Call) -> Typed<Inet> {
    call.address(0).to_sql()
}

sql_function!(parsed_address_in_wrapper, pg_finfo_parsed_address_in_wrapper, parsed_address_in);
/// The input function of the type `parsed_address`. If the text is not an address, the function returns 0.0.0.0/0, because a
/// cast must not return null.
fn parsed_address_in(call: &Call) -> Option<Typed<Inet>> {
    let address = address::parse_bytes(call.cstring(0)?.to_bytes()).ok().flatten();
    Some(address.map_or_else(inet::everything, Address::to_sql))
}
