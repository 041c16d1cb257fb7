//! Fills missing registries of existing networks. The values come from IANA's list of AS numbers.
//!
//! If the extension creates a network, the network gets its registry at once. Other rows of `asn_inventory` may lack a registry,
//! for example rows that a client inserted. This module fills their registries in steps. A step skips networks that another
//! transaction has locked.

use std::collections::{BTreeMap, BTreeSet};

use super::networks::{IANA, iana_registry};
use super::{BOUNDED, skip_locked};
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Array, Bigint, Text, array};
use crate::telemetry::spans::NetworkSpans;
use crate::telemetry::{self, Operation, Source, Update, Work};

/// Maximum number of networks that one transaction processes.
const BATCH: i64 = 1_000;

thread_local! {
    static WITHOUT: Statement<(Bigint, Bigint), (Bigint,)> = const { Statement::new(
        "networks_without_registry", include_str!("../../sql/queries/inventory/networks_without_registry.sql")) };
    static FILL: Statement<(Array<Bigint>, Array<Text>, Text), (Bigint, Text, Text, Text)> = const { Statement::new(
        "networks_fill_registry", include_str!("../../sql/queries/inventory/networks_fill_registry.sql")) };
}

/// The result of one step.
pub struct Batch {
    /// Number of networks that the step read. All of them had no registry.
    pub read: usize,
    pub changed: Vec<i64>,
    /// The ASN after which the next step begins. `None` if there are no more networks.
    pub last: Option<i64>,
}

/// Fills the registries of the next networks in the current transaction. Begins after the ASN `after`.
pub fn step(connection: &Connection, after: i64) -> Batch {
    with_settings(BOUNDED, || {
        let read: BTreeSet<i64> = WITHOUT
            .run(connection, (after, BATCH), |rows| rows.iter().filter_map(|(network,)| network).collect());
        let last = read.last().copied().filter(|_| read.len() as i64 >= BATCH);
        let registries: BTreeMap<i64, &str> =
            read.iter().filter_map(|asn| Some((*asn, iana_registry(*asn)?))).collect();
        let changed = fill(connection, &registries);
        Batch { read: read.len(), changed, last }
    })
}

/// Writes the registries of networks. Skips networks that another transaction has locked. Returns the changed networks.
fn fill(connection: &Connection, registries: &BTreeMap<i64, &str>) -> Vec<i64> {
    if registries.is_empty() {
        return Vec::new();
    }
    let locked = skip_locked::lock_networks(connection, registries.keys());
    let (work, spans) = (Work::begin(), NetworkSpans::begin(locked.len()));
    let values = locked.iter().filter_map(|asn| registries.get(asn).copied());
    let arguments = (array(&locked), array(values), IANA);
    let changed: Vec<i64> = FILL.run(connection, arguments, |rows| {
        spans.record(Operation::Update, rows.iter(), |_| IANA);
        rows.iter().filter_map(|(network, ..)| network).collect()
    });
    telemetry::networks_updated(Source::Iana, Update::Metadata, &changed);
    work.end(Operation::Update, locked.len(), changed.len());
    changed
}
