//! Finds lookups that were never queued, and lookups that were lost. The causes are a crash, a restore, a prepared
//! transaction, or a time without a source. Also finds expired answers "no network announces this address".

use std::net::{IpAddr, Ipv4Addr};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;

use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Inet, Text, array};
use crate::provider::Providers;

/// Number of addresses that one transaction reads.
const MOST_AT_ONCE: i64 = 10_000;

/// The progress of a sweep: the last address that it read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress(Option<Address>);

impl Progress {
    /// Returns the position before the first address. The lowest address cannot be a host.
    pub fn start() -> Progress {
        Progress(Some(Address::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
    }
}

thread_local! {
    static UNASKED: Statement<(Bigint, Inet, Array<Text>, Array<Boolean>), (Inet, Bigint)> = const {
        Statement::new("sweep_unasked", include_str!("../../sql/queries/queue/sweep_unasked.sql"))
    };
}

/// Reads some addresses, and queues lookups with those providers that have not been asked about them. Returns the
/// new progress; `None` at the end.
pub fn queue_unasked(connection: &Connection, providers: Providers, progress: Progress) -> Option<Progress> {
    let names = array(providers.iter().map(|provider| provider.name()));
    let for_unplaced = array(providers.iter().map(|provider| provider.purpose() == Purpose::Network));
    let (last, seen) =
        UNASKED.first(connection, (MOST_AT_ONCE, progress.0, names, for_unplaced), |row| row)?;
    (seen >= Some(MOST_AT_ONCE)).then_some(Progress(last))
}
