//! The trigger on session tables, and the functions that it calls.
//!
//! Before a session is inserted, the trigger fills the snapshot columns of the row with the current attribution of the session's
//! address. After that, the snapshot does not change when the attribution changes. After a row was inserted, updated or deleted,
//! the trigger records the session for the counts.
//!
//! The trigger must never make an INSERT fail. So it reads the inventory in a subtransaction. If an address is malformed, the
//! trigger counts an error and leaves the snapshot columns null. The trigger never uses the network, and never opens a file that is
//! not already mapped.

use std::cell::{Cell, RefCell};
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
use crate::pg::{self, Oid, catalog, clock, invalidation, jsonb};
use crate::provider::Providers;
use crate::session::attribution::{self, Inventory};
use crate::session::pending;
use crate::session::pending_address::Storage;
use crate::store::completions::Gaps;
use crate::store::enrich::SessionCount;
use crate::store::{ExtensionOids, cluster, session_options, snapshot_fill};
use crate::telemetry;

/// The columns of the table, and the OIDs of the extension's objects. They are the same for all rows of a statement.
#[derive(Clone, Copy)]
struct TriggerLayout {
    oids: ExtensionOids,
    ip: Option<Column>,
    time: Option<Column>,
    /// The snapshot columns, in the order of [`Attribution::values`]. If the extension cannot fill the type of a column, the column
    /// is `None`.
    snapshot: [Option<Column>; 5],
    /// For each snapshot column, true if the column may be null.
    nullable: [bool; 5],
    /// The maximum lengths of the two snapshot columns that contain text.
    lengths: [Length; 2],
    /// True if a foreign key refers to ip_inventory, so that the address must be written exactly as in ip_inventory.
    respell: bool,
    /// True if the trigger keeps the snapshot values that clients write.
    is_input_trusted: bool,
    /// Says how the extension stores sessions of this table.
    storage: Storage,
}

thread_local! {
    /// The layouts, by the OID of the trigger. All cached layouts belong to the same version of the catalogs. While a trigger runs,
    /// its table cannot change.
    static LAYOUTS: RefCell<(u64, HashMap<Oid, TriggerLayout>)> = RefCell::default();
}

const NOT_INTACT: &str = "a session table has changed since attach_session_table() was called";

/// Logs that a session table was changed after it was attached.
fn report_not_intact(table: Oid) {
    let reason = "a column was renamed or dropped, has a different type, or is generated; see the view attached_tables";
    telemetry::error(NOT_INTACT, &format!("table {}: {reason}", catalog::table_name(table)));
}

impl TriggerLayout {
    fn of(call: &Call, trigger_call: &TriggerCall) -> TriggerLayout {
        let (trigger, version) = (trigger_call.trigger(), invalidation::catalog_version());
        let known = LAYOUTS
            .with_borrow(|(as_of, layouts)| layouts.get(&trigger).copied().filter(|_| *as_of == version));
        known.unwrap_or_else(|| {
            let layout = TriggerLayout::look_up(call, trigger_call);
            LAYOUTS.with_borrow_mut(|(as_of, layouts)| {
                if *as_of != version {
                    (*as_of, *layouts) = (version, HashMap::new());
                }
                layouts.insert(trigger, layout);
            });
            layout
        })
    }

    fn look_up(call: &Call, trigger_call: &TriggerCall) -> TriggerLayout {
        let row = trigger_call.old_row();
        let column =
            |n| trigger_call.argument(n).filter(|name| !name.is_empty()).and_then(|name| row.column(name));
        let is_ordinary = |c: &Column| c.generated(trigger_call.table()) == Generated::Never;
        let snapshot: [Option<Column>; 5] =
            SNAPSHOT.map(|(name, is_fit)| row.column(name).filter(|c| is_fit(*c)).filter(is_ordinary));
        let ip = column(0).filter(|c| c.holds_addresses());
        let time = column(1);
        // The address column and the snapshot columns must not be generated, because a stored generated column has no value before
        // the row is stored. The time column must not be virtual, because a virtual column never has a value in the row that a
        // trigger gets.
        let is_time_virtual = time.is_some_and(|c| c.generated(trigger_call.table()) == Generated::Virtual);
        if ip.filter(is_ordinary).is_none() || snapshot.iter().any(Option::is_none) || is_time_virtual {
            report_not_intact(trigger_call.table());
        }
        let length = |c: Option<Column>| c.map_or(Length::Any, |c| c.length(trigger_call.table()));
        let oids = ExtensionOids::of(call);
        let accepts_null = |column: Column| catalog::accepts_null(trigger_call.table(), column.number);
        let storage = if trigger_call.is_on_shard() { Storage::Shard } else { Storage::Table };
        TriggerLayout {
            oids,
            ip,
            time: time.filter(|c| c.holds_times()),
            snapshot,
            nullable: snapshot.map(|column| column.and_then(accepts_null) != Some(false)),
            lengths: [length(snapshot[1]), length(snapshot[2])],
            respell: trigger_call.argument(2).is_some(),
            storage,
            is_input_trusted: storage == Storage::Table && is_input_trusted(oids, trigger_call.table()),
        }
    }
}

/// Returns true if the trigger keeps the snapshot values that clients write into this table.
fn is_input_trusted(oids: ExtensionOids, table: Oid) -> bool {
    contained(|| session_options::is_input_trusted(oids, table)).unwrap_or_else(|failure| {
        telemetry::error("could not read the options of a session table", &failure.message);
        false
    })
}

/// Entry point of `enrich_session()`.
pub fn enrich_session(call: &Call) -> Value {
    let Some(trigger_call) = TriggerCall::of(call) else { error::not_a_trigger_call() };
    let Some(event) = trigger_call.event() else { error::not_a_trigger_call() };
    let layout = TriggerLayout::of(call, &trigger_call);
    if layout.respell {
        pending::addresses_are_referenced();
    }
    if trigger_call.is_before() {
        let timed = telemetry::TriggerTimer::begin(telemetry::Event::Before);
        let row = before(&layout, &trigger_call, event);
        timed.end();
        return row.returned();
    }
    if trigger_call.is_constraint() {
        let source = source_address(&layout, trigger_call.new_row(), InvalidAddress::Ignore);
        pending::create_now(layout.oids, source.map(|source| source.address));
    } else {
        let timed = telemetry::TriggerTimer::begin(telemetry::Event::After);
        after(&layout, &trigger_call, event);
        timed.end();
    }
    ().returned()
}

/// Returns true if the extension can fill a column of this type.
type IsFit = fn(Column) -> bool;

/// The index of the document column in [`SNAPSHOT`].
const DOCUMENT: usize = 3;

/// The names of the snapshot columns, each with a check of its type. If a column has another type, the trigger does not change the
/// column.
const SNAPSHOT: [(&CStr, IsFit); 5] = [
    (c"snapshot_asn", Column::is::<Bigint>),
    (c"snapshot_country", Column::is_text_like),
    (c"snapshot_ip_type", Column::is_text_like),
    (c"enrichment", Column::is::<Jsonb>),
    (c"enrichment_at", Column::is::<Timestamptz>),
];

/// An updated row of a partition, with the values that the BEFORE UPDATE trigger returned.
///
/// An UPDATE can move a row to another partition. PostgreSQL then fires the UPDATE triggers of the old partition. Next, it fires
/// the INSERT triggers of the new partition with the same values. The INSERT trigger compares the values to recognise the moved
/// row, and keeps the snapshot of this row.
///
/// The INSERT trigger cannot confuse the moved row with a different row, because the values of a row determine its partition. If
/// the values belong to another partition, PostgreSQL moves the updated row there. Otherwise no row with these values can be
/// inserted into another partition.
#[derive(Clone, Copy)]
struct UpdatedRow {
    partition: Oid,
    /// The time when the transaction began, and the time when the client's statement began.
    moment: (Timestamp, Timestamp),
    content: u64,
}

thread_local! {
    /// The row of the BEFORE trigger that fired last. Unset if this trigger was not a BEFORE UPDATE trigger of a partition.
    static LAST_UPDATED: Cell<Option<UpdatedRow>> = const { Cell::new(None) };
}

fn moment() -> (Timestamp, Timestamp) {
    (clock::transaction_start(), clock::statement_start())
}

impl UpdatedRow {
    fn of(trigger_call: &TriggerCall, row: Tuple) -> UpdatedRow {
        let partition = trigger_call.table();
        UpdatedRow { partition, moment: moment(), content: row.content(partition) }
    }

    /// Returns true if the INSERT trigger was fired because PostgreSQL moves this row to another partition.
    fn is_moved(&self, trigger_call: &TriggerCall) -> bool {
        trigger_call.is_on_partition()
            && trigger_call.table() != self.partition
            && self.moment == moment()
            && trigger_call.new_row().content(trigger_call.table()) == self.content
    }
}

/// Returns the row that PostgreSQL must store. If the row is an updated row of a partition, stores it for the next trigger call.
fn before(layout: &TriggerLayout, trigger_call: &TriggerCall, event: Event) -> Tuple {
    let last_updated = LAST_UPDATED.take();
    let row = before_event(layout, trigger_call, event, last_updated);
    if event == Event::Update && trigger_call.is_on_partition() {
        LAST_UPDATED.set(Some(UpdatedRow::of(trigger_call, row)));
    }
    row
}

fn before_event(
    layout: &TriggerLayout,
    trigger_call: &TriggerCall,
    event: Event,
    last_updated: Option<UpdatedRow>,
) -> Tuple {
    match event {
        Event::Insert => {
            let row = trigger_call.new_row();
            if last_updated.is_some_and(|updated| updated.is_moved(trigger_call)) {
                return row;
            }
            let existing =
                if layout.is_input_trusted { ExistingValues::Kept } else { ExistingValues::Replaced };
            let Some(source) = source_address(layout, row, InvalidAddress::Report) else {
                return replaced(layout, row, existing, [Value::NULL; 5]);
            };
            fill(layout, source.respelled(row), source.address, existing)
        }
        Event::Update => {
            let old = trigger_call.old_row();
            let before = source_address(layout, old, InvalidAddress::Ignore).map(|source| source.address);
            if is_erased(layout, trigger_call, before) {
                let row = trigger_call.new_row();
                return replaced(layout, row, ExistingValues::Replaced, [Value::NULL; 5]);
            }
            let (row, is_filled) = protect(layout, trigger_call, before);
            let (row, is_filled) = match replaced_document(layout, trigger_call, before, row) {
                Some(row) => (row, true),
                None => (row, is_filled),
            };
            let Some(source) = source_address(layout, row, InvalidAddress::Report) else { return row };
            // If a foreign key requires it, the trigger stores the address in the spelling of `ip_inventory`. But if the extension
            // itself fills snapshot columns of the row, the address stays as it is.
            let is_same = layout.ip.is_some_and(|column| old.same(&row, column));
            let row = if is_filled && is_same { row } else { source.respelled(row) };
            // If the row had no valid address before the UPDATE, the trigger fills the snapshot now. If the row had a valid
            // address, the trigger leaves the snapshot as it is, because it belongs to the time of the attack. In this case, the
            // worker adds later answers.
            match before {
                None => fill(layout, row, source.address, ExistingValues::Kept),
                Some(_) => row,
            }
        }
        Event::Delete => trigger_call.old_row(),
    }
}

/// Returns true if the extension itself is erasing the address of this row.
fn is_erased(layout: &TriggerLayout, trigger_call: &TriggerCall, before: Option<Address>) -> bool {
    let has_none = || source_address(layout, trigger_call.new_row(), InvalidAddress::Ignore).is_none();
    before.is_some() && snapshot_fill::is_erasing(trigger_call.table()) && has_none()
}

/// What the trigger does with values that a row already has in its snapshot columns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExistingValues {
    Kept,
    Replaced,
}

/// Returns the row after its snapshot columns are filled with the attribution of the address.
fn fill(layout: &TriggerLayout, row: Tuple, address: Address, existing: ExistingValues) -> Tuple {
    let is_complete = layout.snapshot.iter().flatten().all(|column| !row.is_null(*column));
    if existing == ExistingValues::Kept && is_complete {
        return row;
    }
    let attribution = match layout.storage {
        Storage::Table => attribution::of(layout.oids, address),
        Storage::Shard => attribution::of_files(address),
    };
    replaced(layout, row, existing, attribution.values(layout.lengths))
}

/// Returns the row with these values in the snapshot columns.
///
/// This change never makes an INSERT fail. If a new value is null and its column is NOT NULL, the column keeps the old value. If
/// the document column is NOT NULL, the document becomes an empty object.
fn replaced(layout: &TriggerLayout, row: Tuple, existing: ExistingValues, mut values: [Value; 5]) -> Tuple {
    if existing == ExistingValues::Replaced {
        for (n, value) in
            values.iter_mut().enumerate().filter(|(n, value)| !layout.nullable[*n] && value.is_null())
        {
            *value = match layout.snapshot[n] {
                Some(_) if n == DOCUMENT => jsonb::empty().into(),
                Some(column) => row.value(column),
                None => Value::NULL,
            };
        }
    }
    let changes: Vec<(Column, Value)> =
        layout
            .snapshot
            .into_iter()
            .zip(values)
            .filter_map(|(column, value)| column.map(|column| (column, value)))
            .filter(|(column, value)| {
                if row.is_null(*column) { !value.is_null() } else { existing == ExistingValues::Replaced }
            })
            .collect();
    if changes.is_empty() { row } else { row.with(&changes) }
}

/// Returns the updated row with the snapshot that the row had before the UPDATE. Only null columns can change. Such a column gets
/// the value that the extension has registered for the row. If there is none and the table is trusted, the column gets the value
/// from the UPDATE. Also returns true if the extension has registered values for the row.
fn protect(layout: &TriggerLayout, trigger_call: &TriggerCall, address: Option<Address>) -> (Tuple, bool) {
    let (old, new) = (trigger_call.old_row(), trigger_call.new_row());
    let registered = if snapshot_fill::is_empty() {
        None
    } else {
        snapshot_fill::values_for(trigger_call.table(), trigger_call.old_tuple_id(), address)
    };
    let is_filled = registered.is_some();
    let registered = registered.as_ref().map_or([Value::NULL; 5], |values| values.values());
    let changes: Vec<(Column, Value)> = layout
        .snapshot
        .into_iter()
        .zip(registered)
        .filter_map(|(column, registered)| column.map(|column| (column, registered)))
        .filter_map(|(column, registered)| match (old.is_null(column), registered.is_null()) {
            (true, true) if layout.is_input_trusted => None,
            (true, false) => Some((column, registered)),
            _ => (!old.same(&new, column)).then(|| (column, old.value(column))),
        })
        .collect();
    (if changes.is_empty() { new } else { new.with(&changes) }, is_filled)
}

/// Returns the row with a new document if the extension itself removes mentions of an erased address from the old document.
fn replaced_document(
    layout: &TriggerLayout,
    trigger_call: &TriggerCall,
    address: Option<Address>,
    row: Tuple,
) -> Option<Tuple> {
    let column = layout.snapshot[DOCUMENT].filter(|_| !snapshot_fill::is_empty())?;
    let document = snapshot_fill::replacement(trigger_call.table(), trigger_call.old_tuple_id(), address)?;
    Some(row.with(&[(column, value::<Jsonb>(&*document))]))
}

fn after(layout: &TriggerLayout, trigger_call: &TriggerCall, event: Event) {
    let address = |row| source_address(layout, row, InvalidAddress::Ignore).map(|source| source.address);
    let went = if event == Event::Insert { None } else { address(trigger_call.old_row()) };
    let came = if event == Event::Delete { None } else { address(trigger_call.new_row()) };
    if event == Event::Insert && came.is_none() {
        telemetry::add(telemetry::Counter::WithoutAddress, 1);
    }
    if went == came {
        return;
    }
    let is_uncounted = |address: &Address| snapshot_fill::is_uncounted(trigger_call.table(), *address);
    if let Some(address) = went.filter(|address| !is_uncounted(address)) {
        pending::remember(
            layout.oids,
            address,
            SessionCount::gone(1),
            (Inventory::Unknown, Providers::NONE),
            None,
            layout.storage,
        );
    }
    if let Some(address) = came {
        let time = session_time(layout, trigger_call.new_row());
        let session_count = SessionCount { sessions: 1, first_seen: time, last_seen: time };
        let gaps = gaps(layout, trigger_call.new_row());
        let incomplete = gaps.any().then(|| (trigger_call.table(), gaps));
        pending::remember(
            layout.oids,
            address,
            session_count,
            attribution::seen(address),
            incomplete,
            layout.storage,
        );
    }
}

/// Returns which of these values are missing in the snapshot of a stored session: network, country, type of the address.
fn gaps(layout: &TriggerLayout, row: Tuple) -> Gaps {
    let lacks = |column: Option<Column>| column.is_some_and(|column| row.is_null(column));
    let [asn, country, ip_type, ..] = layout.snapshot;
    Gaps { network: lacks(asn), country: lacks(country), ip_type: lacks(ip_type) }
}

/// Returns the time of the session in the row. If the row has no time, returns the start of the transaction. If the time is
/// implausible, returns `None`.
fn session_time(layout: &TriggerLayout, row: Tuple) -> Option<Timestamp> {
    let own = layout.time.map_or(Ok(None), |column| row.time(column)).ok()?;
    let Some(time) = own else { return Some(clock::transaction_start()) };
    let [.., enriched_at] = layout.snapshot;
    let enriched_at = enriched_at.and_then(|column| row.time(column).ok().flatten());
    session_time::believed(time, enriched_at, clock::now())
}

/// The address of a row. If a foreign key requires the spelling of ip_inventory and the row has another spelling, also contains the
/// value that must be stored.
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

/// What happens if an address is malformed. A row is reported only once, although several triggers read it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InvalidAddress {
    Report,
    Ignore,
}

fn source_address(layout: &TriggerLayout, row: Tuple, invalid: InvalidAddress) -> Option<Source> {
    let column = layout.ip?;
    if !column.is_text_like() {
        let found = row.inet(column)?;
        let canonical = (layout.respell && !found.is_canonical).then_some((column, found.address));
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

/// Entry point of `forget_sessions()`, which runs before a TRUNCATE. Subtracts the sessions that the TRUNCATE removes from the
/// counts.
///
/// The owner of the table may have attached any code to the table. So this function reads the table directly from storage, without
/// the executor, so no code of the owner runs.
pub fn forget_sessions(call: &Call) {
    let Some(trigger_call) = TriggerCall::of_truncate(call) else { error::not_a_trigger_call() };
    let oids = ExtensionOids::of(call);
    // Citus drops triggers for rows of a detached table from its shards, but not triggers for TRUNCATE. Later sessions in the shard
    // are not counted, so they must not be subtracted.
    if trigger_call.is_on_shard() && !trigger_call.has_after_insert_trigger(oids.schema, c"enrich_session") {
        return;
    }
    let Some(name) = trigger_call.argument(0) else { return };
    let counted = contained(|| {
        let mut gone: HashMap<Address, i64> = HashMap::new();
        let is_whole = scan::column(trigger_call.table(), name, |value| {
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
                report_not_intact(trigger_call.table());
            }
            if !gone.is_empty() && cluster::is_citus_table(trigger_call.table()) {
                pg::warning(
                    "the session counts stay the same, although sessions are removed from the table that Citus has distributed",
                    "Citus has copied these sessions to shards, and they were counted there again. Call recount_distributed_sessions().",
                );
                return;
            }
            for (address, sessions) in gone {
                pending::remember(
                    oids,
                    address,
                    SessionCount::gone(sessions),
                    (Inventory::Unknown, Providers::NONE),
                    None,
                    Storage::Shard,
                );
            }
        }
        Err(failure) => {
            telemetry::error(
                "could not reduce the session counts by the sessions that TRUNCATE removes",
                &failure.message,
            );
        }
    }
}
