//! How much there is: networks, and the queue. Reads whole tables, so never on behalf of a single address.

use super::{completions, reclassification, recount_requests};
use crate::pg::clock;
use crate::pg::shared::QUEUE_SIZES;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{Bigint, Text, Timestamptz};
use crate::provider::Provider;

thread_local! {
    static NETWORKS: Statement<(), (Bigint,)> = const { Statement::new(
        "networks_count", include_str!("../../sql/queries/inventory/networks_count.sql")) };
    static OLDEST_COUNT: Statement<(), (Timestamptz,)> = const { Statement::new(
        "counts_oldest", include_str!("../../sql/queries/fold/counts_oldest.sql")) };
    static NOT_INTACT: Statement<(), (Bigint,)> = const { Statement::new(
        "tables_not_intact", include_str!("../../sql/queries/sessions/tables_not_intact.sql")) };
    static QUEUE: Statement<(), (Text, Bigint, Bigint, Bigint, Bigint, Bigint, Bigint, Bigint)> = const {
        Statement::new("queue_sizes", include_str!("../../sql/queries/queue/queue_sizes.sql"))
    };
}

/// What is counted of a provider's queue: requests, three states of jobs, addresses that wait for these, dead letters.
pub const QUEUES: [&str; QUEUE_SIZES] = ["requested", "due", "leased", "delayed", "addresses", "dead"];

/// Of one database, at one moment.
#[derive(Clone)]
pub struct Sizes {
    /// Microseconds since 2000.
    pub counted_at: i64,
    pub networks: i64,
    /// When the oldest pending count was counted, microseconds since 2000.
    pub oldest_count: Option<i64>,
    pub queues: Vec<Queue>,
    /// Addresses and tables whose sessions can be completed now.
    pub completions: i64,
    /// When the oldest of them became so, microseconds since 2000.
    pub oldest_completion: Option<i64>,
    pub suspended_owners: i64,
    /// Networks that an edit of `known_networks` concerns and that are not reclassified yet.
    pub pending_networks: i64,
    /// Attached tables that are not intact.
    pub tables_not_intact: i64,
    /// When the oldest recount was asked for that is still to be made, microseconds since 2000.
    pub oldest_recount: Option<i64>,
}

#[derive(Clone)]
pub struct Queue {
    pub provider: Provider,
    /// In the order of [`QUEUES`].
    pub sizes: [i64; QUEUE_SIZES],
    /// When the oldest request or job was asked for, microseconds since 2000.
    pub oldest: Option<i64>,
}

impl Sizes {
    pub fn is_queue_empty(&self) -> bool {
        self.completions == 0
            && self.oldest_recount.is_none()
            && self.queues.iter().all(|queue| queue.oldest.is_none())
    }
}

pub fn count(connection: &Connection) -> Sizes {
    let networks = NETWORKS.first(connection, (), |(count,)| count).flatten().unwrap_or_default();
    let oldest_count = OLDEST_COUNT.first(connection, (), |(counted_at,)| counted_at).flatten();
    let counted_at = clock::now();
    let queues = QUEUE.run(connection, (), |rows| {
        rows.iter()
            .filter_map(|(provider, requested, due, leased, delayed, addresses, dead, oldest_age)| {
                let sizes = [requested, due, leased, delayed, addresses, dead];
                Some(Queue {
                    provider: Provider::named(&provider?)?,
                    sizes: sizes.map(Option::unwrap_or_default),
                    oldest: oldest_age.map(|age| counted_at - age.max(0)),
                })
            })
            .collect()
    });
    let completions = completions::sizes(connection);
    Sizes {
        counted_at,
        networks,
        oldest_count,
        queues,
        completions: completions.pending,
        oldest_completion: completions.oldest_age.map(|age| counted_at - age.max(0)),
        suspended_owners: completions.suspended,
        pending_networks: reclassification::pending(connection),
        tables_not_intact: NOT_INTACT.first(connection, (), |(count,)| count).flatten().unwrap_or_default(),
        oldest_recount: recount_requests::oldest(connection),
    }
}
