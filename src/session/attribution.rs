//! The current attribution of an address. It comes from the inventory row of the address. Newer mmdb files take
//! precedence over the row. Without a row, the attribution comes from the files alone.
//!
//! Reading the inventory is the most expensive part of a session's insert, so attributions are cached for the
//! transaction. Attributions from the inventory stay cached after the transaction, until an answer in the inventory
//! changes. Each statement that changes an answer fires the trigger `inventory_changed`, which notifies all backends
//! at commit.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::ip_type;
use foldhash::fast::RandomState;

use crate::document::answer::{Answer, Meta};
use crate::document::enrichment;
use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::column::Length;
use crate::pg::jsonb;
use crate::pg::subtransaction::contained;
use crate::pg::transaction::Outcome;
use crate::pg::value::{Bigint, Jsonb, Text, Timestamptz, ToSql, Typed, Value, value};
use crate::pg::varlena::OwnedVarlena;
use crate::pg::{clock, invalidation, mvcc_snapshot, relation, text};
use crate::provider::Providers;
use crate::store::{ExtensionOids, addresses};
use crate::telemetry::{self, Counter};

/// The transaction's knowledge of an address's inventory row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inventory {
    /// The row was not read yet, or must be renewed from newer mmdb files.
    Unknown,
    /// The row exists, and is up to date with the mmdb files.
    Present,
}

/// The values of a snapshot.
pub struct Attribution {
    asn: Option<i64>,
    country: Option<[u8; 2]>,
    /// The type of the address, and the length of this text in characters.
    ip_type: Option<(OwnedVarlena<Text>, usize)>,
    /// The document without `_meta`; `None` without a value.
    enrichment: Option<OwnedVarlena>,
    inventory: Inventory,
    /// Providers whose answers may still fill unknown values.
    awaits: Providers,
    /// Versions of the inventory and of the mmdb maps from which this attribution was read. The attribution stays
    /// cached after the transaction only while these versions are current.
    as_of: Version,
}

/// Versions of the inventory's content and of the mmdb maps.
type Version = (u64, u64);

/// Attributions by address, and the number of bytes that they occupy.
#[derive(Default)]
struct Memory {
    by_address: HashMap<Address, Rc<Attribution>, RandomState>,
    bytes: usize,
}

/// Maximum number of bytes that one transaction caches. If it needs more, it clears its cache.
const MOST_OF_TRANSACTION: usize = 64 << 20;
/// Bytes that a backend caches between transactions, some 20 thousand addresses.
const MOST_OF_BACKEND: usize = 8 << 20;

thread_local! {
    /// Attributions that this transaction asked for.
    static OWN: RefCell<Memory> = RefCell::default();
    /// Attributions from committed rows of the inventory.
    static COMMITTED: RefCell<Memory> = RefCell::default();
    /// Versions of the inventory and of the files for which `COMMITTED` is valid.
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
    if let Some(known) = OWN.with_borrow(|own| own.get(address)) {
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

/// Returns whether this transaction read an inventory row for an address, and the providers whose answers may
/// still fill unknown values.
pub fn seen(address: Address) -> (Inventory, Providers) {
    OWN.with_borrow(|own| {
        let known = own.by_address.get(&address);
        known.map_or((Inventory::Unknown, Providers::NONE), |known| (known.inventory, known.awaits))
    })
}

/// After a commit, keeps what the transaction read from committed rows. After any other outcome, drops
/// everything. A prepared transaction may have read rows that it wrote itself, and these rows may never be
/// committed.
pub fn transaction_ended(outcome: Outcome) {
    OWN.with_borrow_mut(|own| {
        // If a transaction alone fills the cache, for example a bulk load, its entries are dropped. The earlier entries are more
        // likely to be used again.
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

/// Clears the transaction's cache after a rollback, because the transaction may have written the rows that it
/// read.
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
    /// Returns the values of the snapshot columns. A text that is too long for its column is left out.
    pub fn values(&self, [country, ip_type]: [Length; 2]) -> [Value; 5] {
        let filled = self.enrichment.is_some();
        let ip_type = self.ip_type.as_ref().filter(|(_, characters)| ip_type.takes(*characters));
        [
            value::<Bigint>(self.asn),
            value::<Text>(self.country.filter(|_| country.takes(2))),
            value::<Text>(ip_type.map(|(kept, _)| kept)),
            value::<Jsonb>(self.enrichment.as_ref()),
            value::<Timestamptz>(filled.then(clock::transaction_start)),
        ]
    }

    /// Returns the approximate size in bytes.
    fn size(&self) -> usize {
        let ip_type = self.ip_type.as_ref().map_or(0, |(kept, _)| kept.size());
        128 + ip_type + self.enrichment.as_ref().map_or(0, OwnedVarlena::size)
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
        let of_files = if is_bogon { None } else { databases.types().leading(address) };
        let leading = ip_type::leading(known.ip_type.as_deref().into_iter().chain(of_files));
        let awaits = |asn: Option<i64>| match document {
            _ if is_bogon => Providers::NONE,
            document => enrichment::awaited(document, asn, leading),
        };
        let ip_type = leading.map(kept_type);
        let kept = document.map(|document| jsonb::owned_without(document, "_meta"));
        if known.is_due {
            let answer = Answer::for_address(address, databases);
            let newer = answer.document(databases, Meta::Omitted);
            let asn = answer.asn().or(known.asn);
            return Attribution {
                asn,
                country: answer.country().or(known.country),
                ip_type,
                enrichment: kept.and_then(|old| jsonb::concat((&old).to_sql(), newer).into_owned()),
                // The inventory's state is unknown, because the commit has to renew the row.
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
            enrichment: kept.filter(|document| !jsonb::is_empty(document)),
            inventory: Inventory::Present,
            awaits: awaits(known.asn),
            as_of,
        }
    })
}

/// Returns a type for [`Attribution::ip_type`].
fn kept_type(name: &str) -> (OwnedVarlena<Text>, usize) {
    (text::owned(name), name.chars().count())
}

fn read_files(address: Address, databases: &Databases) -> Attribution {
    let answer = Answer::for_address(address, databases);
    let known = answer.is_hit() || answer.bogon.is_some();
    let leading = if answer.bogon.is_some() { None } else { databases.types().leading(address) };
    Attribution {
        asn: answer.asn(),
        country: answer.country(),
        ip_type: leading.map(kept_type),
        enrichment: known.then(|| answer.document(databases, Meta::Omitted)).and_then(Typed::into_owned),
        inventory: Inventory::Unknown,
        awaits: match answer.bogon {
            Some(_) => Providers::NONE,
            None => enrichment::awaited(None, answer.asn(), leading),
        },
        as_of: COMMITTED_AS_OF.get(),
    }
}
