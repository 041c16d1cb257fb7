//! Parses lists of networks in two text forms.
//!
//! The first form lists prefixes, separated by tabs or commas. Its header names the columns in any order, and `#`
//! begins a comment:
//!
//! ```text
//! prefix        country  country_name   city       latitude  longitude  accuracy_radius  asn    organization
//! 3.64.0.0/12   DE       Germany        Frankfurt  50.1188   8.6843     50               16509  Amazon.com, Inc.
//! ```
//!
//! Only `prefix` is required. An empty field is an unknown value. The second form lists ranges without a header, like
//! the files `asn-ipv4.csv` and `asn-ipv6.csv` of the npm package `@ip-location-db/asn`:
//!
//! ```text
//! 1.0.0.0,1.0.0.255,13335,"Cloudflare, Inc."
//! ```
//!
//! Every error names the line and the field.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;

use mmdb_writer::ipnet::IpNet;

/// A location: a country, optionally a city in it, optionally coordinates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Location {
    /// Two letters, ISO 3166-1.
    pub country: Option<String>,
    pub country_name: Option<String>,
    pub city: Option<String>,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    /// Kilometres.
    pub accuracy_radius: Option<u16>,
}

/// A network's number and the organisation that announces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub asn: u32,
    pub organization: Option<String>,
}

/// One line of a list in either form: the addresses from `first` to `last`.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub first: IpAddr,
    pub last: IpAddr,
    pub location: Option<Location>,
    pub origin: Option<Origin>,
}

impl Network {
    /// Returns the number of addresses minus one. It orders ranges from the widest to the most specific.
    pub fn width(&self) -> u128 {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                u128::from(u32::from(last)).wrapping_sub(u128::from(u32::from(first)))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => u128::from(last).wrapping_sub(u128::from(first)),
            _ => 0,
        }
    }
}

#[derive(Debug)]
pub struct Error {
    line: u64,
    field: String,
    problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, {}: {}", self.line, self.field, self.problem)
    }
}

impl std::error::Error for Error {}

fn error(line: u64, field: &str, problem: impl fmt::Display) -> Error {
    Error { line, field: field.to_owned(), problem: problem.to_string() }
}

/// Parses a list. The first line shows the form.
pub fn read(mut input: impl Read) -> Result<Vec<Network>, Error> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|problem| error(0, "file", problem))?;
    let first_line = bytes
        .split(|byte| *byte == b'\n')
        .find(|line| !line.is_empty() && !line.starts_with(b"#"))
        .unwrap_or_default();
    let delimiter = if first_line.contains(&b'\t') { b'\t' } else { b',' };
    let first_field = first_line.split(|byte| *byte == delimiter).next().unwrap_or_default();
    let by_range =
        std::str::from_utf8(first_field).is_ok_and(|field| field.trim_matches('"').parse::<IpAddr>().is_ok());
    let reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(!by_range)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .flexible(by_range)
        // Only the comma form uses quoting. In the tab form an organisation's name may contain quotation marks.
        .quoting(delimiter == b',')
        .from_reader(bytes.as_slice());
    if by_range { read_ranges(reader) } else { read_prefixes(reader) }
}

fn position(problem: &csv::Error) -> u64 {
    problem.position().map_or(0, csv::Position::line)
}

fn read_ranges(mut reader: csv::Reader<&[u8]>) -> Result<Vec<Network>, Error> {
    let mut networks = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|problem| error(position(&problem), "record", problem))? {
        let line = record.position().map_or(0, csv::Position::line);
        let address = |index: usize, name: &str| -> Result<IpAddr, Error> {
            let text = record.get(index).unwrap_or_default();
            text.parse().map_err(|_| error(line, name, format_args!("not an address: \"{text}\"")))
        };
        let (first, last) = (address(0, "start")?, address(1, "end")?);
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(error(line, "end", format_args!("{last} does not follow {first}")));
        }
        let origin = match record.get(2).unwrap_or_default() {
            "" | "0" => None,
            text => Some(Origin {
                asn: number_of_network(line, text)?,
                organization: record.get(3).filter(|name| !name.is_empty()).map(str::to_owned),
            }),
        };
        networks.push(Network { first, last, location: None, origin });
    }
    Ok(networks)
}

fn number_of_network(line: u64, text: &str) -> Result<u32, Error> {
    let digits = text.strip_prefix("AS").unwrap_or(text);
    match digits.parse::<u32>() {
        Ok(asn) if asn > 0 => Ok(asn),
        _ => Err(error(line, "asn", format_args!("not a number from 1 to 4294967295: \"{text}\""))),
    }
}

const COLUMNS: [&str; 9] = [
    "prefix",
    "country",
    "country_name",
    "city",
    "latitude",
    "longitude",
    "accuracy_radius",
    "asn",
    "organization",
];

fn read_prefixes(mut reader: csv::Reader<&[u8]>) -> Result<Vec<Network>, Error> {
    let header = reader.headers().map_err(|problem| error(position(&problem), "header", problem))?.clone();
    if let Some(unknown) = header.iter().find(|name| !COLUMNS.contains(name)) {
        return Err(error(
            1,
            "header",
            format_args!("unknown column \"{unknown}\"; known: {}", COLUMNS.join(", ")),
        ));
    }
    let column = COLUMNS.map(|name| header.iter().position(|given| given == name));
    if column[0].is_none() {
        return Err(error(1, "header", "no column \"prefix\""));
    }
    let mut networks = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|problem| error(position(&problem), "record", problem))?;
        let line = record.position().map_or(0, csv::Position::line);
        let text = |index: usize| -> Option<&str> {
            column[index].and_then(|at| record.get(at)).filter(|field| !field.is_empty())
        };
        let number = |index: usize, limit: f64| -> Result<Option<f64>, Error> {
            let Some(field) = text(index) else {
                return Ok(None);
            };
            match field.parse::<f64>() {
                Ok(value) if value.abs() <= limit => Ok(Some(value)),
                _ => {
                    Err(error(line, COLUMNS[index], format_args!("not a number up to {limit}: \"{field}\"")))
                }
            }
        };
        let prefix = text(0).unwrap_or_default();
        let net: IpNet =
            prefix.parse().map_err(|_| error(line, "prefix", format_args!("not a prefix: \"{prefix}\"")))?;
        if net != net.trunc() {
            return Err(error(
                line,
                "prefix",
                format_args!("{net} has bits set beyond its length: {}", net.trunc()),
            ));
        }
        let country = text(1).map(str::to_owned);
        if let Some(code) =
            country.as_deref().filter(|code| code.len() != 2 || !code.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return Err(error(line, "country", format_args!("not two capitals: \"{code}\"")));
        }
        let location = Location {
            country,
            country_name: text(2).map(str::to_owned),
            city: text(3).map(str::to_owned),
            latitude: number(4, 90.0)?,
            longitude: number(5, 180.0)?,
            accuracy_radius: text(6)
                .map(|field| {
                    field.parse().map_err(|_| {
                        error(line, "accuracy_radius", format_args!("not kilometres: \"{field}\""))
                    })
                })
                .transpose()?,
        };
        let origin = text(7)
            .map(|field| -> Result<Origin, Error> {
                Ok(Origin { asn: number_of_network(line, field)?, organization: text(8).map(str::to_owned) })
            })
            .transpose()?;
        networks.push(Network {
            first: net.network(),
            last: net.broadcast(),
            location: (location != Location::default()).then_some(location),
            origin,
        });
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_may_come_in_any_order_and_be_absent() {
        let list =
            "# a comment\nasn\tprefix\torganization\n16509\t3.64.0.0/12\tAmazon \"AWS\"\n\t2001:db8::/32\t\n";
        let networks = read(list.as_bytes()).unwrap();
        assert_eq!(networks[0].first, "3.64.0.0".parse::<IpAddr>().unwrap());
        assert_eq!(networks[0].last, "3.79.255.255".parse::<IpAddr>().unwrap());
        let origin = networks[0].origin.clone().unwrap();
        assert_eq!((origin.asn, origin.organization.as_deref()), (16509, Some("Amazon \"AWS\"")));
        assert_eq!(networks[1].origin, None);
        assert_eq!(networks[1].location, None);
    }

    #[test]
    fn ranges_keep_commas_inside_quotes() {
        let networks =
            read("1.0.0.0,1.0.0.255,13335,\"Cloudflare, Inc.\"\n2001::,2001::f,4294967295,X\n".as_bytes())
                .unwrap();
        assert_eq!(networks[0].origin.as_ref().unwrap().organization.as_deref(), Some("Cloudflare, Inc."));
        assert_eq!(networks[1].origin.as_ref().unwrap().asn, 4_294_967_295);
        assert_eq!(networks[1].width(), 15);
    }

    #[test]
    fn errors_say_where() {
        let told = |list: &str| read(list.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            told("prefix,asn\n10.0.0.0/8,1\n10.0.0.0/33,1\n"),
            "line 3, prefix: not a prefix: \"10.0.0.0/33\""
        );
        assert!(told("prefix,asn\n10.0.0.1/8,1\n").contains("bits set beyond its length: 10.0.0.0/8"));
        assert!(told("prefix,asn\n10.0.0.0/8,0\n").starts_with("line 2, asn"));
        assert!(told("prefix,asn\n10.0.0.0/8,4294967296\n").starts_with("line 2, asn"));
        assert!(told("prefix,country\n10.0.0.0/8,us\n").starts_with("line 2, country"));
        assert!(told("prefix,nation\n10.0.0.0/8,us\n").contains("unknown column \"nation\""));
        assert!(told("1.0.0.9,1.0.0.1,5,x\n").starts_with("line 1, end"));
    }
}
