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
use cowrie_enrich_engine::session_time;
use pgrx::pg_sys;

use crate::error;
use crate::pg::call::Call;
use crate::pg::scan::{self, Value};
use crate::pg::subtransaction::contained;
use crate::pg::trigger::{self, Column, Event, Firing, Generated, Length, Tuple};
use crate::pg::{catalog, clock, inet, invalidation, jsonb};
use crate::provider::Providers;
use crate::session::attribution;
use crate::session::pending::{self, Gap, Inventory};
use crate::store::enrich::Tally;
use crate::store::{Home, fill_register, session_options};
use crate::telemetry;

/// What is the same for every row of a statement: where things are in the table and in the database.
#[derive(Clone, Copy)]
struct Site {
    home: Home,
    ip: Option<Column>,
    time: Option<Column>,
    /// The snapshot columns, in the order of [`Attribution::values`]; those of a type that we cannot fill are missing.
    snapshot: [Option<Column>; 5],
    /// Which of them may be null.
    nullable: [bool; 5],
    /// What the two text columns among them take.
    lengths: [Length; 2],
    /// Whether a foreign key wants the address spelled as the inventory does.
    respell: bool,
    /// True if snapshots that clients write are kept.
    is_input_trusted: bool,
}

thread_local! {
    /// By trigger, as of one version of the catalogs. A table does not change while a trigger fires on it.
    static SITES: RefCell<(u64, HashMap<pg_sys::Oid, Site>)> = RefCell::default();
}

const NOT_INTACT: &str = "a session table lacks columns of the right type";
const NOT_INTACT_DETAIL: &str =
    "a column was renamed, dropped, changed or generated since; attach the table again";

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
        let is_ordinary = |c: &Column| c.generated(firing.table()) == Generated::Never;
        let snapshot: [Option<Column>; 5] =
            SNAPSHOT.map(|(name, is_fit)| row.column(name).filter(|c| is_fit(*c)).filter(is_ordinary));
        let ip = column(0).filter(|c| c.holds_addresses());
        let time = column(1);
        // Generated columns have no value before the row is stored, virtual ones never in a trigger's row.
        let is_time_virtual = time.is_some_and(|c| c.generated(firing.table()) == Generated::Virtual);
        if ip.filter(is_ordinary).is_none() || snapshot.iter().any(Option::is_none) || is_time_virtual {
            telemetry::error(NOT_INTACT, NOT_INTACT_DETAIL);
        }
        let length = |c: Option<Column>| c.map_or(Length::Any, |c| c.length(firing.table()));
        let home = Home::of(call);
        let accepts_null = |column: Column| catalog::accepts_null(firing.table(), column.number);
        let is_input_trusted = contained(|| session_options::is_input_trusted(home, firing.table()));
        Site {
            home,
            ip,
            time: time.filter(|c| c.holds_times()),
            snapshot,
            nullable: snapshot.map(|column| column.and_then(accepts_null) != Some(false)),
            lengths: [length(snapshot[1]), length(snapshot[2])],
            respell: firing.argument(2).is_some(),
            is_input_trusted: is_input_trusted.unwrap_or_else(|failure| {
                telemetry::error("the options of a session table could not be read", &failure.message);
                false
            }),
        }
    }
}

/// Entry point of `enrich_session()`.
pub fn enrich_session(call: &Call) -> Option<pg_sys::Datum> {
    let Some(firing) = Firing::of(call) else { error::not_a_trigger_call() };
    let Some(event) = firing.event() else { error::not_a_trigger_call() };
    let site = Site::of(call, &firing);
    if site.respell {
        pending::addresses_are_referenced();
    }
    if firing.is_before() {
        let timed = telemetry::Firing::begin(telemetry::Event::Before);
        let row = before(&site, &firing, event);
        timed.end();
        return Some(row.datum());
    }
    if firing.is_constraint() {
        pending::create_now(site.home);
    } else {
        let timed = telemetry::Firing::begin(telemetry::Event::After);
        after(&site, &firing, event);
        timed.end();
    }
    Some(pg_sys::Datum::from(0))
}

/// Whether a column's type is one that we can fill.
type IsFit = fn(Column) -> bool;

/// The position of the document among the snapshot columns.
const DOCUMENT: usize = 3;

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
            let given = if site.is_input_trusted { Given::Kept } else { Given::Replaced };
            let Some(source) = source_address(site, row, Complain::Yes) else {
                return replaced(site, row, given, [None; 5]);
            };
            fill(site, source.respelled(row), source.address, given)
        }
        Event::Update => {
            let old = firing.old_row();
            let before = source_address(site, old, Complain::No).map(|source| source.address);
            let (row, is_filled) = protect(site, firing, before);
            let Some(source) = source_address(site, row, Complain::Yes) else { return row };
            // The extension fills snapshots and leaves the address as it is spelled.
            let is_same = site.ip.is_some_and(|column| old.same(&row, column));
            let row = if is_filled && is_same { row } else { source.respelled(row) };
            // Only an address that arrives now is a moment of attack; a later answer is the worker's to add.
            match before {
                None => fill(site, row, source.address, Given::Kept),
                Some(_) => row,
            }
        }
        Event::Delete => firing.old_row(),
    }
}

/// How values are treated that a row already has in its snapshot columns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    Kept,
    Replaced,
}

/// Returns the row with its snapshot filled by the attribution of its address.
fn fill(site: &Site, row: Tuple, address: Address, given: Given) -> Tuple {
    let is_complete = site.snapshot.iter().flatten().all(|column| row.value(column.number).is_some());
    if given == Given::Kept && is_complete {
        return row;
    }
    let attribution = attribution::of(site.home, address);
    replaced(site, row, given, attribution.values(site.lengths))
}

/// The row with these values in its snapshot columns.
///
/// An insert never fails because of this: a column that must not be null keeps its value where none is known. The document
/// becomes an empty one.
fn replaced(site: &Site, row: Tuple, given: Given, mut values: [Option<pg_sys::Datum>; 5]) -> Tuple {
    if given == Given::Replaced {
        for (n, value) in
            values.iter_mut().enumerate().filter(|(n, value)| !site.nullable[*n] && value.is_none())
        {
            *value = match site.snapshot[n] {
                Some(_) if n == DOCUMENT => Some(jsonb::empty()),
                Some(column) => row.value(column.number),
                None => None,
            };
        }
    }
    let changes: Vec<(i16, Option<pg_sys::Datum>)> = site
        .snapshot
        .into_iter()
        .zip(values)
        .filter_map(|(column, value)| column.map(|column| (column.number, value)))
        .filter(|(number, value)| match row.value(*number) {
            Some(_) => given == Given::Replaced,
            None => value.is_some(),
        })
        .collect();
    if changes.is_empty() { row } else { row.with(&changes) }
}

/// The updated row with every snapshot column as it was. A null column takes the value that the extension has registered
/// for the row, and on a trusted table the value that the UPDATE gives it. Also whether the extension has registered any.
fn protect(site: &Site, firing: &Firing, address: Option<Address>) -> (Tuple, bool) {
    let (old, new) = (firing.old_row(), firing.new_row());
    let registered = if fill_register::is_empty() {
        None
    } else {
        fill_register::values_for(firing.table(), firing.old_place(), address)
    };
    let is_filled = registered.is_some();
    let registered = registered.as_ref().map_or([None; 5], |values| values.datums());
    let changes: Vec<(i16, Option<pg_sys::Datum>)> = site
        .snapshot
        .into_iter()
        .zip(registered)
        .filter_map(|(column, registered)| column.map(|column| (column, registered)))
        .filter_map(|(column, registered)| match (old.value(column.number), registered) {
            (None, None) if site.is_input_trusted => None,
            (None, Some(value)) => Some((column.number, Some(value))),
            (kept, _) => (!old.same(&new, column)).then_some((column.number, kept)),
        })
        .collect();
    (if changes.is_empty() { new } else { new.with(&changes) }, is_filled)
}

fn after(site: &Site, firing: &Firing, event: Event) {
    let address = |row| source_address(site, row, Complain::No).map(|source| source.address);
    let went = if event == Event::Insert { None } else { address(firing.old_row()) };
    let came = if event == Event::Delete { None } else { address(firing.new_row()) };
    if event == Event::Insert && came.is_none() {
        telemetry::add(telemetry::Counter::WithoutAddress, 1);
    }
    if went == came {
        return;
    }
    if let Some(address) = went {
        pending::remember(site.home, address, Tally::gone(1), (Inventory::Unknown, Providers::NONE), None);
    }
    if let Some(address) = came {
        let time = session_time(site, firing.new_row());
        let tally = Tally { sessions: 1, first_seen: time, last_seen: time };
        let gap = gap(site, firing.new_row()).map(|gap| (firing.table(), gap));
        pending::remember(site.home, address, tally, attribution::seen(address), gap);
    }
}

/// Returns the gap in the snapshot of a stored session.
fn gap(site: &Site, row: Tuple) -> Option<Gap> {
    let lacks = |column: Option<Column>| column.is_some_and(|column| row.value(column.number).is_none());
    let [asn, country, ip_type, ..] = site.snapshot;
    if lacks(asn) || lacks(country) { Some(Gap::Network) } else { lacks(ip_type).then_some(Gap::TypeOnly) }
}

/// Returns the session's own time, or the transaction's start where the row has none. `None` for a time that is not
/// believed.
fn session_time(site: &Site, row: Tuple) -> Option<i64> {
    let own = site.time.and_then(|column| Some((row.value(column.number)?, column.type_oid)));
    let Some((value, type_oid)) = own else { return Some(clock::transaction_start()) };
    let [.., enriched_at] = site.snapshot;
    let enriched_at = enriched_at.and_then(|column| row.value(column.number)).map(|at| at.value() as i64);
    session_time::believed(trigger::timestamptz(value, type_oid)?, enriched_at, clock::now())
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
        let is_whole = scan::column(firing.table(), name, |value| {
            let address = match value {
                Value::Inet(inet) => Some(inet.address),
                Value::Text(text) => address::parse_bytes(text).ok().flatten(),
            };
            if let Some(address) = address {
                *gone.entry(address).or_default() += 1;
            }
        });
        (gone, is_whole)
    });
    match counted {
        Ok((gone, is_whole)) => {
            if !is_whole {
                telemetry::error(NOT_INTACT, NOT_INTACT_DETAIL);
            }
            for (address, sessions) in gone {
                pending::remember(
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
