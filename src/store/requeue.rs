//! Finding work that no request announces: after a crash of a kind nobody thought of, a restore, a prepared transaction,
//! a time without a source, or simply because an answer "nobody announces it" has had its time.

use std::net::{IpAddr, Ipv4Addr};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::providers::Purpose;
use pgrx::pg_sys;

use crate::pg::array::{self, Element};
use crate::pg::spi::{Connection, Statement};
use crate::pg::{inet, text};
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
    static UNASKED: Statement = const { Statement::new(
        "sweep_unasked", include_str!("../../sql/queries/queue/sweep_unasked.sql"),
        &[pg_sys::INT8OID, pg_sys::INETOID, pg_sys::TEXTARRAYOID, pg_sys::BOOLARRAYOID]) };
}

/// Queues what these providers have not been asked, some addresses at a time; answers how far it came, or none when it
/// has seen all.
pub fn queue_unasked(connection: &Connection, providers: Providers, progress: Progress) -> Option<Progress> {
    let for_unplaced = providers.iter().map(|provider| provider.purpose() == Purpose::Network);
    let arguments = [
        Some(pg_sys::Datum::from(MOST_AT_ONCE)),
        progress.0.map(inet::write),
        Some(array::write(
            Element::Text,
            providers.iter().map(|provider| Some(text::write(provider.name()))),
        )),
        Some(array::write(Element::Boolean, for_unplaced.map(|wanted| Some(pg_sys::Datum::from(wanted))))),
    ];
    UNASKED.with(|statement| {
        connection.run(statement, &arguments, |rows| {
            let is_full = rows.bigint(0, 2).is_some_and(|seen| seen >= MOST_AT_ONCE);
            is_full.then(|| Progress(rows.address(0, 1)))
        })
    })
}
