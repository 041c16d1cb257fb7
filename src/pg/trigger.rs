//! Row triggers.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::call::Call;

/// What a row trigger fires for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Insert,
    Update,
    Delete,
}

/// One firing of a row trigger.
pub struct Firing {
    data: *mut pg_sys::TriggerData,
}

/// A row of the table that a trigger fires on.
#[derive(Clone, Copy)]
pub struct Tuple {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Firing {
    /// `None` when the function was not called as a row trigger.
    pub fn of(call: &Call) -> Option<Firing> {
        // SAFETY: the context of a trigger call is a TriggerData node.
        unsafe {
            let context = (*call.raw()).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let data: *mut pg_sys::TriggerData = context.cast();
            ((*data).tg_event & pg_sys::TRIGGER_EVENT_ROW != 0).then_some(Firing { data })
        }
    }

    pub fn event(&self) -> Option<Event> {
        // SAFETY: see `of`.
        match unsafe { (*self.data).tg_event } & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Some(Event::Insert),
            pg_sys::TRIGGER_EVENT_UPDATE => Some(Event::Update),
            pg_sys::TRIGGER_EVENT_DELETE => Some(Event::Delete),
            _ => None,
        }
    }

    pub fn is_before(&self) -> bool {
        // SAFETY: see `of`.
        unsafe { (*self.data).tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE }
    }

    /// Whether this is a constraint trigger, made for a foreign key.
    pub fn is_constraint(&self) -> bool {
        // SAFETY: tg_trigger is set for every firing.
        unsafe { (*(*self.data).tg_trigger).tgconstraint != pg_sys::InvalidOid }
    }

    /// The trigger itself, in pg_trigger. A partition's triggers have OIDs of their own.
    pub fn trigger(&self) -> pg_sys::Oid {
        // SAFETY: tg_trigger is set for every firing.
        unsafe { (*(*self.data).tg_trigger).tgoid }
    }

    /// The trigger's argument `n`, from 0.
    pub fn argument(&self, n: usize) -> Option<&CStr> {
        // SAFETY: tgargs holds tgnargs NUL-terminated strings that live as long as the relation's cache entry.
        unsafe {
            let trigger = (*self.data).tg_trigger;
            (n < (*trigger).tgnargs as usize).then(|| CStr::from_ptr(*(*trigger).tgargs.add(n)))
        }
    }

    fn tuple(&self, tuple: pg_sys::HeapTuple) -> Tuple {
        // SAFETY: tg_relation is open during the call.
        Tuple { tuple, descriptor: unsafe { (*(*self.data).tg_relation).rd_att } }
    }

    /// The row before an UPDATE or DELETE, else the inserted one.
    pub fn old_row(&self) -> Tuple {
        // SAFETY: see `of`.
        self.tuple(unsafe { (*self.data).tg_trigtuple })
    }

    /// The row after an INSERT or UPDATE.
    pub fn new_row(&self) -> Tuple {
        // SAFETY: see `of`; tg_newtuple is set for UPDATE only.
        let (old, new) = unsafe { ((*self.data).tg_trigtuple, (*self.data).tg_newtuple) };
        self.tuple(if new.is_null() { old } else { new })
    }
}

impl Tuple {
    /// Number and type of a column, or `None` when the table has no such column.
    pub fn column(&self, name: &CStr) -> Option<(i16, pg_sys::Oid)> {
        // SAFETY: SPI_fnumber compares names; a positive result is a column of the descriptor.
        unsafe {
            let number = pg_sys::SPI_fnumber(self.descriptor, name.as_ptr());
            (number > 0).then(|| (number as i16, pg_sys::SPI_gettypeid(self.descriptor, number)))
        }
    }

    /// The value of a column, or `None` when it is null. Valid as long as the tuple.
    pub fn value(&self, number: i16) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: `number` came from `column` for the same descriptor.
        let datum =
            unsafe { pg_sys::heap_getattr(self.tuple, i32::from(number), self.descriptor, &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// This row with some columns replaced, as a new tuple in the current memory context.
    pub fn with(&self, changes: &[(i16, Option<pg_sys::Datum>)]) -> Tuple {
        let mut numbers: Vec<i32> = changes.iter().map(|(n, _)| i32::from(*n)).collect();
        let mut values: Vec<_> = changes.iter().map(|(_, v)| v.unwrap_or(pg_sys::Datum::from(0))).collect();
        let mut nulls: Vec<bool> = changes.iter().map(|(_, v)| v.is_none()).collect();
        // SAFETY: three parallel arrays of the same length, numbers from `column`.
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

    /// What a BEFORE trigger returns.
    pub fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.tuple)
    }
}

/// A text converted to a column's type where that is varchar or bpchar of limited length: these store a plain text.
pub fn is_text_like(type_oid: pg_sys::Oid) -> bool {
    matches!(type_oid, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID)
}

/// A session's time as timestamptz; times without zone are read in the inserting connection's TimeZone.
pub fn timestamptz(value: pg_sys::Datum, type_oid: pg_sys::Oid) -> Option<i64> {
    let convert = match type_oid {
        pg_sys::TIMESTAMPTZOID => return Some(value.value() as i64),
        pg_sys::TIMESTAMPOID => pg_sys::timestamp_timestamptz,
        pg_sys::DATEOID => pg_sys::date_timestamptz,
        _ => return None,
    };
    // SAFETY: the conversion takes one datum of the type matched above.
    let converted = unsafe { pgrx::direct_function_call_as_datum(convert, &[Some(value)]) };
    converted.map(|datum| datum.value() as i64)
}

/// An address column of type inet.
pub fn inet(value: pg_sys::Datum) -> Option<super::inet::Inet> {
    // SAFETY: the caller read the value from a column of this type.
    unsafe { super::inet::read(value) }
}

/// The bytes of a text-like column.
pub fn text<'a>(value: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the caller read the value from a column of such a type; the tuple outlives the trigger's call.
    unsafe { super::text::bytes(value) }
}
