//! Row triggers.

use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};

use cowrie_enrich_engine::timestamp::Timestamp;
use pgrx::pg_sys;

use super::column::{Column, Generated, timestamptz, type_of};
use super::row::{Row, TupleId};
use super::sql_function::{Call, Returned, is_function};
use super::value::Value;
use super::varlena;

/// The event that fires a row trigger.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Insert,
    Update,
    Delete,
}

/// One call of a row trigger.
pub struct TriggerCall {
    data: *mut pg_sys::TriggerData,
}

/// A row of the table that a trigger fires on.
#[derive(Clone, Copy)]
pub struct Tuple {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl TriggerCall {
    /// Returns `None` if the server did not call the function as a row trigger.
    pub fn of(call: &Call) -> Option<TriggerCall> {
        let trigger_call = TriggerCall::any(call)?;
        let instead =
            trigger_call.flags() & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_INSTEAD;
        (trigger_call.is_for_row() && !instead).then_some(trigger_call)
    }

    /// Returns the call of a BEFORE TRUNCATE trigger, which fires once per statement. Returns `None` for any other call.
    pub fn of_truncate(call: &Call) -> Option<TriggerCall> {
        let trigger_call = TriggerCall::any(call)?;
        let truncates = trigger_call.flags() & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_TRUNCATE;
        (truncates && !trigger_call.is_for_row()).then_some(trigger_call)
    }

    fn any(call: &Call) -> Option<TriggerCall> {
        // SAFETY: the context of a trigger call is a TriggerData node.
        unsafe {
            let context = (*call.raw()).context;
            let is_trigger = !context.is_null() && (*context).type_ == pg_sys::NodeTag::T_TriggerData;
            is_trigger.then(|| TriggerCall { data: context.cast() })
        }
    }

    fn flags(&self) -> pg_sys::TriggerEvent {
        // SAFETY: see `any`.
        unsafe { (*self.data).tg_event }
    }

    fn is_for_row(&self) -> bool {
        self.flags() & pg_sys::TRIGGER_EVENT_ROW != 0
    }

    /// Returns the table on which the trigger fires.
    pub fn table(&self) -> pg_sys::Oid {
        // SAFETY: tg_relation is open during the call.
        unsafe { (*(*self.data).tg_relation).rd_id }
    }

    /// Returns true if the table is a shard of a Citus table, or a partition of a shard.
    ///
    /// Citus appends the same kind of suffix, an underscore and the number of the shard, to the name of a shard and to the
    /// names of its triggers. Partitions of a shard inherit the trigger with its name. The names need no lookup in the catalogs
    /// of Citus, which may not yet list a shard while Citus fills it. A trigger that a user has created does not have a name of
    /// `attach_session_table()`, so its table is never a shard. The view `attached_tables` has the same rule.
    pub fn is_on_shard(&self) -> bool {
        // SAFETY: tg_trigger and tg_relation are set during the call. Both names are NUL-terminated.
        let [trigger, table] = unsafe {
            let relation = (*(*self.data).tg_relation).rd_rel;
            [
                CStr::from_ptr((*(*self.data).tg_trigger).tgname),
                CStr::from_ptr((*relation).relname.data.as_ptr()),
            ]
        };
        trigger.to_bytes().starts_with(NAME_OF_TRIGGERS)
            && has_shard_suffix(trigger.to_bytes())
            && has_shard_suffix(table.to_bytes())
    }

    /// Returns true if the table has an AFTER INSERT trigger for rows that calls this function of this schema.
    pub fn has_after_insert_trigger(&self, schema: pg_sys::Oid, function: &CStr) -> bool {
        // SAFETY: tg_relation is open during the call. It has a trigger, so its description of triggers is set, and contains
        // `numtriggers` triggers.
        let triggers = unsafe {
            let description = (*(*self.data).tg_relation).trigdesc;
            std::slice::from_raw_parts((*description).triggers, (*description).numtriggers as usize)
        };
        let wanted = pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_INSERT;
        let mask = wanted | pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_INSTEAD;
        triggers
            .iter()
            .filter(|trigger| trigger.tgtype as u32 & mask == wanted)
            .any(|trigger| is_function(trigger.tgfoid, schema, function))
    }

    pub fn event(&self) -> Option<Event> {
        match self.flags() & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Some(Event::Insert),
            pg_sys::TRIGGER_EVENT_UPDATE => Some(Event::Update),
            pg_sys::TRIGGER_EVENT_DELETE => Some(Event::Delete),
            _ => None,
        }
    }

    pub fn is_before(&self) -> bool {
        self.flags() & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE
    }

    /// Returns true if the trigger belongs to a constraint, such as a foreign key.
    pub fn is_constraint(&self) -> bool {
        // SAFETY: tg_trigger is set for every call of a trigger.
        unsafe { (*(*self.data).tg_trigger).tgconstraint != pg_sys::InvalidOid }
    }

    /// Returns whether the trigger fires on a partition of a table.
    pub fn is_on_partition(&self) -> bool {
        // SAFETY: tg_relation is open during the call.
        unsafe { (*(*(*self.data).tg_relation).rd_rel).relispartition }
    }

    /// Returns the OID of the trigger in pg_trigger. The triggers of each partition have separate OIDs.
    pub fn trigger(&self) -> pg_sys::Oid {
        // SAFETY: tg_trigger is set for every call of a trigger.
        unsafe { (*(*self.data).tg_trigger).tgoid }
    }

    /// Returns the trigger's argument `n`, from 0.
    pub fn argument(&self, n: usize) -> Option<&CStr> {
        // SAFETY: tgargs holds tgnargs NUL-terminated strings. They stay valid as long as the relation's cache entry exists.
        unsafe {
            let trigger = (*self.data).tg_trigger;
            (n < (*trigger).tgnargs as usize).then(|| CStr::from_ptr(*(*trigger).tgargs.add(n)))
        }
    }

    fn tuple(&self, tuple: pg_sys::HeapTuple) -> Tuple {
        // SAFETY: tg_relation is open during the call.
        Tuple { tuple, descriptor: unsafe { (*(*self.data).tg_relation).rd_att } }
    }

    /// For an UPDATE or DELETE, returns the row as it was before. For an INSERT, returns the inserted row.
    pub fn old_row(&self) -> Tuple {
        // SAFETY: see `any`.
        self.tuple(unsafe { (*self.data).tg_trigtuple })
    }

    /// Returns the tuple id of the row that an UPDATE replaces or a DELETE removes.
    pub fn old_tuple_id(&self) -> Option<TupleId> {
        // SAFETY: `any` checked that this is a trigger call. Until the call ends, the slot holds the row as it was before the
        // UPDATE or DELETE.
        let slot = unsafe { (*self.data).tg_trigslot };
        (!slot.is_null()).then(|| Row { slot }.tuple_id())
    }

    /// Returns the row after an INSERT or UPDATE.
    pub fn new_row(&self) -> Tuple {
        // SAFETY: `any` checked that this is a trigger call. The server sets tg_newtuple only for an UPDATE.
        let (old, new) = unsafe { ((*self.data).tg_trigtuple, (*self.data).tg_newtuple) };
        self.tuple(if new.is_null() { old } else { new })
    }
}

impl Tuple {
    /// Returns the column with this name, or `None` if the table of the row has no such column.
    pub fn column(&self, name: &CStr) -> Option<Column> {
        // SAFETY: the descriptor belongs to the table of the row. This table is open during the call.
        unsafe { Column::named(self.descriptor, name) }
    }

    /// Returns true if two rows of one table hold the same bytes in a column.
    pub fn same(&self, other: &Tuple, column: Column) -> bool {
        match (self.datum(column), other.datum(column)) {
            (None, None) => true,
            (Some(left), Some(right))
                if matches!(column.type_oid, pg_sys::INT8OID | pg_sys::TIMESTAMPTZOID) =>
            {
                left.value() == right.value()
            }
            // SAFETY: all other types that are compared here are varlenas. Their bytes are compared in the form in which they
            // are stored.
            (Some(left), Some(right)) => unsafe {
                let bytes = |datum: pg_sys::Datum| {
                    let varlena = datum.cast_mut_ptr::<pg_sys::varlena>();
                    std::slice::from_raw_parts(varlena.cast::<u8>(), pgrx::varlena::varsize_any(varlena))
                };
                bytes(left) == bytes(right)
            },
            _ => false,
        }
    }

    /// Returns a hash of the names and stored values of all columns that are not generated. If PostgreSQL converts the row to
    /// the column order of another partition, the hash stays the same.
    ///
    /// `table` is the table of the row.
    pub fn content(&self, table: pg_sys::Oid) -> u64 {
        // SAFETY: the descriptor belongs to the table of the row. This table is open during the call.
        let count = unsafe { (*self.descriptor).natts } as i16;
        (1..=count).map(|number| self.content_of(table, number)).fold(0, u64::wrapping_add)
    }

    fn content_of(&self, table: pg_sys::Oid, number: i16) -> u64 {
        // SAFETY: the descriptor has a column with this number. A dropped column has no type.
        let column = Column { number, type_oid: unsafe { type_of(self.descriptor, number) } };
        if column.type_oid == pg_sys::InvalidOid || column.generated(table) != Generated::Never {
            return 0;
        }
        let Some(datum) = self.datum(column) else { return 0 };
        let mut hash = DefaultHasher::new();
        // SAFETY: the descriptor has this column. Its name is a palloc'd C string, and its type says how the value is stored.
        unsafe {
            let name = pg_sys::SPI_fname(self.descriptor, i32::from(number));
            CStr::from_ptr(name).hash(&mut hash);
            pg_sys::pfree(name.cast());
            let (mut length, mut is_by_value) = (0, false);
            pg_sys::get_typlenbyval(column.type_oid, &mut length, &mut is_by_value);
            let start = datum.cast_mut_ptr::<u8>();
            match length {
                _ if is_by_value => datum.value().hash(&mut hash),
                -1 => varlena::stored(start.cast()).hash(&mut hash),
                -2 => CStr::from_ptr(start.cast()).hash(&mut hash),
                length => std::slice::from_raw_parts(start, length as usize).hash(&mut hash),
            }
        }
        hash.finish()
    }

    /// Returns the datum of a column, or `None` if it is null. The datum is valid while the tuple exists.
    fn datum(&self, column: Column) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the column number comes from the definition of a table. heap_getattr returns null for a number that is larger
        // than the number of columns in the descriptor.
        let datum = unsafe {
            pg_sys::heap_getattr(self.tuple, i32::from(column.number), self.descriptor, &mut is_null)
        };
        if is_null {
            return None;
        }
        // SAFETY: the column exists, because it has a value.
        let type_oid = unsafe { type_of(self.descriptor, column.number) };
        if type_oid != column.type_oid {
            pgrx::error!("column {} of a row has an unexpected type", column.number);
        }
        Some(datum)
    }

    pub fn is_null(&self, column: Column) -> bool {
        self.datum(column).is_none()
    }

    /// Returns the value of a column unchanged.
    pub fn value(&self, column: Column) -> Value {
        Value { datum: self.datum(column), type_oid: column.type_oid }
    }

    /// Returns the value of an address column of type inet.
    pub fn inet(&self, column: Column) -> Option<super::inet::Inet> {
        let datum = self.datum(column).filter(|_| column.type_oid == pg_sys::INETOID)?;
        // SAFETY: the type of the column was compared.
        unsafe { super::inet::read(datum) }
    }

    /// Returns the bytes of a text-like column.
    pub fn text(&self, column: Column) -> Option<&[u8]> {
        let datum = self.datum(column).filter(|_| column.is_text_like())?;
        // SAFETY: the type of the column was checked, and the tuple outlives `self`.
        Some(unsafe { super::text::bytes(datum) })
    }

    /// Returns the time in a column as timestamptz. A time without time zone is interpreted in the TimeZone setting of the
    /// connection that inserts the row. Returns `Err` for a time that timestamptz cannot hold, and `Ok(None)` for null.
    pub fn time(&self, column: Column) -> Result<Option<Timestamp>, OutOfRange> {
        match self.datum(column) {
            Some(value) => timestamptz(value, column.type_oid).map(Some).ok_or(OutOfRange),
            None => Ok(None),
        }
    }

    /// Returns a copy of this row in which some columns are replaced. The copy is in the current memory context. Raises an
    /// error if a column does not accept its new value.
    pub fn with(&self, changes: &[(Column, Value)]) -> Tuple {
        for (column, value) in changes {
            if !value.fits(column.type_oid) {
                pgrx::error!(
                    "the new value for column {} of a row does not have the type of the column",
                    column.number
                );
            }
        }
        let mut numbers: Vec<i32> = changes.iter().map(|(column, _)| i32::from(column.number)).collect();
        let mut values: Vec<_> = changes.iter().map(|(_, value)| value.datum_or_zero()).collect();
        let mut nulls: Vec<bool> = changes.iter().map(|(_, value)| value.is_null()).collect();
        // SAFETY: the three arrays have the same length. The numbers belong to columns whose types fit the values.
        let tuple = unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                self.tuple,
                self.descriptor,
                numbers.len() as i32,
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        };
        Tuple { tuple, descriptor: self.descriptor }
    }
}

/// A BEFORE trigger returns its row.
impl Returned for Tuple {
    fn returned(self) -> Value {
        Value { datum: Some(pg_sys::Datum::from(self.tuple)), type_oid: pg_sys::TRIGGEROID }
    }
}

/// A time that timestamptz cannot hold.
#[derive(Debug)]
pub struct OutOfRange;

/// The beginning of the names of the triggers that `attach_session_table()` creates.
const NAME_OF_TRIGGERS: &[u8] = b"zz_cowrie_enrich_";

/// Returns true if a name ends with an underscore and a number.
fn has_shard_suffix(name: &[u8]) -> bool {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && name.len() > digits + 1 && name[name.len() - digits - 1] == b'_'
}
