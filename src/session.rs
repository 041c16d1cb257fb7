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
use std::ffi::CStr;

use cowrie_enrich_engine::address::{self, Address};
use pgrx::pg_sys;

use crate::at_commit::{self, Gap, Inventory};
use crate::attribution;
use crate::error;
use crate::pg::call::Call;
use crate::pg::scan::{self, Value};
use crate::pg::subtransaction::contained;
use crate::pg::trigger::{self, Column, Event, Firing, Length, Tuple};
use crate::pg::{clock, inet, invalidation};
use crate::provider::Providers;
use crate::store::Home;
use crate::store::enrich::Tally;
use crate::telemetry;

/// What is the same for every row of a statement: where things are in the table and in the database.
#[derive(Clone, Copy)]
struct Site {
    home: Home,
    ip: Option<Column>,
    time: Option<Column>,
    /// The snapshot columns, in the order of [`Attribution::values`]; those of a type that we cannot fill are missing.
    snapshot: [Option<Column>; 5],
    /// What the two text columns among them take.
    lengths: [Length; 2],
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
        let snapshot: [Option<Column>; 5] =
            SNAPSHOT.map(|(name, is_fit)| row.column(name).filter(|c| is_fit(*c)));
        let ip = column(0).filter(|c| c.holds_addresses());
        if ip.is_none() || snapshot.iter().any(Option::is_none) {
            telemetry::error(
                "a session table lacks columns of the right type",
                "the address column or a snapshot column was renamed, dropped or changed; attach the table again",
            );
        }
        let length = |c: Option<Column>| c.map_or(Length::Any, |c| c.length(firing.table()));
        Site {
            home: Home::of(call),
            ip,
            time: column(1),
            snapshot,
            lengths: [length(snapshot[1]), length(snapshot[2])],
            respell: firing.argument(2).is_some(),
        }
    }
}

/// Entry point of `enrich_session()`.
pub fn enrich_session(call: &Call) -> Option<pg_sys::Datum> {
    let Some(firing) = Firing::of(call) else { error::not_a_trigger_call() };
    let Some(event) = firing.event() else { error::not_a_trigger_call() };
    let site = Site::of(call, &firing);
    if site.respell {
        at_commit::addresses_are_referenced();
    }
    if firing.is_before() {
        let timed = telemetry::Firing::begin(telemetry::Event::Before);
        let row = before(&site, &firing, event);
        timed.end();
        return Some(row.datum());
    }
    if firing.is_constraint() {
        at_commit::create_now(site.home);
    } else {
        let timed = telemetry::Firing::begin(telemetry::Event::After);
        after(&site, &firing, event);
        timed.end();
    }
    Some(pg_sys::Datum::from(0))
}

/// Whether a column's type is one that we can fill.
type IsFit = fn(Column) -> bool;

/// The snapshot columns, and which types they may have: a datum of another type in there would be followed as a pointer.
const SNAPSHOT: [(&CStr, IsFit); 5] = [
    (c"snapshot_asn", |c| c.type_oid == pg_sys::INT8OID),
    (c"snapshot_country", Column::is_text_like),
    (c"snapshot_ip_type", Column::is_text_like),
    (c"enrichment", |c| c.type_oid == pg_sys::JSONBOID),
    (c"enrichment_at", |c| c.type_oid == pg_sys::TIMESTAMPTZOID),
];

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
    let empty = site.snapshot.map(|column| column.filter(|column| row.value(column.number).is_none()));
    if empty.iter().all(Option::is_none) {
        return row;
    }
    let attribution = attribution::of(site.home, address);
    let changes: Vec<(i16, Option<pg_sys::Datum>)> = empty
        .into_iter()
        .zip(attribution.values(site.lengths))
        .filter_map(|(column, value)| column.filter(|_| value.is_some()).map(|column| (column.number, value)))
        .collect();
    if changes.is_empty() { row } else { row.with(&changes) }
}

/// The row with every snapshot column as it was, unless it was null.
fn protect(site: &Site, old: Tuple, new: Tuple) -> Tuple {
    let kept: Vec<(i16, Option<pg_sys::Datum>)> = site
        .snapshot
        .into_iter()
        .flatten()
        .filter(|column| !old.same(&new, *column))
        .filter_map(|column| old.value(column.number).map(|value| (column.number, Some(value))))
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
        at_commit::remember(site.home, address, Tally::gone(1), (Inventory::Unknown, Providers::NONE), None);
    }
    if let Some(address) = came {
        let time = session_time(site, firing.new_row());
        let tally = Tally { sessions: 1, first_seen: Some(time), last_seen: Some(time) };
        let gap = gap(site, firing.new_row()).map(|gap| (firing.table(), gap));
        at_commit::remember(site.home, address, tally, attribution::seen(address), gap);
    }
}

/// Returns the gap in the snapshot of a stored session.
fn gap(site: &Site, row: Tuple) -> Option<Gap> {
    let lacks = |column: Option<Column>| column.is_some_and(|column| row.value(column.number).is_none());
    let [asn, country, ip_type, ..] = site.snapshot;
    if lacks(asn) || lacks(country) { Some(Gap::Network) } else { lacks(ip_type).then_some(Gap::TypeOnly) }
}

/// When the session was: its own time, or now where the table has none.
fn session_time(site: &Site, row: Tuple) -> i64 {
    site.time
        .and_then(|column| {
            row.value(column.number).and_then(|value| trigger::timestamptz(value, column.type_oid))
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
    let column = site.ip?;
    let value = row.value(column.number)?;
    if !column.is_text_like() {
        let found = trigger::inet(value)?;
        let canonical =
            (site.respell && !found.is_canonical).then(|| (column.number, inet::write(found.address)));
        return Some(Source { address: found.address, canonical });
    }
    match address::parse_bytes(trigger::text(value)) {
        Ok(found) => found.map(|address| Source { address, canonical: None }),
        Err(error) => {
            if complain == Complain::Yes {
                telemetry::error("a session has no valid address", &error.to_string());
            }
            None
        }
    }
}

/// Entry point of `forget_sessions()`, before TRUNCATE: the sessions that go away leave the counts.
///
/// The table is its owner's, and the owner may have put anything into it. So it is read below the executor, where
/// nothing of theirs runs.
pub fn forget_sessions(call: &Call) -> Option<pg_sys::Datum> {
    let Some(firing) = Firing::of_truncate(call) else { error::not_a_trigger_call() };
    let home = Home::of(call);
    let name = firing.argument(0)?;
    let counted = contained(|| {
        let mut gone: HashMap<Address, i64> = HashMap::new();
        scan::column(firing.table(), name, |value| {
            let address = match value {
                Value::Inet(inet) => Some(inet.address),
                Value::Text(text) => address::parse_bytes(text).ok().flatten(),
            };
            if let Some(address) = address {
                *gone.entry(address).or_default() += 1;
            }
        });
        gone
    });
    match counted {
        Ok(gone) => {
            for (address, sessions) in gone {
                at_commit::remember(
                    home,
                    address,
                    Tally::gone(sessions),
                    (Inventory::Unknown, Providers::NONE),
                    None,
                );
            }
        }
        Err(failure) => {
            telemetry::error("sessions that TRUNCATE removes were not counted", &failure.message);
        }
    }
    Some(pg_sys::Datum::from(0))
}
