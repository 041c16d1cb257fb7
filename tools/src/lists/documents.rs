//! Other JSON documents.
//!
//! ```text
//! MISP warninglist    {"name", "version", "description", "type": "cidr", "matching_attributes": [], "list": ["192.0.2.0/24"]}
//! ISC research        [{"ipv4": "192.0.2.1", "added": "2024-01-01", "type": "shodan"}]     ; type: name of the scanner
//! ```
//!
//! The name of a warninglist says nothing about its type: MISP's `vpn-ipv4` is a list of datacenters.

use serde_json::Value;

use super::members::{required_array, text, texts};
use super::sink::{Sink, detail, in_document};
use super::{Content, Details, Error, Format, shown};

pub(super) fn misp(document: &str, json: &Value) -> Result<Content, Error> {
    match json.get("type").and_then(Value::as_str) {
        Some("cidr") => {}
        other => {
            let other = shown(other.unwrap_or_default());
            return Err(Error::of_file(format!(
                "MISP warninglist of type \"{other}\" has no networks; only type \"cidr\" is supported"
            )));
        }
    }
    let mut sink = Sink::new();
    for (index, network) in required_array(json, "list").map_err(Error::of_file)?.iter().enumerate() {
        let network = network
            .as_str()
            .ok_or_else(|| Error::of_file(format!("MISP warninglist: entry {} is not a text", index + 1)))?;
        sink.network(network, Details::default())
            .map_err(|problem| in_document(document, network, problem))?;
    }
    Ok(sink.finish(Format::Misp))
}

pub(super) fn isc_research(document: &str, json: &Value) -> Result<Content, Error> {
    let mut sink = Sink::new();
    for (index, row) in json.as_array().into_iter().flatten().enumerate() {
        let failed = |problem: String| {
            Error::of_file(format!("{}: entry {}: {problem}", Format::IscResearch, index + 1))
        };
        let scanner = text(row, "type").map_err(failed)?;
        let details = Details { provider: scanner.and_then(detail), ..Details::default() };
        for network in texts(row, ["ipv4", "ipv6"]).map_err(failed)? {
            sink.network(network, details.clone())
                .map_err(|problem| in_document(document, network, problem))?;
        }
    }
    Ok(sink.finish(Format::IscResearch))
}
