//! Work that sessions leave for the end of their transaction.
//!
//! The triggers only record, in this backend's memory, how often each address was seen. Just before commit,
//! the missing inventory rows are created, networks first, in key order, and the counts are appended. So
//! shared rows are touched in one order and as late as possible. Existing rows are not touched at all.
//!
//! Memory follows the subtransactions. Each level that saw a session has one map, which is merged into its
//! parent on release and dropped on rollback. Each of the two steps at commit is contained in a separate
//! subtransaction: if creating fails, the counts are appended all the same, and folding creates the missing
//! rows.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CStr;
use std::time::{Duration, Instant};

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::bogon;
use foldhash::fast::RandomState;

use crate::inbox;
use crate::mmdb::{self, Databases, LoadPolicy};
use crate::pg::role::{acting_as, with_settings};
use crate::pg::spi::Connection;
use crate::pg::subtransaction::{Failure, contained};
use crate::pg::transaction::{self, Level, Observer, Outcome};
use crate::pg::{self, Oid, catalog, relation, snapshot, timeouts, transaction::current_level};
use crate::provider::limiter;
use crate::provider::{Provider, Providers};
use crate::session::attribution::{self, Inventory};
use crate::store::completions::{Appended, Gaps, Incomplete};
use crate::store::enrich::{self, Locked, SessionCount};
use crate::store::recount_requests::Missing;
use crate::store::{Home, completions, counter_deltas, fill_register, recount_requests, session_delta};
use crate::telemetry::{self, Counter, Event, TriggerTimer};
use crate::worker::registry;

/// A table with sessions of an address that have gaps, and the gaps.
type TableWithGaps = Option<(Oid, Gaps)>;

/// Further tables with gaps, of several addresses.
type Further = HashMap<(Address, Oid), Gaps>;

#[derive(Clone, Copy)]
struct Seen {
    tally: SessionCount,
    /// True if at least one session was added. Then the address must be in the inventory, even if the sum is
    /// zero.
    came: bool,
    inventory: Inventory,
    /// Providers whose answers may complete stored snapshots.
    awaits: Providers,
    /// True if `awaits` was not empty before the address was created and its lookups queued.
    is_asked: bool,
    incomplete: TableWithGaps,
    /// Value of `ROLLBACKS` when `inventory` was determined. A row seen then may have been rolled back since.
    as_of: u64,
}

type Addresses = HashMap<Address, Seen, RandomState>;

#[derive(Default)]
struct Pending {
    home: Option<Home>,
    /// Innermost last; levels ascend.
    levels: Vec<(Level, Addresses)>,
    /// True if `levels` may contain an address that the inventory lacks.
    unsure: bool,
    /// True if all addresses must stay in memory, because a foreign key needs them created before it is
    /// checked.
    referenced: bool,
    /// Further tables with incomplete sessions of an address. Entries stay after a rollback, because a
    /// completion that finds nothing costs little.
    further: Further,
}

/// Limit of addresses in memory per level. Beyond it the counts are appended at once, and folding creates the
/// rows. So a load of millions takes no more memory than this. Its commit, which cannot be cancelled, takes
/// no more time.
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

/// Records sessions of an address (a negative number for removed sessions), the state of its inventory row,
/// and where they have gaps.
pub fn remember(
    home: Home,
    address: Address,
    tally: SessionCount,
    (inventory, awaits): (Inventory, Providers),
    incomplete: TableWithGaps,
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

/// Records that the transaction writes a table with a foreign key to the inventory.
pub fn addresses_are_referenced() {
    PENDING.with_borrow_mut(|pending| pending.referenced = true);
}

/// Appends the counts of the current level, in the subtransaction that they belong to.
fn append_early(home: Home) {
    let waiting = Waiting::begin();
    let lock_all = || {
        [c"session_delta", c"enrichment_request", c"incomplete_session"]
            .into_iter()
            .for_each(|table| waiting.lock(home, table));
    };
    if let Err(failure) = contained(lock_all) {
        // The counts stay in memory until the commit, even beyond the limit.
        telemetry::error("could not append session counts yet; will retry at commit", &failure.message);
        PENDING.with_borrow_mut(|pending| pending.referenced = true);
        return;
    }
    let take =
        |pending: &mut Pending| pending.levels.last_mut().map(|(_, addresses)| std::mem::take(addresses));
    let Some(seen) = PENDING.with_borrow_mut(take) else { return };
    queue_awaited(home, &seen, &waiting);
    note_incomplete(home, &seen, &Further::default(), &waiting);
    let counts =
        seen.iter().map(|(address, seen)| (*address, seen.tally)).filter(|(_, tally)| tally.sessions != 0);
    if let Err(failure) = waiting.append(home, c"session_delta", || session_delta::append(home, counts)) {
        telemetry::error("could not append session counts yet; will retry at commit", &failure.message);
        PENDING.with_borrow_mut(|pending| {
            pending.referenced = true;
            if let Some((_, addresses)) = pending.levels.last_mut() {
                *addresses = seen;
            }
        });
    }
}

/// Creates the inventory rows of all addresses seen so far, and of `referenced`, for a foreign key that is about to be checked.
/// Their sessions stay pending. With immediate constraints the check comes before the session is counted, so `referenced` may
/// be unknown here.
pub fn create_now(home: Home, referenced: Option<Address>) {
    let is_known = |pending: &Pending, address: &Address| {
        pending.levels.iter().any(|(_, addresses)| addresses.contains_key(address))
    };
    let referenced = referenced.filter(|address| !PENDING.with_borrow(|pending| is_known(pending, address)));
    // The trigger fires for every row. Its first firing creates the rows of all addresses.
    if !PENDING.with_borrow_mut(|pending| std::mem::take(&mut pending.unsure)) && referenced.is_none() {
        return;
    }
    let wanted: BTreeSet<Address> = PENDING.with_borrow(|pending| {
        let seen = pending.levels.iter().flat_map(|(_, addresses)| addresses);
        let missing = seen.filter(|(_, seen)| seen.came && !seen.is_present());
        missing.map(|(address, _)| *address).chain(referenced).collect()
    });
    if wanted.is_empty() {
        return;
    }
    let is_created = {
        let _suspended = timeouts::Suspended::begin();
        let uncounted = wanted.iter().map(|address| (*address, SessionCount::default()));
        create(home, uncounted, Moment::Reference).is_ok()
    };
    if !is_created && !create_bare(home, &Vec::from_iter(wanted.iter().copied())) {
        return;
    }
    let as_of = ROLLBACKS.get();
    PENDING.with_borrow_mut(|pending| {
        for (_, addresses) in &mut pending.levels {
            for address in &wanted {
                if let Some(seen) = addresses.get_mut(address) {
                    (seen.inventory, seen.as_of) = (Inventory::Present, as_of);
                }
            }
        }
    });
}

impl Seen {
    /// Merges a later record of the same address into this one.
    fn absorb(&mut self, address: Address, later: Seen, further: &mut Further) {
        self.is_asked |= later.is_asked;
        match (self.incomplete, later.incomplete) {
            (Some((table, gaps)), Some((other, more))) if table == other => {
                self.incomplete = Some((table, gaps.or(more)));
            }
            (Some(_), Some((other, more))) => {
                let known = further.entry((address, other)).or_default();
                *known = known.or(more);
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
    if let Some((home, seen, further)) = take() {
        // `Waiting` bounds the waits. The client's timeouts do not apply, because they limit the client's own
        // work.
        let _suspended = timeouts::Suspended::begin();
        let firing = TriggerTimer::begin(Event::Commit);
        write(home, seen, &further);
        firing.end();
    }
    if transaction::is_being_prepared() {
        leave_counters();
        if let Err(failure) = contained(registry::transaction_is_prepared) {
            telemetry::error("the worker will process a prepared transaction with a delay", &failure.message);
        }
    }
}

/// Stores the counters of this transaction in a table, as rows of the transaction that is being prepared.
/// Without a worker, no process would read these rows.
fn leave_counters() {
    let counted = telemetry::take_counted();
    if counted.is_empty() || !registry::is_attended() {
        return;
    }
    let left = contained(|| {
        let Some(extension) = catalog::extension() else { return };
        let home = Home::of_extension(&extension);
        relation::lock_for_appending(counter_deltas::table(home), WAITS_AT_LEAST);
        counter_deltas::append(home, &counted);
        registry::work_was_queued();
    });
    if let Err(failure) = left {
        telemetry::error("could not store the counters of a prepared transaction", &failure.message);
    }
}

/// The rest of the time that a commit may wait for locks, over all steps.
struct Waiting(Cell<Duration>);

impl Waiting {
    fn begin() -> Waiting {
        Waiting(Cell::new(WAITS))
    }

    fn spend(&self, waited: Duration) {
        self.0.set(self.0.get().saturating_sub(waited));
    }

    /// Takes the lock for appending to a table of the extension. Raises an error if that takes too long.
    fn lock(&self, home: Home, table: &CStr) {
        let began = Instant::now();
        let longest = self.0.get().max(WAITS_AT_LEAST);
        relation::lock_for_appending(relation::find(home.schema, table), longest);
        self.spend(began.elapsed());
    }

    /// Takes the lock of a table of the extension, then runs a step that appends to it. Both are contained in
    /// a subtransaction.
    fn append<T>(&self, home: Home, table: &CStr, work: impl FnOnce() -> T) -> Result<T, Failure> {
        let began = Instant::now();
        let appended = contained(|| {
            self.lock(home, table);
            work()
        });
        if let Err(failure) = &appended
            && failure.was_lock
        {
            self.spend(began.elapsed());
        }
        appended
    }
}

fn write(home: Home, mut seen: Addresses, further: &Further) {
    let waiting = Waiting::begin();
    let unsure = seen.iter().filter(|(_, seen)| seen.came && !seen.is_present());
    let unsure: Vec<(Address, SessionCount)> =
        unsure.map(|(address, seen)| (*address, seen.tally.arrived())).collect();
    // Reads that the user did not ask for must not make a serializable transaction fail, nor make others
    // fail.
    if !unsure.is_empty() && !snapshot::is_serializable() {
        let began = Instant::now();
        let created = create(home, unsure.into_iter(), Moment::Commit);
        if let Err(failure) = &created
            && failure.was_lock
        {
            waiting.spend(began.elapsed());
        }
        for address in created.unwrap_or_default() {
            // A created row already includes its sessions, and its lookups are queued.
            if let Some(created) = seen.get_mut(&address) {
                created.tally.sessions -= created.tally.arrived().sessions;
                created.awaits = Providers::NONE;
            }
        }
    }
    // The counts come first, because no other step makes up for them.
    append_counts(home, &seen, &waiting);
    queue_awaited(home, &seen, &waiting);
    note_incomplete(home, &seen, further, &waiting);
}

fn append_counts(home: Home, seen: &Addresses, waiting: &Waiting) {
    let counts =
        || seen.iter().map(|(address, seen)| (*address, seen.tally)).filter(|(_, tally)| tally.sessions != 0);
    if counts().next().is_none() {
        return;
    }
    if let Err(failure) = waiting.append(home, c"session_delta", || session_delta::append(home, counts())) {
        let sessions = counts().map(|(_, tally)| tally.sessions.abs()).sum();
        counts_are_lost(home, sessions, &failure);
    }
}

fn counts_are_lost(home: Home, sessions: i64, failure: &Failure) {
    telemetry::add(Counter::CountsLost, sessions);
    let headline = "could not append the session counts of a transaction";
    let is_logged = telemetry::error_is_logged(headline, &failure.message);
    request_recount(home, Missing { sessions, has_gaps: false });
    if !is_logged {
        return;
    }
    let hint = if registry::is_attended() {
        "A recount will start automatically. The table recount_request has a row until then."
    } else {
        "No worker runs, so call refresh_session_counts()."
    };
    pg::warning("cowrie_enrich could not count the sessions of this transaction", hint);
}

/// Requests a recount of the sessions of all tables. The request is a row that commits with the sessions. If
/// it cannot be appended either, shared memory keeps the request until the worker has written a row.
fn request_recount(home: Home, missing: Missing) {
    registry::work_was_queued();
    let requested = contained(|| {
        relation::lock_for_appending(relation::find(home.schema, c"recount_request"), WAITS_AT_LEAST);
        recount_requests::append(home, missing);
    });
    if let Err(failure) = requested {
        telemetry::error("could not append the request for a recount", &failure.message);
        registry::recount_is_needed();
    }
}

fn were_not_queued(failure: &Failure) {
    registry::sweep_is_needed();
    telemetry::error(
        "could not queue the lookups of a transaction; the next sweep will queue them",
        &failure.message,
    );
}

/// Queues lookups for sessions of existing addresses whose network or type is still unknown. The answer may
/// be pending, and may be stored before this transaction's sessions become visible. A request that the worker
/// reads after this commit completes them.
fn queue_awaited(home: Home, seen: &Addresses, waiting: &Waiting) {
    let some = seen.values().any(|seen| seen.came && !seen.awaits.is_empty());
    // Without a worker, no answer is pending.
    if !some || !registry::is_attended() {
        return;
    }
    let speaking = Providers::of(
        Providers::enabled().iter().filter(|provider| limiter::may_have_pending_answer(*provider)),
    );
    let awaited: Vec<(Address, Provider)> = seen
        .iter()
        .filter(|(_, seen)| seen.came)
        .flat_map(|(address, seen)| enrich::able(*address, seen.awaits.and(speaking)))
        .collect();
    if awaited.is_empty() {
        return;
    }
    let table = c"enrichment_request";
    if let Err(failure) = waiting.append(home, table, || enrich::request(home, awaited)) {
        were_not_queued(&failure);
    }
}

/// Notes which tables have sessions with gaps that an enabled provider may fill.
fn note_incomplete(home: Home, seen: &Addresses, further: &Further, waiting: &Waiting) {
    if further.is_empty() && seen.values().all(|seen| seen.incomplete.is_none()) {
        return;
    }
    let may_be_filled = completions::may_be_filled();
    let own = seen.iter().filter_map(|(address, seen)| {
        let (table, gaps) = seen.incomplete?;
        Some((*address, table, gaps))
    });
    let incomplete: Vec<Incomplete> = own
        .chain(further.iter().map(|((address, table), gaps)| (*address, *table, *gaps)))
        .map(|(address, table, gaps)| (address, table, gaps.and(may_be_filled)))
        .filter(|(address, _, gaps)| gaps.any() && bogon::reason(*address).is_none())
        .filter_map(|(address, table, gaps)| {
            let seen = seen.get(&address).filter(|seen| seen.came)?;
            // A serializable transaction would track reads of the index for conflicts.
            let is_asked = seen.is_asked || snapshot::is_serializable();
            Some(Incomplete { address, table, gaps, is_asked })
        })
        .collect();
    if incomplete.is_empty() {
        return;
    }
    let is_attended = registry::is_attended();
    let append = || completions::append(home, incomplete.into_iter(), is_attended);
    match waiting.append(home, c"incomplete_session", append) {
        Ok(Appended::Rows) => registry::work_was_queued(),
        Ok(Appended::Nothing) => {}
        // One request is enough: the recount looks at the sessions of all tables.
        Ok(Appended::NoRoom) if recount_requests::may_exist(home) => {}
        Ok(Appended::NoRoom) => request_recount(home, Missing { sessions: 0, has_gaps: true }),
        Err(failure) => {
            telemetry::error("could not store the incomplete sessions of a transaction", &failure.message);
            request_recount(home, Missing { sessions: 0, has_gaps: true });
        }
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
    /// Before a foreign key is checked. If this fails, the addresses are created without their networks.
    Reference,
    /// At commit, when statement_timeout no longer runs. If this fails, folding creates the rows.
    Commit,
}

/// How long a commit waits for locks. Commits of other sessions take milliseconds. A long enrichment, an idle
/// transaction or a lock on a table of the extension must not block a honeypot.
const WAITS: Duration = Duration::from_millis(300);
/// The same as a setting.
const LOCK_TIMEOUT: &[(&CStr, &CStr)] = &[(c"lock_timeout", c"300ms")];
/// How long a step waits for the lock of a table when earlier steps have used up [`WAITS`].
const WAITS_AT_LEAST: Duration = Duration::from_millis(20);

/// The server opens `asn_inventory` to check a reference to it, even if the reference is null. These rows
/// refer to no network.
const WITHOUT_REFERENCES: &[(&CStr, &CStr)] = &[(c"session_replication_role", c"replica")];

/// Creates addresses for a foreign key without their networks, after a lock or an error prevented creating
/// the networks. Only the address itself is needed now, so only the inventory is opened. Returns whether the
/// rows exist.
///
/// If another transaction is creating the same address, this one waits, up to the user's own lock_timeout.
/// Giving up would fail the session on its foreign key, and Cowrie would lose the session.
fn create_bare(home: Home, wanted: &[Address]) -> bool {
    let written = contained(|| {
        snapshot::with_fresh(|| {
            acting_as(home.owner, || {
                with_settings(WITHOUT_REFERENCES, || {
                    Connection::with(home.schema, |connection| enrich::create_bare(connection, wanted))
                })
            })
        })
    });
    let created = match written {
        Ok(created) => created,
        Err(failure) => {
            telemetry::error("could not create addresses for a foreign key", &failure.message);
            return false;
        }
    };
    let waiting = Waiting(Cell::new(WAITS_AT_LEAST));
    let lookups =
        enrich::lookups_of_new(created.into_iter().map(|address| (address, None)), Providers::enabled());
    let queued = waiting.append(home, c"enrichment_request", || enrich::request(home, lookups));
    if let Err(failure) = queued {
        were_not_queued(&failure);
    }
    true
}

/// Creates missing rows and renews due ones. Returns the created addresses.
fn create(
    home: Home,
    seen: impl Iterator<Item = (Address, SessionCount)>,
    moment: Moment,
) -> Result<Vec<Address>, Failure> {
    let tallies: BTreeMap<Address, SessionCount> = seen.collect();
    // This limit also applies to opening the tables.
    let written = contained(|| {
        with_settings(LOCK_TIMEOUT, || {
            mmdb::with(LoadPolicy::None, |databases| create_missing(home, tallies, databases, moment))
        })
    });
    written.inspect_err(|failure| {
        let what = match moment {
            Moment::Commit => {
                "could not create inventory rows of a transaction; the next fold will create them"
            }
            Moment::Reference => "could not create the networks of addresses for a foreign key",
        };
        telemetry::error(what, &failure.message);
    })
}

fn create_missing(
    home: Home,
    tallies: BTreeMap<Address, SessionCount>,
    databases: &Databases,
    moment: Moment,
) -> Vec<Address> {
    let latest = snapshot::Latest::take();
    let plan = enrich::plan(home, tallies, databases, latest.view(), false, Providers::NONE);
    drop(latest);
    if plan.missing.is_empty() && plan.due.is_empty() {
        return Vec::new();
    }
    snapshot::with_fresh(|| {
        acting_as(home.owner, || {
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
}

/// Merges later records. The smaller map is merged into the larger one, because otherwise deeply nested
/// savepoints would copy all records from level to level.
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
        // Levels are numbered upwards: all levels that began after `level` were rolled back with it.
        while pending.levels.last().is_some_and(|(top, _)| *top >= level) {
            pending.levels.pop();
        }
    });
}
