//! The current attribution of an address. It comes from the inventory row of the address. If the mmdb files are newer than the row,
//! values from the files take precedence. If there is no row, all values come from the files.
//!
//! Reading the inventory is the most expensive part of the INSERT of a session. So attributions are cached until the transaction
//! ends. Attributions that come from the inventory stay cached after the transaction, until an answer in the inventory changes.
//! Each statement that changes an answer fires the trigger `inventory_changed`. At commit, this trigger notifies all backends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::ip_type;
use foldhash::fast::RandomState;

use crate::document::answer::Meta;
use crate::document::{answer_cache, enrichment};
use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::column::Length;
use crate::pg::jsonb;
use crate::pg::subtransaction::contained;
use crate::pg::transaction::Outcome;
use crate::pg::value::{Bigint, Jsonb, Text, Timestamptz, ToSql, Value, value};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{clock, invalidation, mvcc_snapshot, relation, text};
use crate::provider::Providers;
use crate::store::{ExtensionOids, addresses};
use crate::telemetry::{self, Counter};

/// What the transaction knows about the inventory row of an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inventory {
    /// The transaction has found no row or could not read it, or newer mmdb files require that the row is renewed.
    Unknown,
    /// The transaction has not looked for the row, because the session is in a shard of a Citus table.
    Unread,
    /// The row exists, and is up to date with the mmdb files.
    Present,
}

/// The values that the snapshot of a session gets.
pub struct Attribution {
    asn: Option<i64>,
    country: Option<[u8; 2]>,
    /// The type of the address, and the number of characters in this text.
    ip_type: Option<(OwnedVarlena<Text>, usize)>,
    /// The enrichment document without `_meta`. `None` if the document would be empty.
    enrichment: Option<Rc<OwnedVarlena>>,
    inventory: Inventory,
    /// The providers whose answers may still supply values that are unknown now.
    awaits: Providers,
    /// The versions of the inventory and of the mmdb maps when this attribution was read. After the transaction, the attribution
    /// stays cached only while these versions are current.
    as_of: Version,
}

/// Versions of the inventory's content and of the mmdb maps.
type Version = (u64, u64);

/// Cached attributions by address, and the number of bytes that they use.
#[derive(Default)]
struct Memory {
    by_address: HashMap<Address, Rc<Attribution>, RandomState>,
    bytes: usize,
}

/// Maximum number of bytes in the cache of one transaction. If the transaction needs more, its cache is cleared.
const MOST_OF_TRANSACTION: usize = 64 << 20;
/// Maximum number of bytes that a backend keeps cached between transactions. This is enough for about 20 thousand addresses.
const MOST_OF_BACKEND: usize = 8 << 20;

thread_local! {
    /// The attributions that the current transaction has used.
    static OWN: RefCell<Memory> = RefCell::default();
    /// The attributions that were read from committed rows of the inventory.
    static COMMITTED: RefCell<Memory> = RefCell::default();
    /// The versions of the inventory and of the mmdb maps for which `COMMITTED` is valid.
    static COMMITTED_AS_OF: Cell<Version> = const { Cell::new((0, 0)) };
}

impl Memory {
    fn get(&self, address: Address) -> Option<Rc<Attribution>> {
        self.by_address.get(&address).cloned()
    }

    fn put(&mut self, address: Address, attribution: Rc<Attribution>, most: usize) {
        if self.bytes >= most {
            *self = Memory::default();
        }
        self.bytes += attribution.size();
        self.by_address.insert(address, attribution);
    }

    fn clear(&mut self) {
        if self.by_address.capacity() > 64 {
            *self = Memory::default();
        } else {
            self.by_address.clear();
            self.bytes = 0;
        }
    }
}

/// Returns the attribution of an address.
pub fn of(oids: ExtensionOids, address: Address) -> Rc<Attribution> {
    let known = OWN.with_borrow(|own| own.get(address));
    if let Some(known) = known.filter(|known| known.inventory != Inventory::Unread) {
        return known;
    }
    telemetry::add(Counter::TotalIps, 1);
    let found = mmdb::with(LoadPolicy::None, |databases| {
        forget_if_stale(oids, databases);
        if let Some(known) = COMMITTED.with_borrow(|committed| committed.get(address)) {
            telemetry::add(Counter::CacheHits, 1);
            return known;
        }
        let from_inventory =
            contained(|| read_inventory(oids, address, databases)).unwrap_or_else(|failure| {
                telemetry::error("could not read ip_inventory", &failure.message);
                None
            });
        Rc::new(from_inventory.unwrap_or_else(|| read_files(address, databases)))
    });
    OWN.with_borrow_mut(|own| own.put(address, Rc::clone(&found), MOST_OF_TRANSACTION));
    found
}

/// Returns the attribution of an address from the mmdb files, without the inventory. For sessions in shards of a Citus table: the
/// inventory is on the coordinator, so the node has rows of few addresses only. And no subtransaction may begin; see
/// docs/architecture/citus.md.
pub fn of_files(address: Address) -> Rc<Attribution> {
    if let Some(known) = OWN.with_borrow(|own| own.get(address)) {
        return known;
    }
    telemetry::add(Counter::TotalIps, 1);
    let found = mmdb::with(LoadPolicy::None, |databases| {
        Rc::new(Attribution { inventory: Inventory::Unread, ..read_files(address, databases) })
    });
    OWN.with_borrow_mut(|own| own.put(address, Rc::clone(&found), MOST_OF_TRANSACTION));
    found
}

/// Returns what this transaction knows about the inventory row of an address. Also returns the providers whose answers may still
/// supply values that are unknown now.
pub fn seen(address: Address) -> (Inventory, Providers) {
    OWN.with_borrow(|own| {
        let known = own.by_address.get(&address);
        known.map_or((Inventory::Unknown, Providers::NONE), |known| (known.inventory, known.awaits))
    })
}

/// Called at the end of a transaction. After a commit, keeps the attributions that the transaction read from committed rows. After
/// a rollback, drops all attributions of the transaction. Drops them after PREPARE TRANSACTION too, because the transaction may have
/// read rows that it wrote itself, and these rows may never be committed.
pub fn transaction_ended(outcome: Outcome) {
    OWN.with_borrow_mut(|own| {
        // The attributions of a large transaction, for example of a bulk load, would fill the whole cache. They are not kept,
        // because the attributions that are already cached are more likely to be used again.
        if outcome == Outcome::Committed && own.bytes <= MOST_OF_BACKEND {
            COMMITTED.with_borrow_mut(|committed| {
                let now = COMMITTED_AS_OF.get();
                let current = own
                    .by_address
                    .iter()
                    .filter(|(_, a)| a.inventory == Inventory::Present && a.as_of == now);
                for (address, attribution) in current {
                    committed.put(*address, Rc::clone(attribution), MOST_OF_BACKEND);
                }
            });
        }
        own.clear();
    });
}

/// Clears the cache of the transaction after a rollback to a savepoint. The transaction may have written the rows from which the
/// attributions came.
pub fn forget() {
    OWN.with_borrow_mut(Memory::clear);
}

fn forget_if_stale(oids: ExtensionOids, databases: &Databases) {
    let now = (invalidation::content_version(oids.inventory), databases.version());
    if COMMITTED_AS_OF.replace(now) != now {
        COMMITTED.with_borrow_mut(Memory::clear);
    }
}

impl Attribution {
    /// Returns the values of the snapshot columns. If a text is too long for its column, the value of this column is null.
    pub fn values(&self, [country, ip_type]: [Length; 2]) -> [Value; 5] {
        let filled = self.enrichment.is_some();
        let ip_type = self.ip_type.as_ref().filter(|(_, characters)| ip_type.takes(*characters));
        [
            value::<Bigint>(self.asn),
            value::<Text>(self.country.filter(|_| country.takes(2))),
            value::<Text>(ip_type.map(|(kept, _)| kept)),
            value::<Jsonb>(self.enrichment.as_deref()),
            value::<Timestamptz>(filled.then(clock::transaction_start)),
        ]
    }

    /// Returns the approximate size in bytes.
    fn size(&self) -> usize {
        let ip_type = self.ip_type.as_ref().map_or(0, |(kept, _)| kept.size());
        128 + ip_type + self.enrichment.as_ref().map_or(0, |document| document.size())
    }
}

fn read_inventory(oids: ExtensionOids, address: Address, databases: &Databases) -> Option<Attribution> {
    // This function must not wait for a lock. Otherwise the client's statement_timeout could end the wait, and the
    // session would be lost.
    let is_free = [oids.inventory, oids.inventory_key].into_iter().all(relation::lock_for_reading_if_free);
    if !is_free {
        telemetry::error("could not read ip_inventory", "another transaction holds a lock on ip_inventory");
        return None;
    }
    let as_of = COMMITTED_AS_OF.get();
    let own = mvcc_snapshot::for_probe().is_none().then(mvcc_snapshot::Latest::take);
    let snapshot = match &own {
        Some(own) => own.view(),
        None => mvcc_snapshot::for_probe()?,
    };
    addresses::probe(oids, address, snapshot, |row| {
        let known = addresses::read_known(row, databases);
        let document = addresses::document(row);
        let is_bogon = document.is_some_and(enrichment::is_bogon);
        let of_files = databases.types().leading(address);
        let leading = ip_type::leading(known.ip_type.as_deref().into_iter().chain(of_files));
        let awaits = |asn: Option<i64>| match document {
            _ if is_bogon => Providers::NONE,
            document => enrichment::awaited(document, asn, leading),
        };
        let ip_type = leading.map(kept_type);
        let kept = document.map(|document| jsonb::owned_without(document, "_meta"));
        if known.is_due {
            let answer = answer_cache::of(address, databases);
            let newer = answer.document(address, databases, Meta::Omitted);
            let asn = answer.asn.or(known.asn);
            let merged =
                kept.and_then(|old| jsonb::concat((&old).to_sql(), newer.as_deref().to_sql()).into_owned());
            return Attribution {
                asn,
                country: answer.country.or(known.country),
                ip_type,
                enrichment: merged.map(Rc::new),
                // The row must be renewed at commit, so the state of the row is unknown until then.
                inventory: Inventory::Unknown,
                awaits: awaits(asn),
                as_of,
            };
        }
        telemetry::add(Counter::CacheHits, 1);
        Attribution {
            asn: known.asn,
            country: known.country,
            ip_type,
            enrichment: kept.filter(|document| !jsonb::is_empty(document)).map(Rc::new),
            inventory: Inventory::Present,
            awaits: awaits(known.asn),
            as_of,
        }
    })
}

/// Returns the name of a type in the form of [`Attribution::ip_type`].
fn kept_type(name: &str) -> (OwnedVarlena<Text>, usize) {
    (text::owned(name), name.chars().count())
}

fn read_files(address: Address, databases: &Databases) -> Attribution {
    let answer = answer_cache::of(address, databases);
    let known = answer.is_hit || answer.is_bogon;
    let leading = databases.types().leading(address);
    Attribution {
        asn: answer.asn,
        country: answer.country,
        ip_type: leading.map(kept_type),
        enrichment: if known { answer.document(address, databases, Meta::Omitted) } else { None },
        inventory: Inventory::Unknown,
        awaits: if answer.is_bogon {
            Providers::NONE
        } else {
            enrichment::awaited(None, answer.asn, leading)
        },
        as_of: COMMITTED_AS_OF.get(),
    }
}
