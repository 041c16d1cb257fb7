//! Finding work that no request announces: after a crash of a kind nobody thought of, a restore, a prepared transaction,
//! a time without a source, or simply because an answer "nobody announces it" has had its time.

use std::net::{IpAddr, Ipv4Addr};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;

use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Boolean, Inet, Text, array};
use crate::provider::Providers;

/// Addresses looked at by one transaction.
const MOST_AT_ONCE: i64 = 10_000;

/// How far a sweep has come: the last address that it looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress(Option<Address>);

impl Progress {
    /// Before the first: the lowest address is no host's.
    pub fn start() -> Progress {
        Progress(Some(Address::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
    }
}

thread_local! {
    static UNASKED: Statement<(Bigint, Inet, Array<Text>, Array<Boolean>), (Inet, Bigint)> = const {
        Statement::new("sweep_unasked", include_str!("../../sql/queries/queue/sweep_unasked.sql"))
    };
}

/// Queues what these providers have not been asked, some addresses at a time; returns how far it came, or none when it
/// has seen all.
pub fn queue_unasked(connection: &Connection, providers: Providers, progress: Progress) -> Option<Progress> {
    let names = array(providers.iter().map(|provider| provider.name()));
    let for_unplaced = array(providers.iter().map(|provider| provider.purpose() == Purpose::Network));
    let (last, seen) =
        UNASKED.first(connection, (MOST_AT_ONCE, progress.0, names, for_unplaced), |row| row)?;
    (seen >= Some(MOST_AT_ONCE)).then_some(Progress(last))
}
