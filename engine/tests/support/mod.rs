//! Answers: what would an mmdb file look like that said this?
//!
//! A writer just large enough for tests: any value, any prefix, all three record sizes; and a few things that no
//! honest writer makes (`Value::Pointer`, `Value::Raw`, trees built node by node).

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod promise;

use std::net::IpAddr;

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
    Map(Vec<(&'static str, Value)>),
    Array(Vec<Value>),
    /// To this offset of the data section.
    Pointer(u32),
    /// Bytes put there as they are.
    Raw(Vec<u8>),
}

pub fn text(text: &str) -> Value {
    Value::Text(text.into())
}

pub fn map<const N: usize>(members: [(&'static str, Value); N]) -> Value {
    Value::Map(members.into())
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
    pub database_type: &'static str,
    pub ip_version: u16,
    pub record_size: u16,
    pub nodes: Vec<[Record; 2]>,
    pub data: Vec<u8>,
}

impl Writer {
    pub fn new(database_type: &'static str, ip_version: u16) -> Self {
        Self {
            database_type,
            ip_version,
            record_size: 24,
            nodes: vec![[Record::Nothing; 2]],
            data: Vec::new(),
        }
    }

    pub fn record_size(mut self, bits: u16) -> Self {
        self.record_size = bits;
        self
    }

    /// Appends a value to the data section; its offset.
    pub fn value(&mut self, value: &Value) -> u32 {
        let offset = self.data.len() as u32;
        value.encode(&mut self.data);
        offset
    }

    /// Says `value` of a prefix such as `192.0.2.0/24`. Prefixes must not overlap.
    pub fn say(mut self, prefix: &str, value: Value) -> Self {
        let offset = self.value(&value);
        self.say_at(prefix, offset)
    }

    /// Says of a prefix what stands at this offset of the data section.
    pub fn say_at(mut self, prefix: &str, offset: u32) -> Self {
        let (ip, length) = prefix.split_once('/').unwrap();
        let length: usize = length.parse().unwrap();
        let (bits, length) = match (ip.parse().unwrap(), self.ip_version) {
            (IpAddr::V4(ip), 4) => (u128::from(ip.to_bits()) << 96, length),
            (IpAddr::V4(ip), _) => (u128::from(ip.to_bits()), length + 96),
            (IpAddr::V6(ip), _) => (ip.to_bits(), length),
        };
        let mut node = 0;
        for depth in 0..length {
            let branch = (bits >> (127 - depth) & 1) as usize;
            if depth + 1 == length {
                self.nodes[node][branch] = Record::Data(offset);
                break;
            }
            node = match self.nodes[node][branch] {
                Record::Node(child) => child as usize,
                Record::Nothing => {
                    self.nodes.push([Record::Nothing; 2]);
                    let child = self.nodes.len() - 1;
                    self.nodes[node][branch] = Record::Node(child as u32);
                    child
                }
                other => panic!("{prefix} overlaps: {other:?}"),
            };
        }
        self
    }

    pub fn metadata(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("binary_format_major_version", Value::U16(2)),
            ("binary_format_minor_version", Value::U16(0)),
            ("build_epoch", Value::U64(1_700_000_000)),
            ("database_type", text(self.database_type)),
            ("description", map([("en", text("made by a test"))])),
            ("ip_version", Value::U16(self.ip_version)),
            ("languages", Value::Array(vec![text("en")])),
            ("node_count", Value::U32(self.nodes.len() as u32)),
            ("record_size", Value::U16(self.record_size)),
        ]
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(self.metadata())
    }

    pub fn bytes_with(&self, metadata: Vec<(&'static str, Value)>) -> Vec<u8> {
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

/// Runs `work` in a thread of its own, so that a hang is a failure and not a silent build machine.
pub fn in_bounded_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = done.send(work());
    });
    match wait.recv_timeout(std::time::Duration::from_secs(20)) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{what}: no answer within 20 s"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            panic!("{what}: panicked: {:?}", thread.join().err().map(|_| "see above"))
        }
    }
}
