//! The loaded files with types of addresses.
//!
//! If a list is older than the maximum age of the list's type, lookups ignore the list. Each lookup returns a set with a bit for
//! each list, and a mask removes the bits of the ignored lists. A backend computes the mask when the backend looks for newer
//! copies, and this happens only between statements. So the mask never changes during a statement.
//!
//! A bogon has no types, even if a list contains it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::ip_type::rank;
use cowrie_enrich_engine::mmdb::clean_name;
use cowrie_enrich_engine::mmdb::types::{BENIGN_SCANNER, ListSet, TypeDatabase};
use cowrie_enrich_engine::prefix::Prefix;
use cowrie_enrich_engine::timestamp::Timestamp;
use memmap2::Mmap;

use super::databases::answered;
use super::file::{ConfiguredFile, FileId};
use super::private_copy;
use crate::guc;
use crate::pg::clock;
use crate::telemetry;

struct TypeFile {
    id: FileId,
    version: private_copy::Version,
    database: TypeDatabase<Mmap>,
    /// For each list, the position of the list's type in the order of precedence.
    ranks: Vec<usize>,
    /// The lists that are not too old.
    usable: ListSet,
    /// The lists of known research scanners.
    scanners: ListSet,
}

/// The files in the order of the setting.
#[derive(Default)]
pub struct TypeFiles {
    files: Vec<TypeFile>,
}

/// The entry of a list that contains an address.
pub struct TypeStatement {
    pub kind: String,
    pub list: String,
    pub provider: Option<String>,
    pub region: Option<String>,
    pub service: Option<String>,
    pub published: Timestamp,
    pub is_usable: bool,
}

impl TypeFiles {
    /// Maps newer private copies, and updates the set of lists that are not too old. Returns true if lookups
    /// may now have other results than before.
    pub(super) fn refresh(&mut self, wanted: Vec<ConfiguredFile>) -> bool {
        if wanted.is_empty() && self.files.is_empty() {
            return false;
        }
        let max_ages = guc::ip_type_max_ages();
        let before: Vec<(FileId, private_copy::Version, ListSet)> = self.states().collect();
        let mut old = std::mem::take(&mut self.files);
        for ConfiguredFile { id, .. } in wanted {
            let known = old.iter().position(|file| file.id.has_copy_of(id)).map(|n| old.swap_remove(n));
            self.files.extend(refreshed(id, known));
        }
        let now = unix_seconds(clock::statement_start());
        for file in &mut self.files {
            let lists = file.database.lists().iter().enumerate();
            let usable = lists.filter(|(_, list)| max_ages.allows(&list.kind, list.published, now));
            file.usable = usable.map(|(number, _)| number).collect();
        }
        !self.states().eq(before)
    }

    fn states(&self) -> impl Iterator<Item = (FileId, private_copy::Version, ListSet)> {
        self.files.iter().map(|file| (file.id, file.version, file.usable))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the type that the usable lists state about an address. If they state several types, returns the
    /// type with the highest precedence.
    pub fn leading(&self, address: Address) -> Option<&str> {
        self.usable_matches(address).min_by_key(|(rank, _)| *rank).map(|(_, kind)| kind)
    }

    /// Returns the types that usable lists state about an address. A type can occur several times.
    pub fn usable_types(&self, address: Address) -> impl Iterator<Item = &str> {
        self.usable_matches(address).map(|(_, kind)| kind)
    }

    /// For each usable list that contains an address, returns the type of the list, and the position of this
    /// type in the order of precedence.
    fn usable_matches(&self, address: Address) -> impl Iterator<Item = (usize, &str)> {
        self.files.iter().flat_map(move |file| {
            let lists = file.matches(address, file.usable).iter();
            lists.map(|list| (file.ranks[list], file.database.lists()[list].kind.as_str()))
        })
    }

    /// Returns true if a usable list says that an address is a known research scanner.
    pub fn is_benign_scanner(&self, address: Address) -> bool {
        let mut with_scanners = self.files.iter().filter(|file| !(file.scanners & file.usable).is_empty());
        with_scanners.any(|file| !file.matches(address, file.scanners & file.usable).is_empty())
    }

    /// Returns true if a prefix contains an address that a usable list names as a known research scanner.
    pub fn contains_benign_scanner(&self, prefix: Prefix) -> bool {
        self.files.iter().any(|file| {
            let lists = file.scanners & file.usable;
            !lists.is_empty()
                && answered(file.database.any_match(prefix, lists).map(Some)).unwrap_or_default()
        })
    }

    /// Calls `visit` with each block of addresses that a usable list names as known research scanners.
    pub fn each_benign_scanner(&self, mut visit: impl FnMut(Prefix)) {
        for file in &self.files {
            let lists = file.scanners & file.usable;
            if lists.is_empty() {
                continue;
            }
            // In a file with both families, the IPv4 addresses are also in the tree of IPv6 addresses. There they are bogons.
            for everything in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                let Some(prefix) = Prefix::new(Address::new(everything), 0) else { continue };
                answered(file.database.each_match(prefix, lists, &mut visit).map(Some));
            }
        }
    }

    /// Returns the entries for an address from all lists, including lists that are too old.
    pub fn statements(&self, address: Address) -> Vec<TypeStatement> {
        let mut statements = Vec::new();
        if bogon::reason(address).is_some() {
            return statements;
        }
        let text = |text: Option<&str>| text.map(|text| clean_name(text).into_owned());
        for file in &self.files {
            let found = file.database.entries(address, |entry| {
                let list = &file.database.lists()[entry.list];
                statements.push(TypeStatement {
                    kind: list.kind.clone(),
                    list: list.name.clone(),
                    provider: text(entry.provider),
                    region: text(entry.region),
                    service: text(entry.service),
                    published: published(list.published),
                    is_usable: file.usable.contains(entry.list),
                });
            });
            answered(found.map(Some));
        }
        statements
    }
}

impl TypeFile {
    fn matches(&self, address: Address, lists: ListSet) -> ListSet {
        if lists.is_empty() || bogon::reason(address).is_some() {
            return ListSet::EMPTY;
        }
        answered(self.database.matches(address, lists).map(Some)).unwrap_or_default()
    }
}

/// Returns the map of the private copy that is in service for a file. If this copy cannot be read, returns the
/// current map.
fn refreshed(id: FileId, known: Option<TypeFile>) -> Option<TypeFile> {
    let version = private_copy::version(id)?;
    if known.as_ref().is_some_and(|known| known.version == version) {
        return known.map(|known| TypeFile { id, ..known });
    }
    let Some((map, version)) = private_copy::map_current(id) else { return known };
    match TypeDatabase::open(map) {
        Ok(database) => {
            let lists = || database.lists().iter().enumerate();
            let scanners = lists().filter(|(_, list)| list.kind == BENIGN_SCANNER);
            Some(TypeFile {
                id,
                version,
                ranks: database.lists().iter().map(|list| rank(&list.kind)).collect(),
                usable: ListSet::EMPTY,
                scanners: scanners.map(|(number, _)| number).collect(),
                database,
            })
        }
        Err(error) => {
            telemetry::error(
                "could not read the extension's private copy of an mmdb file",
                &format!("{}: {error}", id.stem()),
            );
            known
        }
    }
}

/// Converts the time of publication of a list, in seconds since 1970, into a timestamp.
pub fn published(unix_seconds: u64) -> Timestamp {
    Timestamp::from_unix(i64::try_from(unix_seconds).unwrap_or(i64::MAX))
}

/// Converts a timestamp into seconds since 1970, the unit of the times in lists.
pub fn unix_seconds(time: Timestamp) -> u64 {
    time.unix_seconds().max(0.0) as u64
}
