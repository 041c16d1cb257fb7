//! Implements the function `lookup_ips()`, which reads lists of addresses.
//!
//! One call processes all lines of a list together. It parses the lines, and searches the addresses in the mmdb files. One
//! statement reads the rows of all addresses. Another statement reads the rows of all networks.

use std::collections::HashSet;

use cowrie_enrich_engine::mmdb::{Network, clean_name};
use cowrie_enrich_engine::{address::Address, address_line, as_registry, bogon, ip_type};
use foldhash::fast::RandomState;

use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::spi::Connection;
use crate::pg::sql_function::Call;
use crate::pg::value::{Array, Text, Value, array, value};
use crate::store::ExtensionOids;
use crate::store::address_list::{self, KnownAddress, KnownNetwork, KnownNetworks};
use crate::{row, sql_function};

/// A line of a list. If the line is valid, `address` is set. If the line is invalid, `error` is set. If the line is a comment,
/// neither is set.
struct Line {
    text: Option<String>,
    address: Option<Address>,
    error: Option<String>,
}

/// An address of a list, and the data about this address from `ip_inventory` and from the mmdb files.
struct Found<'a> {
    address: Address,
    known: Option<&'a KnownAddress>,
    /// The network of the address according to the mmdb files.
    network: Option<Network<'a>>,
    /// True if the values in `ip_inventory` come from older mmdb files than the loaded files.
    is_due: bool,
}

sql_function!(lookup_ips_wrapper, pg_finfo_lookup_ips_wrapper, lookup_ips);
fn lookup_ips(call: &Call) {
    let oids = ExtensionOids::of_caller(call);
    let lines: Vec<Line> = call.texts(0).unwrap_or_default().into_iter().map(Line::read).collect();
    Connection::with(oids.schema, |connection| {
        let distinct: HashSet<Address, RandomState> = lines.iter().filter_map(|line| line.address).collect();
        let known = address_list::addresses(connection, distinct.into_iter());
        mmdb::with(LoadPolicy::Import, |files| {
            let find = |address: Address| {
                let known = known.get(&address);
                Found {
                    address,
                    known,
                    network: files.network(address).map(|found| found.value),
                    is_due: known.is_some_and(|known| files.is_due(known.builds.as_deref())),
                }
            };
            let found: Vec<Option<Found<'_>>> = lines.iter().map(|line| line.address.map(find)).collect();
            let asns: HashSet<i64, RandomState> = found.iter().flatten().filter_map(Found::asn).collect();
            let networks = address_list::networks(connection, asns.into_iter());
            call.set((1..).zip(lines.iter().zip(&found)).map(|(number, (line, found))| {
                let mut row = line.columns(number);
                match found {
                    Some(found) => row.extend(found.columns(files, &networks)),
                    None => row.resize(COLUMNS, Value::NULL),
                }
                row
            }));
        });
    });
}

/// The number of columns that a row of the result has.
const COLUMNS: usize = 21;

impl Line {
    fn read(text: Option<String>) -> Line {
        let (address, error) = match text.as_deref().map(address_line::parse) {
            Some(Ok(address)) => (address, None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        Line { text, address, error }
    }

    /// Returns the first columns of a row. The capacity of the vector is enough for the other columns.
    fn columns(&self, number: i32) -> Vec<Value> {
        let mut row = Vec::with_capacity(COLUMNS);
        row.extend(row![
            Integer: number,
            Text: self.text.as_deref(),
            Inet: self.address,
            Text: self.error.as_deref(),
        ]);
        row
    }
}

impl Found<'_> {
    /// Returns the address's current ASN.
    fn asn(&self) -> Option<i64> {
        self.current(
            self.known.and_then(|known| known.asn),
            self.network.map(|network| i64::from(network.asn)),
        )
    }

    /// Returns the current value of an address, from its value in the inventory and its value in the mmdb files. The trigger of
    /// session tables uses the same rule: the files take precedence if the values in the inventory come from older files.
    fn current<T>(&self, of_inventory: Option<T>, of_files: Option<T>) -> Option<T> {
        if self.is_due { of_files.or(of_inventory) } else { of_inventory.or(of_files) }
    }

    /// Returns the columns of a row, beginning with the column `is_bogon`.
    fn columns(&self, files: &Databases, networks: &KnownNetworks) -> Vec<Value> {
        let Found { address, known, .. } = *self;
        let bogon = bogon::reason(address);
        let details = files.detailed_location(address);
        let location = details.map(|details| details.location).unwrap_or_default();
        let region = details.and_then(|details| details.region).map(clean_name);
        let city = location.city.map(clean_name);
        let country = self.current(known.and_then(|known| known.country), location.country);
        let asn = self.asn();
        let network = asn.and_then(|asn| networks.get(&asn));
        let name_in_file = self.network.filter(|network| asn == Some(i64::from(network.asn)));
        let name_in_file = name_in_file.and_then(|network| network.organization).map(clean_name);
        let allocated = asn.and_then(|asn| as_registry::registry(u32::try_from(asn).ok()?));
        let text = |read: fn(&KnownNetwork) -> Option<&str>| network.and_then(read);
        let mut row = row![Boolean: bogon.is_some(), Text: bogon];
        row.push(self.types(files));
        row.extend(row![
            Text: country,
            Text: region.as_deref(),
            Text: city.as_deref(),
            Float: location.latitude,
            Float: location.longitude,
            Bigint: asn,
            Text: text(|network| network.organization.as_deref()).or(name_in_file.as_deref()),
            Text: text(|network| network.kind.as_deref()),
            Text: text(|network| network.registry.as_deref()).or(allocated.map(|registry| registry.name())),
            Boolean: known.and_then(|known| known.is_scanner),
            Boolean: known.is_some(),
            Bigint: known.map_or(0, |known| known.sessions),
            Timestamptz: known.and_then(|known| known.first_seen),
            Timestamptz: known.and_then(|known| known.last_seen),
        ]);
        row
    }

    /// Returns the types of the address, ordered by precedence. The types come from stored answers and from the mmdb files with
    /// types.
    fn types(&self, files: &Databases) -> Value {
        let stored = self.known.map(|known| &known.types[..]).unwrap_or_default().iter().map(String::as_str);
        let mut types: Vec<&str> = stored.collect();
        for kind in files.types().usable_types(self.address) {
            if !types.contains(&kind) {
                types.push(kind);
            }
        }
        types.sort_by_key(|kind| ip_type::rank(kind));
        value::<Array<Text>>(array(types))
    }
}
