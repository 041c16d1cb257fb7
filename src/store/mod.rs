//! All SQL that Rust runs. Knows tables, never the network.
//!
//! Order of locks: new networks, existing networks, new addresses, existing addresses; each in key order. A
//! transaction that follows it cannot deadlock with another that does. Sessions only create; they take no lock on an
//! existing network, and an existing address only if it is free.

pub mod addresses;
pub mod enrich;
pub mod fold;
pub mod networks;
pub mod requests;
pub mod sessions;

use pgrx::pg_sys;

use crate::pg::call::{self, Call};
use crate::pg::relation;

/// Where the extension's objects are, and who owns them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Home {
    pub schema: pg_sys::Oid,
    pub owner: pg_sys::Oid,
    /// `ip_inventory` and its primary key's index.
    pub inventory: pg_sys::Oid,
    pub inventory_key: pg_sys::Oid,
}

impl Home {
    /// Found by the function that is being called: it lives where everything else does.
    pub fn of(call: &Call) -> Home {
        let function = call.function();
        let schema = call::schema_of_function(function);
        Home {
            schema,
            owner: call::owner_of_function(function),
            inventory: relation::find(schema, c"ip_inventory"),
            inventory_key: relation::find(schema, c"ip_inventory_pkey"),
        }
    }
}
