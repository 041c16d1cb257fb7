//! Databases that wait for a worker, and databases in which no worker may start until a given time.

use cowrie_enrich_engine::timestamp::Timestamp;

crate::zeroable! {
    /// A database in which no worker may start until a given time.
    #[derive(Clone, Copy)]
    pub struct DatabaseCooldown {
        pub database: u32,
        pub until: Timestamp,
    }
}

crate::zeroable! {
    /// A database that needs a worker and has none.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct WaitingDatabase {
        /// OID of the database. 0 marks an empty entry.
        pub database: u32,
        /// The reason why the database waits, as a code that the caller defines.
        pub reason: u32,
        pub since: Timestamp,
    }
}
