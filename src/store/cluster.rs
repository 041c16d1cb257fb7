//! Tells whether this database is a node of a Citus cluster, and collects the counts of the nodes on the coordinator.
//! `sql/install/81_cluster.sql` describes how the counts get from the nodes to the coordinator.

use super::{ExtensionOids, has_rows};
use crate::pg::Oid;
use crate::pg::catalog;
use crate::pg::keyed_table::Keyed;
use crate::pg::spi::{Connection, Run, Statement};
use crate::pg::value::{self, Bigint};

thread_local! {
    static ATTACHED: Statement<(), (value::Oid,)> = const { Statement::new(
        "cluster_attached", include_str!("../../sql/queries/cluster/cluster_attached.sql")) };
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
