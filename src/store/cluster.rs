//! Tells whether this database is a node of a Citus cluster, and collects the counts of the nodes on the coordinator.
//! `sql/install/81_cluster.sql` describes how the counts get from the nodes to the coordinator.

use std::time::Duration;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use cowrie_enrich_engine::timestamp::Timestamp;

use super::complete_sessions;
use super::completions::{self, IncompleteSessionRow};
use super::{ExtensionOids, has_rows};
use crate::error;
use crate::pg::keyed_table::Keyed;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::timeouts::cancelled_after;
use crate::pg::value::{self, Bigint, Boolean, Timestamptz};
use crate::pg::{Oid, catalog, relation};

thread_local! {
    static ATTACHED: Statement<(), (value::Oid,)> = const { Statement::new(
        "cluster_attached", include_str!("../../sql/queries/cluster/cluster_attached.sql")) };
    static SHARDS: Statement<(), (value::Oid,)> = const { Statement::new(
        "cluster_shards", include_str!("../../sql/queries/cluster/cluster_shards.sql")) };
    static COLLECT: Statement<(Boolean,), (Bigint, Bigint)> = const { Statement::new(
        "cluster_collect", include_str!("../../sql/queries/cluster/cluster_collect.sql")) };
    static COLLECTION: Statement<(), (Bigint, Bigint, Timestamptz)> = const { Statement::new(
        "cluster_collection", include_str!("../../sql/queries/cluster/cluster_collection.sql")) };
}

/// The longest time for one collection in a worker. A collection that takes longer is cancelled. Citus waits for the connections to
/// the nodes one after the other, each for at most `citus.node_connection_timeout` (see `pg::background`). So
/// [`COLLECTION_LIMIT_OF_NODE`] is added for each node.
const COLLECTION_LIMIT: Duration = Duration::from_secs(30);
const COLLECTION_LIMIT_OF_NODE: Duration = Duration::from_secs(5);

/// Result of collecting one batch of counts from each node.
#[derive(Clone, Copy, Default)]
pub struct Collected {
    /// Number of counts in all batches.
    pub counts: i64,
    /// Number of nodes that could not be asked, or that raised an error.
    pub failed_nodes: i64,
}

/// State of the collection of counts on the coordinator of a Citus cluster.
#[derive(Clone, Copy, Default)]
pub struct Collection {
    /// Number of nodes whose last attempt failed.
    pub failed_nodes: i64,
    /// The time of the last success, of the node for which this time is the oldest. `None` if this database collects no counts.
    pub oldest: Option<Timestamp>,
}

/// Returns true if the counts of this database go to the inventories of a coordinator.
pub fn is_member(oids: ExtensionOids) -> bool {
    has_rows(oids.schema, c"cluster_member") == Some(true)
}

/// Raises an error if the counts of this database go to the inventories of a coordinator, because the function `name` writes to the
/// inventories, or asks a provider.
pub fn refuse_on_member(oids: ExtensionOids, name: &str) {
    if is_member(oids) {
        error::on_member(name);
    }
}

/// Returns true if this database collects the counts of other nodes.
pub fn is_coordinator(oids: ExtensionOids) -> bool {
    has_rows(oids.schema, c"cluster_node") == Some(true)
}

/// Collects one batch of counts from each node that is due, for at most a limited time. Must be called in a worker.
pub fn collect_in_worker(connection: &Connection) -> Collected {
    let (nodes, _) = nodes_and_collection(connection);
    let nodes = u32::try_from(nodes).unwrap_or_default();
    let limit = COLLECTION_LIMIT + COLLECTION_LIMIT_OF_NODE.saturating_mul(nodes);
    cancelled_after(limit, || collect(connection, true))
}

/// Collects one batch of counts from each node. If `only_due` is true, leaves out nodes that are not due after a failure.
pub fn collect(connection: &Connection, only_due: bool) -> Collected {
    let collected = |(counts, failed_nodes): (Option<i64>, Option<i64>)| Collected {
        counts: counts.unwrap_or_default(),
        failed_nodes: failed_nodes.unwrap_or_default(),
    };
    COLLECT.first(connection, (only_due,), collected).unwrap_or_default()
}

/// Returns the state of the collection of counts. In a database that collects no counts, no statement runs.
pub fn collection(connection: &Connection) -> Collection {
    if has_rows(connection.schema(), c"cluster_node") == Some(false) {
        return Collection::default();
    }
    let (_, collection) = nodes_and_collection(connection);
    collection
}

/// Returns the number of nodes whose counts this database collects, and the state of the collection.
fn nodes_and_collection(connection: &Connection) -> (i64, Collection) {
    let row = |(nodes, failed_nodes, oldest): (Option<i64>, Option<i64>, Option<Timestamp>)| {
        let collection = Collection { failed_nodes: failed_nodes.unwrap_or_default(), oldest };
        (nodes.unwrap_or_default(), collection)
    };
    COLLECTION.first(connection, (), row).unwrap_or_default()
}

/// Returns the shards of session tables on this node. Returns no shard that Citus is still copying to this node.
pub fn shards(connection: &Connection) -> Vec<Oid> {
    let has_citus = catalog::schema(c"pg_catalog")
        .is_some_and(|schema| relation::find(schema, c"pg_dist_placement") != Oid::INVALID);
    if !has_citus {
        return Vec::new();
    }
    SHARDS.run(connection, (), |rows| rows.iter().filter_map(|(shard,)| shard).collect())
}

/// Appends rows about the sessions of a shard with gaps to `incomplete_session`. Begins after the address `after`, and reads about
/// `most` sessions. Returns the address from which the next call continues, if there are more sessions. Returns `None` if another
/// transaction has locked the shard.
pub fn register_sessions(
    oids: ExtensionOids,
    connection: &Connection,
    shard: Oid,
    after: Address,
    most: usize,
) -> Option<Option<Address>> {
    let (gaps, last) = complete_sessions::gaps_after(connection, shard, after, most)?;
    let gaps = gaps.into_iter().filter(|(address, _)| bogon::reason(*address).is_none());
    completions::append(
        oids,
        gaps.map(|(address, gaps)| IncompleteSessionRow { address, table: shard, gaps, is_asked: false }),
        true,
    );
    Some(last)
}

/// Returns true if Citus distributes this table, or keeps copies of it on all nodes.
pub fn is_citus_table(table: Oid) -> bool {
    let Some(schema) = catalog::schema(c"pg_catalog") else { return false };
    Keyed::open(schema, c"pg_dist_partition", c"pg_dist_partition_logical_relid_index")
        .is_some_and(|tables| tables.find(table, |_| ()).is_some())
}

/// Returns true if Citus distributes an attached table.
pub fn distributes(connection: &Connection) -> bool {
    let attached: Vec<Oid> =
        ATTACHED.run(connection, (), |rows| rows.iter().filter_map(|(table,)| table).collect());
    attached.into_iter().any(is_citus_table)
}
