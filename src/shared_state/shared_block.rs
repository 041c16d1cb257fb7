//! The block of shared memory.
//!
//! Locking protocol:
//!
//! - `counters`, `cells`, `provider_counters`, `exports` and the fields of a [`WorkerSlot`] are atomics.
//!   Counters and cells are only added to or set to zero.
//! - Every process raises the registers of `networks_seen`. A reset sets them to zero.
//! - Every process sets the fingerprints of waiting rows.
//! - Spans pass through a ring of atomics. No process waits for the ring.
//! - Only the launcher writes a worker slot's `database`. Only the process that has taken the slot writes its
//!   `pid`, latch, state and `report`. Any process may set its requests (`woken`, `leave`, …).
//! - Values of more than one word are in [`Guarded`], which only [`locked`] reaches, for one process at a
//!   time. A process that holds this lock must neither raise an error nor wait.
//!
//! A zeroed block is a valid initial state. Without preload there is no shared block, and every backend has a
//! private one.

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

/// Capacity for counters; each takes eight bytes.
pub const SLOTS: usize = 32;
/// Maximum number of cells. The cells hold the metrics with labels and the histograms. Most cells count
/// networks by source, country and registry. Each cell takes eight bytes, so all cells take 288 kB.
pub const CELLS: usize = 36 * 1024;
/// Capacity for counters of one provider.
pub const PROVIDER_SLOTS: usize = 24;
/// Ways in which metrics leave the server.
pub const EXPORTERS: usize = 3;
/// Maximum number of spans that wait for the exporter. A worker needs some seconds to create this number of spans. They
/// take 540 kB.
pub const SPANS: usize = 2048;
/// Procedures that work in batches.
pub const PROCEDURES: usize = 8;
/// Databases that can have a worker at the same time.
pub const WORKER_SLOTS: usize = 64;
/// Databases without a worker that are shown with the reason.
const WAITING: usize = 128;
/// Maximum number of fingerprints of inbox rows that no worker has read yet. They take 64 kB.
const ROWS: usize = 8192;

crate::zeroable! {
    /// The part that needs no lock.
    pub struct Block {
        pub counters: [AtomicI64; SLOTS],
        pub cells: [AtomicI64; CELLS],
        pub provider_counters: [[AtomicI64; PROVIDER_SLOTS]; PROVIDERS],
        pub launcher: WorkerSlot,
        pub exporter: WorkerSlot,
        /// Exports and failed exports, by exporter.
        pub exports: [[AtomicI64; 2]; EXPORTERS],
        /// The networks that were created or updated: see `cowrie_enrich_engine::distinct`. 64 kB.
        pub networks_seen: [AtomicU8; REGISTERS],
        /// When the counters were last zero.
        pub counted_since: AtomicTimestamp,
        /// True while the exporter collects spans.
        pub spans_collected: AtomicBool,
        /// Share of the networks that get spans. `u64::MAX` selects all networks.
        pub networks_sampled: AtomicU64,
        pub spans: Ring<WORDS, SPANS>,
        /// True if every database that needs a worker has reported its spent quotas since the server started.
        pub ledgers_known: AtomicBool,
        /// When the wait for a database that has not reported began.
        pub awaited_since: AtomicTimestamp,
        pub worker_slots: [WorkerSlot; WORKER_SLOTS],
        /// Fingerprints of rows that wait in an inbox for a worker: see `store::inbox_duplicates`.
        waiting_rows: [AtomicU64; ROWS],
        /// Number that enters every fingerprint. In a new epoch, the earlier fingerprints match no row.
        pub inbox_epoch: AtomicU64,
        /// Random number that enters every fingerprint.
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
    /// Data that is read and written under the lock.
    pub struct Guarded {
        /// Databases for the launcher to check; 0 is an empty entry.
        pub announced: [u32; 16],
        /// More databases were announced than fit: check all.
        pub announced_all: bool,
        /// Databases that are to have a worker and have none, the oldest first; written by the launcher.
        waiting: [WaitingDatabase; WAITING],
        /// Databases that need a recount but have no row in `recount_request` for it. 0 marks an empty entry.
        pub recounts: [u32; WORKER_SLOTS],
        /// Databases in which no worker may start for a moment.
        pub cooldowns: [DatabaseCooldown; 16],
        pub providers: [ProviderState; PROVIDERS],
        pub last_dead_letter: DeadLetter,
        /// The last call of each procedure that works in batches, in any database.
        pub calls: [ProcedureCall; PROCEDURES],
    }
}

impl Guarded {
    /// Notes that a database needs a recount, if there is room.
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

/// Requests the shared block; called from `_PG_init`. Does nothing and returns false unless the library is
/// being preloaded.
pub fn request() -> bool {
    MEMORY.request()
}

/// Returns whether the library was preloaded. If so, there are shared memory and a launcher.
pub fn is_shared() -> bool {
    MEMORY.is_shared()
}

/// Returns the shared block, or this backend's private one.
pub fn block() -> &'static Block {
    MEMORY.block()
}

/// Runs `work` under the lock. `work` must be short, and must neither raise an error nor wait.
pub fn locked<T>(work: impl FnOnce(&mut Guarded) -> T) -> T {
    MEMORY.locked(work)
}

/// Publishes the databases that wait for a worker. Databases beyond the limit are left out.
pub fn publish_waiting(waiting: &[WaitingDatabase]) {
    let none = WaitingDatabase { database: 0, reason: 0, since: Timestamp::UNSET };
    locked(|guarded| {
        let entries = waiting.iter().copied().chain(std::iter::repeat(none));
        guarded.waiting.iter_mut().zip(entries).for_each(|(to, entry)| *to = entry);
    });
}

/// Returns the databases that wait for a worker, as the launcher published them.
pub fn waiting() -> Vec<WaitingDatabase> {
    let entries = locked(|guarded| guarded.waiting);
    entries.into_iter().take_while(|entry| entry.database != 0).collect()
}
