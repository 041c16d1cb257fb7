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

use super::members::{array, in_entry, in_format, required_array, text, texts};
use super::sink::{Sink, detail, in_document};
use super::{Content, Details, Error, Format};

/// AWS lists a network once for each service. `AMAZON` contains all other services, and `EC2` contains some of them.
/// So the most specific service is neither of these two, if there is one.
pub(super) fn aws(document: &str, json: &Value) -> Result<Content, Error> {
    let mut sink = Sink::new();
    // For each network, the most specific service so far, with its region.
    let mut best: BTreeMap<&str, (u8, &str, &str)> = BTreeMap::new();
    let mut rows = 0;
    for (list, keys) in
        [("prefixes", ["ip_prefix", "ipv6_prefix"]), ("ipv6_prefixes", ["ipv6_prefix", "ip_prefix"])]
    {
        let list_rows = array(json, list).map_err(in_format(Format::Aws))?.unwrap_or_default();
        for (index, row) in list_rows.iter().enumerate() {
            let failed = in_entry(Format::Aws, list, index);
            let service = text(row, "service").map_err(&failed)?.unwrap_or_default();
            let region = text(row, "region").map_err(&failed)?.unwrap_or_default();
            let generality = match service {
                "" | "AMAZON" => 2,
                "EC2" => 1,
                _ => 0,
            };
            let candidate = (generality, service, region);
            for network in texts(row, keys).map_err(&failed)? {
                rows += 1;
                best.entry(network).and_modify(|known| *known = candidate.min(*known)).or_insert(candidate);
            }
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
    let rows = required_array(json, "prefixes").map_err(in_format(Format::Google))?;
    let has_regions = rows.iter().any(|row| row.get("scope").is_some());
    if !has_regions {
        sink.remarks.push(
            "this is goog.json, which contains all networks of Google; cloud.json contains those of Google Cloud's customers"
                .into(),
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let failed = in_entry(Format::Google, "prefixes", index);
        let region = text(row, "scope").map_err(&failed)?;
        let service = text(row, "service").map_err(&failed)?;
        let details = Details {
            provider: Some(if has_regions { "Google Cloud" } else { "Google" }.into()),
            region: region.and_then(detail),
            // In `cloud.json`, the service in all rows is the provider's name. So it is left out.
            service: service.filter(|service| *service != "Google Cloud").and_then(detail),
        };
        for network in texts(row, ["ipv4Prefix", "ipv6Prefix"]).map_err(&failed)? {
            sink.network(network, details.clone())
                .map_err(|problem| in_document(document, network, problem))?;
        }
    }
    Ok(sink.finish(Format::Google))
}

/// Uses the tags `AzureCloud.<region>` only. All other tags repeat their networks, and the tag `AzureCloud` repeats the
/// networks of all regions.
pub(super) fn azure(document: &str, json: &Value) -> Result<Content, Error> {
    let mut sink = Sink::new();
    let tags = required_array(json, "values").map_err(in_format(Format::Azure))?;
    for (index, tag) in tags.iter().enumerate() {
        let failed = in_entry(Format::Azure, "values", index);
        let name = text(tag, "name").map_err(&failed)?.ok_or_else(|| failed("\"name\" is missing".into()))?;
        let properties = tag.get("properties").unwrap_or(&Value::Null);
        let Some(region) = name.strip_prefix("AzureCloud.") else {
            let prefixes = array(properties, "addressPrefixes").map_err(&failed)?;
            sink.counts.repeated += prefixes.unwrap_or_default().len() as u64;
            continue;
        };
        let prefixes = required_array(properties, "addressPrefixes").map_err(&failed)?;
        let stated_region = text(properties, "region").map_err(&failed)?;
        let details = Details {
            provider: Some("Azure".into()),
            region: stated_region.and_then(detail).or_else(|| detail(region)),
            service: None,
        };
        for (prefix_index, network) in prefixes.iter().enumerate() {
            let network = network.as_str().ok_or_else(|| {
                failed(format!("entry {} of \"addressPrefixes\" is not a text", prefix_index + 1))
            })?;
            sink.network(network, details.clone())
                .map_err(|problem| in_document(document, network, problem))?;
        }
    }
    Ok(sink.finish(Format::Azure))
}

/// The tags are kept as the service. `OSN` is Oracle's own service network: its addresses belong to no customer.
pub(super) fn oracle(document: &str, json: &Value) -> Result<Content, Error> {
    let mut sink = Sink::new();
    let regions = required_array(json, "regions").map_err(in_format(Format::Oracle))?;
    for (region_index, region) in regions.iter().enumerate() {
        let of_region = in_entry(Format::Oracle, "regions", region_index);
        let name = text(region, "region").map_err(&of_region)?;
        let rows = required_array(region, "cidrs").map_err(&of_region)?;
        for (index, row) in rows.iter().enumerate() {
            let failed = |problem: String| of_region(format!("entry {} of \"cidrs\": {problem}", index + 1));
            let network =
                text(row, "cidr").map_err(failed)?.ok_or_else(|| failed("\"cidr\" is missing".into()))?;
            let tags = array(row, "tags").map_err(failed)?.unwrap_or_default();
            let tags: Option<Vec<&str>> = tags.iter().map(Value::as_str).collect();
            let mut tags = tags.ok_or_else(|| failed("\"tags\" has a value that is not a text".into()))?;
            tags.sort_unstable();
            tags.dedup();
            let details = Details {
                provider: Some("Oracle".into()),
                region: name.and_then(detail),
                service: detail(&tags.join(",")),
            };
            sink.network(network, details).map_err(|problem| in_document(document, network, problem))?;
        }
    }
    Ok(sink.finish(Format::Oracle))
}
