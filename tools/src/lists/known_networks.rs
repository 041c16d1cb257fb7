//! Writes lists of ASNs as CSV for the table `known_networks`.
//!
//! Each row has the name of its list as `source`. The statements in docs/ip-types.md load the file, and replace older rows
//! with the same source. They also replace rows of other lists for the same ASNs, so that a VPN list wins.

use std::collections::BTreeMap;

use super::Asn;
use super::asns::distinct;
use super::list::Source;

/// Type of a list: the columns that it sets.
struct Kind {
    name: &'static str,
    asn_type: &'static str,
    is_hosting: bool,
    is_vpn: bool,
}

const KINDS: [Kind; 5] = [
    Kind { name: "VPN", asn_type: "HOSTING", is_hosting: true, is_vpn: true },
    Kind { name: "HOSTING", asn_type: "HOSTING", is_hosting: true, is_vpn: false },
    Kind { name: "ISP", asn_type: "ISP", is_hosting: false, is_vpn: false },
    Kind { name: "EDUCATION", asn_type: "EDUCATION", is_hosting: false, is_vpn: false },
    Kind { name: "GOVERNMENT", asn_type: "GOVERNMENT", is_hosting: false, is_vpn: false },
];

/// Source of the rows that come with the extension.
const SEED: &str = "cowrie_enrich";

/// Parses the argument of a list.
pub fn source(argument: &str) -> Result<Source, String> {
    let is_kind = |text: &str| KINDS.iter().any(|kind| kind.name == text);
    let source = Source::parse(argument, is_kind).map_err(|error| match error {
        error if error.starts_with("invalid type") => {
            format!("{error}; must be HOSTING, VPN, ISP, EDUCATION or GOVERNMENT")
        }
        error => error,
    })?;
    match source.name.as_str() {
        SEED => {
            Err(format!("invalid name \"{SEED}\" of a list; rows with this source come with the extension"))
        }
        _ => Ok(source),
    }
}

/// A list of ASNs and its type.
pub struct AsnList {
    pub name: String,
    pub kind: String,
    pub asns: Vec<Asn>,
}

/// Returns one row for each ASN, in ascending order. If several lists contain an ASN, a VPN list wins, because a host
/// of VPN services is also a hosting provider. Otherwise the list that was given first wins.
pub fn csv(lists: &[AsnList]) -> Result<String, csv::Error> {
    let mut rows: BTreeMap<u32, (&Kind, &str, Option<&str>)> = BTreeMap::new();
    for list in lists {
        let Some(kind) = KINDS.iter().find(|kind| kind.name == list.kind) else { continue };
        for (asn, label) in distinct(&list.asns) {
            let row = rows.entry(asn).or_insert((kind, &list.name, label));
            if kind.is_vpn && !row.0.is_vpn {
                *row = (kind, &list.name, label.or(row.2));
            }
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["asn_number", "label", "asn_type", "is_hosting", "is_vpn", "source"])?;
    for (asn, (kind, source, label)) in rows {
        let label = label.map_or_else(|| format!("AS{asn}"), str::to_owned);
        let flag = |set: bool| if set { "t" } else { "f" };
        writer.write_record([
            &asn.to_string(),
            &label,
            kind.asn_type,
            flag(kind.is_hosting),
            flag(kind.is_vpn),
            source,
        ])?;
    }
    let bytes = writer.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
