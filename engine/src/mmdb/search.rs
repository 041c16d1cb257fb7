//! Finds the record of an address in the tree.
//!
//! Lookups of single fields use the crate `maxminddb`. Lookups in files with types of addresses use this module instead. `format`
//! can then read the records at their position in the file, without the decoder of the crate.

use super::format::{self, Plan, Step};
use crate::address::Address;
use crate::prefix::Prefix;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// In a tree of IPv6 addresses, an IPv4 address has this number of zero bits before its own bits.
const IPV4_DEPTH: usize = 96;

/// Number of first bits of an IPv4 address. For each value of these bits, the result of their steps of the search is stored.
const STORED_BITS: usize = 8;

/// Stored results of the first steps of a search for an IPv4 address. In an IPv6 tree, the first 96 steps are the same for all IPv4
/// addresses. `ipv4` is the record after these steps. `ipv4_by_bits` has the record after eight more steps, for each value of the
/// first eight bits. So no search repeats these steps.
#[derive(Clone, Debug)]
pub(super) struct Search {
    ipv4: u32,
    /// By the first eight bits of the address.
    ipv4_by_bits: Box<[u32]>,
    is_ipv4_only: bool,
}

impl Search {
    pub fn new(bytes: &[u8], plan: &Plan) -> Self {
        let is_ipv4_only = plan.ip_version == 4;
        let depth = if is_ipv4_only { 0 } else { IPV4_DEPTH };
        let ipv4 = descend(bytes, plan, ROOT, 0, depth);
        let after = |bits: u64| walk(bytes, plan, ipv4, bits << (64 - STORED_BITS), STORED_BITS);
        Self { ipv4, ipv4_by_bits: (0..1 << STORED_BITS).map(after).collect(), is_ipv4_only }
    }

    /// Returns the offset of the address's record in the data section. Returns `None` if there is no record, or if the address is
    /// an IPv6 address and the file has only IPv4. If the tree is damaged, returns `Err` with the reason.
    #[inline]
    pub fn record(&self, bytes: &[u8], plan: &Plan, address: Address) -> Result<Option<usize>, &'static str> {
        let found = match address.ip() {
            IpAddr::V4(ip) => {
                let stored = self.ipv4_by_bits[(ip.to_bits() >> (32 - STORED_BITS)) as usize];
                walk(bytes, plan, stored, u64::from(ip.to_bits()) << (32 + STORED_BITS), 32 - STORED_BITS)
            }
            IpAddr::V6(_) if self.is_ipv4_only => return Ok(None),
            IpAddr::V6(ip) => descend(bytes, plan, ROOT, ip.to_bits(), 128),
        };
        match plan.follow(found) {
            Step::Data(offset) => Ok(Some(offset)),
            Step::Nothing => Ok(None),
            Step::Node(_) => Err("has more levels than an address has bits"),
            Step::Astray => Err(ASTRAY),
        }
    }

    /// Visits the records of the addresses in a prefix, each with the block of addresses that has the record. Stops if `visit`
    /// returns true. Returns true if `visit` has returned true. The function visits each node at most once. So the time is
    /// proportional to the size of the file, even if the file is damaged. If the tree is damaged, returns `Err` with the reason.
    pub fn any_record(
        &self,
        bytes: &[u8],
        plan: &Plan,
        prefix: Prefix,
        mut visit: impl FnMut(usize, Prefix) -> bool,
    ) -> Result<bool, &'static str> {
        let (root, width, bits) = match prefix.network().ip() {
            IpAddr::V4(ip) => (self.ipv4, 32, u128::from(ip.to_bits()) << 96),
            IpAddr::V6(_) if self.is_ipv4_only => return Ok(false),
            IpAddr::V6(ip) => (ROOT, 128, ip.to_bits()),
        };
        let top = descend(bytes, plan, root, bits, usize::from(prefix.length()));
        let mut visited = HashSet::new();
        let mut left = vec![(plan.follow(top), bits, prefix.length())];
        while let Some((step, bits, length)) = left.pop() {
            match step {
                Step::Data(offset) => {
                    if visit(offset, block(bits, length, width)) {
                        return Ok(true);
                    }
                }
                Step::Node(node) if length < width && visited.insert(node) => {
                    let [zero, one] = plan.node(bytes, node).map(|record| plan.follow(record));
                    left.push((zero, bits, length + 1));
                    left.push((one, bits | 1 << (127 - length), length + 1));
                }
                Step::Node(_) | Step::Nothing => {}
                Step::Astray => return Err(ASTRAY),
            }
        }
        Ok(false)
    }
}

/// Returns the block of addresses that begin with `length` bits. `width` is the number of bits of an address in the tree.
fn block(bits: u128, length: u8, width: u8) -> Prefix {
    let network: IpAddr = match width {
        32 => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    };
    let address = Address::new(network);
    // `Address` converts an IPv4-mapped address. A block of such addresses has at least 96 bits.
    let length = if network.is_ipv6() && address.ip().is_ipv4() { length.saturating_sub(96) } else { length };
    Prefix::new(address, length).unwrap_or(Prefix::host(address))
}

const ASTRAY: &str = "leads outside the data";

/// The first node of each tree.
const ROOT: u32 = 0;

/// Follows the first `count` bits of an address through the tree, starting with the most significant bit. Stops earlier if the path
/// reaches a record that is not a node. Returns the last record.
fn descend(bytes: &[u8], plan: &Plan, start: u32, bits: u128, count: usize) -> u32 {
    let (upper, lower) = ((bits >> 64) as u64, bits as u64);
    let middle = walk(bytes, plan, start, upper, count.min(64));
    walk(bytes, plan, middle, lower, count.saturating_sub(64))
}

/// Follows the bits of an address through the tree like `descend`, but at most 64 bits. Each insert of a session calls this
/// function for each file with types, so its loop has few instructions.
#[inline]
fn walk(bytes: &[u8], plan: &Plan, start: u32, bits: u64, count: usize) -> u32 {
    match plan.record_size {
        24 => walk_nodes(plan.nodes(bytes), start, bits, count, format::record_of_24),
        28 => walk_nodes(plan.nodes(bytes), start, bits, count, format::record_of_28),
        _ => walk_nodes(plan.nodes(bytes), start, bits, count, format::record_of_32),
    }
}

#[inline]
fn walk_nodes<const WIDTH: usize>(
    nodes: &[[u8; WIDTH]],
    start: u32,
    mut bits: u64,
    count: usize,
    record_of: impl Fn(&[u8; WIDTH], bool) -> u32,
) -> u32 {
    let mut record = start;
    for _ in 0..count {
        // A record that is no node ends the path.
        let Some(node) = nodes.get(record as usize) else { break };
        record = record_of(node, bits >> 63 == 1);
        bits <<= 1;
    }
    record
}
