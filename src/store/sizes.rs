//! Counts networks and the rows of the queue. The statements read whole tables, so this code must not be called for each
//! address.

use std::ffi::CStr;
use std::time::Duration;

use cowrie_enrich_engine::timestamp::Timestamp;

use super::cluster::Collection;
use super::unfinished_erasures::{self, Erasures};
use super::{cluster, completions, reclassification, recount_requests};
use crate::pg::clock;
use crate::pg::role::with_settings;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::subtransaction::{Failure, contained};
use crate::pg::value::{Bigint, Text, Timestamptz};
use crate::provider::Provider;
use crate::shared_state::QUEUE_SIZES;

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

/// The names of the sizes of a provider's queue. Their order is: requests without a job; jobs that are due, leased and delayed;
/// addresses that wait for a job; dead letters.
pub const QUEUES: [&str; QUEUE_SIZES] = ["requested", "due", "leased", "delayed", "addresses", "dead"];

/// The time of the oldest row. `None` if there is no row.
pub type Oldest = Option<Timestamp>;

/// The sizes of one database. A size is `None` if it is unknown, because a lock prevented counting.
#[derive(Clone, Default)]
pub struct Sizes {
    pub networks: Option<i64>,
    /// The time of the oldest pending count.
    pub oldest_count: Option<Oldest>,
    /// The sizes of the queues. The list is empty if these sizes are unknown.
    pub queues: Vec<Queue>,
    pub completions: Option<Completions>,
    /// Number of networks that must still be reclassified after an edit of `known_networks`.
    pub pending_networks: Option<i64>,
    /// Number of attached tables that are not intact.
    pub tables_not_intact: Option<i64>,
    /// The time of the oldest recount request.
    pub oldest_recount: Option<Oldest>,
    pub erasures: Option<Erasures>,
    pub collection: Option<Collection>,
}

#[derive(Clone, Copy)]
pub struct Completions {
    /// Number of pairs of an address and a table whose sessions can now be completed.
    pub pending: i64,
    /// The time of the oldest pending row.
    pub oldest: Oldest,
    pub suspended_owners: i64,
}

#[derive(Clone)]
pub struct Queue {
    pub provider: Provider,
    /// The sizes, in the order of the names in [`QUEUES`].
    pub sizes: [i64; QUEUE_SIZES],
    /// The time of the oldest request or job.
    pub oldest: Oldest,
}

impl Sizes {
    /// Returns true if all sizes that this function needs are known and no work waits.
    pub fn is_queue_empty(&self) -> bool {
        self.completions.is_some_and(|completions| completions.pending == 0)
            && self.oldest_recount == Some(None)
            && !self.queues.is_empty()
            && self.queues.iter().all(|queue| queue.oldest.is_none())
    }

    /// Replaces each unknown size by the same size of `other`.
    pub fn or(self, other: Sizes) -> Sizes {
        Sizes {
            networks: self.networks.or(other.networks),
            oldest_count: self.oldest_count.or(other.oldest_count),
            queues: if self.queues.is_empty() { other.queues } else { self.queues },
            completions: self.completions.or(other.completions),
            pending_networks: self.pending_networks.or(other.pending_networks),
            tables_not_intact: self.tables_not_intact.or(other.tables_not_intact),
            oldest_recount: self.oldest_recount.or(other.oldest_recount),
            erasures: self.erasures.or(other.erasures),
            collection: self.collection.or(other.collection),
        }
    }
}

/// These settings apply after one count had to wait for a lock. With them, the remaining counts do not wait for locks.
const AT_ONCE: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"1ms")];

/// Counts each size separately. So if a lock prevents one count, only this size is unknown.
struct Counting {
    blocked: Option<Failure>,
}

impl Counting {
    /// Runs one count. Returns `None` if a lock prevented the count. Raises any other failure.
    fn part<T>(&mut self, count: impl FnOnce() -> T) -> Option<T> {
        let is_blocked = self.blocked.is_some();
        let counted = contained(|| if is_blocked { with_settings(AT_ONCE, count) } else { count() });
        match counted {
            Ok(counted) => Some(counted),
            Err(failure) if failure.was_lock => {
                self.blocked.get_or_insert(failure);
                None
            }
            Err(failure) => failure.raise(),
        }
    }
}

/// Counts all sizes. Also returns the first failure to get a lock.
pub fn count(connection: &Connection) -> (Sizes, Option<Failure>) {
    let mut counting = Counting { blocked: None };
    let sizes = Sizes {
        networks: counting.part(|| number(&NETWORKS, connection)),
        oldest_count: counting
            .part(|| OLDEST_COUNT.first(connection, (), |(counted_at,)| counted_at).flatten()),
        queues: counting.part(|| queues(connection)).unwrap_or_default(),
        completions: counting.part(|| {
            let sizes = completions::sizes(connection);
            Completions {
                pending: sizes.pending,
                oldest: sizes.oldest_age.map(|age| clock::now() - age),
                suspended_owners: sizes.suspended,
            }
        }),
        pending_networks: counting.part(|| reclassification::pending(connection)),
        tables_not_intact: counting.part(|| number(&NOT_INTACT, connection)),
        oldest_recount: counting.part(|| recount_requests::oldest(connection)),
        erasures: counting.part(|| unfinished_erasures::erasures(connection)),
        collection: counting.part(|| cluster::collection(connection)),
    };
    (sizes, counting.blocked)
}

type Number = std::thread::LocalKey<Statement<(), (Bigint,)>>;

fn number(statement: &'static Number, connection: &Connection) -> i64 {
    statement.first(connection, (), |(count,)| count).flatten().unwrap_or_default()
}

fn queues(connection: &Connection) -> Vec<Queue> {
    QUEUE.run(connection, (), |rows| {
        rows.iter()
            .filter_map(|(provider, requested, due, leased, delayed, addresses, dead, oldest_age)| {
                let sizes = [requested, due, leased, delayed, addresses, dead];
                Some(Queue {
                    provider: Provider::named(&provider?)?,
                    sizes: sizes.map(Option::unwrap_or_default),
                    oldest: oldest_age
                        .map(|age| clock::now() - Duration::from_micros(age.max(0).unsigned_abs())),
                })
            })
            .collect()
    })
}
