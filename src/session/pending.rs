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
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CStr;

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use foldhash::fast::RandomState;
use pgrx::pg_sys;

use crate::inbox;
use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::role::{self, acting_as};
use crate::pg::spi::Connection;
use crate::pg::subtransaction::contained;
use crate::pg::transaction::{self, Level, Observer, Outcome};
use crate::pg::{snapshot, transaction::current_level};
use crate::provider::limiter;
use crate::provider::{Provider, Providers};
use crate::session::attribution;
use crate::store::enrich::{self, Locked, Tally};
use crate::store::{Home, completions, fill_register, session_delta};
use crate::telemetry::{self, Event, Firing};
use crate::worker::registry;

/// What the transaction knows of a seen address's inventory row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inventory {
    /// Nobody looked yet.
    Unknown,
    /// There is a row, and its answer is not due.
    Present,
}

/// A gap in the snapshot of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gap {
    /// The type alone.
    TypeOnly,
    /// The network or the country.
    Network,
}

/// A table with sessions of an address that have gaps.
type Incomplete = Option<(pg_sys::Oid, Gap)>;

/// Further ones, of several addresses.
type Further = HashSet<(Address, pg_sys::Oid, Gap)>;

#[derive(Clone, Copy)]
struct Seen {
    tally: Tally,
    /// Whether a session came, and not only went: then the address must be in the inventory, whatever the sum.
    came: bool,
    inventory: Inventory,
    /// Whose answers may complete snapshots that were stored.
    awaits: Providers,
    /// The same before the address was created and its lookups queued.
    is_asked: bool,
    incomplete: Incomplete,
    /// Value of `ROLLBACKS` when `inventory` was found out: a row seen then may have been rolled back since.
    as_of: u64,
}

type Addresses = HashMap<Address, Seen, RandomState>;

#[derive(Default)]
struct Pending {
    home: Option<Home>,
    /// Innermost last; levels ascend.
    levels: Vec<(Level, Addresses)>,
    /// Whether an address may be in there that the inventory lacks.
    unsure: bool,
    /// Whether all of them must stay in there: a foreign key wants them created before it is checked.
    referenced: bool,
    /// Further tables with incomplete sessions of an address. Entries stay after a rollback, because a visit that finds
    /// nothing to complete is cheap.
    further: Further,
}

/// Addresses of a level that are remembered. Of more the counts are appended at once, and folding creates them: a load of
/// millions takes no more memory than this, and its commit, which nobody can cancel, no more time.
const MOST_REMEMBERED: usize = 50_000;

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::default();
    static ROLLBACKS: Cell<u64> = const { Cell::new(0) };
}

const OBSERVER: Observer = Observer { before_commit, ended, released, rolled_back };

/// Registers this module with the transaction system; called when the library is loaded.
pub fn observe() {
    transaction::observe(OBSERVER);
}

/// Remembers sessions of an address (a negative number for sessions that went away), the state of its inventory row, and where
/// they have gaps.
pub fn remember(
    home: Home,
    address: Address,
    tally: Tally,
    (inventory, awaits): (Inventory, Providers),
    incomplete: Incomplete,
) {
    let is_asked = !awaits.is_empty();
    let came = tally.sessions > 0;
    let seen = Seen { tally, came, inventory, awaits, is_asked, incomplete, as_of: ROLLBACKS.get() };
    let are_enough = PENDING.with_borrow_mut(|pending| {
        pending.home = Some(home);
        pending.unsure |= seen.came && inventory != Inventory::Present;
        let level = current_level();
        if pending.levels.last().is_none_or(|(top, _)| *top != level) {
            pending.levels.push((level, Addresses::default()));
        }
        let Some((_, addresses)) = pending.levels.last_mut() else { return false };
        let further = &mut pending.further;
        addresses.entry(address).and_modify(|known| known.absorb(address, seen, further)).or_insert(seen);
        addresses.len() > MOST_REMEMBERED && !pending.referenced
    });
    if are_enough {
        append_early(home);
    }
}

/// The transaction writes a table with a foreign key to the inventory.
pub fn addresses_are_referenced() {
    PENDING.with_borrow_mut(|pending| pending.referenced = true);
}

/// Appends the counts of the current level, in the subtransaction that they are of.
fn append_early(home: Home) {
    let take =
        |pending: &mut Pending| pending.levels.last_mut().map(|(_, addresses)| std::mem::take(addresses));
    let Some(seen) = PENDING.with_borrow_mut(take) else { return };
    queue_awaited(home, &seen);
    note_incomplete(home, &seen, &Further::default());
    let counts =
        seen.iter().map(|(address, seen)| (*address, seen.tally)).filter(|(_, tally)| tally.sessions != 0);
    match contained(|| session_delta::append(home, counts)) {
        Ok(()) => {}
        // They stay for the commit, however many become of them.
        Err(failure) => {
            telemetry::error("session counts of a transaction could not be appended yet", &failure.message);
            PENDING.with_borrow_mut(|pending| {
                pending.referenced = true;
                if let Some((_, addresses)) = pending.levels.last_mut() {
                    *addresses = seen;
                }
            });
        }
    }
}

/// Creates the inventory rows of all addresses seen so far, for a foreign key that is about to be checked. Their
/// sessions stay pending.
pub fn create_now(home: Home) {
    // The trigger fires for every row; the first firing does it for all.
    if !PENDING.with_borrow_mut(|pending| std::mem::take(&mut pending.unsure)) {
        return;
    }
    let wanted: Vec<(Address, Tally)> = PENDING.with_borrow(|pending| {
        let seen = pending.levels.iter().flat_map(|(_, addresses)| addresses);
        let missing = seen.filter(|(_, seen)| seen.came && !seen.is_present());
        missing.map(|(address, _)| (*address, Tally::default())).collect()
    });
    if wanted.is_empty() {
        return;
    }
    let is_created = create(home, wanted.iter().copied(), Moment::Reference).is_some();
    if !is_created && !create_bare(home, wanted.iter().copied().collect()) {
        return;
    }
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
    /// Takes in what was seen of the same address later.
    fn absorb(&mut self, address: Address, later: Seen, further: &mut Further) {
        self.is_asked |= later.is_asked;
        match (self.incomplete, later.incomplete) {
            (Some((table, gap)), Some((other, more))) if table == other => {
                self.incomplete = Some((table, gap.max(more)));
            }
            (Some(_), Some((other, more))) => {
                further.insert((address, other, more));
            }
            (known, later) => self.incomplete = known.or(later),
        }
        self.tally.add(later.tally);
        self.came |= later.came;
        self.awaits = self.awaits.with(later.awaits);
        if later.inventory == Inventory::Present {
            (self.inventory, self.as_of) = (later.inventory, later.as_of);
        }
    }

    fn is_present(&self) -> bool {
        self.inventory == Inventory::Present && self.as_of == ROLLBACKS.get()
    }
}

fn before_commit() {
    let Some((home, seen, further)) = take() else { return };
    let firing = Firing::begin(Event::Commit);
    write(home, seen, &further);
    firing.end();
}

fn write(home: Home, mut seen: Addresses, further: &Further) {
    let unsure = seen.iter().filter(|(_, seen)| seen.came && !seen.is_present());
    let unsure: Vec<(Address, Tally)> =
        unsure.map(|(address, seen)| (*address, seen.tally.arrived())).collect();
    // A serializable transaction must not fail, nor fail others, by reads that its user did not ask for.
    if !unsure.is_empty() && !snapshot::is_serializable() {
        for address in create(home, unsure.into_iter(), Moment::Commit).unwrap_or_default() {
            // What was created has its sessions counted in already, and its questions queued.
            if let Some(created) = seen.get_mut(&address) {
                created.tally.sessions -= created.tally.arrived().sessions;
                created.awaits = Providers::NONE;
            }
        }
    }
    queue_awaited(home, &seen);
    note_incomplete(home, &seen, further);
    let counts =
        seen.iter().map(|(address, seen)| (*address, seen.tally)).filter(|(_, tally)| tally.sessions != 0);
    let counts: Vec<(Address, Tally)> = counts.collect();
    if counts.is_empty() {
        return;
    }
    if let Err(failure) = contained(|| session_delta::append(home, counts.into_iter())) {
        telemetry::error("session counts of a transaction were lost", &failure.message);
    }
}

/// Sessions of existing addresses whose network or type is not known yet: the answer may be on its way, and be written
/// down before this transaction's sessions can be seen. A request that is taken in after this commit completes them.
fn queue_awaited(home: Home, seen: &Addresses) {
    let some = seen.values().any(|seen| seen.came && !seen.awaits.is_empty());
    // Where no worker is at work, nothing is on its way.
    if !some || !registry::is_attended() {
        return;
    }
    let speaking =
        Providers::of(Providers::enabled().iter().filter(|provider| limiter::is_speaking(*provider)));
    let awaited: Vec<(Address, Provider)> = seen
        .iter()
        .filter(|(_, seen)| seen.came)
        .flat_map(|(address, seen)| enrich::able(*address, seen.awaits.and(speaking)))
        .collect();
    if awaited.is_empty() {
        return;
    }
    if let Err(failure) = contained(|| enrich::request(home, awaited)) {
        telemetry::error("lookups of a transaction were not queued, the sweep will", &failure.message);
    }
}

/// Notes which tables have sessions with gaps that an enabled provider may fill.
fn note_incomplete(home: Home, seen: &Addresses, further: &Further) {
    if further.is_empty() && seen.values().all(|seen| seen.incomplete.is_none()) {
        return;
    }
    let may_be_filled = completions::may_be_filled();
    let own = seen.iter().filter_map(|(address, seen)| {
        let (table, gap) = seen.incomplete?;
        Some((*address, table, gap))
    });
    let incomplete: Vec<(Address, pg_sys::Oid, bool)> = own
        .chain(further.iter().copied())
        .filter(|(_, _, gap)| match gap {
            Gap::TypeOnly => may_be_filled.ip_type,
            Gap::Network => may_be_filled.network,
        })
        .filter(|(address, ..)| bogon::reason(*address).is_none())
        .filter_map(|(address, table, _)| {
            let seen = seen.get(&address).filter(|seen| seen.came)?;
            // Reads of the index would be watched for conflicts.
            Some((address, table, seen.is_asked || snapshot::is_serializable()))
        })
        .collect();
    if incomplete.is_empty() {
        return;
    }
    let is_attended = registry::is_attended();
    match contained(|| completions::append(home, incomplete.into_iter(), is_attended)) {
        Ok(true) => registry::work_was_queued(),
        Ok(false) => {}
        Err(failure) => telemetry::error(
            "incomplete sessions of a transaction could not be noted, and stay incomplete until the next backfill",
            &failure.message,
        ),
    }
}

fn take() -> Option<(Home, Addresses, Further)> {
    PENDING.with_borrow_mut(|pending| {
        let home = pending.home?;
        pending.unsure = false;
        let mut further = std::mem::take(&mut pending.further);
        let mut levels = std::mem::take(&mut pending.levels).into_iter().map(|(_, addresses)| addresses);
        let mut all = levels.next()?;
        for level in levels {
            merge(&mut all, level, &mut further);
        }
        (!all.is_empty()).then_some((home, all, further))
    })
}

/// When addresses are created.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before a foreign key is checked. Otherwise the addresses are created without their networks.
    Reference,
    /// At commit, when no statement_timeout runs any more. Otherwise folding creates the rows.
    Commit,
}

/// How long a session waits for a lock that it needs to create an address or a network. Commits of other sessions take
/// milliseconds; a long enrichment, an idle transaction or a lock on known_networks must not hold up a honeypot.
const WAITS: &CStr = c"300ms";

/// Creates addresses for a foreign key without their networks, which a lock or a fault keeps from being created. Only the
/// address itself is needed now. Returns whether they are there.
///
/// It waits for another transaction that is creating the same address, as long as the user's own lock_timeout says. Giving
/// up would fail the session on its foreign key, and Cowrie would lose it.
fn create_bare(home: Home, wanted: BTreeMap<Address, Tally>) -> bool {
    let written = contained(|| {
        snapshot::with_fresh(|| {
            acting_as(home.owner, || {
                Connection::with(home.schema, |connection| {
                    enrich::create_addresses(
                        home,
                        connection,
                        &Databases::default(),
                        &wanted,
                        Providers::enabled(),
                    );
                });
            });
        });
    });
    if let Err(failure) = &written {
        telemetry::error("addresses for a foreign key could not be created", &failure.message);
    }
    written.is_ok()
}

/// Creates missing rows and renews due ones; answers what it created, or `None` when that failed.
fn create(home: Home, seen: impl Iterator<Item = (Address, Tally)>, moment: Moment) -> Option<Vec<Address>> {
    let tallies: BTreeMap<Address, Tally> = seen.collect();
    let written = contained(|| {
        mmdb::with(LoadPolicy::None, |databases| {
            let latest = snapshot::Latest::take();
            let plan = enrich::plan(home, tallies, databases, latest.raw(), false, Providers::NONE);
            drop(latest);
            if plan.missing.is_empty() && plan.due.is_empty() {
                return Vec::new();
            }
            snapshot::with_fresh(|| {
                acting_as(home.owner, || {
                    role::set_locally(c"lock_timeout", WAITS);
                    let created = Connection::with(home.schema, |connection| {
                        enrich::write(home, connection, databases, &plan, Locked::Skip)
                    });
                    if moment == Moment::Commit {
                        // Deferred triggers on the inventories: the server has fired those of this commit already.
                        transaction::end_as_current_user();
                    }
                    created
                })
            })
        })
    });
    written
        .map_err(|failure| {
            let what = match moment {
                Moment::Commit => "inventory rows of a transaction could not be created, folding will",
                Moment::Reference => "addresses for a foreign key are created without their networks",
            };
            telemetry::error(what, &failure.message);
        })
        .ok()
}

/// Takes in what was seen later. The smaller goes into the larger: savepoints in savepoints, however deep, would else
/// carry everything from level to level.
fn merge(known: &mut Addresses, mut later: Addresses, further: &mut Further) {
    if later.len() <= known.len() {
        for (address, seen) in later {
            known.entry(address).and_modify(|known| known.absorb(address, seen, further)).or_insert(seen);
        }
        return;
    }
    for (address, mut seen) in known.drain() {
        if let Some(later) = later.get(&address) {
            seen.absorb(address, *later, further);
        }
        later.insert(address, seen);
    }
    *known = later;
}

fn ended(outcome: Outcome) {
    PENDING.with_borrow_mut(|pending| {
        *pending = Pending::default();
    });
    fill_register::clear();
    attribution::transaction_ended(outcome);
    telemetry::transaction_ended(outcome);
    inbox::transaction_ended(outcome);
    registry::transaction_ended(outcome);
}

fn released(level: Level, parent: Level) {
    telemetry::released(level, parent);
    PENDING.with_borrow_mut(|pending| {
        if pending.levels.last().is_none_or(|(top, _)| *top != level) {
            return;
        }
        let Some((_, addresses)) = pending.levels.pop() else { return };
        let further = &mut pending.further;
        match pending.levels.last_mut() {
            Some((top, into)) if *top == parent => merge(into, addresses, further),
            _ => pending.levels.push((parent, addresses)),
        }
    });
}

fn rolled_back(level: Level) {
    ROLLBACKS.set(ROLLBACKS.get() + 1);
    attribution::forget();
    inbox::rolled_back();
    telemetry::rolled_back(level);
    PENDING.with_borrow_mut(|pending| {
        pending.unsure = true;
        // Levels are numbered upwards: whatever began after `level` went with it.
        while pending.levels.last().is_some_and(|(top, _)| *top >= level) {
            pending.levels.pop();
        }
    });
}
