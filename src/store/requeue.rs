//! Finds lookups that were never queued and lookups that were lost, and queues them. Lookups are missing after a crash, after a
//! restore, after a prepared transaction, and after a time in which a source was disabled. Also queues a lookup again if the
//! answer was that no network announces the address, and this answer has expired.

use std::net::{IpAddr, Ipv4Addr};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;

use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Inet, Text, array};
use crate::provider::Providers;
use crate::store::network_answers;

/// Maximum number of addresses that one transaction reads.
const MOST_AT_ONCE: i64 = 10_000;

/// The progress of a sweep. A sweep reads all addresses first, and then all networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The last address that the sweep read.
    Addresses(Option<Address>),
    /// The ASN of the last network that the sweep read.
    Networks(i64),
}

impl Progress {
    /// Returns the position before the first address. It is 0.0.0.0, because this is the lowest address and no host has it.
    pub fn start() -> Progress {
        Progress::Addresses(Some(Address::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
    }
}

thread_local! {
    static UNASKED: Statement<(Bigint, Inet, Array<Text>, Array<Boolean>), (Inet, Bigint)> = const {
        Statement::new("sweep_unasked", include_str!("../../sql/queries/queue/sweep_unasked.sql"))
    };
}

/// Reads some addresses or networks, and queues those of their lookups that are due but not queued. For example, a lookup is due if
/// the provider was never asked, or if a network's answer has expired. Returns the new progress. Returns `None` if the sweep has
/// ended.
pub fn queue_unasked(connection: &Connection, providers: Providers, progress: Progress) -> Option<Progress> {
    match progress {
        Progress::Addresses(after) => {
            let last = queue_addresses(connection, providers, after);
            Some(last.map_or(Progress::Networks(0), |last| Progress::Addresses(Some(last))))
        }
        Progress::Networks(after) => {
            let provider = providers.for_networks()?;
            network_answers::queue_expired(connection, provider, after).map(Progress::Networks)
        }
    }
}

/// Returns the address after which the next call begins. Returns `None` if there are no more addresses.
fn queue_addresses(connection: &Connection, providers: Providers, after: Option<Address>) -> Option<Address> {
    let names = array(providers.iter().map(|provider| provider.name()));
    let for_unplaced = array(providers.iter().map(|provider| provider.purpose() == Purpose::Network));
    let (last, seen) = UNASKED.first(connection, (MOST_AT_ONCE, after, names, for_unplaced), |row| row)?;
    last.filter(|_| seen >= Some(MOST_AT_ONCE))
}
