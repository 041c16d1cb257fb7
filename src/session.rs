//! The trigger on session tables.
//!
//! BEFORE a row is inserted its snapshot columns are filled with what is known of its address at this moment, and
//! kept as they are ever after; AFTER it was inserted, updated or deleted its session is remembered for the counts.
//!
//! The insert must succeed whatever happens in here: reading the inventory is contained in a subtransaction, a
//! malformed address is a counted error and null snapshots, and nothing touches the network or a file that is not
//! mapped yet.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use cowrie_enrich_engine::address::{self, Address};
use pgrx::pg_sys;

use crate::at_commit::{self, Inventory};
use crate::enrichment::{self, Answer};
use crate::error;
use crate::offline::{self, Databases, Patience};
use crate::pg::call::Call;
use crate::pg::jsonb;
use crate::pg::snapshot;
use crate::pg::subtransaction::contained;
use crate::pg::trigger::{self, Event, Firing, Tuple};
use crate::pg::{clock, inet, text};
use crate::store::enrich::Tally;
use crate::store::{Home, addresses};
use crate::telemetry::{self, Counter};

/// What a snapshot is made of.
struct Attribution {
    asn: Option<i64>,
    country: Option<[u8; 2]>,
    ip_type: Option<String>,
    /// A jsonb datum's bytes, or none when nothing is known.
    enrichment: Option<Box<[u8]>>,
    inventory: Inventory,
}

/// Attributions that a transaction keeps: some 4 MB.
const MOST_ATTRIBUTIONS: usize = 8192;

thread_local! {
    /// Addresses of this transaction: one scan of ten thousand sessions asks once.
    static ATTRIBUTIONS: RefCell<HashMap<Address, Rc<Attribution>>> = RefCell::default();
}

/// Entry point of `enrich_session()`.
pub fn enrich_session(call: &Call) -> Option<pg_sys::Datum> {
    let Some(firing) = Firing::of(call) else { error::not_a_trigger_call() };
    let Some(event) = firing.event() else { error::not_a_trigger_call() };
    at_commit::observe();
    if firing.is_before() {
        let row = if event == Event::Delete { firing.old() } else { firing.new() };
        return Some(before(call, &firing, event, row).datum());
    }
    if firing.is_constraint() {
        at_commit::create_now(Home::of(call));
    } else {
        after(call, &firing, event);
    }
    Some(pg_sys::Datum::from(0))
}

/// The snapshot columns, in the order of `values`.
const SNAPSHOT: [&std::ffi::CStr; 5] =
    [c"snapshot_asn", c"snapshot_country", c"snapshot_ip_type", c"enrichment", c"enrichment_at"];

fn before(call: &Call, firing: &Firing, event: Event, row: Tuple) -> Tuple {
    match event {
        Event::Insert => {
            let Some(source) = source_address(firing, row, Complain::Yes) else { return row };
            fill(call, source.respelled(row), source.address)
        }
        Event::Update => {
            let old = firing.old();
            let row = protect(old, row);
            // Only an address that arrives now is a moment of attack; a later answer is the worker's to add.
            let Some(source) = source_address(firing, row, Complain::Yes) else { return row };
            let row = source.respelled(row);
            match source_address(firing, old, Complain::No) {
                None => fill(call, row, source.address),
                Some(_) => row,
            }
        }
        Event::Delete => row,
    }
}

/// The row with those snapshot columns filled that are null.
fn fill(call: &Call, row: Tuple, address: Address) -> Tuple {
    let empty: Vec<Option<i16>> = SNAPSHOT
        .iter()
        .map(|name| row.column(name).map(|(number, _)| number).filter(|number| row.value(*number).is_none()))
        .collect();
    if empty.iter().all(Option::is_none) {
        return row;
    }
    let attribution = attribution(Home::of(call), address);
    let values = attribution.values();
    let changes: Vec<(i16, Option<pg_sys::Datum>)> = empty
        .into_iter()
        .zip(values)
        .filter_map(|(number, value)| number.filter(|_| value.is_some()).map(|number| (number, value)))
        .collect();
    if changes.is_empty() { row } else { row.with(&changes) }
}

/// The row with every snapshot column as it was, unless it was null.
fn protect(old: Tuple, new: Tuple) -> Tuple {
    let kept: Vec<(i16, Option<pg_sys::Datum>)> = SNAPSHOT
        .iter()
        .filter_map(|name| old.column(name))
        .filter_map(|(number, _)| old.value(number).map(|value| (number, Some(value))))
        .collect();
    if kept.is_empty() { new } else { new.with(&kept) }
}

fn after(call: &Call, firing: &Firing, event: Event) {
    let went = (event != Event::Insert)
        .then(|| source_address(firing, firing.old(), Complain::No))
        .flatten()
        .map(|source| source.address);
    let came = (event != Event::Delete)
        .then(|| source_address(firing, firing.new(), Complain::No))
        .flatten()
        .map(|source| source.address);
    if went == came {
        return;
    }
    let home = Home::of(call);
    if let Some(address) = went {
        at_commit::remember(home, address, Tally { sessions: -1, ..Tally::default() }, Inventory::Unknown);
    }
    if let Some(address) = came {
        let time = session_time(firing, firing.new());
        let tally = Tally { sessions: 1, first_seen: Some(time), last_seen: Some(time) };
        let inventory =
            ATTRIBUTIONS.with_borrow(|known| known.get(&address).map_or(Inventory::Unknown, |a| a.inventory));
        at_commit::remember(home, address, tally, inventory);
    }
}

/// When the session was: its own time, or now where the table has none.
fn session_time(firing: &Firing, row: Tuple) -> i64 {
    firing
        .argument(1)
        .filter(|name| !name.is_empty())
        .and_then(|name| row.column(name))
        .and_then(|(number, type_oid)| {
            row.value(number).and_then(|value| trigger::timestamptz(value, type_oid))
        })
        .filter(|time| clock::is_finite(*time))
        .unwrap_or_else(clock::transaction_start)
}

/// A row's address, and the value to store in its place where a foreign key needs the inventory's own spelling.
struct Source {
    address: Address,
    canonical: Option<(i16, pg_sys::Datum)>,
}

impl Source {
    fn respelled(&self, row: Tuple) -> Tuple {
        match self.canonical {
            Some((number, datum)) => row.with(&[(number, Some(datum))]),
            None => row,
        }
    }
}

/// Whether a malformed address is counted; each row is complained of once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Complain {
    Yes,
    No,
}

fn source_address(firing: &Firing, row: Tuple, complain: Complain) -> Option<Source> {
    let name = firing.argument(0)?;
    let (number, type_oid) = row.column(name)?;
    let value = row.value(number)?;
    if type_oid == pg_sys::INETOID {
        let found = trigger::inet(value)?;
        let respell = firing.argument(2).is_some() && !found.is_canonical;
        let canonical = respell.then(|| (number, inet::write(found.address)));
        return Some(Source { address: found.address, canonical });
    }
    if !trigger::is_text_like(type_oid) {
        return None;
    }
    let parsed = std::str::from_utf8(trigger::text(value)).map_err(|_| address::AddressError::NotAnAddress);
    match parsed.and_then(address::parse) {
        Ok(found) => found.map(|address| Source { address, canonical: None }),
        Err(error) => {
            if complain == Complain::Yes {
                telemetry::add(Counter::Errors, 1);
                telemetry::log_once_per_burst("a session has no valid address", &error.to_string());
            }
            None
        }
    }
}

/// What is known of an address: its inventory row, unless newer files say more, else the files.
fn attribution(home: Home, address: Address) -> Rc<Attribution> {
    if let Some(known) = ATTRIBUTIONS.with_borrow(|known| known.get(&address).cloned()) {
        return known;
    }
    telemetry::add(Counter::TotalIps, 1);
    let found = offline::with(Patience::None, |databases| {
        let from_inventory =
            contained(|| read_inventory(home, address, databases)).unwrap_or_else(|failure| {
                telemetry::add(Counter::Errors, 1);
                telemetry::log_once_per_burst("the inventory could not be read", &failure.message);
                None
            });
        Rc::new(from_inventory.unwrap_or_else(|| read_files(address, databases)))
    });
    ATTRIBUTIONS.with_borrow_mut(|known| {
        if known.len() >= MOST_ATTRIBUTIONS {
            known.clear();
        }
        known.insert(address, Rc::clone(&found));
    });
    found
}

fn read_inventory(home: Home, address: Address, databases: &Databases) -> Option<Attribution> {
    let own = snapshot::of_statement().is_none().then(snapshot::Latest::take);
    let snapshot = own.as_ref().map(snapshot::Latest::raw).or_else(snapshot::of_statement)?;
    addresses::probe(home, address, snapshot, |row| {
        let known = addresses::read_known(row, databases);
        let document = addresses::document(row);
        if known.is_due {
            let answer = Answer::for_address(address, databases);
            let newer = answer.document(databases, false);
            return Attribution {
                asn: answer.asn().or(known.asn),
                country: answer.country().or(known.country),
                ip_type: known.ip_type,
                enrichment: document
                    .map(|old| jsonb::bytes(jsonb::concat(jsonb::without(old, "_meta"), newer))),
                // Not "present": the row wants renewing at commit.
                inventory: Inventory::Unknown,
            };
        }
        telemetry::add(Counter::CacheHits, 1);
        Attribution {
            asn: known.asn,
            country: known.country,
            ip_type: known.ip_type,
            enrichment: document.map(|document| jsonb::bytes(jsonb::without(document, "_meta"))),
            inventory: Inventory::Present,
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
        enrichment: known.then(|| jsonb::bytes(answer.document(databases, false))),
        inventory: Inventory::Unknown,
    }
}

impl Attribution {
    /// The snapshot columns' values.
    fn values(&self) -> [Option<pg_sys::Datum>; 5] {
        let filled = self.enrichment.is_some();
        [
            self.asn.map(pg_sys::Datum::from),
            self.country.map(|country| text::write(&enrichment::country_text(country))),
            self.ip_type.as_deref().map(text::write),
            self.enrichment.as_deref().map(jsonb::from_bytes),
            filled.then(|| pg_sys::Datum::from(clock::transaction_start())),
        ]
    }
}

/// Called when what this transaction saw may no longer be so.
pub fn forget_attributions() {
    ATTRIBUTIONS.with_borrow_mut(|known| {
        if known.capacity() > 64 {
            *known = HashMap::new();
        } else {
            known.clear();
        }
    });
}
