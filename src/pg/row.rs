//! A row that was found without the executor, and its tuple id.

use cowrie_enrich_engine::address::Address;
use cowrie_enrich_engine::timestamp::Timestamp;
use pgrx::pg_sys;

use super::column::type_of;
use super::jsonb::Container;
use super::value::Value;
use super::{inet, text};

/// The tuple id of a row in its table. It is valid until the transaction that read the row ends.
#[derive(Clone, Copy)]
pub struct TupleId(pg_sys::ItemPointerData);

impl PartialEq for TupleId {
    fn eq(&self, other: &TupleId) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for TupleId {}

impl std::hash::Hash for TupleId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl TupleId {
    /// # Safety
    /// `datum` must be a non-null tid.
    pub(super) unsafe fn read(datum: pg_sys::Datum) -> TupleId {
        // SAFETY: as the caller promises.
        TupleId(unsafe { *datum.cast_mut_ptr::<pg_sys::ItemPointerData>() })
    }

    /// Returns a tuple id that is lower than the tuple id of the first row of a page.
    pub fn beginning_of(page: u32) -> TupleId {
        let block = pg_sys::BlockIdData { bi_hi: (page >> 16) as u16, bi_lo: page as u16 };
        TupleId(pg_sys::ItemPointerData { ip_blkid: block, ip_posid: 0 })
    }

    /// Returns a tuple id that is higher than the tuple id of the last row on the preceding page.
    pub fn end_of_those_before(page: u32) -> TupleId {
        let mut tuple_id = TupleId::beginning_of(page.saturating_sub(1));
        tuple_id.0.ip_posid = u16::MAX;
        tuple_id
    }

    pub fn page(&self) -> u32 {
        let (high, low, _) = self.parts();
        u32::from(high) << 16 | u32::from(low)
    }

    /// Returns the tuple id as the server writes it, `(page,number)`.
    pub fn text(&self) -> String {
        format!("({},{})", self.page(), self.0.ip_posid)
    }

    /// Makes a tuple id from the number of a page and the number of a row on this page.
    pub fn at(page: u32, row: u16) -> TupleId {
        TupleId(pg_sys::ItemPointerData { ip_posid: row, ..TupleId::beginning_of(page).0 })
    }

    /// Returns the number of the page, and the number of the row on this page.
    pub fn numbers(&self) -> (u32, u16) {
        let (high, low, row) = self.parts();
        (u32::from(high) << 16 | u32::from(low), row)
    }

    fn parts(&self) -> (u16, u16, u16) {
        (self.0.ip_blkid.bi_hi, self.0.ip_blkid.bi_lo, self.0.ip_posid)
    }

    /// Returns a pointer that functions of the server accept. The pointer is valid while `self` exists.
    pub(super) fn pointer(&mut self) -> pg_sys::ItemPointer {
        &raw mut self.0
    }

    /// Writes a tid into the current memory context.
    pub(super) fn write(self) -> pg_sys::Datum {
        // SAFETY: palloc returns memory for a complete tid, or raises an error.
        unsafe {
            let tid = pg_sys::palloc(size_of::<pg_sys::ItemPointerData>()).cast::<pg_sys::ItemPointerData>();
            tid.write(self.0);
            pg_sys::Datum::from(tid)
        }
    }
}

/// A row that a probe or a scan found. It is valid while its buffer is pinned.
pub struct Row {
    pub(super) slot: *mut pg_sys::TupleTableSlot,
}

impl Row {
    pub fn tuple_id(&self) -> TupleId {
        // SAFETY: the slot holds a row of a table.
        TupleId(unsafe { (*self.slot).tts_tid })
    }

    /// Returns the datum of the column with this number. Columns are counted from 1. If the datum is stored by reference, it is
    /// valid while the row is pinned.
    pub(super) fn column(&self, number: i16) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the slot holds a row. The column numbers come from the definition of the table.
        let datum = unsafe { pg_sys::slot_getattr(self.slot, i32::from(number), &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// Returns the datum of a column that must have the type `wanted`. Raises an error if the table's owner has changed the
    /// type, because the datum would then be read as a value of the wrong type.
    fn typed(&self, number: i16, wanted: pg_sys::Oid) -> Option<pg_sys::Datum> {
        // SAFETY: the slot holds a row, so it has a descriptor.
        if unsafe { type_of((*self.slot).tts_tupleDescriptor, number) } != wanted {
            pgrx::error!("column {number} of a table does not have the type that cowrie_enrich requires");
        }
        self.column(number)
    }

    /// Returns a column of type bigint.
    pub fn bigint(&self, number: i16) -> Option<i64> {
        self.typed(number, pg_sys::INT8OID).map(|datum| datum.value() as i64)
    }

    pub fn is_null(&self, number: i16) -> bool {
        self.column(number).is_none()
    }

    /// Returns the address of a column of type inet.
    pub fn address(&self, number: i16) -> Option<Address> {
        // SAFETY: the column has the type inet, and its datum stays valid while the row is pinned.
        self.typed(number, pg_sys::INETOID)
            .and_then(|datum| unsafe { inet::read(datum) })
            .map(|inet| inet.address)
    }

    /// Returns a column of type regclass.
    pub fn regclass(&self, number: i16) -> Option<pg_sys::Oid> {
        self.typed(number, pg_sys::REGCLASSOID).map(|datum| pg_sys::Oid::from(datum.value() as u32))
    }

    /// Returns a column of type timestamptz.
    pub fn timestamptz(&self, number: i16) -> Option<Timestamp> {
        let datum = self.typed(number, pg_sys::TIMESTAMPTZOID)?;
        Some(Timestamp::from_micros(datum.value() as i64))
    }

    /// Returns a column of type boolean.
    pub fn boolean(&self, number: i16) -> Option<bool> {
        self.typed(number, pg_sys::BOOLOID).map(|datum| datum.value() != 0)
    }

    /// Returns a column of type jsonb.
    pub fn jsonb(&self, number: i16) -> Option<Container<'_>> {
        // SAFETY: the column is of type jsonb. The container points into the row, or into a detoasted copy of the value.
        self.typed(number, pg_sys::JSONBOID).map(|datum| unsafe { Container::read(datum) })
    }

    /// Returns the bytes of a column of type text.
    pub fn text(&self, number: i16) -> Option<&[u8]> {
        // SAFETY: the column has the type text, and its datum stays valid while the row is pinned.
        self.typed(number, pg_sys::TEXTOID).map(|datum| unsafe { text::bytes(datum) })
    }

    /// Returns the whole row as a composite value. The value is a copy in the current memory context.
    pub fn composite(&self) -> Value {
        // SAFETY: the slot holds a row of a table. The row type of a table is always registered.
        Value::composite(unsafe { pg_sys::ExecFetchSlotHeapTupleDatum(self.slot) })
    }
}
