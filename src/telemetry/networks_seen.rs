//! Estimates the number of distinct networks that were created or updated in all databases together.
//!
//! The number is estimated by a HyperLogLog in shared memory. The values of its registers never decrease until a reset. A
//! transaction keeps its observations in the memory of the backend until it commits. Only a statement that creates or updates a
//! network makes an observation.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use cowrie_enrich_engine::distinct::{self, LARGEST_RANK, Observation, REGISTERS};

use crate::shared_state;

/// The observations of one level of subtransactions. Each entry has a register and the highest rank that was observed for this
/// register.
#[derive(Default)]
pub struct PendingNetworks(BTreeMap<u16, u8>);

impl PendingNetworks {
    pub fn add(&mut self, asn: i64) {
        self.observe(distinct::observe(asn.cast_unsigned()));
    }

    pub fn observe(&mut self, Observation { register, rank }: Observation) {
        let known = self.0.entry(register).or_default();
        *known = rank.max(*known);
    }

    pub fn merge(&mut self, other: PendingNetworks) {
        other.observations().for_each(|observation| self.observe(observation));
    }

    pub fn observations(&self) -> impl Iterator<Item = Observation> {
        self.0.iter().map(|(register, rank)| Observation { register: *register, rank: *rank })
    }

    /// Adds the observations to the registers in shared memory.
    pub fn publish(&self) {
        for Observation { register, rank } in self.observations() {
            shared_state::block().networks_seen[usize::from(register)].fetch_max(rank, Ordering::Relaxed);
        }
    }
}

const RANKS: i64 = LARGEST_RANK as i64 + 1;

/// Returns the number that a prepared transaction stores for an observation.
pub fn number(Observation { register, rank }: Observation) -> i64 {
    i64::from(register) * RANKS + i64::from(rank)
}

/// Returns the observation with a number, if there is one.
pub fn numbered(number: i64) -> Option<Observation> {
    let register =
        u16::try_from(number / RANKS).ok().filter(|register| usize::from(*register) < REGISTERS)?;
    Some(Observation { register, rank: u8::try_from(number % RANKS).ok()? })
}

/// Returns the estimated number of networks.
pub fn estimate() -> f64 {
    distinct::estimate(shared_state::block().networks_seen.iter().map(|rank| rank.load(Ordering::Relaxed)))
        .round()
}

/// Forgets all networks.
pub fn reset() {
    shared_state::block().networks_seen.iter().for_each(|rank| rank.store(0, Ordering::Relaxed));
}
