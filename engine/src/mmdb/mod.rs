//! Lookups of addresses in mmdb files.
//!
//! `open` is fast, and every backend calls it. `verify` reads the whole file. It is called once for each file, before the file is
//! used. `open`, `verify` and lookups never panic, never run forever and never overflow, even if the file is damaged or hostile. If
//! `verify` has accepted the file, no lookup in the file fails. Otherwise a lookup may report a damaged record.
//!
//! A lookup of one field goes through the tree once and decodes only one path of the record, with the crate `maxminddb`. `open` has
//! selected this path. The lookup does not decode the whole record.
//!
//! | file | holds |
//! |---|---|
//! | `builds` | a text that describes the builds of several files |
//! | `format` | the parts of a file, and values at a byte offset |
//! | `layout` | the paths of the fields in a vendor's file |
//! | `scalar` | conversion of values to countries, coordinates and ASNs |
//! | `search` | the search for an address in the tree of a file with types of addresses, and for the records of a prefix |
//! | `several` | combines the values of several files into one answer |
//! | `types` | files with types of addresses, such as VPN or TOR |
//! | `vendor` | the vendor of a file |
//! | `verify` | the check that every lookup in a file succeeds |

pub mod builds;
mod error;
mod format;
mod layout;
mod scalar;
mod search;
mod several;
pub mod types;
mod vendor;
mod verify;

pub use error::MmdbError;

use crate::address::Address;
use crate::prefix::Prefix;
use format::Plan;
use layout::{Field, Layout};
use maxminddb::{LookupResult, MaxMindDbError, Reader};
use scalar::Scalar;
use search::Search;
use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

pub struct Database<S: AsRef<[u8]>> {
    reader: Reader<Shared<S>>,
    bytes: Shared<S>,
    plan: Plan,
    layout: Layout,
    facts: Facts,
    content: Content,
}

/// Facts from the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub database_type: String,
    /// Name of the vendor, or `database_type` if the vendor is unknown.
    pub vendor: String,
    /// Seconds since 1970.
    pub build_epoch: u64,
    pub ip_version: u16,
    pub node_count: u32,
    /// Size of a tree record in bits.
    pub record_size: u16,
}

/// The kind of data in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    Location,
    Network,
    Both,
}

/// Location of an address.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Location<'a> {
    /// Country where the address is used: ISO 3166 alpha-2 in capitals.
    pub country: Option<[u8; 2]>,
    /// Country where the network is registered: ISO 3166 alpha-2 in capitals.
    pub registered_country: Option<[u8; 2]>,
    /// Name of the country in English.
    pub country_name: Option<&'a str>,
    /// Name of the city in English.
    pub city: Option<&'a str>,
    /// Degrees. Known if and only if the longitude is known.
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    /// Kilometres.
    pub accuracy_radius: Option<u32>,
}

/// The location of an address, with more fields than `Location`. The insert of a session does not need these additional fields. At
/// least one field is known.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DetailedLocation<'a> {
    pub location: Location<'a>,
    /// The largest subdivision of the country, in English.
    pub region: Option<&'a str>,
    /// The part of an ISO 3166-2 code after the country code and the hyphen, for example `CA` in `US-CA`.
    pub region_code: Option<&'a str>,
    pub postal_code: Option<&'a str>,
    /// Name in the tz database.
    pub time_zone: Option<&'a str>,
}

/// The network that announces an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network<'a> {
    /// The ASN, from 1 to 4294967295.
    pub asn: u32,
    pub organization: Option<&'a str>,
}

/// The reader and `verify` share these bytes, because the reader gives no access to its own bytes.
struct Shared<S>(Arc<S>);

impl<S: AsRef<[u8]>> AsRef<[u8]> for Shared<S> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl<S: AsRef<[u8]>> Database<S> {
    /// Reads the metadata, compares them with the size of the file, and reads a sample of the records. Returns an error if the file
    /// has no usable data.
    pub fn open(bytes: S) -> Result<Self, MmdbError> {
        let bytes = Shared(Arc::new(bytes));
        let plan = Plan::read(bytes.as_ref())?;
        let reader = Reader::from_source(Shared(Arc::clone(&bytes.0)))
            .map_err(|error| MmdbError::Metadata { field: "as a whole", reason: error.to_string() })?;
        let metadata = reader.metadata();
        let layout = Layout::detect(bytes.as_ref(), &plan, &metadata.database_type);
        let place = [Field::Country, Field::RegisteredCountry, Field::City, Field::Latitude]
            .iter()
            .any(|field| !layout.of(*field).is_empty());
        let content = match (place, !layout.of(Field::Asn).is_empty()) {
            (true, true) => Content::Both,
            (true, false) => Content::Location,
            (false, true) => Content::Network,
            (false, false) => {
                let database_type = clean_name(&metadata.database_type).into_owned();
                return Err(MmdbError::NoAnswers { database_type });
            }
        };
        let facts = Facts {
            database_type: metadata.database_type.clone(),
            vendor: vendor::vendor(&metadata.database_type),
            build_epoch: metadata.build_epoch,
            ip_version: plan.ip_version,
            node_count: plan.node_count,
            record_size: plan.record_size,
        };
        Ok(Self { reader, bytes, plan, layout, facts, content })
    }

    /// Reads all data that a lookup can reach. The time is proportional to the size of the file, even if the file is damaged.
    pub fn verify(&self) -> Result<(), MmdbError> {
        verify::verify(self.bytes.as_ref(), &self.plan)
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn content(&self) -> Content {
        self.content
    }

    /// Returns the country where the address is used.
    pub fn country(&self, address: Address) -> Result<Option<[u8; 2]>, MmdbError> {
        self.scalar(Field::Country, address, Scalar::country)
    }

    /// Returns the country where the network of the address is registered.
    pub fn registered_country(&self, address: Address) -> Result<Option<[u8; 2]>, MmdbError> {
        self.scalar(Field::RegisteredCountry, address, Scalar::country)
    }

    pub fn city(&self, address: Address) -> Result<Option<&str>, MmdbError> {
        self.scalar(Field::City, address, Scalar::text)
    }

    pub fn asn(&self, address: Address) -> Result<Option<u32>, MmdbError> {
        self.scalar(Field::Asn, address, Scalar::asn)
    }

    pub fn organization(&self, address: Address) -> Result<Option<&str>, MmdbError> {
        self.scalar(Field::Organization, address, Scalar::text)
    }

    /// Returns the location. At least one of its fields is known.
    pub fn location(&self, address: Address) -> Result<Option<Location<'_>>, MmdbError> {
        self.find(address)?.map_or(Ok(None), |found| Self::location_of(&found))
    }

    /// Returns the location with all fields that are known. Returns `None` if no field is known.
    pub fn detailed_location(&self, address: Address) -> Result<Option<DetailedLocation<'_>>, MmdbError> {
        let Some(found) = self.find(address)? else {
            return Ok(None);
        };
        let location = Self::location_of(&found)?;
        let region = found.value(Field::Region, Scalar::text)?;
        let region_code = found.value(Field::RegionCode, Scalar::text)?;
        let postal_code = found.value(Field::PostalCode, Scalar::text)?;
        let time_zone = found.value(Field::TimeZone, Scalar::text)?;
        let details = [region, region_code, postal_code, time_zone];
        if location.is_none() && details.iter().all(Option::is_none) {
            return Ok(None);
        }
        let location = location.unwrap_or_default();
        Ok(Some(DetailedLocation { location, region, region_code, postal_code, time_zone }))
    }

    #[inline]
    fn location_of<'a>(found: &Found<'a, S>) -> Result<Option<Location<'a>>, MmdbError> {
        let country = found.value(Field::Country, Scalar::country)?;
        let registered_country = found.value(Field::RegisteredCountry, Scalar::country)?;
        let country_name = found.value(Field::CountryName, Scalar::country_name)?;
        let city = found.value(Field::City, Scalar::text)?;
        let latitude = found.value(Field::Latitude, |value| value.coordinate(90.0))?;
        let longitude = found.value(Field::Longitude, |value| value.coordinate(180.0))?;
        // If a vendor knows neither the country nor the city, the vendor writes the coordinates 0/0.
        let is_named = country.is_some() || country_name.is_some() || city.is_some();
        let coordinates = latitude.zip(longitude).filter(|at| is_named || *at != (0.0, 0.0));
        let (latitude, longitude) = coordinates.unzip();
        let accuracy_radius = match latitude {
            Some(_) => found.value(Field::AccuracyRadius, Scalar::whole)?,
            None => None,
        };
        let known = is_named || registered_country.is_some() || latitude.is_some();
        let place = Location {
            country,
            registered_country,
            country_name,
            city,
            latitude,
            longitude,
            accuracy_radius,
        };
        Ok(known.then_some(place))
    }

    /// Returns the offset of the address's record in the data section. Addresses with the same offset have the same values. Returns
    /// `None` if there is no record.
    #[inline]
    pub fn record_offset(&self, address: Address) -> Result<Option<usize>, MmdbError> {
        Ok(self.find(address)?.and_then(|found| found.record.offset()))
    }

    pub fn network(&self, address: Address) -> Result<Option<Network<'_>>, MmdbError> {
        let Some(found) = self.find(address)? else {
            return Ok(None);
        };
        let Some(asn) = found.value(Field::Asn, Scalar::asn)? else {
            return Ok(None);
        };
        Ok(Some(Network { asn, organization: found.value(Field::Organization, Scalar::text)? }))
    }

    /// Returns the ASNs of all networks that have addresses in a prefix.
    pub fn asns_within(&self, prefix: Prefix) -> Result<HashSet<u32>, MmdbError> {
        let (mut asns, mut records, mut damage) = (HashSet::new(), HashSet::new(), None);
        // All addresses with the same record have the same network.
        let visit = |record, block: Prefix| {
            if records.insert(record) {
                match self.asn(block.network()) {
                    Ok(asn) => asns.extend(asn),
                    Err(error) => damage = Some(error),
                }
            }
            damage.is_some()
        };
        let search = Search::new(self.bytes.as_ref(), &self.plan);
        let walked = search.any_record(self.bytes.as_ref(), &self.plan, prefix, visit);
        walked.map_err(|reason| MmdbError::Tree { network: prefix.to_string(), reason })?;
        damage.map_or(Ok(asns), Err)
    }

    #[inline(always)]
    fn scalar<'a, T>(
        &'a self,
        field: Field,
        address: Address,
        fit: impl Fn(Scalar<'a>) -> Option<T>,
    ) -> Result<Option<T>, MmdbError> {
        match self.find(address)? {
            Some(found) => found.value(field, fit),
            None => Ok(None),
        }
    }

    /// Returns the record of the address. Returns `None` if there is no record, or if the address is an IPv6 address and the file
    /// has only IPv4.
    #[inline(always)]
    fn find(&self, address: Address) -> Result<Option<Found<'_, S>>, MmdbError> {
        if self.facts.ip_version == 4 && matches!(address.ip(), IpAddr::V6(_)) {
            return Ok(None);
        }
        match self.reader.lookup(address.ip()) {
            Ok(record) if record.has_data() => Ok(Some(Found { record, layout: &self.layout, address })),
            Ok(_) => Ok(None),
            Err(error) => Err(damaged(address, error)),
        }
    }
}

/// The record of an address, not decoded yet.
struct Found<'a, S: AsRef<[u8]>> {
    record: LookupResult<'a, Shared<S>>,
    layout: &'a Layout,
    address: Address,
}

impl<'a, S: AsRef<[u8]>> Found<'a, S> {
    /// Returns the first valid value among the field's paths.
    #[inline(always)]
    fn value<T>(&self, field: Field, fit: impl Fn(Scalar<'a>) -> Option<T>) -> Result<Option<T>, MmdbError> {
        for path in self.layout.of(field) {
            match self.record.decode_path::<Scalar<'a>>(path) {
                Ok(Some(value)) => {
                    if let Some(value) = fit(value) {
                        return Ok(Some(value));
                    }
                }
                // The record does not have the path, or a value before the end of the path is not a map. This does not mean that
                // the file is damaged. The file may have another layout.
                Ok(None) | Err(MaxMindDbError::Decoding { .. }) => {}
                Err(error) => return Err(damaged(self.address, error)),
            }
        }
        Ok(None)
    }
}

#[cold]
fn damaged(address: Address, error: MaxMindDbError) -> MmdbError {
    let (offset, reason) = match error {
        MaxMindDbError::InvalidDatabase { message, .. } => (None, message),
        MaxMindDbError::ResourceLimit { message, offset, .. } => (offset, message),
        error => (None, error.to_string()),
    };
    MmdbError::Record { network: address.to_string(), offset, reason }
}

/// Maximum length of a stored name, in characters.
pub const LONGEST_NAME: usize = 256;

/// Returns the name in a form that can be stored in a text column and shown in a terminal. The result has at most `LONGEST_NAME`
/// characters and no control characters. PostgreSQL cannot store NUL, and a terminal might execute other control characters. If
/// nothing has to change, returns the name itself.
pub fn clean_name(name: &str) -> Cow<'_, str> {
    let end = name.char_indices().nth(LONGEST_NAME).map_or(name.len(), |(at, _)| at);
    let name = &name[..end];
    if name.chars().any(char::is_control) {
        Cow::Owned(name.chars().filter(|letter| !letter.is_control()).collect())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_names_are_left_alone() {
        assert!(matches!(clean_name("Telstra Pty Ltd"), Cow::Borrowed("Telstra Pty Ltd")));
        assert!(matches!(clean_name(""), Cow::Borrowed("")));
    }

    #[test]
    fn control_characters_are_removed() {
        assert_eq!(clean_name("a\0b\x1b[31mc\u{85}d\x7f\n"), "ab[31mcd");
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(clean_name(&"é".repeat(256)), "é".repeat(256));
        assert_eq!(clean_name(&"é".repeat(257)), "é".repeat(256));
        assert_eq!(clean_name(&"\0".repeat(257)), "");
    }
}
