//! Registers the sessions with gaps in shards of a Citus cluster, so that owner processes complete them.
//!
//! Normally, the commit of a session registers the session. But if Citus moves a shard, it copies only the sessions. So the worker of
//! each node reads the shards that it does not know yet, through the index of sessions with gaps, and registers these sessions.
//!
//! The known shards are only in memory, so a new worker reads all shards once. It does no harm if a session is registered twice,
//! because `session_completion` has one row for each address and table.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use cowrie_enrich_engine::address::Address;

use crate::pg::Oid;
use crate::pg::spi::Connection;
use crate::store::completions::{self, Gaps};
use crate::store::{ExtensionOids, cluster};

/// Number of sessions after which a transaction ends.
const MOST_SESSIONS: usize = 10_000;

#[derive(Default)]
pub struct Shards {
    /// The shards whose sessions are registered.
    known: HashSet<Oid>,
    /// The shard that is being read, and the last address that was read.
    position: Option<(Oid, Address)>,
    /// The parts of a snapshot that a provider could fill when the known shards were read.
    fillable: Gaps,
}

/// The shard from which one transaction has read, and the address from which the next transaction continues. The address is unset if
/// no session is left.
pub struct ReadShard(Oid, Option<Address>);

impl Shards {
    /// Returns true if some sessions with gaps may have to be registered. Forgets the known shards if other providers are enabled
    /// now, because these providers may fill sessions that were not registered before.
    pub fn are_needed(&mut self) -> bool {
        let fillable = completions::may_be_filled();
        if self.fillable != fillable {
            *self = Shards { fillable, ..Shards::default() };
        }
        fillable.any()
    }

    /// Registers sessions of one shard that is not known yet. Returns `None` if there is no such shard, or if other transactions
    /// have locked all such shards.
    pub fn read_next(&self, oids: ExtensionOids, connection: &Connection) -> Option<ReadShard> {
        cluster::shards(connection).into_iter().filter(|shard| !self.known.contains(shard)).find_map(
            |shard| {
                // No session of the first address is ever registered, because it is a bogon.
                let first = Address::new(Ipv4Addr::UNSPECIFIED.into());
                let after =
                    self.position.filter(|(begun, _)| *begun == shard).map_or(first, |(_, last)| last);
                let last = cluster::register_sessions(oids, connection, shard, after, MOST_SESSIONS)?;
                Some(ReadShard(shard, last))
            },
        )
    }

    /// Records that a transaction has committed.
    pub fn committed(&mut self, ReadShard(shard, last): ReadShard) {
        self.position = last.map(|last| (shard, last));
        if last.is_none() {
            self.known.insert(shard);
        }
    }
}
