//! What sessions leave for the end of their transaction.
//!
//! The triggers only remember, in this backend's memory, which addresses were seen how often. Just before commit the
//! missing inventory rows are created, networks first, in key order, and the counts are appended. So shared rows are
//! touched in one order and as late as possible, and existing ones not at all.
//!
//! Memory follows the subtransactions: one map per level that saw a session, merged into its parent on release,
//! dropped on rollback. Each of the two steps at commit is contained in a subtransaction of its own: if creating
//! fails, the counts are appended all the same, and folding creates what is missing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use cowrie_enrich_engine::address::Address;
use foldhash::fast::RandomState;

use crate::attribution;
use crate::offline::{self, Databases, Patience};
use crate::pg::role::acting_as;
use crate::pg::spi::Connection;
use crate::pg::subtransaction::contained;
use crate::pg::transaction::{self, Level, Observer, Outcome};
use crate::pg::{snapshot, transaction::current_level};
use crate::store::enrich::{self, Locked, Plan, Tally};
use crate::store::{Home, addresses, sessions};
use crate::telemetry::{self, Counter};

/// What the transaction knows of a seen address's inventory row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inventory {
    /// Nobody looked yet.
    Unknown,
    /// There is a row, and its answer is not due.
    Present,
}

#[derive(Clone, Copy)]
struct Seen {
    tally: Tally,
    inventory: Inventory,
    /// Value of `ROLLBACKS` when `inventory` was found out: a row seen then may have been rolled back since.
    as_of: u64,
}

type Addresses = HashMap<Address, Seen, RandomState>;

#[derive(Default)]
struct Pending {
    home: Option<Home>,
    /// Innermost last; levels ascend.
    levels: Vec<(Level, Addresses)>,
}

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::default();
    static ROLLBACKS: Cell<u64> = const { Cell::new(0) };
}

const OBSERVER: Observer = Observer { before_commit, ended, released, rolled_back };

/// Registers this module with the transaction system; called when the library is loaded.
pub fn observe() {
    transaction::observe(OBSERVER);
}

/// Remembers sessions of an address (a negative number for sessions that went away).
pub fn remember(home: Home, address: Address, tally: Tally, inventory: Inventory) {
    let as_of = ROLLBACKS.get();
    PENDING.with_borrow_mut(|pending| {
        pending.home = Some(home);
        let level = current_level();
        if pending.levels.last().is_none_or(|(top, _)| *top != level) {
            pending.levels.push((level, Addresses::default()));
        }
        let Some((_, addresses)) = pending.levels.last_mut() else { return };
        addresses
            .entry(address)
            .and_modify(|seen| {
                seen.tally.add(tally);
                if inventory == Inventory::Present {
                    (seen.inventory, seen.as_of) = (inventory, as_of);
                }
            })
            .or_insert(Seen { tally, inventory, as_of });
    });
}

/// Creates the inventory rows of all addresses seen so far, for a foreign key that is about to be checked. Their
/// sessions stay pending.
pub fn create_now(home: Home) {
    let seen: Vec<(Address, Seen)> = PENDING.with_borrow(|pending| {
        pending.levels.iter().flat_map(|(_, addresses)| addresses.iter().map(|(a, s)| (*a, *s))).collect()
    });
    let wanted = seen.iter().filter(|(_, seen)| seen.tally.sessions > 0 && !seen.is_present());
    let wanted: Vec<(Address, Tally)> = wanted.map(|(address, _)| (*address, Tally::default())).collect();
    if wanted.is_empty() {
        return;
    }
    create(home, wanted.iter().copied());
    let as_of = ROLLBACKS.get();
    PENDING.with_borrow_mut(|pending| {
        for (_, addresses) in &mut pending.levels {
            for (address, _) in &wanted {
                if let Some(seen) = addresses.get_mut(address) {
                    (seen.inventory, seen.as_of) = (Inventory::Present, as_of);
                }
            }
        }
    });
}

impl Seen {
    fn is_present(&self) -> bool {
        self.inventory == Inventory::Present && self.as_of == ROLLBACKS.get()
    }
}

fn before_commit() {
    let Some((home, mut seen)) = take() else { return };
    let unsure = seen.iter().filter(|(_, seen)| seen.tally.sessions > 0 && !seen.is_present());
    let unsure: Vec<(Address, Tally)> = unsure.map(|(address, seen)| (*address, seen.tally)).collect();
    if !unsure.is_empty() {
        // What was created has its sessions counted in already.
        for address in create(home, unsure.into_iter()) {
            seen.remove(&address);
        }
    }
    let counts =
        seen.iter().map(|(address, seen)| (*address, seen.tally)).filter(|(_, tally)| tally.sessions != 0);
    let counts: Vec<(Address, Tally)> = counts.collect();
    if counts.is_empty() {
        return;
    }
    if let Err(failure) = contained(|| sessions::append(home, counts.into_iter())) {
        report("session counts of a transaction were lost", &failure.message);
    }
}

fn take() -> Option<(Home, Addresses)> {
    PENDING.with_borrow_mut(|pending| {
        let home = pending.home?;
        let mut levels = std::mem::take(&mut pending.levels).into_iter().map(|(_, addresses)| addresses);
        let mut all = levels.next()?;
        for level in levels {
            merge(&mut all, level);
        }
        (!all.is_empty()).then_some((home, all))
    })
}

/// Creates missing rows and renews due ones; answers what it created.
fn create(home: Home, seen: impl Iterator<Item = (Address, Tally)>) -> Vec<Address> {
    let tallies: BTreeMap<Address, Tally> = seen.collect();
    let written = contained(|| {
        offline::with(Patience::None, |databases| {
            let plan = plan(home, databases, &tallies);
            if plan.missing.is_empty() && plan.due.is_empty() {
                return Vec::new();
            }
            snapshot::with_fresh(|| {
                acting_as(home.owner, || {
                    Connection::with(home.schema, |connection| {
                        enrich::write(connection, databases, &plan, Locked::Skip)
                    })
                })
            })
        })
    });
    written.unwrap_or_else(|failure| {
        report("inventory rows of a transaction could not be created, folding will", &failure.message);
        Vec::new()
    })
}

fn plan(home: Home, databases: &Databases, tallies: &BTreeMap<Address, Tally>) -> Plan {
    let latest = snapshot::Latest::take();
    let mut inventory = addresses::Inventory::open(home, latest.raw());
    let mut plan = Plan::default();
    // In key order, so that neighbours are found on the index page that was just read.
    for (address, tally) in tallies {
        match inventory.probe(*address, |row| addresses::is_due(row, databases)) {
            None => {
                plan.missing.insert(*address, *tally);
            }
            Some(true) => plan.due.push(*address),
            Some(false) => {}
        }
    }
    plan
}

fn report(headline: &'static str, detail: &str) {
    telemetry::add(Counter::Errors, 1);
    telemetry::log_once_per_burst(headline, detail);
}

fn merge(into: &mut Addresses, from: Addresses) {
    for (address, seen) in from {
        into.entry(address)
            .and_modify(|present| {
                present.tally.add(seen.tally);
                if seen.inventory == Inventory::Present {
                    (present.inventory, present.as_of) = (seen.inventory, seen.as_of);
                }
            })
            .or_insert(seen);
    }
}

fn ended(outcome: Outcome) {
    PENDING.with_borrow_mut(|pending| {
        pending.levels.clear();
        pending.home = None;
    });
    attribution::transaction_ended(outcome);
    telemetry::transaction_ended(outcome);
}

fn released(level: Level, parent: Level) {
    PENDING.with_borrow_mut(|pending| {
        if pending.levels.last().is_none_or(|(top, _)| *top != level) {
            return;
        }
        let Some((_, addresses)) = pending.levels.pop() else { return };
        match pending.levels.last_mut() {
            Some((top, into)) if *top == parent => merge(into, addresses),
            _ => pending.levels.push((parent, addresses)),
        }
    });
}

fn rolled_back(level: Level) {
    ROLLBACKS.set(ROLLBACKS.get() + 1);
    attribution::forget();
    PENDING.with_borrow_mut(|pending| {
        // Levels are numbered upwards: whatever began after `level` went with it.
        while pending.levels.last().is_some_and(|(top, _)| *top >= level) {
            pending.levels.pop();
        }
    });
}
