//! Geofeed CSV (RFC 8805): DigitalOcean, Linode, Vultr.
//!
//! ```text
//! # comment
//! 192.0.2.0/24,US,US-NJ,Clifton,07014     ; prefix, country, region, city, postal code; only the prefix is required
//! ```
//!
//! A region such as "US-NJ, Clifton" becomes a detail of the network.

use super::csv_rows::rows;
use super::sink::{Sink, detail};
use super::{Content, Details, Error, Format, shown};

pub(super) fn read(text: &str) -> Result<Content, Error> {
    let mut sink = Sink::new();
    for row in rows(text) {
        let (line, record) = row?;
        let field = |index: usize| record.get(index).unwrap_or_default();
        let country = field(1);
        let is_country = country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_alphabetic());
        if !country.is_empty() && !is_country {
            let problem = format!("not a geofeed, the second field is no country: \"{}\"", shown(country));
            return Err(Error::at(line, problem));
        }
        let area = [field(2), country].into_iter().find(|text| !text.is_empty());
        let city = Some(field(3)).filter(|city| !city.is_empty());
        let region = [area, city].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let details = Details { region: detail(&region), ..Details::default() };
        sink.network(field(0), details).map_err(|problem| Error::at(line, problem))?;
    }
    Ok(sink.finish(Format::Geofeed))
}
