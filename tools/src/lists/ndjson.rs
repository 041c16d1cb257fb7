//! Spamhaus' JSON lines: drop_v4.json, drop_v6.json, asndrop.json.
//!
//! ```text
//! {"cidr":"192.0.2.0/24","sblid":"SBL1","rir":"ripencc"}
//! {"asn":64496,"rir":"arin","domain":"example.com","cc":"US","asname":"EXAMPLE"}
//! {"type":"metadata","timestamp":1726000000,"size":113,"records":1,"copyright":"(c) ...","terms":"https://..."}
//! ```
//!
//! The metadata are the last line. A file without them was cut off. Spamhaus asks its users to keep the notice.

use cowrie_enrich_engine::mmdb::clean_name;
use serde_json::Value;

use super::members::text;
use super::sink::{Sink, detail};
use super::{Content, Details, Error, Format};

pub(super) fn read(file: &str) -> Result<Content, Error> {
    let mut sink = Sink::new();
    let mut metadata_line = None;
    let (mut networks, mut asns) = (0_u64, 0_u64);
    for (number, line) in (1..).zip(file.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        if metadata_line.is_some() {
            return Err(Error::at(number, "line follows the metadata, which must be the last line"));
        }
        let row: Value =
            serde_json::from_str(line).map_err(|_| Error::at(number, "line is not valid JSON"))?;
        let failed = |problem: String| Error::at(number, problem);
        let text_of = |key: &str| text(&row, key).map_err(failed);
        if text_of("type")? == Some("metadata") {
            let records = row.get("records").and_then(Value::as_u64);
            let records = records.ok_or_else(|| Error::at(number, "metadata have no number \"records\""))?;
            if records != networks + asns {
                return Err(Error::at(
                    number,
                    format_args!("metadata announce {records} records, but the file has {}", networks + asns),
                ));
            }
            let seconds = row.get("timestamp").map(|timestamp| {
                timestamp
                    .as_u64()
                    .ok_or_else(|| failed("\"timestamp\" is not a number of seconds since 1970".into()))
            });
            sink.made_at = seconds.transpose()?;
            let notice = [text_of("copyright")?.unwrap_or_default(), text_of("terms")?.unwrap_or_default()];
            sink.notice = (!notice[0].is_empty()).then(|| clean_name(notice.join(" ").trim()).into_owned());
            metadata_line = Some(number);
        } else if let Some(network) = text_of("cidr")? {
            sink.network(network, Details::default()).map_err(failed)?;
            networks += 1;
        } else if let Some(asn) = row.get("asn") {
            let asn = asn.as_u64().ok_or_else(|| failed("\"asn\" is not a number".into()))?;
            sink.asn(&asn.to_string(), text_of("asname")?.and_then(detail)).map_err(failed)?;
            asns += 1;
        } else {
            return Err(Error::at(number, "line has neither \"cidr\" nor \"asn\""));
        }
        if networks > 0 && asns > 0 {
            return Err(Error::at(number, "ambiguous format: file has both networks and ASNs"));
        }
    }
    if metadata_line.is_none() {
        return Err(Error::of_file("metadata are missing at the end: the download is incomplete"));
    }
    Ok(sink.finish(if asns > 0 { Format::SpamhausAsns } else { Format::SpamhausNetworks }))
}
