//! The memory maps of the mmdb files in a backend, and lookups in these maps.
//!
//! Each setting may name several files. `engine::mmdb::several` describes how the values of several files are combined. If a
//! setting names only one file, a lookup reads only the value that it needs.
//!
//! No lookup of a bogon returns a value. A file may have records for bogons. For example, in the tree of a file, IPv4 addresses
//! are at the place of the IPv4-compatible IPv6 addresses. The check is here, so that all SQL functions and the trigger agree.

use std::collections::BTreeSet;
use std::iter;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::mmdb::{
    Content, Database, DetailedLocation, Facts, Location, MmdbError, Network, builds,
};
use cowrie_enrich_engine::prefix::Prefix;
use memmap2::Mmap;

use super::file::Kind;
use super::private_copy;
use super::types::TypeFiles;
use crate::telemetry;

pub(super) struct LoadedDatabase {
    pub database: Database<Mmap>,
    pub version: private_copy::Version,
}

/// The memory maps of this backend, in the order of the settings. `None` stands for a file that is not in
/// service.
#[derive(Default)]
pub struct Databases {
    city: Vec<Option<LoadedDatabase>>,
    asn: Vec<Option<LoadedDatabase>>,
    types: TypeFiles,
    /// This number increases with every change of the maps.
    version: u64,
    /// Text with the builds of the files of locations and networks. When this text changes, stored answers
    /// expire.
    builds: String,
}

/// The result of a lookup, and the files that contain its values.
pub struct Found<'a, T> {
    pub value: T,
    /// The first file with data about the address.
    pub file: &'a Facts,
    /// The later files from which `value` has those fields that the first file lacks.
    pub more: Vec<&'a Facts>,
}

impl Databases {
    /// Returns true if neither a file of locations nor a file of networks is loaded.
    pub fn is_empty(&self) -> bool {
        self.files(Kind::City).chain(self.files(Kind::Asn)).next().is_none()
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn builds(&self) -> &str {
        &self.builds
    }

    /// Returns true if the loaded files differ from the files from which an earlier answer came. `builds` names
    /// the files of this earlier answer. Ignores a file that is not loaded here, because an answer does not
    /// expire when a file is missing.
    pub fn is_due(&self, builds: Option<&str>) -> bool {
        !self.is_empty() && builds::is_due(&self.builds, builds)
    }

    pub fn country(&self, address: Address) -> Option<[u8; 2]> {
        self.files_about(address, Kind::City).find_map(|file| answered(file.country(address)))
    }

    /// Returns the country where the network of an address is registered.
    pub fn registered_country(&self, address: Address) -> Option<[u8; 2]> {
        self.files_about(address, Kind::City).find_map(|file| answered(file.registered_country(address)))
    }

    pub fn city(&self, address: Address) -> Option<&str> {
        let mut files = self.files_about(address, Kind::City);
        match (files.next(), files.next()) {
            (Some(file), None) => answered(file.city(address)),
            // If there are several files, reads the whole location, because other values of a file decide whether the city from
            // this file is used.
            _ => self.location(address)?.value.city,
        }
    }

    pub fn asn(&self, address: Address) -> Option<u32> {
        self.network_files_about(address).find_map(|file| answered(file.asn(address)))
    }

    pub fn organization(&self, address: Address) -> Option<&str> {
        let mut files = self.network_files_about(address);
        match (files.next(), files.next()) {
            (Some(file), None) => answered(file.organization(address)),
            _ => self.network(address)?.value.organization,
        }
    }

    pub fn location(&self, address: Address) -> Option<Found<'_, Location<'_>>> {
        first_filled(
            self.files_about(address, Kind::City),
            |file| answered(file.location(address)),
            Location::is_complete,
            Location::or,
        )
    }

    /// Returns the location with all its fields, including the fields that the INSERT of a session does not
    /// need.
    pub fn detailed_location(&self, address: Address) -> Option<DetailedLocation<'_>> {
        let found = first_filled(
            self.files_about(address, Kind::City),
            |file| answered(file.detailed_location(address)),
            DetailedLocation::is_complete,
            DetailedLocation::or,
        );
        found.map(|found| found.value)
    }

    pub fn network(&self, address: Address) -> Option<Found<'_, Network<'_>>> {
        let is_complete = |network: &Network<'_>| network.organization.is_some();
        first_filled(
            self.network_files_about(address),
            |file| answered(file.network(address)),
            is_complete,
            Network::or,
        )
    }

    /// Returns the record of an address in each file of locations and networks. If two addresses have the same records, the files
    /// have the same data about them. Returns `None` if a file is damaged. The address must not be a bogon.
    pub fn records(&self, address: Address) -> Option<Vec<u64>> {
        let record = |file: &Database<Mmap>| {
            // 0 stands for "no record".
            file.record_offset(address).ok().map(|offset| offset.map_or(0, |offset| offset as u64 + 1))
        };
        self.files(Kind::City).chain(self.files(Kind::Asn)).map(record).collect()
    }

    /// Returns the ASNs of all networks that have addresses in a prefix according to at least one file.
    pub fn networks_within(&self, prefix: Prefix) -> BTreeSet<u32> {
        self.network_files()
            .filter_map(|file| answered(file.asns_within(prefix).map(Some)))
            .flatten()
            .collect()
    }

    /// Returns the ASNs of all networks in which a usable list names a known research scanner.
    pub fn networks_of_benign_scanners(&self) -> BTreeSet<u32> {
        let mut asns = BTreeSet::new();
        self.types.each_benign_scanner(|block| asns.extend(self.networks_within(block)));
        asns
    }

    /// Returns true if at least one loaded file can be used for lookups of this kind.
    pub fn serves(&self, kind: Kind) -> bool {
        match kind {
            Kind::City => self.files(kind).next().is_some(),
            Kind::Asn => self.network_files().next().is_some(),
            Kind::Types => !self.types.is_empty(),
        }
    }

    /// Returns those files of a setting that are in service.
    fn files(&self, kind: Kind) -> impl Iterator<Item = &Database<Mmap>> {
        let files: &[Option<LoadedDatabase>] = match kind {
            Kind::City => &self.city,
            Kind::Asn => &self.asn,
            Kind::Types => &[],
        };
        files.iter().flatten().map(|loaded| &loaded.database)
    }

    /// Returns those files of a setting in which an address is looked up. Returns no file for a bogon.
    fn files_about(&self, address: Address, kind: Kind) -> impl Iterator<Item = &Database<Mmap>> {
        self.files(kind).filter(unless_bogon(address))
    }

    /// Returns those files in which the network of an address is looked up. Returns no file for a bogon.
    fn network_files_about(&self, address: Address) -> impl Iterator<Item = &Database<Mmap>> {
        self.network_files().filter(unless_bogon(address))
    }

    /// Returns the loaded files of the setting asn_database. If there is none, returns those files of the
    /// setting city_database that also contain networks, such as GeoIP2 Enterprise.
    fn network_files(&self) -> impl Iterator<Item = &Database<Mmap>> {
        let mut own = self.files(Kind::Asn).peekable();
        let without = own.peek().is_none();
        let others = self.files(Kind::City).filter(move |file| without && file.content() == Content::Both);
        own.chain(others)
    }

    /// Returns the loaded files with types of addresses.
    pub fn types(&self) -> &TypeFiles {
        &self.types
    }

    pub(super) fn types_mut(&mut self) -> &mut TypeFiles {
        &mut self.types
    }

    pub(super) fn asked_in_order_mut(&mut self) -> [(Kind, &mut Vec<Option<LoadedDatabase>>); 2] {
        [(Kind::City, &mut self.city), (Kind::Asn, &mut self.asn)]
    }

    /// Updates the version and the text of the builds. Must be called after every change of the maps.
    pub(super) fn have_changed(&mut self) {
        let epochs = |files: &[Option<LoadedDatabase>]| -> Vec<_> {
            files.iter().map(|file| file.as_ref().map(|file| file.database.facts().build_epoch)).collect()
        };
        self.builds = builds::describe(&epochs(&self.city), &epochs(&self.asn));
        self.version += 1;
    }
}

/// Returns a filter that accepts every file, or no file if the address is a bogon.
fn unless_bogon<T>(address: Address) -> impl Fn(&T) -> bool {
    let is_bogon = bogon::reason(address).is_some();
    move |_| !is_bogon
}

/// Returns the value from the first file that contains a value. Fills the empty fields of this value from later
/// files.
fn first_filled<'a, T: Copy + PartialEq>(
    mut files: impl Iterator<Item = &'a Database<Mmap>>,
    find: impl Fn(&'a Database<Mmap>) -> Option<T>,
    is_complete: impl Fn(&T) -> bool,
    or: impl Fn(T, T) -> T,
) -> Option<Found<'a, T>> {
    let (first, value) = files.find_map(|file| find(file).map(|value| (file, value)))?;
    let mut found = Found { value, file: first.facts(), more: Vec::new() };
    while !is_complete(&found.value) {
        let Some(file) = files.next() else { break };
        let Some(later) = find(file) else { continue };
        let filled = or(found.value, later);
        if filled != found.value {
            found.value = filled;
            found.more.push(file.facts());
        }
    }
    Some(found)
}

impl<T> Found<'_, T> {
    /// Returns the vendors of the files. Returns each vendor only once.
    pub fn vendors(&self) -> impl Iterator<Item = &str> {
        let all = || iter::once(&self.file).chain(&self.more).map(|file| file.vendor.as_str());
        all()
            .enumerate()
            .filter(move |(number, vendor)| !all().take(*number).any(|v| v == *vendor))
            .map(|(_, vendor)| vendor)
    }
}

/// If a record is damaged, counts and logs the error, and returns `None`. A damaged record is very unlikely,
/// because each file is verified before it is put into service.
pub(super) fn answered<T>(result: Result<Option<T>, MmdbError>) -> Option<T> {
    result.unwrap_or_else(|error| {
        telemetry::error("could not look up an address in an mmdb file", &error.to_string());
        None
    })
}
