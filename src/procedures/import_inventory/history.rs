//! Imports the Python system's table `ip_asn_history`. The table records when addresses moved to other networks.

use cowrie_enrich_engine::{address, legacy};

use super::{Batch, ImportCounts, RowReport};
use crate::store::import_inventory::source::{Row, WantedColumn, text, time, wanted};
use crate::store::import_inventory::{Observation, write_history};

pub const COLUMNS: &[WantedColumn] = wanted(&[
    text(&["asn_number"]),
    time(&["observed_at"]),
    text(&["verification_source"]),
    text(&["ip_address"]),
]);
const ASN: usize = 0;
const OBSERVED_AT: usize = 1;
const SOURCE: usize = 2;

pub fn take(batch: &Batch, report: &mut RowReport, counts: &mut ImportCounts) {
    let mut observations = Vec::new();
    let mut rows: Vec<&Row> = Vec::new();
    for row in batch.rows {
        match read(row) {
            Ok(observation) => {
                observations.push(observation);
                rows.push(row);
            }
            Err(reason) => {
                let rejected = report.rows.len();
                report.reject(row, COLUMNS, reason);
                // The table has several rows per address, so the address alone does not identify a row.
                report.rows[rejected].row_key = key(row);
            }
        }
    }
    let (written, others) = write_history(batch.connection, &observations);
    counts.written += written;
    counts.history += (observations.len() - others.len()) as i64;
    for (number, source) in others {
        if let Some(row) = rows.get(number) {
            let reason = format!(
                "an observation of the same address, ASN and time already exists, with source {source}"
            );
            report.merge(key(row), &reason, Some(row.shown(COLUMNS)));
        }
    }
}

fn read(row: &Row) -> Result<Observation, &'static str> {
    let address = row.key.as_deref().and_then(|key| address::parse_bytes(key).ok().flatten());
    let asn = row.text(ASN).as_deref().and_then(legacy::asn);
    Ok(Observation {
        address: address.ok_or("ip_address is not an address")?,
        asn: i64::from(asn.ok_or("asn_number is not an ASN")?),
        at: row.time(OBSERVED_AT).ok_or("observed_at is missing")?,
        source: row.text(SOURCE).unwrap_or_else(|| "import".to_owned()),
    })
}

/// Returns the values of the columns that identify a row in the Python system's table.
fn key(row: &Row) -> String {
    let at = row.time(OBSERVED_AT).map(crate::pg::clock::iso8601);
    format!("{} {} {}", row.shown_key(), row.text(ASN).unwrap_or_default(), at.unwrap_or_default())
}
