//! Writes mmdb files for tests: any value, any prefix, all three record sizes.
//!
//! Format: <https://maxmind.github.io/MaxMind-DB/>. A file is the search tree, 16 zero bytes, the data section, a
//! marker and the metadata. A test can also damage a file in ways that a correct writer does not produce. For that
//! there are `Value::Pointer`, `Value::Raw` and `Record::Raw`, and the nodes can be changed one by one.
//!
//! The format is implemented here a second time. So a misreading of the format cannot be in both this writer and the
//! reader.

#![forbid(unsafe_code)]

pub mod types;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

#[derive(Clone, Debug)]
pub enum Value {
    Text(String),
    Double(f64),
    Float(f32),
    U16(u16),
    U32(u32),
    U64(u64),
    I32(i32),
    Bool(bool),
    Map(Vec<(String, Value)>),
    Array(Vec<Value>),
    /// A pointer to this offset of the data section.
    Pointer(u32),
    /// Bytes that are written as they are.
    Raw(Vec<u8>),
}

pub fn text(text: &str) -> Value {
    Value::Text(text.into())
}

pub fn map<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Map(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => panic!("the format has no null"),
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => match (number.as_u64(), number.as_f64()) {
                (Some(number), _) => u32::try_from(number).map_or(Value::U64(number), Value::U32),
                (None, number) => Value::Double(number.expect("a number")),
            },
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(values) => Value::Array(values.into_iter().map(Value::from).collect()),
            serde_json::Value::Object(members) => {
                Value::Map(members.into_iter().map(|(key, value)| (key, value.into())).collect())
            }
        }
    }
}

impl Value {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                header(2, text.len(), out);
                out.extend(text.as_bytes());
            }
            Self::Double(number) => {
                header(3, 8, out);
                out.extend(number.to_be_bytes());
            }
            Self::Float(number) => {
                header(15, 4, out);
                out.extend(number.to_be_bytes());
            }
            Self::U16(number) => {
                header(5, 2, out);
                out.extend(number.to_be_bytes());
            }
            Self::U32(number) => {
                header(6, 4, out);
                out.extend(number.to_be_bytes());
            }
            Self::U64(number) => {
                header(9, 8, out);
                out.extend(number.to_be_bytes());
            }
            Self::I32(number) => {
                header(8, 4, out);
                out.extend(number.to_be_bytes());
            }
            Self::Bool(value) => header(14, usize::from(*value), out),
            Self::Map(members) => {
                header(7, members.len(), out);
                for (key, value) in members {
                    text(key).encode(out);
                    value.encode(out);
                }
            }
            Self::Array(values) => {
                header(11, values.len(), out);
                for value in values {
                    value.encode(out);
                }
            }
            Self::Pointer(offset) => {
                out.push(0b0011_1000);
                out.extend(offset.to_be_bytes());
            }
            Self::Raw(bytes) => out.extend(bytes),
        }
    }
}

fn header(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (low, extra) = match size {
        0..29 => (size as u8, vec![]),
        29..285 => (29, vec![(size - 29) as u8]),
        285..65_821 => (30, ((size - 285) as u16).to_be_bytes().to_vec()),
        _ => (31, ((size - 65_821) as u32).to_be_bytes()[1..].to_vec()),
    };
    if kind > 7 {
        out.extend([low, kind - 7]);
    } else {
        out.push(kind << 5 | low);
    }
    out.extend(extra);
}

/// A record of a node, before the node count is known.
#[derive(Clone, Copy, Debug)]
pub enum Record {
    Nothing,
    Node(u32),
    /// Offset in the data section.
    Data(u32),
    /// Written as it is.
    Raw(u32),
}

#[derive(Clone, Debug)]
pub struct Writer {
    pub database_type: String,
    pub build_epoch: u64,
    pub ip_version: u16,
    pub record_size: u16,
    pub nodes: Vec<[Record; 2]>,
    /// The data section.
    pub data: Vec<u8>,
    /// Offsets of the records that prefixes have.
    records: HashMap<Vec<u8>, u32>,
}

impl Writer {
    pub fn new(database_type: &str, ip_version: u16) -> Self {
        Self {
            database_type: database_type.to_owned(),
            build_epoch: 1_700_000_000,
            ip_version,
            record_size: 24,
            nodes: vec![[Record::Nothing; 2]],
            data: Vec::new(),
            records: HashMap::new(),
        }
    }

    #[must_use]
    pub fn record_size(mut self, bits: u16) -> Self {
        self.record_size = bits;
        self
    }

    #[must_use]
    pub fn build_epoch(mut self, seconds: u64) -> Self {
        self.build_epoch = seconds;
        self
    }

    /// Appends a value to the data section. Returns its offset.
    pub fn value(&mut self, value: &Value) -> u32 {
        let offset = self.data.len() as u32;
        value.encode(&mut self.data);
        offset
    }

    /// Adds the record of a prefix such as `192.0.2.0/24`; see `insert_at`.
    #[must_use]
    pub fn with(mut self, prefix: &str, value: impl Into<Value>) -> Self {
        self.insert(prefix, value);
        self
    }

    /// Adds the record of a prefix such as `192.0.2.0/24`; see `insert_at`. Prefixes share equal records.
    pub fn insert(&mut self, prefix: &str, value: impl Into<Value>) {
        let mut record = Vec::new();
        value.into().encode(&mut record);
        let offset = *self.records.entry(record).or_insert_with_key(|record| {
            let offset = self.data.len() as u32;
            self.data.extend(record);
            offset
        });
        self.insert_at(prefix, offset);
    }

    /// Makes the value at this offset of the data section the record of a prefix. A prefix replaces the records of
    /// wider prefixes that were added before.
    ///
    /// # Panics
    /// If the text is not a prefix, or if a narrower prefix was added before.
    pub fn insert_at(&mut self, prefix: &str, offset: u32) {
        let (ip, length) = prefix.split_once('/').unwrap_or_else(|| panic!("not a prefix: {prefix}"));
        let length: usize = length.parse().expect("the length is a number");
        let (bits, length) = match (ip.parse().expect("the prefix has an address"), self.ip_version) {
            (IpAddr::V4(ip), 4) => (u128::from(ip.to_bits()) << 96, length),
            // IPv4 is below ::/96.
            (IpAddr::V4(ip), _) => (u128::from(ip.to_bits()), length + 96),
            (IpAddr::V6(ip), _) => (ip.to_bits(), length),
        };
        let mut node = 0;
        for depth in 0..length {
            let branch = (bits >> (127 - depth) & 1) as usize;
            let record = self.nodes[node][branch];
            if depth + 1 == length {
                assert!(!matches!(record, Record::Node(_)), "a narrower prefix was added before {prefix}");
                self.nodes[node][branch] = Record::Data(offset);
                break;
            }
            node = match record {
                Record::Node(child) => child as usize,
                // The record of a wider prefix holds for both halves until one is replaced.
                inherited => {
                    let child = self.nodes.len();
                    self.nodes.push([inherited; 2]);
                    self.nodes[node][branch] = Record::Node(child as u32);
                    child
                }
            };
        }
    }

    pub fn metadata(&self) -> Vec<(String, Value)> {
        let metadata = map([
            ("binary_format_major_version", Value::U16(2)),
            ("binary_format_minor_version", Value::U16(0)),
            ("build_epoch", Value::U64(self.build_epoch)),
            ("database_type", text(&self.database_type)),
            ("description", map([("en", text("made by a test"))])),
            ("ip_version", Value::U16(self.ip_version)),
            ("languages", Value::Array(vec![text("en")])),
            ("node_count", Value::U32(self.nodes.len() as u32)),
            ("record_size", Value::U16(self.record_size)),
        ]);
        match metadata {
            Value::Map(members) => members,
            _ => Vec::new(),
        }
    }

    /// Writes under a new name and renames, so that a reader sees the old file or the new one.
    pub fn write(&self, path: &Path) {
        let draft = path.with_extension("draft");
        std::fs::write(&draft, self.bytes()).expect("the file can be written");
        std::fs::rename(&draft, path).expect("the file can be renamed");
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(self.metadata())
    }

    pub fn bytes_with(&self, metadata: Vec<(String, Value)>) -> Vec<u8> {
        let count = self.nodes.len() as u32;
        let mut out = Vec::new();
        for node in &self.nodes {
            let [left, right] = node.map(|record| match record {
                Record::Nothing => count,
                Record::Node(node) => node,
                Record::Data(offset) => count + 16 + offset,
                Record::Raw(bits) => bits,
            });
            let (l, r) = (left.to_be_bytes(), right.to_be_bytes());
            match self.record_size {
                24 => out.extend([l[1], l[2], l[3], r[1], r[2], r[3]]),
                28 => out.extend([l[1], l[2], l[3], l[0] << 4 | r[0], r[1], r[2], r[3]]),
                _ => out.extend([l, r].concat()),
            }
        }
        out.extend([0; 16]);
        out.extend(&self.data);
        out.extend(b"\xab\xcd\xefMaxMind.com");
        Value::Map(metadata).encode(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Writer;
    use serde_json::{Value, json};

    #[test]
    fn maxminds_own_reader_reads_what_is_written() {
        for size in [24, 28, 32] {
            let mut mmdb = Writer::new("GeoLite2-City", 6).record_size(size);
            mmdb.insert("192.0.2.0/24", json!({"n": 1, "text": "a".repeat(300)}));
            mmdb.insert("192.0.2.128/25", json!({"n": 4_294_967_295u32, "x": -0.5}));
            mmdb.insert("2001:db8::/32", json!({"list": [true, false, "b"]}));
            let reader = maxminddb::Reader::from_source(mmdb.bytes()).expect("it is valid");
            reader.verify().expect("it is valid to the last node");
            let at = |address: &str| -> Option<Value> {
                let address = address.parse().expect("an address");
                let found = reader.lookup(address).expect("a lookup works");
                found.decode().expect("a record can be decoded")
            };
            assert_eq!(at("192.0.2.1"), Some(json!({"n": 1, "text": "a".repeat(300)})));
            assert_eq!(at("192.0.2.129"), Some(json!({"n": 4_294_967_295u32, "x": -0.5})));
            assert_eq!(at("2001:db8::1"), Some(json!({"list": [true, false, "b"]})));
            assert_eq!(at("192.0.3.1"), None);
        }
    }
}
