//! The block of shared memory.
//!
//! Locking protocol:
//!
//! - `counters`, `cells`, `provider_counters`, `exports` and the fields of a [`WorkerSlot`] are atomics.
//!   Processes only add to counters and cells, or set them to zero.
//! - Any process may increase the registers of `networks_seen`. A reset sets these registers to zero.
//! - Any process may set the fingerprints of waiting rows.
//! - Processes pass spans to the exporter through a ring buffer of atomics. No process waits for the ring
//!   buffer.
//! - Only the launcher writes a worker slot's `database`. Only the process that has taken the slot writes its
//!   `pid`, latch, state and `report`. Any process may set the requests in a worker slot (`woken`,
//!   `shutdown_requested`, …).
//! - Values of more than one word are in [`Guarded`]. Only [`locked`] gives access to them, and only to one
//!   process at a time. A process that holds this lock must not raise an error and must not wait.
//!
//! A block of zero bytes is a valid initial state. If the library is not preloaded, there is no shared block,
//! and every backend has a private block.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

use cowrie_enrich_engine::distinct::REGISTERS;
use cowrie_enrich_engine::otlp::WORDS;
use cowrie_enrich_engine::ring::Ring;
use cowrie_enrich_engine::timestamp::{AtomicTimestamp, Timestamp};

use crate::pg::clock;
use crate::pg::shmem::SharedMemory;
use crate::shared_state::databases::{DatabaseCooldown, WaitingDatabase};
use crate::shared_state::procedure_call::ProcedureCall;
use crate::shared_state::provider::{DeadLetter, PROVIDERS, ProviderState};
use crate::shared_state::worker_slot::WorkerSlot;

/// Maximum number of counters. Each counter takes eight bytes.
pub const SLOTS: usize = 32;
/// Maximum number of cells. The cells hold the metrics with labels and the histograms. Most cells count
/// networks by source, country and registry. Each cell takes eight bytes, so all cells take 288 kB.
pub const CELLS: usize = 36 * 1024;
/// Maximum number of counters for each provider.
pub const PROVIDER_SLOTS: usize = 24;
/// Number of exporters, which are the ways in which metrics leave the server.
pub const EXPORTERS: usize = 3;
/// Maximum number of spans that wait for the exporter. A worker needs some seconds to create this number of spans. The spans take
/// 540 kB.
pub const SPANS: usize = 2048;
/// Number of procedures that work in batches.
pub const PROCEDURES: usize = 8;
/// Maximum number of databases that have a worker at the same time.
pub const WORKER_SLOTS: usize = 64;
/// Maximum number of databases without a worker for which the reason is stored.
const WAITING: usize = 128;
/// Maximum number of stored fingerprints. A fingerprint stands for a row of an inbox that no worker has read
/// yet. All fingerprints take 64 kB.
const ROWS: usize = 8192;

crate::zeroable! {
    /// The part of the shared memory that is read and written without a lock.
    pub struct Block {
        pub counters: [AtomicI64; SLOTS],
        pub cells: [AtomicI64; CELLS],
        pub provider_counters: [[AtomicI64; PROVIDER_SLOTS]; PROVIDERS],
        pub launcher: WorkerSlot,
        pub exporter: WorkerSlot,
        /// For each exporter, the number of exports and the number of failed exports.
        pub exports: [[AtomicI64; 2]; EXPORTERS],
        /// Registers for an estimate of the number of different networks that were created or updated. See
        /// `cowrie_enrich_engine::distinct`. The registers take 64 kB.
        pub networks_seen: [AtomicU8; REGISTERS],
        /// Time of the last reset of the counters, or of the start of the server.
        pub counted_since: AtomicTimestamp,
        /// True while the exporter collects spans.
        pub spans_collected: AtomicBool,
        /// The share of networks for which spans are created. `u64::MAX` stands for all networks.
        pub networks_sampled: AtomicU64,
        pub spans: Ring<WORDS, SPANS>,
        /// True if every database that needs a worker has reported its spent quotas since the server started.
        pub ledgers_known: AtomicBool,
        /// Time when the wait began for a database that has not reported its spent quotas.
        pub awaited_since: AtomicTimestamp,
        pub worker_slots: [WorkerSlot; WORKER_SLOTS],
        /// Fingerprints of rows that wait in an inbox until a worker reads them. See `store::inbox_duplicates`.
        waiting_rows: [AtomicU64; ROWS],
        /// A number from which every fingerprint is computed, together with the row. After the number has
        /// changed, earlier fingerprints match no row.
        pub inbox_epoch: AtomicU64,
        /// A secret random number from which every fingerprint is computed, together with the row.
        pub inbox_secret: AtomicU64,
    }
}

impl Block {
    /// Returns the entry for the fingerprint of a row.
    pub fn waiting_row(&self, fingerprint: u64) -> &AtomicU64 {
        &self.waiting_rows[(fingerprint % ROWS as u64) as usize]
    }
}

crate::zeroable! {
    /// Data that a process may read or write only while it holds the lock.
    pub struct Guarded {
        /// OIDs of databases that the launcher must check. 0 marks an empty entry.
        pub announced: [u32; 16],
        /// True if more databases were announced than `announced` can hold. In this case the launcher must
        /// check all databases.
        pub announced_all: bool,
        /// Databases that need a worker and have none. The database that has waited for the longest time comes
        /// first. The launcher writes this field.
        waiting: [WaitingDatabase; WAITING],
        /// OIDs of databases that need a recount, but in which a commit could not append a row to `recount_request`. 0 marks an
        /// empty entry.
        pub recounts: [u32; WORKER_SLOTS],
        /// Databases in which no worker may start until a given time.
        pub cooldowns: [DatabaseCooldown; 16],
        pub providers: [ProviderState; PROVIDERS],
        pub last_dead_letter: DeadLetter,
        /// For each procedure that works in batches, the most recent call in any database.
        pub calls: [ProcedureCall; PROCEDURES],
    }
}

impl Guarded {
    /// Stores the request that a database needs a recount, unless `recounts` is full.
    pub fn ask_for_recount(&mut self, database: u32) {
        if !self.recounts.contains(&database)
            && let Some(entry) = self.recounts.iter_mut().find(|entry| **entry == 0)
        {
            *entry = database;
        }
    }
}

static MEMORY: SharedMemory<Block, Guarded> =
    SharedMemory::new(c"cowrie_enrich", |block| block.counted_since.store(clock::now(), Ordering::Relaxed));

/// Requests the shared block from PostgreSQL. `_PG_init` calls this function. If the library is not being
/// preloaded, does nothing and returns false.
pub fn request() -> bool {
    MEMORY.request()
}

/// Returns true if the library was preloaded. In this case there are shared memory and a launcher.
pub fn is_shared() -> bool {
    MEMORY.is_shared()
}

/// Returns the shared block. If there is none, returns the private block of this backend.
pub fn block() -> &'static Block {
    MEMORY.block()
}

/// Runs `work` while this process holds the lock. `work` must be short, must not raise an error, and must not
/// wait.
pub fn locked<T>(work: impl FnOnce(&mut Guarded) -> T) -> T {
    MEMORY.locked(work)
}

/// Stores in shared memory which databases wait for a worker. If there are more databases than entries, leaves
/// out the last databases.
pub fn publish_waiting(waiting: &[WaitingDatabase]) {
    let none = WaitingDatabase { database: 0, reason: 0, since: Timestamp::UNSET };
    locked(|guarded| {
        let entries = waiting.iter().copied().chain(std::iter::repeat(none));
        guarded.waiting.iter_mut().zip(entries).for_each(|(to, entry)| *to = entry);
    });
}

/// Returns the databases that wait for a worker. The launcher has stored the list of these databases.
pub fn waiting() -> Vec<WaitingDatabase> {
    let entries = locked(|guarded| guarded.waiting);
    entries.into_iter().take_while(|entry| entry.database != 0).collect()
}
