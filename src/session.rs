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

use cowrie_enrich_engine::address::{self, Address};
use pgrx::pg_sys;

use crate::at_commit::{self, Inventory};
use crate::attribution;
use crate::error;
use crate::pg::call::Call;
use crate::pg::trigger::{self, Event, Firing, Tuple};
use crate::pg::{clock, inet, invalidation};
use crate::store::Home;
use crate::store::enrich::Tally;
use crate::telemetry::{self, Counter};

/// What is the same for every row of a statement: where things are in the table and in the database.
#[derive(Clone, Copy)]
struct Site {
    home: Home,
    /// Number and type of the address column.
    ip: Option<(i16, pg_sys::Oid)>,
    time: Option<(i16, pg_sys::Oid)>,
    /// The snapshot columns, in the order of [`Attribution::values`].
    snapshot: [Option<i16>; 5],
    /// Whether a foreign key wants the address spelled as the inventory does.
    respell: bool,
}

thread_local! {
    /// By trigger, as of one version of the catalogs. A table does not change while a trigger fires on it.
    static SITES: RefCell<(u64, HashMap<pg_sys::Oid, Site>)> = RefCell::default();
}

impl Site {
    fn of(call: &Call, firing: &Firing) -> Site {
        let (trigger, version) = (firing.trigger(), invalidation::catalog_version());
        let known =
            SITES.with_borrow(|(as_of, sites)| sites.get(&trigger).copied().filter(|_| *as_of == version));
        known.unwrap_or_else(|| {
            let site = Site::look_up(call, firing);
            SITES.with_borrow_mut(|(as_of, sites)| {
                if *as_of != version {
                    (*as_of, *sites) = (version, HashMap::new());
                }
                sites.insert(trigger, site);
            });
            site
        })
    }

    fn look_up(call: &Call, firing: &Firing) -> Site {
        let row = firing.old_row();
        let column = |n| firing.argument(n).filter(|name| !name.is_empty()).and_then(|name| row.column(name));
        Site {
            home: Home::of(call),
            ip: column(0),
            time: column(1),
            snapshot: SNAPSHOT.map(|name| row.column(name).map(|(number, _)| number)),
            respell: firing.argument(2).is_some(),
        }
    }
}

/// Entry point of `enrich_session()`.
pub fn enrich_session(call: &Call) -> Option<pg_sys::Datum> {
    let Some(firing) = Firing::of(call) else { error::not_a_trigger_call() };
    let Some(event) = firing.event() else { error::not_a_trigger_call() };
    let site = Site::of(call, &firing);
    if firing.is_before() {
        return Some(before(&site, &firing, event).datum());
    }
    if firing.is_constraint() {
        at_commit::create_now(site.home);
    } else {
        after(&site, &firing, event);
    }
    Some(pg_sys::Datum::from(0))
}

/// The snapshot columns.
const SNAPSHOT: [&std::ffi::CStr; 5] =
    [c"snapshot_asn", c"snapshot_country", c"snapshot_ip_type", c"enrichment", c"enrichment_at"];

fn before(site: &Site, firing: &Firing, event: Event) -> Tuple {
    match event {
        Event::Insert => {
            let row = firing.new_row();
            let Some(source) = source_address(site, row, Complain::Yes) else { return row };
            fill(site, source.respelled(row), source.address)
        }
        Event::Update => {
            let old = firing.old_row();
            let row = protect(site, old, firing.new_row());
            let Some(source) = source_address(site, row, Complain::Yes) else { return row };
            let row = source.respelled(row);
            // Only an address that arrives now is a moment of attack; a later answer is the worker's to add.
            match source_address(site, old, Complain::No) {
                None => fill(site, row, source.address),
                Some(_) => row,
            }
        }
        Event::Delete => firing.old_row(),
    }
}

/// The row with those snapshot columns filled that are null.
fn fill(site: &Site, row: Tuple, address: Address) -> Tuple {
    let empty = site.snapshot.map(|number| number.filter(|number| row.value(*number).is_none()));
    if empty.iter().all(Option::is_none) {
        return row;
    }
    let attribution = attribution::of(site.home, address);
    let changes: Vec<(i16, Option<pg_sys::Datum>)> = empty
        .into_iter()
        .zip(attribution.values())
        .filter_map(|(number, value)| number.filter(|_| value.is_some()).map(|number| (number, value)))
        .collect();
    if changes.is_empty() { row } else { row.with(&changes) }
}

/// The row with every snapshot column as it was, unless it was null.
fn protect(site: &Site, old: Tuple, new: Tuple) -> Tuple {
    let kept: Vec<(i16, Option<pg_sys::Datum>)> = site
        .snapshot
        .into_iter()
        .flatten()
        .filter_map(|number| old.value(number).map(|value| (number, Some(value))))
        .collect();
    if kept.is_empty() { new } else { new.with(&kept) }
}

fn after(site: &Site, firing: &Firing, event: Event) {
    let address = |row| source_address(site, row, Complain::No).map(|source| source.address);
    let went = if event == Event::Insert { None } else { address(firing.old_row()) };
    let came = if event == Event::Delete { None } else { address(firing.new_row()) };
    if went == came {
        return;
    }
    if let Some(address) = went {
        at_commit::remember(
            site.home,
            address,
            Tally { sessions: -1, ..Tally::default() },
            Inventory::Unknown,
        );
    }
    if let Some(address) = came {
        let time = session_time(site, firing.new_row());
        let tally = Tally { sessions: 1, first_seen: Some(time), last_seen: Some(time) };
        at_commit::remember(site.home, address, tally, attribution::inventory(address));
    }
}

/// When the session was: its own time, or now where the table has none.
fn session_time(site: &Site, row: Tuple) -> i64 {
    site.time
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

fn source_address(site: &Site, row: Tuple, complain: Complain) -> Option<Source> {
    let (number, type_oid) = site.ip?;
    let value = row.value(number)?;
    if type_oid == pg_sys::INETOID {
        let found = trigger::inet(value)?;
        let canonical = (site.respell && !found.is_canonical).then(|| (number, inet::write(found.address)));
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
