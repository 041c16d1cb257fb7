//! The JSON files in which clouds publish their networks.
//!
//! ```text
//! AWS     {"syncToken": "1693", "prefixes": [{"ip_prefix", "region", "service"}], "ipv6_prefixes": [{"ipv6_prefix", ...}]}
//! Google  {"syncToken": "1693", "prefixes": [{"ipv4Prefix" / "ipv6Prefix", "service", "scope"}]}
//! Azure   {"cloud": "Public", "values": [{"name": "AzureCloud.eastus", "properties": {"region", "addressPrefixes": []}}]}
//! Oracle  {"regions": [{"region", "cidrs": [{"cidr", "tags": ["OCI"]}]}]}
//! ```

use std::collections::BTreeMap;

use serde_json::Value;

use super::sink::{Sink, detail, in_document};
use super::{Content, Details, Error, Format};

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn array_of<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn missing(format: Format, key: &str, index: usize) -> Error {
    Error::of_file(format!("{format}: entry {} has no text \"{key}\"", index + 1))
}

/// AWS lists a network once for each service. `AMAZON` contains all other services, and `EC2` contains some of them.
/// So the most specific service is neither of these two, if there is one.
pub(super) fn aws(document: &str, json: &Value) -> Result<Content, Error> {
    let mut sink = Sink::new();
    // By network: the best service so far, with its region.
    let mut best: BTreeMap<&str, (u8, &str, &str)> = BTreeMap::new();
    let mut rows = 0;
    for (list, key) in [("prefixes", "ip_prefix"), ("ipv6_prefixes", "ipv6_prefix")] {
        for (index, row) in array_of(json, list).iter().enumerate() {
            let network =
                row.get(key).and_then(Value::as_str).ok_or_else(|| missing(Format::Aws, key, index))?;
            let service = text_of(row, "service");
            let generality = match service {
                "" | "AMAZON" => 2,
                "EC2" => 1,
                _ => 0,
            };
            let candidate = (generality, service, text_of(row, "region"));
            rows += 1;
            best.entry(network).and_modify(|known| *known = candidate.min(*known)).or_insert(candidate);
        }
    }
    sink.counts.repeated = rows - best.len() as u64;
    for (network, (_, service, region)) in best {
        let details = Details {
            provider: Some("AWS".into()),
            region: detail(region),
            service: Some(service).filter(|service| *service != "AMAZON").and_then(detail),
        };
        sink.network(network, details).map_err(|problem| in_document(document, network, problem))?;
    }
    Ok(sink.finish(Format::Aws))
}

/// `cloud.json` has the networks of customers. `goog.json` has all networks of Google, without regions.
pub(super) fn google(document: &str, json: &Value) -> Result<Content, Error> {
    let mut sink = Sink::new();
    let rows = array_of(json, "prefixes");
    let has_regions = rows.iter().any(|row| row.get("scope").is_some());
    if !has_regions {
        sink.remarks.push(
            "this is goog.json, which contains all networks of Google; cloud.json contains those of Google Cloud's customers"
                .into(),
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let network = ["ipv4Prefix", "ipv6Prefix"]
            .iter()
            .find_map(|key| row.get(key)?.as_str())
            .ok_or_else(|| missing(Format::Google, "ipv4Prefix", index))?;
        let details = Details {
            provider: Some(if has_regions { "Google Cloud" } else { "Google" }.into()),
            region: detail(text_of(row, "scope")),
            // It is the provider's name in all rows.
            service: Some(text_of(row, "service"))
                .filter(|service| *service != "Google Cloud")
                .and_then(detail),
        };
        sink.network(network, details).map_err(|problem| in_document(document, network, problem))?;
    }
    Ok(sink.finish(Format::Google))
}

/// Uses the tags `AzureCloud.<region>` only. All other tags repeat their networks, and the tag `AzureCloud` repeats the
/// networks of all regions.
pub(super) fn azure(document: &str, json: &Value) -> Result<Content, Error> {
    let mut sink = Sink::new();
    for (index, tag) in array_of(json, "values").iter().enumerate() {
        let name =
            tag.get("name").and_then(Value::as_str).ok_or_else(|| missing(Format::Azure, "name", index))?;
        let properties = tag.get("properties").unwrap_or(&Value::Null);
        let prefixes = array_of(properties, "addressPrefixes");
        let Some(region) = name.strip_prefix("AzureCloud.") else {
            sink.counts.repeated += prefixes.len() as u64;
            continue;
        };
        let details = Details {
            provider: Some("Azure".into()),
            region: detail(text_of(properties, "region")).or_else(|| detail(region)),
            service: None,
        };
        for (index, network) in prefixes.iter().enumerate() {
            let network = network.as_str().ok_or_else(|| missing(Format::Azure, "addressPrefixes", index))?;
            sink.network(network, details.clone())
                .map_err(|problem| in_document(document, network, problem))?;
        }
    }
    Ok(sink.finish(Format::Azure))
}

/// The tags are kept as the service. `OSN` is Oracle's own service network: its addresses belong to no customer.
pub(super) fn oracle(document: &str, json: &Value) -> Result<Content, Error> {
    let mut sink = Sink::new();
    for region in array_of(json, "regions") {
        for (index, row) in array_of(region, "cidrs").iter().enumerate() {
            let network = row
                .get("cidr")
                .and_then(Value::as_str)
                .ok_or_else(|| missing(Format::Oracle, "cidr", index))?;
            let mut tags: Vec<&str> = array_of(row, "tags").iter().filter_map(Value::as_str).collect();
            tags.sort_unstable();
            tags.dedup();
            let details = Details {
                provider: Some("Oracle".into()),
                region: detail(text_of(region, "region")),
                service: detail(&tags.join(",")),
            };
            sink.network(network, details).map_err(|problem| in_document(document, network, problem))?;
        }
    }
    Ok(sink.finish(Format::Oracle))
}
