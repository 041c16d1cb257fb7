//! A naive reader: a table of all prefixes, which is searched for each prefix length.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Statement;
use super::fixtures::Random;

#[derive(Clone, Debug)]
pub struct Known {
    pub ip: IpAddr,
    pub length: u32,
    pub statement: Statement,
}

#[derive(Default)]
pub struct Naive {
    table: HashMap<(bool, u32, u128), BTreeSet<Statement>>,
    lengths: BTreeMap<bool, BTreeSet<u32>>,
    networks: Vec<(IpAddr, u32)>,
}

fn bits(ip: IpAddr) -> (bool, u32, u128) {
    match ip {
        IpAddr::V4(ip) => (true, 32, ip.to_bits().into()),
        IpAddr::V6(ip) => (false, 128, ip.to_bits()),
    }
}

fn ip(is_ipv4: bool, bits: u128) -> IpAddr {
    if is_ipv4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() }
}

fn hosts(width: u32, length: u32) -> u128 {
    if width == length { 0 } else { u128::MAX >> (128 - (width - length)) }
}

impl Naive {
    pub fn new(known: &[Known]) -> Self {
        let mut naive = Self::default();
        for Known { ip, length, statement } in known {
            let (is_ipv4, width, bits) = bits(*ip);
            let key = (is_ipv4, *length, bits & !hosts(width, *length));
            naive.table.entry(key).or_default().insert(statement.clone());
            naive.lengths.entry(is_ipv4).or_default().insert(*length);
            naive.networks.push((*ip, *length));
        }
        naive
    }

    pub fn statements(&self, address: IpAddr) -> BTreeSet<Statement> {
        let (is_ipv4, width, bits) = bits(address);
        let lengths = self.lengths.get(&is_ipv4).into_iter().flatten();
        lengths
            .filter_map(|length| self.table.get(&(is_ipv4, *length, bits & !hosts(width, *length))))
            .flatten()
            .cloned()
            .collect()
    }

    /// Returns `count` addresses. Half of them are at borders: the first and the last address of a network, and the
    /// addresses before and after it. A quarter is inside networks, a quarter anywhere.
    pub fn addresses(&self, random: &mut Random, count: usize) -> Vec<IpAddr> {
        let mut addresses = Vec::with_capacity(count);
        while addresses.len() < count {
            let (at, length) = self.networks[random.below(self.networks.len() as u64) as usize];
            let (is_ipv4, width, bits) = bits(at);
            let (first, last) = (bits & !hosts(width, length), bits | hosts(width, length));
            let inside = first | (random.wide() & hosts(width, length));
            let anywhere = if is_ipv4 { random.wide() >> 96 } else { 0x2 << 124 | random.wide() >> 4 };
            let borders = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            let others = [inside, first | (random.wide() & hosts(width, length)), anywhere, anywhere ^ 1];
            addresses.extend(borders.into_iter().chain(others).map(|bits| ip(is_ipv4, bits)));
        }
        addresses.truncate(count);
        addresses
    }
}
