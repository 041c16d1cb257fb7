//! Tells whether this database is a node of a Citus cluster, and collects the counts of the nodes on the coordinator.
//! `sql/install/81_cluster.sql` describes how the counts get from the nodes to the coordinator.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;

use super::complete_sessions;
use super::completions::{self, IncompleteSessionRow};
use super::{ExtensionOids, has_rows};
use crate::pg::keyed_table::Keyed;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{self, Bigint};
use crate::pg::{Oid, catalog, relation};

thread_local! {
    static ATTACHED: Statement<(), (value::Oid,)> = const { Statement::new(
        "cluster_attached", include_str!("../../sql/queries/cluster/cluster_attached.sql")) };
    static SHARDS: Statement<(), (value::Oid,)> = const { Statement::new(
        "cluster_shards", include_str!("../../sql/queries/cluster/cluster_shards.sql")) };
    static COLLECT: Statement<(), (Bigint,)> = const { Statement::new(
        "cluster_collect", include_str!("../../sql/queries/cluster/cluster_collect.sql")) };
}

/// Returns true if the counts of this database go to the inventories of a coordinator.
pub fn is_member(oids: ExtensionOids) -> bool {
    has_rows(oids, c"cluster_member") == Some(true)
}

/// Returns true if this database collects the counts of other nodes.
pub fn is_coordinator(oids: ExtensionOids) -> bool {
    has_rows(oids, c"cluster_node") == Some(true)
}

/// Collects one batch of counts from each node. Returns the number of counts.
pub fn collect(connection: &Connection) -> i64 {
    COLLECT.first(connection, (), |(counts,)| counts).flatten().unwrap_or_default()
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
