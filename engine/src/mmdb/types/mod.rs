//! Files with types of addresses, such as VPN, TOR or DATACENTER.
//!
//! | file | holds |
//! |---|---|
//! | `compiled` | files that `mmdb-build --types` compiled from lists |
//! | `flags` | files of vendors; the records of these files have one key for each type |
//! | `list_set` | a set of some of the lists in a compiled file |
//!
//! Each file contains lists. A list has one type, which applies to all its addresses, and a time of publication. So for any file, a
//! caller can ignore a single outdated list or a single type.
//!
//! - A compiled file contains a table of its lists.
//! - A file of a vendor has one list for each type that can occur in its layout. All lists of such a file have the same name, and
//!   their time of publication is the build time of the file.
//!
//! Each type is a word in capital letters, because SPUR's answers contain types in this form. The following types have a fixed
//! meaning:
//!
//! | type | meaning |
//! |---|---|
//! | `VPN`, `PROXY`, `TOR`, `RELAY` | an exit of a VPN, an open proxy, a Tor exit, a relay such as iCloud Private Relay |
//! | `RESIDENTIAL_PROXY` | a proxy in a private home |
//! | `ANONYMOUS` | the address hides its user, but the vendor does not know by which method |
//! | `DATACENTER` | a hosting company or a cloud |
//! | `RESIDENTIAL`, `MOBILE` | the access network of a private user |
//! | `SCANNER_BENIGN` | a known research scanner; GreyNoise is not asked about it |
//!
//! Operators may use other types for their own lists.

mod compiled;
mod flags;
mod list_set;

pub use compiled::{DATABASE_TYPE, DESCRIPTION_KEY, FORMAT};
pub use list_set::ListSet;

use super::format::{Fault, Plan};
use super::search::Search;
use super::{Facts, MmdbError, clean_name, verify};
use crate::address::Address;
use crate::prefix::Prefix;
use flags::Family;
use maxminddb::Reader;

/// The type of addresses that belong to known research scanners. GreyNoise is not asked about an address of this type.
pub const BENIGN_SCANNER: &str = "SCANNER_BENIGN";

/// Maximum length of a type, in bytes.
pub const LONGEST_TYPE: usize = 31;

/// Maximum length, in bytes, of the name of a list in a compiled file.
pub const LONGEST_LIST_NAME: usize = 63;

/// Returns whether the text is a type: `[A-Z][A-Z0-9_]{0,30}`.
pub fn is_type(text: &str) -> bool {
    text.len() <= LONGEST_TYPE
        && text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Returns whether the text can name a list: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`.
pub fn is_list_name(text: &str) -> bool {
    text.len() <= LONGEST_LIST_NAME
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// A list of addresses that have one type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypeList {
    /// Name of the list, without control characters. All lists of a vendor's file have the same name, which is the type name of the
    /// file.
    pub name: String,
    /// See [`is_type`].
    pub kind: String,
    /// Publication time of the list, in seconds since 1970. For a vendor's file, this is the build time of the file.
    pub published: u64,
    /// Number of entries of the list before `mmdb-build` merged entries. `None` in a vendor's file.
    pub entries: Option<u64>,
    /// Copyright notice that the list requires. Has no control characters.
    pub notice: Option<String>,
}

/// What one list says about an address. The texts are unchanged from the file. A caller that stores a text must pass it to
/// [`clean_name`] first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Index in [`TypeDatabase::lists`].
    pub list: usize,
    /// Operator of the service. Examples are `AWS` and the name of a VPN service.
    pub provider: Option<&'a str>,
    /// Region of a cloud provider, or the country and the city from a geofeed.
    pub region: Option<&'a str>,
    /// Service of a cloud, such as `EC2`.
    pub service: Option<&'a str>,
}

/// Layout of the records of a file.
enum Records {
    Compiled,
    Flags(&'static Family),
}

pub struct TypeDatabase<S: AsRef<[u8]>> {
    bytes: S,
    plan: Plan,
    search: Search,
    facts: Facts,
    lists: Vec<TypeList>,
    records: Records,
}

impl<S: AsRef<[u8]>> TypeDatabase<S> {
    /// Reads the metadata, compares them with the size of the file, and finds the layout of the records. Returns an error if the
    /// file has no types.
    pub fn open(bytes: S) -> Result<Self, MmdbError> {
        let plan = Plan::read(bytes.as_ref())?;
        let reader = Reader::from_source(bytes.as_ref())
            .map_err(|error| MmdbError::Metadata { field: "as a whole", reason: error.to_string() })?;
        let metadata = reader.metadata();
        let facts = Facts {
            database_type: metadata.database_type.clone(),
            vendor: super::vendor::vendor(&metadata.database_type),
            build_epoch: metadata.build_epoch,
            ip_version: plan.ip_version,
            node_count: plan.node_count,
            record_size: plan.record_size,
        };
        let (records, lists) = if facts.database_type == DATABASE_TYPE {
            let table = metadata.description.get(DESCRIPTION_KEY).map(String::as_str);
            (Records::Compiled, compiled::lists(table)?)
        } else {
            let family = Family::detect(bytes.as_ref(), &plan, &facts.database_type).ok_or_else(|| {
                MmdbError::NoTypes { database_type: clean_name(&facts.database_type).into_owned() }
            })?;
            (Records::Flags(family), family.lists(&facts))
        };
        let search = Search::new(bytes.as_ref(), &plan);
        drop(reader);
        Ok(Self { search, plan, facts, lists, records, bytes })
    }

    /// Reads all data that a lookup can reach. The time is proportional to the size of the file, even if the file is damaged.
    pub fn verify(&self) -> Result<(), MmdbError> {
        let data = self.plan.data(self.bytes.as_ref());
        let mut work = data.0.len().saturating_mul(compiled::WORK_A_BYTE).saturating_add(compiled::WORK);
        verify::verify_records(self.bytes.as_ref(), &self.plan, |record| match self.records {
            Records::Compiled => compiled::check(data, record, self.all(), &mut work),
            Records::Flags(_) => Ok(()),
        })
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns the lists of the file, at most [`ListSet::CAPACITY`].
    pub fn lists(&self) -> &[TypeList] {
        &self.lists
    }

    /// Returns the set of all lists of the file.
    pub fn all(&self) -> ListSet {
        ListSet::first(self.lists.len())
    }

    /// Returns the `usable` lists that contain the address. Allocates nothing.
    #[inline]
    pub fn matches(&self, address: Address, usable: ListSet) -> Result<ListSet, MmdbError> {
        let Some(record) = self.find(address)? else {
            return Ok(ListSet::EMPTY);
        };
        let found = self.lists_of(record).map_err(|fault| damaged(address.to_string(), fault))?;
        Ok(found & usable)
    }

    /// Returns true if at least one of the `usable` lists contains at least one address of the prefix.
    pub fn any_match(&self, prefix: Prefix, usable: ListSet) -> Result<bool, MmdbError> {
        self.find_match(prefix, usable, |_| true)
    }

    /// Calls `visit` with each block of addresses in the prefix that at least one of the `usable` lists contains.
    pub fn each_match(
        &self,
        prefix: Prefix,
        usable: ListSet,
        mut visit: impl FnMut(Prefix),
    ) -> Result<(), MmdbError> {
        let visit = |block| {
            visit(block);
            false
        };
        self.find_match(prefix, usable, visit).map(|_| ())
    }

    /// Calls `visit` with blocks of addresses in the prefix that at least one of the `usable` lists contains, until `visit` returns
    /// true. Returns true if `visit` has returned true.
    fn find_match(
        &self,
        prefix: Prefix,
        usable: ListSet,
        mut visit: impl FnMut(Prefix) -> bool,
    ) -> Result<bool, MmdbError> {
        let mut damage = None;
        let visit = |record, block| match self.lists_of(record) {
            Ok(found) => !(found & usable).is_empty() && visit(block),
            Err(fault) => {
                damage.get_or_insert(fault);
                false
            }
        };
        let found = self.search.any_record(self.bytes.as_ref(), &self.plan, prefix, visit);
        match (found, damage) {
            (Ok(false), Some(fault)) => Err(damaged(prefix.to_string(), fault)),
            (found, _) => found.map_err(|reason| MmdbError::Tree { network: prefix.to_string(), reason }),
        }
    }

    #[inline]
    fn lists_of(&self, record: usize) -> Result<ListSet, Fault> {
        let data = self.plan.data(self.bytes.as_ref());
        let found = match self.records {
            Records::Compiled => compiled::matches(data, record, &mut { compiled::WORK }),
            Records::Flags(family) => family.matches(data, record),
        };
        found.map(|found| found & self.all())
    }

    /// Calls `visit` for each entry about the address, in the order of the lists. There are several entries from one list if
    /// several prefixes of the list contain the address and have different details.
    pub fn entries<'a>(
        &'a self,
        address: Address,
        mut visit: impl FnMut(Entry<'a>),
    ) -> Result<(), MmdbError> {
        let Some(record) = self.find(address)? else {
            return Ok(());
        };
        let data = self.plan.data(self.bytes.as_ref());
        let mut visit_known = |entry: Entry<'a>| {
            if entry.list < self.lists.len() {
                visit(entry);
            }
        };
        match self.records {
            Records::Compiled => compiled::entries(data, record, &mut { compiled::WORK }, &mut visit_known),
            Records::Flags(family) => family.entries(data, record, &mut visit_known),
        }
        .map_err(|fault| damaged(address.to_string(), fault))
    }

    #[inline]
    fn find(&self, address: Address) -> Result<Option<usize>, MmdbError> {
        self.search
            .record(self.bytes.as_ref(), &self.plan, address)
            .map_err(|reason| MmdbError::Tree { network: address.to_string(), reason })
    }
}

#[cold]
fn damaged(network: String, fault: Fault) -> MmdbError {
    MmdbError::Record { network, offset: Some(fault.offset), reason: fault.reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_a_word_in_capitals() {
        for (text, valid) in [
            ("TOR", true),
            ("A", true),
            ("MY_LIST_2", true),
            ("", false),
            ("tor", false),
            ("_TOR", false),
            ("2TOR", false),
            ("TOR EXIT", false),
            ("TÖR", false),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZ12345", true),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZ123456", false),
        ] {
            assert_eq!(is_type(text), valid, "{text:?}");
        }
        assert!(is_type(BENIGN_SCANNER));
    }

    #[test]
    fn a_list_name_fits_a_metric_label_and_a_shell() {
        for (text, valid) in [
            ("tor-exits", true),
            ("x4bnet_vpn.v4", true),
            ("", false),
            ("-tor", false),
            ("a b", false),
            ("a:b", false),
            ("a\nb", false),
        ] {
            assert_eq!(is_list_name(text), valid, "{text:?}");
        }
        assert!(is_list_name(&"a".repeat(63)) && !is_list_name(&"a".repeat(64)));
    }
}
