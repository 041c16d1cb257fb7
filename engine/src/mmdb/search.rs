//! Finds the record of an address in the tree.
//!
//! Lookups of single fields use the crate `maxminddb`. Lookups in files with types of addresses use this search instead,
//! because `format` reads their records in place, without the crate's decoder.

use super::format::{Plan, Step};
use crate::address::Address;
use crate::prefix::Prefix;
use std::collections::HashSet;
use std::net::IpAddr;

/// Number of leading zero bits of an IPv4 address in a tree of IPv6 addresses.
const IPV4_DEPTH: usize = 96;

/// The node at which searches of IPv4 addresses start. Searches of all IPv4 addresses begin with the same 96 steps. The
/// node after these steps is stored, so that no search repeats them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    ipv4: Step,
    is_ipv4_only: bool,
}

impl Search {
    pub fn new(bytes: &[u8], plan: &Plan) -> Self {
        let is_ipv4_only = plan.ip_version == 4;
        let depth = if is_ipv4_only { 0 } else { IPV4_DEPTH };
        Self { ipv4: descend(bytes, plan, Step::Node(0), 0, depth), is_ipv4_only }
    }

    /// Returns the record's offset in the data section. Returns `None` also for an IPv6 address in a file that has only
    /// IPv4. A damaged tree gives `Err` with the reason.
    #[inline]
    pub fn record(&self, bytes: &[u8], plan: &Plan, address: Address) -> Result<Option<usize>, &'static str> {
        let found = match address.ip() {
            IpAddr::V4(ip) => descend(bytes, plan, self.ipv4, u128::from(ip.to_bits()) << 96, 32),
            IpAddr::V6(_) if self.is_ipv4_only => return Ok(None),
            IpAddr::V6(ip) => descend(bytes, plan, Step::Node(0), ip.to_bits(), 128),
        };
        match found {
            Step::Data(offset) => Ok(Some(offset)),
            Step::Nothing => Ok(None),
            Step::Node(_) => Err("has more levels than an address has bits"),
            Step::Astray => Err(ASTRAY),
        }
    }

    /// Returns whether `accepts` returns true for the record of an address in a prefix. Visits each node once, so the
    /// time is linear in the file's size, for any bytes. A damaged tree gives `Err` with the reason.
    pub fn any_record(
        &self,
        bytes: &[u8],
        plan: &Plan,
        prefix: Prefix,
        mut accepts: impl FnMut(usize) -> bool,
    ) -> Result<bool, &'static str> {
        let length = usize::from(prefix.length());
        let top = match prefix.network().ip() {
            IpAddr::V4(ip) => descend(bytes, plan, self.ipv4, u128::from(ip.to_bits()) << 96, length),
            IpAddr::V6(_) if self.is_ipv4_only => return Ok(false),
            IpAddr::V6(ip) => descend(bytes, plan, Step::Node(0), ip.to_bits(), length),
        };
        let mut visited = HashSet::new();
        let mut left = vec![top];
        while let Some(step) = left.pop() {
            match step {
                Step::Data(offset) if accepts(offset) => return Ok(true),
                Step::Node(node) if visited.insert(node) => {
                    left.extend(plan.node(bytes, node).map(|record| plan.follow(record)));
                }
                Step::Data(_) | Step::Node(_) | Step::Nothing => {}
                Step::Astray => return Err(ASTRAY),
            }
        }
        Ok(false)
    }
}

const ASTRAY: &str = "leads outside the data";

/// Follows the first `count` bits, from the most significant one, until the path leaves the tree.
#[inline]
fn descend(bytes: &[u8], plan: &Plan, start: Step, bits: u128, count: usize) -> Step {
    let mut step = start;
    for depth in 0..count {
        let Step::Node(node) = step else { break };
        step = plan.follow(plan.node(bytes, node)[(bits >> (127 - depth) & 1) as usize]);
    }
    step
}
