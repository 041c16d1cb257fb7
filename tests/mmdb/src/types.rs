//! Writes files that say types of addresses, as `mmdb-build --types` compiles them from lists.
//!
//! ```text
//! let file = TypesFile::new()
//!     .list("tor", "TOR", 1_700_000_000)
//!     .list("aws", "DATACENTER", 1_700_000_000)
//!     .entry("tor", "192.0.2.1/32")
//!     .detailed("aws", "192.0.2.0/24", "AWS", "eu-central-1", "EC2");
//! file.write(path);
//! ```

use super::{Value, Writer, map, text};
use std::net::IpAddr;
use std::path::Path;

pub const DATABASE_TYPE: &str = "cowrie_enrich-IP-Types";

#[derive(Clone, Debug)]
struct Entry {
    list: usize,
    prefix: String,
    details: Vec<(&'static str, String)>,
}

/// Lists and their prefixes. If a prefix is inside a wider prefix, its addresses have the entries of both.
#[derive(Clone, Debug, Default)]
pub struct TypesFile {
    lists: Vec<(String, String, u64)>,
    entries: Vec<Entry>,
    build_epoch: Option<u64>,
}

impl TypesFile {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a list. `published` is in seconds since 1970.
    #[must_use]
    pub fn list(mut self, name: &str, kind: &str, published: u64) -> Self {
        self.lists.push((name.to_owned(), kind.to_owned(), published));
        self
    }

    #[must_use]
    pub fn build_epoch(mut self, seconds: u64) -> Self {
        self.build_epoch = Some(seconds);
        self
    }

    /// Adds a prefix such as `192.0.2.0/24` to a list.
    #[must_use]
    pub fn entry(self, list: &str, prefix: &str) -> Self {
        self.with_details(list, prefix, Vec::new())
    }

    /// Adds a prefix to a list, with the provider, the region and the service.
    #[must_use]
    pub fn detailed(self, list: &str, prefix: &str, provider: &str, region: &str, service: &str) -> Self {
        let details = [("provider", provider), ("region", region), ("service", service)];
        self.with_details(list, prefix, details.map(|(key, value)| (key, value.to_owned())).into())
    }

    fn with_details(mut self, list: &str, prefix: &str, details: Vec<(&'static str, String)>) -> Self {
        let list = self.lists.iter().position(|(name, ..)| name == list).expect("the list was added before");
        self.entries.push(Entry { list, prefix: prefix.to_owned(), details });
        self
    }

    /// Returns the table of lists, as the description contains it.
    pub fn table(&self) -> String {
        let lists: Vec<String> = self
            .lists
            .iter()
            .enumerate()
            .map(|(index, (name, kind, published))| {
                let entries = self.entries.iter().filter(|entry| entry.list == index).count();
                format!(r#"{{"name":"{name}","type":"{kind}","published":{published},"entries":{entries}}}"#)
            })
            .collect();
        format!(r#"{{"format":1,"lists":[{}]}}"#, lists.join(","))
    }

    /// Returns the search tree with its records, without the table of lists.
    pub fn writer(&self) -> Writer {
        let mut writer = Writer::new(DATABASE_TYPE, 6);
        if let Some(seconds) = self.build_epoch {
            writer = writer.build_epoch(seconds);
        }
        let mut prefixes: Vec<(&str, (IpAddr, u8))> =
            self.entries.iter().map(|entry| (entry.prefix.as_str(), parts(&entry.prefix))).collect();
        prefixes.sort_by_key(|(_, (ip, length))| (*length, *ip));
        prefixes.dedup();
        for (prefix, at) in prefixes {
            let mut matching: Vec<&Entry> =
                self.entries.iter().filter(|entry| contains(parts(&entry.prefix), at)).collect();
            matching.sort_by_key(|entry| entry.list);
            writer.insert(prefix, record(&matching));
        }
        writer
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with_table(&self.table())
    }

    pub fn bytes_with_table(&self, table: &str) -> Vec<u8> {
        let writer = self.writer();
        let mut metadata = writer.metadata();
        for (key, value) in &mut metadata {
            if key == "description" {
                *value = map([("en", text("made by a test")), ("lists", text(table))]);
            }
        }
        writer.bytes_with(metadata)
    }

    /// Writes under a new name and renames, so that a reader sees the old file or the new one.
    pub fn write(&self, path: &Path) {
        let draft = path.with_extension("draft");
        std::fs::write(&draft, self.bytes()).expect("the file can be written");
        std::fs::rename(&draft, path).expect("the file can be renamed");
    }
}

fn record(matching: &[&Entry]) -> Value {
    let bits = matching.iter().fold(0_u64, |bits, entry| bits | 1 << entry.list);
    let matches = matching.iter().map(|entry| {
        let mut members = vec![("list".to_owned(), Value::U16(entry.list as u16))];
        members.extend(entry.details.iter().map(|(key, value)| ((*key).to_owned(), text(value))));
        Value::Map(members)
    });
    map([("lists", Value::U64(bits)), ("matches", numbered(matches))])
}

/// Returns the value of the key `matches`: a map whose keys number the values.
pub fn numbered(values: impl IntoIterator<Item = Value>) -> Value {
    Value::Map(values.into_iter().enumerate().map(|(index, value)| (format!("{index:04}"), value)).collect())
}

fn parts(prefix: &str) -> (IpAddr, u8) {
    let (ip, length) = prefix.split_once('/').unwrap_or_else(|| panic!("not a prefix: {prefix}"));
    (ip.parse().expect("the prefix has an address"), length.parse().expect("the length is a number"))
}

fn contains((wide, length): (IpAddr, u8), (narrow, narrow_length): (IpAddr, u8)) -> bool {
    let left_aligned = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let differing = left_aligned(wide) ^ left_aligned(narrow);
    wide.is_ipv4() == narrow.is_ipv4()
        && length <= narrow_length
        && differing.leading_zeros() >= u32::from(length)
}
