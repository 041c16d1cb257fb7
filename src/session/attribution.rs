//! What is known of an address at this moment: its inventory row, unless newer files say more, else the files.
//!
//! Asking the inventory is the dearest part of a session's insert, so answers are remembered: for the transaction, and
//! past it if they came from the inventory. Such a memory is right as long as nobody changed an answer in there; whoever
//! does, by whatever statement, fires the trigger `inventory_changed`, which tells all backends when it commits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use cowrie_enrich_engine::address::Address;
use foldhash::fast::RandomState;

use crate::document::enrichment::{self, Answer};
use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::column::Length;
use crate::pg::jsonb;
use crate::pg::kept::Kept;
use crate::pg::subtransaction::contained;
use crate::pg::transaction::Outcome;
use crate::pg::value::{Bigint, Jsonb, Text, Timestamptz, ToSql, Typed, Value, value};
use crate::pg::{clock, invalidation, relation, snapshot, text};
use crate::provider::Providers;
use crate::store::{Home, addresses};
use crate::telemetry::{self, Counter};

/// What the transaction knows of a seen address's inventory row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inventory {
    /// Nobody looked yet.
    Unknown,
    /// There is a row, and its answer is not due.
    Present,
}

/// What a snapshot is made of.
pub struct Attribution {
    asn: Option<i64>,
    country: Option<[u8; 2]>,
    /// With its length in characters.
    ip_type: Option<(Kept<Text>, usize)>,
    /// The document without `_meta`, or none when nothing is known.
    enrichment: Option<Kept>,
    inventory: Inventory,
    /// Whose answers may yet fill what is unknown.
    awaits: Providers,
    /// What it was answered from: it may outlive the transaction only while that is current.
    as_of: Version,
}

/// Versions of the inventory's content and of the mmdb maps.
type Version = (u64, u64);

/// Answers by address, and the bytes that they take.
#[derive(Default)]
struct Memory {
    by_address: HashMap<Address, Rc<Attribution>, RandomState>,
    bytes: usize,
}

/// Bytes that one transaction remembers; past that it forgets all and begins anew.
const MOST_OF_TRANSACTION: usize = 64 << 20;
/// Bytes that a backend remembers between transactions, some 20 thousand addresses.
const MOST_OF_BACKEND: usize = 8 << 20;

thread_local! {
    /// Asked for by this transaction.
    static ASKED: RefCell<Memory> = RefCell::default();
    /// Known from committed rows of the inventory.
    static SETTLED: RefCell<Memory> = RefCell::default();
    /// Versions of the inventory and of the files that `SETTLED` goes with.
    static SETTLED_AS_OF: Cell<Version> = const { Cell::new((0, 0)) };
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

/// What is known of an address.
pub fn of(home: Home, address: Address) -> Rc<Attribution> {
    if let Some(known) = ASKED.with_borrow(|asked| asked.get(address)) {
        return known;
    }
    telemetry::add(Counter::TotalIps, 1);
    let found = mmdb::with(LoadPolicy::None, |databases| {
        forget_if_stale(home, databases);
        if let Some(known) = SETTLED.with_borrow(|settled| settled.get(address)) {
            telemetry::add(Counter::CacheHits, 1);
            return known;
        }
        let from_inventory =
            contained(|| read_inventory(home, address, databases)).unwrap_or_else(|failure| {
                telemetry::error("the inventory could not be read", &failure.message);
                None
            });
        Rc::new(from_inventory.unwrap_or_else(|| read_files(address, databases)))
    });
    ASKED.with_borrow_mut(|asked| asked.put(address, Rc::clone(&found), MOST_OF_TRANSACTION));
    found
}

/// Whether this transaction saw a row of the inventory for an address that it asked about, and whose answers may still
/// fill what is unknown.
pub fn seen(address: Address) -> (Inventory, Providers) {
    ASKED.with_borrow(|asked| {
        let known = asked.by_address.get(&address);
        known.map_or((Inventory::Unknown, Providers::NONE), |known| (known.inventory, known.awaits))
    })
}

/// The transaction ended: what it learned of committed rows is kept, or all of it is dropped. Rows that a prepared
/// transaction saw may be its own, and not there in the end.
pub fn transaction_ended(outcome: Outcome) {
    ASKED.with_borrow_mut(|asked| {
        // After a load that alone would fill the memory between transactions, what was in there is worth more.
        if outcome == Outcome::Committed && asked.bytes <= MOST_OF_BACKEND {
            SETTLED.with_borrow_mut(|settled| {
                let now = SETTLED_AS_OF.get();
                let current = asked
                    .by_address
                    .iter()
                    .filter(|(_, a)| a.inventory == Inventory::Present && a.as_of == now);
                for (address, attribution) in current {
                    settled.put(*address, Rc::clone(attribution), MOST_OF_BACKEND);
                }
            });
        }
        asked.clear();
    });
}

/// A rollback: what this transaction saw may have been its own doing.
pub fn forget() {
    ASKED.with_borrow_mut(Memory::clear);
}

fn forget_if_stale(home: Home, databases: &Databases) {
    let now = (invalidation::content_version(home.inventory), databases.version());
    if SETTLED_AS_OF.replace(now) != now {
        SETTLED.with_borrow_mut(Memory::clear);
    }
}

impl Attribution {
    /// The snapshot columns' values; a text that its column would not take is left out.
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

    /// Bytes held, roughly.
    fn size(&self) -> usize {
        let ip_type = self.ip_type.as_ref().map_or(0, |(kept, _)| kept.size());
        128 + ip_type + self.enrichment.as_ref().map_or(0, Kept::size)
    }
}

fn read_inventory(home: Home, address: Address, databases: &Databases) -> Option<Attribution> {
    // The session's own statement_timeout would end a wait together with the session.
    let is_free = [home.inventory, home.inventory_key].into_iter().all(relation::lock_for_reading_if_free);
    if !is_free {
        telemetry::error("the inventory could not be read", "another session holds a lock on ip_inventory");
        return None;
    }
    let as_of = SETTLED_AS_OF.get();
    let own = snapshot::for_probe().is_none().then(snapshot::Latest::take);
    let snapshot = match &own {
        Some(own) => own.view(),
        None => snapshot::for_probe()?,
    };
    addresses::probe(home, address, snapshot, |row| {
        let known = addresses::read_known(row, databases);
        let document = addresses::document(row);
        let awaits = |asn: Option<i64>| match document {
            Some(document) if enrichment::is_bogon(document) => Providers::NONE,
            document => enrichment::awaited(document, asn, known.ip_type.as_deref()),
        };
        let ip_type = known.ip_type.as_deref().map(|name| (text::keep(name), name.chars().count()));
        let kept = document.map(|document| jsonb::keep_without(document, "_meta"));
        if known.is_due {
            let answer = Answer::for_address(address, databases);
            let newer = answer.document(databases, false);
            let asn = answer.asn().or(known.asn);
            return Attribution {
                asn,
                country: answer.country().or(known.country),
                ip_type,
                enrichment: kept.and_then(|old| jsonb::concat((&old).to_sql(), newer).keep()),
                // Not "present": the row wants renewing at commit.
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

fn read_files(address: Address, databases: &Databases) -> Attribution {
    let answer = Answer::for_address(address, databases);
    let known = answer.is_hit() || answer.bogon.is_some();
    Attribution {
        asn: answer.asn(),
        country: answer.country(),
        ip_type: None,
        enrichment: known.then(|| answer.document(databases, false)).and_then(Typed::keep),
        inventory: Inventory::Unknown,
        awaits: match answer.bogon {
            Some(_) => Providers::NONE,
            None => enrichment::awaited(None, answer.asn(), None),
        },
        as_of: SETTLED_AS_OF.get(),
    }
}
