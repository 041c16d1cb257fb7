//! Answers: can every lookup in this file be answered, whatever the address, in bounded time?
//!
//! Everything reachable is looked at once: each node of the tree, each record that a node leads to, each value that
//! a record points to. Time and memory are linear in the file's size, whatever its bytes say:
//!
//! - A node is entered once; its height is remembered (one byte a node). A node shared by several parents is legal
//!   (that is how 2002::/16 shows IPv4), a loop or a path longer than an address is not. `maxminddb`'s own verify
//!   walks paths instead of nodes: 96 nodes whose two branches both lead to the next keep it busy for 2^96 steps.
//! - A value is checked once (one bit a byte of data). Overlapping values could still be read many times, so the sum of
//!   the work is bounded too, and so is what one lookup has to skip: `VALUES_A_RECORD`, `TEXT_A_RECORD`.

use super::MmdbError;
use super::format::{Fault, Plan, Section, Step, Token};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

/// What a lookup may have to pass over in one record, or in one value that it points to. The crate gives up on a
/// lookup that meets 65,536 values or 2 MiB of text; a path leads through at most three maps and one text, so four
/// times these stays below. A City record of MaxMind's has about 100 values and 3 kB.
const VALUES_A_RECORD: usize = 1 << 14;
const TEXT_A_RECORD: usize = 256 << 10;

/// Maps and arrays inside each other, pointers counted. MaxMind's records reach 6.
const DEEPEST: usize = 64;

/// Units of work (a value, or a byte of text) for each byte of data. 1 is what a file without overlaps needs.
const WORK_A_BYTE: usize = 8;

pub(super) fn verify(bytes: &[u8], plan: &Plan) -> Result<(), MmdbError> {
    let mut records = Bits::new(plan.data(bytes).0.len());
    walk(bytes, plan, |offset, _| {
        records.set(offset);
        ControlFlow::Continue(())
    })?;
    // The rest of the file is read relative to a tree of this size, so a wrong node count shows here.
    if plan.separator(bytes).iter().any(|byte| *byte != 0) {
        return Err(MmdbError::Metadata {
            field: "node_count",
            reason: "no separator where it says that the tree ends".into(),
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
        if let Err(fault) = check.value(record, 0) {
            return Err(MmdbError::Record {
                network: network_of(bytes, plan, record),
                offset: Some(fault.offset),
                reason: fault.reason.into(),
            });
        }
    }
    Ok(())
}

/// A step of the path from the root: the node, and how many of its two branches were taken (the last is the current).
struct Frame {
    node: u32,
    taken: u8,
}

/// Depth first over all nodes, each once. `on_data` gets the offset of each record met, and the path to it.
fn walk(
    bytes: &[u8],
    plan: &Plan,
    mut on_data: impl FnMut(usize, &[Frame]) -> ControlFlow<()>,
) -> Result<(), MmdbError> {
    const UNSEEN: u8 = 0;
    const OPEN: u8 = u8::MAX;
    let bits = plan.address_bits();
    // Nodes on the longest way down from here, this one counted: at most 128.
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
                    return broken("is deeper than an address has bits");
                }
                UNSEEN => {
                    heights[child as usize] = OPEN;
                    path.push(Frame { node: child, taken: 0 });
                }
                height if path.len() + usize::from(height) > bits => {
                    return broken("is deeper than an address has bits");
                }
                _ => {}
            },
        }
    }
    Ok(())
}

/// The network at the end of a path, as a person would write it.
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

/// The first network that has this record. Walks again, because nobody needs it but the one damaged file in a year.
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
    /// Offsets whose value is known to be sound.
    done: Bits,
    /// Offsets whose value is being checked, outermost first. At most `DEEPEST`.
    open: Vec<usize>,
    work: usize,
}

impl Check<'_> {
    /// The value at `offset` with all it holds and points to.
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

    /// One value and its members, in place.
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
                    // A lookup reads the key behind a pointer each time, so its length counts here each time.
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

/// What may still be met in one record.
struct Allowance {
    values: usize,
    text: usize,
}

/// A set of offsets: one bit each.
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

    /// MaxMind's files that hold no place and no network never get past `open`; their trees and records count here.
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
