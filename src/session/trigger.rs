//! The trigger on session tables.
//!
//! Before a row is inserted, the trigger fills its snapshot columns with the current attribution of its
//! address. They do not change afterwards. After a row was inserted, updated or deleted, the trigger records
//! its session for the counts.
//!
//! The insert must succeed in any case. Reading the inventory is contained in a subtransaction. A malformed
//! address is counted as an error and leaves null snapshots. The trigger never uses the network or a file
//! that is not mapped yet.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;

use cowrie_enrich_engine::address::{self, Address};
use cowrie_enrich_engine::session_time;
use cowrie_enrich_engine::timestamp::Timestamp;

use crate::error;
use crate::pg::column::{Column, Generated, Length};
use crate::pg::scan::{self, AddressValue};
use crate::pg::sql_function::{Call, Returned};
use crate::pg::subtransaction::contained;
use crate::pg::trigger::{Event, TriggerCall, Tuple};
use crate::pg::value::{Bigint, Inet, Jsonb, Timestamptz, Value, value};
use crate::pg::{Oid, catalog, clock, invalidation, jsonb};
use crate::provider::Providers;
use crate::session::attribution::{self, Inventory};
use crate::session::pending;
use crate::store::completions::Gaps;
use crate::store::enrich::SessionCount;
use crate::store::{ExtensionOids, session_options, snapshot_fill};
use crate::telemetry;

/// The columns of the table and the extension's objects, the same for every row of a statement.
#[derive(Clone, Copy)]
struct TriggerLayout {
    oids: ExtensionOids,
    ip: Option<Column>,
    time: Option<Column>,
    /// The snapshot columns, in the order of [`Attribution::values`]. A column whose type the extension
    /// cannot fill is missing.
    snapshot: [Option<Column>; 5],
    /// True for those that may be null.
    nullable: [bool; 5],
    /// The lengths that its two text columns accept.
    lengths: [Length; 2],
    /// True if a foreign key requires the inventory's spelling of the address.
    respell: bool,
    /// True if snapshots that clients write are kept.
    is_input_trusted: bool,
}

thread_local! {
    /// By trigger, as of one version of the catalogs. A table does not change while a trigger fires on it.
    static SITES: RefCell<(u64, HashMap<Oid, TriggerLayout>)> = RefCell::default();
}

const NOT_INTACT: &str = "a session table has changed since attach_session_table() was called";

/// Logs that a session table has changed since it was attached.
fn report_not_intact(table: Oid) {
    let reason = "a column was renamed or dropped, has a different type, or is generated; see the view attached_tables";
    telemetry::error(NOT_INTACT, &format!("table {}: {reason}", catalog::table_name(table)));
}

impl TriggerLayout {
    fn of(call: &Call, firing: &TriggerCall) -> TriggerLayout {
        let (trigger, version) = (firing.trigger(), invalidation::catalog_version());
        let known =
            SITES.with_borrow(|(as_of, sites)| sites.get(&trigger).copied().filter(|_| *as_of == version));
        known.unwrap_or_else(|| {
            let site = TriggerLayout::look_up(call, firing);
            SITES.with_borrow_mut(|(as_of, sites)| {
                if *as_of != version {
                    (*as_of, *sites) = (version, HashMap::new());
                }
                sites.insert(trigger, site);
            });
            site
        })
    }

    fn look_up(call: &Call, firing: &TriggerCall) -> TriggerLayout {
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
            report_not_intact(firing.table());
        }
        let length = |c: Option<Column>| c.map_or(Length::Any, |c| c.length(firing.table()));
        let oids = ExtensionOids::of(call);
        let accepts_null = |column: Column| catalog::accepts_null(firing.table(), column.number);
        let is_input_trusted = contained(|| session_options::is_input_trusted(oids, firing.table()));
        TriggerLayout {
            oids,
            ip,
            time: time.filter(|c| c.holds_times()),
            snapshot,
            nullable: snapshot.map(|column| column.and_then(accepts_null) != Some(false)),
            lengths: [length(snapshot[1]), length(snapshot[2])],
            respell: firing.argument(2).is_some(),
            is_input_trusted: is_input_trusted.unwrap_or_else(|failure| {
                telemetry::error("could not read the options of a session table", &failure.message);
                false
            }),
        }
    }
}

/// Entry point of `enrich_session()`.
pub fn enrich_session(call: &Call) -> Value {
    let Some(firing) = TriggerCall::of(call) else { error::not_a_trigger_call() };
    let Some(event) = firing.event() else { error::not_a_trigger_call() };
    let site = TriggerLayout::of(call, &firing);
    if site.respell {
        pending::addresses_are_referenced();
    }
    if firing.is_before() {
        let timed = telemetry::TriggerTimer::begin(telemetry::Event::Before);
        let row = before(&site, &firing, event);
        timed.end();
        return row.returned();
    }
    if firing.is_constraint() {
        let source = source_address(&site, firing.new_row(), InvalidAddress::Ignore);
        pending::create_now(site.oids, source.map(|source| source.address));
    } else {
        let timed = telemetry::TriggerTimer::begin(telemetry::Event::After);
        after(&site, &firing, event);
        timed.end();
    }
    ().returned()
}

/// Returns whether the extension can fill a column of this type.
type IsFit = fn(Column) -> bool;

/// The position of the document among the snapshot columns.
const DOCUMENT: usize = 3;

/// The snapshot columns, and the types that they may have. Columns of other types stay unchanged.
const SNAPSHOT: [(&CStr, IsFit); 5] = [
    (c"snapshot_asn", Column::is::<Bigint>),
    (c"snapshot_country", Column::is_text_like),
    (c"snapshot_ip_type", Column::is_text_like),
    (c"enrichment", Column::is::<Jsonb>),
    (c"enrichment_at", Column::is::<Timestamptz>),
];

fn before(site: &TriggerLayout, firing: &TriggerCall, event: Event) -> Tuple {
    match event {
        Event::Insert => {
            let row = firing.new_row();
            let existing =
                if site.is_input_trusted { ExistingValues::Kept } else { ExistingValues::Replaced };
            let Some(source) = source_address(site, row, InvalidAddress::Report) else {
                return replaced(site, row, existing, [Value::NULL; 5]);
            };
            fill(site, source.respelled(row), source.address, existing)
        }
        Event::Update => {
            let old = firing.old_row();
            let before = source_address(site, old, InvalidAddress::Ignore).map(|source| source.address);
            let (row, is_filled) = protect(site, firing, before);
            let Some(source) = source_address(site, row, InvalidAddress::Report) else { return row };
            // The extension fills snapshots and leaves the address as it is spelled.
            let is_same = site.ip.is_some_and(|column| old.same(&row, column));
            let row = if is_filled && is_same { row } else { source.respelled(row) };
            // Only an address that arrives now marks the moment of an attack. The worker adds later answers.
            match before {
                None => fill(site, row, source.address, ExistingValues::Kept),
                Some(_) => row,
            }
        }
        Event::Delete => firing.old_row(),
    }
}

/// Treatment of values that a row already has in its snapshot columns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExistingValues {
    Kept,
    Replaced,
}

/// Returns the row with its snapshot filled by the attribution of its address.
fn fill(site: &TriggerLayout, row: Tuple, address: Address, existing: ExistingValues) -> Tuple {
    let is_complete = site.snapshot.iter().flatten().all(|column| !row.is_null(*column));
    if existing == ExistingValues::Kept && is_complete {
        return row;
    }
    let attribution = attribution::of(site.oids, address);
    replaced(site, row, existing, attribution.values(site.lengths))
}

/// Returns the row with these values in its snapshot columns.
///
/// This never makes an insert fail: a NOT NULL column keeps its value if the new one is null. The document
/// becomes an empty object.
fn replaced(site: &TriggerLayout, row: Tuple, existing: ExistingValues, mut values: [Value; 5]) -> Tuple {
    if existing == ExistingValues::Replaced {
        for (n, value) in
            values.iter_mut().enumerate().filter(|(n, value)| !site.nullable[*n] && value.is_null())
        {
            *value = match site.snapshot[n] {
                Some(_) if n == DOCUMENT => jsonb::empty().into(),
                Some(column) => row.value(column),
                None => Value::NULL,
            };
        }
    }
    let changes: Vec<(Column, Value)> =
        site.snapshot
            .into_iter()
            .zip(values)
            .filter_map(|(column, value)| column.map(|column| (column, value)))
            .filter(|(column, value)| {
                if row.is_null(*column) { !value.is_null() } else { existing == ExistingValues::Replaced }
            })
            .collect();
    if changes.is_empty() { row } else { row.with(&changes) }
}

/// Returns the updated row with every snapshot column unchanged. A null column takes the value that the
/// extension has registered for the row. On a trusted table it takes the value that the UPDATE gives it. Also
/// returns whether the extension has registered any values.
fn protect(site: &TriggerLayout, firing: &TriggerCall, address: Option<Address>) -> (Tuple, bool) {
    let (old, new) = (firing.old_row(), firing.new_row());
    let registered = if snapshot_fill::is_empty() {
        None
    } else {
        snapshot_fill::values_for(firing.table(), firing.old_tuple_id(), address)
    };
    let is_filled = registered.is_some();
    let registered = registered.as_ref().map_or([Value::NULL; 5], |values| values.values());
    let changes: Vec<(Column, Value)> = site
        .snapshot
        .into_iter()
        .zip(registered)
        .filter_map(|(column, registered)| column.map(|column| (column, registered)))
        .filter_map(|(column, registered)| match (old.is_null(column), registered.is_null()) {
            (true, true) if site.is_input_trusted => None,
            (true, false) => Some((column, registered)),
            _ => (!old.same(&new, column)).then(|| (column, old.value(column))),
        })
        .collect();
    (if changes.is_empty() { new } else { new.with(&changes) }, is_filled)
}

fn after(site: &TriggerLayout, firing: &TriggerCall, event: Event) {
    let address = |row| source_address(site, row, InvalidAddress::Ignore).map(|source| source.address);
    let went = if event == Event::Insert { None } else { address(firing.old_row()) };
    let came = if event == Event::Delete { None } else { address(firing.new_row()) };
    if event == Event::Insert && came.is_none() {
        telemetry::add(telemetry::Counter::WithoutAddress, 1);
    }
    if went == came {
        return;
    }
    if let Some(address) = went {
        pending::remember(
            site.oids,
            address,
            SessionCount::gone(1),
            (Inventory::Unknown, Providers::NONE),
            None,
        );
    }
    if let Some(address) = came {
        let time = session_time(site, firing.new_row());
        let tally = SessionCount { sessions: 1, first_seen: time, last_seen: time };
        let gaps = gaps(site, firing.new_row());
        let incomplete = gaps.any().then(|| (firing.table(), gaps));
        pending::remember(site.oids, address, tally, attribution::seen(address), incomplete);
    }
}

/// Returns the gaps in the snapshot of a stored session.
fn gaps(site: &TriggerLayout, row: Tuple) -> Gaps {
    let lacks = |column: Option<Column>| column.is_some_and(|column| row.is_null(column));
    let [asn, country, ip_type, ..] = site.snapshot;
    Gaps { network: lacks(asn), country: lacks(country), ip_type: lacks(ip_type) }
}

/// Returns the session's own time, or the transaction's start if the row has no time. Returns `None` for an
/// implausible time.
fn session_time(site: &TriggerLayout, row: Tuple) -> Option<Timestamp> {
    let own = site.time.map_or(Ok(None), |column| row.time(column)).ok()?;
    let Some(time) = own else { return Some(clock::transaction_start()) };
    let [.., enriched_at] = site.snapshot;
    let enriched_at = enriched_at.and_then(|column| row.time(column).ok().flatten());
    session_time::believed(time, enriched_at, clock::now())
}

/// A row's address, and the value to store instead if a foreign key requires the inventory's spelling.
struct Source {
    address: Address,
    canonical: Option<(Column, Address)>,
}

impl Source {
    fn respelled(&self, row: Tuple) -> Tuple {
        match self.canonical {
            Some((column, address)) => row.with(&[(column, value::<Inet>(address))]),
            None => row,
        }
    }
}

/// Treatment of a malformed address. Each row is counted once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InvalidAddress {
    Report,
    Ignore,
}

fn source_address(site: &TriggerLayout, row: Tuple, invalid: InvalidAddress) -> Option<Source> {
    let column = site.ip?;
    if !column.is_text_like() {
        let found = row.inet(column)?;
        let canonical = (site.respell && !found.is_canonical).then_some((column, found.address));
        return Some(Source { address: found.address, canonical });
    }
    match address::parse_bytes(row.text(column)?) {
        Ok(found) => found.map(|address| Source { address, canonical: None }),
        Err(error) => {
            if invalid == InvalidAddress::Report {
                telemetry::error("a session has no valid address", &error.to_string());
            }
            None
        }
    }
}

/// Entry point of `forget_sessions()`, before TRUNCATE: subtracts the removed sessions from the counts.
///
/// The table's owner may have added any code to the table. So the table is read below the executor, where no
/// code of the owner runs.
pub fn forget_sessions(call: &Call) {
    let Some(firing) = TriggerCall::of_truncate(call) else { error::not_a_trigger_call() };
    let oids = ExtensionOids::of(call);
    let Some(name) = firing.argument(0) else { return };
    let counted = contained(|| {
        let mut gone: HashMap<Address, i64> = HashMap::new();
        let is_whole = scan::column(firing.table(), name, |value| {
            let address = match value {
                AddressValue::Inet(inet) => Some(inet.address),
                AddressValue::Text(text) => address::parse_bytes(text).ok().flatten(),
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
                report_not_intact(firing.table());
            }
            for (address, sessions) in gone {
                pending::remember(
                    oids,
                    address,
                    SessionCount::gone(sessions),
                    (Inventory::Unknown, Providers::NONE),
                    None,
                );
            }
        }
        Err(failure) => {
            telemetry::error("could not subtract the sessions that TRUNCATE removes", &failure.message);
        }
    }
}
