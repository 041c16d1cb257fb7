//! Checks that every lookup in a file succeeds in limited time, for any address.
//!
//! The check examines each part of the file that a lookup can reach: each node of the tree, each record of a node, and each value
//! to which a record points. It examines each part once. Because of the following rules, time and memory are proportional to the
//! size of the file, even if the file is damaged:
//!
//! - Each node is visited once, and its height is stored in one byte. A node may have several parents. For example, 2002::/16 leads
//!   to the same nodes as IPv4. If the tree has a loop, or a path that is longer than an address, the file is refused. The verify
//!   function of `maxminddb` visits every path instead of every node. It would take 2^96 steps in a file with 96 nodes if both
//!   branches of each node led to the next node.
//!
//! - Each value is checked once. A set with one bit for each byte of data has the positions of the checked values. Overlapping
//!   values could still be read many times, so the total work is limited. `VALUES_A_RECORD` and `TEXT_A_RECORD` also limit the data
//!   that one lookup has to skip.

use super::MmdbError;
use super::format::{Fault, Plan, Section, Step, Token};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

/// Limits on the data that a lookup may have to skip in one record, or in one value to which the record points. The crate
/// `maxminddb` refuses a lookup that reads 65,536 values or 2 MiB of text. A path goes through at most three maps and one text, so
/// a lookup reads less than four times the limits here. This is less than the limits of the crate. A City record of MaxMind has
/// about 100 values and 3 kB.
const VALUES_A_RECORD: usize = 1 << 14;
const TEXT_A_RECORD: usize = 256 << 10;

/// Maximum nesting depth of maps and arrays. A pointer counts as one level. MaxMind's records have a depth of up to 6.
const DEEPEST: usize = 64;

/// Maximum number of units of work for each byte of the data section. A value is one unit, and a byte of text is one unit. A file
/// without overlapping values needs at most one unit for each byte.
const WORK_A_BYTE: usize = 8;

pub(super) fn verify(bytes: &[u8], plan: &Plan) -> Result<(), MmdbError> {
    verify_records(bytes, plan, |_| Ok(()))
}

/// Checks the file like `verify`. Also calls `rule` once for each valid record, with the offset of the record.
pub(super) fn verify_records(
    bytes: &[u8],
    plan: &Plan,
    mut rule: impl FnMut(usize) -> Result<(), Fault>,
) -> Result<(), MmdbError> {
    let mut records = Bits::new(plan.data(bytes).0.len());
    walk(bytes, plan, |offset, _| {
        records.set(offset);
        ControlFlow::Continue(())
    })?;
    // The number of nodes determines the position of the separator. If the number of nodes is wrong, the bytes at this position are
    // not zero.
    if plan.separator(bytes).iter().any(|byte| *byte != 0) {
        return Err(MmdbError::Metadata {
            field: "node_count",
            reason: "the separator after the search tree is missing".into(),
        });
    }

    let data = plan.data(bytes);
    let mut check = Check {
        data,
        done: Bits::new(data.0.len()),
        open: Vec::new(),
        work: data.0.len().saturating_mul(WORK_A_BYTE).saturating_add(VALUES_A_RECORD),
    };
    for record in records.iter() {
        if let Err(fault) = check.value(record, 0).and_then(|()| rule(record)) {
            return Err(MmdbError::Record {
                network: network_of(bytes, plan, record),
                offset: Some(fault.offset),
                reason: fault.reason.into(),
            });
        }
    }
    Ok(())
}

/// A step of the path from the root of the tree. `node` is the node of this step. `taken` says how many of the node's two branches
/// the walk has entered. The path continues in the branch that was entered last.
struct Frame {
    node: u32,
    taken: u8,
}

/// Visits each node of the tree once, depth first. For each record that points to data, calls `on_data` with the offset of the data
/// and the path to the record.
fn walk(
    bytes: &[u8],
    plan: &Plan,
    mut on_data: impl FnMut(usize, &[Frame]) -> ControlFlow<()>,
) -> Result<(), MmdbError> {
    const UNSEEN: u8 = 0;
    const OPEN: u8 = u8::MAX;
    let bits = plan.address_bits();
    // For each node, the number of nodes on the longest path from this node downwards. The node itself is included, so the number
    // is at most 128.
    let mut heights = vec![UNSEEN; plan.node_count as usize];
    let mut path = vec![Frame { node: 0, taken: 0 }];
    heights[0] = OPEN;

    while let Some(frame) = path.last_mut() {
        let records = plan.node(bytes, frame.node);
        if frame.taken == 2 {
            let height_of = |record| match plan.follow(record) {
                Step::Node(child) => heights[child as usize],
                _ => 0,
            };
            heights[frame.node as usize] = 1 + records.map(height_of).into_iter().max().unwrap_or(0);
            path.pop();
            continue;
        }
        let record = records[usize::from(frame.taken)];
        frame.taken += 1;
        let broken = |reason| Err(MmdbError::Tree { network: network(&path, plan), reason });
        match plan.follow(record) {
            Step::Nothing => {}
            Step::Data(offset) => {
                if on_data(offset, &path).is_break() {
                    return Ok(());
                }
            }
            Step::Astray => return broken("leads outside the data"),
            Step::Node(child) => match heights[child as usize] {
                OPEN => return broken("leads back to itself"),
                UNSEEN if path.len() >= bits => {
                    return broken("has more levels than an address has bits");
                }
                UNSEEN => {
                    heights[child as usize] = OPEN;
                    path.push(Frame { node: child, taken: 0 });
                }
                height if path.len() + usize::from(height) > bits => {
                    return broken("has more levels than an address has bits");
                }
                _ => {}
            },
        }
    }
    Ok(())
}

/// Returns the network to which a path leads, as text in the usual notation.
fn network(path: &[Frame], plan: &Plan) -> String {
    let bits = path.iter().enumerate().fold(0_u128, |bits, (depth, frame)| match frame.taken {
        2 => bits | 1 << (127 - depth),
        _ => bits,
    });
    let length = path.len();
    if plan.ip_version == 4 {
        format!("{}/{length}", Ipv4Addr::from_bits((bits >> 96) as u32))
    } else if length >= 96 && bits >> 32 == 0 {
        format!("{}/{}", Ipv4Addr::from_bits(bits as u32), length - 96)
    } else {
        format!("{}/{length}", Ipv6Addr::from_bits(bits))
    }
}

/// Returns the first network whose path in the tree leads to this record. The function goes through the tree again, because only
/// the error message about a damaged file needs the network.
fn network_of(bytes: &[u8], plan: &Plan, record: usize) -> String {
    let mut found = None;
    let walked = walk(bytes, plan, |offset, path| {
        if offset != record {
            return ControlFlow::Continue(());
        }
        found = Some(network(path, plan));
        ControlFlow::Break(())
    });
    debug_assert!(walked.is_ok(), "it was walked before");
    found.unwrap_or_default()
}

struct Check<'a> {
    data: Section<'a>,
    /// Offsets of values that are known to be valid.
    done: Bits,
    /// Offsets of the values that are being checked now, starting with the outermost value. There are at most `DEEPEST` of them.
    open: Vec<usize>,
    work: usize,
}

impl Check<'_> {
    /// Checks the value at `offset`, its members, and the values to which its pointers lead.
    fn value(&mut self, offset: usize, depth: usize) -> Result<(), Fault> {
        if self.done.get(offset) {
            return Ok(());
        }
        if self.open.contains(&offset) {
            return Err(Fault { offset, reason: "value contains itself" });
        }
        self.open.push(offset);
        let mut at = offset;
        self.members(&mut at, &mut Allowance { values: VALUES_A_RECORD, text: TEXT_A_RECORD }, depth)?;
        self.open.pop();
        self.done.set(offset);
        Ok(())
    }

    /// Checks the value at `at`, its members, and the values to which its pointers lead. Moves `at` to the position after the
    /// value.
    fn members(&mut self, at: &mut usize, left: &mut Allowance, depth: usize) -> Result<(), Fault> {
        let start = *at;
        let fault = |reason| Fault { offset: start, reason };
        if depth > DEEPEST {
            return Err(fault("values are nested too deeply"));
        }
        left.values = left.values.checked_sub(1).ok_or(fault("record has too many values"))?;
        let token = self.data.next(at)?;
        let length = if let Token::Text(text) = token { text.len() } else { 0 };
        left.text = left.text.checked_sub(length).ok_or(fault("record has too much text"))?;
        self.work = self.work.checked_sub(1 + length).ok_or(fault("values overlap too often"))?;
        match token {
            Token::Text(text) if std::str::from_utf8(text).is_err() => Err(fault("text is not UTF-8")),
            Token::Pointer(target) => match self.data.next(&mut { target })? {
                Token::Pointer(_) => Err(fault("pointer to a pointer")),
                _ => self.value(target, depth + 1),
            },
            Token::Map(pairs) => {
                for _ in 0..pairs {
                    let key_at = *at;
                    let (key, _) = self.data.next_resolved(&mut { key_at })?;
                    let Token::Text(key) = key else {
                        return Err(Fault { offset: key_at, reason: "key is not text" });
                    };
                    // A lookup reads the text of the key each time, even if a pointer leads to the text. So the length of the text
                    // is counted each time.
                    left.text = left.text.checked_sub(key.len()).ok_or(fault("record has too much text"))?;
                    self.members(at, left, depth + 1)?;
                    self.members(at, left, depth + 1)?;
                }
                Ok(())
            }
            Token::Array(count) => (0..count).try_for_each(|_| self.members(at, left, depth + 1)),
            _ => Ok(()),
        }
    }
}

/// Data that one record may still contain.
struct Allowance {
    values: usize,
    text: usize,
}

/// A set of offsets, with one bit each.
struct Bits(Vec<u64>);

impl Bits {
    fn new(length: usize) -> Self {
        Self(vec![0; length.div_ceil(64)])
    }

    fn set(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn get(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(index, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests files of MaxMind that have neither locations nor networks. `open` refuses these files, so the test checks only their
    /// trees and records.
    #[test]
    fn maxminds_files_without_answers_are_sound_or_broken_as_named() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/maxmind-test");
        let Ok(entries) = std::fs::read_dir(folder) else {
            return eprintln!("skipped: {folder} is absent");
        };
        for path in entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "mmdb"))
        {
            let bytes = std::fs::read(&path).unwrap();
            let verdict = Plan::read(&bytes).and_then(|plan| verify(&bytes, &plan));
            let name = path.file_stem().unwrap().to_str().unwrap();
            let broken = ["Broken", "broken", "Invalid"].iter().any(|word| name.contains(word));
            assert_eq!(verdict.is_err(), broken, "{name}: {verdict:?}");
        }
    }

    #[test]
    fn a_set_gives_back_what_was_put_in() {
        let mut bits = Bits::new(130);
        for at in [0, 63, 64, 129] {
            bits.set(at);
        }
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert!(bits.get(129) && !bits.get(128) && !bits.get(100_000));
    }
}
