//! Writes small databases in the MaxMind format, in any layout.
//!
//! Format: <https://maxmind.github.io/MaxMind-DB/>. A file is the search tree, 16 zero bytes, the
//! records, a marker, the metadata. It is written here and not by the project's own tools, so that
//! a misreading of the format cannot hide in both the writer and the reader.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

pub struct Mmdb {
    database_type: String,
    record_size: u16,
    build_epoch: u64,
    records: Vec<(u128, u8, Value)>,
}

impl Mmdb {
    pub fn new(database_type: &str) -> Self {
        Self {
            database_type: database_type.to_owned(),
            record_size: 24,
            build_epoch: 1_700_000_000,
            records: Vec::new(),
        }
    }

    #[must_use]
    pub fn record_size(mut self, bits: u16) -> Self {
        assert!(matches!(bits, 24 | 28 | 32));
        self.record_size = bits;
        self
    }

    #[must_use]
    pub fn build_epoch(mut self, seconds: u64) -> Self {
        self.build_epoch = seconds;
        self
    }

    /// Adds what is known about a prefix; the longest prefix of an address wins.
    pub fn insert(&mut self, prefix: &str, record: Value) {
        let (address, length) = prefix.split_once('/').unwrap_or_else(|| panic!("{prefix} is no prefix"));
        let length: u8 = length.parse().expect("the length is a number");
        let (bits, length) = match address.parse().expect("the prefix has an address") {
            // IPv4 lives below ::/96.
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), length + 96),
            IpAddr::V6(v6) => (u128::from(v6), length),
        };
        self.records.push((bits, length, record));
    }

    /// Writes under a new name and renames: a reader sees the old file or the new one.
    pub fn write(&self, path: &Path) {
        let draft = path.with_extension("draft");
        std::fs::write(&draft, self.bytes()).expect("the database can be written");
        std::fs::rename(&draft, path).expect("the database can be renamed");
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut records = self.records.clone();
        // The shorter first: a longer one then splits it.
        records.sort_by_key(|(bits, length, _)| (*length, *bits));

        let mut data = Vec::new();
        let mut offsets: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut tree = Tree::default();
        for (bits, length, record) in &records {
            let mut encoded = Vec::new();
            encode(record, &mut encoded);
            let offset = *offsets.entry(encoded).or_insert_with_key(|encoded| {
                let offset = data.len();
                data.extend_from_slice(encoded);
                offset
            });
            tree.insert(*bits, *length, offset);
        }

        let mut out = tree.bytes(self.record_size);
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&data);
        out.extend_from_slice(MARKER);
        self.encode_metadata(tree.nodes.len(), &mut out);
        out
    }

    fn encode_metadata(&self, node_count: usize, out: &mut Vec<u8>) {
        let number = |kind, n: u64, out: &mut Vec<u8>| encode_unsigned(kind, n, out);
        control(MAP, 9, out);
        encode_text("binary_format_major_version", out);
        number(UINT16, 2, out);
        encode_text("binary_format_minor_version", out);
        number(UINT16, 0, out);
        encode_text("build_epoch", out);
        number(UINT64, self.build_epoch, out);
        encode_text("database_type", out);
        encode_text(&self.database_type, out);
        encode_text("description", out);
        encode(&serde_json::json!({"en": "made for a test"}), out);
        encode_text("ip_version", out);
        number(UINT16, 6, out);
        encode_text("languages", out);
        encode(&serde_json::json!(["en"]), out);
        encode_text("node_count", out);
        number(UINT32, node_count as u64, out);
        encode_text("record_size", out);
        number(UINT16, u64::from(self.record_size), out);
    }
}

#[derive(Clone, Copy)]
enum Branch {
    Nothing,
    Node(usize),
    Data(usize),
}

struct Tree {
    nodes: Vec<[Branch; 2]>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { nodes: vec![[Branch::Nothing; 2]] }
    }
}

impl Tree {
    fn insert(&mut self, bits: u128, length: u8, offset: usize) {
        assert!(length > 0, "a database about everything is not needed");
        let mut node = 0;
        for depth in 0..length {
            let side = (bits >> (127 - depth) & 1) as usize;
            if depth + 1 == length {
                self.nodes[node][side] = Branch::Data(offset);
                return;
            }
            node = match self.nodes[node][side] {
                Branch::Node(next) => next,
                // What the shorter prefix said holds for both halves, until one is replaced.
                inherited => {
                    let next = self.nodes.len();
                    self.nodes.push([inherited; 2]);
                    self.nodes[node][side] = Branch::Node(next);
                    next
                }
            };
        }
    }

    fn bytes(&self, record_size: u16) -> Vec<u8> {
        let count = self.nodes.len();
        let pointer = |branch: Branch| -> u32 {
            let value = match branch {
                Branch::Nothing => count,
                Branch::Node(node) => node,
                Branch::Data(offset) => count + 16 + offset,
            };
            u32::try_from(value).expect("a small database")
        };
        let mut out = Vec::new();
        for [left, right] in &self.nodes {
            let (left, right) = (pointer(*left).to_be_bytes(), pointer(*right).to_be_bytes());
            match record_size {
                24 => {
                    out.extend_from_slice(&left[1..]);
                    out.extend_from_slice(&right[1..]);
                }
                28 => {
                    out.extend_from_slice(&left[1..]);
                    out.push(left[0] << 4 | right[0] & 0x0f);
                    out.extend_from_slice(&right[1..]);
                }
                _ => {
                    out.extend_from_slice(&left);
                    out.extend_from_slice(&right);
                }
            }
        }
        out
    }
}

const TEXT: u8 = 2;
const DOUBLE: u8 = 3;
const UINT16: u8 = 5;
const UINT32: u8 = 6;
const MAP: u8 = 7;
const UINT64: u8 = 9;
const ARRAY: u8 = 11;
const BOOLEAN: u8 = 14;

/// Type and size: three bits and five bits, a type above 7 in a byte of its own.
fn control(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (short, rest): (u8, Vec<u8>) = match size {
        0..29 => (size as u8, vec![]),
        29..285 => (29, vec![(size - 29) as u8]),
        _ => {
            let size = u16::try_from(size - 285).expect("a small value");
            (30, size.to_be_bytes().to_vec())
        }
    };
    if kind > 7 {
        out.push(short);
        out.push(kind - 7);
    } else {
        out.push(kind << 5 | short);
    }
    out.extend_from_slice(&rest);
}

fn encode_text(text: &str, out: &mut Vec<u8>) {
    control(TEXT, text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// Leading zero bytes are left out.
fn encode_unsigned(kind: u8, n: u64, out: &mut Vec<u8>) {
    let bytes = n.to_be_bytes();
    let used = &bytes[(n.leading_zeros() / 8) as usize..];
    control(kind, used.len(), out);
    out.extend_from_slice(used);
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => panic!("the format has no null"),
        Value::Bool(b) => control(BOOLEAN, usize::from(*b), out),
        Value::Number(n) => match n.as_u64() {
            Some(n) if n <= u64::from(u32::MAX) => encode_unsigned(UINT32, n, out),
            Some(n) => encode_unsigned(UINT64, n, out),
            None => {
                control(DOUBLE, 8, out);
                let n = n.as_f64().expect("a number");
                out.extend_from_slice(&n.to_be_bytes());
            }
        },
        Value::String(text) => encode_text(text, out),
        Value::Array(values) => {
            control(ARRAY, values.len(), out);
            for value in values {
                encode(value, out);
            }
        }
        Value::Object(map) => {
            control(MAP, map.len(), out);
            for (key, value) in map {
                encode_text(key, out);
                encode(value, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maxminds_own_reader_reads_what_is_written() {
        for size in [24, 28, 32] {
            let mut mmdb = Mmdb::new("GeoLite2-City").record_size(size);
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
